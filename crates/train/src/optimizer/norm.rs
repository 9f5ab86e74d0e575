//! The global norm of the gradients.
//!
//! The key decision: squares are summed in `f64` over fixed chunks of the flat buffer, and the chunks'
//! sums in their order, whoever computed them; so the norm, and with it clipping, has the same bits for
//! any number of threads and ranks. Each rank reads only the chunks that begin in its part.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use yushan_collective::Collective;
use yushan_tensor::{Isa, Pool, update};

use crate::Result;

/// Elements of a chunk.
const CHUNK: usize = 1 << 16;

/// Chunks that one task of the pool sums up one by one.
fn chunks_per_task(chunks: usize) -> usize {
    chunks.div_ceil(1 << 12).max(1)
}

/// The square root of the sum of squares of `grads`, which are the same on every rank. NaN or infinite
/// when a gradient is.
pub(super) fn global_norm(
    pool: &mut Pool,
    ranks: &mut dyn Collective,
    parts: &[Range<usize>],
    grads: &[f32],
) -> Result<f64> {
    // A chunk belongs to the rank whose part it begins in: all chunks have one owner, in rank order.
    let part = &parts[ranks.rank()];
    let own = part.start.div_ceil(CHUNK)..part.end.div_ceil(CHUNK);
    let sums: Vec<AtomicU64> = own.clone().map(|_| AtomicU64::new(0)).collect();
    let (isa, task) = (Isa::best(), chunks_per_task(own.len()));
    pool.run(own.len().div_ceil(task), &|at, _| {
        for (chunk, sum) in sums.iter().enumerate().skip(at * task).take(task) {
            let start = (own.start + chunk) * CHUNK;
            let values = &grads[start..(start + CHUNK).min(grads.len())];
            let squares = update::sum_of_squares(isa, values);
            sum.store(squares.to_bits(), Ordering::Relaxed);
        }
    });
    let bytes: Vec<u8> =
        sums.iter().flat_map(|sum| sum.load(Ordering::Relaxed).to_le_bytes()).collect();
    let mut total = 0.0;
    for bytes in ranks.gather(&bytes)? {
        for sum in bytes.chunks_exact(8) {
            total += f64::from_le_bytes(sum.try_into().unwrap_or_default());
        }
    }
    Ok(total.sqrt())
}
