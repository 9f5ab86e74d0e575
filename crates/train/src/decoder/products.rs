//! The three products of a linear layer: forward, input gradient, weight gradient.
//!
//! The key decision: this is the one place that knows how matrices are multiplied. `x` and `y` have a
//! row a token, `w` is `(out, in)` as in a checkpoint, so `y = x w^T`, `dx = dy w`, `dw += dy^T x`. The
//! rows of `y` and `dy` may stand further apart than `out`; how far follows from their lengths.

use yushan_tensor::gemm::{Operand, Store, Target, Workspace, gemm};
use yushan_tensor::{Isa, Pool};

/// Multiplies, and keeps the room for it.
pub(crate) struct Products {
    isa: Isa,
    space: Workspace,
}

impl Products {
    pub(crate) fn new(isa: Isa) -> Products {
        Products { isa, space: Workspace::default() }
    }

    /// `y (N, out)` = or += `x (N, in) w^T`.
    pub(crate) fn forward(
        &mut self,
        pool: &mut Pool,
        (x, w): (&[f32], &[f32]),
        input: usize,
        (y, store): (&mut [f32], Store),
    ) {
        let (rows, out) = (x.len() / input, w.len() / input);
        let (a, b) = (Operand::new(x, rows, input), Operand::new(w, out, input).t());
        let target = Target { stride: y.len() / rows, data: y, store };
        gemm(pool, self.isa, &mut self.space, a, b, target);
    }

    /// `dx (N, in) = dy (N, out) w`.
    pub(crate) fn input_gradient(
        &mut self,
        pool: &mut Pool,
        (dy, w): (&[f32], &[f32]),
        input: usize,
        dx: &mut [f32],
    ) {
        let (rows, out) = (dx.len() / input, w.len() / input);
        let a = Operand::new(dy, rows, out).stride(dy.len() / rows);
        let b = Operand::new(w, out, input);
        let target = Target { data: dx, stride: input, store: Store::Set };
        gemm(pool, self.isa, &mut self.space, a, b, target);
    }

    /// `dw (out, in) += dy^T x`.
    pub(crate) fn weight_gradient(
        &mut self,
        pool: &mut Pool,
        (dy, x): (&[f32], &[f32]),
        input: usize,
        dw: &mut [f32],
    ) {
        let (rows, out) = (x.len() / input, dw.len() / input);
        let a = Operand::new(dy, rows, out).stride(dy.len() / rows).t();
        let b = Operand::new(x, rows, input);
        let target = Target { data: dw, stride: input, store: Store::Add };
        gemm(pool, self.isa, &mut self.space, a, b, target);
    }
}
