//! A life: what a process with a program has been told and has said, as its journal has it.
//!
//! The key decision: a life is a fold over [`Entry`]s and nothing else. The running system and the one that
//! starts after a crash apply the same entries and ask the same [`Life::next`], so there is one way to go
//! on, not one for running and one for resuming. An entry is applied when it is made and acted on
//! when it is durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use yushan_abi::{
    Call, Class, Counts, Finish, Label, Message, Prompt, Request, Role, Sources, TokenId,
    ToolChoice, ToolResult, Verified,
};

use crate::check::{Check, Checked};
use crate::gate::{Argument, Capability};
use crate::process::{Budget, Exit, Pid, Spent};

/// What a process is started with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The name that whoever started it knows it by; empty: none.
    pub key: String,
    /// What people see in lists.
    pub title: String,
    /// Who started it.
    pub parent: Option<Pid>,
    /// Model, instructions and conversation, sampling, and the tools the model knows of.
    pub request: Request,
    /// Those of the tools that the kernel runs for it, system calls among them. A turn that calls
    /// another one ends the process: whoever started it runs that one.
    pub capabilities: BTreeMap<String, Capability>,
    /// What it may use up.
    pub budget: Budget,
    /// Whether somebody is there who can be asked.
    pub attended: bool,
    /// How its calls of a tool are decided, beside the gate; a tool that is not named: [`Mode::Auto`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub modes: BTreeMap<String, Mode>,
    /// Whose files and running programs its tools work with, when it shares them with processes before and
    /// after it: a conversation's. Empty: its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub space: String,
    /// Whether code in its answer is run before that is shown, and with what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

impl Program {
    /// A program without tools or bounds.
    pub fn new(request: Request) -> Program {
        Program {
            key: String::new(),
            title: String::new(),
            parent: None,
            request,
            capabilities: BTreeMap::new(),
            budget: Budget::default(),
            attended: false,
            modes: BTreeMap::new(),
            space: String::new(),
            check: None,
        }
    }
}

/// How calls of a tool are decided, beside the gate: it can only be made stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As the gate says.
    #[default]
    Auto,
    /// The user is asked each time.
    Ask,
    /// Never.
    Deny,
}

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
        Life {
            pid,
            program,
            messages,
            label,
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
        self.label = self.label.join(&result.label());
        if self.checked.under_way {
            if let Some(told) = self.checked.take(result) {
                self.messages.push(told);
                self.finish = None;
            }
            (self.confirmed, self.answered) = (None, self.answered + 1);
            return;
        }
        *self.used.entry(call.name.clone()).or_default() += 1;
        let message = Message {
            role: Role::Tool,
            parts: result.parts,
            calls: Vec::new(),
            answers: Some(call.id),
            name: Some(call.name),
        };
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

    /// The arguments of a call as the gate sees them: what a model wrote is as its whole context, unless
    /// it stands word by word in what the user wrote.
    pub fn arguments(&self, arguments: &serde_json::Value) -> BTreeMap<String, Argument> {
        let given = arguments.as_object().into_iter().flatten();
        let label = self.label.join(&Label::of(Sources::MODEL));
        given
            .map(|(name, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), String::from);
                let chosen_by_user = self.chosen_by_user(&text);
                (name.clone(), Argument { label: label.clone(), chosen_by_user })
            })
            .collect()
    }

    fn chosen_by_user(&self, text: &str) -> bool {
        let users = self.messages.iter().filter(|message| message.role == Role::User);
        let trusted = Label::of(Sources::USER).integrity();
        let mut parts = users.flat_map(|message| &message.parts);
        parts.any(|part| part.label.integrity() <= trusted && stands_in(text, &part.text))
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

/// Whether a text stands in another as words of its own.
fn stands_in(text: &str, whole: &str) -> bool {
    let apart = |char: Option<char>| char.is_none_or(|char| !char.is_alphanumeric());
    !text.is_empty()
        && whole.match_indices(text).any(|(at, _)| {
            apart(whole[..at].chars().next_back()) && apart(whole[at + text.len()..].chars().next())
        })
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
    fn a_call_that_is_not_the_kernels_ends_the_turn_for_whoever_asked() {
        let mut life = life(&["clock"]);
        let theirs = serde_json::json!({"name": "theirs", "schema": {}});
        life.program.request.tools.push(serde_json::from_value(theirs).unwrap());
        life.apply(said(&["clock", "theirs"]));
        assert_eq!(life.next(), Next::End(Finish::Calls));
    }

    #[test]
    fn what_the_user_wrote_is_known_word_by_word() {
        let life = life(&[]);
        let all = serde_json::json!({"a": "ann@x.org", "b": 5, "c": "nn@x", "d": "", "e": "bob"});
        let arguments = life.arguments(&all);
        let chosen: Vec<bool> =
            arguments.values().map(|argument| argument.chosen_by_user).collect();
        assert_eq!(chosen, [true, true, false, false, false]);
    }
}
