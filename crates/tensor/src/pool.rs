//! The decode pool: threads that take chunks of a region, spin briefly, then park.
//!
//! The key decision: a region's chunks are dealt out in runs, one to a thread, and one atomic word for
//! each run holds (region, end, next chunk). A thread walks its own run from the front, so that it
//! streams through memory that it fetched ahead itself, and then takes from the ends of the others'
//! runs; the caller never waits for a worker to *start*, only for chunks that were taken to end. And
//! when a worker that holds a chunk does not run, another process wants its core: the pool then does
//! with one thread less for a while, which is faster than a barrier that waits for time slices. So a
//! neighbour costs its share, and an idle pool costs nothing. What is computed never depends on who
//! computed it.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Pauses a worker spins between regions before it parks: some tens of microseconds, longer than the
/// serial gaps inside a token.
const WORKER_SPINS: u32 = 1500;

/// Pauses the caller spins for the last chunks before it parks.
const CALLER_SPINS: u32 = 600;

/// A wait for other threads' chunks this long is looked into.
const LONG_WAIT: Duration = Duration::from_micros(500);

/// How long the pool does with fewer threads: at first, and at most when it goes on being held up.
const SHORT_RETREAT: Duration = Duration::from_millis(8);
const LONG_RETREAT: Duration = Duration::from_millis(512);

type Job = *const (dyn Fn(usize, usize) + Sync);

/// Threads that run regions of chunks together with their caller.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    region: u32,
    /// `None`: never.
    retreat: Option<Retreat>,
}

/// Whether the pool does with fewer threads, because others want the cores.
struct Retreat {
    /// How many threads compute until when.
    now: Option<(usize, Instant)>,
    /// How long the next one will be.
    length: Duration,
    /// When the last one ended.
    ended: Option<Instant>,
}

impl Retreat {
    fn new() -> Retreat {
        Retreat { now: None, length: SHORT_RETREAT, ended: None }
    }

    /// How many of `all` threads a region that starts now gets.
    fn threads(&mut self, all: usize, now: Instant) -> usize {
        match self.now {
            Some((threads, until)) if now < until => threads,
            Some((_, until)) => {
                (self.now, self.ended) = (None, Some(until));
                all
            }
            None => all,
        }
    }

    /// A region of `threads` threads that ended now was held up.
    fn begin(&mut self, threads: usize, now: Instant) {
        // Soon after the last retreat, or in it: the other process is still there.
        let soon = |ended| now.saturating_duration_since(ended) < 2 * self.length;
        let again = self.now.is_some() || self.ended.is_some_and(soon);
        self.length = if again { (2 * self.length).min(LONG_RETREAT) } else { SHORT_RETREAT };
        self.now = Some(((threads - 1).max(1), now + self.length));
    }
}

