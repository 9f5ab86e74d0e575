//! Products of small f32 tiles on one thread: what attention multiplies.
//!
//! The key decision: the right side's rows are contiguous, so a lane is a column and nothing adds across
//! lanes; the left side may have any strides, so one kernel serves `A B` and `A^T B`. Each element is
//! one sequence of fused multiply-adds over `k`, whatever the instruction set or the place in the tile.
//!
//! Not here: large products (they want packing and threads).
#![allow(unsafe_code)]

use crate::isa::multiversion;

/// The sizes of a product `C (m, n) = or += A (m, k) B (k, n)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Floats between rows of A, and between its columns.
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
        inside((self.m, self.a.0), (self.k, self.a.1), a);
        inside((self.k, self.b), (self.n, 1), b);
        inside((self.m, self.c), (self.n, 1), c);
    }
}

/// `R` rows and `W` columns with their sums in registers.
///
/// # Safety
/// Rows `i..i + R` and columns `j..j + W` are inside `t`, and [`Tile::check`] has passed.
#[inline(always)]
unsafe fn block<const R: usize, const W: usize>(
    t: &Tile,
    (i, j): (usize, usize),
    (a, b, c): (*const f32, *const f32, *mut f32),
) {
    let mut sums = [[0f32; W]; R];
    // SAFETY: by contract every element named here lies in its buffer.
    unsafe {
        if t.add {
            for r in 0..R {
                sums[r] = c.add((i + r) * t.c + j).cast::<[f32; W]>().read_unaligned();
            }
        }
        let (mut a, mut b) = (a.add(i * t.a.0), b.add(j));
        for _ in 0..t.k {
            let row = b.cast::<[f32; W]>().read_unaligned();
            for r in 0..R {
                let x = *a.add(r * t.a.0);
                for w in 0..W {
                    sums[r][w] = x.mul_add(row[w], sums[r][w]);
                }
            }
            (a, b) = (a.wrapping_add(t.a.1), b.wrapping_add(t.b));
        }
        for r in 0..R {
            c.add((i + r) * t.c + j).cast::<[f32; W]>().write_unaligned(sums[r]);
        }
    }
}

/// All rows of `W` columns.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn columns<const W: usize>(t: &Tile, j: usize, at: (*const f32, *const f32, *mut f32)) {
    let mut i = 0;
    // SAFETY: the rows are counted against `m`.
    unsafe {
        while i + 6 <= t.m {
            block::<6, W>(t, (i, j), at);
            i += 6;
        }
        if i + 4 <= t.m {
            block::<4, W>(t, (i, j), at);
            i += 4;
        }
        while i < t.m {
            block::<1, W>(t, (i, j), at);
            i += 1;
        }
    }
}

multiversion! {
    /// `C = A B` or `C += A B`; see [`Tile`]. Panics when a buffer is too short.
    pub(crate) fn multiply(t: &Tile, a: &[f32], b: &[f32], c: &mut [f32]) {
        if t.m == 0 || t.n == 0 || t.k == 0 {
            assert!(t.add || t.m == 0 || t.n == 0, "an empty sum has nothing to set");
            return;
        }
        t.check(a.len(), b.len(), c.len());
        let at = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        let mut j = 0;
        // SAFETY: checked above; the columns are counted against `n`.
        unsafe {
            while j + 16 <= t.n {
                columns::<16>(t, j, at);
                j += 16;
            }
            if j + 8 <= t.n {
                columns::<8>(t, j, at);
                j += 8;
            }
            while j < t.n {
                columns::<1>(t, j, at);
                j += 1;
            }
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
