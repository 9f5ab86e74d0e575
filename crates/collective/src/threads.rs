//! Ranks that are threads of one process.
//!
//! The key decision: values pass through shared slots behind locks, a few megabytes at a time, between
//! barriers that park. That copies each value three times, where pointers into each other's vectors
//! would copy once, but it is safe Rust, and ranks in one process exist to test the algebra of many
//! and to use machines with several memories, not to break records.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};

use crate::alone::check_root;
use crate::parts::check_parts;
use crate::{Collective, Error, Result, even_parts};

/// Floats that are exchanged between two barriers: 2 MiB for each rank.
const PIECE: usize = 1 << 19;

/// One rank of several in this process; see [`Threads::group`].
pub struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    ranks: usize,
    meeting: Mutex<Meeting>,
    moved: Condvar,
    /// What each rank gave, and what it made of its part.
    given: Vec<RwLock<Vec<f32>>>,
    summed: Vec<RwLock<Vec<f32>>>,
    bytes: Vec<RwLock<Vec<u8>>>,
}

/// Where the ranks meet.
#[derive(Default)]
struct Meeting {
    arrived: usize,
    /// Counts meetings that took place.
    number: u64,
    /// What the first to arrive is doing, with how many values.
    call: Option<(&'static str, usize)>,
    /// Why no further meeting will take place.
    failed: Option<Failure>,
}

#[derive(Clone)]
enum Failure {
    Lost(usize),
    OutOfStep(Error),
}

impl Threads {
    /// All ranks of a group of `ranks` (at least one), to be given to as many threads.
    pub fn group(ranks: usize) -> Vec<Threads> {
        let ranks = ranks.max(1);
        let shared = Arc::new(Shared {
            ranks,
            meeting: Mutex::default(),
            moved: Condvar::new(),
            given: (0..ranks).map(|_| RwLock::default()).collect(),
            summed: (0..ranks).map(|_| RwLock::default()).collect(),
            bytes: (0..ranks).map(|_| RwLock::default()).collect(),
        });
        (0..ranks).map(|rank| Threads { rank, shared: Arc::clone(&shared) }).collect()
    }

    /// Returns when all ranks are in the same `operation` with the same `length`.
    fn meet(&self, operation: &'static str, length: usize) -> Result<()> {
        let shared = &*self.shared;
        let mut meeting = shared.lock();
        if let Some(failure) = &meeting.failed {
            return Err(failure.error(self.rank, operation));
        }
        let (first, first_length) = *meeting.call.get_or_insert((operation, length));
        if (first, first_length) != (operation, length) {
            let (second, second_length, rank) = (operation, length, self.rank);
            let error = Error::OutOfStep { first, first_length, rank, second, second_length };
            meeting.failed = Some(Failure::OutOfStep(error.clone()));
            shared.moved.notify_all();
            return Err(error);
        }
        meeting.arrived += 1;
        if meeting.arrived == shared.ranks {
            (meeting.arrived, meeting.call) = (0, None);
            meeting.number += 1;
            shared.moved.notify_all();
            return Ok(());
        }
        let number = meeting.number;
        loop {
            meeting = shared.moved.wait(meeting).unwrap_or_else(|poisoned| poisoned.into_inner());
            // A meeting that took place stands, whatever happened since.
            if meeting.number != number {
                return Ok(());
            }
            if let Some(failure) = &meeting.failed {
                return Err(failure.error(self.rank, operation));
            }
        }
    }

    /// Puts `values` where the others see them.
    fn give(&self, values: &[f32]) {
        let mut slot = write(&self.shared.given[self.rank]);
        slot.clear();
        slot.extend_from_slice(values);
    }

    /// Adds up `range` of what all ranks gave, in their order.
    fn sum_given(&self, range: Range<usize>, sum: &mut Vec<f32>) {
        sum.clear();
        sum.extend_from_slice(&read(&self.shared.given[0])[range.clone()]);
        for given in &self.shared.given[1..] {
            for (sum, value) in sum.iter_mut().zip(&read(given)[range.clone()]) {
                *sum += value;
            }
        }
    }

