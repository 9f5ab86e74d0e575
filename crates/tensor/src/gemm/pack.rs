//! Copies into panels: element `(k, j)` of a panel of `W` columns lies at `k * W + j`, the next panel
//! [`apart`] floats behind.
//!
//! The key decision: a source whose columns lie side by side is copied row by row; one that lies along
//! k is transposed in registers, 8 x 8 at a time. Columns past the edge become zero.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::{LINE, Source};

/// How many rows ahead a source that is read row by row is fetched: its rows are too far apart and too
/// short for the hardware to see where the reading goes.
const AHEAD: usize = 12;

/// Floats from a panel of `k` rows of `W` columns to the next: a line more than it has, since panels whose
/// distance is a large power of two would collide in the caches.
pub(super) fn apart<const W: usize>(k: usize) -> usize {
    (k * W).next_multiple_of(LINE) + LINE
}

/// Packs `columns` columns into panels. Plain Rust.
///
/// # Safety
/// `from` has `k` rows and `columns` columns, `to` room for whole panels.
pub(super) unsafe fn plain<const W: usize>(from: Source, k: usize, columns: usize, to: *mut f32) {
    let whole = if from.column == 1 { columns - columns % W } else { 0 };
    // SAFETY: the caller's promise.
    unsafe {
        rows::<W>(from, k, whole, to);
        for at in (whole..columns).step_by(W) {
            one::<W>(from.at(0, at), k, (columns - at).min(W), to.add(at / W * apart::<W>(k)));
        }
    }
}

/// Whole panels of a source whose columns lie side by side.
#[inline(always)]
unsafe fn rows<const W: usize>(from: Source, k: usize, columns: usize, to: *mut f32) {
    for step in 0..k {
        let row = from.start.wrapping_add(step * from.row);
        for panel in 0..columns / W {
            let from_here = row.wrapping_add(panel * W);
            // Once a line.
            if panel * W % LINE < W {
                fetch(from_here.wrapping_add(AHEAD * from.row));
            }
            // SAFETY: as in `plain`.
            unsafe {
                let to = to.add(panel * apart::<W>(k) + step * W);
                std::ptr::copy_nonoverlapping(from_here, to, W);
            }
        }
    }
}

#[inline(always)]
fn fetch(_p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(_p.cast());
    }
}

/// One panel, element by element.
unsafe fn one<const W: usize>(from: Source, k: usize, columns: usize, to: *mut f32) {
    for step in 0..k {
        for j in 0..W {
            // SAFETY: as in `plain`.
            unsafe {
                let value = from.start.wrapping_add(step * from.row + j * from.column);
                *to.add(step * W + j) = if j < columns { *value } else { 0.0 };
            }
        }
    }
}

/// As [`plain`].
///
/// # Safety
/// As [`plain`], and the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2<const W: usize>(from: Source, k: usize, columns: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let whole = columns - columns % W;
        if from.column == 1 {
            rows::<W>(from, k, whole, to);
        } else {
            for at in (0..whole).step_by(W) {
                turn::<W>(from.at(0, at), k, to.add(at / W * apart::<W>(k)));
            }
        }
        if whole < columns {
            let to = to.add(whole / W * apart::<W>(k));
            one::<W>(from.at(0, whole), k, columns - whole, to);
        }
    }
}

/// One whole panel from a source that lies along k.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn turn<const W: usize>(from: Source, k: usize, to: *mut f32) {
    let whole = k - k % 8;
    // SAFETY: as in `plain`; each square of 8 steps lies inside.
    unsafe {
        for step in (0..whole).step_by(8) {
            for j in (0..W).step_by(8) {
                let width = if W - j < 8 { W - j } else { 8 };
                let mut rows = [_mm256_setzero_ps(); 8];
                for (r, row) in rows.iter_mut().enumerate().take(width) {
                    let at = from.start.add(step + (j + r) * from.column);
                    // The same place in the next panel.
                    fetch(at.wrapping_add(W * from.column));
                    *row = _mm256_loadu_ps(at);
                }
                for (r, row) in transposed(rows).into_iter().enumerate() {
                    store(row, to.add((step + r) * W + j), width);
                }
            }
        }
        one::<W>(from.at(whole, 0), k - whole, W, to.add(whole * W));
    }
}

/// The first `width` (6 or 8) floats.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(row: __m256, to: *mut f32, width: usize) {
    // SAFETY: the caller gives room for `width` floats.
    unsafe {
        if width == 8 {
            _mm256_storeu_ps(to, row);
        } else {
            _mm_storeu_ps(to, _mm256_castps256_ps128(row));
            _mm_storel_pd(to.add(4).cast(), _mm_castps_pd(_mm256_extractf128_ps::<1>(row)));
        }
    }
}

/// Rows become columns.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(r: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = [r[0]; 8];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    // Column c and c + 4 of rows 0..4 and of rows 4..8.
    let mut fours = [r[0]; 8];
    for half in 0..2 {
        let p = &pairs[4 * half..];
        fours[4 * half] = _mm256_shuffle_ps::<0x44>(p[0], p[2]);
        fours[4 * half + 1] = _mm256_shuffle_ps::<0xee>(p[0], p[2]);
        fours[4 * half + 2] = _mm256_shuffle_ps::<0x44>(p[1], p[3]);
        fours[4 * half + 3] = _mm256_shuffle_ps::<0xee>(p[1], p[3]);
    }
    let mut columns = [r[0]; 8];
    for c in 0..4 {
        columns[c] = _mm256_permute2f128_ps::<0x20>(fours[c], fours[4 + c]);
        columns[4 + c] = _mm256_permute2f128_ps::<0x31>(fours[c], fours[4 + c]);
    }
    columns
}
