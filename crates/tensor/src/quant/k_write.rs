//! Q2_K to Q6_K, written: the layouts are in [`super::k_quants`], the searches in
//! [`super::search`].
//!
//! Every writer goes the same way: find the best scale (and minimum) of each sub-block, store
//! these in units of the largest one, then round the numbers again, this time to the scales as
//! they will be read. Where a scale was rounded to zero the levels of the search stay: they do
//! not matter, and ggml leaves them too.

use super::bits::pack;
use super::k_quants::SUPER;
use super::search::{
    AffineFit, AffineSearch, CentredFit, LANES, Lanes, NOTHING, clamp, descend_centred, fit_affine,
    fit_centred, nearest, turn,
};
use super::{put_scale, scale_at};

const SEARCH_Q2: AffineSearch = AffineSearch { top: 3.0, first: -0.5, tries: 16, absolute: true };
const SEARCH_Q4: AffineSearch = AffineSearch { top: 15.0, first: -1.0, tries: 21, absolute: false };
const SEARCH_Q5: AffineSearch = AffineSearch { top: 31.0, first: -0.5, tries: 16, absolute: false };

pub(super) fn write_q2_k(values: &[f32], block: &mut [u8]) {
    let fits: [AffineFit; 2] = std::array::from_fn(|half| {
        let x: [Lanes; 16] = turn(&values[128 * half..]);
        fit_affine(&x, &x.map(|x| x.map(f32::abs)), &SEARCH_Q2)
    });
    let max_scale = fits.iter().flat_map(|fit| fit.scale).fold(0.0, larger);
    let max_min = fits.iter().flat_map(|fit| fit.min).fold(0.0, larger);
    put_scale(block, 80, max_scale / 15.0);
    put_scale(block, 82, max_min / 15.0);
    let (d, dmin) = (scale_at(block, 80), scale_at(block, 82));
    let (to_scale, to_min) = (units(15.0, max_scale), units(15.0, max_min));
    let mut levels = [0; SUPER];
    for j in 0..16 {
        let (fit, lane) = (&fits[j / LANES], j % LANES);
        let scale = clamp(nearest(to_scale * fit.scale[lane]), 0.0, 15.0) as u8;
        let min = clamp(nearest(to_min * fit.min[lane]), 0.0, 15.0) as u8;
        block[j] = scale | min << 4;
        let sub = 16 * j..16 * (j + 1);
        let stored = (d * scale as f32, dmin * min as f32);
        round_affine(fit, lane, stored, &values[sub.clone()], &mut levels[sub]);
    }
    pack::<2, 32>(&levels, &mut block[16..80]);
}

pub(super) fn write_q3_k(values: &[f32], block: &mut [u8]) {
    let mut levels = [0; SUPER];
    let mut scales = [0.0; 16];
    for (j, x) in values.as_chunks::<16>().0.iter().enumerate() {
        let (scale, searched) = descend_centred(x, 4.0);
        scales[j] = scale;
        levels[16 * j..16 * (j + 1)].copy_from_slice(&searched);
    }
    let max_scale = largest(&scales);
    let mut stored = [32u8; 16];
    if max_scale == 0.0 {
        block[96..108].fill(0);
        put_scale(block, 108, 0.0);
    } else {
        let to_scale = -32.0 / max_scale;
        stored = scales.map(|s| (clamp(nearest(to_scale * s), -32.0, 31.0) + 32.0) as u8);
        pack_scales_q3(&stored, &mut block[96..108]);
        put_scale(block, 108, 1.0 / to_scale);
    }
    let d = scale_at(block, 108);
    let sub_blocks = values.chunks_exact(16).zip(levels.chunks_exact_mut(16)).zip(stored);
    for ((values, levels), scale) in sub_blocks {
        round_centred(d * (scale as i32 - 32) as f32, 4.0, values, levels);
    }
    pack::<2, 32>(&levels, &mut block[32..96]);
    pack::<1, 32>(&levels.map(|level| level >> 2), &mut block[..32]);
}

pub(super) fn write_q4_k(values: &[f32], block: &mut [u8]) {
    let levels = write_affine_super(values, &SEARCH_Q4, block);
    pack::<4, 32>(&levels, &mut block[16..144]);
}

pub(super) fn write_q5_k(values: &[f32], block: &mut [u8]) {
    let levels = write_affine_super(values, &SEARCH_Q5, block);
    pack::<4, 32>(&levels, &mut block[48..176]);
    pack::<1, 32>(&levels.map(|level| level >> 4), &mut block[16..48]);
}

