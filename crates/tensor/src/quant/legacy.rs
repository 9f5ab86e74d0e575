//! The blocks of 32 with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! | type | bytes | value of level `q` |
//! |---|---|---|
//! | Q4_0 | `d: f16, q: [4 bit; 32]` | `d (q - 8)` |
//! | Q4_1 | `d: f16, m: f16, q: [4 bit; 32]` | `d q + m` |
//! | Q5_0 | `d: f16, high: [1 bit; 32], low: [4 bit; 32]` | `d (q - 16)` |
//! | Q5_1 | `d: f16, m: f16, high: [1 bit; 32], low: [4 bit; 32]` | `d q + m` |
//! | Q8_0 | `d: f16, q: [i8; 32]` | `d q` |

use super::bits::unpack;
use super::scale_at;

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
