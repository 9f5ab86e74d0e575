//! Rows of numbers in and out of their storage types.
//!
//! The key decision: plain code with the arithmetic of ggml, operation by operation. Reading
//! ([`dequantize_row`]) is the oracle that every kernel is tested against, so it must give ggml's
//! bits. No fused multiply-add anywhere: it would change them.
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
mod legacy;

pub use iq4::VALUES as IQ4_NL_VALUES;

use half::f16;

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

/// Reads block after block.
fn blocks(dtype: DType, row: &[u8], out: &mut [f32], read: impl Fn(&[u8], &mut [f32])) {
    let (bytes, elements) = (dtype.block_bytes(), dtype.block_elements());
    for (block, out) in row.chunks_exact(bytes).zip(out.chunks_exact_mut(elements)) {
        read(block, out);
    }
}

fn check_lengths(dtype: DType, bytes: usize, elements: usize) {
    assert_eq!(dtype.bytes(elements), Some(bytes), "a row of {elements} elements as {dtype}");
}

/// The f16 that stands at byte `at` of a block: a scale or a minimum.
fn scale_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests;
