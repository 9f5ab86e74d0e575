//! Products of a panel of weights with a chunk of activations: the one place where an instruction
//! set is chosen.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_dense;
pub(crate) mod scalar;

#[cfg(test)]
mod tests;

use crate::DType;
use crate::activations::ChunkView;
use crate::isa::{Isa, Set};
use crate::layout::Layout;

/// Adds one quantized panel times one chunk onto `acc`, `(columns, 16)`.
#[allow(unsafe_code)]
pub(crate) fn panel(isa: Isa, layout: &Layout, weights: &[u8], x: &ChunkView<'_>, acc: &mut [f32]) {
    match isa.set() {
        Set::Scalar => scalar::panel(layout, weights, x, acc),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: holding the `Isa` proves the features; the kernel checks the lengths.
        Set::Avx2 | Set::Avx512 => unsafe { avx2::panel(layout, weights, x, acc) },
        #[cfg(target_arch = "aarch64")]
        Set::Neon => scalar::panel(layout, weights, x, acc),
    }
}

/// Sixteen lanes of dense weights: `length` columns, `stride` elements from one to the next.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<'a> {
    /// `F32`, `F16` or `BF16`.
    pub(crate) dtype: DType,
    /// `((length - 1) * stride + 16)` elements.
    pub(crate) data: &'a [u8],
    /// Elements from one column to the next.
    pub(crate) stride: usize,
    /// Columns.
    pub(crate) length: usize,
}

/// Adds 16 dense lanes times `(columns, x_stride)` activations onto `acc`, `(columns, 16)`.
#[allow(unsafe_code)]
pub(crate) fn dense(isa: Isa, w: Lanes<'_>, x: &[f32], x_stride: usize, acc: &mut [f32]) {
    let Lanes { dtype, data, stride, length } = w;
    match isa.set() {
        Set::Scalar => scalar::dense(dtype, data, stride, length, x, x_stride, acc),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Set::Avx2 | Set::Avx512 => unsafe {
            avx2_dense::dense(dtype, data, stride, length, x, x_stride, acc);
        },
        #[cfg(target_arch = "aarch64")]
        Set::Neon => scalar::dense(dtype, data, stride, length, x, x_stride, acc),
    }
}
