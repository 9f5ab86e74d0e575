//! NEON kernels: 4 rows in 4 lanes, four quarters to a panel, `sdot`.
//!
//! The key decision: weights go into the dot product as signed bytes (nibbles and the like with their
//! zero point still on, 8-bit weights and the levels of IQ4_NL as they are), so an integer dot starts
//! at `-zero * (sum of its activations)` or at nothing. A quarter of a sub-block is unpacked into
//! eight registers once and walks all columns of the chunk.
//!
//! `Set::Neon` proves the features; helpers are `inline(always)` into functions that carry them.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use crate::DType;
use crate::activations::ChunkView;
use crate::layout::{Layout, PANEL, SUB};
use crate::matmul::Lanes;
use crate::matmul::scalar::IQ4_LEVELS;

/// Rows in a register.
const QUARTER: usize = 4;

type Regs = [int8x16_t; 8];

/// 4 halves as floats, exactly.
#[inline(always)]
unsafe fn halves(p: *const u8) -> float32x4_t {
    // SAFETY: the caller gives 8 readable bytes and NEON.
    unsafe {
        let bits = vmovl_u16(vreinterpret_u16_u8(vld1_u8(p)));
        let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
        let rest = vandq_u32(bits, vdupq_n_u32(0x7fff));
        // Shifted, the exponent is too small by 112; the product puts it right, subnormals included.
        let scale = vdupq_n_f32(f32::from_bits((127 + 112) << 23));
        let value = vmulq_f32(vreinterpretq_f32_u32(vshlq_n_u32::<13>(rest)), scale);
        // Infinities and NaNs keep the largest exponent.
        let special = vcgeq_u32(rest, vdupq_n_u32(0x7c00));
        let value = vreinterpretq_u32_f32(value);
        let value = vorrq_u32(value, vandq_u32(special, vdupq_n_u32(0x7f80_0000)));
        vreinterpretq_f32_u32(vorrq_u32(value, sign))
    }
}

/// 4 bytes as 4 integers.
#[inline(always)]
unsafe fn scales<const SIGNED: bool>(p: *const u8) -> int32x4_t {
    // SAFETY: the caller gives 4 readable bytes and NEON.
    unsafe {
        let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
        if SIGNED {
            vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(bytes))))
        } else {
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
        }
    }
}

/// Moves bits up (positive) or down in every byte.
#[inline(always)]
unsafe fn shift(raw: uint8x16_t, by: i8) -> uint8x16_t {
    // SAFETY: arithmetic only; the caller has NEON.
    unsafe { vshlq_u8(raw, vdupq_n_s8(by)) }
}

/// Group `g` of a sub-block in register `g`: byte `4 * row + i` is column `4 * g + i` of a quarter.
#[inline(always)]
unsafe fn unpack<const LOW: usize, const HIGH: usize, const TABLE: bool>(
    sub: *const u8,
    quarter: usize,
) -> Regs {
    // SAFETY: the caller gives a whole sub-block; all planes are inside it.
    unsafe {
        let plane = |i: usize| vld1q_u8(sub.add(i * 64 + quarter * 16));
        let mut w = [vdupq_n_u8(0); 8];
        for g in 0..8 {
            w[g] = match LOW {
                8 => plane(g),
                4 if g < 4 => vandq_u8(plane(g), vdupq_n_u8(15)),
                4 => shift(plane(g - 4), -4),
                _ => vandq_u8(shift(plane(g / 4), -2 * (g as i8 % 4)), vdupq_n_u8(3)),
            };
            if HIGH == 1 {
                let bit = vandq_u8(shift(plane(LOW), -(g as i8)), vdupq_n_u8(1));
                w[g] = vorrq_u8(w[g], shift(bit, LOW as i8));
            } else if HIGH == 2 {
                let bits = shift(plane(LOW + g / 4), -2 * (g as i8 % 4));
                w[g] = vorrq_u8(w[g], shift(vandq_u8(bits, vdupq_n_u8(3)), LOW as i8));
            }
        }
        if TABLE {
            let levels = vld1q_s8(IQ4_LEVELS.as_ptr());
            return w.map(|q| vqtbl1q_s8(levels, q));
        }
        w.map(|q| vreinterpretq_s8_u8(q))
    }
}

