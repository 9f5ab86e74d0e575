//! A life: what a process with a program has been told and has said, as its journal has it.
//!
//! The key decision: a life is a fold over [`Entry`]s and nothing else. The running system and the one that
//! starts after a crash apply the same entries and ask the same [`Life::next`], so there is one way to go
//! on, not one for running and one for resuming. An entry is applied when it is made; what can be
//! seen outside waits until it is durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use yushan_abi::{
    Call, Class, Counts, Effect, Finish, Label, Listed, Message, ParamRole, Part, Prompt, Readers,
    Request, Role, Sources, TokenId, ToolChoice, ToolResult, ToolSpec, Verified,
};

use crate::check::Checked;
use crate::gate::{self, Capability, Standing};
use crate::plan::Plan;
use crate::process::{Budget, Exit, Pid, Spent};
pub use crate::program::{Bounds, Mode, Program};
use crate::provenance::{Leaf, View};
use crate::quarantine::{self, HANDLE};

/// Values of lists that a life remembers; beyond them the oldest are forgotten.
const LISTED: usize = 4096;

/// A record of the journal of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// It began.
    Began(Box<Program>),
    /// It wrote tokens of its turn.
    Wrote {
        /// Behind so many of them.
        at: usize,
        /// Which.
        tokens: Vec<TokenId>,
    },
    /// Its turn is over.
    Said {
        /// What it said beside its calls.
        text: String,
        /// What it calls.
        calls: Vec<Call>,
        /// Why the turn ended.
        finish: Finish,
        /// What the turn cost.
        counts: Counts,
    },
    /// The first call that is not answered is about to be made. What follows may or may not have
    /// happened when the system stops.
    Intended {
        /// Names this call for ever: a tool that is asked twice can tell.
        key: String,
    },
    /// The user was asked whether that call may be made, and said this.
    Confirmed(bool),
    /// That call was answered.
    Answered {
        /// With what.
        result: ToolResult,
        /// Whether it took a message out of the mailbox.
        received: bool,
    },
    /// The code of the answer was not run: it may not be.
    Unchecked,
    /// A message came into the mailbox.
    Heard(Pid, Box<Message>),
    /// A part of the budget went to a child.
    Lent(Budget),
    /// A part of what it may let through, and of how often it may call, went to a child.
    Shared {
        /// Bits of choices.
        bits: u32,
        /// Bytes of what is sent.
        bytes: u64,
        /// Calls, by tool.
        uses: BTreeMap<String, u32>,
    },
    /// Class and weight changed.
    Niced(Class, u32),
    /// It was held, or let go on.
    Held(bool),
    /// It is over.
    Exited(Exit),
}

/// What a process does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next<'a> {
    /// Goes on with its turn.
    Write,
    /// Makes this call.
    Call(&'a Call),
    /// Ends, with this.
    End(Finish),
    /// Nothing: it is over.
    Over,
}

/// A process with a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// Its name.
    pub pid: Pid,
    /// As it began; class, weight and budget as they are now.
    pub program: Program,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The join of all that it has seen.
    pub label: Label,
    /// The same without what its user wrote: who may read what it has read. A user's own words are the user's to send.
    #[serde(default)]
    pub data: Label,
    /// Tokens of the turn under way.
    pub written: Vec<TokenId>,
    /// Calls that wait for their answers, in their order.
    pub open: VecDeque<Call>,
    /// Under which keys they were begun before the system stopped.
    pub intended: BTreeSet<String>,
    /// What the user said of the first of them.
    pub confirmed: Option<bool>,
    /// Messages it has not read.
    pub mailbox: VecDeque<(Pid, Message)>,
    /// Turns that are over.
    pub turns: u64,
    /// Calls that were answered.
    pub answered: u64,
    /// How often each capability was used.
    pub used: BTreeMap<String, u32>,
    /// The call that was answered last, and how often in a row it was, each time the same.
    pub last: Option<Repeated>,
    /// How far the check of its answer is.
    pub checked: Checked,
    /// What it has cost: the sums of its turns.
    pub counts: Counts,
    /// What it said last.
    pub text: String,
    /// How its last turn ended.
    pub finish: Option<Finish>,
    /// Whether a signal holds it.
    pub held: bool,
    /// How it ended.
    pub exit: Option<Exit>,
    /// What tools have listed.
    #[serde(default)]
    pub listed: VecDeque<Listed>,
    /// Texts behind handles, by their numbers.
    #[serde(default)]
    pub hidden: Vec<Part>,
    /// What it means to do, as far as it has not done it.
    #[serde(default)]
    pub plan: Option<Plan>,
    /// Kinds and values that the user has allowed a call with.
    #[serde(default)]
    pub allowed: BTreeSet<(String, String)>,
    /// Bits of choices and bytes that it has let through.
    #[serde(default)]
    pub through: (u32, u64),
}

