//! Children: processes that a process starts, and what they get of its budget.
//!
//! The key decision: a child has its parent's program with another conversation; what it may call is a part of
//! what its parent may, what it may use up is taken from its parent, and whoever pays for the parent pays
//! for it. Both notes, that it began and that its parent gave, are durable together.

use std::sync::Arc;

use yushan_abi::{Label, Message, Prompt, Role, Sources, Tool};

use super::Command;
use super::clerk::Then;
use super::engine::Runtime;
use super::spawn_of;
use crate::core::Event;
use crate::job::Job;
use crate::life::{Bounds, Entry, Life, Program};
use crate::plan::Plan;
use crate::process::{Budget, Pid, Process, Spawn};
use crate::syscall::{failed, said};

/// Names the space of the process that this call makes, the same after a crash.
fn forked_space(key: &str) -> String {
    format!("fork-{key}")
}

impl Runtime {
    /// First the spaces of its tools are copied: a driver may have to wait for a disk.
    pub(super) fn fork_spaces(&mut self, pid: Pid) {
        let Some(life) = self.life(pid) else { return };
        let able = |tool: &Arc<dyn Tool>| life.program.capabilities.contains_key(&tool.spec().name);
        let tools: Vec<_> = self.world.tools.iter().filter(|tool| able(tool)).cloned().collect();
        let (from, key) = (life.space(), life.key());
        if tools.is_empty() {
            return self.fork(pid, &key);
        }
        self.work(pid, move || {
            let forked = tools.iter().try_for_each(|tool| tool.forked(&from, &forked_space(&key)));
            match forked {
                Ok(()) => Command::Forked(pid, key),
                Err(why) => Command::Answered(pid, key, failed(why)),
            }
        });
    }

    /// A second process with the same past; `key` names the call that asked for it.
    pub(super) fn fork(&mut self, pid: Pid, key: &str) {
        let Some(life) = self.life(pid) else { return };
        let child = self.core.next_pid();
        let mut program = life.program.clone();
        program.parent = Some(pid);
        program.key = String::new();
        program.space = forked_space(key);
        for (name, able) in &mut program.capabilities {
            able.uses = life.capability(name).and_then(|left| left.uses);
        }
        // The other calls of this turn are the parent's.
        let mut messages = life.messages.clone();
        let answered = messages.iter().rev().take_while(|m| m.role == Role::Tool).count();
        if let Some(last) = messages.iter_mut().rev().find(|m| m.role == Role::Assistant) {
            last.calls.truncate(answered + 1);
        }
        let Some(call) = life.open.front() else { return };
        let text = format!("you are the new process {child}, forked from {pid}");
        let mut told = Message::new(Role::Tool, text, Label::of(Sources::SYSTEM));
        (told.answers, told.name) = (Some(call.id.clone()), Some(call.name.clone()));
        messages.push(told);
        program.request.prompt = Prompt::Chat(messages);
        self.begin_child(pid, program, None, Some(pid));
    }

