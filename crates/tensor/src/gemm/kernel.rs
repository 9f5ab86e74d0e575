//! The tile of registers: one loop, generic over vectors, compiled for every instruction set.
//!
//! The key decision: R x N vectors of C stay in registers while k runs; a step loads N vectors of B
//! and R broadcasts of A for R * N fused multiply-adds, so the arithmetic units are the limit and not
//! the loads. Tiles at the edges take fewer rows; columns past the edge are computed on the panel's
//! padding and not stored.
//!
//! A [`Kernel`] comes from an [`Isa`], which proves the features; every helper is `inline(always)` into
//! the entry points at the end, which carry them.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::{LINE, Source, pack};
use crate::isa::{Isa, Set};

/// Lines that a tile fetches of what comes later.
pub(super) fn lines(k: usize) -> usize {
    k / STEPS
}

/// See [`pack::plain`].
type Pack = unsafe fn(from: Source, k: usize, columns: usize, to: *mut f32);

/// Floats of the largest tile.
const EDGE: usize = 14 * super::WIDEST;

/// Steps of k that are unrolled: a line of a row of A.
const STEPS: usize = 16;

/// Lines of the next panel that are fetched in so many steps: all of it in the time of some tiles.
const AHEAD: usize = 2;

/// `_MM_HINT_T0` and `_MM_HINT_T1`.
const NEAR: i32 = 3;
const FAR: i32 = 2;

/// The entry points of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Rows of a tile.
    pub(super) rows: usize,
    /// Columns of a tile, the width of a panel.
    pub(super) columns: usize,
    pub(super) pack_a: Pack,
    pub(super) pack_b: Pack,
    pub(super) multiply: unsafe fn(&Panel),
}

impl Kernel {
    pub(super) fn of(isa: Isa) -> Kernel {
        match isa.set() {
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => Kernel {
                rows: 6,
                columns: 16,
                pack_a: pack::avx2::<6>,
                pack_b: pack::avx2::<16>,
                multiply: avx2,
            },
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => Kernel {
                rows: 14,
                columns: 32,
                pack_a: pack::avx2::<14>,
                pack_b: pack::avx2::<32>,
                multiply: avx512,
            },
            _ => Kernel {
                rows: 6,
                columns: 16,
                pack_a: pack::plain::<6>,
                pack_b: pack::plain::<16>,
                multiply: plain,
            },
        }
    }
}

/// A panel of B times rows of A.
pub(super) struct Panel {
    pub(super) rows: usize,
    /// At most the kernel's.
    pub(super) columns: usize,
    pub(super) k: usize,
    /// Element `(strip, row of the strip, k)` is `a[strip * a_strip + row * a_row + k * a_step]`;
    /// one of `a_row` and `a_step` is 1.
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_step: usize,
    pub(super) a_strip: usize,
    /// Row `k` of the panel begins at `b[k * b_step]`, as wide as the kernel.
    pub(super) b: *const f32,
    pub(super) b_step: usize,
    /// Memory that is fetched on the way, [`lines`] for each tile.
    pub(super) later: *const f32,
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    /// Onto what is in C.
    pub(super) add: bool,
}

