//! Calls: from what a model asked for to what a driver answered.
//!
//! What a call must pass, in this order: it names something that is there, its arguments fit the schema, the same call was
//! not just answered in the same way ([`LOOP`]), the user's settings ([`Mode`]) and the gate allow it. What does not pass
//! is answered with a text that the model can act on; only a process that goes on regardless is ended.
//!
//! The key decision: answers go into the conversation in the order of the calls, but calls that only look, or fetch,
//! are made beside each other. Those that change something, or work in the process's own space, wait for the ones before
//! them: what they find may depend on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;
use yushan_abi::{
    Call, Cancel, Effect, Event as Shown, Invocation, Label, Refusal, Tool, ToolResult,
};

use super::Command;
use super::clerk::Then;
use super::engine::Runtime;
use crate::core::Event;
use crate::gate::Decision;
use crate::life::{Entry, LOOP, Life, Mode};
use crate::process::Pid;
use crate::syscall::{self, Judged, SystemCall, failed};

/// Calls of one process that are made at the same time.
const BESIDE: usize = 8;

/// How often a process is told that it repeats itself before it is ended.
const WARNED: u32 = 3;

/// The tools, with what checks their arguments.
pub(super) struct Drivers(BTreeMap<String, Driver>);

/// A tool, and what checks the arguments of its calls; why nothing can, if its own schema is wrong.
struct Driver {
    tool: Arc<dyn Tool>,
    validator: Result<Validator, String>,
}

impl Drivers {
    pub(super) fn new(tools: &[Arc<dyn Tool>]) -> Drivers {
        let driver = |tool: &Arc<dyn Tool>| {
            let spec = tool.spec();
            let validator =
                jsonschema::validator_for(&spec.schema).map_err(|error| error.to_string());
            (spec.name.clone(), Driver { tool: tool.clone(), validator })
        };
        // Of two with one name the first is called.
        Drivers(tools.iter().rev().map(driver).collect())
    }
}

/// Where in the arguments something does not fit, and why; `None`: they fit.
fn misfit(validator: &Validator, arguments: &Value) -> Option<String> {
    let mut errors = validator.iter_errors(arguments).map(|error| {
        match error.instance_path().to_string().as_str() {
            "" => error.to_string(),
            path => format!("at {path}: {error}"),
        }
    });
    let shown: Vec<String> = errors.by_ref().take(3).collect();
    (!shown.is_empty()).then(|| shown.join("; "))
}

/// A call that may be made now.
struct Ready {
    tool: Arc<dyn Tool>,
    arguments: Value,
    /// Of all that it is made from.
    label: Label,
}

/// What is done about a call.
enum Course {
    Make(Ready),
    /// The user is asked.
    Ask,
    /// It is not made; the model hears why.
    Answer(ToolResult),
    /// The process ends.
    End(Refusal),
}

impl Runtime {
    /// Goes on with the open calls of a turn.
    pub(super) fn calls(&mut self, pid: Pid) {
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        let Some(life) = &job.life else { return };
        let key = life.key();
        if let Some(result) = job.done.remove(&key) {
            return self.answer(pid, result);
        }
        if !job.running.contains(&key) {
            let Some(call) = life.open.front().cloned() else { return };
            self.call(pid, &call);
        }
        self.call_beside(pid);
    }

    /// What a driver gave, in its turn or before.
    pub(super) fn came(&mut self, pid: Pid, key: &str, result: ToolResult) {
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        let Some(life) = &job.life else { return };
        // An answer that comes late is not that of the next call.
        let Some(behind) = (0..life.open.len()).find(|&at| life.key_of(at) == key) else { return };
        job.running.remove(key);
        match behind {
            0 => self.answer(pid, result),
            _ => {
                job.done.insert(key.to_string(), result);
            }
        }
    }

