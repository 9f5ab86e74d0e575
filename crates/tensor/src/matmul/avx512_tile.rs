//! AVX-512 for many columns: pieces of two panels unpacked, then tiles of 32 rows x 6 columns.
//!
//! The key decision: unpacked panels are bytes and 32-bit scales of one form for all types of a scheme,
//! in pieces small enough for the first-level cache, so that one tile serves them all: 12 integer and 12
//! float (or total) accumulators, two weights and one broadcast fill 27 of the 32 registers.
//!
//! Unpacked, a sub-block of both panels is `[8 groups][2 panels][64]` bytes; then
//!
//! | scheme | after a sub-block | after a super-block |
//! |---|---|---|
//! | `Block` | `d` f32 `[2][16]`, `m` likewise if there are minima | – |
//! | super | scales i32 `[parts][2][16]` | `d` (and `dmin`) f32 `[2][16]`, minima i16 `[words][2][16][2]` |
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512::{X, broadcast, halves, prefetch, scales, unpack};
use crate::DType;
use crate::activations::{Activations, CHUNK};
use crate::layout::{Layout, PANEL, SUB, Scheme};

/// Columns of a full tile.
const COLUMNS: usize = 6;

/// Bytes of one value for each of the 32 rows.
const ROWS: usize = 128;

/// Bytes of an unpacked sub-block.
const QUANTS: usize = 2 * PANEL * SUB;

/// Columns of weights unpacked at once: both panels' stay in the first-level cache while the tiles
/// walk over all columns of activations.
const PIECE: usize = 512;

