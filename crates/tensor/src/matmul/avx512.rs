//! AVX-512 kernels for quantized weights: 16 rows in the 16 lanes of a register, `vpdpbusd`.
//!
//! The key decision: a sub-block of a panel is unpacked into eight registers of unsigned bytes, and an
//! integer dot starts at `-zero * (sum of its activations)` instead of at nothing, so zero points and
//! the signs of 8-bit weights (stored + 128) are free. Few columns read a panel once, straight from
//! memory, with all sums in registers; many columns go through [`super::avx512_tile`].
//!
//! `Set::Avx512` proves the features; helpers are `inline(always)` into functions that carry them.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::DType;
use crate::activations::{ChunkView, Kind};
use crate::layout::{Layout, PANEL, SUB};
use crate::matmul::scalar::IQ4_LEVELS;

/// How far ahead of the kernel weights are fetched.
const AHEAD: usize = 4096;

/// Most columns whose sums stay in registers while a panel is read.
pub(super) const FEW: usize = 8;

pub(super) type Regs = [__m512i; 8];

/// 16 halves as floats.
#[inline(always)]
pub(super) unsafe fn halves(p: *const u8) -> __m512 {
    // SAFETY: the caller gives 32 readable bytes and AVX-512.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
}

/// 16 bytes as 16 integers.
#[inline(always)]
pub(super) unsafe fn scales<const SIGNED: bool>(p: *const u8) -> __m512i {
    // SAFETY: the caller gives 16 readable bytes and AVX-512.
    unsafe {
        let bytes = _mm_loadu_si128(p.cast());
        if SIGNED { _mm512_cvtepi8_epi32(bytes) } else { _mm512_cvtepu8_epi32(bytes) }
    }
}

/// Four activations in every lane.
#[inline(always)]
pub(super) unsafe fn broadcast(p: *const i8) -> __m512i {
    // SAFETY: the caller gives 4 readable bytes and AVX-512.
    unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
}

#[inline(always)]
unsafe fn plane(sub: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller gives a sub-block with that plane.
    unsafe { _mm512_loadu_si512(sub.add(i * 64).cast()) }
}

/// `(a & b) | c`.
#[inline(always)]
unsafe fn and_or(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    // SAFETY: arithmetic only; the caller has AVX-512.
    unsafe { _mm512_ternarylogic_epi32::<0xEA>(a, b, c) }
}

/// Moves bit `from` of every byte to bit `to` (other bits are garbage).
#[inline(always)]
unsafe fn shift(raw: __m512i, from: usize, to: usize) -> __m512i {
    // SAFETY: arithmetic only; the caller has AVX-512.
    unsafe {
        if from <= to {
            _mm512_sll_epi16(raw, _mm_cvtsi32_si128((to - from) as i32))
        } else {
            _mm512_srl_epi16(raw, _mm_cvtsi32_si128((from - to) as i32))
        }
    }
}

/// Group `g` of a sub-block in register `g`: byte `4 * row + i` is column `4 * g + i`, unsigned: 8-bit
/// weights and the levels of IQ4_NL (`TABLE`) plus 128.
#[inline(always)]
pub(super) unsafe fn unpack<const LOW: usize, const HIGH: usize, const TABLE: bool>(
    sub: *const u8,
) -> Regs {
    // SAFETY: the caller gives a whole sub-block; all planes are inside it.
    unsafe {
        let mut w = [_mm512_setzero_si512(); 8];
        if LOW == 8 {
            let sign = _mm512_set1_epi8(-128);
            for g in 0..8 {
                w[g] = _mm512_xor_si512(plane(sub, g), sign);
            }
        } else if LOW == 4 {
            let mask = _mm512_set1_epi8(15);
            for g in 0..4 {
                let raw = plane(sub, g);
                w[g] = _mm512_and_si512(raw, mask);
                w[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(raw), mask);
            }
        } else {
            let mask = _mm512_set1_epi8(3);
            for j in 0..2 {
                let raw = plane(sub, j);
                w[j * 4] = _mm512_and_si512(raw, mask);
                w[j * 4 + 1] = _mm512_and_si512(_mm512_srli_epi16::<2>(raw), mask);
                w[j * 4 + 2] = _mm512_and_si512(_mm512_srli_epi16::<4>(raw), mask);
                w[j * 4 + 3] = _mm512_and_si512(_mm512_srli_epi16::<6>(raw), mask);
            }
        }
        if HIGH == 1 {
            let (raw, bit) = (plane(sub, LOW), _mm512_set1_epi8(1 << (LOW & 7)));
            for g in 0..8 {
                w[g] = and_or(shift(raw, g, LOW), bit, w[g]);
            }
        } else if HIGH == 2 {
            let bits = _mm512_set1_epi8(3 << (LOW & 7));
            for j in 0..2 {
                let raw = plane(sub, LOW + j);
                for i in 0..4 {
                    w[j * 4 + i] = and_or(shift(raw, 2 * i, LOW), bits, w[j * 4 + i]);
                }
            }
        }
        if TABLE {
            let levels = _mm512_broadcast_i32x4(_mm_loadu_si128(IQ4_LEVELS.as_ptr().cast()));
            let levels = _mm512_xor_si512(levels, _mm512_set1_epi8(-128));
            for w in &mut w {
                *w = _mm512_shuffle_epi8(levels, *w);
            }
        }
        w
    }
}

