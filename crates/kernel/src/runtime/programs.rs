//! Programs: processes that go on after they have spoken.
//!
//! The loop of a program is generate, call, answer: when a turn is over the journal takes it, then each call
//! is made and its answer taken, then the next turn begins on what the engine still holds of the one
//! before.
//!
//! The key decision: everything here follows from [`Life::next`]. An entry is applied when it is made. What can be seen
//! outside the process waits until it is durable and comes back as [`Command::GoOn`]; what a restart would do again
//! in the same way (writing, and calls, which note their intent before they begin) does not wait. The
//! journal is written in order, so whatever it knows it knows with all that came before. Whatever blocks (a
//! driver, a disk, a tokenizer) has a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use yushan_abi::{
    Call, Event as Shown, Finish, Hit, Item, Label, Message, Part, Piece, Refusal, Role, Sink,
    Sources, ToolResult, Verified,
};

use super::begin::Beginner;
use super::children::child;
use super::clerk::Then;
use super::engine::{Outcome, Runtime};
use super::{Command, spawn_of};
use crate::billing::Payer;
use crate::core::Event;
use crate::job::{Fresh, Job, panicked};
use crate::life::{Entry, LOOP, Life, Mode, Next};
use crate::process::{Exit, Pid, Spawn};
use crate::quarantine;
use crate::syscall::{SystemCall, failed, said};

/// Tokens of a turn that the journal takes together.
const NOTED: usize = 64;

/// Letters of each thing that is recalled.
const RECALLED: usize = 2000;

impl Runtime {
    pub(super) fn life(&self, pid: Pid) -> Option<&Life> {
        self.jobs.get(&pid)?.life.as_deref()
    }

    /// Takes note of what happened to a process; `then` when it is durable.
    pub(super) fn note(&mut self, pid: Pid, entries: Vec<Entry>, then: Then) {
        let life = self.jobs.get_mut(&pid).and_then(|job| job.life.as_mut());
        let Some(life) = life.filter(|life| life.exit.is_none()) else { return };
        entries.iter().for_each(|entry| life.apply(entry.clone()));
        let then = match then {
            Then::GoOn(pids) if pids == [pid] && !self.must_wait(pid) => {
                self.await_note(&pids);
                self.soon.push_back(pid);
                Then::Nothing
            }
            then => {
                match &then {
                    Then::GoOn(pids) => self.await_note(pids),
                    Then::Said(pid, _) => self.await_note(&[*pid]),
                    _ => {}
                }
                then
            }
        };
        self.clerk.note(entries.into_iter().map(|entry| (pid, entry)).collect(), then);
    }

    /// Whether what follows can be seen outside the process, so that a restart must not come to something else; or the
    /// disk is so far behind that notes would pile up.
    fn must_wait(&self, pid: Pid) -> bool {
        let Some(life) = self.life(pid) else { return true };
        let is_seen = match life.next() {
            Next::Write => false,
            Next::Call(call) => {
                let is_auto = life.program.modes.get(&call.name).is_none_or(|m| *m == Mode::Auto);
                let is_asked = life.program.attended && !(is_auto && self.only_reads(call));
                is_asked || SystemCall::parse(call).is_some() || life.times(call) >= LOOP
            }
            Next::End(_) | Next::Over => true,
        };
        is_seen || self.clerk.is_behind()
    }

    /// Lets those go on who need not wait for the disk.
    pub(super) fn go_on_soon(&mut self) {
        while let Some(pid) = self.soon.pop_front() {
            self.go_on(pid);
        }
    }

    pub(super) fn await_note(&mut self, pids: &[Pid]) {
        for pid in pids {
            if let Some(job) = self.jobs.get_mut(pid) {
                job.awaits = true;
            }
        }
        // What waits now must not go on for an earlier note.
        self.soon.retain(|pid| !pids.contains(pid));
    }

    /// Hands the tokens of a turn to the journal, now and then.
    pub(super) fn wrote(&mut self, pid: Pid) {
        let Some(job) = self.jobs.get_mut(&pid).filter(|job| job.life.is_some()) else { return };
        if job.counts.generated - job.noted >= NOTED {
            let from = job.prompt + job.noted;
            job.noted = job.counts.generated;
            let (at, tokens) = (from - job.prompt, job.history[from..].to_vec());
            self.note(pid, vec![Entry::Wrote { at, tokens }], Then::Nothing);
        }
    }

