//! IQ4_NL: blocks of 32 with one scale and 16 levels that are not evenly spaced.
//!
//! Bytes: `d: f16, q: [4 bit; 32]`; the value of level `q` is `d * VALUES[q]`.

use super::bits::{pack, unpack};
use super::search::NOTHING;
use super::{put_scale, scale_at};

/// The sixteen levels (`kvalues_iq4nl` of ggml): denser near zero, where weights are.
pub const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn read_iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = scale_at(block, 0);
    let mut levels = [0; 32];
    unpack::<4, 16>(&block[2..18], &mut levels);
    for (value, level) in out.iter_mut().zip(levels) {
        *value = d * VALUES[level as usize] as f32;
    }
}

/// Tries the scale that puts the largest number on the outermost level, seven slightly smaller and
/// seven slightly larger ones, and one of the other sign; keeps the one with the least error, each
/// number weighted by its square.
pub(super) fn write_iq4_nl(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0.0, |a: f32, x| if x.abs() > a.abs() { *x } else { a });
    let mut d = 0.0;
    if largest.abs() >= NOTHING {
        let outermost = VALUES[0] as f32;
        // With the other sign first: the largest number lands above the highest level.
        let (sum_xq, sum_q2) = fit(values, 1.0 / (-largest / outermost));
        d = if sum_q2 > 0.0 { sum_xq / sum_q2 } else { 0.0 };
        let mut best = d * sum_xq;
        for shift in -7..=7 {
            let (sum_xq, sum_q2) = fit(values, (shift as f32 + outermost) / largest);
            if sum_q2 > 0.0 && sum_xq * sum_xq > best * sum_q2 {
                d = sum_xq / sum_q2;
                best = d * sum_xq;
            }
        }
    }
    put_scale(block, 0, d);
    let steps = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut levels = [0; 32];
    for (level, x) in levels.iter_mut().zip(values) {
        *level = nearest_level(steps * x);
    }
    pack::<4, 16>(&levels, &mut block[2..18]);
}

/// `Σ w x q` and `Σ w q²` with `w = x²` and `q` the level's value.
fn fit(values: &[f32], steps: f32) -> (f32, f32) {
    let (mut sum_xq, mut sum_q2) = (0.0, 0.0);
    for x in values {
        let value = VALUES[nearest_level(steps * x) as usize] as f32;
        let weight = x * x;
        sum_xq += weight * value * x;
        sum_q2 += weight * value * value;
    }
    (sum_xq, sum_q2)
}

/// The level whose value is nearest; the upper one of two equally near.
fn nearest_level(x: f32) -> u8 {
    let above = VALUES.iter().filter(|value| x >= **value as f32).count();
    if above == 0 || above == VALUES.len() {
        return above.saturating_sub(1) as u8;
    }
    let (below, next) = (VALUES[above - 1] as f32, VALUES[above] as f32);
    if x - below < next - x { above as u8 - 1 } else { above as u8 }
}
