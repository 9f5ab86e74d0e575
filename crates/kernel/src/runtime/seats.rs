//! Seats: places of processes in an engine, given and taken.
//!
//! The key decision: whoever loses its place is the one that the scheduler would serve last, and a copy of its
//! keys and values is kept (`swap.rs`): copying a token out and back costs a twentieth of reading it
//! again at most (docs/SPEED.md). To the core a process that is swapped out is as it was; only if its copy is lost it hears
//! that the history must be read again, and that this is not charged.

use yushan_abi::{ExecutorError, Finish, Usage};

use super::engine::Runtime;
use super::swap::{Swapped, Taken};
use crate::core::Event;
use crate::process::{Pid, State};

/// Rows of a chunk whose every position needs logits.
const SCORED_ROWS: usize = 32;

/// What the engines hold, and what was swapped out of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seats {
    /// Of all engines together; sizes of pages are of one of them.
    pub usage: Usage,
    /// Copies of keys and values.
    pub swapped: Swapped,
}

impl Runtime {
    /// Gives a process its place if it has none; how many of the planned rows there are to run. Those in
    /// `ahead` keep their places.
    pub(super) fn admit(
        &mut self,
        pid: Pid,
        planned: usize,
        ahead: &[(Pid, usize)],
    ) -> Result<usize, ExecutorError> {
        let Some(job) = self.jobs.get(&pid) else { return Ok(0) };
        if job.sequence.is_none() && job.fed > 0 && !self.bring_back(pid, planned, ahead) {
            return Ok(0);
        }
        let Some(job) = self.jobs.get_mut(&pid) else { return Ok(0) };
        let Some(engine) = self.engines.get_mut(&job.model) else { return Ok(0) };
        let mut cached = 0;
        if job.sequence.is_none() {
            // What it had may be of no use to the turn that has begun since.
            self.swap.forget(pid);
            let admitted = engine.admit(&job.tenant, &job.history)?;
            cached = admitted.cached;
            if (job.scored || job.pooled) && cached > 0 {
                // What came from the cache has no logits and no states.
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

    /// Brings back what a process had in the engine; whether it has its place again.
    fn bring_back(&mut self, pid: Pid, planned: usize, ahead: &[(Pid, usize)]) -> bool {
        let copy = match self.swap.take(pid) {
            Taken::Copy(copy) => copy,
            Taken::Coming => {
                self.give_back(pid, planned);
                self.tell(Event::Blocked(pid, true));
                return false;
            }
            Taken::Lost => {
                self.reads_again(pid);
                return false;
            }
        };
        let Some(job) = self.jobs.get(&pid) else { return false };
        let (model, fed) = (job.model.clone(), job.fed);
        let keep: Vec<Pid> = ahead.iter().map(|row| row.0).chain([pid]).collect();
        loop {
            let Some(engine) = self.engines.get(&model) else { return false };
            let Usage { pages_live, pages_total, page_tokens, .. } = engine.usage();
            if fed.div_ceil(page_tokens.max(1)) <= pages_total.saturating_sub(pages_live) {
                break;
            }
            if !self.evict(&model, &keep) {
                // Those ahead need all there is. It tries again in the next step.
                let core = &self.core;
                self.swap.put_back(pid, copy, &|pids| core.served_last(pids));
                self.give_back(pid, planned);
                return false;
            }
        }
        let Some(job) = self.jobs.get_mut(&pid) else { return false };
        let Some(engine) = self.engines.get_mut(&model) else { return false };
        // A turn may have begun meanwhile that uses only the beginning.
        let restored = engine.restore(&job.tenant, &copy).and_then(|sequence| {
            job.sequence = Some(sequence);
            engine.truncate(sequence, fed)?;
            engine.length(sequence)
        });
        if restored != Ok(fed) {
            if let Some(sequence) = job.sequence.take() {
                let _ = engine.release(sequence);
            }
            self.reads_again(pid);
            return false;
        }
        self.swap.came_back(&copy);
        true
    }

    /// The rows that were planned for a process are not run now.
    pub(super) fn give_back(&mut self, pid: Pid, planned: usize) {
        self.tell(Event::Admitted { pid, cached: 0, planned, run: 0 });
    }

    /// Nothing is left of what a process had read.
    fn reads_again(&mut self, pid: Pid) {
        self.swap.forget(pid);
        if let Some(job) = self.jobs.get_mut(&pid) {
            job.fed = 0;
            let pending = job.history.len();
            self.tell(Event::Evicted(pid, pending));
        }
    }

    /// Takes the place of the one that is served last, or the last row. One that does not fit alone ends.
    pub(super) fn make_room(&mut self, model: &str, rows: &mut Vec<(Pid, usize)>) {
        let keep: Vec<Pid> = rows.iter().map(|row| row.0).collect();
        if self.evict(model, &keep) {
            return;
        }
        match (rows.len(), rows.pop()) {
            (2.., Some((pid, count))) => {
                self.swap_out(pid);
                self.give_back(pid, count);
            }
            (_, Some((pid, _))) => self.end(pid, Ok(Finish::ContextFull), Vec::new()),
            (_, None) => {}
        }
    }

    /// Takes the place of the one that is served last of those in this engine; whether there is one.
    fn evict(&mut self, model: &str, keep: &[Pid]) -> bool {
        let seated =
            self.jobs.iter().filter(|(_, job)| job.sequence.is_some() && job.model == model);
        let others: Vec<Pid> = seated.map(|(&pid, _)| pid).filter(|p| !keep.contains(p)).collect();
        let last = self.core.served_last(&others);
        last.inspect(|&pid| self.swap_out(pid)).is_some()
    }

    /// Takes a process's place and keeps a copy of what it had there.
    fn swap_out(&mut self, pid: Pid) {
        let Runtime { core, engines, jobs, swap, .. } = self;
        let Some(job) = jobs.get_mut(&pid) else { return };
        let (Some(sequence), Some(engine)) = (job.sequence.take(), engines.get_mut(&job.model))
        else {
            return;
        };
        // The sums of an embedding stand in no copy.
        let copy = (!job.pooled).then(|| engine.save(sequence).ok()).flatten();
        match copy {
            _ if job.fed == 0 => {}
            Some(copy) => swap.put(pid, copy, &|pids| core.served_last(pids)),
            None => swap.lose(pid),
        }
        let _ = engine.release(sequence);
    }

    /// Has copies read that are waited for, and tells everybody how full the engines are.
    pub(super) fn look_after_seats(&mut self) {
        let core = &self.core;
        let wanted = |pid| core.process(pid).is_some_and(|p| p.state == State::Ready && !p.stopped);
        // They read their history again.
        for pid in self.swap.read(&wanted) {
            self.tell(Event::Blocked(pid, false));
        }
        let mut seats = Seats { swapped: self.swap.counts(), ..Seats::default() };
        for usage in self.engines.values().map(|engine| engine.usage()) {
            let sum = &mut seats.usage;
            sum.sequences += usage.sequences;
            sum.pages_live += usage.pages_live;
            sum.pages_cached += usage.pages_cached;
            sum.pages_total = sum.pages_total.saturating_add(usage.pages_total);
            (sum.page_tokens, sum.page_bytes) = (usage.page_tokens, usage.page_bytes);
        }
        *self.seats.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = seats;
    }
}