impl Life {
    /// The life that begins so.
    pub fn new(pid: Pid, program: Program) -> Life {
        let messages = match &program.request.prompt {
            Prompt::Chat(messages) => messages.clone(),
            Prompt::Text(_) | Prompt::Tokens(_) | Prompt::Infill { .. } => Vec::new(),
        };
        let user = Label::of(Sources::USER).for_reader(program.request.tenant.clone());
        let label = messages.iter().fold(user, |label, message| label.join(&message.label()));
        let label = label.join(&program.data);
        let data =
            messages.iter().fold(program.data.clone(), |all, message| all.join(&data(message)));
        let plan = program.plan.clone();
        Life {
            pid,
            program,
            messages,
            label,
            data,
            written: Vec::new(),
            open: VecDeque::new(),
            intended: BTreeSet::new(),
            confirmed: None,
            mailbox: VecDeque::new(),
            turns: 0,
            answered: 0,
            used: BTreeMap::new(),
            last: None,
            checked: Checked::default(),
            counts: Counts::default(),
            text: String::new(),
            finish: None,
            held: false,
            exit: None,
            listed: VecDeque::new(),
            hidden: Vec::new(),
            plan,
            allowed: BTreeSet::new(),
            through: (0, 0),
        }
    }

    /// Takes note of an entry. The first one makes a life ([`Life::new`]) and is nothing here.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Began(_) => {}
            // Behind a hole they are of no use.
            Entry::Wrote { at, tokens } if at == self.written.len() => self.written.extend(tokens),
            Entry::Wrote { .. } => {}
            Entry::Said { text, calls, finish, counts } => self.say(text, calls, finish, counts),
            Entry::Intended { key } => {
                self.intended.insert(key);
            }
            Entry::Confirmed(allowed) => self.confirmed = Some(allowed),
            Entry::Answered { result, received } => self.answer(result, received),
            Entry::Unchecked => {
                self.open.pop_front();
                self.answered += 1;
                self.checked.under_way = false;
                self.checked.verdict = Some(Verified::NotRun);
            }
            Entry::Heard(from, message) => self.mailbox.push_back((from, *message)),
            Entry::Lent(budget) => self.program.budget = self.program.budget.less(budget),
            Entry::Shared { bits, bytes, uses } => {
                self.through.0 = self.through.0.saturating_add(bits);
                self.through.1 = self.through.1.saturating_add(bytes);
                for (tool, more) in uses {
                    let used = self.used.entry(tool).or_default();
                    *used = used.saturating_add(more);
                }
            }
            Entry::Niced(class, weight) => {
                (self.program.request.class, self.program.request.weight) = (class, weight);
            }
            Entry::Held(held) => self.held = held,
            Entry::Exited(exit) => self.exit = Some(exit),
        }
    }

    fn say(&mut self, text: String, calls: Vec<Call>, finish: Finish, counts: Counts) {
        let label = self.label.join(&Label::of(Sources::MODEL));
        let mut message = Message::new(Role::Assistant, text.clone(), label.clone());
        message.calls.clone_from(&calls);
        if !self.messages.is_empty() {
            self.messages.push(message);
        }
        self.label = label;
        self.open = calls.into();
        if self.open.is_empty()
            && matches!(finish, Finish::End | Finish::Stop(_))
            && let Some(call) = self.program.check.as_ref().and_then(|c| c.call(&text, self.turns))
        {
            self.open.push_back(call);
            self.checked.under_way = true;
        }
        self.written.clear();
        self.turns += 1;
        self.counts = Counts {
            limit: self.counts.limit.max(counts.limit),
            prompt: self.counts.prompt + counts.prompt,
            cached: self.counts.cached + counts.cached,
            dropped: self.counts.dropped + counts.dropped,
            generated: self.counts.generated + counts.generated,
        };
        (self.text, self.finish) = (text, Some(finish));
    }

    fn answer(&mut self, result: ToolResult, received: bool) {
        let key = self.key();
        let Some(call) = self.open.pop_front() else { return };
        self.intended.remove(&key);
        self.repeat(&call, &result.text());
        self.settle(&call, &result);
        let parts = self.seen(result.parts);
        self.label = parts.iter().fold(self.label.clone(), |label, part| label.join(&part.label));
        self.list(result.listed);
        if self.checked.under_way {
            self.data = parts.iter().fold(self.data.clone(), |all, part| all.join(&part.label));
            if let Some(told) = self.checked.take(result.failed, parts) {
                self.messages.push(told);
                self.finish = None;
            }
            (self.confirmed, self.answered) = (None, self.answered + 1);
            return;
        }
        *self.used.entry(call.name.clone()).or_default() += 1;
        let message = Message {
            role: Role::Tool,
            parts,
            calls: Vec::new(),
            answers: Some(call.id),
            name: Some(call.name),
        };
        self.data = self.data.join(&data(&message));
        self.messages.push(message);
        if received {
            self.mailbox.pop_front();
        }
        self.confirmed = None;
        self.answered += 1;
    }

    fn repeat(&mut self, call: &Call, answer: &str) {
        let times = match &self.last {
            // What a call got that was not made any more counts as the same.
            Some(last) if last.is(call) && (last.answer == answer || last.times >= LOOP) => {
                last.times + 1
            }
            _ => 1,
        };
        let Call { name, arguments, .. } = call.clone();
        self.last = Some(Repeated { name, arguments, answer: answer.into(), times });
    }

    /// How often in a row a call was answered, with the same answer each time.
    pub fn times(&self, call: &Call) -> u32 {
        self.last.as_ref().filter(|last| last.is(call)).map_or(0, |last| last.times)
    }

    /// What it does next.
    pub fn next(&self) -> Next<'_> {
        // A call of what is not there at all is answered here: the model is told what there is.
        let theirs = |call: &Call| {
            !self.program.capabilities.contains_key(&call.name)
                && self.program.request.tools.iter().any(|tool| tool.name == call.name)
        };
        let ours = |call: &Call| !theirs(call);
        match (&self.exit, self.open.front(), &self.finish) {
            (Some(_), ..) => Next::Over,
            (None, Some(call), _) if self.open.iter().all(ours) => Next::Call(call),
            (None, Some(_), _) => Next::End(Finish::Calls),
            (None, None, Some(Finish::Calls) | None) => Next::Write,
            (None, None, Some(finish)) => Next::End(finish.clone()),
        }
    }

    /// What is asked of the model in the next turn.
    pub fn request(&self) -> Request {
        let mut request = self.program.request.clone();
        if let Prompt::Chat(messages) = &mut request.prompt {
            messages.clone_from(&self.messages);
        }
        // That a call must be made was said of the first turn; the last one has to be an answer.
        if self.turns > 0
            && matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Named(_))
        {
            request.tool_choice = ToolChoice::Auto;
        }
        request
    }

    /// Names the first open call, the same after a crash.
    pub fn key(&self) -> String {
        self.key_of(0)
    }

    /// Names the open call that stands so far behind the first.
    pub fn key_of(&self, behind: usize) -> String {
        format!("{}.{}.{}", self.pid, self.turns, self.answered + behind as u64)
    }

    /// Whose files and running programs its tools work with.
    pub fn space(&self) -> String {
        match self.program.space.as_str() {
            "" => format!("process-{}", self.pid),
            space => space.to_string(),
        }
    }

    /// What is left of a capability; `None`: it has none.
    pub fn capability(&self, tool: &str) -> Option<Capability> {
        let mut capability = self.program.capabilities.get(tool)?.clone();
        let used = self.used.get(tool).copied().unwrap_or(0);
        capability.uses = capability.uses.map(|uses| uses.saturating_sub(used));
        Some(capability)
    }

    /// The values of a call's arguments as the gate sees them: where each came from, and how it was chosen.
    pub fn leaves(&self, spec: &ToolSpec, arguments: &Value) -> Vec<Leaf> {
        View::new(self).leaves(spec, arguments)
    }

    /// What the gate must know of this life to judge a call; `capability` as [`Life::capability`] gives it.
    pub(crate) fn standing<'a>(
        &'a self,
        call: &Call,
        arguments: &Value,
        capability: Option<&'a Capability>,
        now_ms: u64,
    ) -> Standing<'a> {
        let planned = |plan: &Plan| plan.step(&call.name, arguments).is_some();
        Standing {
            label: &self.label,
            private: self.data.readers != Readers::Public,
            capability,
            planned: self.plan.as_ref().map(planned),
            left: self.left(),
            attended: self.program.attended,
            now_ms,
        }
    }

    /// Bits of choices and bytes that it may still let through.
    pub fn left(&self) -> (u32, u64) {
        let Bounds { bits, bytes } = self.program.bounds;
        let let_through = self.through.0.saturating_add(self.label.capacity);
        (bits.saturating_sub(let_through), bytes.saturating_sub(self.through.1))
    }

    /// How it would stand if so many open calls were answered already: what they let through, and what they carry out of the
    /// plan, is not there for those behind them.
    pub(crate) fn ahead(&self, calls: usize) -> Life {
        let mut ahead = self.clone();
        for call in self.open.iter().take(calls) {
            ahead.charge(call, false);
        }
        ahead
    }

    /// A child's part of what it may let through (an eighth, and at most half of what is left) and of how often it may call
    /// (half).
    pub(crate) fn part(&self) -> (u32, u64, BTreeMap<String, u32>) {
        let (Bounds { bits, bytes }, left) = (self.program.bounds, self.left());
        let (bits, bytes) = ((bits / 8).min(left.0 / 2), (bytes / 8).min(left.1 / 2));
        let uses = self.program.capabilities.keys().filter_map(|tool| {
            let uses = self.capability(tool)?.uses?;
            Some((tool.clone(), uses / 2))
        });
        (bits, bytes, uses.collect())
    }

    /// Whether it can still make a plan, and why not.
    pub(crate) fn may_plan(&self) -> Result<(), &'static str> {
        match (&self.plan, self.label.is_trusted()) {
            (Some(_), _) => Err("there is a plan; it cannot be changed"),
            (None, false) => {
                Err("a plan is made before anything is read that others wrote; it is too late")
            }
            (None, true) => Ok(()),
        }
    }

    /// The text that a value stands for, if it is a handle.
    pub(crate) fn handle(&self, value: &Value) -> Option<(u64, &Part)> {
        let id = value.as_str()?.strip_prefix(HANDLE)?.parse().ok()?;
        Some((id, self.hidden.get(usize::try_from(id).ok()?)?))
    }

    /// Arguments with the texts that handles stand for, and the join of their labels.
    pub(crate) fn resolved(&self, arguments: Value) -> (Value, Label) {
        let mut label = Label::default();
        if self.hidden.is_empty() {
            return (arguments, label);
        }
        let arguments = self.resolve(arguments, &mut label);
        (arguments, label)
    }

    fn resolve(&self, value: Value, label: &mut Label) -> Value {
        if let Some((_, held)) = self.handle(&value) {
            *label = label.join(&held.label);
            return Value::from(held.text.as_str());
        }
        match value {
            Value::Array(all) => all.into_iter().map(|one| self.resolve(one, label)).collect(),
            Value::Object(all) => {
                let all = all.into_iter().map(|(name, one)| (name, self.resolve(one, label)));
                Value::Object(all.collect())
            }
            other => other,
        }
    }

    /// What a call that is answered has changed: the plan, what was let through, what the user has allowed.
    fn settle(&mut self, call: &Call, result: &ToolResult) {
        let Ok(arguments) = serde_json::from_str::<Value>(&call.arguments) else { return };
        if call.name == "plan" && !result.failed && self.may_plan().is_ok() {
            self.plan = serde_json::from_value(arguments).ok();
            return;
        }
        self.charge(call, self.confirmed == Some(true));
    }

    /// What a call that is made costs: bits and bytes, and a step of the plan. What the user has allowed may be chosen
    /// again.
    fn charge(&mut self, call: &Call, is_allowed: bool) {
        let Ok(arguments) = serde_json::from_str::<Value>(&call.arguments) else { return };
        let spec = self.program.request.tools.iter().find(|spec| spec.name == call.name);
        let Some(spec) = spec.filter(|spec| spec.effect != Effect::Read) else { return };
        let leaves = self.leaves(spec, &arguments);
        let (bits, bytes) = gate::cost(spec.effect, &leaves);
        let decides = |leaf: &&Leaf| !matches!(leaf.role, ParamRole::Payload | ParamRole::Opaque);
        let values = leaves.iter().filter(decides).filter(|_| is_allowed);
        let allowed = values
            .filter_map(|leaf| Some((spec.kind(leaf.parameter())?.to_string(), leaf.text.clone())));
        let allowed: Vec<_> = allowed.collect();
        self.allowed.extend(allowed);
        self.through.0 = self.through.0.saturating_add(bits);
        self.through.1 = self.through.1.saturating_add(bytes);
        if let Some(plan) = self.plan.as_mut().filter(|_| !self.label.is_trusted()) {
            plan.carried_out(&call.name, &arguments);
        }
    }

    /// What the model gets to read of a result.
    fn seen(&mut self, parts: Vec<Part>) -> Vec<Part> {
        let hide = |part: &Part| self.program.quarantine && !part.label.is_trusted();
        if !parts.iter().any(hide) {
            return parts;
        }
        let hides: Vec<bool> = parts.iter().map(hide).collect();
        let seen = parts.into_iter().zip(hides).map(|(part, hides)| {
            if !hides {
                return part;
            }
            let shown = quarantine::shown(self.hidden.len(), &part);
            self.hidden.push(part);
            shown
        });
        seen.collect()
    }

    fn list(&mut self, listed: Vec<Listed>) {
        for one in listed {
            // The same from another hand is not better than it was.
            let same = |other: &Listed| {
                (&other.kind, &other.value, &other.name) == (&one.kind, &one.value, &one.name)
            };
            match self.listed.iter_mut().find(|other| same(other)) {
                Some(other) => {
                    other.by_name &= one.by_name;
                    other.label = other.label.join(&one.label);
                }
                None => self.listed.push_back(one),
            }
        }
        while self.listed.len() > LISTED {
            self.listed.pop_front();
        }
    }

    /// What it had used up, for a system that starts again; `lived` milliseconds of it.
    pub fn spent(&self, lived: u64) -> Spent {
        let generated = self.counts.generated + self.written.len();
        Spent {
            counts: Counts { generated, ..self.counts },
            calls: self.answered
                + (self.intended.len() as u64).max(u64::from(self.confirmed.is_some())),
            wall_ms: lived,
        }
    }
}

