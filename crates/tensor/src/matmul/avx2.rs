//! AVX2 kernels: 8 rows in 8 lanes, two halves to a panel.
//!
//! The key decision: a sub-block of weights (8 rows x 32 columns) is unpacked once into eight
//! registers and stays there while the loop walks all columns of the chunk. `vpmaddubsw` products
//! are summed in 16 bits: an accumulator pair starts at `-zero * (sum of its activations)`, wraps
//! freely on the way and ends inside 16 bits, so the zero point costs one addition. 8-bit weights do
//! not fit that: they take the sign route (`|w| * sign(x, w)`), widened at once.
//!
//! `Set::Avx2` proves the features; every helper is `inline(always)` into the entry points at the
//! end, which carry them.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::DType;
use crate::activations::ChunkView;
use crate::layout::{Layout, PANEL, SUB};
use crate::matmul::scalar::IQ4_LEVELS;

/// How far ahead of the kernel weights are fetched: across the next 4 KiB page, where the hardware
/// prefetcher stops.
const AHEAD: usize = 4096;

type Regs = [__m256i; 8];

#[inline(always)]
unsafe fn load(p: *const u8) -> __m256i {
    // SAFETY: the caller gives 32 readable bytes.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

#[inline(always)]
unsafe fn broadcast(p: *const i8) -> __m256i {
    // SAFETY: the caller gives 4 readable bytes.
    unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
}

/// 8 halves as floats.
#[inline(always)]
unsafe fn halves(p: *const u8) -> __m256 {
    // SAFETY: the caller gives 16 readable bytes and AVX2 with F16C.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
}

/// Where the quants of a sub-block come from: `LOW` bits and `HIGH` bits.
struct Planes<const LOW: usize, const HIGH: usize>;

impl<const LOW: usize, const HIGH: usize> Planes<LOW, HIGH> {
    const BYTES: usize = 64 * (LOW + HIGH);

    /// Group `g` in register `g`: byte `4 * row + i` is column `4 * g + i`, unsigned.
    #[inline(always)]
    unsafe fn unpack(sub: *const u8, half: usize) -> Regs {
        // SAFETY: the caller gives a whole sub-block; all offsets are inside its planes.
        unsafe {
            let plane = |i: usize| load(sub.add(i * 64 + half * 32));
            let mut w = [_mm256_setzero_si256(); 8];
            if LOW == 4 {
                let mask = _mm256_set1_epi8(15);
                for j in 0..4 {
                    let raw = plane(j);
                    w[j] = _mm256_and_si256(raw, mask);
                    w[j + 4] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), mask);
                }
            } else {
                let mask = _mm256_set1_epi8(3);
                for j in 0..2 {
                    let raw = plane(j);
                    w[j * 4] = _mm256_and_si256(raw, mask);
                    w[j * 4 + 1] = _mm256_and_si256(_mm256_srli_epi16(raw, 2), mask);
                    w[j * 4 + 2] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), mask);
                    w[j * 4 + 3] = _mm256_and_si256(_mm256_srli_epi16(raw, 6), mask);
                }
            }
            if HIGH == 1 {
                let raw = plane(LOW);
                let bit = _mm256_set1_epi8(1 << LOW);
                // Bit g moves to bit LOW: 16-bit shifts, then the mask drops the neighbour's bits.
                w[0] = _mm256_or_si256(w[0], _mm256_and_si256(shift::<LOW, 0>(raw), bit));
                w[1] = _mm256_or_si256(w[1], _mm256_and_si256(shift::<LOW, 1>(raw), bit));
                w[2] = _mm256_or_si256(w[2], _mm256_and_si256(shift::<LOW, 2>(raw), bit));
                w[3] = _mm256_or_si256(w[3], _mm256_and_si256(shift::<LOW, 3>(raw), bit));
                w[4] = _mm256_or_si256(w[4], _mm256_and_si256(shift::<LOW, 4>(raw), bit));
                w[5] = _mm256_or_si256(w[5], _mm256_and_si256(shift::<LOW, 5>(raw), bit));
                w[6] = _mm256_or_si256(w[6], _mm256_and_si256(shift::<LOW, 6>(raw), bit));
                w[7] = _mm256_or_si256(w[7], _mm256_and_si256(shift::<LOW, 7>(raw), bit));
            } else if HIGH == 2 {
                let bits = _mm256_set1_epi8(48);
                for j in 0..2 {
                    let raw = plane(LOW + j);
                    let parts = [
                        _mm256_slli_epi16(raw, 4),
                        _mm256_slli_epi16(raw, 2),
                        raw,
                        _mm256_srli_epi16(raw, 2),
                    ];
                    for (i, part) in parts.into_iter().enumerate() {
                        w[j * 4 + i] = _mm256_or_si256(w[j * 4 + i], _mm256_and_si256(part, bits));
                    }
                }
            }
            w
        }
    }
}