/// Room for the unpacked pieces of all types.
#[repr(align(64))]
struct Unpacked(#[allow(dead_code, reason = "only its address is used")] [u8; 24 << 10]);

/// Bytes of an unpacked block of two panels.
const fn unpacked_bytes(layout: &Layout) -> usize {
    let m = if layout.minima { 1 } else { 0 };
    match layout.scheme {
        Scheme::Dense => 0,
        Scheme::Block => QUANTS + ROWS * (1 + m),
        Scheme::Super32 => 8 * (QUANTS + ROWS) + ROWS * (1 + 5 * m),
        Scheme::Super16 => 8 * (QUANTS + 2 * ROWS) + ROWS * (1 + 9 * m),
    }
}

/// The quants of one sub-block of one panel to their place beside those of the other.
#[inline(always)]
unsafe fn unpack_quants<const LOW: usize, const HIGH: usize, const TABLE: bool>(
    sub: *const u8,
    to: *mut u8,
) {
    // SAFETY: the caller gives a whole sub-block and `QUANTS` writable bytes less one panel's shift.
    unsafe {
        let w = unpack::<LOW, HIGH, TABLE>(sub);
        for g in 0..8 {
            _mm512_storeu_si512(to.add(g * 128).cast(), w[g]);
        }
    }
}

/// Unpacks one panel of scheme `Block`; `to` is shifted by 64 for the second.
///
/// # Safety
/// The processor has AVX-512; `panel` holds `blocks` blocks and `to` has room for them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpack_short<
    const LOW: usize,
    const HIGH: usize,
    const TABLE: bool,
    const MINIMA: bool,
>(
    panel: *const u8,
    blocks: usize,
    to: *mut u8,
) {
    // SAFETY: offsets follow the two layouts, see the head of this file and of `layout`.
    unsafe {
        let header = if MINIMA { 64 } else { 32 };
        let step = QUANTS + if MINIMA { 2 * ROWS } else { ROWS };
        for b in 0..blocks {
            let block = panel.add(b * (header + 64 * (LOW + HIGH)));
            prefetch(block, header + 64 * (LOW + HIGH));
            let to = to.add(b * step);
            unpack_quants::<LOW, HIGH, TABLE>(block.add(header), to);
            _mm512_storeu_ps(to.add(QUANTS).cast(), halves(block));
            if MINIMA {
                _mm512_storeu_ps(to.add(QUANTS + ROWS).cast(), halves(block.add(32)));
            }
        }
    }
}

/// Unpacks one panel of super-blocks; `to` is shifted by 64 for the second.
///
/// # Safety
/// As `unpack_short`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpack_long<
    const LOW: usize,
    const HIGH: usize,
    const PARTS: usize,
    const MINIMA: bool,
>(
    panel: *const u8,
    blocks: usize,
    to: *mut u8,
) {
    // SAFETY: as `unpack_short`.
    unsafe {
        let scales_at = if MINIMA { 64 } else { 32 };
        let minima_at = scales_at + 8 * PARTS * PANEL;
        let header = minima_at + if MINIMA { 8 * PARTS * PANEL } else { 0 };
        let sub_bytes = 64 * (LOW + HIGH);
        let step = QUANTS + PARTS * ROWS;
        let words = 4 * PARTS;
        let trailer = ROWS * if MINIMA { 2 + words } else { 1 };
        for b in 0..blocks {
            let block = panel.add(b * (header + 8 * sub_bytes));
            prefetch(block, header);
            let to = to.add(b * (8 * step + trailer));
            for s in 0..8 {
                let sub = block.add(header + s * sub_bytes);
                prefetch(sub, sub_bytes);
                let to = to.add(s * step);
                unpack_quants::<LOW, HIGH, false>(sub, to);
                for part in 0..PARTS {
                    let scale = block.add(scales_at + (s * PARTS + part) * PANEL);
                    let scale = if MINIMA { scales::<false>(scale) } else { scales::<true>(scale) };
                    _mm512_storeu_si512(to.add(QUANTS + part * ROWS).cast(), scale);
                }
            }
            let to = to.add(8 * step);
            _mm512_storeu_ps(to.cast(), halves(block));
            if MINIMA {
                _mm512_storeu_ps(to.add(ROWS).cast(), halves(block.add(32)));
                for w in 0..words {
                    let m = _mm256_loadu_si256(block.add(minima_at + w * 2 * PANEL).cast());
                    let m = _mm512_cvtepu8_epi16(m);
                    _mm512_storeu_si512(to.add((2 + w) * ROWS).cast(), m);
                }
            }
        }
    }
}

/// Unpacks `blocks` blocks of one panel; `to` is shifted by 64 for the second.
///
/// # Safety
/// As `unpack_short`.
unsafe fn unpack_panel(dtype: DType, panel: *const u8, blocks: usize, to: *mut u8) {
    // SAFETY: passed on.
    unsafe {
        match dtype {
            DType::Q8_0 => unpack_short::<8, 0, false, false>(panel, blocks, to),
            DType::IQ4_NL => unpack_short::<4, 0, true, false>(panel, blocks, to),
            DType::Q4_0 => unpack_short::<4, 0, false, false>(panel, blocks, to),
            DType::Q5_0 => unpack_short::<4, 1, false, false>(panel, blocks, to),
            DType::Q4_1 => unpack_short::<4, 0, false, true>(panel, blocks, to),
            DType::Q5_1 => unpack_short::<4, 1, false, true>(panel, blocks, to),
            DType::Q4_K => unpack_long::<4, 0, 1, true>(panel, blocks, to),
            DType::Q5_K => unpack_long::<4, 1, 1, true>(panel, blocks, to),
            DType::Q6_K => unpack_long::<4, 2, 2, false>(panel, blocks, to),
            DType::Q3_K => unpack_long::<2, 1, 2, false>(panel, blocks, to),
            DType::Q2_K => unpack_long::<2, 0, 2, true>(panel, blocks, to),
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("dense types have `dense`"),
        }
    }
}

#[inline(always)]
unsafe fn floats(p: *const u8) -> __m512 {
    // SAFETY: the caller gives 64 readable bytes and AVX-512.
    unsafe { _mm512_loadu_ps(p.cast()) }
}

#[inline(always)]
unsafe fn words(p: *const u8) -> __m512i {
    // SAFETY: the caller gives 64 readable bytes and AVX-512.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

type Tile<const C: usize> = [[__m512i; 2]; C];

/// Groups `FROM..TO` of a sub-block, both panels, `C` columns.
#[inline(always)]
unsafe fn dots<const C: usize, const FROM: usize, const TO: usize>(
    w: *const u8,
    x: *const i8,
    sum: &mut Tile<C>,
) {
    // SAFETY: the caller gives an unpacked sub-block and `C` columns of 32 activations.
    unsafe {
        for g in FROM..TO {
            let (one, two) = (words(w.add(g * 128)), words(w.add(g * 128 + 64)));
            for c in 0..C {
                let v = broadcast(x.add(c * SUB + 4 * g));
                sum[c][0] = _mm512_dpbusd_epi32(sum[c][0], one, v);
                sum[c][1] = _mm512_dpbusd_epi32(sum[c][1], two, v);
            }
        }
    }
}

#[inline(always)]
unsafe fn starts<const C: usize, const ZERO: bool>(p: *const i32) -> Tile<C> {
    // SAFETY: the caller gives `C` starts unless they are zero, and AVX-512.
    unsafe {
        let mut sum = [[_mm512_setzero_si512(); 2]; C];
        if !ZERO {
            for c in 0..C {
                sum[c] = [_mm512_set1_epi32(*p.add(c)); 2];
            }
        }
        sum
    }
}

/// Scheme `Block`: `acc[r][c]`, with `stride` floats from one panel's sums to the other's.
///
/// # Safety
/// The processor has AVX-512; `w` holds `blocks` unpacked blocks, `x` and `acc` at least `C` columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn short<const C: usize, const MINIMA: bool>(
    w: *const u8,
    blocks: usize,
    x: X,
    acc: *mut f32,
    stride: usize,
) {
    // SAFETY: all offsets are inside what the caller vouches for.
    unsafe {
        let step = QUANTS + if MINIMA { 2 * ROWS } else { ROWS };
        let mut sum = [[_mm512_setzero_ps(); 2]; C];
        for c in 0..C {
            for r in 0..2 {
                sum[c][r] = _mm512_loadu_ps(acc.add(r * stride + c * PANEL));
            }
        }
        for b in 0..blocks {
            let w = w.add(b * step);
            let at = b * x.width;
            let mut dot = starts::<C, MINIMA>(x.starts.wrapping_add(at));
            dots::<C, 0, 8>(w, x.quants.add(at * SUB), &mut dot);
            for c in 0..C {
                let dx = _mm512_set1_ps(*x.scales.add(at + c));
                for r in 0..2 {
                    let scale = _mm512_mul_ps(floats(w.add(QUANTS + r * 64)), dx);
                    sum[c][r] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot[c][r]), sum[c][r]);
                    if MINIMA {
                        let m = floats(w.add(QUANTS + ROWS + r * 64));
                        let sums = _mm512_set1_ps(f32::from_bits(*x.sums.add(at + c)));
                        sum[c][r] = _mm512_fmadd_ps(m, sums, sum[c][r]);
                    }
                }
            }
        }
        for c in 0..C {
            for r in 0..2 {
                _mm512_storeu_ps(acc.add(r * stride + c * PANEL), sum[c][r]);
            }
        }
    }
}

