//! Responses that are being made in the background.
//!
//! The key decision: whoever writes the end of a response, its task or whoever cancels it, claims the entry first;
//! the other then leaves it alone. The entry goes after the document was written, or with a task that panics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// Where a response stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its task waits.
    Queued,
    /// It is being made.
    Started,
    /// Somebody writes its end.
    Ending,
}

struct Entry {
    stage: Stage,
    task: Option<AbortHandle>,
}

/// All that run.
#[derive(Clone, Default)]
pub(crate) struct Running(Arc<Mutex<BTreeMap<String, Entry>>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // A map is whole after a panic too: every change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task under a name.
    pub(crate) fn begin(&self, id: &str, task: impl Future<Output = ()> + Send + 'static) {
        let entered = Entered { running: self.clone(), id: id.to_string() };
        let task = async move {
            let _entered = entered;
            task.await;
        };
        let mut all = self.lock();
        all.insert(id.to_string(), Entry { stage: Stage::Queued, task: None });
        // The task needs the lock to claim its entry, so it cannot end before its handle is there.
        let handle = tokio::spawn(task).abort_handle();
        if let Some(entry) = all.get_mut(id) {
            entry.task = Some(handle);
        }
    }

    /// Its first event came.
    pub(crate) fn started(&self, id: &str) {
        if let Some(entry) = self.lock().get_mut(id).filter(|entry| entry.stage == Stage::Queued) {
            entry.stage = Stage::Started;
        }
    }

    /// Where it stands, if it runs.
    pub(crate) fn stage(&self, id: &str) -> Option<Stage> {
        self.lock().get(id).map(|entry| entry.stage)
    }

    /// Claims the right to write its end.
    pub(crate) fn claim(&self, id: &str) -> bool {
        let mut all = self.lock();
        let entry = all.get_mut(id).filter(|entry| entry.stage != Stage::Ending);
        entry.map(|entry| entry.stage = Stage::Ending).is_some()
    }

    /// Claims it and stops its task.
    pub(crate) fn stop(&self, id: &str) -> bool {
        let claimed = self.claim(id);
        if claimed && let Some(task) = self.lock().get(id).and_then(|entry| entry.task.as_ref()) {
            task.abort();
        }
        claimed
    }

    /// Its end is written.
    pub(crate) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }
}

/// An entry that is not left behind when its task panics. One that was aborted belongs to whoever claimed it.
struct Entered {
    running: Running,
    id: String,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.running.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_leaves_no_entry() {
        let running = Running::default();
        running.begin("panics", async { panic!("as this test wants") });
        running.begin("stopped", std::future::pending());
        assert!(running.stop("stopped"));
        while running.stage("panics").is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(running.stage("stopped"), Some(Stage::Ending));
    }
}