    /// A turn is over: what was said goes into the journal before anything that can be seen follows from it.
    pub(super) fn turn_over(&mut self, pid: Pid, finish: Finish, calls: Vec<Call>) {
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        job.writer = None;
        let (text, counts) = (std::mem::take(&mut job.said), job.counts);
        if job.holds_back() && finish == Finish::Calls && !text.is_empty() {
            job.show(Shown::Text { text: text.clone(), logprob: None });
        }
        job.owed = counts;
        self.tell(Event::Paused(pid));
        let entry = Entry::Said { text, calls, finish, counts };
        self.note(pid, vec![entry], Then::GoOn(vec![pid]));
        self.spoke(pid);
    }

    /// What it has just said can come again in a client's next request.
    fn spoke(&mut self, pid: Pid) {
        let Some(life) = self.life(pid) else { return };
        // A user's own words are the user's to send, and so is what was made of them alone.
        let label = Label { readers: life.data.readers.clone(), ..life.label.clone() };
        self.spoken().note(&life.program.request.tenant, &life.text, label);
    }

    fn spoken(&self) -> std::sync::MutexGuard<'_, super::spoken::Spoken> {
        self.spoken.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What was noted is durable, or need not be yet: what follows?
    pub(super) fn go_on(&mut self, pid: Pid) {
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        // One that is held goes on when it is let go on.
        if job.life.as_ref().is_none_or(|life| life.held) || !std::mem::take(&mut job.awaits) {
            return;
        }
        self.settle(pid);
        let Some(life) = self.life(pid) else { return };
        match life.next() {
            Next::Write if self.jobs[&pid].writer.is_none() => self.ready(pid),
            // The first turn was made ready by whoever asked for it, and is under way.
            Next::Write => {}
            Next::Call(_) => self.calls(pid),
            Next::End(_) => {
                self.verified(pid);
                self.note(pid, vec![Entry::Exited(Exit::Done)], Then::GoOn(vec![pid]));
            }
            Next::Over => {
                let finish = life.finish.clone().unwrap_or(Finish::End);
                let calls = life.open.iter().cloned().collect();
                self.end(pid, Ok(finish), calls);
            }
        }
    }

    /// Shows what was held back until its code was run.
    fn verified(&mut self, pid: Pid) {
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        let Some(life) = job.life.as_ref().filter(|life| life.program.check.is_some()) else {
            return;
        };
        let verdict = life.checked.verdict.unwrap_or(Verified::NotRun);
        let text = life.text.clone();
        job.show(Shown::Text { text, logprob: None });
        job.show(Shown::Verified(verdict));
    }

    /// Brings the conversation into tokens, on a thread of its own; its model may have to be loaded first.
    pub(super) fn ready(&mut self, pid: Pid) {
        let Some(life) = self.life(pid) else { return };
        let request = life.request();
        // A token that was taken over has no probabilities to show.
        let written = match request.logprobs {
            Some(_) => Vec::new(),
            None => life.written.clone(),
        };
        let beginner = Beginner { parent: Some(pid), ..self.beginner.clone() };
        // Whether the first turn may begin was judged where the process was asked for, and one that has begun
        // goes on.
        let judged = life.turns == 0 && life.program.parent.is_none() || !life.written.is_empty();
        let payer = Payer::of(&request);
        self.work(pid, move || {
            let may = if judged { Ok(()) } else { beginner.may_begin(&payer) };
            let fresh = may.and_then(|()| beginner.fresh(&request, &written, &payer));
            Command::Fresh(pid, fresh.map(Box::new))
        });
    }

