//! AVX-512 kernels for f32, f16 and bf16 weights: tiles of up to 4 x 16 rows.
//!
//! The key decision: as in the AVX2 twin one tile serves weight matrices, attention scores and
//! attention values, "16 lanes, columns in order, one fused multiply-add each". A tile takes several
//! panels at once: with one column that hides the latency of the chain of sums, with many it halves
//! the loads. Halves are widened once when many columns follow.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use crate::DType;
use crate::layout::PANEL;
use crate::matmul::Lanes;

/// Columns of weights widened at once: two panels of them fill half of the first-level cache.
const BLOCK: usize = 256;

/// How far ahead weights are fetched.
const AHEAD: usize = 4096;

/// Sixteen weights as floats.
trait Element: Copy {
    unsafe fn load(p: *const Self) -> __m512;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: the caller gives 16 readable floats and AVX-512.
        unsafe { _mm512_loadu_ps(p) }
    }
}

impl Element for half::f16 {
    #[inline(always)]
    unsafe fn load(p: *const half::f16) -> __m512 {
        // SAFETY: the caller gives 16 readable halves and AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
}

impl Element for half::bf16 {
    #[inline(always)]
    unsafe fn load(p: *const half::bf16) -> __m512 {
        // SAFETY: the caller gives 16 readable bf16 and AVX-512.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}

/// Weights as a tile walks them: elements from a column to the next and from a panel to the next.
#[derive(Clone, Copy)]
struct Weights<T> {
    start: *const T,
    stride: usize,
    panel: usize,
    length: usize,
}

/// Activations and sums: floats from a column to the next, and from a panel's sums to the next's.
#[derive(Clone, Copy)]
struct Sums {
    x: *const f32,
    x_stride: usize,
    acc: *mut f32,
    panel: usize,
}

impl Sums {
    fn from(self, c: usize) -> Sums {
        Sums {
            x: self.x.wrapping_add(c * self.x_stride),
            acc: self.acc.wrapping_add(c * PANEL),
            ..self
        }
    }
}

/// `acc[r][c] = fma(w[r][k], x[c][k], acc[r][c])` for `k` in order, all sums in registers.
///
/// # Safety
/// The processor has AVX-512; the entry point checked the lengths.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const R: usize, const C: usize, T: Element>(w: Weights<T>, s: Sums) {
    // SAFETY: as the contract says.
    unsafe {
        let mut sum = [[_mm512_setzero_ps(); R]; C];
        for c in 0..C {
            for r in 0..R {
                sum[c][r] = _mm512_loadu_ps(s.acc.add(r * s.panel + c * PANEL));
            }
        }
        for k in 0..w.length {
            let at = w.start.add(k * w.stride);
            let mut v = [_mm512_setzero_ps(); R];
            for r in 0..R {
                let at = at.add(r * w.panel);
                if C <= 8 {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_byte_add(AHEAD).cast());
                }
                v[r] = T::load(at);
            }
            for c in 0..C {
                let x = _mm512_set1_ps(*s.x.add(c * s.x_stride + k));
                for r in 0..R {
                    sum[c][r] = _mm512_fmadd_ps(v[r], x, sum[c][r]);
                }
            }
        }
        for c in 0..C {
            for r in 0..R {
                _mm512_storeu_ps(s.acc.add(r * s.panel + c * PANEL), sum[c][r]);
            }
        }
    }
}

/// All columns, `R` panels: twelve columns at a time, so 24 sums with two panels.
unsafe fn columns<const R: usize, T: Element>(w: Weights<T>, s: Sums, count: usize) {
    let mut c = 0;
    while c < count {
        let (s, left) = (s.from(c), count - c);
        // Leftovers of a tile that is not full are split evenly.
        let now = if left <= 12 {
            left
        } else if left < 24 {
            left.div_ceil(2)
        } else {
            12
        };
        // SAFETY: as `tile`.
        unsafe {
            match now {
                1 => tile::<R, 1, T>(w, s),
                2 => tile::<R, 2, T>(w, s),
                3 => tile::<R, 3, T>(w, s),
                4 => tile::<R, 4, T>(w, s),
                5 => tile::<R, 5, T>(w, s),
                6 => tile::<R, 6, T>(w, s),
                7 => tile::<R, 7, T>(w, s),
                8 => tile::<R, 8, T>(w, s),
                9 => tile::<R, 9, T>(w, s),
                10 => tile::<R, 10, T>(w, s),
                11 => tile::<R, 11, T>(w, s),
                _ => tile::<R, 12, T>(w, s),
            }
        }
        c += now;
    }
}

/// Half-precision weights: widened once for many columns, on the fly for few.
///
/// # Safety
/// As `tile`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn widened<const R: usize, T: Element>(w: Weights<T>, s: Sums, count: usize) {
    // SAFETY: as `tile`; the buffer holds R x BLOCK x 16 floats.
    unsafe {
        let mut wide = MaybeUninit::<[[f32; BLOCK * PANEL]; R]>::uninit();
        let start = wide.as_mut_ptr().cast::<f32>();
        for first in (0..w.length).step_by(BLOCK) {
            let part = BLOCK.min(w.length - first);
            for r in 0..R {
                for k in 0..part {
                    let from = w.start.add((first + k) * w.stride + r * w.panel);
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_byte_add(AHEAD).cast());
                    _mm512_storeu_ps(start.add((r * BLOCK + k) * PANEL), T::load(from));
                }
            }
            let start = start.cast_const();
            let w = Weights { start, stride: PANEL, panel: BLOCK * PANEL, length: part };
            let s = Sums { x: s.x.add(first), ..s };
            columns::<R, f32>(w, s, count);
        }
    }
}