/// `total += scale * dot`.
#[inline(always)]
unsafe fn scaled<const C: usize>(scale: *const u8, dot: &Tile<C>, total: &mut Tile<C>) {
    // SAFETY: the caller gives the scales of both panels and AVX-512.
    unsafe {
        let scale = [words(scale), words(scale.add(64))];
        for c in 0..C {
            for r in 0..2 {
                let product = _mm512_mullo_epi32(dot[c][r], scale[r]);
                total[c][r] = _mm512_add_epi32(total[c][r], product);
            }
        }
    }
}

/// Super-blocks, with `PARTS` scales a sub-block.
///
/// # Safety
/// As `short`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn long<const C: usize, const PARTS: usize, const MINIMA: bool>(
    w: *const u8,
    blocks: usize,
    x: X,
    acc: *mut f32,
    stride: usize,
) {
    // SAFETY: as `short`.
    unsafe {
        let step = QUANTS + PARTS * ROWS;
        let count = 4 * PARTS;
        let trailer = ROWS * if MINIMA { 2 + count } else { 1 };
        for b in 0..blocks {
            let w = w.add(b * (8 * step + trailer));
            let mut total = [[_mm512_setzero_si512(); 2]; C];
            for s in 0..8 {
                let w = w.add(s * step);
                let at = (b * 8 + s) * x.width;
                let q = x.quants.add(at * SUB);
                let start = x.starts.wrapping_add(PARTS * at);
                let mut dot = starts::<C, MINIMA>(start);
                if PARTS == 1 {
                    dots::<C, 0, 8>(w, q, &mut dot);
                } else {
                    dots::<C, 0, 4>(w, q, &mut dot);
                    scaled(w.add(QUANTS), &dot, &mut total);
                    dot = starts::<C, MINIMA>(start.wrapping_add(x.width));
                    dots::<C, 4, 8>(w, q, &mut dot);
                }
                scaled(w.add(QUANTS + (PARTS - 1) * ROWS), &dot, &mut total);
            }
            let w = w.add(8 * step);
            let place = (b, x, stride);
            finish::<C, false>(w, &total, place, acc);
            if MINIMA {
                let mut total = [[_mm512_setzero_si512(); 2]; C];
                for i in 0..count {
                    let m = [words(w.add((2 + i) * ROWS)), words(w.add((2 + i) * ROWS + 64))];
                    for c in 0..C {
                        let sums = *x.sums.add((b * x.width + c) * count + i);
                        let sums = _mm512_set1_epi32(sums as i32);
                        for r in 0..2 {
                            total[c][r] = _mm512_dpwssd_epi32(total[c][r], m[r], sums);
                        }
                    }
                }
                finish::<C, true>(w.add(ROWS), &total, place, acc);
            }
        }
    }
}

