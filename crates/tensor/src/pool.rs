//! The decode pool: threads that take chunks of a region, spin briefly, then park.
//!
//! The key decision: a region's chunks are dealt out in runs, one to a thread, and one atomic word for
//! each run holds (region, end, next chunk). A thread walks its own run from the front, so that it
//! streams through memory that it fetched ahead itself, and then takes from the ends of the others'
//! runs; the caller never waits for a worker to *start*, only for chunks that were taken to end. And
//! when a chunk was held up for as long as a time slice, another process wants the worker's core: the
//! caller then computes alone for a while, which is faster than a barrier that waits for slices. So a
//! neighbour costs its share, and an idle pool costs nothing. What is computed never depends on who
//! computed it.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Pauses a worker spins between regions before it parks: some tens of microseconds, longer than the
/// serial gaps inside a token.
const WORKER_SPINS: u32 = 1500;

/// Pauses the caller spins for the last chunks before it parks.
const CALLER_SPINS: u32 = 600;

/// A wait for other threads' chunks this long, and this many times as long as the caller's own part of
/// the region, means that a thread was taken off its core.
const HELD_UP: Duration = Duration::from_micros(500);
const HELD_UP_RATIO: u32 = 3;

/// How long the caller computes alone: at first, and at most when it goes on being held up.
const SHORT_RETREAT: Duration = Duration::from_millis(8);
const LONG_RETREAT: Duration = Duration::from_millis(128);

type Job = *const (dyn Fn(usize, usize) + Sync);

/// Threads that run regions of chunks together with their caller.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    region: u32,
    retreat: Retreat,
}

/// Whether the caller computes alone, because others want the cores.
struct Retreat {
    /// Until when, if it does.
    until: Option<Instant>,
    /// How long the next one will be.
    length: Duration,
    /// When the last one ended.
    ended: Option<Instant>,
}

impl Retreat {
    fn new() -> Retreat {
        Retreat { until: None, length: SHORT_RETREAT, ended: None }
    }

    /// Whether a region that starts now is the caller's alone.
    fn holds(&mut self, now: Instant) -> bool {
        let holds = self.until.is_some_and(|until| now < until);
        if !holds && self.until.take().is_some() {
            self.ended = Some(now);
        }
        holds
    }

    /// Takes note of a region: its start, when the caller had no more to do, and its end.
    fn note(&mut self, start: Instant, idle: Instant, end: Instant) {
        let (own, waited) = (idle - start, end - idle);
        if waited < HELD_UP || waited < own * HELD_UP_RATIO {
            return;
        }
        // Soon after the last retreat: the other process is still there.
        let again = self.ended.is_some_and(|ended| start - ended < 2 * self.length);
        self.length = if again { (2 * self.length).min(LONG_RETREAT) } else { SHORT_RETREAT };
        self.until = Some(end + self.length);
    }
}

struct Shared {
    /// A run of chunks for every thread.
    runs: Vec<Run>,
    /// Chunks of this region, and those of them that ended.
    chunks: AtomicU32,
    ended: AtomicU32,
    /// The region's job; written while no chunk is taken, read by those who took one.
    job: UnsafeCell<Option<Job>>,
    /// The caller, while it is parked or about to be.
    caller: UnsafeCell<Option<Thread>>,
    caller_parked: AtomicBool,
    workers_parked: Vec<AtomicBool>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// region << 32 | end << 16 | next, on a cache line of its own.
#[repr(align(64))]
struct Run(AtomicU64);

impl Run {
    fn has_chunk(state: u64) -> bool {
        (state & 0xffff) < (state >> 16 & 0xffff)
    }

    /// Takes the first chunk, or the last one for who does not own the run.
    fn take(&self, own: bool) -> Option<usize> {
        let mut state = self.0.load(Ordering::Acquire);
        while Run::has_chunk(state) {
            let taken = if own { state + 1 } else { state - (1 << 16) };
            let order = (Ordering::AcqRel, Ordering::Acquire);
            match self.0.compare_exchange_weak(state, taken, order.0, order.1) {
                Ok(_) if own => return Some((state & 0xffff) as usize),
                Ok(_) => return Some((state >> 16 & 0xffff) as usize - 1),
                Err(now) => state = now,
            }
        }
        None
    }
}

// SAFETY: `job` and `caller` are written only by the caller between regions, when no worker holds a
// chunk, and read only by a worker that holds one; the runs' words order the two.
unsafe impl Sync for Shared {}
// SAFETY: as above; the job pointer is only followed while `Pool::run` keeps it alive.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller counted in; at least one.
    pub fn new(threads: usize) -> Pool {
        let workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            runs: (0..=workers).map(|_| Run(AtomicU64::new(0))).collect(),
            chunks: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            job: UnsafeCell::new(None),
            caller: UnsafeCell::new(None),
            caller_parked: AtomicBool::new(false),
            workers_parked: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let threads = (0..workers)
            .filter_map(|worker| {
                let shared = Arc::clone(&shared);
                let name = format!("tensor-{}", worker + 1);
                std::thread::Builder::new().name(name).spawn(move || shared.work(worker)).ok()
            })
            .collect();
        Pool { shared, threads, region: 0, retreat: Retreat::new() }
    }