/// A chunk as raw pointers: the loops below index it without bounds checks.
#[derive(Clone, Copy)]
pub(super) struct X {
    pub(super) width: usize,
    pub(super) quants: *const i8,
    pub(super) scales: *const f32,
    pub(super) starts: *const i32,
    pub(super) sums: *const u32,
}

impl X {
    pub(super) fn of(x: &ChunkView<'_>) -> X {
        X {
            width: x.columns,
            quants: x.quants.as_ptr(),
            scales: x.scales.as_ptr(),
            starts: x.starts.as_ptr(),
            sums: x.sums.as_ptr(),
        }
    }

    /// The same chunk seen from block `b`, for kernels without their own count of blocks.
    pub(super) fn at_block(self, layout: &Layout, b: usize) -> X {
        let kind = Kind::of(layout);
        let at = b * self.width;
        X {
            width: self.width,
            quants: self.quants.wrapping_add(at * kind.block()),
            scales: self.scales.wrapping_add(at),
            starts: self.starts.wrapping_add(at * (kind.block() / kind.group())),
            sums: self.sums.wrapping_add(at * kind.sum_words()),
        }
    }

    /// The same chunk seen from column `c`; `words`: sums of a block.
    pub(super) fn from(self, c: usize, words: usize) -> X {
        X {
            width: self.width,
            quants: self.quants.wrapping_add(c * SUB),
            scales: self.scales.wrapping_add(c),
            starts: self.starts.wrapping_add(c),
            sums: self.sums.wrapping_add(c * words),
        }
    }
}

#[inline(always)]
pub(super) unsafe fn prefetch(block: *const u8, bytes: usize) {
    // SAFETY: a prefetch never faults, whatever the address; the caller has SSE.
    unsafe {
        let ahead = block.wrapping_add(AHEAD);
        let mut at = 0;
        while at < bytes {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(at).cast());
            at += 64;
        }
    }
}

/// Groups `FROM..TO` of one column onto `start`.
#[inline(always)]
unsafe fn dot<const FROM: usize, const TO: usize>(
    w: &Regs,
    x: *const i8,
    start: __m512i,
) -> __m512i {
    // SAFETY: the caller gives 32 readable activations and AVX-512 with VNNI.
    unsafe {
        let mut sum = start;
        for g in FROM..TO {
            sum = _mm512_dpbusd_epi32(sum, w[g], broadcast(x.add(4 * g)));
        }
        sum
    }
}

/// Scheme `Block`, `C` columns.
///
/// # Safety
/// The processor has AVX-512; `panel` holds `blocks` blocks, `x` and `acc` at least `C` columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn short<
    const C: usize,
    const LOW: usize,
    const HIGH: usize,
    const TABLE: bool,
    const MINIMA: bool,
