//! The engine's thread: a turn of its loop takes what others ask for, asks the core for a plan, runs it,
//! and pushes what can be shown.
//!
//! The key decision: it decides nothing. What the core says is done here and in the files beside this one
//! (`step.rs` runs plans, `seats.rs` gives processes their place in an engine).

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use yushan_abi::{Event as Shown, Executor, Finish, Flow, Refusal, ToolResult};

use super::begin::Beginner;
use super::calls::Drivers;
use super::clerk::{Clerk, Then};
use super::places::BUSY_MS;
use super::seats::Seats;
use super::spoken::Spoken;
use super::swap::Swap;
use super::{Command, POLL, TICK, World};
use crate::core::{Action, Core, Event};
use crate::job::Job;
use crate::life::Entry;
use crate::process::{Exit, Pid, Process, Signal, Spawn};
use crate::syscall::failed;

/// The engine's thread.
pub(super) struct Runtime {
    pub(super) core: Core,
    pub(super) engines: BTreeMap<String, Box<dyn Executor>>,
    pub(super) jobs: BTreeMap<Pid, Job>,
    pub(super) swap: Swap,
    /// How full the engines are, for whoever asks.
    pub(super) seats: Arc<Mutex<Seats>>,
    pub(super) spoken: Arc<Mutex<Spoken>>,
    pub(super) most: usize,
    pub(super) started: Instant,
    pub(super) beginner: Beginner,
    pub(super) world: World,
    pub(super) drivers: Drivers,
    pub(super) clerk: Clerk,
    pub(super) commands: SyncSender<Command>,
    /// What children said that are over.
    pub(super) outcomes: BTreeMap<Pid, Outcome>,
    /// Turns that could not be made ready, and when that is tried again.
    pub(super) later: Vec<(u64, Pid)>,
    /// Those that go on as soon as the engine's thread has done what it is doing.
    pub(super) soon: VecDeque<Pid>,
    /// When the card of a process was made out that waits for its user, and for which call.
    pub(super) issued: BTreeMap<Pid, (String, u64)>,
}

/// What a child said last.
pub(super) struct Outcome {
    pub(super) parent: Option<Pid>,
    pub(super) result: ToolResult,
}