/// Four products of bytes added to every lane; `x` holds the same four activations in every lane.
#[inline(always)]
unsafe fn sdot(sum: int32x4_t, w: int8x16_t, x: *const i8) -> int32x4_t {
    // SAFETY: the caller gives 4 readable activations, and the processor has the dot product, which
    // stable Rust offers only as an instruction.
    unsafe {
        let x = vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()));
        let mut sum = sum;
        std::arch::asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
        sum
    }
}

/// Groups `from..to` of one column onto `start`.
#[inline(always)]
unsafe fn dot(w: &Regs, (from, to): (usize, usize), x: *const i8, start: int32x4_t) -> int32x4_t {
    // SAFETY: the caller gives 32 readable activations and the dot product.
    unsafe {
        let mut sum = start;
        for g in from..to {
            sum = sdot(sum, w[g], x.add(4 * g));
        }
        sum
    }
}

/// `acc = fma(scale, value, acc)`, or minus it.
#[inline(always)]
unsafe fn add<const MINUS: bool>(acc: *mut f32, scale: float32x4_t, value: int32x4_t) {
    // SAFETY: the caller gives 4 floats and NEON.
    unsafe {
        let (old, value) = (vld1q_f32(acc), vcvtq_f32_s32(value));
        let sum = if MINUS { vfmsq_f32(old, scale, value) } else { vfmaq_f32(old, scale, value) };
        vst1q_f32(acc, sum);
    }
}

/// Scheme `Block`.
#[target_feature(enable = "neon")]
unsafe fn short<const LOW: usize, const HIGH: usize, const TABLE: bool, const MINIMA: bool>(
    panel: *const u8,
    blocks: usize,
    x: &ChunkView<'_>,
    acc: *mut f32,
) {
    // SAFETY: all offsets are inside the blocks and columns that the entry point checked.
    unsafe {
        let header = if MINIMA { 64 } else { 32 };
        for b in 0..blocks {
            let block = panel.add(b * (header + 64 * (LOW + HIGH)));
            for quarter in 0..4 {
                let w = unpack::<LOW, HIGH, TABLE>(block.add(header), quarter);
                let d = halves(block.add(8 * quarter));
                for c in 0..x.columns {
                    let at = b * x.columns + c;
                    let start = if MINIMA || LOW == 8 || TABLE { 0 } else { x.starts[at] };
                    let q = x.quants.as_ptr().add(at * SUB);
                    let dot = dot(&w, (0, 8), q, vdupq_n_s32(start));
                    let acc = acc.add(c * PANEL + QUARTER * quarter);
                    add::<false>(acc, vmulq_n_f32(d, x.scales[at]), dot);
                    if MINIMA {
                        let m = halves(block.add(32 + 8 * quarter));
                        let sums = vdupq_n_f32(f32::from_bits(x.sums[at]));
                        vst1q_f32(acc, vfmaq_f32(vld1q_f32(acc), m, sums));
                    }
                }
            }
        }
    }
}

