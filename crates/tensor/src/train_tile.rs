//! Products of small f32 tiles on one thread: what attention multiplies.
//!
//! The key decision: the right side's rows are contiguous, so a lane is a column and nothing adds across
//! lanes; the left side may lie along or across `k`, so one kernel serves `A B` and `A^T B`. Each element is
//! one sequence of fused multiply-adds over `k`, whatever the instruction set or the place in the tile.
//!
//! Not here: large products (they want packing and threads).
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use crate::isa::{Isa, Set};
use crate::lanes::Lanes;

/// Where A, B and C begin.
type Places = (*const f32, *const f32, *mut f32);

/// The sizes of a product `C (m, n) = or += A (m, k) B (k, n)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Floats between rows of A, and between its columns; one of them is 1.
    pub(crate) a: (usize, usize),
    /// Floats between rows of B.
    pub(crate) b: usize,
    /// Floats between rows of C.
    pub(crate) c: usize,
    /// Whether C is added to.
    pub(crate) add: bool,
}

impl Tile {
    /// Panics unless every element lies in its buffer.
    #[inline(always)]
    fn check(&self, a: usize, b: usize, c: usize) {
        let last = |count: usize, step: usize| (count - 1).checked_mul(step);
        let inside = |rows: (usize, usize), columns: (usize, usize), length: usize| {
            let end = last(rows.0, rows.1)
                .zip(last(columns.0, columns.1))
                .and_then(|(rows, columns)| rows.checked_add(columns));
            assert!(end.is_some_and(|end| end < length), "{self:?} over {a}, {b}, {c} floats");
        };
        assert!(self.a.0 == 1 || self.a.1 == 1, "{self:?}");
        inside((self.m, self.a.0), (self.k, self.a.1), a);
        inside((self.k, self.b), (self.n, 1), b);
        inside((self.m, self.c), (self.n, 1), c);
    }
}

/// Where a block stands in `k`. Every third row of A has a pointer of its own: the others are one
/// address away from it.
struct At {
    a: [*const f32; 2],
    b: *const f32,
}

/// The products of one `k`, and on to the next. `ALONG`: A's rows lie along `k`, else its columns.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn one<V: Lanes, const R: usize, const N: usize, const ALONG: bool>(
    t: &Tile,
    sums: &mut [[V; N]; R],
    at: &mut At,
) {
    // SAFETY: by contract every element named here lies in its buffer.
    unsafe {
        let mut row = [V::zero(); N];
        for j in 0..N {
            row[j] = V::load(at.b.wrapping_add(j * V::WIDTH));
        }
        for r in 0..R {
            let x = at.a[r / 3].wrapping_add(r % 3 * if ALONG { t.a.0 } else { 1 });
            let x = V::broadcast(x);
            for j in 0..N {
                sums[r][j] = x.fma(row[j], sums[r][j]);
            }
        }
    }
    at.a = at.a.map(|a| opaque(a.wrapping_add(if ALONG { 1 } else { t.a.1 })));
    at.b = opaque(at.b.wrapping_add(t.b));
}

/// The same address, of which the compiler knows nothing: it would compute all of them anew from one, in
/// more instructions than the products are.
#[allow(
    clippy::pointers_in_nomem_asm_block,
    reason = "the address is passed through, nothing is read"
)]
#[inline(always)]
fn opaque(mut address: *const f32) -> *const f32 {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: no instruction at all.
    unsafe {
        std::arch::asm!("/* {} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags));
    }
    address
}

/// `R` rows and `N` vectors of columns with their sums in registers.
///
/// # Safety
/// The rows from `i` and the columns from `j` on are inside `t`, [`Tile::check`] has passed, and the
/// stride of A that `ALONG` names is 1.
#[inline(always)]
unsafe fn block<V: Lanes, const R: usize, const N: usize, const ALONG: bool>(
    t: &Tile,
    (i, j): (usize, usize),
    (a, b, c): Places,
) {
    // SAFETY: by contract every element named here lies in its buffer.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        let c = c.wrapping_add(i * t.c + j);
        if t.add {
            for r in 0..R {
                for v in 0..N {
                    sums[r][v] = V::load(c.wrapping_add(r * t.c + v * V::WIDTH));
                }
            }
        }
        let a = [i, i + 3].map(|i| opaque(a.wrapping_add(i * t.a.0)));
        let mut at = At { a, b: b.wrapping_add(j) };
        for _ in 0..t.k / 4 {
            one::<V, R, N, ALONG>(t, &mut sums, &mut at);
            one::<V, R, N, ALONG>(t, &mut sums, &mut at);
            one::<V, R, N, ALONG>(t, &mut sums, &mut at);
            one::<V, R, N, ALONG>(t, &mut sums, &mut at);
        }
        for _ in 0..t.k % 4 {
            one::<V, R, N, ALONG>(t, &mut sums, &mut at);
        }
        for r in 0..R {
            for v in 0..N {
                sums[r][v].store(c.wrapping_add(r * t.c + v * V::WIDTH));
            }
        }
    }
}

