//! The blocks of 256 whose sub-blocks have quantized scales: Q2_K to Q6_K, read.
//!
//! | type | bytes | sub-blocks | value of level `q` |
//! |---|---|---|---|
//! | Q2_K | `sm: [4+4 bit; 16], q: [2 bit; 256], d: f16, dmin: f16` | 16 of 16 | `d s q - dmin m` |
//! | Q3_K | `high: [1 bit; 256], low: [2 bit; 256], s: [6 bit; 16], d: f16` | 16 of 16 | `d (s - 32) (q - 4)` |
//! | Q4_K | `d: f16, dmin: f16, sm: [6+6 bit; 8], q: [4 bit; 256]` | 8 of 32 | `d s q - dmin m` |
//! | Q5_K | `d: f16, dmin: f16, sm: [6+6 bit; 8], high: [1 bit; 256], low: [4 bit; 256]` | 8 of 32 | `d s q - dmin m` |
//! | Q6_K | `low: [4 bit; 256], high: [2 bit; 256], s: [i8; 16], d: f16` | 16 of 16 | `d s (q - 32)` |

use super::bits::unpack;
use super::scale_at;

/// Elements of a block.
pub(super) const SUPER: usize = 256;

pub(super) fn read_q2_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (scale_at(block, 80), scale_at(block, 82));
    let mut levels = [0; SUPER];
    unpack::<2, 32>(&block[16..80], &mut levels);
    let sub_blocks = out.chunks_exact_mut(16).zip(levels.chunks_exact(16)).zip(&block[..16]);
    for ((out, levels), both) in sub_blocks {
        affine(d * (both & 15) as f32, dmin * (both >> 4) as f32, levels, out);
    }
}

pub(super) fn read_q3_k(block: &[u8], out: &mut [f32]) {
    let d = scale_at(block, 108);
    let (mut levels, mut high) = ([0; SUPER], [0; SUPER]);
    unpack::<2, 32>(&block[32..96], &mut levels);
    unpack::<1, 32>(&block[..32], &mut high);
    add_high(&mut levels, &high, 2);
    let scales = unpack_scales_q3(&block[96..108]);
    let sub_blocks = out.chunks_exact_mut(16).zip(levels.chunks_exact(16)).zip(scales);
    for ((out, levels), scale) in sub_blocks {
        centred(d * (scale as i32 - 32) as f32, 4, levels, out);
    }
}

pub(super) fn read_q4_k(block: &[u8], out: &mut [f32]) {
    let mut levels = [0; SUPER];
    unpack::<4, 32>(&block[16..144], &mut levels);
    affine_super(block, &levels, out);
}

pub(super) fn read_q5_k(block: &[u8], out: &mut [f32]) {
    let (mut levels, mut high) = ([0; SUPER], [0; SUPER]);
    unpack::<4, 32>(&block[48..176], &mut levels);
    unpack::<1, 32>(&block[16..48], &mut high);
    add_high(&mut levels, &high, 4);
    affine_super(block, &levels, out);
}

pub(super) fn read_q6_k(block: &[u8], out: &mut [f32]) {
    let d = scale_at(block, 208);
    let (mut levels, mut high) = ([0; SUPER], [0; SUPER]);
    unpack::<4, 64>(&block[..128], &mut levels);
    unpack::<2, 32>(&block[128..192], &mut high);
    add_high(&mut levels, &high, 4);
    let sub_blocks = out.chunks_exact_mut(16).zip(levels.chunks_exact(16)).zip(&block[192..208]);
    for ((out, levels), scale) in sub_blocks {
        centred(d * *scale as i8 as f32, 32, levels, out);
    }
}

/// The sixteen 6-bit scales of Q3_K, 0..64: the low four bits of scale `j` in byte `j % 8`, the
/// high two in byte `8 + j % 4`.
pub(crate) fn unpack_scales_q3(packed: &[u8]) -> [u8; 16] {
    std::array::from_fn(|j| {
        let low = packed[j % 8] >> (4 * (j / 8)) & 15;
        let high = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
        low | high << 4
    })
}

/// The eight 6-bit scales and the eight 6-bit minima of Q4_K and Q5_K. The first four of each have
/// a byte to themselves (scales in 0..4, minima in 4..8) and lend its top two bits to the last
/// four, whose low halves share bytes 8..12.
pub(crate) fn unpack_scales_q4(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = packed[j] & 63;
        minima[j] = packed[j + 4] & 63;
        scales[j + 4] = packed[j + 8] & 15 | packed[j] >> 6 << 4;
        minima[j + 4] = packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4;
    }
    (scales, minima)
}

/// Q4_K and Q5_K alike: eight sub-blocks of 32, header in bytes 0..16.
fn affine_super(block: &[u8], levels: &[u8; SUPER], out: &mut [f32]) {
    let (d, dmin) = (scale_at(block, 0), scale_at(block, 2));
    let (scales, minima) = unpack_scales_q4(&block[4..16]);
    for (j, (out, levels)) in out.chunks_exact_mut(32).zip(levels.chunks_exact(32)).enumerate() {
        affine(d * scales[j] as f32, dmin * minima[j] as f32, levels, out);
    }
}

/// `scale * q - min`.
fn affine(scale: f32, min: f32, levels: &[u8], out: &mut [f32]) {
    for (value, level) in out.iter_mut().zip(levels) {
        *value = scale * *level as f32 - min;
    }
}

/// `scale * (q - zero)`.
fn centred(scale: f32, zero: i32, levels: &[u8], out: &mut [f32]) {
    for (value, level) in out.iter_mut().zip(levels) {
        *value = scale * (*level as i32 - zero) as f32;
    }
}

/// Puts the separately stored top bits above the `below` low ones.
fn add_high(levels: &mut [u8; SUPER], high: &[u8; SUPER], below: u32) {
    for (level, high) in levels.iter_mut().zip(high) {
        *level |= high << below;
    }
}
