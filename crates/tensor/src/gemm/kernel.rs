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
use crate::lanes::Lanes;

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

/// In place of the floats from one k to the next: A was not packed.
const ALONG: usize = 0;

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
    /// See [`pack::apart`].
    pub(super) apart_a: fn(usize) -> usize,
    pub(super) apart_b: fn(usize) -> usize,
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
                apart_a: pack::apart::<6>,
                apart_b: pack::apart::<16>,
                multiply: avx2,
            },
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => Kernel {
                rows: 14,
                columns: 32,
                pack_a: pack::avx2::<14>,
                pack_b: pack::avx2::<32>,
                apart_a: pack::apart::<14>,
                apart_b: pack::apart::<32>,
                multiply: avx512,
            },
            _ => Kernel {
                rows: 6,
                columns: 16,
                pack_a: pack::plain::<6>,
                pack_b: pack::plain::<16>,
                apart_a: pack::apart::<6>,
                apart_b: pack::apart::<16>,
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
    /// Where the first row begins.
    pub(super) a: *const f32,
    /// Whether A was packed, in strips as high as a tile; else its rows lie along k.
    pub(super) packed: bool,
    /// Floats from row to row.
    pub(super) a_row: usize,
    /// Floats from strip to strip.
    pub(super) a_strip: usize,
    /// Row `k` of the panel begins at `b[k * columns of the kernel]`.
    pub(super) b: *const f32,
    /// Memory that is fetched on the way, [`lines`] for each tile.
    pub(super) later: *const f32,
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    /// Onto what is in C.
    pub(super) add: bool,
}

/// `R` rows of C, `N` vectors wide. `STEP`: floats from one k to the next where A was packed; [`ALONG`]:
/// A's rows lie along k.
/// `far`: the next panel, and the memory that is used later.
///
/// # Safety
/// `a` and `c` are the panel's at the first row of the tile, with `R` rows left.
#[inline(always)]
unsafe fn tile<V: Lanes, const R: usize, const N: usize, const STEP: usize>(
    panel: &Panel,
    a: *const f32,
    c: *mut f32,
    [ahead, later]: [*const f32; 2],
) {
    // SAFETY: the panel says what may be read and written.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        for r in 0..R {
            fetch::<NEAR>(c.wrapping_add(r * panel.c_stride));
        }
        let (row, next) = (panel.a_row, a.wrapping_add(panel.a_strip));
        let mut at = At { a: thirds(a, row), row, b: panel.b };
        let (step, width) = (if STEP == ALONG { 1 } else { STEP }, N * V::WIDTH);
        let mut soon = Soon { next: thirds(next, row), ahead, later };
        for _ in 0..panel.k / STEPS {
            eight::<V, R, N, STEP, true>(&mut sums, &at, 0, &soon);
            at.forward(STEPS / 2 * step, STEPS / 2 * width);
            eight::<V, R, N, STEP, true>(&mut sums, &at, STEPS / 2, &soon);
            at.forward(STEPS / 2 * step, STEPS / 2 * width);
            soon.forward(if STEP == ALONG { STEPS } else { STEPS * STEP });
        }
        if panel.k % STEPS >= STEPS / 2 {
            eight::<V, R, N, STEP, false>(&mut sums, &at, 0, &soon);
            at.forward(STEPS / 2 * step, STEPS / 2 * width);
        }
        for _ in 0..panel.k % (STEPS / 2) {
            one::<V, R, N, STEP>(&mut sums, &at, 0);
            at.forward(step, width);
        }
        // Each case in a loop of its own: the sums must not be indexed by anything but constants.
        let stride = panel.c_stride;
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

/// Every third row of a tile has a pointer of its own: the others are one address away from it.
#[inline(always)]
fn thirds(a: *const f32, row: usize) -> [*const f32; 5] {
    [0, 3, 6, 9, 12].map(|r| a.wrapping_add(r * row))
}

/// Where a tile stands in k.
struct At {
    a: [*const f32; 5],
    row: usize,
    b: *const f32,
}

impl At {
    #[inline(always)]
    fn forward(&mut self, a: usize, b: usize) {
        self.a = self.a.map(|at| at.wrapping_add(a));
        self.b = self.b.wrapping_add(b);
    }
}

/// What a tile fetches: the rows of the next one as fast as it uses its own, the next panel, and what
/// comes after all panels.
struct Soon {
    next: [*const f32; 5],
    ahead: *const f32,
    later: *const f32,
}

impl Soon {
    #[inline(always)]
    fn forward(&mut self, next: usize) {
        self.next = self.next.map(|a| a.wrapping_add(next));
        self.ahead = self.ahead.wrapping_add(AHEAD * LINE);
        self.later = self.later.wrapping_add(LINE);
    }