>(
    panel: *const u8,
    blocks: usize,
    x: X,
    acc: *mut f32,
) {
    // SAFETY: all offsets are inside the blocks and columns that the caller vouches for.
    unsafe {
        let header = if MINIMA { 64 } else { 32 };
        let bytes = header + 64 * (LOW + HIGH);
        let mut sum = [_mm512_setzero_ps(); C];
        for c in 0..C {
            sum[c] = _mm512_loadu_ps(acc.add(c * PANEL));
        }
        for b in 0..blocks {
            let block = panel.add(b * bytes);
            prefetch(block, bytes);
            let w = unpack::<LOW, HIGH, TABLE>(block.add(header));
            let d = halves(block);
            let at = b * x.width;
            for c in 0..C {
                let start = if MINIMA {
                    _mm512_setzero_si512()
                } else {
                    _mm512_set1_epi32(*x.starts.add(at + c))
                };
                let dot = dot::<0, 8>(&w, x.quants.add((at + c) * SUB), start);
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(*x.scales.add(at + c)));
                sum[c] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), sum[c]);
                if MINIMA {
                    let sums = _mm512_set1_ps(f32::from_bits(*x.sums.add(at + c)));
                    sum[c] = _mm512_fmadd_ps(halves(block.add(32)), sums, sum[c]);
                }
            }
        }
        for c in 0..C {
            _mm512_storeu_ps(acc.add(c * PANEL), sum[c]);
        }
    }
}

/// Super-blocks, `C` columns: Q4_K, Q5_K (`PARTS` = 1 scale a sub-block), Q6_K, Q3_K, Q2_K (2).
///
/// # Safety
/// As `short`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn long<
    const C: usize,
    const LOW: usize,
    const HIGH: usize,
    const PARTS: usize,
    const MINIMA: bool,
>(
    panel: *const u8,
    blocks: usize,
    x: X,
    acc: *mut f32,
) {
    // SAFETY: as `short`.
    unsafe {
        let scales_at = if MINIMA { 64 } else { 32 };
        let minima_at = scales_at + 8 * PARTS * PANEL;
        let header = minima_at + if MINIMA { 8 * PARTS * PANEL } else { 0 };
        let sub_bytes = 64 * (LOW + HIGH);
        for b in 0..blocks {
            let block = panel.add(b * (header + 8 * sub_bytes));
            prefetch(block, header);
            let mut total = [_mm512_setzero_si512(); C];
            for s in 0..8 {
                let sub = block.add(header + s * sub_bytes);
                prefetch(sub, sub_bytes);
                let w = unpack::<LOW, HIGH, false>(sub);
                let scale = block.add(scales_at + s * PARTS * PANEL);
                let one = if MINIMA { scales::<false>(scale) } else { scales::<true>(scale) };
                let at = (b * 8 + s) * x.width;
                if PARTS == 1 {
                    for c in 0..C {
                        let q = x.quants.add((at + c) * SUB);
                        let dot = dot::<0, 8>(&w, q, _mm512_setzero_si512());
                        total[c] = _mm512_add_epi32(total[c], _mm512_mullo_epi32(dot, one));
                    }
                    continue;
                }
                let scale = scale.add(PANEL);
                let two = if MINIMA { scales::<false>(scale) } else { scales::<true>(scale) };
                for c in 0..C {
                    let q = x.quants.add((at + c) * SUB);
                    let mut start = [_mm512_setzero_si512(); 2];
                    if !MINIMA {
                        start[0] = _mm512_set1_epi32(*x.starts.add(2 * at + c));
                        start[1] = _mm512_set1_epi32(*x.starts.add(2 * at + x.width + c));
                    }
                    let low = _mm512_mullo_epi32(dot::<0, 4>(&w, q, start[0]), one);
                    let high = _mm512_mullo_epi32(dot::<4, 8>(&w, q, start[1]), two);
                    total[c] = _mm512_add_epi32(total[c], _mm512_add_epi32(low, high));
                }
            }
            let d = halves(block);
            for c in 0..C {
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(*x.scales.add(b * x.width + c)));
                let to = acc.add(c * PANEL);
                let sum = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(total[c]), _mm512_loadu_ps(to));
                _mm512_storeu_ps(to, sum);
            }
            if MINIMA {
                minima::<C, PARTS>(block.add(32), block.add(minima_at), (b, x), acc);
            }
        }
    }
}

