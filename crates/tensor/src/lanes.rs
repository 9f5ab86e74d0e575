//! Vectors of floats: what the tiles of registers are generic over.
//!
//! The key decision: a trait over the vectors themselves, not a portable loop, where sums must stay in
//! registers: the compiler keeps arrays of vectors there and not always arrays of floats. Every method is
//! `inline(always)` into an entry point that carries the features of its instruction set; an
//! [`Isa`](crate::Isa) proves them.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A vector of floats.
pub(crate) trait Lanes: Copy {
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

/// One float: columns at the edges.
impl Lanes for f32 {
    const WIDTH: usize = 1;
    #[inline(always)]
    unsafe fn zero() -> Self {
        0.0
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives a float.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives room for a float.
        unsafe { *p = self }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        self.mul_add(b, c)
    }
}
