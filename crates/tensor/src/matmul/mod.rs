//! Products of panels of weights with activations: the one place where an instruction set is chosen.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_dense;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_dense;
#[cfg(target_arch = "x86_64")]
mod avx512_tile;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod scalar;

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::DType;
use crate::activations::{Activations, CHUNK};
use crate::isa::{Isa, Set};
use crate::layout::{Layout, PANEL};

/// Panels that kernels work on at once, at most.
pub(crate) const STRIP: usize = 2;

/// Below this many columns two panels are not worth unpacking.
#[cfg(target_arch = "x86_64")]
const UNPACKED: usize = 96;

/// One or two panels of quantized weights, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) panels: usize,
    pub(crate) weights: &'a [u8],
}

/// Adds a strip times the columns of some chunks onto `acc`, `(panels, columns, 16)`.
#[allow(unsafe_code)]
pub(crate) fn strip(
    isa: Isa,
    strip: Strip<'_>,
    x: &Activations,
    chunks: Range<usize>,
    acc: &mut [f32],
) {
    let Strip { layout, panels, weights } = strip;
    let stride = acc.len() / panels;
    assert_eq!(stride, PANEL * (x.columns().min(chunks.end * CHUNK) - chunks.start * CHUNK));
    let bytes = weights.len() / panels;
    #[cfg(target_arch = "x86_64")]
    if isa.set() == Set::Avx512 && panels == STRIP && stride >= UNPACKED * PANEL {
        // SAFETY: holding the `Isa` proves the features; the kernel checks the lengths.
        return unsafe { avx512_tile::pair(layout, weights, x, chunks, acc) };
    }
    for (weights, acc) in weights.chunks_exact(bytes).zip(acc.chunks_exact_mut(stride)) {
        for (chunk, acc) in chunks.clone().zip(acc.chunks_mut(CHUNK * PANEL)) {
            let x = x.chunk(chunk);
            match isa.set() {
                Set::Scalar => scalar::panel(layout, weights, &x, acc),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Set::Avx2 => unsafe { avx2::panel(layout, weights, &x, acc) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Set::Avx512 => unsafe { avx512::panel(layout, weights, &x, acc) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: as above.
                Set::Neon => unsafe { neon::panel(layout, weights, &x, acc) },
            }
        }
    }
}

/// Panels of 16 lanes of dense weights.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<'a> {
    /// `F32`, `F16` or `BF16`.
    pub(crate) dtype: DType,
    /// `((panels - 1) * panel + (length - 1) * stride + 16)` elements.
    pub(crate) data: &'a [u8],
    /// Elements from one column to the next.
    pub(crate) stride: usize,
    /// Columns.
    pub(crate) length: usize,
    /// Elements from one panel to the next.
    pub(crate) panel: usize,
    /// Panels.
    pub(crate) panels: usize,
}

/// Adds dense lanes times `(columns, x_stride)` activations onto `acc`, `(panels, columns, 16)`.
#[allow(unsafe_code)]
pub(crate) fn dense(isa: Isa, w: Lanes<'_>, x: &[f32], x_stride: usize, acc: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if isa.set() == Set::Avx512 {
        // SAFETY: holding the `Isa` proves the features; the kernel checks the lengths.
        return unsafe { avx512_dense::dense(w, x, x_stride, acc) };
    }
    #[cfg(target_arch = "aarch64")]
    if isa.set() == Set::Neon {
        // SAFETY: as above.
        return unsafe { neon::dense(w, x, x_stride, acc) };
    }
    let Lanes { dtype, stride, length, .. } = w;
    let size = dtype.block_bytes();
    let each = acc.len() / w.panels;
    for (r, acc) in acc.chunks_exact_mut(each).enumerate() {
        let data = &w.data[r * w.panel * size..];
        match isa.set() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Set::Avx2 => unsafe {
                avx2_dense::dense(dtype, data, stride, length, x, x_stride, acc);
            },
            _ => scalar::dense(dtype, data, stride, length, x, x_stride, acc),
        }
    }
}
