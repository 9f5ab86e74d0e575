//! Gradients of [`crate::ops`], one row at a time, and the loss.
//!
//! The key decision: explicit pairs. Each function takes what its forward took and the gradient of what
//! it gave; nothing but that is kept between the two, since a norm or a gate is computed again sooner
//! than it is read from memory. As in `ops`, one portable body for every instruction set with the same
//! bits.
#![allow(unsafe_code)] // the dispatch inside `multiversion!`, nothing else

use crate::isa::multiversion;
use crate::ops::{add_lanes, exp, inverse_root};

/// `sum(a * b * c)` in 16 fixed lanes.
#[inline(always)]
fn triple(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = a.len() / 16 * 16;
    for i in whole..a.len() {
        lanes[i - whole] = a[i] * b[i] * c[i];
    }
    let parts = a[..whole].chunks_exact(16).zip(b[..whole].chunks_exact(16));
    for ((a, b), c) in parts.zip(c[..whole].chunks_exact(16)) {
        for i in 0..16 {
            lanes[i] = (a[i] * b[i]).mul_add(c[i], lanes[i]);
        }
    }
    add_lanes(lanes)
}

multiversion! {
    /// Of [`crate::ops::rms_norm`]: adds to `dx` and `dweight`. All `(dim)`; `dy`: gradient of the output.
    ///
    /// With `r = 1 / sqrt(mean(x^2) + eps)`: `dweight += dy x r`,
    /// `dx += r (dy w) - x r^3 / dim * sum(dy w x)`.
    pub fn rms_norm_backward(
        x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32],
    ) {
        let n = x.len();
        let (weight, dy, dx, dweight) = (&weight[..n], &dy[..n], &mut dx[..n], &mut dweight[..n]);
        let r = inverse_root(x, eps);
        let pull = triple(dy, weight, x) * r * r * r / n as f32;
        for i in 0..n {
            dweight[i] = (dy[i] * x[i]).mul_add(r, dweight[i]);
            dx[i] += (dy[i] * weight[i]).mul_add(r, -(x[i] * pull));
        }
    }
}

multiversion! {
    /// SwiGLU's gate, kept apart from its inputs: `out = gate * sigmoid(gate) * up`.
    pub fn gated(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = *g / (1.0 + exp(-*g)) * u;
        }
    }
}

multiversion! {
    /// Of [`gated`]: `dout` is its output's gradient; `gate`, `up` become their own gradients, and
    /// `out` is computed again.
    pub fn gated_backward(gate: &mut [f32], up: &mut [f32], dout: &[f32], out: &mut [f32]) {
        for (((g, u), d), out) in gate.iter_mut().zip(up).zip(dout).zip(out) {
            let sigmoid = 1.0 / (1.0 + exp(-*g));
            let silu = *g * sigmoid;
            *out = silu * *u;
            // silu' = sigmoid (1 + g (1 - sigmoid)) = sigmoid + silu (1 - sigmoid)
            *g = *d * *u * silu.mul_add(1.0 - sigmoid, sigmoid);
            *u = *d * silu;
        }
    }
}

/// `N` pairs from pair `i` on become `(a cos - b sin, a sin + b cos) scale`, with `sin` times `sign`.
#[inline(always)]
fn turn<const N: usize>(
    i: usize,
    x: &[f32],
    (cos, sin): (&[f32], &[f32]),
    (sign, scale): (f32, f32),
    out: &mut [f32],
) {
    let half = cos.len();
    let (cos, sin) = (&cos[i..][..N], &sin[i..][..N]);
    let (a, b) = (&x[i..][..N], &x[half + i..][..N]);
    let (low, high) = out.split_at_mut(half);
    let (low, high) = (&mut low[i..][..N], &mut high[i..][..N]);
    for j in 0..N {
        let sin = sign * sin[j];
        low[j] = a[j].mul_add(cos[j], -(b[j] * sin)) * scale;
        high[j] = a[j].mul_add(sin, b[j] * cos[j]) * scale;
    }
}

/// All pairs of a head, some at a time: heads are short, and a loop over vectors of vectors would leave
/// most of their pairs over.
#[inline(always)]
fn turn_all(x: &[f32], turns: (&[f32], &[f32]), by: (f32, f32), out: &mut [f32]) {
    let (half, whole) = (turns.0.len(), turns.0.len() / 8 * 8);
    for i in (0..whole).step_by(8) {
        turn::<8>(i, x, turns, by, out);
    }
    for i in whole..half {
        turn::<1>(i, x, turns, by, out);
    }
}

multiversion! {
    /// `out = x` with the pairs (i, i + dims / 2) of a head turned and all multiplied by `scale`; as
    /// [`crate::ops::rope_halves`]. `cos`, `sin`: `(dims / 2)`; `x`, `out`: `(dims)`.
    pub fn turned(x: &[f32], cos: &[f32], sin: &[f32], scale: f32, out: &mut [f32]) {
        turn_all(x, (cos, sin), (1.0, scale), out);
    }
}

multiversion! {
    /// Of [`turned`]: the same pairs turned back.
    pub fn turned_backward(dy: &[f32], cos: &[f32], sin: &[f32], scale: f32, dx: &mut [f32]) {
        turn_all(dy, (cos, sin), (-1.0, scale), dx);
    }
}

/// The largest of a row.
#[inline(always)]
pub(crate) fn peak(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let parts = row.chunks_exact(16);
    for (lane, v) in lanes.iter_mut().zip(parts.remainder()) {
        *lane = *v;
    }
    for part in parts {
        for (lane, v) in lanes.iter_mut().zip(part) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
    }
    lanes[0]
}

/// `row = e^(row - shift)`; gives the sum, in 16 fixed lanes.
#[inline(always)]
pub(crate) fn exponentials(row: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let mut parts = row.chunks_exact_mut(16);
    for part in &mut parts {
        for (lane, v) in lanes.iter_mut().zip(part) {
            *v = exp(*v - shift);
            *lane += *v;
        }
    }
    for (lane, v) in lanes.iter_mut().zip(parts.into_remainder()) {
        *v = exp(*v - shift);
        *lane += *v;
    }
    add_lanes(lanes)
}

/// 0, or NaN when something in the row is not finite: `exp` alone would hide it.
#[inline(always)]
fn poison(row: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let parts = row.chunks_exact(16);
    for (lane, v) in lanes.iter_mut().zip(parts.remainder()) {
        *lane = v * 0.0;
    }
    for part in parts {
        for (lane, v) in lanes.iter_mut().zip(part) {
            *lane = v.mul_add(0.0, *lane);
        }
    }
    add_lanes(lanes)
}

multiversion! {
    /// Cross-entropy of one row of logits, `(V)`: gives `log(sum(e^logits)) - logits[target]` and turns
    /// the logits into `scale` times their gradient, `softmax - onehot(target)`. A row that is not finite gives NaN.
    pub fn cross_entropy(logits: &mut [f32], target: usize, scale: f32) -> f32 {
        let (chosen, poison) = (logits[target], poison(logits));
        let peak = peak(logits);
        let sum = exponentials(logits, peak);
        let factor = scale / sum;
        logits.iter_mut().for_each(|v| *v *= factor);
        logits[target] -= scale;
        sum.ln() + peak - chosen + poison
    }
}

#[cfg(test)]
mod tests;
