//! What an optimizer does to every parameter, in one pass over memory.
//!
//! The key decision: as in [`crate::ops`], one portable function compiled for every instruction set; the
//! work is elementwise, so nothing depends on how a vector is cut. Sums are `f64` in 16 fixed lanes.
#![allow(unsafe_code)] // the dispatch inside `multiversion!`, nothing else

use crate::isa::multiversion;

/// The scalars of one AdamW step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// What gradients are multiplied by (clipping).
    pub scale: f32,
    /// `1 - beta1`.
    pub fresh1: f32,
    /// `beta2`.
    pub keep2: f32,
    /// `1 - beta2`.
    pub fresh2: f32,
    /// `1 - rate * weight_decay`: what parameters are multiplied by.
    pub shrink: f32,
    /// `rate / (1 - beta1^t)`.
    pub step: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root2: f32,
    /// Keeps the division finite.
    pub eps: f32,
}

multiversion! {
    /// One step of AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101, algorithm 2) on slices of the same
    /// length: moments and parameters are written, the gradient is read.
    pub fn adamw(by: AdamW, params: &mut [f32], grads: &[f32], first: &mut [f32], second: &mut [f32]) {
        let moments = first.iter_mut().zip(second);
        for ((param, grad), (first, second)) in params.iter_mut().zip(grads).zip(moments) {
            let grad = grad * by.scale;
            let mean = (grad - *first).mul_add(by.fresh1, *first);
            let square = (grad * grad).mul_add(by.fresh2, *second * by.keep2);
            let root = square.sqrt() / by.root2 + by.eps;
            *first = mean;
            *second = square;
            *param = (mean / root).mul_add(-by.step, *param * by.shrink);
        }
    }
}

multiversion! {
    /// Momentum with a look ahead (Nesterov): `momentum += (grad * scale - momentum) * (1 - mu)`, `out =
    /// grad * scale + (momentum - grad * scale) * mu`.
    pub fn nesterov(scale: f32, mu: f32, grads: &[f32], momentum: &mut [f32], out: &mut [f32]) {
        for ((grad, momentum), out) in grads.iter().zip(momentum).zip(out) {
            let grad = grad * scale;
            *momentum = (grad - *momentum).mul_add(1.0 - mu, *momentum);
            *out = (*momentum - grad).mul_add(mu, grad);
        }
    }
}

multiversion! {
    /// `params = params * shrink - update * step`.
    pub fn descend(shrink: f32, step: f32, update: &[f32], params: &mut [f32]) {
        for (param, update) in params.iter_mut().zip(update) {
            *param = update.mul_add(-step, *param * shrink);
        }
    }
}

multiversion! {
    /// `out = x * by`.
    pub fn scaled(by: f32, x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * by;
        }
    }
}

multiversion! {
    /// `x = a x + b y`.
    pub fn blend(a: f32, b: f32, x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = y.mul_add(b, *x * a);
        }
    }
}

multiversion! {
    /// The sum of squares; squares of finite `f32` cannot overflow it.
    pub fn sum_of_squares(x: &[f32]) -> f64 {
        let mut lanes = [0f64; 16];
        let parts = x.chunks_exact(16);
        for (lane, v) in lanes.iter_mut().zip(parts.remainder()) {
            *lane = f64::from(*v) * f64::from(*v);
        }
        for part in parts {
            for (lane, v) in lanes.iter_mut().zip(part) {
                *lane = f64::from(*v).mul_add(f64::from(*v), *lane);
            }
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn noise(seed: u32, length: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..length).map(|_| next()).collect()
    }

    /// All outputs of all functions, as bits.
    fn everything(isa: Isa, length: usize) -> Vec<u64> {
        let [mut params, grads, mut first] = [1, 2, 3].map(|seed| noise(seed, length));
        let mut second: Vec<f32> = noise(4, length).iter().map(|v| v * v).collect();
        let by = AdamW {
            scale: 0.3,
            fresh1: 0.1,
            keep2: 0.95,
            fresh2: 0.05,
            shrink: 0.999,
            step: 0.01,
            root2: 0.7,
            eps: 1e-8,
        };
        adamw(isa, by, &mut params, &grads, &mut first, &mut second);
        let mut out = vec![0.0; length];
        nesterov(isa, 0.3, 0.95, &grads, &mut first, &mut out);
        descend(isa, 0.999, 0.02, &out, &mut params);
        blend(isa, 1.5, -0.5, &mut second, &out);
        scaled(isa, 0.7, &params, &mut out);
        let sum = sum_of_squares(isa, &params);
        let plain: f64 = params.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((sum - plain).abs() <= 1e-12 * plain);
        let all = [params, first, second, out].concat();
        all.iter().map(|v| u64::from(v.to_bits())).chain([sum.to_bits()]).collect()
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        for length in [0, 1, 7, 16, 33, 1000] {
            let expected = everything(Isa::SCALAR, length);
            for isa in Isa::available() {
                assert!(everything(isa, length) == expected, "{isa:?}, {length} values");
            }
        }
    }
}
