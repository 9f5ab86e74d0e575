//! Muon: the momentum of a matrix, made nearly orthogonal, is the update.
//!
//! Jordan et al. 2024 (kellerjordan.github.io/posts/muon): five steps of a Newton-Schulz iteration whose
//! coefficients push all singular values to about 1. The scale `0.2 sqrt(max(rows, columns))` of Liu et
//! al. 2025 (arXiv 2502.16982, section 2.2) gives the update the root mean square of AdamW's, so that
//! one learning rate and one decay serve all parameters.

use yushan_tensor::gemm::{self, Operand, Store, Target};
use yushan_tensor::{Isa, Pool, update};

use super::Optimizer;

/// `x' = a x + b (x x^T) x + c (x x^T)^2 x`.
const STEPS: usize = 5;
const A: f32 = 3.4445;
const B: f32 = -4.7750;
const C: f32 = 2.0315;

/// The update's root mean square, about that of AdamW.
const MATCH: f64 = 0.2;

/// Buffers that are kept from matrix to matrix.
#[derive(Default)]
pub(super) struct Scratch {
    /// `(rows, columns)` of the matrix, twice.
    x: Vec<f32>,
    next: Vec<f32>,
    /// `(small, small)`, twice.
    gram: Vec<f32>,
    square: Vec<f32>,
    products: gemm::Workspace,
}

impl Optimizer {
    pub(super) fn muon(
        &mut self,
        pool: &mut Pool,
        params: &mut [f32],
        grads: &[f32],
        rate: f64,
        scale: f32,
    ) {
        let isa = Isa::best();
        let start = self.parts[self.rank].start;
        let mu = self.config.momentum as f32;
        for span in &self.spans {
            let Some((rows, columns)) = span.matrix else { continue };
            let momentum = &mut self.first[span.range.start - start..span.range.end - start];
            let x = &mut self.muon.x;
            x.resize(span.range.len(), 0.0);
            update::nesterov(isa, scale, mu, &grads[span.range.clone()], momentum, x);
            self.muon.orthogonalize(pool, isa, (rows, columns));
            let shrink = if span.decays { 1.0 - rate * self.config.weight_decay } else { 1.0 };
            let step = rate * MATCH * (rows.max(columns) as f64).sqrt();
            let params = &mut params[span.range.clone()];
            update::descend(isa, shrink as f32, step as f32, &self.muon.x, params);
        }
    }
}

impl Scratch {
    /// `x`, `(rows, columns)`: all singular values to about 1.
    fn orthogonalize(&mut self, pool: &mut Pool, isa: Isa, (rows, columns): (usize, usize)) {
        let Scratch { x, next, gram, square, products } = self;
        let small = rows.min(columns);
        let norm = update::sum_of_squares(isa, x).sqrt();
        next.resize(x.len(), 0.0);
        gram.resize(small * small, 0.0);
        square.resize(small * small, 0.0);
        update::scaled(isa, (1.0 / norm.max(1e-7)) as f32, x, next);
        std::mem::swap(x, next);
        for _ in 0..STEPS {
            let whole = Operand::new(x, rows, columns);
            // The Gram matrix of the smaller side; for the larger one, x' = x (a + b x^T x + ..).
            let (left, right) =
                if rows <= columns { (whole, whole.t()) } else { (whole.t(), whole) };
            gemm::gemm(pool, isa, products, left, right, to(gram, small));
            let side = Operand::new(gram, small, small);
            gemm::gemm(pool, isa, products, side, side, to(square, small));
            update::blend(isa, B, C, gram, square);
            // a x comes from the product as well: a on the diagonal.
            gram.iter_mut().step_by(small + 1).for_each(|diagonal| *diagonal += A);
            let side = Operand::new(gram, small, small);
            let (left, right) = if rows <= columns { (side, whole) } else { (whole, side) };
            gemm::gemm(pool, isa, products, left, right, to(next, columns));
            std::mem::swap(x, next);
        }
    }
}

/// A dense result, `stride` columns wide.
fn to(data: &mut [f32], stride: usize) -> Target<'_> {
    Target { data, stride, store: Store::Set }
}
