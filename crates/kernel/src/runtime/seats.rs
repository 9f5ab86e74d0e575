//! Seats: places of processes in an engine, given and taken.

use yushan_abi::{ExecutorError, Finish};

use super::engine::Runtime;
use crate::core::Event;
use crate::process::Pid;

/// Rows of a chunk whose every position needs logits.
const SCORED_ROWS: usize = 32;

impl Runtime {
    /// Opens a process's sequence if it has none; how many of the planned rows there are to run.
    pub(super) fn admit(&mut self, pid: Pid, planned: usize) -> Result<usize, ExecutorError> {
        let Some(job) = self.jobs.get_mut(&pid) else { return Ok(0) };
        let Some(engine) = self.engines.get_mut(&job.model) else { return Ok(0) };
        let mut cached = 0;
        if job.sequence.is_none() {
            let admitted = engine.admit(&job.tenant, &job.history)?;
            cached = admitted.cached;
            if job.scored && cached > 0 {
                // What came from the cache has no logits.
                engine.truncate(admitted.sequence, 0)?;
                cached = 0;
            }
            (job.sequence, job.fed) = (Some(admitted.sequence), cached);
            if !job.started {
                job.counts.cached = cached;
                job.begin();
            }
            job.show_prompt(0, cached, None);
        }
        let most = if job.scored { SCORED_ROWS } else { usize::MAX };
        let rows = planned.min(job.history.len() - job.fed).min(most);
        if cached > 0 || rows < planned {
            self.tell(Event::Admitted { pid, cached, planned, run: rows });
        }
        Ok(rows)
    }

    /// Takes the keys and values of the last in line: it will read its history again, from the cache
    /// as far as it is still there. One that does not fit alone ends.
    pub(super) fn make_room(&mut self, rows: &mut Vec<(Pid, usize)>) {
        let holders = self.jobs.iter().filter(|(_, job)| job.sequence.is_some());
        let outside = holders.map(|(&pid, _)| pid).find(|pid| rows.iter().all(|row| row.0 != *pid));
        let victim =
            outside.or_else(|| (rows.len() > 1).then(|| rows.pop().map(|row| row.0)).flatten());
        let Some(pid) = victim else {
            if let Some((pid, _)) = rows.pop() {
                self.end(pid, Ok(Finish::ContextFull), Vec::new());
            }
            return;
        };
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        if let (Some(sequence), Some(engine)) =
            (job.sequence.take(), self.engines.get_mut(&job.model))
        {
            let _ = engine.release(sequence);
        }
        job.fed = 0;
        let pending = job.history.len();
        self.tell(Event::Evicted(pid, pending));
    }
}