    fn all_reduce_piece(&self, values: &mut [f32]) -> Result<()> {
        let parts = even_parts(values.len(), self.ranks());
        self.give(values);
        self.meet("all_reduce", values.len())?;
        self.sum_given(parts[self.rank].clone(), &mut write(&self.shared.summed[self.rank]));
        self.meet("all_reduce", values.len())?;
        // The next piece overwrites what was given, which all have read, and no sum before the next
        // meeting.
        for (part, summed) in parts.into_iter().zip(&self.shared.summed) {
            values[part].copy_from_slice(&read(summed));
        }
        Ok(())
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.shared.ranks
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> Result<()> {
        self.meet("all_reduce", values.len())?; // lengths differ: before anything is changed
        values.chunks_mut(PIECE).try_for_each(|piece| self.all_reduce_piece(piece))
    }

    fn reduce_scatter(&mut self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()> {
        check_parts("reduce_scatter", parts, self.ranks(), values.len())?;
        self.meet("reduce_scatter", values.len())?;
        for start in (0..values.len()).step_by(PIECE) {
            let piece = start..(start + PIECE).min(values.len());
            self.give(&values[piece.clone()]);
            self.meet("reduce_scatter", piece.len())?;
            let own = &parts[self.rank];
            let own = own.start.max(piece.start)..own.end.min(piece.end);
            if own.start < own.end {
                let mut sum = write(&self.shared.summed[self.rank]);
                self.sum_given(own.start - start..own.end - start, &mut sum);
                values[own].copy_from_slice(&sum);
            }
            self.meet("reduce_scatter", piece.len())?;
        }
        Ok(())
    }

    fn all_gather(&mut self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()> {
        check_parts("all_gather", parts, self.ranks(), values.len())?;
        self.meet("all_gather", values.len())?;
        let longest = parts.iter().map(Range::len).max().unwrap_or(0);
        for start in (0..longest).step_by(PIECE) {
            let piece = |part: &Range<usize>| {
                let end = (part.start + start + PIECE).min(part.end);
                (part.start + start).min(end)..end
            };
            self.give(&values[piece(&parts[self.rank])]);
            self.meet("all_gather", start)?;
            for (rank, part) in parts.iter().enumerate().filter(|(rank, _)| *rank != self.rank) {
                let (given, place) = (read(&self.shared.given[rank]), &mut values[piece(part)]);
                if given.len() != place.len() {
                    let (first_length, second_length) = (place.len(), given.len());
                    let (first, second) = ("all_gather of a part", "all_gather of a part");
                    return Err(Error::OutOfStep {
                        first,
                        first_length,
                        rank,
                        second,
                        second_length,
                    });
                }
                place.copy_from_slice(&given);
            }
            self.meet("all_gather", start)?;
        }
        Ok(())
    }

    fn broadcast(&mut self, values: &mut [f32], root: usize) -> Result<()> {
        check_root(root, self.ranks())?;
        self.meet("broadcast", values.len())?;
        self.meet("broadcast from a rank", root)?;
        for piece in values.chunks_mut(PIECE) {
            if self.rank == root {
                self.give(piece);
            }
            self.meet("broadcast", piece.len())?;
            if self.rank != root {
                piece.copy_from_slice(&read(&self.shared.given[root]));
            }
            self.meet("broadcast", piece.len())?;
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<()> {
        self.meet("barrier", 0)
    }

    fn gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        *write(&self.shared.bytes[self.rank]) = bytes.to_vec();
        self.meet("gather", 0)?;
        let all = self.shared.bytes.iter().map(|bytes| read(bytes).clone()).collect();
        self.meet("gather", 0)?;
        Ok(all)
    }

    // Ranks in one process share its cores: a sum that runs beside backward would only slow it. So a
    // bucket that begins is left where it is.
    fn begin_all_reduce(&mut self, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn progress(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish_all_reduce(&mut self, values: &mut [f32]) -> Result<()> {
        self.all_reduce(values)
    }

    fn leave(&mut self) -> Result<()> {
        self.meet("leave", 0)
    }
}

/// Whoever still waits for this rank learns that it will not come.
impl Drop for Threads {
    fn drop(&mut self) {
        let mut meeting = self.shared.lock();
        meeting.failed.get_or_insert(Failure::Lost(self.rank));
        drop(meeting);
        self.shared.moved.notify_all();
    }
}

impl Shared {
    // A lock is poisoned by a rank that panicked; that rank is dropped, and its loss is what the
    // others are told.
    fn lock(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Failure {
    fn error(&self, by: usize, operation: &'static str) -> Error {
        match self {
            Failure::Lost(rank) => Error::Lost { rank: *rank, by, operation },
            Failure::OutOfStep(error) => error.clone(),
        }
    }
}

fn read<T>(slot: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    slot.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write<T>(slot: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    slot.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}