pub(super) fn write_q6_k(values: &[f32], block: &mut [u8]) {
    let fits: [CentredFit; 2] =
        std::array::from_fn(|half| fit_centred::<16>(&turn(&values[128 * half..]), 32.0));
    let scales: [f32; 16] = std::array::from_fn(|j| fits[j / LANES].scale[j % LANES]);
    let max_scale = largest(&scales);
    if max_scale.abs() < NOTHING {
        block.fill(0);
        return;
    }
    let to_scale = -128.0 / max_scale;
    put_scale(block, 208, 1.0 / to_scale);
    let d = scale_at(block, 208);
    let mut levels = [0; SUPER];
    for j in 0..16 {
        let stored = clamp(nearest(to_scale * scales[j]), -128.0, 127.0) as i8;
        block[192 + j] = stored as u8;
        let sub = 16 * j..16 * (j + 1);
        for (level, x) in levels[sub.clone()].iter_mut().zip(&values[sub.clone()]) {
            *level = fits[j / LANES].level(j % LANES, *x);
        }
        round_centred(d * stored as f32, 32.0, &values[sub.clone()], &mut levels[sub]);
    }
    pack::<4, 64>(&levels, &mut block[..128]);
    pack::<2, 32>(&levels.map(|level| level >> 4), &mut block[128..192]);
}

/// The header (bytes 0..16) and the levels of Q4_K and Q5_K. A number weighs as much as its
/// magnitude plus the root mean square of its sub-block.
fn write_affine_super(values: &[f32], search: &AffineSearch, block: &mut [u8]) -> [u8; SUPER] {
    let x: [Lanes; 32] = turn(values);
    let mut squares = [0.0; LANES];
    for x in &x {
        for l in 0..LANES {
            squares[l] += x[l] * x[l];
        }
    }
    let typical = squares.map(|sum| (sum / 32.0).sqrt());
    let weights = x.map(|x| std::array::from_fn(|l| typical[l] + x[l].abs()));
    let fit = fit_affine(&x, &weights, search);
    let max_scale = fit.scale.into_iter().fold(0.0, larger);
    let max_min = fit.min.into_iter().fold(0.0, larger);
    put_scale(block, 0, max_scale / 63.0);
    put_scale(block, 2, max_min / 63.0);
    let (d, dmin) = (scale_at(block, 0), scale_at(block, 2));
    let (to_scale, to_min) = (units(63.0, max_scale), units(63.0, max_min));
    let scales = fit.scale.map(|s| clamp(nearest(to_scale * s), 0.0, 63.0) as u8);
    let minima = fit.min.map(|m| clamp(nearest(to_min * m), 0.0, 63.0) as u8);
    pack_scales_q4(&scales, &minima, &mut block[4..16]);
    let mut levels = [0; SUPER];
    for j in 0..LANES {
        let sub = 32 * j..32 * (j + 1);
        let stored = (d * scales[j] as f32, dmin * minima[j] as f32);
        round_affine(&fit, j, stored, &values[sub.clone()], &mut levels[sub]);
    }
    levels
}

/// The inverse of `unpack_scales_q3`.
fn pack_scales_q3(scales: &[u8; 16], packed: &mut [u8]) {
    packed.fill(0);
    for (j, scale) in scales.iter().enumerate() {
        packed[j % 8] |= (scale & 15) << (4 * (j / 8));
        packed[8 + j % 4] |= (scale >> 4) << (2 * (j / 4));
    }
}

/// The inverse of `unpack_scales_q4`.
fn pack_scales_q4(scales: &[u8; 8], minima: &[u8; 8], packed: &mut [u8]) {
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = minima[j] | minima[j + 4] >> 4 << 6;
        packed[j + 8] = scales[j + 4] & 15 | (minima[j + 4] & 15) << 4;
    }
}

/// Levels under the scale and minimum as they will be read; those of the search under scale zero.
fn round_affine(
    fit: &AffineFit,
    lane: usize,
    (scale, min): (f32, f32),
    values: &[f32],
    levels: &mut [u8],
) {
    let top = fit.top;
    for (level, x) in levels.iter_mut().zip(values) {
        *level = if scale == 0.0 {
            fit.level(lane, *x)
        } else {
            clamp(nearest((x + min) / scale), 0.0, top) as u8
        };
    }
}

/// Levels counted from 0 under the scale as it will be read; under scale zero they stay.
fn round_centred(scale: f32, top: f32, values: &[f32], levels: &mut [u8]) {
    if scale == 0.0 {
        return;
    }
    for (level, x) in levels.iter_mut().zip(values) {
        *level = (clamp(nearest(x / scale), -top, top - 1.0) + top) as u8;
    }
}

/// How many units of `1 / most` of the largest there are in a number; 0 when all are zero.
fn units(most: f32, largest: f32) -> f32 {
    if largest > 0.0 { most / largest } else { 0.0 }
}

fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The first of the numbers with the largest magnitude.
fn largest(numbers: &[f32; 16]) -> f32 {
    numbers.iter().fold(0.0, |best: f32, n| if n.abs() > best.abs() { *n } else { best })
}
