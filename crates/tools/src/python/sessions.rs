//! The interpreters of all spaces, and how many there are at once.
//!
//! The key decision: an interpreter has a place for as long as it lives, whether a cell runs in it or not, since it may
//! take all the memory it is allowed. Who needs one ends the one that was idle for the longest time, and waits if all are at
//! work.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use yushan_abi::Cancel;

use super::{LOOK, Running, lock};

/// Interpreters at once.
const MOST_RUNNING: usize = 8;
/// How long one stays that nobody uses.
const MOST_IDLE: Duration = Duration::from_secs(30 * 60);

/// All of them.
#[derive(Default)]
pub(super) struct Sessions {
    all: Mutex<HashMap<String, Arc<Session>>>,
    taken: Arc<AtomicUsize>,
}

/// A space's interpreter. Whoever works with it holds the lock.
pub(super) struct Session {
    pub(super) running: Mutex<Option<Running>>,
    pub(super) used: Mutex<Instant>,
}

/// The right to run one more; given back when dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Sessions {
    /// The session of a space. Those that nobody has used for long are ended.
    pub(super) fn of(&self, space: &str) -> Arc<Session> {
        let mut all = lock(&self.all);
        if let Some(session) = all.get(space) {
            return Arc::clone(session);
        }
        let is_old = |session: &mut Arc<Session>| {
            is_idle(session) && lock(&session.used).elapsed() > MOST_IDLE
        };
        let old: Vec<_> = all.extract_if(|_, session| is_old(session)).collect();
        if !old.is_empty() {
            std::thread::spawn(move || drop(old)); // ending them takes a moment
        }
        let session = Session { running: Mutex::default(), used: Mutex::new(Instant::now()) };
        let session = Arc::new(session);
        all.insert(space.into(), Arc::clone(&session));
        session
    }

    /// Takes the session of a space out.
    pub(super) fn remove(&self, space: &str) -> Option<Arc<Session>> {
        lock(&self.all).remove(space)
    }

    /// A place for one more, which is waited for.
    ///
    /// # Errors
    /// None came in time, or nobody wants it any more.
    pub(super) fn place(&self, time: Duration, cancel: &Cancel) -> Result<Place, String> {
        let begun = Instant::now();
        loop {
            if let Some(place) = self.take() {
                return Ok(place);
            }
            if self.end_one() {
                continue;
            }
            if cancel.is_cancelled() {
                return Err("cancelled before there was room for an interpreter".into());
            }
            if begun.elapsed() > time {
                let seconds = time.as_secs_f32();
                return Err(format!(
                    "{MOST_RUNNING} interpreters are at work, and none was free within {seconds} s; the cell was not run, \
                     try again later"
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn take(&self) -> Option<Place> {
        let one_more = |taken: usize| (taken < MOST_RUNNING).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Place(Arc::clone(&self.taken)))
    }

    /// Ends the interpreter that was idle for the longest time; whether there was one.
    fn end_one(&self) -> bool {
        let mut all = lock(&self.all);
        let idle = all.iter().filter(|(_, session)| is_idle(session));
        let oldest = idle.min_by_key(|(_, session)| *lock(&session.used));
        let Some(name) = oldest.map(|(name, _)| name.clone()) else { return false };
        let session = all.remove(&name);
        // It takes a moment, in which others may find their sessions.
        drop(all);
        drop(session);
        true
    }
}

/// Who works with a session, or waits to, has a second reference.
fn is_idle(session: &Arc<Session>) -> bool {
    Arc::strong_count(session) == 1
}