    /// Starts a child; with `of`, on the keys and values of that process.
    pub(super) fn begin_child(
        &mut self,
        parent: Pid,
        program: Program,
        tokens: Option<u64>,
        of: Option<Pid>,
    ) {
        if self.core.alive() >= self.most {
            return self.answer(parent, failed("there are too many processes"));
        }
        let Some(process) = self.core.process(parent) else { return };
        let lent = share(process, tokens, self.now());
        let pid = self.core.next_pid();
        let Some(life) = self.life(parent) else { return };
        let program = Program { parent: Some(parent), budget: lent, ..program };
        let (program, shared) = bounded(life, program, of.is_some());
        let life = Life::new(pid, program.clone());
        let spawn = Spawn { prompt: 0, ..spawn_of(&life, self.world.price) };
        let mut job = Job::new(&program.request, Box::new(yushan_abi::Nobody), Some(life));
        if let Some(of) = of.and_then(|of| self.jobs.get(&of))
            && let (Some(sequence), Some(engine)) = (of.sequence, self.engines.get_mut(&of.model))
        {
            // Without pages it reads its past again.
            job.sequence = engine.fork(sequence).ok();
            if job.sequence.is_some() {
                (job.history, job.fed) = (of.history.clone(), of.fed);
                job.lease = of.lease.clone();
            }
        }
        self.jobs.insert(pid, job);
        self.tell(Event::Spawn(Box::new(spawn)));
        if !self.jobs.contains_key(&parent) {
            return;
        }
        // Time passes for both.
        let paid = Budget { wall_ms: None, ..lent };
        self.tell(Event::Lent(parent, paid));
        self.tell(Event::Answered(parent, Label::of(Sources::SYSTEM)));
        let result = said(format!("started process {pid}"));
        let mut entries = vec![(pid, Entry::Began(Box::new(program)))];
        let own = [Entry::Lent(paid), shared, Entry::Answered { result, received: false }];
        if let Some(life) = self.jobs.get_mut(&parent).and_then(|job| job.life.as_mut()) {
            own.iter().for_each(|entry| life.apply(entry.clone()));
        }
        entries.extend(own.map(|entry| (parent, entry)));
        self.await_note(&[parent, pid]);
        self.clerk.note(entries, Then::GoOn(vec![parent, pid]));
    }
}

/// A child's program with its part of what its parent may let through, and the note of what that part was: both together may
/// do what the parent could, and no more.
fn bounded(life: &Life, program: Program, is_fork: bool) -> (Program, Entry) {
    let (bits, bytes, mut uses) =
        if program.capabilities.is_empty() { Default::default() } else { life.part() };
    // A fork goes on with the plan; another task is none of the plan's.
    let plan = life.plan.as_ref();
    let plan = plan.map(|plan| if is_fork { plan.clone() } else { Plan::default() });
    let (bounds, data) = (Bounds { bits, bytes }, life.data.join(&program.data));
    let mut program = Program { bounds, plan, data, ..program };
    for (tool, able) in &mut program.capabilities {
        able.uses = able.uses.map(|_| uses.get(tool).copied().unwrap_or(0));
    }
    uses.retain(|tool, _| program.capabilities.contains_key(tool));
    (program, Entry::Shared { bits, bytes, uses })
}

/// A child's program.
pub(super) fn child(
    life: &Life,
    task: &str,
    instructions: &str,
    tools: &[String],
) -> Result<Program, String> {
    let label = life.label.join(&Label::of(Sources::MODEL));
    let mut messages = Vec::new();
    if !instructions.is_empty() {
        messages.push(Message::new(Role::System, instructions, label.clone()));
    }
    messages.push(Message::new(Role::User, task, label));
    let mut program = life.program.clone();
    if let Some(tool) = tools.iter().find(|tool| life.capability(tool).is_none()) {
        return Err(format!("you may not call {tool:?} yourself"));
    }
    program.capabilities.retain(|name, _| tools.contains(name));
    program.request.tools.retain(|tool| tools.contains(&tool.name));
    for (name, able) in &mut program.capabilities {
        able.uses = life.capability(name).and_then(|left| left.uses);
    }
    program.request.prompt = Prompt::Chat(messages);
    program.title = task.chars().take(60).collect();
    (program.key, program.attended) = (String::new(), false);
    Ok(program)
}

/// What a child gets of a budget: what was asked for, or half of what is left.
fn share(parent: &Process, tokens: Option<u64>, now_ms: u64) -> Budget {
    let used = Budget {
        tokens: Some(parent.used()),
        calls: Some(parent.calls),
        money: Some(parent.cost(0, 0)),
        wall_ms: Some(parent.lived(now_ms)),
    };
    let left = parent.spawn.budget.less(used);
    let half = |bound: Option<u64>| bound.map(|bound| bound / 2);
    let given = Budget {
        tokens: tokens.or(half(left.tokens)),
        calls: half(left.calls),
        money: half(left.money),
        wall_ms: left.wall_ms,
    };
    given.least(left)
}