/// Moves bit `FROM` of every byte to bit `TO` (other bits are garbage).
#[inline(always)]
unsafe fn shift<const TO: usize, const FROM: usize>(raw: __m256i) -> __m256i {
    // SAFETY: arithmetic only; the caller has AVX2.
    unsafe {
        if FROM <= TO {
            _mm256_sll_epi16(raw, _mm_cvtsi32_si128((TO - FROM) as i32))
        } else {
            _mm256_srl_epi16(raw, _mm_cvtsi32_si128((FROM - TO) as i32))
        }
    }
}

/// Sum of `vpmaddubsw` over groups `FROM..TO`, onto `start`, in 16 bits.
#[inline(always)]
unsafe fn dot16<const FROM: usize, const TO: usize>(
    w: &Regs,
    x: *const i8,
    start: __m256i,
) -> __m256i {
    // SAFETY: the caller gives 32 readable activations and AVX2.
    unsafe {
        let mut even = start;
        let mut odd = _mm256_setzero_si256();
        let mut g = FROM;
        while g < TO {
            even = _mm256_add_epi16(even, _mm256_maddubs_epi16(w[g], broadcast(x.add(4 * g))));
            let other = _mm256_maddubs_epi16(w[g + 1], broadcast(x.add(4 * g + 4)));
            odd = if g == FROM { other } else { _mm256_add_epi16(odd, other) };
            g += 2;
        }
        _mm256_add_epi16(even, odd)
    }
}

/// A chunk as raw pointers: the loops below index it without bounds checks.
#[derive(Clone, Copy)]
struct X {
    columns: usize,
    quants: *const i8,
    scales: *const f32,
    offsets: *const u32,
    sums: *const u32,
}

/// `acc[half] = fma(d * dx, dot, acc[half])`.
#[inline(always)]
unsafe fn accumulate(acc: *mut f32, d: __m256, dx: f32, dot: __m256i) {
    // SAFETY: the caller gives 8 writable floats and AVX2.
    unsafe {
        let scale = _mm256_mul_ps(d, _mm256_set1_ps(dx));
        let sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot), _mm256_loadu_ps(acc));
        _mm256_storeu_ps(acc, sum);
    }
}

/// Scheme `Block`, unsigned quants: Q4_0, Q4_1, Q5_0, Q5_1.
#[inline(always)]
unsafe fn short<const HIGH: usize, const MINIMA: bool>(
    panel: *const u8,
    blocks: usize,
    x: X,
    acc: *mut f32,
) {
    // SAFETY: the entry point checked that panel, chunk and accumulators are as long as the layout says.
    unsafe {
        let header = if MINIMA { 64 } else { 32 };
        let bytes = header + Planes::<4, HIGH>::BYTES;
        let ones = _mm256_set1_epi16(1);
        for b in 0..blocks {
            let block = panel.add(b * bytes);
            prefetch(block, bytes);
            for half in 0..2 {
                let w = Planes::<4, HIGH>::unpack(block.add(header), half);
                let d = halves(block.add(16 * half));
                let m = if MINIMA { halves(block.add(32 + 16 * half)) } else { d };
                for c in 0..x.columns {
                    let at = b * x.columns + c;
                    let q = x.quants.add(at * SUB);
                    let acc = acc.add(c * PANEL + 8 * half);
                    let dot = if MINIMA {
                        wide_dot::<HIGH>(&w, q, ones)
                    } else {
                        let start = _mm256_set1_epi32(*x.offsets.add(at) as i32);
                        _mm256_madd_epi16(dot16::<0, 8>(&w, q, start), ones)
                    };
                    accumulate(acc, d, *x.scales.add(at), dot);
                    if MINIMA {
                        let s = _mm256_set1_ps(f32::from_bits(*x.sums.add(at)));
                        _mm256_storeu_ps(acc, _mm256_fmadd_ps(m, s, _mm256_loadu_ps(acc)));
                    }
                }
            }
        }
    }
}

/// A dot without zero point: 5-bit quants overflow 16 bits over 32 columns, so they are cut in two.
#[inline(always)]
unsafe fn wide_dot<const HIGH: usize>(w: &Regs, q: *const i8, scale: __m256i) -> __m256i {
    // SAFETY: as `dot16`.
    unsafe {
        let zero = _mm256_setzero_si256();
        if HIGH == 0 {
            return _mm256_madd_epi16(dot16::<0, 8>(w, q, zero), scale);
        }
        let low = _mm256_madd_epi16(dot16::<0, 4>(w, q, zero), scale);
        _mm256_add_epi32(low, _mm256_madd_epi16(dot16::<4, 8>(w, q, zero), scale))
    }
}

