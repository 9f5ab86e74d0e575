//! The oracle: what every kernel must give, bit for bit, written as plainly as it can be said.
//!
//! For one output (one weight row, one column of activations):
//!
//! - `Dense`: `acc = fma(w, x, acc)`, column by column.
//! - `Block`: per 32 columns `acc = fma(d * dx, dot, acc)`; with minima then `acc = fma(m, dx * sum, acc)`.
//! - super-blocks: per 256 columns `acc = fma(d * dx, Σ scale * dot, acc)`; with minima then
//!   `acc = fma(-(dmin * dx), Σ min * sum, acc)`.
//!
//! The integer dots and sums are exact in any order, so only this order over blocks is binding.

use half::{bf16, f16};

use crate::DType;
use crate::activations::ChunkView;
use crate::layout::{Layout, PANEL, SUB, Scheme};

/// The 16 non-linear levels of IQ4_NL (ggml's `kvalues_iq4nl`).
pub(crate) const IQ4_LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The quants of one row in one sub-block of a panel, zero point taken off.
pub(crate) fn quants(layout: &Layout, sub: &[u8], row: usize) -> [i32; SUB] {
    let byte = |plane: usize, i: usize| i32::from(sub[plane * 64 + row * 4 + i]);
    std::array::from_fn(|k| {
        let (g, i) = (k / 4, k % 4);
        let low_planes = layout.low;
        let low = match layout.low {
            8 => return i32::from(sub[g * 64 + row * 4 + i] as i8),
            4 => (byte(g % 4, i) >> (4 * (g / 4))) & 15,
            _ => (byte(g / 4, i) >> (2 * (g % 4))) & 3,
        };
        let high = match layout.high {
            0 => 0,
            1 => (byte(low_planes, i) >> g) & 1,
            _ => (byte(low_planes + g / 4, i) >> (2 * (g % 4))) & 3,
        };
        if layout.dtype == DType::IQ4_NL {
            return i32::from(IQ4_LEVELS[low as usize]);
        }
        (high << layout.low | low) - layout.zero
    })
}

fn half_at(block: &[u8], row: usize) -> f32 {
    f16::from_le_bytes([block[2 * row], block[2 * row + 1]]).to_f32()
}

fn pair(word: u32) -> [i32; 2] {
    [i32::from(word as u16 as i16), i32::from((word >> 16) as u16 as i16)]
}

fn dot(weights: &[i32], x: &[i8]) -> i32 {
    weights.iter().zip(x).map(|(w, &x)| w * i32::from(x)).sum()
}

/// Adds one panel times one chunk onto `acc`, `(columns, 16)`.
pub(crate) fn panel(layout: &Layout, panel: &[u8], x: &ChunkView<'_>, acc: &mut [f32]) {
    let blocks = panel.len() / layout.block_bytes();
    for b in 0..blocks {
        let block = &panel[b * layout.block_bytes()..][..layout.block_bytes()];
        for c in 0..x.columns {
            for row in 0..PANEL {
                let acc = &mut acc[c * PANEL + row];
                *acc = match layout.scheme {
                    Scheme::Block => short_block(layout, block, x, (b, c, row), *acc),
                    _ => super_block(layout, block, x, (b, c, row), *acc),
                };
            }
        }
    }
}

type Place = (usize, usize, usize);

fn short_block(layout: &Layout, block: &[u8], x: &ChunkView<'_>, at: Place, acc: f32) -> f32 {
    let (b, c, row) = at;
    let weights = quants(layout, &block[layout.header_bytes()..], row);
    let dot = dot(&weights, &x.quants[(b * x.columns + c) * SUB..][..SUB]);
    let dx = x.scales[b * x.columns + c];
    let acc = (half_at(block, row) * dx).mul_add(dot as f32, acc);
    if !layout.minima {
        return acc;
    }
    half_at(&block[32..], row).mul_add(f32::from_bits(x.sums[b * x.columns + c]), acc)
}

fn super_block(layout: &Layout, block: &[u8], x: &ChunkView<'_>, at: Place, acc: f32) -> f32 {
    let (b, c, row) = at;
    let parts = if layout.scheme == Scheme::Super32 { 1 } else { 2 };
    let scales = &block[layout.scales_at()..];
    let mut total = 0;
    for s in 0..8 {
        let sub = &block[layout.header_bytes() + s * layout.sub_bytes()..];
        let weights = quants(layout, sub, row);
        let x = &x.quants[((b * 8 + s) * x.columns + c) * SUB..][..SUB];
        for part in 0..parts {
            let n = SUB / parts;
            let scale = scales[(s * parts + part) * PANEL + row];
            let scale = if layout.minima { i32::from(scale) } else { i32::from(scale as i8) };
            total += scale * dot(&weights[part * n..][..n], &x[part * n..][..n]);
        }
    }
    let dx = x.scales[b * x.columns + c];
    let acc = (half_at(block, row) * dx).mul_add(total as f32, acc);
    if !layout.minima {
        return acc;
    }
    let words = 4 * parts;
    let minima = &block[layout.minima_at()..];
    let mut total = 0;
    for w in 0..words {
        let sums = pair(x.sums[(b * x.columns + c) * words + w]);
        for i in 0..2 {
            total += i32::from(minima[(w * PANEL + row) * 2 + i]) * sums[i];
        }
    }
    (-(half_at(&block[32..], row) * dx)).mul_add(total as f32, acc)
}

/// Adds `length` columns of 16 dense elements, `stride` elements apart, times `(columns, x_stride)`
/// activations onto `acc`, `(columns, 16)`.
pub(crate) fn dense(
    dtype: DType,
    weights: &[u8],
    stride: usize,
    length: usize,
    x: &[f32],
    x_stride: usize,
    acc: &mut [f32],
) {
    let size = dtype.block_bytes();
    for (c, acc) in acc.chunks_exact_mut(PANEL).enumerate() {
        for k in 0..length {
            for (row, acc) in acc.iter_mut().enumerate() {
                let w = &weights[(k * stride + row) * size..][..size];
                let w = match dtype {
                    DType::F16 => f16::from_le_bytes([w[0], w[1]]).to_f32(),
                    DType::BF16 => bf16::from_le_bytes([w[0], w[1]]).to_f32(),
                    _ => f32::from_le_bytes([w[0], w[1], w[2], w[3]]),
                };
                *acc = w.mul_add(x[c * x_stride + k], *acc);
            }
        }
    }
}