/// A vector of floats.
trait Lanes: Copy {
    const WIDTH: usize;
    unsafe fn zero() -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn broadcast(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
}

/// Implements [`Lanes`] by intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($type:ty, $width:literal, $zero:ident, $load:ident, $broadcast:ident, $store:ident, $add:ident, $fma:ident) => {
        impl Lanes for $type {
            const WIDTH: usize = $width;
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the entry points carry the features.
                unsafe { $zero() }
            }
            #[inline(always)]
            unsafe fn load(p: *const f32) -> Self {
                // SAFETY: the caller gives a vector's length of floats.
                unsafe { $load(p) }
            }
            #[inline(always)]
            unsafe fn broadcast(p: *const f32) -> Self {
                // SAFETY: the caller gives a float.
                unsafe { $broadcast(*p) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32) {
                // SAFETY: the caller gives room for a vector.
                unsafe { $store(p, self) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: the entry points carry the features.
                unsafe { $add(self, other) }
            }
            #[inline(always)]
            unsafe fn fma(self, b: Self, c: Self) -> Self {
                // SAFETY: the entry points carry the features.
                unsafe { $fma(self, b, c) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
lanes!(
    __m256,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_fmadd_ps
);
#[cfg(target_arch = "x86_64")]
lanes!(
    __m512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_fmadd_ps
);

/// Plain Rust: the oracle of the vectors; on aarch64 the compiler makes it NEON.
impl Lanes for [f32; 4] {
    const WIDTH: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives 4 floats.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> Self {
        // SAFETY: the caller gives a float.
        [unsafe { *p }; 4]
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives room for 4 floats.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        let [a, b, c, d] = self;
        let [e, f, g, h] = other;
        [a + e, b + f, c + g, d + h]
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        let fma = |i: usize| self[i].mul_add(b[i], c[i]);
        [fma(0), fma(1), fma(2), fma(3)]
    }
}

/// `R` rows of C, `N` vectors wide. `ALONG`: A's rows lie along k (`a_step` is 1), else across it.
/// `far`: the next panel, and the memory that is used later.
///
/// # Safety
/// `a` and `c` are the panel's at the first row of the tile, with `R` rows left.
#[inline(always)]
unsafe fn tile<V: Lanes, const R: usize, const N: usize, const ALONG: bool>(
    panel: &Panel,
    a: *const f32,
    c: *mut f32,
    [mut ahead, mut later]: [*const f32; 2],
) {
    let mut next = a.wrapping_add(panel.a_strip);
    // SAFETY: the panel says what may be read and written.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        let (mut a, mut b) = (a, panel.b);
        let (row, step) = if ALONG { (panel.a_row, 1) } else { (1, panel.a_step) };
        for r in 0..R {
            fetch::<NEAR>(c.wrapping_add(r * panel.c_stride));
        }
        for _ in 0..panel.k / STEPS {
            // The rows of the next tile as fast as this one uses its own, the next panel, and what comes
            // after all panels.
            for r in 0..R {
                fetch::<NEAR>(next.wrapping_add(r * if ALONG { row } else { STEPS }));
            }
            next = next.wrapping_add(if ALONG { STEPS } else { STEPS * R });
            for line in 0..AHEAD {
                fetch::<FAR>(ahead.wrapping_add(line * LINE));
            }
            ahead = ahead.wrapping_add(AHEAD * LINE);
            fetch::<FAR>(later);
            later = later.wrapping_add(LINE);
            for _ in 0..STEPS {
                one_step(&mut sums, a, row, b);
                a = a.wrapping_add(step);
                b = b.wrapping_add(panel.b_step);
            }
        }
        for _ in 0..panel.k % STEPS {
            one_step(&mut sums, a, row, b);
            a = a.wrapping_add(step);
            b = b.wrapping_add(panel.b_step);
        }
        // Each case in a loop of its own: the sums must not be indexed by anything but constants.
        let (width, stride) = (N * V::WIDTH, panel.c_stride);
        if panel.columns < width {
            let mut all = [0f32; EDGE];
            put::<V, R, N>(&sums, all.as_mut_ptr(), width);
            edge(panel, &all, width, R, c);
        } else if panel.add {
            for r in 0..R {
                for j in 0..N {
                    let c = c.wrapping_add(r * stride + j * V::WIDTH);
                    V::load(c).add(sums[r][j]).store(c);
                }
            }
        } else {
            put::<V, R, N>(&sums, c, stride);
        }
    }
}

/// Stores a tile.
#[inline(always)]
unsafe fn put<V: Lanes, const R: usize, const N: usize>(
    sums: &[[V; N]; R],
    c: *mut f32,
    stride: usize,
) {
    for r in 0..R {
        for j in 0..N {
            // SAFETY: as in `tile`.
            unsafe { sums[r][j].store(c.wrapping_add(r * stride + j * V::WIDTH)) };
        }
    }
}

/// The products of one k.
#[inline(always)]
unsafe fn one_step<V: Lanes, const R: usize, const N: usize>(
    sums: &mut [[V; N]; R],
    a: *const f32,
    row: usize,
    b: *const f32,
) {
    // SAFETY: as in `tile`.
    unsafe {
        let mut w = [V::zero(); N];
        for j in 0..N {
            w[j] = V::load(b.wrapping_add(j * V::WIDTH));
        }
        for r in 0..R {
            let x = V::broadcast(a.wrapping_add(r * row));
            for j in 0..N {
                sums[r][j] = x.fma(w[j], sums[r][j]);
            }
        }
    }
}

/// Stores the columns of a tile that are in C.
#[cold]
#[inline(never)]
unsafe fn edge(panel: &Panel, tile: &[f32; EDGE], width: usize, rows: usize, c: *mut f32) {
    for (r, row) in tile.chunks_exact(width).enumerate().take(rows) {
        for (j, sum) in row.iter().enumerate().take(panel.columns) {
            // SAFETY: C has the panel's columns, and the rows of the tile.
            unsafe {
                let c = c.add(r * panel.c_stride + j);
                *c = if panel.add { *c + sum } else { *sum };
            }
        }
    }
}

/// Fetches a line into L1 ([`NEAR`]) or L2 ([`FAR`]).
#[inline(always)]
fn fetch<const HINT: i32>(_p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        _mm_prefetch::<HINT>(_p.cast());
    }
}

/// All rows of the panel: whole tiles, then one of the rows that are left.
#[inline(always)]
unsafe fn rows<V: Lanes, const R: usize, const N: usize, const ALONG: bool>(panel: &Panel) {
    let (mut a, mut c, mut left) = (panel.a, panel.c, panel.rows);
    let mut far = [panel.b.wrapping_add(panel.k * panel.b_step), panel.later];
    // SAFETY: as in `tile`.
    unsafe {
        while left >= R {
            tile::<V, R, N, ALONG>(panel, a, c, far);
            far[0] = far[0].wrapping_add(lines(panel.k) * AHEAD * LINE);
            far[1] = far[1].wrapping_add(lines(panel.k) * LINE);
            a = a.wrapping_add(panel.a_strip);
            c = c.wrapping_add(R * panel.c_stride);
            left -= R;
        }
        let mut done = 0;
        for rows in [8, 4, 2, 1] {
            if rows >= R || left & rows == 0 {
                continue;
            }
            let a = a.wrapping_add(done * if ALONG { panel.a_row } else { 1 });
            let c = c.wrapping_add(done * panel.c_stride);
            match rows {
                8 => tile::<V, 8, N, ALONG>(panel, a, c, far),
                4 => tile::<V, 4, N, ALONG>(panel, a, c, far),
                2 => tile::<V, 2, N, ALONG>(panel, a, c, far),
                _ => tile::<V, 1, N, ALONG>(panel, a, c, far),
            }
            done += rows;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(panel: &Panel) {
    // SAFETY: the caller's promise.
    unsafe {
        if panel.a_step == 1 {
            rows::<__m256, 6, 2, true>(panel);
        } else {
            rows::<__m256, 6, 2, false>(panel);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn avx512(panel: &Panel) {
    // SAFETY: the caller's promise.
    unsafe {
        if panel.a_step == 1 {
            rows::<__m512, 14, 2, true>(panel);
        } else {
            rows::<__m512, 14, 2, false>(panel);
        }
    }
}

unsafe fn plain(panel: &Panel) {
    // SAFETY: the caller's promise.
    unsafe {
        if panel.a_step == 1 {
            rows::<[f32; 4], 6, 4, true>(panel);
        } else {
            rows::<[f32; 4], 6, 4, false>(panel);
        }
    }
}