    /// Does something for a process that may block, and takes what comes of it as a command.
    pub(super) fn work(&mut self, pid: Pid, work: impl FnOnce() -> Command + Send + 'static) {
        let commands = self.commands.clone();
        let thread = std::thread::Builder::new().name("call".into()).spawn(move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            // The engine's thread may have ended.
            let _ = commands.send(done.unwrap_or_else(|_| Command::Fresh(pid, Err(panicked()))));
        });
        if let Err(error) = thread {
            self.end(pid, Err(Refusal::Internal(format!("no thread: {error}"))), Vec::new());
        }
    }

    /// Begins a turn.
    pub(super) fn fresh(&mut self, pid: Pid, fresh: Result<Box<Fresh>, Refusal>) {
        let fresh = match fresh {
            Ok(fresh) => *fresh,
            // It goes on after the next start.
            Err(Refusal::Stopping) => return,
            Err(Refusal::Busy { after_ms }) => {
                return self.later.push((self.now().saturating_add(after_ms), pid));
            }
            // Nothing of the turn has begun; what was said before stands.
            Err(Refusal::Quota(granted)) => {
                return self.tell(Event::Exit(pid, Exit::Quota(granted)));
            }
            Err(refusal) => return self.end(pid, Err(refusal), Vec::new()),
        };
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        let written = fresh.written.0.len();
        let kept = job.turn_to(fresh);
        if let (Some(sequence), Some(engine)) = (job.sequence, self.engines.get_mut(&job.model))
            && let Err(error) = engine.truncate(sequence, kept)
        {
            return self.end(pid, Err(Refusal::Internal(error.to_string())), Vec::new());
        }
        let prompt = job.prompt;
        self.tell(Event::Turn { pid, prompt, kept, written });
    }

    /// The first open call is answered.
    pub(super) fn answer(&mut self, pid: Pid, result: ToolResult) {
        self.answered(pid, result, false, Then::GoOn(vec![pid]));
    }

    pub(super) fn answered(&mut self, pid: Pid, result: ToolResult, received: bool, then: Then) {
        if self.life(pid).is_none_or(|life| life.exit.is_some() || life.open.is_empty()) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        let checks = job.life.as_ref().is_some_and(|life| life.checked.under_way);
        if let Some(call) = job.life.as_ref().and_then(|life| life.open.front()).cloned()
            && !checks
        {
            job.show(Shown::Answered { call, result: result.clone() });
        }
        self.tell(Event::Answered(pid, result.label()));
        if let Some(life) = self.life(pid) {
            let tenant = &life.program.request.tenant;
            self.spoken().note(tenant, &result.text(), result.label());
        }
        self.note(pid, vec![Entry::Answered { result, received }], then);
    }

    pub(super) fn system_call(&mut self, pid: Pid, call: SystemCall) {
        let Some(life) = self.life(pid) else { return };
        match call {
            SystemCall::Fork {} => self.fork_spaces(pid),
            SystemCall::Spawn { task, instructions, tools, tokens } => {
                match child(life, &task, &instructions, &tools) {
                    Ok(program) => self.begin_child(pid, program, tokens, None),
                    Err(why) => self.answer(pid, failed(why)),
                }
            }
            SystemCall::Wait { pid: child } => match self.outcomes.get(&child) {
                Some(outcome) if outcome.parent == Some(pid) => {
                    let result = outcome.result.clone();
                    self.answer(pid, result);
                }
                _ if self.core.process(child).is_some_and(|c| c.spawn.parent == Some(pid)) => {
                    self.tell(Event::Wait(pid, child));
                }
                _ => self.answer(pid, failed("there is no such child")),
            },
            SystemCall::Send { pid: to, text } => {
                let label = life.label.join(&Label::of(Sources::MODEL));
                let tenant = life.program.request.tenant.clone();
                let message = Message::new(Role::User, text, label);
                match self.deliver(pid, to, &tenant, message, Then::Nothing) {
                    Ok(()) => self.answer(pid, said("sent")),
                    Err(why) => self.answer(pid, failed(why)),
                }
            }
            SystemCall::Receive {} => self.tell(Event::Receive(pid)),
            SystemCall::Remember { text } => self.remember(pid, text),
            SystemCall::Recall { query, limit } => self.recall(pid, query, limit),
            SystemCall::Plan { .. } => {
                let may = life.may_plan();
                self.answer(pid, may.map_or_else(failed, |()| said("the plan stands")));
            }
            SystemCall::Extract { value, question, answer } => {
                match quarantine::reader(life, value, &question, answer) {
                    Ok(program) => self.begin_child(pid, program, None, None),
                    Err(why) => self.answer(pid, failed(why)),
                }
            }
            SystemCall::Ask { .. } if life.program.attended => self.tell(Event::Ask(pid)),
            SystemCall::Ask { .. } => self.answer(pid, failed("nobody is there to be asked")),
            SystemCall::Exit { text } => {
                if let Some(job) = self.jobs.get_mut(&pid) {
                    job.show_pieces(vec![Piece::Text(text.clone())], None);
                }
                let (calls, finish) = (Vec::new(), Finish::End);
                let counts = yushan_abi::Counts::default();
                let entry = Entry::Said { text, calls, finish, counts };
                self.note(pid, vec![entry], Then::GoOn(vec![pid]));
                self.spoke(pid);
            }
        }
    }

    fn remember(&mut self, pid: Pid, text: String) {
        let Some(life) = self.life(pid) else { return };
        let Some(index) = self.world.index.clone() else {
            return self.answer(pid, failed("nothing can be kept here"));
        };
        let owner = life.program.request.tenant.clone();
        let label = life.label.join(&Label::of(Sources::MODEL));
        let item = Item { id: format!("memory-{}", life.key()), owner, text, label };
        let key = life.key();
        self.work(pid, move || {
            let kept = index.insert(&item);
            Command::Answered(
                pid,
                key,
                kept.map_or_else(|e| failed(e.to_string()), |()| said("kept")),
            )
        });
    }

    fn recall(&mut self, pid: Pid, query: String, limit: usize) {
        let Some(life) = self.life(pid) else { return };
        let Some(index) = self.world.index.clone() else {
            return self.answer(pid, failed("nothing can be kept here"));
        };
        let owner = life.program.request.tenant.clone();
        let key = life.key();
        self.work(pid, move || {
            let result = match index.search(&owner, &query, limit) {
                Ok(hits) if hits.is_empty() => said("nothing was found"),
                Ok(hits) => {
                    let part = |hit: Hit| Part {
                        text: format!("- {}\n", excerpt(&hit.item.text)),
                        label: hit.item.label,
                    };
                    let parts = hits.into_iter().map(part).collect();
                    ToolResult { parts, ..ToolResult::default() }
                }
                Err(error) => failed(error.to_string()),
            };
            Command::Answered(pid, key, result)
        });
    }

    /// Processes go on after the system stopped under them: first all are there, then any does something.
    pub(super) fn resume(&mut self, all: Vec<(Life, u64, Box<dyn Sink>)>) {
        let pids: Vec<Pid> = all.iter().map(|(life, ..)| life.pid).collect();
        for (life, lived, sink) in all {
            self.come_back(life, lived, sink);
        }
        self.await_note(&pids);
        self.clerk.note(Vec::new(), Then::GoOn(pids));
    }

    fn come_back(&mut self, life: Life, lived: u64, sink: Box<dyn Sink>) {
        let pid = life.pid;
        let spent = life.spent(lived);
        let spawn = Spawn { spent, ..spawn_of(&life, self.world.price) };
        let (mailbox, held) = (life.mailbox.clone(), life.held);
        let request = life.program.request.clone();
        // Its reader was not there when its last turn ended.
        let said = matches!(life.next(), Next::End(_)).then(|| life.text.clone());
        let mut job = Job::new(&request, sink, Some(life));
        if let Some(text) = said {
            job.begin();
            job.show_pieces(vec![Piece::Text(text)], None);
        }
        self.jobs.insert(pid, job);
        self.tell(Event::Resumed(pid, Box::new(spawn)));
        for (from, message) in mailbox {
            self.tell(Event::Send(from, pid, Box::new(message)));
        }
        if held {
            self.tell(Event::Signal(pid, crate::process::Signal::Stop));
        }
    }

    /// A process with a program is over: the journal and whoever waits for it hear of it.
    pub(super) fn over(&mut self, pid: Pid, mut life: Life, exit: Exit) {
        if life.exit.is_none() {
            life.apply(Entry::Exited(exit.clone()));
            self.clerk.note(vec![(pid, Entry::Exited(exit))], Then::Nothing);
        }
        if life.program.capabilities.keys().any(|name| !SystemCall::NAMES.contains(&name.as_str()))
        {
            let (space, lives) = (life.space(), |job: &Job| job.life.as_ref().map(|l| l.space()));
            if !self.jobs.values().any(|job| lives(job).as_ref() == Some(&space)) {
                self.world.tools.iter().for_each(|tool| tool.released(&space));
            }
        }
        self.remember_outcome(&life);
    }

    /// Keeps what a child said last for a parent that waits for it later.
    pub(super) fn remember_outcome(&mut self, life: &Life) {
        let result = match (&life.exit, &life.program.extraction) {
            (Some(Exit::Done) | None, Some(extraction)) => extraction.result(&life.text),
            (Some(Exit::Done) | None, None) => {
                ToolResult::new(life.text.clone(), life.label.clone())
            }
            (Some(exit), _) => {
                let why = match exit {
                    Exit::Budget(budget) => format!("its budget of {budget} was used up"),
                    Exit::Quota(granted) => format!("it may use no more: {granted}"),
                    Exit::Failed(why) => format!("it failed: {why}"),
                    _ => "it was killed".to_string(),
                };
                ToolResult::failed(why, life.label.clone())
            }
        };
        if life.program.parent.is_some() {
            self.outcomes.insert(life.pid, Outcome { parent: life.program.parent, result });
        }
        while self.outcomes.len() > OUTCOMES {
            self.outcomes.pop_first();
        }
    }
}

/// Outcomes that are kept.
const OUTCOMES: usize = 1024;

/// A text as it is recalled: a conversation may be longer than a context.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(RECALLED) {
        Some((end, _)) => format!("{} […]", &text[..end]),
        None => text.to_string(),
    }
}
