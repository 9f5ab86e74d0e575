//! Rows of F32, F16 and BF16.

use half::{bf16, f16};

pub(super) fn read_f32(row: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(row.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

pub(super) fn read_f16(row: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
        *value = f16::from_le_bytes(*bytes).to_f32();
    }
}

pub(super) fn read_bf16(row: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
        *value = bf16::from_le_bytes(*bytes).to_f32();
    }
}

pub(super) fn write_f32(values: &[f32], row: &mut [u8]) {
    for (bytes, value) in row.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

/// To the nearest, halves to even.
pub(super) fn write_f16(values: &[f32], row: &mut [u8]) {
    for (bytes, value) in row.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *bytes = f16::from_f32(*value).to_le_bytes();
    }
}

/// To the nearest, halves to even.
pub(super) fn write_bf16(values: &[f32], row: &mut [u8]) {
    for (bytes, value) in row.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *bytes = bf16::from_f32(*value).to_le_bytes();
    }
}