/// All rows of `N` vectors of columns.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn columns<V: Lanes, const N: usize, const ALONG: bool>(t: &Tile, j: usize, at: Places) {
    let mut i = 0;
    // SAFETY: the rows are counted against `m`.
    unsafe {
        while i + 6 <= t.m {
            block::<V, 6, N, ALONG>(t, (i, j), at);
            i += 6;
        }
        if i + 4 <= t.m {
            block::<V, 4, N, ALONG>(t, (i, j), at);
            i += 4;
        }
        while i < t.m {
            block::<V, 1, N, ALONG>(t, (i, j), at);
            i += 1;
        }
    }
}

/// `N` vectors of `V` are 16 columns, `M` vectors of `U` are 8.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn along<V: Lanes, const N: usize, U: Lanes, const M: usize, const ALONG: bool>(
    t: &Tile,
    at: Places,
) {
    let mut j = 0;
    // SAFETY: the columns are counted against `n`.
    unsafe {
        while j + 16 <= t.n {
            columns::<V, N, ALONG>(t, j, at);
            j += 16;
        }
        if j + 8 <= t.n {
            columns::<U, M, ALONG>(t, j, at);
            j += 8;
        }
        while j < t.n {
            columns::<f32, 1, ALONG>(t, j, at);
            j += 1;
        }
    }
}

/// # Safety
/// [`Tile::check`] has passed.
#[inline(always)]
unsafe fn all<V: Lanes, const N: usize, U: Lanes, const M: usize>(t: &Tile, at: Places) {
    // SAFETY: a stride is 1.
    unsafe {
        if t.a.1 == 1 {
            along::<V, N, U, M, true>(t, at);
        } else {
            along::<V, N, U, M, false>(t, at);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(t: &Tile, at: Places) {
    // SAFETY: the caller's promise.
    unsafe { all::<__m256, 2, __m256, 1>(t, at) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn avx512(t: &Tile, at: Places) {
    // SAFETY: the caller's promise.
    unsafe { all::<__m512, 1, __m256, 1>(t, at) }
}

/// `C = A B` or `C += A B`; see [`Tile`]. Panics when a buffer is too short.
pub(crate) fn multiply(isa: Isa, t: &Tile, a: &[f32], b: &[f32], c: &mut [f32]) {
    if t.m == 0 || t.n == 0 || t.k == 0 {
        assert!(t.add || t.m == 0 || t.n == 0, "an empty sum has nothing to set");
        return;
    }
    t.check(a.len(), b.len(), c.len());
    let at = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    // SAFETY: checked above; holding the `Isa` proves the features.
    unsafe {
        match isa.set() {
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => avx2(t, at),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => avx512(t, at),
            _ => all::<[f32; 4], 4, [f32; 4], 2>(t, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_shape_is_the_plain_loop_bit_by_bit() {
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) * 0.013;
        for (m, n, k) in
            [(1, 1, 1), (6, 16, 5), (7, 25, 9), (11, 40, 33), (64, 48, 64), (13, 31, 2)]
        {
            for (transposed, add) in [(false, false), (false, true), (true, true)] {
                let strides = if transposed { (1, m + 3) } else { (k + 2, 1) };
                let t = Tile { m, n, k, a: strides, b: n + 1, c: n + 5, add };
                let a: Vec<f32> = (0..(m + 3) * (k + 2)).map(value).collect();
                let b: Vec<f32> = (0..k * (n + 1)).map(|i| value(i + 11)).collect();
                let c: Vec<f32> = (0..m * (n + 5)).map(|i| value(i + 7)).collect();
                let mut expected = c.clone();
                for i in 0..m {
                    for j in 0..n {
                        let at = i * t.c + j;
                        let from = if add { c[at] } else { 0.0 };
                        expected[at] = (0..k).fold(from, |sum, l| {
                            a[i * t.a.0 + l * t.a.1].mul_add(b[l * t.b + j], sum)
                        });
                    }
                }
                for isa in Isa::available() {
                    let mut got = c.clone();
                    multiply(isa, &t, &a, &b, &mut got);
                    assert_eq!(got, expected, "{isa:?} {t:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "over 11, 12, 12 floats")]
    fn a_short_buffer_is_refused() {
        let t = Tile { m: 3, n: 3, k: 4, a: (4, 1), b: 3, c: 4, add: false };
        multiply(Isa::best(), &t, &[0.0; 11], &[0.0; 12], &mut [0.0; 12]);
    }
}
