//! The blocks of 32 with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! | type | bytes | value of level `q` |
//! |---|---|---|
//! | Q4_0 | `d: f16, q: [4 bit; 32]` | `d (q - 8)` |
//! | Q4_1 | `d: f16, m: f16, q: [4 bit; 32]` | `d q + m` |
//! | Q5_0 | `d: f16, high: [1 bit; 32], low: [4 bit; 32]` | `d (q - 16)` |
//! | Q5_1 | `d: f16, m: f16, high: [1 bit; 32], low: [4 bit; 32]` | `d q + m` |
//! | Q8_0 | `d: f16, q: [i8; 32]` | `d q` |

use super::bits::{pack, unpack};
use super::{put_scale, scale_at};

pub(super) fn read_q4_0(block: &[u8], out: &mut [f32]) {
    let d = scale_at(block, 0);
    for (value, level) in out.iter_mut().zip(levels_4(&block[2..18])) {
        *value = (level as i32 - 8) as f32 * d;
    }
}

pub(super) fn read_q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (scale_at(block, 0), scale_at(block, 2));
    for (value, level) in out.iter_mut().zip(levels_4(&block[4..20])) {
        *value = level as f32 * d + m;
    }
}

pub(super) fn read_q5_0(block: &[u8], out: &mut [f32]) {
    let d = scale_at(block, 0);
    for (value, level) in out.iter_mut().zip(levels_5(&block[2..6], &block[6..22])) {
        *value = (level as i32 - 16) as f32 * d;
    }
}

pub(super) fn read_q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (scale_at(block, 0), scale_at(block, 2));
    for (value, level) in out.iter_mut().zip(levels_5(&block[4..8], &block[8..24])) {
        *value = level as f32 * d + m;
    }
}

pub(super) fn read_q8_0(block: &[u8], out: &mut [f32]) {
    let d = scale_at(block, 0);
    for (value, level) in out.iter_mut().zip(&block[2..34]) {
        *value = *level as i8 as f32 * d;
    }
}

/// The largest number gets the level 0, the value `-8 d`: one more than the levels on the other
/// side reach.
pub(super) fn write_q4_0(values: &[f32], block: &mut [u8]) {
    let levels = write_centred(8.0, values, block);
    pack::<4, 16>(&levels, &mut block[2..18]);
}

pub(super) fn write_q4_1(values: &[f32], block: &mut [u8]) {
    let levels = write_affine(15.0, values, block);
    pack::<4, 16>(&levels, &mut block[4..20]);
}

pub(super) fn write_q5_0(values: &[f32], block: &mut [u8]) {
    let levels = write_centred(16.0, values, block);
    pack::<1, 1>(&levels.map(|level| level >> 4), &mut block[2..6]);
    pack::<4, 16>(&levels, &mut block[6..22]);
}

pub(super) fn write_q5_1(values: &[f32], block: &mut [u8]) {
    let levels = write_affine(31.0, values, block);
    pack::<1, 1>(&levels.map(|level| level >> 4), &mut block[4..8]);
    pack::<4, 16>(&levels, &mut block[8..24]);
}

pub(super) fn write_q8_0(values: &[f32], block: &mut [u8]) {
    let size = values.iter().fold(0.0, |best: f32, x| if x.abs() > best { x.abs() } else { best });
    let d = size / 127.0;
    put_scale(block, 0, d);
    let steps = inverse(d);
    for (byte, x) in block[2..34].iter_mut().zip(values) {
        // Halves away from zero. Adding the number just below a half, not a half, keeps
        // 0.49999997 at 0; the cast then truncates.
        let level = x * steps;
        *byte = (level + 0.499_999_97_f32.copysign(level)) as i32 as i8 as u8;
    }
}

/// The scale (bytes 0..2) and levels of Q4_0 and Q5_0, from `zero` levels below zero to `zero - 1`
/// above.
fn write_centred(zero: f32, values: &[f32], block: &mut [u8]) -> [u8; 32] {
    let largest = values.iter().fold(0.0, |a: f32, x| if x.abs() > a.abs() { *x } else { a });
    let d = largest / -zero;
    put_scale(block, 0, d);
    let steps = inverse(d);
    levels_of(values, 2.0 * zero - 1.0, |x| x * steps + (zero + 0.5))
}

/// The scale and minimum (bytes 0..4) and levels of Q4_1 and Q5_1, 0 to `top`.
fn write_affine(top: f32, values: &[f32], block: &mut [u8]) -> [u8; 32] {
    let low = values.iter().fold(f32::MAX, |a, x| if *x < a { *x } else { a });
    let high = values.iter().fold(f32::MIN, |a, x| if *x > a { *x } else { a });
    let d = (high - low) / top;
    put_scale(block, 0, d);
    put_scale(block, 2, low);
    let steps = inverse(d);
    levels_of(values, top, |x| (x - low) * steps + 0.5)
}

/// Levels by truncation, kept inside `0..=top`.
fn levels_of(values: &[f32], top: f32, place: impl Fn(f32) -> f32) -> [u8; 32] {
    let mut levels = [0; 32];
    for (level, x) in levels.iter_mut().zip(values) {
        *level = (place(*x) as i32).clamp(0, top as i32) as u8;
    }
    levels
}

/// `1 / d`, or 0 for a block of zeros. The scale as it was before its rounding to f16, as in ggml.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Bytes 0..16 hold levels 0..16 in their low half and 16..32 in their high half.
fn levels_4(packed: &[u8]) -> [u8; 32] {
    let mut levels = [0; 32];
    unpack::<4, 16>(packed, &mut levels);
    levels
}

/// As [`levels_4`], with the fifth bit of level `i` in bit `i` of a little-endian u32.
fn levels_5(packed_high: &[u8], packed_low: &[u8]) -> [u8; 32] {
    let mut levels = levels_4(packed_low);
    let mut high = [0; 32];
    unpack::<1, 1>(packed_high, &mut high);
    for (level, high) in levels.iter_mut().zip(high) {
        *level |= high << 4;
    }
    levels
}