/// `acc = fma(d * dx, total, acc)`, or minus it.
#[inline(always)]
unsafe fn finish<const C: usize, const MINUS: bool>(
    d: *const u8,
    total: &Tile<C>,
    (b, x, stride): (usize, X, usize),
    acc: *mut f32,
) {
    // SAFETY: as `short`.
    unsafe {
        for c in 0..C {
            let dx = _mm512_set1_ps(*x.scales.add(b * x.width + c));
            for r in 0..2 {
                let scale = _mm512_mul_ps(floats(d.add(r * 64)), dx);
                let (to, total) =
                    (acc.add(r * stride + c * PANEL), _mm512_cvtepi32_ps(total[c][r]));
                let old = _mm512_loadu_ps(to);
                let sum = if MINUS {
                    _mm512_fnmadd_ps(scale, total, old)
                } else {
                    _mm512_fmadd_ps(scale, total, old)
                };
                _mm512_storeu_ps(to, sum);
            }
        }
    }
}

/// Calls a tile with the number of columns as a constant.
macro_rules! by_tiles {
    ($tile:ident<$($constant:literal),*>($w:expr, $blocks:expr, $x:expr, $words:expr, $acc:expr, $stride:expr)) => {{
        let (mut c, columns) = (0, $x.width);
        while c < columns {
            let (x, acc) = ($x.from(c, $words), $acc.add(c * PANEL));
            let left = columns - c;
            // 7 and 8 left are better served by halves than by a full tile and a sliver.
            let now = if left == 7 || left == 8 { 4 } else { left.min(COLUMNS) };
            match now {
                1 => $tile::<1, $($constant),*>($w, $blocks, x, acc, $stride),
                2 => $tile::<2, $($constant),*>($w, $blocks, x, acc, $stride),
                3 => $tile::<3, $($constant),*>($w, $blocks, x, acc, $stride),
                4 => $tile::<4, $($constant),*>($w, $blocks, x, acc, $stride),
                5 => $tile::<5, $($constant),*>($w, $blocks, x, acc, $stride),
                _ => $tile::<6, $($constant),*>($w, $blocks, x, acc, $stride),
            }
            c += now;
        }
    }};
}

/// Adds unpacked blocks times the same blocks of a chunk onto `acc`: `(columns, 16)` of the first panel
/// and, `stride` floats further, of the second.
///
/// # Safety
/// As `short`.
unsafe fn multiply(
    layout: &Layout,
    w: *const u8,
    blocks: usize,
    x: X,
    acc: *mut f32,
    stride: usize,
) {
    // SAFETY: passed on.
    unsafe {
        match (layout.scheme, layout.minima) {
            (Scheme::Block, false) => by_tiles!(short<false>(w, blocks, x, 0, acc, stride)),
            (Scheme::Block, true) => by_tiles!(short<true>(w, blocks, x, 1, acc, stride)),
            (Scheme::Super16, false) => by_tiles!(long < 2, false > (w, blocks, x, 0, acc, stride)),
            (Scheme::Super16, true) => by_tiles!(long < 2, true > (w, blocks, x, 8, acc, stride)),
            (Scheme::Super32, _) => by_tiles!(long < 1, true > (w, blocks, x, 4, acc, stride)),
            (Scheme::Dense, _) => unreachable!("dense types have `dense`"),
        }
    }
}

/// Adds both panels of `weights`, one after the other, times the columns of `chunks` onto `acc`,
/// `(2, columns, 16)`.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ and VNNI.
pub(super) unsafe fn pair(
    layout: &Layout,
    weights: &[u8],
    x: &Activations,
    chunks: Range<usize>,
    acc: &mut [f32],
) {
    let (panel, block) = (weights.len() / 2, layout.block_bytes());
    let (blocks, stride) = (panel / block, acc.len() / 2);
    assert_eq!(weights.len(), 2 * blocks * block);
    let piece = PIECE / layout.block_columns();
    assert!(piece * unpacked_bytes(layout) <= size_of::<Unpacked>());
    let mut unpacked = MaybeUninit::<Unpacked>::uninit();
    let w = unpacked.as_mut_ptr().cast::<u8>();
    for first in (0..blocks).step_by(piece) {
        let count = piece.min(blocks - first);
        for half in 0..2 {
            let from = &weights[half * panel + first * block..][..count * block];
            // SAFETY: the buffer has room for `piece` blocks of both panels.
            unsafe { unpack_panel(layout.dtype, from.as_ptr(), count, w.add(half * 64)) };
        }
        for (i, chunk) in chunks.clone().enumerate() {
            let view = x.chunk(chunk);
            assert_eq!(view.quants.len(), blocks * layout.block_columns() * view.columns);
            let acc = &mut acc[i * CHUNK * PANEL..];
            assert!(acc.len() >= stride + view.columns * PANEL);
            // SAFETY: the lengths were checked; the chunk's other arrays are cut by the same counts.
            unsafe {
                let x = X::of(&view).at_block(layout, first);
                multiply(layout, w, count, x, acc.as_mut_ptr(), stride);
            }
        }
    }
}
