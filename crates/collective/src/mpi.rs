//! Ranks that are processes, on one machine or many, over MPI (any library with MPI 3).
//!
//! The key decision: a sum is an all-to-all of parts, an addition here in rank order, and an
//! all-gather; MPI moves bytes and adds nothing up, so no algorithm or version of a library changes a bit.
//! Both halves exist without blocking, which is how gradients travel while backward computes. MPI wants
//! non-blocking operations begun in the same order on all ranks: the halves have a communicator each,
//! and each half is begun in the order of the buckets.
//!
//! A rank that stops without [`Collective::leave`] does not finalise MPI: when its process ends, the
//! launcher ends the job (`mpirun` always, `srun` with `--kill-on-bad-exit=1`), so nobody waits for ever.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::raw::{c_int, c_void};

use mpi::environment::Universe;
use mpi::{Threading, ffi};

use crate::alone::check_root;
use crate::parts::check_parts;
use crate::{Collective, Error, Result, even_parts};

/// Floats of one exchange of a blocking sum: 32 MiB, so that a great vector needs no second one.
const PIECE: usize = 1 << 23;

/// MPI counts in C's `int`.
const MOST: usize = c_int::MAX as usize;

/// This process among the ranks of an MPI job.
pub struct Mpi {
    /// Dropping it finalises MPI, which waits for all ranks: see [`Mpi::drop`].
    universe: ManuallyDrop<Universe>,
    left: bool,
    rank: usize,
    ranks: usize,
    /// For the first halves of sums, and for all that blocks.
    scatter: ffi::MPI_Comm,
    /// For the second halves.
    gather: ffi::MPI_Comm,
    buckets: VecDeque<Bucket>,
    /// Buffers of buckets that are done.
    spare: Vec<Bucket>,
    /// What blocking sums receive.
    received: Vec<f32>,
}

// SAFETY: MPI was initialised for calls from any thread, one at a time, and all calls are behind `&mut`.
unsafe impl Send for Mpi {}

/// A sum on its way. What MPI reads or writes lies in vectors that are not touched until `request` is
/// done; moving the bucket does not move what they hold.
struct Bucket {
    stage: Stage,
    request: ffi::MPI_Request,
    /// `(length)`: what was given; in the second half, what comes back.
    values: Vec<f32>,
    /// `(ranks, own part)`: the own part of every rank; its first row becomes the sum.
    received: Vec<f32>,
    layout: Layout,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Scatter,
    Gather,
    Done,
}

/// Counts and places in elements, as MPI takes them; they too must outlive a request.
#[derive(Default)]
struct Layout {
    /// Of the part of every rank in the vector.
    counts: Vec<c_int>,
    places: Vec<c_int>,
    /// Of what every rank sends to this one.
    own_counts: Vec<c_int>,
    own_places: Vec<c_int>,
}

impl Layout {
    fn new(operation: &'static str, parts: &[Range<usize>], rank: usize) -> Result<Layout> {
        let own = parts[rank].len();
        let last = parts.last().map_or(0, |part| part.end).max(own.saturating_mul(parts.len()));
        if last > MOST {
            let detail = format!("{last} values at once; MPI counts to {MOST}: use smaller pieces");
            return Err(Error::Argument { operation, detail });
        }
        let int = |value: usize| value as c_int; // at most MOST
        Ok(Layout {
            counts: parts.iter().map(|part| int(part.len())).collect(),
            places: parts.iter().map(|part| int(part.start)).collect(),
            own_counts: parts.iter().map(|_| int(own)).collect(),
            own_places: (0..parts.len()).map(|rank| int(rank * own)).collect(),
        })
    }
}

/// Turns a code of the library into an error with the library's words.
fn check(operation: &'static str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(()); // MPI_SUCCESS is 0 by the standard
    }
    let mut text = [0u8; 4096]; // far above any MPI_MAX_ERROR_STRING
    let mut length: c_int = 0;
    // SAFETY: the buffer is longer than any message.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut length) };
    let text = &text[..usize::try_from(length).unwrap_or(0).min(text.len())];
    let message = format!("{} (code {code})", String::from_utf8_lossy(text));
    Err(Error::Mpi { operation, message })
}

