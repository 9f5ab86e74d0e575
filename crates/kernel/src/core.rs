//! The core: a process table that is told what happened and says what to do.
//!
//! The key decision: all state that decides anything is here, and only [`Core::apply`] and
//! [`Core::plan`] change it, from their arguments alone. What a token says is not known here; that one
//! was written is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use yushan_abi::{Class, Counts, Label, Message, Sources};

use crate::process::{Budget, Exit, Pid, Process, Signal, Spawn, State};
use crate::scheduler::{Plan, Scheduler};

/// Messages a mailbox holds.
const MAILBOX: usize = 256;

/// Processes that are over and still in the table.
const REMEMBERED: usize = 256;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A process begins.
    Spawn(Box<Spawn>),
    /// A process goes on, under the name it had before the system stopped.
    Resumed(Pid, Box<Spawn>),
    /// A process got its place in the engine: so many of its tokens came from the cache, and of the
    /// rows that were planned only so many are run.
    Admitted {
        /// Which.
        pid: Pid,
        /// Tokens from the cache.
        cached: usize,
        /// Rows of the plan.
        planned: usize,
        /// Rows that are run.
        run: usize,
    },
    /// A process lost its place in the engine, and has so many tokens to read again.
    Evicted(Pid, usize),
    /// A process wrote a token.
    Wrote(Pid),
    /// A process is over.
    Exit(Pid, Exit),
    /// Somebody sends a signal.
    Signal(Pid, Signal),
    /// Class and weight change.
    Nice(Pid, Class, u32),
    /// Whoever reads has no room, or has room again.
    Blocked(Pid, bool),
    /// A process waits for another to exit.
    Wait(Pid, Pid),
    /// A message from one to another.
    Send(Pid, Pid, Box<Message>),
    /// A process wants a message.
    Receive(Pid),
    /// A process wrote the last token of a turn: until it begins another it wants nothing.
    Paused(Pid),
    /// A process calls a tool or the system: which.
    Call(Pid, String),
    /// A process asks the user.
    Ask(Pid),
    /// A tool or the user has answered a process, and the answer has this label.
    Answered(Pid, Label),
    /// A process begins another turn.
    Turn {
        /// Which.
        pid: Pid,
        /// Tokens of its prompt.
        prompt: usize,
        /// Tokens of the prompt, and of what was written, that the engine still holds.
        kept: usize,
        /// Tokens of the turn that were written, and charged, before the system stopped.
        written: usize,
    },
    /// A process gave a part of its budget to a child.
    Lent(Pid, Budget),
    /// Models came or went: a step of theirs takes so many rows now.
    Rows(usize),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The process is over: free what it holds, and tell its reader.
    Release(Pid, Exit),
    /// A message is handed over.
    Deliver(Pid, Pid, Box<Message>),
    /// A child that was waited for is over.
    Woken(Pid, Pid, Exit),
    /// What was asked cannot be done, and why.
    Refused(Pid, &'static str),
}

/// The process table.
#[derive(Clone, Debug)]
pub struct Core {
    processes: BTreeMap<Pid, Process>,
    scheduler: Scheduler,
    next: u64,
    now_ms: u64,
}

impl Core {
    /// An empty table.
    pub fn new(scheduler: Scheduler) -> Core {
        Core { processes: BTreeMap::new(), scheduler, next: 1, now_ms: 0 }
    }

    /// The process of this name.
    pub fn process(&self, pid: Pid) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// All of them, the ended ones that are remembered too.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// Processes that are not over.
    pub fn alive(&self) -> usize {
        self.processes.values().filter(|process| process.exit.is_none()).count()
    }

    /// The name that the next process will get.
    pub fn next_pid(&self) -> Pid {
        Pid(self.next)
    }

    /// Of these, the one that runs last: whoever is stopped, then whoever waits for something, then the
    /// last in line.
    pub fn served_last(&self, pids: &[Pid]) -> Option<Pid> {
        let place = |pid: &Pid| {
            let process = self.processes.get(pid);
            let held = process.is_some_and(|process| process.stopped);
            let place = self.scheduler.place_of(*pid, self.now_ms);
            let class = process.map(|process| process.spawn.class);
            (held, place.is_none(), place, class, *pid)
        };
        pids.iter().copied().max_by_key(place)
    }