    fn call(&mut self, pid: Pid, call: &Call) {
        let Some(life) = self.life(pid) else { return };
        // A call that waited for the user, or was begun before the system stopped, counts once.
        let again = life.confirmed.is_some() || life.intended.contains(&life.key());
        if !again {
            self.tell(Event::Call(pid, call.name.clone()));
        }
        let Some(life) = self.life(pid) else { return };
        let course = match SystemCall::parse(call) {
            _ if life.times(call) >= LOOP => warned(life.times(call)),
            Some(_) if !able(life, call) => Course::Answer(unable(life, call)),
            Some(Ok(call)) => return self.system_call(pid, call),
            Some(Err(why)) => Course::Answer(failed(why)),
            None => self.course(life, call),
        };
        let (key, checks) = (life.key(), life.checked.under_way);
        match course {
            Course::Answer(_) | Course::End(_) if checks => {
                self.tell(Event::Answered(pid, Label::default()));
                self.note(pid, vec![Entry::Unchecked], Then::GoOn(vec![pid]));
            }
            Course::Make(ready) => self.make(pid, key, ready),
            Course::Ask => self.ask_user(pid, key, call.clone()),
            Course::Answer(result) => self.answer(pid, result),
            Course::End(refusal) => self.end(pid, Err(refusal), Vec::new()),
        }
    }

    fn ask_user(&mut self, pid: Pid, key: String, call: Call) {
        if let Some(job) = self.jobs.get_mut(&pid) {
            job.show(Shown::Asks { key, call });
        }
        self.tell(Event::Ask(pid));
    }

    /// What is done about a call of a tool.
    fn course(&self, life: &Life, call: &Call) -> Course {
        let answer = |text: String| Course::Answer(failed(text));
        if !able(life, call) {
            return Course::Answer(unable(life, call));
        }
        let Some(Driver { tool, validator }) = self.drivers.0.get(&call.name) else {
            return answer(format!("the tool {:?} is not here now", call.name));
        };
        let judged = syscall::judge(life, tool.spec(), call, super::clock());
        let Judged { decision, arguments, label, .. } = match judged {
            Ok(judged) => judged,
            Err(why) => return answer(why),
        };
        match validator {
            Ok(validator) => {
                if let Some(why) = misfit(validator, &arguments) {
                    return answer(format!("the arguments do not fit the schema: {why}"));
                }
            }
            Err(why) => return answer(format!("the tool's own schema is wrong: {why}")),
        }
        let mode = life.program.modes.get(&call.name).copied().unwrap_or_default();
        match (decision, mode) {
            (_, Mode::Auto | Mode::Ask) if life.confirmed == Some(false) => {
                return answer("a user said no".into());
            }
            (Decision::Deny(_), _) | (_, Mode::Deny) => return answer("denied".into()),
            (Decision::Allow, Mode::Auto) => {}
            (Decision::Allow, Mode::Ask) if life.confirmed == Some(true) => {}
            _ if !life.program.attended => {
                return answer("denied: nobody is there who could allow it".into());
            }
            (Decision::Ask(_), _) | (_, Mode::Ask) => return Course::Ask,
        }
        Course::Make(Ready { tool: tool.clone(), arguments, label })
    }

    /// Makes calls that only look beside the first one, if that is such a call.
    fn call_beside(&mut self, pid: Pid) {
        for behind in 1..BESIDE {
            let Some(job) = self.jobs.get(&pid) else { return };
            let Some(life) = job.life.as_ref().filter(|life| !life.held) else { return };
            let (Some(first), Some(call)) = (life.open.front(), life.open.get(behind)) else {
                return;
            };
            let key = life.key_of(behind);
            if !job.running.contains(&life.key()) || !self.looks(first) || !self.looks(call) {
                return;
            }
            if job.running.contains(&key) || job.done.contains_key(&key) {
                continue;
            }
            // What the user said was said of the first call and of no other.
            if life.confirmed.is_some() {
                return;
            }
            // Whatever else is to be done about it is done in its turn.
            let uses =
                life.open.iter().take(behind + 1).filter(|one| one.name == call.name).count();
            let left = life.capability(&call.name).and_then(|able| able.uses);
            if left.is_some_and(|left| (left as usize) < uses) || life.times(call) >= LOOP {
                return;
            }
            let Course::Make(ready) = self.course(&life.ahead(behind), call) else { return };
            let (call, again) = (call.name.clone(), life.intended.contains(&key));
            if !again {
                self.tell(Event::Call(pid, call));
            }
            self.make(pid, key, ready);
        }
    }

    fn effect(&self, call: &Call) -> Option<Effect> {
        self.drivers.0.get(&call.name).map(|driver| driver.tool.spec().effect)
    }

    fn looks(&self, call: &Call) -> bool {
        matches!(self.effect(call), Some(Effect::Read | Effect::Egress))
    }