    /// Its share of step `q` of [`STEPS`]: one line, so that no step waits.
    #[inline(always)]
    fn fetch<const R: usize, const STEP: usize>(&self, q: usize, row: usize) {
        if q < R {
            let next = if STEP == ALONG {
                self.next[q / 3].wrapping_add(q % 3 * row)
            } else {
                self.next[0].wrapping_add(q * LINE)
            };
            fetch::<NEAR>(next);
        }
        if q >= STEPS - AHEAD {
            fetch::<FAR>(self.ahead.wrapping_add((STEPS - 1 - q) * LINE));
        }
        if q == STEPS - AHEAD - 1 {
            fetch::<FAR>(self.later);
        }
    }
}

/// Eight steps from step `q` of [`STEPS`] on, written out: a loop would cost a wrong guess of its end in
/// every round.
#[inline(always)]
unsafe fn eight<V: Lanes, const R: usize, const N: usize, const STEP: usize, const SOON: bool>(
    sums: &mut [[V; N]; R],
    at: &At,
    q: usize,
    soon: &Soon,
) {
    // SAFETY: as in `tile`.
    unsafe {
        two::<V, R, N, STEP, SOON>(sums, at, 0, q, soon);
        two::<V, R, N, STEP, SOON>(sums, at, 2, q, soon);
        two::<V, R, N, STEP, SOON>(sums, at, 4, q, soon);
        two::<V, R, N, STEP, SOON>(sums, at, 6, q, soon);
    }
}

#[inline(always)]
unsafe fn two<V: Lanes, const R: usize, const N: usize, const STEP: usize, const SOON: bool>(
    sums: &mut [[V; N]; R],
    at: &At,
    i: usize,
    q: usize,
    soon: &Soon,
) {
    // SAFETY: as in `tile`.
    unsafe {
        one::<V, R, N, STEP>(sums, at, i);
        if SOON {
            soon.fetch::<R, STEP>(q + i, at.row);
        }
        one::<V, R, N, STEP>(sums, at, i + 1);
        if SOON {
            soon.fetch::<R, STEP>(q + i + 1, at.row);
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

/// The products of the `i`-th k from here.
#[inline(always)]
unsafe fn one<V: Lanes, const R: usize, const N: usize, const STEP: usize>(
    sums: &mut [[V; N]; R],
    at: &At,
    i: usize,
) {
    // SAFETY: as in `tile`.
    unsafe {
        let mut w = [V::zero(); N];
        for j in 0..N {
            w[j] = V::load(at.b.wrapping_add(i * N * V::WIDTH + j * V::WIDTH));
        }
        for r in 0..R {
            let x = if STEP == ALONG {
                at.a[r / 3].wrapping_add(r % 3 * at.row + i)
            } else {
                at.a[0].wrapping_add(r + i * STEP)
            };
            let x = V::broadcast(x);
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
unsafe fn rows<V: Lanes, const R: usize, const N: usize, const STEP: usize>(panel: &Panel) {
    let (mut a, mut c, mut left) = (panel.a, panel.c, panel.rows);
    let mut far = [panel.b.wrapping_add(panel.k * N * V::WIDTH), panel.later];
    // SAFETY: as in `tile`.
    unsafe {
        while left >= R {
            tile::<V, R, N, STEP>(panel, a, c, far);
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
            let a = a.wrapping_add(done * panel.a_row);
            let c = c.wrapping_add(done * panel.c_stride);
            match rows {
                8 => tile::<V, 8, N, STEP>(panel, a, c, far),
                4 => tile::<V, 4, N, STEP>(panel, a, c, far),
                2 => tile::<V, 2, N, STEP>(panel, a, c, far),
                _ => tile::<V, 1, N, STEP>(panel, a, c, far),
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
        if !panel.packed {
            rows::<__m256, 6, 2, ALONG>(panel);
        } else {
            rows::<__m256, 6, 2, 6>(panel);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn avx512(panel: &Panel) {
    // SAFETY: the caller's promise.
    unsafe {
        if !panel.packed {
            rows::<__m512, 14, 2, ALONG>(panel);
        } else {
            rows::<__m512, 14, 2, 14>(panel);
        }
    }
}

unsafe fn plain(panel: &Panel) {
    // SAFETY: the caller's promise.
    unsafe {
        if !panel.packed {
            rows::<[f32; 4], 6, 4, ALONG>(panel);
        } else {
            rows::<[f32; 4], 6, 4, 6>(panel);
        }
    }
}