impl Mpi {
    /// Initialises MPI; once in a process.
    ///
    /// # Errors
    /// MPI was initialised before, or cannot be called from more than the first thread.
    pub fn connect() -> Result<Mpi> {
        let operation = "initialise";
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized)
        else {
            let message = "MPI is initialised already; connect once in a process".to_string();
            return Err(Error::Mpi { operation, message });
        };
        if threading < Threading::Serialized {
            let message = format!(
                "the library offers {threading:?} only; expected one that lets any thread call it (Serialized)"
            );
            return Err(Error::Mpi { operation, message });
        }
        let (mut rank, mut ranks) = (0, 0);
        // SAFETY: MPI is initialised; the results go to the two integers.
        let codes = unsafe {
            let world = ffi::RSMPI_COMM_WORLD;
            [ffi::MPI_Comm_rank(world, &mut rank), ffi::MPI_Comm_size(world, &mut ranks)]
        };
        codes.into_iter().try_for_each(|code| check(operation, code))?;
        Ok(Mpi {
            universe: ManuallyDrop::new(universe),
            left: false,
            rank: rank as usize,
            ranks: ranks as usize,
            scatter: communicator()?,
            gather: communicator()?,
            buckets: VecDeque::new(),
            spare: Vec::new(),
            received: Vec::new(),
        })
    }

    /// Blocking operations would overtake buckets that were begun.
    fn idle(&self, operation: &'static str) -> Result<()> {
        if self.buckets.is_empty() {
            return Ok(());
        }
        let detail = format!("{} buckets were begun and not finished", self.buckets.len());
        Err(Error::Argument { operation, detail })
    }

    /// Every rank's values of this rank's part, `(ranks, own part)`, to `received`.
    fn exchange(
        &self,
        operation: &'static str,
        values: &[f32],
        layout: &Layout,
        received: &mut Vec<f32>,
    ) -> Result<()> {
        received.resize(layout.own_counts.iter().map(|&count| count as usize).sum(), 0.0);
        // SAFETY: `layout` was made for parts inside `values` and for `received`; the call blocks.
        check(operation, unsafe {
            ffi::MPI_Alltoallv(
                values.as_ptr().cast(),
                layout.counts.as_ptr(),
                layout.places.as_ptr(),
                ffi::RSMPI_FLOAT,
                received.as_mut_ptr().cast(),
                layout.own_counts.as_ptr(),
                layout.own_places.as_ptr(),
                ffi::RSMPI_FLOAT,
                self.scatter,
            )
        })
    }

    /// Every rank's `own` to its place in `values`.
    fn collect(
        &self,
        operation: &'static str,
        own: &[f32],
        layout: &Layout,
        values: &mut [f32],
    ) -> Result<()> {
        // SAFETY: `layout` was made for parts inside `values` and `own` has this rank's count; the
        // call blocks.
        check(operation, unsafe {
            ffi::MPI_Allgatherv(
                own.as_ptr().cast(),
                own.len() as c_int,
                ffi::RSMPI_FLOAT,
                values.as_mut_ptr().cast(),
                layout.counts.as_ptr(),
                layout.places.as_ptr(),
                ffi::RSMPI_FLOAT,
                self.scatter,
            )
        })
    }

    /// The second half of a sum whose first half is done.
    fn begin_gather(bucket: &mut Bucket, rank: usize, gather: ffi::MPI_Comm) -> Result<()> {
        let own = bucket.layout.own_counts[rank] as usize;
        add_rows(&mut bucket.received, own);
        bucket.stage = Stage::Gather;
        // SAFETY: the bucket owns all that is read and written and keeps it until the request is done.
        check("all_reduce, gathering", unsafe {
            ffi::MPI_Iallgatherv(
                bucket.received.as_ptr().cast(),
                own as c_int,
                ffi::RSMPI_FLOAT,
                bucket.values.as_mut_ptr().cast(),
                bucket.layout.counts.as_ptr(),
                bucket.layout.places.as_ptr(),
                ffi::RSMPI_FLOAT,
                gather,
                &mut bucket.request,
            )
        })
    }

    /// Waits for the current half of a bucket.
    fn wait(bucket: &mut Bucket) -> Result<()> {
        // SAFETY: the request is this bucket's own; once done it is MPI's null request.
        check("all_reduce, waiting", unsafe {
            ffi::MPI_Wait(&mut bucket.request, ffi::RSMPI_STATUS_IGNORE)
        })
    }
}

