//! Ranks that add vectors together: threads in one process, MPI across machines.
//!
//! The key decision: a sum is taken in the order of the ranks, element by element, whatever carries the
//! values. So all ranks get the same bits, a run repeats bit for bit with the same number of ranks, and R
//! MPI ranks compute what R threads compute; no algorithm of a library can change a loss curve. It
//! costs no bandwidth: every rank adds up its part of the vector and the parts are gathered, which is
//! the 2(R-1)/R of the vector per rank that a ring moves as well (Thakur, Rabenseifner and Gropp 2005,
//! "Optimization of Collective Communication Operations in MPICH").
//!
//! A rank that fails does not leave the others waiting: dropping a rank tells them, see
//! [`Collective::leave`]. What this crate does not do: a network protocol of its own, elastic
//! membership (a lost rank ends the run, which is resumed from its checkpoint), model parallelism.

mod alone;
mod error;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod overlap;
mod parts;
mod threads;

use std::ops::Range;

#[cfg(feature = "mpi")]
pub use self::mpi::Mpi;
pub use alone::Alone;
pub use error::{Error, Result};
pub use launch::{Launch, connect, launch};
pub use overlap::Overlap;
pub use parts::even_parts;
pub use threads::Threads;

/// How small vectors of scalars are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Added in the order of the ranks.
    Sum,
    /// The greatest; NaN where any rank has one.
    Max,
}

/// One of R ranks that run the same program. All must call the same operations in the same order with
/// vectors of the same lengths; each call returns when this rank has its result, and one that a lost rank
/// prevents returns an error.
pub trait Collective: Send {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are, at least 1.
    fn ranks(&self) -> usize;

    /// Every rank gets the sum of all ranks' `values`: same bits on every rank.
    fn all_reduce(&mut self, values: &mut [f32]) -> Result<()>;

    /// Afterwards `values[parts[rank]]` is the sum over ranks; what the rest holds is not said.
    /// `parts` has one range for each rank; they ascend and do not overlap.
    fn reduce_scatter(&mut self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()>;

    /// Every rank has `values[parts[rank]]`; afterwards every rank has all parts.
    fn all_gather(&mut self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()>;

    /// Every rank gets the `values` of rank `root`.
    fn broadcast(&mut self, values: &mut [f32], root: usize) -> Result<()>;

    /// Returns when all ranks have called it.
    fn barrier(&mut self) -> Result<()>;

    /// Every rank gets every rank's bytes, in the order of the ranks; lengths may differ. For small
    /// things: hashes, counters, names.
    fn gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Begins to add up `values`. The same values, unchanged, go to [`Collective::finish_all_reduce`]
    /// afterwards; buckets are finished in the order in which they began, on every rank.
    fn begin_all_reduce(&mut self, values: &[f32]) -> Result<()>;

    /// Moves what was begun forward without waiting; to be called now and then while computing.
    fn progress(&mut self) -> Result<()>;

    /// Waits for the oldest bucket that was begun, and writes its sum to `values`.
    fn finish_all_reduce(&mut self, values: &mut [f32]) -> Result<()>;

    /// The last call of a rank that has done its work; returns when all have. A rank that is dropped
    /// without it is taken for lost: with threads, the others get [`Error::Lost`] as soon as they need it;
    /// with MPI, the job ends.
    fn leave(&mut self) -> Result<()>;

    /// Every rank gets the combination of all ranks' small vectors of scalars; same bits on every rank.
    fn combine(&mut self, values: &mut [f64], how: Combine) -> Result<()> {
        if self.ranks() == 1 {
            return Ok(());
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        for (rank, bytes) in self.gather(&bytes)?.iter().enumerate() {
            if bytes.len() != 8 * values.len() {
                return Err(Error::OutOfStep {
                    first: "combine",
                    first_length: values.len(),
                    rank,
                    second: "combine",
                    second_length: bytes.len() / 8,
                });
            }
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(8)) {
                let theirs = f64::from_le_bytes(bytes.try_into().unwrap_or_default());
                *value = match how {
                    _ if rank == 0 => theirs,
                    Combine::Sum => *value + theirs,
                    Combine::Max if value.is_nan() || theirs <= *value => *value,
                    Combine::Max => theirs,
                };
            }
        }
        Ok(())
    }

    /// Fails on every rank, naming the ranks that differ from rank 0, unless all give the same bytes
    /// (the hash of a recipe, of a data set).
    fn agree(&mut self, what: &str, bytes: &[u8]) -> Result<()> {
        let all = self.gather(bytes)?;
        let differs = |&rank: &usize| all[rank] != all[0];
        let ranks: Vec<usize> = (0..all.len()).filter(differs).collect();
        if ranks.is_empty() {
            Ok(())
        } else {
            Err(Error::Disagree { what: what.to_string(), ranks })
        }
    }
}