impl Runtime {
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let (mut idle, mut ticked) = (true, 0);
        self.look_after_seats();
        loop {
            let first = match idle {
                true if self.jobs.is_empty() => {
                    commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
                }
                true if self.jobs.values().any(|job| job.blocked) => commands.recv_timeout(POLL),
                true => commands.recv_timeout(TICK),
                false => commands.try_recv().map_err(|error| match error {
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
            let now = self.now();
            let tick = now.saturating_sub(ticked) >= TICK.as_millis() as u64;
            self.poll_sinks(tick);
            if tick {
                ticked = now;
                self.tell(Event::Tick);
                self.try_again(now);
            }
            self.go_on_soon();
            idle = !self.step();
            self.go_on_soon();
            self.look_after_seats();
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(super) fn stop(mut self) {
        for (pid, mut job) in std::mem::take(&mut self.jobs) {
            self.bill_at_stop(&job);
            // What has a journal goes on after the next start.
            match job.life {
                Some(_) => job.show(Shown::Failed(Refusal::Stopping)),
                None => job.show(Shown::Done {
                    finish: Finish::Cancelled,
                    counts: job.counts,
                    calls: Vec::new(),
                }),
            };
            self.tell(Event::Exit(pid, Exit::Killed));
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        // Whoever asked and is gone needs no answer.
        match command {
            Command::Start(job, spawn, reply) => self.start(*job, spawn, reply),
            Command::Resume(all) => self.resume(all),
            Command::Behind(pid) => self.core.begin_behind(pid),
            Command::Ended(life) => self.remember_outcome(&life),
            Command::Tell(event, reply) => self.told(event, reply),
            Command::Says(pid, user, says, reply) => {
                if let Err(refusal) = self.says(pid, &user, says, &reply) {
                    let _ = reply.send(Err(refusal));
                }
            }
            Command::Mail(pid, user, text, reply) => {
                if let Err(refusal) = self.mail(pid, &user, text, &reply) {
                    let _ = reply.send(Err(refusal));
                }
            }
            Command::Cards(user, reply) => {
                let _ = reply.send(self.cards(&user));
            }
            Command::Decide(user, hash, allow, reply) => {
                if let Err(refusal) = self.decide(&user, &hash, allow, &reply) {
                    let _ = reply.send(Err(refusal));
                }
            }
            Command::Look(pid, reply) => {
                let _ = reply.send(self.life(pid).cloned());
            }
            Command::Add(name, engine) => {
                self.engines.insert(name, engine);
                self.tell_rows();
            }
            Command::Remove(name, reply) => {
                let _ = reply.send(self.engines.remove(&name));
                self.tell_rows();
            }
            Command::List(reply) => {
                let _ = reply.send(self.processes());
            }
            Command::GoOn(pid) => self.go_on(pid),
            Command::Unnoted(pid, error) => self.end(pid, Err(error.into()), Vec::new()),
            Command::Fresh(pid, fresh) => self.fresh(pid, fresh),
            Command::Answered(pid, key, result) => {
                self.came(pid, &key, result);
            }
            Command::Forked(pid, key) => {
                if self.life(pid).is_some_and(|life| life.key() == key) {
                    self.fork(pid, &key);
                }
            }
            Command::Swapped(answer) => {
                if let Some(pid) = self.swap.answer(answer) {
                    self.tell(Event::Blocked(pid, false));
                }
            }
            Command::Stop => {}
        }
    }

    /// The table, with what each holds in its engine.
    fn processes(&self) -> Vec<Process> {
        let pages = |pid: Pid| {
            let job = self.jobs.get(&pid).filter(|job| job.sequence.is_some())?;
            let usage = self.engines.get(&job.model)?.usage();
            Some(job.fed.div_ceil(usage.page_tokens.max(1)))
        };
        let all = self.core.processes().cloned();
        all.map(|process| Process { pages: pages(process.pid).unwrap_or(0), ..process }).collect()
    }

    /// A process begins. Whoever waits hears of it when it is durable; others hear through their sink.
    fn start(
        &mut self,
        mut job: Job,
        spawn: Box<Spawn>,
        reply: Option<SyncSender<Result<Pid, Refusal>>>,
    ) {
        // Children and resumed processes have taken no place, and count here.
        if self.core.alive() >= self.most {
            let busy = Refusal::Busy { after_ms: BUSY_MS };
            match reply {
                Some(reply) => {
                    let _ = reply.send(Err(busy));
                }
                None => {
                    job.show(Shown::Failed(busy));
                }
            }
            return;
        }
        let pid = self.core.next_pid();
        if let (Some(life), Some(reply)) = (&mut job.life, reply) {
            life.pid = pid;
            let began = Entry::Began(Box::new(life.program.clone()));
            self.clerk.note(vec![(pid, began)], Then::Began(pid, reply));
        }
        self.jobs.insert(pid, job);
        self.tell(Event::Spawn(spawn));
    }

    /// Somebody outside sends a signal, or changes a weight.
    fn told(&mut self, event: Event, reply: SyncSender<Result<bool, Refusal>>) {
        let (pid, entry) = match &event {
            Event::Signal(pid, Signal::Kill) => (*pid, Entry::Exited(Exit::Killed)),
            Event::Signal(pid, signal) => (*pid, Entry::Held(*signal == Signal::Stop)),
            Event::Nice(pid, class, weight) => (*pid, Entry::Niced(*class, *weight)),
            _ => return,
        };
        let alive = self.core.process(pid).is_some_and(|process| process.exit.is_none());
        let goes_on = matches!(event, Event::Signal(_, Signal::Continue));
        // Before the core hears of it: one that is killed is gone then.
        match alive && self.life(pid).is_some_and(|life| life.exit.is_none()) {
            true => self.note(pid, vec![entry], Then::Told(reply)),
            false => self.clerk.note(Vec::new(), Then::Tell(reply, alive)),
        }
        if alive {
            self.tell(event);
        }
        if goes_on {
            self.clerk.note(Vec::new(), Then::GoOn(vec![pid]));
        }
    }

    /// A step has no more rows than every engine takes.
    fn tell_rows(&mut self) {
        if let Some(rows) = self.engines.values().map(|engine| engine.max_rows()).min() {
            self.tell(Event::Rows(rows));
        }
    }

    /// Tells the core what happened and does what it says.
    pub(super) fn tell(&mut self, event: Event) {
        for action in self.core.apply(self.now(), event) {
            match action {
                Action::Release(pid, exit) => self.release(pid, exit),
                Action::Deliver(pid, from, message) => self.received(pid, from, &message),
                Action::Woken(pid, child, _) => {
                    let result = self.outcomes.get(&child).map(|outcome| outcome.result.clone());
                    self.answer(pid, result.unwrap_or_else(|| failed("it is over")));
                }
                Action::Refused(pid, why) => self.answer(pid, failed(why)),
            }
        }
    }

    /// Makes turns ready that had to wait.
    fn try_again(&mut self, now: u64) {
        let due: Vec<(u64, Pid)> = self.later.extract_if(.., |(at, _)| *at <= now).collect();
        due.into_iter().for_each(|(_, pid)| self.ready(pid));
    }

    /// The core has ended a process.
    fn release(&mut self, pid: Pid, exit: Exit) {
        let end = match exit.clone() {
            // Whoever ended it has let it go.
            Exit::Done => Ok(Finish::End),
            Exit::Killed => Ok(Finish::Cancelled),
            Exit::Budget(of) | Exit::Quota(of) => Ok(Finish::Budget(of)),
            Exit::Failed(why) => Err(Refusal::Internal(why)),
        };
        self.let_go(pid, exit, end, Vec::new());
    }

    /// Frees what a process holds and shows its end.
    pub(super) fn let_go(
        &mut self,
        pid: Pid,
        exit: Exit,
        end: Result<Finish, Refusal>,
        calls: Vec<yushan_abi::Call>,
    ) {
        let Some(mut job) = self.jobs.remove(&pid) else { return };
        job.cancel.cancel();
        self.bill_rest(&job);
        self.swap.forget(pid);
        if let (Some(sequence), Some(engine)) = (job.sequence, self.engines.get_mut(&job.model)) {
            let _ = engine.release(sequence);
        }
        let counts = job.life.as_ref().filter(|life| life.turns > 0).map(|life| life.counts);
        let counts = counts.unwrap_or(job.counts);
        job.show(match end {
            Ok(finish) => Shown::Done { finish, counts, calls },
            Err(refusal) => Shown::Failed(refusal),
        });
        if let Some(life) = job.life {
            self.over(pid, *life, exit);
        }
    }

    /// Lets those go on whose reader has room again, and ends those whose reader is gone. Who holds a
    /// place in an engine is asked at every step, the others at every tick.
    pub(super) fn poll_sinks(&mut self, all: bool) {
        let mut happened = Vec::new();
        let asked = |job: &Job| all || job.blocked || job.sequence.is_some();
        for (&pid, job) in self.jobs.iter_mut().filter(|(_, job)| asked(job)) {
            match job.is_ready() {
                Flow::More | Flow::Full if !job.blocked => {}
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