/// After so many same answers to the same call it is not made any more.
pub const LOOP: u32 = 3;

/// A call that was made again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// The tool.
    pub name: String,
    /// As the model wrote them.
    pub arguments: String,
    /// What it got.
    pub answer: String,
    /// How often in a row.
    pub times: u32,
}

impl Repeated {
    fn is(&self, call: &Call) -> bool {
        (&self.name, &self.arguments) == (&call.name, &call.arguments)
    }
}

/// Whether a part of a message is what the user wrote: in the conversation, or answering a question.
pub(crate) fn is_of_user(message: &Message, part: &Part) -> bool {
    let heard = matches!(message.name.as_deref(), Some("ask" | "receive"));
    let user = Label::of(Sources::USER).integrity();
    (message.role == Role::User || message.role == Role::Tool && heard)
        && part.label.integrity() <= user
}

/// The label of what stands in a message beside what the user wrote.
fn data(message: &Message) -> Label {
    let others = message.parts.iter().filter(|part| !is_of_user(message, part));
    // What the model said is of what it had read; that is in here already.
    let others = others.filter(|_| message.role != Role::Assistant);
    others.fold(Label::default(), |all, part| all.join(&part.label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(capabilities: &[&str]) -> Life {
        let label = Label::of(Sources::USER);
        let prompt = Prompt::Chat(vec![Message::new(Role::User, "Mail ann@x.org 5 eggs.", label)]);
        let mut program = Program::new(Request::new("m", prompt));
        let able = |name: &&str| (name.to_string(), Capability::default());
        program.capabilities = capabilities.iter().map(able).collect();
        Life::new(Pid(1), program)
    }

    fn said(calls: &[&str]) -> Entry {
        let call = |name: &&str| Call {
            id: format!("call_{name}"),
            name: name.to_string(),
            arguments: "{}".into(),
        };
        let finish = if calls.is_empty() { Finish::End } else { Finish::Calls };
        let calls = calls.iter().map(call).collect();
        Entry::Said { text: "so".into(), calls, finish, counts: Counts::default() }
    }

    fn answered(source: Sources) -> Entry {
        let result = ToolResult::new("7", Label::of(source));
        Entry::Answered { result, received: false }
    }

    #[test]
    fn turns_and_calls_follow_each_other() {
        let mut life = life(&["clock", "mail"]);
        assert_eq!(life.next(), Next::Write);
        life.apply(said(&["clock", "mail"]));
        let first = life.key();
        assert!(matches!(life.next(), Next::Call(call) if call.name == "clock"));
        life.apply(Entry::Intended { key: first.clone() });
        assert!(matches!(life.next(), Next::Call(_)) && !life.intended.is_empty());
        life.apply(answered(Sources::WEB));
        assert!(matches!(life.next(), Next::Call(call) if call.name == "mail"));
        assert!(life.key() != first && life.intended.is_empty() && !life.label.is_trusted());
        life.apply(answered(Sources::CODE));
        assert_eq!(life.next(), Next::Write);
        assert_eq!(life.messages.len(), 4);
        life.apply(said(&[]));
        assert_eq!(life.next(), Next::End(Finish::End));
        life.apply(Entry::Exited(Exit::Done));
        assert_eq!(life.next(), Next::Over);
    }

    #[test]
    fn what_a_child_gets_its_parent_has_not() {
        let mut life = life(&["mail"]);
        life.program.bounds = Bounds { bits: 80, bytes: 800 };
        life.program
            .capabilities
            .insert("mail".into(), Capability { uses: Some(3), ..Capability::default() });
        let mut given = (0, 0, 0);
        for _ in 0..20 {
            let (bits, bytes, uses) = life.part();
            given = (given.0 + bits, given.1 + bytes, given.2 + uses["mail"]);
            life.apply(Entry::Shared { bits, bytes, uses });
        }
        let left = life.left();
        let uses = life.capability("mail").unwrap().uses.unwrap();
        assert_eq!((given.0 + left.0, given.1 + left.1, given.2 + uses), (80, 800, 3));
        assert!(given.0 > 40 && left.0 > 0, "{given:?} {left:?}");
    }

    #[test]
    fn a_traceback_of_a_check_is_as_private_as_what_it_shows() {
        let mut life = life(&["python"]);
        life.open.push_back(Call { id: "1".into(), name: "python".into(), arguments: "{}".into() });
        life.checked.under_way = true;
        let label = Label::of(Sources::FILE).for_reader("ann");
        let result = ToolResult::failed("ValueError: 4711", label);
        life.apply(Entry::Answered { result, received: false });
        assert_eq!(life.data.readers, Readers::one("ann"));
    }

    #[test]
    fn a_call_that_is_not_the_kernels_ends_the_turn_for_whoever_asked() {
        let mut life = life(&["clock"]);
        let theirs = serde_json::json!({"name": "theirs", "schema": {}});
        life.program.request.tools.push(serde_json::from_value(theirs).unwrap());
        life.apply(said(&["clock", "theirs"]));
        assert_eq!(life.next(), Next::End(Finish::Calls));
    }
}