    /// Whether the gate asks nobody about it.
    pub(super) fn only_reads(&self, call: &Call) -> bool {
        self.effect(call) == Some(Effect::Read)
    }

    /// Hands a call to its driver; first the journal hears of it.
    fn make(&mut self, pid: Pid, key: String, ready: Ready) {
        let Ready { tool, arguments, label } = ready;
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        let Some(life) = &job.life else { return };
        if life.intended.contains(&key) && tool.spec().effect != Effect::Read {
            let why =
                "unknown: the system stopped during this call; it may or may not have happened";
            return self.came(pid, &key, failed(why));
        }
        job.running.insert(key.clone());
        let work = Work {
            pid,
            tool,
            arguments,
            space: life.space(),
            copy: life.checked.under_way.then(|| format!("check-{key}")),
            owner: life.program.request.tenant.clone(),
            label,
            cancel: job.cancel.clone(),
            key,
        };
        let clerk = self.clerk.clone();
        // A call that only looks can be made again: nothing waits for its note.
        if work.tool.spec().effect == Effect::Read {
            clerk.note(vec![(pid, Entry::Intended { key: work.key.clone() })], Then::Nothing);
            return self.work(pid, move || work.run());
        }
        self.work(pid, move || {
            match clerk.wait(vec![(pid, Entry::Intended { key: work.key.clone() })]) {
                // Its process may have ended while the note was written.
                Ok(()) if work.cancel.is_cancelled() => {
                    Command::Answered(pid, work.key, failed("cancelled; it was not called"))
                }
                Ok(()) => work.run(),
                Err(error) => Command::Unnoted(pid, error),
            }
        });
    }
}

/// The arguments of a call that may be made with nobody there to be asked.
pub(super) fn permitted(life: &Life, tool: &dyn Tool, call: &Call) -> Result<Value, ToolResult> {
    let judged = syscall::judge(life, tool.spec(), call, super::clock()).map_err(failed)?;
    let Judged { decision, arguments, .. } = judged;
    let validator = jsonschema::validator_for(&tool.spec().schema)
        .map_err(|error| failed(format!("the tool's own schema is wrong: {error}")))?;
    if let Some(why) = misfit(&validator, &arguments) {
        return Err(failed(format!("the arguments do not fit the schema: {why}")));
    }
    match decision {
        Decision::Allow => Ok(arguments),
        Decision::Ask(_) | Decision::Deny(_) => Err(failed("denied")),
    }
}

/// All that a driver's thread needs.
struct Work {
    pid: Pid,
    tool: Arc<dyn Tool>,
    arguments: Value,
    space: String,
    /// It is made in a copy of the space, under this name, which is then of no use.
    copy: Option<String>,
    owner: String,
    label: Label,
    cancel: Cancel,
    key: String,
}

impl Work {
    fn run(self) -> Command {
        if let Some(copy) = &self.copy
            && let Err(why) = self.tool.forked(&self.space, copy)
        {
            return Command::Answered(self.pid, self.key, failed(why));
        }
        let invocation = Invocation {
            arguments: &self.arguments,
            key: &self.key,
            space: self.copy.as_ref().unwrap_or(&self.space),
            owner: &self.owner,
            label: &self.label,
            cancel: self.cancel,
        };
        let result = syscall::run(self.tool.as_ref(), &invocation);
        if let Some(copy) = &self.copy {
            self.tool.released(copy);
        }
        Command::Answered(self.pid, self.key, result)
    }
}

fn able(life: &Life, call: &Call) -> bool {
    life.capability(&call.name).is_some_and(|able| able.uses != Some(0))
}

/// Why a process cannot call this.
fn unable(life: &Life, call: &Call) -> ToolResult {
    match life.program.capabilities.contains_key(&call.name) {
        true => failed("denied: it may not be called any more"),
        false => {
            let names: Vec<&str> =
                life.program.request.tools.iter().map(|tool| tool.name.as_str()).collect();
            failed(format!("there is no tool {:?}; there are: {}", call.name, names.join(", ")))
        }
    }
}

/// What is done about a call that was answered so often in the same way.
fn warned(times: u32) -> Course {
    match times < LOOP + WARNED {
        true => Course::Answer(failed(format!(
            "not made: this very call was made {LOOP} times in a row with the same answer; use that answer, \
             change the arguments, or tell the user what is missing"
        ))),
        false => Course::End(Refusal::Repeats(times)),
    }
}