/// Super-blocks: Q4_K, Q5_K (`PARTS` = 1 scale a sub-block), Q6_K, Q3_K, Q2_K (2).
#[target_feature(enable = "neon")]
unsafe fn long<const LOW: usize, const HIGH: usize, const PARTS: usize, const MINIMA: bool>(
    panel: *const u8,
    blocks: usize,
    x: &ChunkView<'_>,
    acc: *mut f32,
) {
    // SAFETY: as `short`.
    unsafe {
        let scales_at = if MINIMA { 64 } else { 32 };
        let minima_at = scales_at + 8 * PARTS * PANEL;
        let header = minima_at + if MINIMA { 8 * PARTS * PANEL } else { 0 };
        let sub_bytes = 64 * (LOW + HIGH);
        let mut totals = [vdupq_n_s32(0); crate::activations::CHUNK];
        for b in 0..blocks {
            let block = panel.add(b * (header + 8 * sub_bytes));
            for quarter in 0..4 {
                totals.fill(vdupq_n_s32(0));
                for s in 0..8 {
                    let w = unpack::<LOW, HIGH, false>(block.add(header + s * sub_bytes), quarter);
                    let at = (b * 8 + s) * x.columns;
                    for part in 0..PARTS {
                        let scale = (s * PARTS + part) * PANEL + QUARTER * quarter;
                        let scale = block.add(scales_at + scale);
                        let scale =
                            if MINIMA { scales::<false>(scale) } else { scales::<true>(scale) };
                        let groups = (part * 8 / PARTS, (part + 1) * 8 / PARTS);
                        for (c, total) in totals[..x.columns].iter_mut().enumerate() {
                            let first = PARTS * at + part * x.columns + c;
                            let start = if MINIMA { 0 } else { x.starts[first] };
                            let q = x.quants.as_ptr().add((at + c) * SUB);
                            let dot = dot(&w, groups, q, vdupq_n_s32(start));
                            *total = vmlaq_s32(*total, dot, scale);
                        }
                    }
                }
                let d = halves(block.add(8 * quarter));
                for (c, &total) in totals[..x.columns].iter().enumerate() {
                    let to = acc.add(c * PANEL + QUARTER * quarter);
                    let dx = x.scales[b * x.columns + c];
                    add::<false>(to, vmulq_n_f32(d, dx), total);
                    if MINIMA {
                        let words = 4 * PARTS;
                        let sums = &x.sums[(b * x.columns + c) * words..][..words];
                        let total = minima(block.add(minima_at), quarter, sums);
                        let dmin = halves(block.add(32 + 8 * quarter));
                        add::<true>(to, vmulq_n_f32(dmin, dx), total);
                    }
                }
            }
        }
    }
}

/// `Σ min * sum` of one column: pairs of minima times pairs of sums.
#[inline(always)]
unsafe fn minima(minima: *const u8, quarter: usize, sums: &[u32]) -> int32x4_t {
    // SAFETY: the caller gives the minima of a super-block and NEON.
    unsafe {
        let mut total = vdupq_n_s32(0);
        for (w, &sums) in sums.iter().enumerate() {
            let m = vmovl_u8(vld1_u8(minima.add((w * PANEL + QUARTER * quarter) * 2)));
            let m = vreinterpretq_s16_u16(m);
            let sums = vreinterpretq_s16_s32(vdupq_n_s32(sums as i32));
            let low = vmull_s16(vget_low_s16(m), vget_low_s16(sums));
            let high = vmull_high_s16(m, sums);
            total = vaddq_s32(total, vpaddq_s32(low, high));
        }
        total
    }
}

/// Adds one panel times one chunk onto `acc`, `(columns, 16)`.
///
/// # Safety
/// The processor has NEON with the dot product.
pub(super) unsafe fn panel(layout: &Layout, panel: &[u8], x: &ChunkView<'_>, acc: &mut [f32]) {
    let blocks = panel.len() / layout.block_bytes();
    assert_eq!(acc.len(), x.columns * PANEL);
    assert_eq!(x.quants.len(), blocks * layout.block_columns() * x.columns);
    let (p, acc) = (panel.as_ptr(), acc.as_mut_ptr());
    // SAFETY: the lengths were checked.
    unsafe {
        match layout.dtype {
            DType::Q8_0 => short::<8, 0, false, false>(p, blocks, x, acc),
            DType::IQ4_NL => short::<4, 0, true, false>(p, blocks, x, acc),
            DType::Q4_0 => short::<4, 0, false, false>(p, blocks, x, acc),
            DType::Q5_0 => short::<4, 1, false, false>(p, blocks, x, acc),
            DType::Q4_1 => short::<4, 0, false, true>(p, blocks, x, acc),
            DType::Q5_1 => short::<4, 1, false, true>(p, blocks, x, acc),
            DType::Q4_K => long::<4, 0, 1, true>(p, blocks, x, acc),
            DType::Q5_K => long::<4, 1, 1, true>(p, blocks, x, acc),
            DType::Q6_K => long::<4, 2, 2, false>(p, blocks, x, acc),
            DType::Q3_K => long::<2, 1, 2, false>(p, blocks, x, acc),
            DType::Q2_K => long::<2, 0, 2, true>(p, blocks, x, acc),
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("dense types have `dense`"),
        }
    }
}