    /// The rows of the next step: whose tokens, and how many.
    pub fn plan(&mut self, now_ms: u64) -> Plan {
        self.now_ms = now_ms;
        let plan = self.scheduler.plan(now_ms);
        for &(pid, rows) in &plan.rows {
            if let Some(process) = self.processes.get_mut(&pid) {
                process.pending -= rows.min(process.pending);
                process.spent += rows as i64;
            }
        }
        plan
    }

    /// Takes note of what happened.
    pub fn apply(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        self.now_ms = now_ms;
        let mut out = Vec::new();
        let whose = match &event {
            Event::Wrote(pid) | Event::Evicted(pid, _) | Event::Blocked(pid, _) => Some(*pid),
            Event::Admitted { pid, .. } => Some(*pid),
            _ => None,
        };
        match event {
            Event::Spawn(spawn) => self.spawn(self.next_pid(), *spawn),
            Event::Resumed(pid, spawn) => self.spawn(pid, *spawn),
            Event::Admitted { pid, cached, planned, run } => {
                let left = planned.saturating_sub(run);
                self.scheduler.refund(pid, left);
                self.with(pid, |process| {
                    let unread = process.pending + planned;
                    process.pending = unread.saturating_sub(cached + run);
                    process.spent -= left as i64;
                    process.counts.cached += cached;
                });
            }
            Event::Exit(pid, exit) => self.exit(pid, exit, &mut out),
            Event::Signal(pid, Signal::Kill) => self.exit(pid, Exit::Killed, &mut out),
            Event::Signal(pid, signal) => {
                self.with(pid, |process| process.stopped = signal == Signal::Stop);
            }
            Event::Nice(pid, class, weight) => self.with(pid, |process| {
                (process.spawn.class, process.spawn.weight) = (class, weight);
            }),
            Event::Blocked(pid, blocked) => self.with(pid, |process| match process.state {
                State::Ready if blocked => process.state = State::Blocked,
                State::Blocked if !blocked => process.state = State::Ready,
                _ => {}
            }),
            Event::Wait(pid, child) => self.wait(pid, child, &mut out),
            Event::Send(from, to, message) => self.send(from, to, *message, &mut out),
            Event::Receive(pid) => self.receive(pid, &mut out),
            Event::Tick => {}
            event => self.change(event),
        }
        self.enforce(whose, &mut out);
        if whose.is_none() {
            self.inherit();
        }
        out
    }

    /// Takes note of what changes one process alone.
    fn change(&mut self, event: Event) {
        let now_ms = self.now_ms;
        match event {
            // What it reads a second time is not its fault: it costs its turn, not its budget.
            Event::Evicted(pid, pending) => self.with(pid, |process| {
                process.spent -= pending.saturating_sub(process.pending) as i64;
                process.pending = pending;
            }),
            Event::Wrote(pid) => self.with(pid, |process| {
                process.counts.generated += 1;
                process.pending += 1;
                process.times.1.get_or_insert(now_ms);
            }),
            Event::Paused(pid) => self.with(pid, |process| {
                process.counts.generated += 1;
                process.times.1.get_or_insert(now_ms);
                process.spawn.label = process.spawn.label.join(&Label::of(Sources::MODEL));
                (process.state, process.pending) = (State::Calling, 0);
            }),
            Event::Call(pid, name) => self.with(pid, |process| {
                (process.state, process.calls) = (State::Calling, process.calls + 1);
                *process.meter.entry(name).or_default() += 1;
            }),
            Event::Ask(pid) => self.with(pid, |process| process.state = State::Asking),
            Event::Answered(pid, label) => self.with(pid, |process| {
                process.spawn.label = process.spawn.label.join(&label);
                process.state = State::Calling;
            }),
            Event::Turn { pid, prompt, kept, written } => self.with(pid, |process| {
                process.pending = (prompt + written).saturating_sub(kept);
                process.counts.prompt += prompt;
                process.counts.cached += kept.min(prompt);
                process.spent -= written as i64;
                process.state = State::Ready;
            }),
            Event::Lent(pid, budget) => {
                self.with(pid, |process| process.spawn.budget = process.spawn.budget.less(budget));
            }
            Event::Rows(rows) => self.scheduler.set_rows(rows),
            _ => {}
        }
    }