/// `acc = fma(-(dmin * dx), Σ min * sum, acc)` for `C` columns.
#[inline(always)]
unsafe fn minima<const C: usize, const PARTS: usize>(
    dmin: *const u8,
    minima: *const u8,
    (b, x): (usize, X),
    acc: *mut f32,
) {
    // SAFETY: as `short`.
    unsafe {
        let words = 4 * PARTS;
        let dmin = halves(dmin);
        let mut total = [_mm512_setzero_si512(); C];
        for w in 0..words {
            let m = _mm512_cvtepu8_epi16(_mm256_loadu_si256(minima.add(w * 2 * PANEL).cast()));
            for c in 0..C {
                let sums = _mm512_set1_epi32(*x.sums.add((b * x.width + c) * words + w) as i32);
                total[c] = _mm512_dpwssd_epi32(total[c], m, sums);
            }
        }
        for c in 0..C {
            let scale = _mm512_mul_ps(dmin, _mm512_set1_ps(*x.scales.add(b * x.width + c)));
            let to = acc.add(c * PANEL);
            let sum = _mm512_fnmadd_ps(scale, _mm512_cvtepi32_ps(total[c]), _mm512_loadu_ps(to));
            _mm512_storeu_ps(to, sum);
        }
    }
}

/// Calls a kernel with the number of columns as a constant, at most [`FEW`] at a time.
macro_rules! by_columns {
    ($kernel:ident<$($constant:literal),*>($panel:expr, $blocks:expr, $x:expr, $words:expr, $acc:expr)) => {{
        let (mut c, columns) = (0, $x.width);
        while c < columns {
            let (x, acc) = ($x.from(c, $words), $acc.add(c * PANEL));
            match columns - c {
                1 => $kernel::<1, $($constant),*>($panel, $blocks, x, acc),
                2 => $kernel::<2, $($constant),*>($panel, $blocks, x, acc),
                3 => $kernel::<3, $($constant),*>($panel, $blocks, x, acc),
                4 => $kernel::<4, $($constant),*>($panel, $blocks, x, acc),
                5 => $kernel::<5, $($constant),*>($panel, $blocks, x, acc),
                6 => $kernel::<6, $($constant),*>($panel, $blocks, x, acc),
                7 => $kernel::<7, $($constant),*>($panel, $blocks, x, acc),
                _ => $kernel::<8, $($constant),*>($panel, $blocks, x, acc),
            }
            c += FEW;
        }
    }};
}

/// Adds one panel times one chunk onto `acc`, `(columns, 16)`, straight from the packed weights.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ and VNNI.
pub(super) unsafe fn panel(layout: &Layout, panel: &[u8], x: &ChunkView<'_>, acc: &mut [f32]) {
    let blocks = panel.len() / layout.block_bytes();
    assert_eq!(acc.len(), x.columns * PANEL);
    assert_eq!(x.quants.len(), blocks * layout.block_columns() * x.columns);
    let (p, x, acc) = (panel.as_ptr(), X::of(x), acc.as_mut_ptr());
    // SAFETY: the lengths were checked; the chunk's other arrays are cut by the same counts.
    unsafe {
        match layout.dtype {
            DType::Q8_0 => by_columns!(short < 8, 0, false, false > (p, blocks, x, 0, acc)),
            DType::IQ4_NL => by_columns!(short < 4, 0, true, false > (p, blocks, x, 0, acc)),
            DType::Q4_0 => by_columns!(short < 4, 0, false, false > (p, blocks, x, 0, acc)),
            DType::Q5_0 => by_columns!(short < 4, 1, false, false > (p, blocks, x, 0, acc)),
            DType::Q4_1 => by_columns!(short < 4, 0, false, true > (p, blocks, x, 1, acc)),
            DType::Q5_1 => by_columns!(short < 4, 1, false, true > (p, blocks, x, 1, acc)),
            DType::Q4_K => by_columns!(long < 4, 0, 1, true > (p, blocks, x, 4, acc)),
            DType::Q5_K => by_columns!(long < 4, 1, 1, true > (p, blocks, x, 4, acc)),
            DType::Q6_K => by_columns!(long < 4, 2, 2, false > (p, blocks, x, 0, acc)),
            DType::Q3_K => by_columns!(long < 2, 1, 2, false > (p, blocks, x, 0, acc)),
            DType::Q2_K => by_columns!(long < 2, 0, 2, true > (p, blocks, x, 8, acc)),
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("dense types have `dense`"),
        }
    }
}
