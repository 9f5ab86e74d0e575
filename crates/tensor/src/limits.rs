//! What this machine can do at most: read bandwidth and arithmetic, measured.
//!
//! The key decision: a speed means something only beside the limit that was measured on the same
//! machine in the same minute, with the instructions that the kernels of the same instruction set
//! use. Registers only for arithmetic; many times the caches, on huge pages and fetched far ahead,
//! for reading.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Pool;
use crate::aligned::AlignedBytes;
#[cfg(target_arch = "x86_64")]
use crate::isa::Set;
use crate::isa::{Isa, multiversion};

/// Bytes read for the bandwidth: many times any cache.
const BYTES: usize = 384 << 20;

/// Bytes a thread takes at once.
const STRETCH: usize = 4 << 20;

/// How long one limit is measured.
const TIME: Duration = Duration::from_millis(300);

/// Rounds of a loop of arithmetic that a thread takes at once: some tens of microseconds.
const ROUNDS: usize = 20_000;

/// Bytes a second that `threads` threads read from memory.
pub fn read_bandwidth(threads: usize) -> f64 {
    let mut pool = Pool::stubborn(threads);
    let mut data = AlignedBytes::zeroed(BYTES);
    // Written once: pages that were never written are one shared page of zeros.
    data.chunks_mut(4096).for_each(|page| page[0] = 1);
    let (isa, data) = (Isa::best(), &data[..]);
    let pieces = BYTES / STRETCH;
    let seconds = median(|| {
        pool.run(pieces, &|piece, _| {
            black_box(read(isa, &data[piece * STRETCH..][..STRETCH]));
        });
    });
    BYTES as f64 / seconds
}

/// Multiplications and additions of 8-bit integers a second.
pub fn peak_int8(threads: usize) -> f64 {
    peak(threads, int8)
}

/// Multiplications and additions of 32-bit floats a second.
pub fn peak_f32(threads: usize) -> f64 {
    peak(threads, f32s)
}

/// As [`peak_f32`] with all threads of a pool, but only some milliseconds of it: to be taken between the
/// runs of what is measured, where a shared machine changes its speed from one moment to the next.
pub fn peak_f32_now(pool: &mut Pool) -> f64 {
    let (isa, pieces) = (Isa::best(), 64 * pool.threads());
    let start = Instant::now();
    pool.run(pieces, &|_, _| {
        f32s(isa, ROUNDS);
    });
    (f32s(isa, 0) * ROUNDS * pieces) as f64 / start.elapsed().as_secs_f64()
}

fn peak(threads: usize, kernel: fn(Isa, usize) -> usize) -> f64 {
    let mut pool = Pool::stubborn(threads);
    let isa = Isa::best();
    let pieces = 16 * threads.max(1);
    let seconds = median(|| {
        pool.run(pieces, &|_, _| {
            kernel(isa, ROUNDS);
        });
    });
    (kernel(isa, 0) * ROUNDS * pieces) as f64 / seconds
}

/// Median seconds of a call.
fn median(mut job: impl FnMut()) -> f64 {
    job();
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < TIME || times.is_empty() {
        let t = Instant::now();
        job();
        times.push(t.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

multiversion! {
    /// Reads everything once.
    fn read(data: &[u8]) -> u64 {
        let mut sums = [0u64; 32];
        let words: &[u64] = bytemuck::cast_slice(data);
        for part in words.chunks_exact(32) {
            #[cfg(target_arch = "x86_64")]
            for line in 0..4 {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                let ahead = part.as_ptr().cast::<i8>().wrapping_add(4096 + 64 * line);
                // SAFETY: a prefetch never faults, whatever the address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead) };
            }
            for (sum, word) in sums.iter_mut().zip(part) {
                *sum ^= word;
            }
        }
        sums.iter().fold(0, |all, sum| all ^ sum)
    }
}

/// A loop of 8-bit products; gives the operations of a round.
fn int8(isa: Isa, rounds: usize) -> usize {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: holding the `Isa` proves the features.
        Set::Avx512 => unsafe { x86::int8_avx512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Set::Avx2 => unsafe { x86::int8_avx2(rounds) },
        _ => {
            let (a, b) = black_box(([3i8; 64], [5i8; 64]));
            let mut sums = [0i32; 64];
            for _ in 0..rounds {
                let (a, b) = (black_box(&a), black_box(&b));
                for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                    *sum = sum.wrapping_add(i32::from(*a) * i32::from(*b));
                }
            }
            black_box(sums);
            2 * 64
        }
    }
}

/// A loop of fused multiply-adds; gives the operations of a round.
fn f32s(isa: Isa, rounds: usize) -> usize {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: holding the `Isa` proves the features.
        Set::Avx512 => unsafe { x86::f32_avx512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Set::Avx2 => unsafe { x86::f32_avx2(rounds) },
        _ => {
            let (a, b) = black_box((0.999f32, 0.001f32));
            let mut sums = [1f32; 48];
            for _ in 0..rounds {
                sums.iter_mut().for_each(|sum| *sum = sum.mul_add(a, b));
            }
            black_box(sums);
            2 * 48
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Sums in flight: enough to hide the latency of both units.
    const SUMS: usize = 12;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn int8_avx512(rounds: usize) -> usize {
        let (a, b) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(5)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        2 * 64 * SUMS
    }

    /// As the kernels do it: pairs of products in 16 bits, then added.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn int8_avx2(rounds: usize) -> usize {
        let a: [__m256i; 6] = black_box([_mm256_set1_epi8(3); 6]);
        let mut sums = [_mm256_setzero_si256(); 6];
        for i in 0..rounds {
            let b = _mm256_set1_epi8(i as i8);
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(a, b));
            }
        }
        black_box(sums);
        2 * 32 * 6
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn f32_avx512(rounds: usize) -> usize {
        let (a, b) = black_box((_mm512_set1_ps(0.999), _mm512_set1_ps(0.001)));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        2 * 16 * SUMS
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn f32_avx2(rounds: usize) -> usize {
        let (a, b) = black_box((_mm256_set1_ps(0.999), _mm256_set1_ps(0.001)));
        let mut sums = [_mm256_set1_ps(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        2 * 8 * SUMS
    }
}