/// Sixteen weights as floats.
#[inline(always)]
unsafe fn load(dtype: DType, p: *const u8) -> [float32x4_t; 4] {
    // SAFETY: the caller gives 16 readable elements and NEON.
    unsafe {
        let mut v = [vdupq_n_f32(0.0); 4];
        for (i, v) in v.iter_mut().enumerate() {
            *v = match dtype {
                DType::F16 => halves(p.add(8 * i)),
                DType::BF16 => {
                    let bits = vreinterpret_u16_u8(vld1_u8(p.add(8 * i)));
                    vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(bits)))
                }
                _ => vreinterpretq_f32_u8(vld1q_u8(p.add(16 * i))),
            };
        }
        v
    }
}

/// `C` columns of one panel: `acc[c] = fma(w[k], x[c][k], acc[c])` for `k` in order.
#[target_feature(enable = "neon")]
unsafe fn tile<const C: usize>(
    w: Lanes<'_>,
    data: *const u8,
    x: *const f32,
    x_stride: usize,
    acc: *mut f32,
) {
    // SAFETY: the entry point checked the lengths.
    unsafe {
        let size = w.dtype.block_bytes();
        let mut sum = [[vdupq_n_f32(0.0); 4]; C];
        for c in 0..C {
            for i in 0..4 {
                sum[c][i] = vld1q_f32(acc.add(c * PANEL + QUARTER * i));
            }
        }
        for k in 0..w.length {
            let v = load(w.dtype, data.add(k * w.stride * size));
            for c in 0..C {
                let x = vdupq_n_f32(*x.add(c * x_stride + k));
                for i in 0..4 {
                    sum[c][i] = vfmaq_f32(sum[c][i], v[i], x);
                }
            }
        }
        for c in 0..C {
            for i in 0..4 {
                vst1q_f32(acc.add(c * PANEL + QUARTER * i), sum[c][i]);
            }
        }
    }
}

/// Adds the panels of `w` times `(columns, x_stride)` activations onto `acc`, `(panels, columns, 16)`.
///
/// # Safety
/// The processor has NEON.
pub(super) unsafe fn dense(w: Lanes<'_>, x: &[f32], x_stride: usize, acc: &mut [f32]) {
    let count = acc.len() / (PANEL * w.panels);
    if w.length == 0 || count == 0 {
        return;
    }
    let size = w.dtype.block_bytes();
    let elements = (w.panels - 1) * w.panel + (w.length - 1) * w.stride + PANEL;
    assert!(w.data.len() >= elements * size);
    assert!(x.len() >= (count - 1) * x_stride + w.length);
    for (r, acc) in acc.chunks_exact_mut(count * PANEL).enumerate() {
        let data = w.data[r * w.panel * size..].as_ptr();
        for (c, acc) in acc.chunks_mut(4 * PANEL).enumerate() {
            let (x, columns) = (x[4 * c * x_stride..].as_ptr(), acc.len() / PANEL);
            let acc = acc.as_mut_ptr();
            // SAFETY: the lengths were just checked.
            unsafe {
                match columns {
                    1 => tile::<1>(w, data, x, x_stride, acc),
                    2 => tile::<2>(w, data, x, x_stride, acc),
                    3 => tile::<3>(w, data, x, x_stride, acc),
                    _ => tile::<4>(w, data, x, x_stride, acc),
                }
            }
        }
    }
}
