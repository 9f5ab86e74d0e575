//! The engine's thread: a turn of its loop takes what others ask for, asks the core for a plan, runs it,
//! and pushes what can be shown.
//!
//! The key decision: it decides nothing. What the core says is done here and in the files beside this one
//! (`step.rs` runs plans, `seats.rs` gives processes their place in an engine).

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use yushan_abi::{Event as Shown, Executor, Finish, Flow, Refusal};

use super::{Command, POLL};
use crate::core::{Action, Core, Event};
use crate::job::Job;
use crate::process::{Exit, Pid};

/// The engine's thread.
pub(super) struct Runtime {
    pub(super) core: Core,
    pub(super) engines: BTreeMap<String, Box<dyn Executor>>,
    pub(super) jobs: BTreeMap<Pid, Job>,
    pub(super) most: usize,
    pub(super) started: Instant,
}

impl Runtime {
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut idle = true;
        loop {
            let waiting = self.jobs.values().any(|job| job.blocked);
            let first = match (idle, waiting) {
                (true, false) => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                (true, true) => commands.recv_timeout(POLL),
                (false, _) => commands.try_recv().map_err(|error| match error {
                    mpsc::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    mpsc::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
            };
            match first {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Ok(command) => self.command(command),
                Err(RecvTimeoutError::Timeout) => {}
            }
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::Stop => return self.stop(),
                    command => self.command(command),
                }
            }
            self.poll_sinks();
            self.tell(Event::Tick);
            idle = !self.step();
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(super) fn stop(mut self) {
        for pid in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.tell(Event::Exit(pid, Exit::Killed));
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Start(job, spawn, reply) => {
                let pid = self.core.next_pid();
                if self.core.alive() >= self.most {
                    let _ = reply.send(None);
                    return;
                }
                self.jobs.insert(pid, *job);
                let _ = reply.send(Some(pid));
                self.tell(Event::Spawn(spawn));
            }
            Command::Tell(event) => self.tell(event),
            Command::List(reply) => {
                let _ = reply.send(self.core.processes().cloned().collect());
            }
            Command::Stop => {}
        }
    }

    /// Tells the core what happened and does what it says.
    pub(super) fn tell(&mut self, event: Event) {
        for action in self.core.apply(self.now(), event) {
            // Mail, waits and refusals are between processes that run programs of their own.
            if let Action::Release(pid, exit) = action {
                let finish = match exit {
                    Exit::Done => continue,
                    Exit::Killed => Ok(Finish::Cancelled),
                    Exit::Budget(budget) => Ok(Finish::Budget(budget)),
                    Exit::Failed(why) => Err(Refusal::Internal(why)),
                };
                self.release(pid, finish, Vec::new());
            }
        }
    }

    /// Frees what a process holds and shows its end.
    pub(super) fn release(
        &mut self,
        pid: Pid,
        end: Result<Finish, Refusal>,
        calls: Vec<yushan_abi::Call>,
    ) {
        let Some(mut job) = self.jobs.remove(&pid) else { return };
        if let (Some(sequence), Some(engine)) = (job.sequence, self.engines.get_mut(&job.model)) {
            let _ = engine.release(sequence);
        }
        let counts = job.counts;
        job.show(match end {
            Ok(finish) => Shown::Done { finish, counts, calls },
            Err(refusal) => Shown::Failed(refusal),
        });
    }

    /// Lets those go on whose reader has room again, and ends those whose reader is gone.
    pub(super) fn poll_sinks(&mut self) {
        let mut happened = Vec::new();
        for (&pid, job) in self.jobs.iter_mut().filter(|(_, job)| job.blocked) {
            match job.sink.is_ready() {
                Flow::More => {
                    job.blocked = false;
                    happened.push(Event::Blocked(pid, false));
                }
                Flow::Full => happened.push(Event::Blocked(pid, true)),
                Flow::Gone => happened.push(Event::Exit(pid, Exit::Killed)),
            }
        }
        happened.into_iter().for_each(|event| self.tell(event));
    }
}
