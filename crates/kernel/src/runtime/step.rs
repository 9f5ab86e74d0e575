//! Plans as steps of the engines.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use yushan_abi::{Chunk, Executor, ExecutorError, Finish, Logits, Refusal, StepOutput};

use super::engine::Runtime;
use crate::core::Event;
use crate::job::{Turn, panicked};
use crate::process::{Exit, Pid};

/// Why a step gave nothing.
pub(super) enum Stepped {
    Refused(ExecutorError),
    Panicked,
}

impl Runtime {
    /// Runs one step of every engine that has rows; whether there was anything to do.
    pub(super) fn step(&mut self) -> bool {
        let plan = self.core.plan(self.now());
        if plan.rows.is_empty() {
            return false;
        }
        let mut models: BTreeMap<String, Vec<(Pid, usize)>> = BTreeMap::new();
        for &(pid, rows) in &plan.rows {
            if let Some(job) = self.jobs.get(&pid) {
                models.entry(job.model.clone()).or_default().push((pid, rows));
            }
        }
        for (model, rows) in models {
            self.step_model(&model, rows);
        }
        true
    }

    pub(super) fn step_model(&mut self, model: &str, planned: Vec<(Pid, usize)>) {
        let mut rows = Vec::with_capacity(planned.len());
        for (pid, count) in planned {
            match self.admit(pid, count, &rows) {
                Ok(0) => {}
                Ok(count) => rows.push((pid, count)),
                Err(error) => self.end(pid, Err(Refusal::Internal(error.to_string())), Vec::new()),
            }
        }
        loop {
            // Whoever ended while others got their places runs no more.
            let jobs = &self.jobs;
            rows.retain(|(pid, _)| jobs.get(pid).is_some_and(|job| job.sequence.is_some()));
            if rows.is_empty() {
                return;
            }
            match self.run_rows(model, &rows) {
                Ok(turns) => {
                    turns.into_iter().for_each(|(pid, turn)| self.after(pid, turn));
                    return;
                }
                Err(Stepped::Panicked) => return self.step_apart(model, &rows),
                Err(Stepped::Refused(ExecutorError::OutOfPages { .. })) => {
                    self.make_room(model, &mut rows);
                }
                Err(Stepped::Refused(error)) => {
                    for (pid, _) in rows.drain(..) {
                        self.end(pid, Err(Refusal::Internal(error.to_string())), Vec::new());
                    }
                }
            }
        }
    }

    /// After a panic in the engine: takes back what the step had begun, and runs each row alone, so that
    /// only the process ends that cannot be run.
    fn step_apart(&mut self, model: &str, rows: &[(Pid, usize)]) {
        // All before one runs: whoever ends then takes its children along, and what they hold is cached.
        let (back, lost): (Vec<_>, Vec<_>) =
            rows.iter().copied().partition(|(pid, _)| self.take_back(model, *pid));
        for (pid, _) in lost {
            self.end(pid, Err(panicked()), Vec::new());
        }
        for (pid, count) in back {
            match self.jobs.get(&pid).map(|job| job.sequence) {
                Some(Some(_)) if rows.len() > 1 => self.step_model(model, vec![(pid, count)]),
                Some(Some(_)) => self.end(pid, Err(panicked()), Vec::new()),
                // One that ran before it took its place.
                Some(None) => self.give_back(pid, count),
                None => {}
            }
        }
    }

    /// Takes back what a step had begun of a process. If that fails the process has lost its place, and
    /// nothing of it is cached.
    fn take_back(&mut self, model: &str, pid: Pid) -> bool {
        let Runtime { engines, jobs, .. } = self;
        let (Some(engine), Some(job)) = (engines.get_mut(model), jobs.get_mut(&pid)) else {
            return true;
        };
        let Some(sequence) = job.sequence else { return true };
        let back = AssertUnwindSafe(|| engine.truncate(sequence, job.fed));
        if catch_unwind(back).is_ok_and(|done| done.is_ok()) {
            return true;
        }
        job.sequence = None;
        let empty = || engine.truncate(sequence, 0).and_then(|()| engine.release(sequence));
        let _ = catch_unwind(AssertUnwindSafe(empty));
        false
    }

