//! Places for processes: how many may be alive.
//!
//! The key decision: a place is taken by whoever asks, before anything is done for it, and given back when what
//! holds it is dropped. So the queue is bounded, a refusal costs no work and waits for no step of an
//! engine, and no way to end a process can forget to count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use yushan_abi::Refusal;

/// When those who were refused should come again.
pub(super) const BUSY_MS: u64 = 1000;

/// Places for so many.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Places {
    pub(crate) fn new(most: usize) -> Places {
        Places { taken: Arc::default(), most }
    }

    /// Takes one, if one is free.
    pub(crate) fn take(&self) -> Result<Place, Refusal> {
        let free = |taken: usize| (taken < self.most).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
            Ok(_) => Ok(Place(self.taken.clone())),
            Err(_) => Err(Refusal::Busy { after_ms: BUSY_MS }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
