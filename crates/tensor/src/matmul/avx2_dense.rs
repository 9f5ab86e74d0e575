//! AVX2 kernels for f32, f16 and bf16 weights: tiles of 16 rows x up to 6 columns.
//!
//! The key decision: one tile serves weight matrices, attention scores (16 positions x queries) and
//! attention values (16 elements of a head x queries): all are "16 lanes, columns in order, one fused
//! multiply-add each". Twelve accumulators, two weights and two broadcasts fill the 16 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::DType;
use crate::layout::PANEL;

/// Columns of half-precision weights converted at once when many activations follow.
const BLOCK: usize = 256;

/// Sixteen weights as floats.
trait Element: Copy {
    unsafe fn load(p: *const Self) -> [__m256; 2];
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [__m256; 2] {
        // SAFETY: the caller gives 16 readable floats and AVX2.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
}

impl Element for half::f16 {
    #[inline(always)]
    unsafe fn load(p: *const half::f16) -> [__m256; 2] {
        // SAFETY: the caller gives 16 readable halves, AVX2 and F16C.
        unsafe {
            let p: *const __m128i = p.cast();
            [_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))]
        }
    }
}

impl Element for half::bf16 {
    #[inline(always)]
    unsafe fn load(p: *const half::bf16) -> [__m256; 2] {
        // SAFETY: the caller gives 16 readable bf16 and AVX2.
        unsafe {
            let p: *const __m128i = p.cast();
            [0, 1].map(|i| {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(i)));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            })
        }
    }
}

/// `acc[c] = fma(w[k], x[c][k], acc[c])` for `k` in order, `C` columns in registers.
#[inline(always)]
unsafe fn tile<const C: usize, T: Element>(
    w: (*const T, usize, usize),
    x: (*const f32, usize),
    acc: *mut f32,
) {
    // SAFETY: the entry point checked the lengths.
    unsafe {
        let (w, stride, length) = w;
        let (x, x_stride) = x;
        let mut sum = [[_mm256_setzero_ps(); 2]; C];
        for c in 0..C {
            sum[c] = [_mm256_loadu_ps(acc.add(c * PANEL)), _mm256_loadu_ps(acc.add(c * PANEL + 8))];
        }
        for k in 0..length {
            let at = w.add(k * stride);
            if C <= 2 {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_byte_add(4096).cast());
            }
            let [low, high] = T::load(at);
            for c in 0..C {
                let v = _mm256_set1_ps(*x.add(c * x_stride + k));
                sum[c] = [_mm256_fmadd_ps(low, v, sum[c][0]), _mm256_fmadd_ps(high, v, sum[c][1])];
            }
        }
        for c in 0..C {
            _mm256_storeu_ps(acc.add(c * PANEL), sum[c][0]);
            _mm256_storeu_ps(acc.add(c * PANEL + 8), sum[c][1]);
        }
    }
}

/// All columns, six at a time.
#[inline(always)]
unsafe fn columns<T: Element>(
    w: (*const T, usize, usize),
    x: (*const f32, usize),
    columns: usize,
    acc: *mut f32,
) {
    // SAFETY: as `tile`.
    unsafe {
        let mut c = 0;
        while c < columns {
            let x = (x.0.add(c * x.1), x.1);
            let acc = acc.add(c * PANEL);
            match columns - c {
                1 => tile::<1, T>(w, x, acc),
                2 => tile::<2, T>(w, x, acc),
                3 => tile::<3, T>(w, x, acc),
                4 => tile::<4, T>(w, x, acc),
                5 => tile::<5, T>(w, x, acc),
                _ => tile::<6, T>(w, x, acc),
            }
            c += 6.min(columns - c);
        }
    }
}

/// Half-precision weights: converted once for many columns, on the fly for few.
#[inline(always)]
unsafe fn narrow<T: Element>(
    w: (*const T, usize, usize),
    x: (*const f32, usize),
    count: usize,
    acc: *mut f32,
) {
    // SAFETY: as `tile`; the buffer holds BLOCK x 16 floats.
    unsafe {
        if count <= 12 {
            return columns(w, x, count, acc);
        }
        let mut wide = [0f32; BLOCK * PANEL];
        let (from, stride, length) = w;
        for first in (0..length).step_by(BLOCK) {
            let part = BLOCK.min(length - first);
            for k in 0..part {
                let [low, high] = T::load(from.add((first + k) * stride));
                _mm256_storeu_ps(wide.as_mut_ptr().add(k * PANEL), low);
                _mm256_storeu_ps(wide.as_mut_ptr().add(k * PANEL + 8), high);
            }
            columns((wide.as_ptr(), PANEL, part), (x.0.add(first), x.1), count, acc);
        }
    }
}

/// Adds `length` columns of 16 dense elements, `stride` elements apart, times `(columns, x_stride)`
/// activations onto `acc`, `(columns, 16)`.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `weights` holds `(length - 1) * stride + 16` elements, `x`
/// holds `(columns - 1) * x_stride + length`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn dense(
    dtype: DType,
    weights: &[u8],
    stride: usize,
    length: usize,
    x: &[f32],
    x_stride: usize,
    acc: &mut [f32],
) {
    let count = acc.len() / PANEL;
    if length == 0 || count == 0 {
        return;
    }
    assert!(weights.len() >= ((length - 1) * stride + PANEL) * dtype.block_bytes());
    assert!(x.len() >= (count - 1) * x_stride + length);
    let (w, x, acc) = (weights.as_ptr(), (x.as_ptr(), x_stride), acc.as_mut_ptr());
    // SAFETY: the lengths were just checked; loads are unaligned ones.
    unsafe {
        match dtype {
            DType::F16 => narrow((w.cast::<half::f16>(), stride, length), x, count, acc),
            DType::BF16 => narrow((w.cast::<half::bf16>(), stride, length), x, count, acc),
            _ => columns((w.cast::<f32>(), stride, length), x, count, acc),
        }
    }
}