/// # Safety
/// As `tile`.
unsafe fn run<T: Element>(w: Lanes<'_>, s: Sums, count: usize, narrow: bool) {
    let weights = Weights::<T> {
        start: w.data.as_ptr().cast(),
        stride: w.stride,
        panel: w.panel,
        length: w.length,
    };
    let mut r = 0;
    while r < w.panels {
        let weights = Weights { start: weights.start.wrapping_add(r * w.panel), ..weights };
        let s = Sums { acc: s.acc.wrapping_add(r * s.panel), ..s };
        let left = w.panels - r;
        // SAFETY: as `tile`.
        unsafe {
            match (count, left) {
                (13.., 2..) if narrow => widened::<2, T>(weights, s, count),
                (13.., 1) if narrow => widened::<1, T>(weights, s, count),
                (_, 1) => columns::<1, T>(weights, s, count),
                _ => columns::<2, T>(weights, s, count),
            }
        }
        r += left.min(2);
    }
}

/// Adds the panels of `w` times `(columns, x_stride)` activations onto `acc`, `(panels, columns, 16)`.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ and VNNI.
pub(super) unsafe fn dense(w: Lanes<'_>, x: &[f32], x_stride: usize, acc: &mut [f32]) {
    let count = acc.len() / (PANEL * w.panels);
    if w.length == 0 || count == 0 {
        return;
    }
    let elements = (w.panels - 1) * w.panel + (w.length - 1) * w.stride + PANEL;
    assert!(w.data.len() >= elements * w.dtype.block_bytes());
    assert!(x.len() >= (count - 1) * x_stride + w.length);
    let s = Sums { x: x.as_ptr(), x_stride, acc: acc.as_mut_ptr(), panel: count * PANEL };
    // SAFETY: the lengths were just checked; loads are unaligned ones.
    unsafe {
        match w.dtype {
            DType::F16 => run::<half::f16>(w, s, count, true),
            DType::BF16 => run::<half::bf16>(w, s, count, true),
            _ => run::<f32>(w, s, count, false),
        }
    }
}