/// A copy of the world's communicator whose errors are returned, not fatal.
fn communicator() -> Result<ffi::MPI_Comm> {
    // SAFETY: MPI is initialised; `made` is written before it is used.
    unsafe {
        let mut made = ffi::RSMPI_COMM_NULL;
        check("initialise", ffi::MPI_Comm_dup(ffi::RSMPI_COMM_WORLD, &mut made))?;
        check("initialise", ffi::MPI_Comm_set_errhandler(made, ffi::RSMPI_ERRORS_RETURN))?;
        Ok(made)
    }
}

/// Adds the rows of `(rows, width)` to the first, in order.
fn add_rows(rows: &mut [f32], width: usize) {
    let (sum, rest) = rows.split_at_mut(width.min(rows.len()));
    for row in rest.chunks_exact(width.max(1)) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> Result<()> {
        self.idle("all_reduce")?;
        let mut received = std::mem::take(&mut self.received);
        for piece in values.chunks_mut(PIECE) {
            let parts = even_parts(piece.len(), self.ranks);
            let layout = Layout::new("all_reduce", &parts, self.rank)?;
            self.exchange("all_reduce", piece, &layout, &mut received)?;
            let own = parts[self.rank].len();
            add_rows(&mut received, own);
            self.collect("all_reduce", &received[..own], &layout, piece)?;
        }
        self.received = received;
        Ok(())
    }

    fn reduce_scatter(&mut self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()> {
        let operation = "reduce_scatter";
        check_parts(operation, parts, self.ranks, values.len())?;
        self.idle(operation)?;
        let (layout, mut received) = (Layout::new(operation, parts, self.rank)?, Vec::new());
        self.exchange(operation, values, &layout, &mut received)?;
        let own = parts[self.rank].clone();
        add_rows(&mut received, own.len());
        values[own.clone()].copy_from_slice(&received[..own.len()]);
        Ok(())
    }

    fn all_gather(&mut self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()> {
        let operation = "all_gather";
        check_parts(operation, parts, self.ranks, values.len())?;
        self.idle(operation)?;
        let layout = Layout::new(operation, parts, self.rank)?;
        let own = values[parts[self.rank].clone()].to_vec();
        self.collect(operation, &own, &layout, values)
    }

    fn broadcast(&mut self, values: &mut [f32], root: usize) -> Result<()> {
        check_root(root, self.ranks)?;
        self.idle("broadcast")?;
        for piece in values.chunks_mut(PIECE) {
            let (data, count) = (piece.as_mut_ptr().cast::<c_void>(), piece.len() as c_int);
            // SAFETY: `piece` has `count` floats; the call blocks.
            check("broadcast", unsafe {
                ffi::MPI_Bcast(data, count, ffi::RSMPI_FLOAT, root as c_int, self.scatter)
            })?;
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<()> {
        // SAFETY: no buffers.
        check("barrier", unsafe { ffi::MPI_Barrier(self.scatter) })
    }

    fn gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.idle("gather")?;
        let length = c_int::try_from(bytes.len()).map_err(|_| Error::Argument {
            operation: "gather",
            detail: format!("{} bytes; it is for small things", bytes.len()),
        })?;
        let mut lengths = vec![0 as c_int; self.ranks];
        let (from, to) = ((&raw const length).cast(), lengths.as_mut_ptr().cast());
        // SAFETY: one integer is sent and one for each rank received; the call blocks.
        check("gather", unsafe {
            let int = ffi::RSMPI_INT32_T;
            ffi::MPI_Allgather(from, 1, int, to, 1, int, self.scatter)
        })?;
        let mut end: usize = 0;
        let mut places = Vec::with_capacity(self.ranks);
        for &length in &lengths {
            places.push(c_int::try_from(end).unwrap_or(c_int::MAX));
            end += length as usize;
        }
        if end > MOST {
            let detail = format!("{end} bytes of all ranks; MPI counts to {MOST}");
            return Err(Error::Argument { operation: "gather", detail });
        }
        let mut all = vec![0u8; end];
        // SAFETY: counts and places describe `all`; the call blocks.
        check("gather", unsafe {
            ffi::MPI_Allgatherv(
                bytes.as_ptr().cast(),
                length,
                ffi::RSMPI_UINT8_T,
                all.as_mut_ptr().cast(),
                lengths.as_ptr(),
                places.as_ptr(),
                ffi::RSMPI_UINT8_T,
                self.scatter,
            )
        })?;
        let slices = places.iter().zip(&lengths);
        Ok(slices.map(|(&at, &n)| all[at as usize..(at + n) as usize].to_vec()).collect())
    }

    fn begin_all_reduce(&mut self, values: &[f32]) -> Result<()> {
        let parts = even_parts(values.len(), self.ranks);
        let layout = Layout::new("all_reduce", &parts, self.rank)?;
        let fresh = || Bucket {
            stage: Stage::Done,
            // SAFETY: a constant of the library.
            request: unsafe { ffi::RSMPI_REQUEST_NULL },
            values: Vec::new(),
            received: Vec::new(),
            layout: Layout::default(),
        };
        let mut bucket = self.spare.pop().unwrap_or_else(fresh);
        bucket.values.clear();
        bucket.values.extend_from_slice(values);
        bucket.received.resize(self.ranks * parts[self.rank].len(), 0.0);
        (bucket.layout, bucket.stage) = (layout, Stage::Scatter);
        self.buckets.push_back(bucket);
        let Some(bucket) = self.buckets.back_mut() else { return Ok(()) };
        // SAFETY: the bucket owns all that is read and written, and stays until the request is done.
        let begun = check("all_reduce, beginning", unsafe {
            ffi::MPI_Ialltoallv(
                bucket.values.as_ptr().cast(),
                bucket.layout.counts.as_ptr(),
                bucket.layout.places.as_ptr(),
                ffi::RSMPI_FLOAT,
                bucket.received.as_mut_ptr().cast(),
                bucket.layout.own_counts.as_ptr(),
                bucket.layout.own_places.as_ptr(),
                ffi::RSMPI_FLOAT,
                self.scatter,
                &mut bucket.request,
            )
        });
        begun.and_then(|()| self.progress())
    }

    fn progress(&mut self) -> Result<()> {
        for bucket in &mut self.buckets {
            if bucket.stage == Stage::Done {
                continue;
            }
            let mut done = 0;
            // SAFETY: the request is this bucket's own.
            check("all_reduce, progress", unsafe {
                ffi::MPI_Test(&mut bucket.request, &mut done, ffi::RSMPI_STATUS_IGNORE)
            })?;
            match (done != 0, bucket.stage) {
                (true, Stage::Scatter) => Mpi::begin_gather(bucket, self.rank, self.gather)?,
                (true, _) => bucket.stage = Stage::Done,
                // A later bucket must not begin its second half before this one.
                (false, Stage::Scatter) => break,
                (false, _) => {}
            }
        }
        Ok(())
    }

    fn finish_all_reduce(&mut self, values: &mut [f32]) -> Result<()> {
        let operation = "finish_all_reduce";
        let front = self.buckets.front().map_or(0, |bucket| bucket.values.len());
        if self.buckets.is_empty() || front != values.len() {
            let detail = format!(
                "{} values, but the oldest of {} buckets has {front}; expected what was begun",
                values.len(),
                self.buckets.len()
            );
            return Err(Error::Argument { operation, detail });
        }
        while let Some(bucket) = self.buckets.front_mut().filter(|b| b.stage != Stage::Done) {
            Mpi::wait(bucket)?;
            match bucket.stage {
                Stage::Scatter => Mpi::begin_gather(bucket, self.rank, self.gather)?,
                _ => bucket.stage = Stage::Done,
            }
            self.progress()?;
        }
        let bucket = self.buckets.pop_front();
        if let Some(bucket) = bucket {
            values.copy_from_slice(&bucket.values);
            self.spare.push(bucket);
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.idle("leave")?;
        self.barrier()?;
        self.left = true;
        Ok(())
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if !self.left {
            // Not finalised: the launcher ends the job when this process has printed its error and
            // ended. MPI may still write to buckets.
            std::mem::forget(std::mem::take(&mut self.buckets));
            return;
        }
        // SAFETY: all ranks have left, nothing is pending, and neither is used afterwards.
        unsafe {
            ffi::MPI_Comm_free(&mut self.scatter);
            ffi::MPI_Comm_free(&mut self.gather);
            ManuallyDrop::drop(&mut self.universe);
        }
    }
}
