//! Rows of numbers in and out of their storage types.
//!
//! The key decision: plain code with the arithmetic of ggml, operation by operation. Reading
//! ([`dequantize_row`]) is the oracle that every kernel is tested against, so it must give ggml's
//! bits; writing ([`quantize_row`]) makes the same choices as ggml's reference quantizers, so that
//! files made here and there are the same files. No fused multiply-add anywhere: it would change
//! the bits.
//!
//! Not here: interleaved layouts of the kernels, quantized activations, threads.
//!
//! Source of the layouts and of the arithmetic: the block structures and reference functions of
//! ggml (`ggml-common.h`, `ggml-quants.c`), MIT. A row is a whole number of blocks, dense and
//! little-endian, as it stands in a GGUF file.

pub(crate) mod bits;
mod float;
mod iq4;
pub(crate) mod k_quants;
mod k_write;
mod legacy;
mod search;

pub use iq4::VALUES as IQ4_NL_VALUES;

use half::{bf16, f16};

use crate::DType;

/// Turns a stored row into numbers. `row` holds `dtype.bytes(out.len())` bytes.
///
/// # Panics
/// If `out` is no whole number of blocks, or `row` has another length.
pub fn dequantize_row(dtype: DType, row: &[u8], out: &mut [f32]) {
    check_lengths(dtype, row.len(), out.len());
    match dtype {
        DType::F32 => float::read_f32(row, out),
        DType::F16 => float::read_f16(row, out),
        DType::BF16 => float::read_bf16(row, out),
        DType::Q4_0 => blocks(dtype, row, out, legacy::read_q4_0),
        DType::Q4_1 => blocks(dtype, row, out, legacy::read_q4_1),
        DType::Q5_0 => blocks(dtype, row, out, legacy::read_q5_0),
        DType::Q5_1 => blocks(dtype, row, out, legacy::read_q5_1),
        DType::Q8_0 => blocks(dtype, row, out, legacy::read_q8_0),
        DType::Q2_K => blocks(dtype, row, out, k_quants::read_q2_k),
        DType::Q3_K => blocks(dtype, row, out, k_quants::read_q3_k),
        DType::Q4_K => blocks(dtype, row, out, k_quants::read_q4_k),
        DType::Q5_K => blocks(dtype, row, out, k_quants::read_q5_k),
        DType::Q6_K => blocks(dtype, row, out, k_quants::read_q6_k),
        DType::IQ4_NL => blocks(dtype, row, out, iq4::read_iq4_nl),
    }
}

/// Turns numbers into a stored row: `dtype.bytes(values.len())` bytes. Not-finite numbers do not
/// panic, but make blocks of no use; [`row_is_finite`] finds them.
///
/// # Panics
/// If `values` is no whole number of blocks, or `row` has another length.
pub fn quantize_row(dtype: DType, values: &[f32], row: &mut [u8]) {
    check_lengths(dtype, row.len(), values.len());
    match dtype {
        DType::F32 => float::write_f32(values, row),
        DType::F16 => float::write_f16(values, row),
        DType::BF16 => float::write_bf16(values, row),
        DType::Q4_0 => into_blocks(dtype, values, row, legacy::write_q4_0),
        DType::Q4_1 => into_blocks(dtype, values, row, legacy::write_q4_1),
        DType::Q5_0 => into_blocks(dtype, values, row, legacy::write_q5_0),
        DType::Q5_1 => into_blocks(dtype, values, row, legacy::write_q5_1),
        DType::Q8_0 => into_blocks(dtype, values, row, legacy::write_q8_0),
        DType::Q2_K => into_blocks(dtype, values, row, k_write::write_q2_k),
        DType::Q3_K => into_blocks(dtype, values, row, k_write::write_q3_k),
        DType::Q4_K => into_blocks(dtype, values, row, k_write::write_q4_k),
        DType::Q5_K => into_blocks(dtype, values, row, k_write::write_q5_k),
        DType::Q6_K => into_blocks(dtype, values, row, k_write::write_q6_k),
        DType::IQ4_NL => into_blocks(dtype, values, row, iq4::write_iq4_nl),
    }
}

/// Whether every number of the row is finite, told by its scales (the numbers themselves where
/// there are none). A scale beyond f16 (65504) reads as infinite.
///
/// # Panics
/// If `row` is no whole number of blocks.
pub fn row_is_finite(dtype: DType, row: &[u8]) -> bool {
    let size = dtype.block_bytes();
    assert_eq!(row.len() % size, 0, "{} bytes as blocks of {dtype}", row.len());
    let scales: &[usize] = match dtype {
        DType::F32 => {
            return row.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b).is_finite());
        }
        DType::BF16 => {
            return row.as_chunks::<2>().0.iter().all(|b| bf16::from_le_bytes(*b).is_finite());
        }
        DType::F16 | DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
    };
    row.chunks_exact(size).all(|block| scales.iter().all(|at| scale_at(block, *at).is_finite()))
}

/// Reads block after block.
fn blocks(dtype: DType, row: &[u8], out: &mut [f32], read: impl Fn(&[u8], &mut [f32])) {
    let (bytes, elements) = (dtype.block_bytes(), dtype.block_elements());
    for (block, out) in row.chunks_exact(bytes).zip(out.chunks_exact_mut(elements)) {
        read(block, out);
    }
}

/// Writes block after block.
fn into_blocks(dtype: DType, values: &[f32], row: &mut [u8], write: impl Fn(&[f32], &mut [u8])) {
    let (bytes, elements) = (dtype.block_bytes(), dtype.block_elements());
    for (values, block) in values.chunks_exact(elements).zip(row.chunks_exact_mut(bytes)) {
        write(values, block);
    }
}

fn check_lengths(dtype: DType, bytes: usize, elements: usize) {
    assert_eq!(dtype.bytes(elements), Some(bytes), "a row of {elements} elements as {dtype}");
}

/// The f16 that stands at byte `at` of a block: a scale or a minimum.
fn scale_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Stores a scale or a minimum as the f16 at byte `at`.
fn put_scale(block: &mut [u8], at: usize, scale: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
}

#[cfg(test)]
mod tests;