    /// Threads, the caller counted in.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `job(chunk, thread)` once for every chunk; returns when all have ended. With one chunk or
    /// one thread, or while another process wants the cores, everything runs on the caller.
    ///
    /// # Panics
    /// When a job panics.
    pub fn run(&mut self, chunks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let start = Instant::now();
        if chunks <= 1 || self.threads.is_empty() || self.retreat.holds(start) {
            (0..chunks).for_each(|chunk| job(chunk, 0));
            return;
        }
        assert!(chunks <= usize::from(u16::MAX), "{chunks} chunks");
        let shared = &*self.shared;
        self.region = self.region.wrapping_add(1);
        // SAFETY: no chunk is taken: the last region ended. The lifetime is erased, but this function
        // does not return before every chunk that could use the job has ended.
        unsafe {
            *shared.job.get() =
                Some(std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), Job>(job));
            *shared.caller.get() = Some(std::thread::current());
        }
        shared.ended.store(0, Ordering::Relaxed);
        shared.chunks.store(chunks as u32, Ordering::Relaxed);
        let runs = shared.runs.len();
        for (t, run) in shared.runs.iter().enumerate() {
            let (next, end) = (chunks * t / runs, chunks * (t + 1) / runs);
            let state = u64::from(self.region) << 32 | (end as u64) << 16 | next as u64;
            run.0.store(state, Ordering::SeqCst);
        }
        for (parked, thread) in shared.workers_parked.iter().zip(&self.threads) {
            if parked.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        while shared.take_one(0) {}
        let idle = Instant::now();
        if shared.wait(chunks as u32) {
            self.retreat.note(start, idle, Instant::now());
        }
        if shared.panicked.swap(false, Ordering::SeqCst) {
            panic!("a chunk of a parallel region panicked");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Takes the next chunk, if there is one, and runs it.
    fn take_one(&self, thread: usize) -> bool {
        let mut others = (1..self.runs.len()).map(|i| (thread + i) % self.runs.len());
        let own = self.runs[thread].take(true);
        let Some(next) = own.or_else(|| others.find_map(|t| self.runs[t].take(false))) else {
            return false;
        };
        let chunks = self.chunks.load(Ordering::Relaxed);
        // SAFETY: we hold a chunk of the current region, so the caller is inside `run`, the job is
        // alive, and nobody writes it.
        let job = unsafe { (*self.job.get()).map(|job| &*job) };
        let result = catch_unwind(AssertUnwindSafe(|| {
            if let Some(job) = job {
                job(next, thread);
            }
        }));
        if result.is_err() {
            self.panicked.store(true, Ordering::SeqCst);
        }
        // The caller must be copied before the last chunk ends: afterwards a new region may write it.
        // SAFETY: as above.
        let caller = if thread == 0 { None } else { unsafe { (*self.caller.get()).clone() } };
        let ended = self.ended.fetch_add(1, Ordering::SeqCst) + 1;
        if ended == chunks
            && self.caller_parked.load(Ordering::SeqCst)
            && let Some(caller) = caller
        {
            caller.unpark();
        }
        true
    }

    /// The caller's wait for chunks that others took; whether it was a long one.
    fn wait(&self, chunks: u32) -> bool {
        for _ in 0..CALLER_SPINS {
            if self.ended.load(Ordering::Acquire) == chunks {
                return false;
            }
            std::hint::spin_loop();
        }
        self.caller_parked.store(true, Ordering::SeqCst);
        while self.ended.load(Ordering::SeqCst) != chunks {
            std::thread::park();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
        true
    }

    fn has_chunk(&self, order: Ordering) -> bool {
        self.runs.iter().any(|run| Run::has_chunk(run.0.load(order)))
    }

    fn work(&self, worker: usize) {
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.take_one(worker + 1) {
                spins = 0;
            } else if spins < WORKER_SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                let parked = &self.workers_parked[worker];
                parked.store(true, Ordering::SeqCst);
                // Looked at again after the flag is up: a region that started in between is seen
                // here, or its caller sees the flag.
                if !self.has_chunk(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                parked.store(false, Ordering::SeqCst);
                spins = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_chunk_runs_exactly_once() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads);
            for round in 0..2000usize {
                let chunks = round % 37;
                let hits: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, &|chunk, thread| {
                    assert!(thread < threads);
                    hits[chunk].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1), "round {round}");
                if round % 500 == 0 {
                    // Long enough for the workers to park: the next region must wake them.
                    (0..100_000).for_each(|_| std::hint::spin_loop());
                }
            }
        }
    }

    #[test]
    fn a_caller_that_was_held_up_computes_alone_for_longer_each_time() {
        let (us, mut retreat) = (Duration::from_micros, Retreat::new());
        let start = Instant::now();
        retreat.note(start, start + us(900), start + us(1900));
        assert!(!retreat.holds(start + us(1900)), "as long as its own part: only a slow chunk");
        retreat.note(start, start + us(20), start + us(520));
        assert!(retreat.holds(start + us(521)));
        let over = start + us(520) + SHORT_RETREAT;
        assert!(!retreat.holds(over));
        retreat.note(over, over + us(20), over + us(3020));
        let twice = over + us(3020) + 2 * SHORT_RETREAT;
        assert!(retreat.holds(twice - us(1)) && !retreat.holds(twice));
        let much_later = twice + LONG_RETREAT;
        retreat.note(much_later, much_later + us(20), much_later + us(3020));
        assert!(!retreat.holds(much_later + us(3020) + SHORT_RETREAT), "begins anew");
    }

    #[test]
    fn a_panic_in_a_chunk_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|chunk, _| assert_ne!(chunk, 5, "on purpose"));
        }));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(8, &|chunk, _| {
            sum.fetch_add(chunk, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 28);
    }
}