    /// Names of processes begin behind this one: those up to it were given before the system stopped.
    pub fn begin_behind(&mut self, pid: Pid) {
        self.next = self.next.max(pid.0 + 1);
    }

    /// Whether a process can be sent a message, and why not.
    pub fn takes_mail(&self, pid: Pid) -> Result<(), &'static str> {
        match self.processes.get(&pid) {
            Some(process) if process.exit.is_none() => match process.mailbox.len() < MAILBOX {
                true => Ok(()),
                false => Err("its mailbox is full"),
            },
            _ => Err("there is no such process"),
        }
    }

    fn spawn(&mut self, pid: Pid, spawn: Spawn) {
        self.begin_behind(pid);
        let before = spawn.spent.counts;
        let read = before.prompt.saturating_sub(before.cached);
        let process = Process {
            pid,
            state: State::Ready,
            stopped: false,
            pending: spawn.prompt,
            counts: Counts { prompt: before.prompt + spawn.prompt, ..before },
            spent: i64::try_from(read + before.generated).unwrap_or(i64::MAX),
            calls: spawn.spent.calls,
            meter: BTreeMap::new(),
            mailbox: VecDeque::new(),
            times: (self.now_ms, None, None),
            exit: None,
            pages: 0,
            spawn,
        };
        self.processes.insert(pid, process);
        self.line(pid);
    }

    /// Changes a process that is alive, and its place in line.
    fn with(&mut self, pid: Pid, change: impl FnOnce(&mut Process)) {
        if let Some(process) = self.processes.get_mut(&pid).filter(|p| p.exit.is_none()) {
            change(process);
        }
        self.line(pid);
    }

    /// Puts a process into the scheduler's line, or takes it out.
    fn line(&mut self, pid: Pid) {
        match self.processes.get(&pid) {
            Some(p) if p.state == State::Ready && !p.stopped && p.pending > 0 => {
                let Spawn { class, weight, .. } = p.spawn;
                self.scheduler.ready(pid, class, weight, p.pending, self.now_ms);
            }
            // Read everything, and about to write: it keeps its place.
            Some(p) if p.state == State::Ready && !p.stopped => {}
            _ => self.scheduler.remove(pid),
        }
    }

    fn exit(&mut self, pid: Pid, exit: Exit, out: &mut Vec<Action>) {
        let mut ending = vec![(pid, exit)];
        while let Some((pid, exit)) = ending.pop() {
            let Some(process) = self.processes.get_mut(&pid).filter(|p| p.exit.is_none()) else {
                continue;
            };
            (process.state, process.exit) = (State::Exited, Some(exit.clone()));
            process.times.2 = Some(self.now_ms);
            process.mailbox.clear();
            self.scheduler.remove(pid);
            out.push(Action::Release(pid, exit.clone()));
            let waiting: Vec<Pid> = self.alive_where(|p| p.state == State::Waiting(pid));
            for parent in waiting {
                out.push(Action::Woken(parent, pid, exit.clone()));
                self.with(parent, |process| process.state = State::Calling);
            }
            // Children do not outlive who started them.
            let children = self.alive_where(|p| p.spawn.parent == Some(pid));
            ending.extend(children.into_iter().map(|child| (child, Exit::Killed)));
        }
        self.forget();
    }

    fn alive_where(&self, is: impl Fn(&Process) -> bool) -> Vec<Pid> {
        let alive = self.processes.values().filter(|process| process.exit.is_none());
        alive.filter(|process| is(process)).map(|process| process.pid).collect()
    }

    /// Forgets the oldest of those that are over.
    fn forget(&mut self) {
        let over = self.processes.values().filter(|process| process.exit.is_some());
        let over: Vec<Pid> = over.map(|process| process.pid).collect();
        for pid in over.iter().take(over.len().saturating_sub(REMEMBERED)) {
            self.processes.remove(pid);
        }
    }

    fn wait(&mut self, pid: Pid, child: Pid, out: &mut Vec<Action>) {
        match self.processes.get(&child).map(|process| process.exit.clone()) {
            None => out.push(Action::Refused(pid, "there is no such process")),
            Some(Some(exit)) => out.push(Action::Woken(pid, child, exit)),
            // Whoever waits for itself through others would wait for ever.
            Some(None) if self.waits_for(child, pid) => {
                out.push(Action::Refused(pid, "it waits for the one that would wait for it"));
            }
            Some(None) => self.with(pid, |process| process.state = State::Waiting(child)),
        }
    }

    /// Whether `pid` is `other`, or waits for it over any number of steps.
    fn waits_for(&self, pid: Pid, other: Pid) -> bool {
        let mut at = pid;
        loop {
            if at == other {
                return true;
            }
            match self.processes.get(&at).map(|process| process.state) {
                Some(State::Waiting(next)) => at = next,
                _ => return false,
            }
        }
    }

    fn send(&mut self, from: Pid, to: Pid, message: Message, out: &mut Vec<Action>) {
        if let Err(why) = self.takes_mail(to) {
            out.push(Action::Refused(from, why));
            return;
        }
        let Some(process) = self.processes.get_mut(&to) else { return };
        process.mailbox.push_back((from, message));
        if process.state == State::Receiving {
            self.receive(to, out);
        }
    }

    fn receive(&mut self, pid: Pid, out: &mut Vec<Action>) {
        self.with(pid, |process| match process.mailbox.pop_front() {
            Some((from, message)) => {
                process.spawn.label = process.spawn.label.join(&message.label());
                process.state = State::Calling;
                out.push(Action::Deliver(pid, from, Box::new(message)));
            }
            None => process.state = State::Receiving,
        });
    }

    /// Ends those whose budget is used up: of all, or of one that alone has changed.
    fn enforce(&mut self, whose: Option<Pid>, out: &mut Vec<Action>) {
        let now = self.now_ms;
        // What cannot be paid for is not begun.
        let over = |p: &Process| {
            let budget = p.spawn.budget;
            let beyond = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used > limit);
            match () {
                () if p.pending > 0
                    && beyond(budget.tokens, (p.spent + p.pending as i64).max(0) as u64) =>
                {
                    Some("tokens")
                }
                () if beyond(budget.calls, p.calls) => Some("calls"),
                () if p.pending > 0 && beyond(budget.money, p.cost(p.pending as u64, 1)) => {
                    Some("money")
                }
                () if beyond(budget.wall_ms, p.lived(now)) => Some("wall time"),
                () => None,
            }
        };
        let range = whose.map_or(Pid(0)..=Pid(u64::MAX), |pid| pid..=pid);
        let alive = self.processes.range(range).map(|(_, process)| process);
        let alive = alive.filter(|process| process.exit.is_none());
        let ending: Vec<_> = alive.filter_map(|p| Some((p.pid, over(p)?))).collect();
        for (pid, budget) in ending {
            self.exit(pid, Exit::Budget(budget.into()), out);
        }
    }

    /// Priority inheritance: whoever is waited for runs as soon as the most urgent one that waits.
    fn inherit(&mut self) {
        let mut urgent: BTreeMap<Pid, (Class, u32)> = BTreeMap::new();
        for process in self.processes.values().filter(|process| process.exit.is_none()) {
            let Spawn { class, weight, .. } = process.spawn;
            let (mut at, mut seen) = (process.state, BTreeSet::new());
            while let State::Waiting(next) = at
                && seen.insert(next)
            {
                let entry = urgent.entry(next).or_insert((class, weight));
                *entry = (entry.0.min(class), entry.1.max(weight));
                at = self.processes.get(&next).map_or(State::Exited, |process| process.state);
            }
        }
        for (pid, (class, weight)) in urgent {
            if let Some(process) = self.processes.get(&pid) {
                let own = &process.spawn;
                self.scheduler.renice(pid, own.class.min(class), own.weight.max(weight));
            }
        }
    }
}