/// Scheme `Block`, signed bytes: Q8_0, and IQ4_NL through a look-up.
#[inline(always)]
unsafe fn signed<const LOOKUP: bool>(panel: *const u8, blocks: usize, x: X, acc: *mut f32) {
    // SAFETY: as `short`.
    unsafe {
        let bytes = 32 + if LOOKUP { 256 } else { 512 };
        let ones = _mm256_set1_epi16(1);
        let levels = _mm256_broadcastsi128_si256(_mm_loadu_si128(IQ4_LEVELS.as_ptr().cast()));
        for b in 0..blocks {
            let block = panel.add(b * bytes);
            prefetch(block, bytes);
            for half in 0..2 {
                let w: Regs = if LOOKUP {
                    Planes::<4, 0>::unpack(block.add(32), half)
                        .map(|q| _mm256_shuffle_epi8(levels, q))
                } else {
                    std::array::from_fn(|g| load(block.add(32 + g * 64 + half * 32)))
                };
                let size = w.map(|q| _mm256_abs_epi8(q));
                let d = halves(block.add(16 * half));
                for c in 0..x.columns {
                    let at = b * x.columns + c;
                    let q = x.quants.add(at * SUB);
                    let mut dot = _mm256_setzero_si256();
                    for g in 0..8 {
                        let signed = _mm256_sign_epi8(broadcast(q.add(4 * g)), w[g]);
                        let pairs = _mm256_maddubs_epi16(size[g], signed);
                        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
                    }
                    accumulate(acc.add(c * PANEL + 8 * half), d, *x.scales.add(at), dot);
                }
            }
        }
    }
}

/// Eight bytes as eight (v, v) pairs of i16, unsigned or signed.
#[inline(always)]
unsafe fn scale_pairs<const SIGNED: bool>(p: *const u8) -> __m256i {
    // SAFETY: the caller gives 8 readable bytes and AVX2.
    unsafe {
        let bytes = _mm_loadl_epi64(p.cast());
        let wide = if SIGNED { _mm256_cvtepi8_epi32(bytes) } else { _mm256_cvtepu8_epi32(bytes) };
        _mm256_blend_epi16::<0xAA>(wide, _mm256_slli_epi32::<16>(wide))
    }
}

/// Super-blocks: Q4_K, Q5_K (`PARTS` = 1 scale a sub-block), Q6_K, Q3_K, Q2_K (`PARTS` = 2).
#[inline(always)]
unsafe fn super_blocks<
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
    // SAFETY: as `short`; `totals` holds 8 lanes for each of at most CHUNK columns.
    unsafe {
        let scales_at = if MINIMA { 64 } else { 32 };
        let minima_at = scales_at + 8 * PARTS * PANEL;
        let header = minima_at + if MINIMA { 8 * PARTS * PANEL } else { 0 };
        let bytes = header + 8 * Planes::<LOW, HIGH>::BYTES;
        let mut totals = [_mm256_setzero_si256(); crate::activations::CHUNK];
        for b in 0..blocks {
            let block = panel.add(b * bytes);
            prefetch(block, bytes);
            for half in 0..2 {
                for s in 0..8 {
                    let sub = block.add(header + s * Planes::<LOW, HIGH>::BYTES);
                    let w = Planes::<LOW, HIGH>::unpack(sub, half);
                    let scale = block.add(scales_at + s * PARTS * PANEL + 8 * half);
                    let first = (b * 8 + s) * x.columns;
                    let place = (first, s == 0);
                    part::<LOW, HIGH, PARTS, MINIMA>(&w, scale, x, place, &mut totals);
                }
                let d = halves(block.add(16 * half));
                for c in 0..x.columns {
                    let to = acc.add(c * PANEL + 8 * half);
                    accumulate(to, d, *x.scales.add(b * x.columns + c), totals[c]);
                }
                if MINIMA {
                    minima::<PARTS>(block, minima_at, half, (b, x), acc);
                }
            }
        }
    }
}

