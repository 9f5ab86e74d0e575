//! Muon: the momentum of a matrix, made nearly orthogonal, is the update.
//!
//! Jordan et al. 2024 (kellerjordan.github.io/posts/muon): five steps of a Newton-Schulz iteration whose
//! coefficients push all singular values to about 1. The scale `0.2 sqrt(max(rows, columns))` of Liu et
//! al. 2025 (arXiv 2502.16982, section 2.2) gives the update the root mean square of AdamW's, so that
//! one learning rate and one decay serve all parameters.

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
}

impl Optimizer {
    pub(super) fn muon_matrices(
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
        let small = rows.min(columns);
        let norm = update::sum_of_squares(isa, &self.x).sqrt();
        self.next.resize(self.x.len(), 0.0);
        self.gram.resize(small * small, 0.0);
        self.square.resize(small * small, 0.0);
        update::scaled(isa, (1.0 / norm.max(1e-7)) as f32, &self.x, &mut self.next);
        std::mem::swap(&mut self.x, &mut self.next);
        for _ in 0..STEPS {
            // The Gram matrix of the smaller side.
            if rows <= columns {
                product(
                    pool,
                    (&self.x, (rows, columns), false),
                    (&self.x, (rows, columns), true),
                    &mut self.gram,
                );
            } else {
                product(
                    pool,
                    (&self.x, (rows, columns), true),
                    (&self.x, (rows, columns), false),
                    &mut self.gram,
                );
            }
            let gram = (&self.gram[..], (small, small), false);
            product(pool, gram, gram, &mut self.square);
            update::blend(isa, B, C, &mut self.gram, &self.square);
            // a x as well comes from the product: a on the diagonal.
            self.gram.iter_mut().step_by(small + 1).for_each(|diagonal| *diagonal += A);
            let gram = (&self.gram[..], (small, small), false);
            let x = (&self.x[..], (rows, columns), false);
            let (left, right) = if rows <= columns { (gram, x) } else { (x, gram) };
            product(pool, left, right, &mut self.next);
            std::mem::swap(&mut self.x, &mut self.next);
        }
    }
}

type Operand<'a> = (&'a [f32], (usize, usize), bool);

fn product(_pool: &mut Pool, a: Operand<'_>, b: Operand<'_>, out: &mut [f32]) {
    let dims = |m: &Operand<'_>| if m.2 { (m.1.1, m.1.0) } else { m.1 };
    let at = |m: &Operand<'_>, i: usize, j: usize| {
        if m.2 { m.0[j * m.1.1 + i] } else { m.0[i * m.1.1 + j] }
    };
    let ((rows, inner), (_, columns)) = (dims(&a), dims(&b));
    for i in 0..rows {
        for j in 0..columns {
            out[i * columns + j] = (0..inner).map(|k| at(&a, i, k) * at(&b, k, j)).sum();
        }
    }
}
