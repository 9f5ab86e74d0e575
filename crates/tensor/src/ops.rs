//! Everything of a decoder that is not a matrix product: norms, rotary positions, the gate, softmax.
//!
//! The key decision: each is one portable function compiled for every instruction set (see
//! [`crate::isa`]), with sums in 16 fixed lanes, so all sets give the same bits.
#![allow(unsafe_code)] // the dispatch inside `multiversion!`, nothing else

use crate::isa::multiversion;

/// Adds 16 lanes in one fixed order.
#[inline(always)]
pub(crate) fn add_lanes(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(crate) fn inverse_root(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let parts = x.chunks_exact(16);
    for (lane, v) in lanes.iter_mut().zip(parts.remainder()) {
        *lane = v * v;
    }
    for part in parts {
        for (lane, v) in lanes.iter_mut().zip(part) {
            *lane = v.mul_add(*v, *lane);
        }
    }
    1.0 / (add_lanes(lanes) / x.len() as f32 + eps).sqrt()
}

multiversion! {
    /// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): `out = x / sqrt(mean(x^2) + eps) * weight`;
    /// `x`, `weight`, `out`: `(dim)`.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let scale = inverse_root(x, eps);
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

multiversion! {
    /// RMSNorm of every head of `x` on its own, in place; `weight`: `(head_dim)`.
    pub fn norm_heads(x: &mut [f32], weight: &[f32], eps: f32) {
        for head in x.chunks_exact_mut(weight.len()) {
            let scale = inverse_root(head, eps);
            for (x, w) in head.iter_mut().zip(weight) {
                *x = *x * scale * w;
            }
        }
    }
}

/// e^x for finite or infinite `x`, within 2 units in the last place; below -87.3 it is 0.
///
/// Cody–Waite reduction to |r| <= ln2 / 2 and a degree-6 polynomial.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped > -87.3 { clamped } else { -87.3 };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let e = p.mul_add(r * r, r) + 1.0;
    let scaled = e * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.3 { 0.0 } else { scaled }
}

multiversion! {
    /// SwiGLU's gate (Shazeer 2020, arXiv 2002.05202): `gate = gate * sigmoid(gate) * up`.
    pub fn silu_gate(gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + exp(-*g)) * u;
        }
    }
}

multiversion! {
    /// Softmax of `scores[from..]` in place; what stands before `from` becomes 0. Empty ranges stay.
    pub fn softmax(scores: &mut [f32], from: usize) {
        let (before, scores) = scores.split_at_mut(from);
        before.fill(0.0);
        let mut lanes = [f32::NEG_INFINITY; 16];
        let parts = scores.chunks_exact(16);
        for (lane, v) in lanes.iter_mut().zip(parts.remainder()) {
            *lane = *v;
        }
        for part in parts {
            for (lane, v) in lanes.iter_mut().zip(part) {
                *lane = if *v > *lane { *v } else { *lane };
            }
        }
        let mut peak = f32::NEG_INFINITY;
        for lane in lanes {
            peak = if lane > peak { lane } else { peak };
        }
        for v in scores.iter_mut() {
            *v = exp(*v - peak);
        }
        // Lanes count from `from`, the first key this row sees: the sum is the same whatever stands
        // in the buffer before it.
        let mut lanes = [0f32; 16];
        let parts = scores.chunks_exact(16);
        for (lane, v) in lanes.iter_mut().zip(parts.remainder()) {
            *lane = *v;
        }
        for part in parts {
            for (lane, v) in lanes.iter_mut().zip(part) {
                *lane += v;
            }
        }
        let inverse = 1.0 / add_lanes(lanes);
        for v in scores.iter_mut() {
            *v *= inverse;
        }
    }
}

multiversion! {
    /// Rotates the pairs (2i, 2i + 1) of every head of `x`, `(heads, head_dim)`; `cos`, `sin`:
    /// `(dims / 2)`.
    pub fn rope_interleaved(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        for head in x.chunks_exact_mut(head_dim) {
            for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a.mul_add(*c, -(b * s));
                pair[1] = a.mul_add(*s, b * c);
            }
        }
    }
}

multiversion! {
    /// Rotates the pairs (i, i + dims / 2) of every head of `x`, `(heads, head_dim)`; `cos`, `sin`:
    /// `(dims / 2)`.
    pub fn rope_halves(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        for head in x.chunks_exact_mut(head_dim) {
            let (low, high) = head.split_at_mut(cos.len());
            for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*a, *b) = (a.mul_add(*c, -(*b * s)), a.mul_add(*s, *b * c));
            }
        }
    }
}

multiversion! {
    /// `x += y`.
    pub fn add(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8800..8800 {
            let x = i as f32 * 0.00991;
            let (got, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got - exact).abs() <= exact * 2.5e-7 + 1e-38, "exp({x}) = {got}, not {exact}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..83).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.13).collect();
        let w: Vec<f32> = (0..83).map(|i| 1.0 + (i % 7) as f32 * 0.1).collect();
        let run = |isa| {
            let mut norm = vec![0.0; 83];
            rms_norm(isa, &x, &w, 1e-5, &mut norm);
            let (mut gate, mut soft, mut rope, mut half) =
                (x.clone(), x.clone(), x[..80].to_vec(), x[..80].to_vec());
            silu_gate(isa, &mut gate, &w);
            softmax(isa, &mut soft, 5);
            rope_interleaved(isa, &mut rope, 16, &w[..8], &x[..8]);
            rope_halves(isa, &mut half, 16, &w[..8], &x[..8]);
            [norm, gate, soft, rope, half].concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        for isa in Isa::available() {
            assert_eq!(run(isa), run(Isa::SCALAR), "{isa:?}");
        }
    }

    #[test]
    fn softmax_sums_to_one_and_masks() {
        let mut scores: Vec<f32> = (0..50).map(|i| (i % 13) as f32).collect();
        softmax(Isa::best(), &mut scores, 7);
        assert!(scores[..7].iter().all(|&v| v == 0.0));
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