/// One sub-block against all columns: `totals += scale * dot`.
#[inline(always)]
unsafe fn part<const LOW: usize, const HIGH: usize, const PARTS: usize, const MINIMA: bool>(
    w: &Regs,
    scale: *const u8,
    x: X,
    (first, fresh): (usize, bool),
    totals: &mut [__m256i; crate::activations::CHUNK],
) {
    // SAFETY: as `short`.
    unsafe {
        let zero = _mm256_setzero_si256();
        let one = if MINIMA { scale_pairs::<false>(scale) } else { scale_pairs::<true>(scale) };
        let two = match (PARTS, MINIMA) {
            (1, _) => one,
            (_, true) => scale_pairs::<false>(scale.add(PANEL)),
            _ => scale_pairs::<true>(scale.add(PANEL)),
        };
        for c in 0..x.columns {
            let q = x.quants.add((first + c) * SUB);
            let dot = if PARTS == 1 {
                wide_dot::<HIGH>(w, q, one)
            } else {
                let mut starts = [zero; 2];
                if !MINIMA {
                    for (i, start) in starts.iter_mut().enumerate() {
                        let at = first * 2 + i * x.columns + c;
                        *start = _mm256_set1_epi32(*x.offsets.add(at) as i32);
                    }
                }
                let low = _mm256_madd_epi16(dot16::<0, 4>(w, q, starts[0]), one);
                let high = _mm256_madd_epi16(dot16::<4, 8>(w, q, starts[1]), two);
                _mm256_add_epi32(low, high)
            };
            totals[c] = if fresh { dot } else { _mm256_add_epi32(totals[c], dot) };
        }
    }
}

/// `acc = fma(-(dmin * dx), Σ min * sum, acc)` for all columns.
#[inline(always)]
unsafe fn minima<const PARTS: usize>(
    block: *const u8,
    minima_at: usize,
    half: usize,
    (b, x): (usize, X),
    acc: *mut f32,
) {
    // SAFETY: as `short`.
    unsafe {
        let words = 4 * PARTS;
        let mut m = [_mm256_setzero_si256(); 8];
        for (w, m) in m.iter_mut().take(words).enumerate() {
            let bytes = block.add(minima_at + (w * PANEL + 8 * half) * 2);
            *m = _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.cast()));
        }
        let dmin = halves(block.add(32 + 16 * half));
        for c in 0..x.columns {
            let at = b * x.columns + c;
            let mut total = _mm256_setzero_si256();
            for (w, &m) in m.iter().take(words).enumerate() {
                let sums = _mm256_set1_epi32(*x.sums.add(at * words + w) as i32);
                total = _mm256_add_epi32(total, _mm256_madd_epi16(m, sums));
            }
            let acc = acc.add(c * PANEL + 8 * half);
            let scale = _mm256_mul_ps(dmin, _mm256_set1_ps(*x.scales.add(at)));
            let sum = _mm256_fnmadd_ps(scale, _mm256_cvtepi32_ps(total), _mm256_loadu_ps(acc));
            _mm256_storeu_ps(acc, sum);
        }
    }
}

#[inline(always)]
unsafe fn prefetch(block: *const u8, bytes: usize) {
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

/// Adds one panel times one chunk onto `acc`, `(columns, 16)`.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `panel` is whole blocks of `layout`, `x` holds as many
/// blocks, and `acc` is `x.columns * 16` long.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn panel(layout: &Layout, panel: &[u8], x: &ChunkView<'_>, acc: &mut [f32]) {
    let blocks = panel.len() / layout.block_bytes();
    assert!(acc.len() == x.columns * PANEL && x.columns <= crate::activations::CHUNK);
    assert_eq!(x.quants.len(), blocks * layout.block_columns() * x.columns);
    let (p, acc) = (panel.as_ptr(), acc.as_mut_ptr());
    let x = X {
        columns: x.columns,
        quants: x.quants.as_ptr(),
        scales: x.scales.as_ptr(),
        offsets: x.offsets.as_ptr(),
        sums: x.sums.as_ptr(),
    };
    // SAFETY: the lengths were checked; the chunk's other arrays are cut by the same counts.
    unsafe {
        match layout.dtype {
            DType::Q8_0 => signed::<false>(p, blocks, x, acc),
            DType::IQ4_NL => signed::<true>(p, blocks, x, acc),
            DType::Q4_0 => short::<0, false>(p, blocks, x, acc),
            DType::Q5_0 => short::<1, false>(p, blocks, x, acc),
            DType::Q4_1 => short::<0, true>(p, blocks, x, acc),
            DType::Q5_1 => short::<1, true>(p, blocks, x, acc),
            DType::Q4_K => super_blocks::<4, 0, 1, true>(p, blocks, x, acc),
            DType::Q5_K => super_blocks::<4, 1, 1, true>(p, blocks, x, acc),
            DType::Q6_K => super_blocks::<4, 2, 2, false>(p, blocks, x, acc),
            DType::Q3_K => super_blocks::<2, 1, 2, false>(p, blocks, x, acc),
            DType::Q2_K => super_blocks::<2, 0, 2, true>(p, blocks, x, acc),
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("dense types have `dense`"),
        }
    }
}