struct Shared {
    /// A run of chunks for every thread.
    runs: Vec<Run>,
    /// How many threads take chunks of this region: the first ones.
    active: AtomicUsize,
    /// Whether a thread holds a chunk.
    holding: Vec<AtomicBool>,
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
            active: AtomicUsize::new(workers + 1),
            holding: (0..=workers).map(|_| AtomicBool::new(false)).collect(),
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
        Pool { shared, threads, region: 0, retreat: Some(Retreat::new()) }
    }

    /// As [`Pool::new`], but always with all threads: to measure a machine, not to share it.
    pub fn stubborn(threads: usize) -> Pool {
        let mut pool = Pool::new(threads);
        pool.retreat = None;
        pool
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
        let active = match &mut self.retreat {
            _ if chunks <= 1 || self.threads.is_empty() => 1,
            Some(retreat) => retreat.threads(self.threads.len() + 1, Instant::now()),
            None => self.threads.len() + 1,
        };
        if active == 1 {
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
        shared.active.store(active, Ordering::Relaxed);
        for (t, run) in shared.runs.iter().enumerate() {
            let of = |t: usize| chunks * t.min(active) / active;
            let (next, end) = (of(t), of(t + 1));
            let state = u64::from(self.region) << 32 | (end as u64) << 16 | next as u64;
            run.0.store(state, Ordering::SeqCst);
        }
        for (parked, thread) in shared.workers_parked.iter().zip(&self.threads[..active - 1]) {
            if parked.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        while shared.take_one(0) {}
        if !shared.wait_a_little(chunks as u32) {
            self.wait_long(chunks as u32, active);
        }
        if self.shared.panicked.swap(false, Ordering::SeqCst) {
            panic!("a chunk of a parallel region panicked");
        }
    }

    /// Waits for chunks that others took, and looks whether these others run at all.
    fn wait_long(&mut self, chunks: u32, active: usize) {
        let shared = &*self.shared;
        let holders = || shared.holding[1..].iter().position(|holds| holds.load(Ordering::Relaxed));
        let holder = holders().map(|worker| &self.threads[worker]);
        let (start, before) = (Instant::now(), holder.and_then(processor_time));
        shared.wait(chunks);
        let Some(retreat) = &mut self.retreat else { return };
        let waited = start.elapsed();
        if waited < LONG_WAIT {
            return;
        }
        if let (Some(before), Some(after)) = (before, holder.and_then(processor_time))
            && after.saturating_sub(before) < waited / 2
        {
            retreat.begin(active, start + waited);
        }
    }
}

/// How long a thread has run, where the operating system tells.
#[cfg(target_os = "linux")]
fn processor_time(thread: &JoinHandle<()>) -> Option<Duration> {
    use std::os::unix::thread::JoinHandleExt;
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: the thread has not been joined, and both calls write into what they are given alone.
    let done = unsafe {
        libc::pthread_getcpuclockid(thread.as_pthread_t(), &mut clock) == 0
            && libc::clock_gettime(clock, &mut time) == 0
    };
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    done.then_some(Duration::new(u64::try_from(time.tv_sec).ok()?, nanos))
}

#[cfg(not(target_os = "linux"))]
fn processor_time(_: &JoinHandle<()>) -> Option<Duration> {
    None
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
        if thread >= self.active.load(Ordering::Relaxed) {
            return false;
        }
        let mut others = (1..self.runs.len()).map(|i| (thread + i) % self.runs.len());
        let own = self.runs[thread].take(true);
        let Some(next) = own.or_else(|| others.find_map(|t| self.runs[t].take(false))) else {
            return false;
        };
        self.holding[thread].store(true, Ordering::Relaxed);
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
        self.holding[thread].store(false, Ordering::Relaxed);
        let ended = self.ended.fetch_add(1, Ordering::SeqCst) + 1;
        if ended == chunks
            && self.caller_parked.load(Ordering::SeqCst)
            && let Some(caller) = caller
        {
            caller.unpark();
        }
        true
    }

    /// The caller's short wait for chunks that others took; whether they ended.
    fn wait_a_little(&self, chunks: u32) -> bool {
        for _ in 0..CALLER_SPINS {
            if self.ended.load(Ordering::Acquire) == chunks {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// The caller's long one.
    fn wait(&self, chunks: u32) {
        self.caller_parked.store(true, Ordering::SeqCst);
        while self.ended.load(Ordering::SeqCst) != chunks {
            std::thread::park();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
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
    fn a_pool_that_is_held_up_does_with_fewer_threads_for_longer_each_time() {
        let (us, mut retreat) = (Duration::from_micros, Retreat::new());
        let start = Instant::now();
        assert_eq!(retreat.threads(4, start), 4);
        retreat.begin(4, start);
        assert_eq!(retreat.threads(4, start + us(1)), 3);
        retreat.begin(3, start + us(10)); // another core is wanted too
        let over = start + us(10) + 2 * SHORT_RETREAT;
        assert_eq!(retreat.threads(4, over - us(1)), 2);
        assert_eq!(retreat.threads(4, over), 4);
        retreat.begin(4, over + us(10));
        let over = over + us(10) + 4 * SHORT_RETREAT;
        assert_eq!((retreat.threads(4, over - us(1)), retreat.threads(4, over)), (3, 4));
        let much_later = over + LONG_RETREAT;
        retreat.begin(1, much_later);
        assert_eq!(retreat.threads(4, much_later), 1, "never none");
        assert_eq!(retreat.threads(4, much_later + SHORT_RETREAT), 4, "begins anew");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_sleeps_does_not_run_and_one_that_computes_does() {
        let hold = |sleep: bool| {
            let mut pool = Pool::new(2);
            let worker_began = AtomicBool::new(false);
            pool.run(2, &|_, thread| {
                let start = Instant::now();
                if thread == 0 {
                    // Leaves the other chunk to the worker.
                    while !worker_began.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    return;
                }
                worker_began.store(true, Ordering::SeqCst);
                if sleep {
                    std::thread::sleep(8 * LONG_WAIT);
                }
                while start.elapsed() < 8 * LONG_WAIT {}
            });
            pool.retreat.as_ref().is_some_and(|retreat| retreat.now.is_some())
        };
        // On a busy machine the threads may be held up elsewhere, but not every time.
        assert!((0..50).any(|_| hold(true)));
        assert!((0..50).any(|_| !hold(false)));
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