    pub(super) fn run_rows(
        &mut self,
        model: &str,
        rows: &[(Pid, usize)],
    ) -> Result<Vec<(Pid, Turn)>, Stepped> {
        let Runtime { engines, jobs, .. } = self;
        let Some(engine) = engines.get_mut(model) else { return Ok(Vec::new()) };
        let mut batch = Vec::with_capacity(rows.len());
        for (pid, count) in rows {
            let job = &jobs[pid];
            let Some(sequence) = job.sequence else { continue };
            let tokens = &job.history[job.fed..job.fed + count];
            let last = job.fed + count == job.history.len();
            let logits = match (job.scored && job.fed < job.prompt, last) {
                _ if job.pooled => Logits::Pooled,
                (true, _) => Logits::All,
                (false, true) => Logits::Last,
                (false, false) => Logits::None,
            };
            batch.push(Chunk { sequence, tokens, logits });
        }
        let wanted: Vec<Logits> = batch.iter().map(|chunk| chunk.logits).collect();
        let output = step(engine.as_mut(), &batch)?;
        let (mut turns, mut row, mut embedded) = (Vec::new(), 0, Vec::new());
        for (&(pid, count), logits) in rows.iter().zip(wanted) {
            let Some(job) = jobs.get_mut(&pid) else { continue };
            let (from, to) = (job.fed, job.fed + count);
            job.fed = to;
            let scores = |at: usize| output.row(row + at).to_vec();
            match logits {
                Logits::All => job.show_prompt(from, to, Some(&scores)),
                _ if from < job.prompt => job.show_prompt(from, to, None),
                _ => {}
            }
            row += match logits {
                Logits::None | Logits::Pooled => 0,
                Logits::Last => 1,
                Logits::All => count,
            };
            if to == job.history.len() && job.pooled {
                embedded.extend(job.sequence.map(|sequence| (pid, sequence)));
            } else if to == job.history.len() {
                turns.push((pid, job.turn(output.row(row - 1))));
            }
        }
        for (pid, sequence) in embedded {
            let pooled = engine.pooled(sequence);
            turns.extend(jobs.get_mut(&pid).map(|job| (pid, job.embed(pooled))));
        }
        Ok(turns)
    }

    /// After a token: goes on, or ends.
    pub(super) fn after(&mut self, pid: Pid, turn: Turn) {
        match turn {
            Turn::On => {
                self.tell(Event::Wrote(pid));
                self.wrote(pid);
            }
            Turn::Over(finish, calls) if self.life(pid).is_some() => {
                self.turn_over(pid, finish, calls);
            }
            Turn::Over(finish, calls) => {
                // Shown first: what its last token costs cannot end it any more.
                self.let_go(pid, Exit::Done, Ok(finish), calls);
                self.tell(Event::Wrote(pid));
                self.tell(Event::Exit(pid, Exit::Done));
            }
            Turn::Embedded => self.end(pid, Ok(Finish::End), Vec::new()),
            Turn::Failed(refusal) => self.end(pid, Err(refusal), Vec::new()),
        }
    }

    pub(super) fn end(
        &mut self,
        pid: Pid,
        end: Result<Finish, Refusal>,
        calls: Vec<yushan_abi::Call>,
    ) {
        let exit = match &end {
            Ok(_) => Exit::Done,
            Err(refusal) => Exit::Failed(refusal.to_string()),
        };
        self.let_go(pid, exit.clone(), end, calls);
        self.tell(Event::Exit(pid, exit));
    }
}

/// One step of an engine, whose panic is told.
fn step<'a>(engine: &'a mut dyn Executor, batch: &[Chunk<'_>]) -> Result<StepOutput<'a>, Stepped> {
    let step = move || {
        // Moved in, so that what it gives may leave.
        let engine = engine;
        engine.step(batch)
    };
    catch_unwind(AssertUnwindSafe(step)).map_err(|_| Stepped::Panicked)?.map_err(Stepped::Refused)
}
