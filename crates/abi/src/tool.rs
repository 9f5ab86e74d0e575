//! `Tool`: what an assistant can call, and what the kernel must know of it beforehand.
//!
//! The key decision: a tool declares its effect and the role of each parameter, and the kernel decides
//! from these and the labels of the arguments; nothing is read from descriptions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::label::Label;
use crate::message::Part;

/// What a call does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Looks.
    Read,
    /// Changes what is the user's alone.
    Write,
    /// Sends something out.
    Egress,
    /// Costs money.
    Spend,
    /// Runs a program.
    Exec,
    /// Cannot be undone, or changes rights.
    Irreversible,
}

impl Effect {
    /// All of them.
    pub const ALL: [Effect; 6] = [
        Effect::Read,
        Effect::Write,
        Effect::Egress,
        Effect::Spend,
        Effect::Exec,
        Effect::Irreversible,
    ];
}

/// What a parameter decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamRole {
    /// Where something goes.
    Destination,
    /// What it is done to.
    Target,
    /// How much.
    Amount,
    /// What is sent or written.
    Payload,
    /// What is looked for.
    Selector,
    /// Nothing that matters.
    Opaque,
}

impl ParamRole {
    /// All of them.
    pub const ALL: [ParamRole; 6] = [
        ParamRole::Destination,
        ParamRole::Target,
        ParamRole::Amount,
        ParamRole::Payload,
        ParamRole::Selector,
        ParamRole::Opaque,
    ];
}

/// A tool, described.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// The name a model calls it by.
    pub name: String,
    /// For the model.
    #[serde(default)]
    pub description: String,
    /// JSON schema of the arguments: an object.
    pub schema: Value,
    /// What a call does. Tools that a client runs itself are `Read`: they never pass the gate.
    #[serde(default = "read")]
    pub effect: Effect,
    /// Of each parameter; one that is not named is a `Target`.
    #[serde(default)]
    pub roles: BTreeMap<String, ParamRole>,
}

fn read() -> Effect {
    Effect::Read
}

impl ToolSpec {
    /// What a parameter decides: when in doubt, what the call is done to.
    pub fn role(&self, parameter: &str) -> ParamRole {
        self.roles.get(parameter).copied().unwrap_or(ParamRole::Target)
    }

    /// Of what kind a parameter's values are ([`Listed`]): the schema's own word `x-kind`, beside the type.
    pub fn kind(&self, parameter: &str) -> Option<&str> {
        self.schema["properties"][parameter]["x-kind"].as_str()
    }
}

/// A file that a call left behind in the space of its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its path in the space, with `/`; never absolute, no `..`.
    pub path: String,
    /// For example `image/png`.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// Of its bytes, in hexadecimal: [`Disk::get_bytes`](crate::Disk::get_bytes) has them.
    pub sha256: String,
}

/// A value that the service behind a tool vouches for: one of a closed list of its own, such as an identifier
/// it gave out. It may be chosen where a parameter asks for its kind ([`ToolSpec::kind`]), as a whole
/// and never in parts, though whoever chose it had read what others wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Of what: `event`, `file`, `address`, `url`, `amount` …
    pub kind: String,
    /// As it is written in an argument; a number in its shortest form.
    pub value: String,
    /// What people call the thing: a title, a file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it may only be chosen by a user who named the thing: others had a hand in it.
    #[serde(default)]
    pub by_name: bool,
    /// Who wrote what it stands for, and who may read that.
    pub label: Label,
}

/// What a tool gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// For the model: records one after the other, each with the label of who wrote it.
    pub parts: Vec<Part>,
    /// Whether it says what went wrong.
    pub failed: bool,
    /// Files that it made or changed and that people want to see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileRef>,
    /// What of it can be chosen later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<Listed>,
}

impl ToolResult {
    /// A text from one source.
    pub fn new(text: impl Into<String>, label: Label) -> ToolResult {
        let parts = vec![Part { text: text.into(), label }];
        ToolResult { parts, ..ToolResult::default() }
    }

    /// What went wrong, and what to do next: the model reads it.
    pub fn failed(text: impl Into<String>, label: Label) -> ToolResult {
        ToolResult { failed: true, ..ToolResult::new(text, label) }
    }

    /// The parts, one after the other.
    pub fn text(&self) -> String {
        self.parts.iter().map(|part| part.text.as_str()).collect()
    }

    /// The join of the parts' labels.
    pub fn label(&self) -> Label {
        self.parts.iter().fold(Label::default(), |label, part| label.join(&part.label))
    }
}

/// Whether somebody still wants what is being done. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Nobody wants it any more.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is over. A driver that works longer than a moment looks often, and stops.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// One call, as a driver gets it.
#[derive(Clone, Debug)]
pub struct Invocation<'a> {
    /// An object that fits the schema, as far as whoever asked kept to it: a driver checks again.
    pub arguments: &'a Value,
    /// The same when a call is repeated after a crash, and never the same for two calls.
    pub key: &'a str,
    /// Whose files and running programs it works with: a conversation, or a process of its own. Two processes
    /// with the same space see the same files; a fork gets a copy ([`Tool::forked`]).
    pub space: &'a str,
    /// The user that the process belongs to.
    pub owner: &'a str,
    /// The join of the labels of all that the caller has seen: what is made of the arguments is no better.
    pub label: &'a Label,
    /// Set when the process is killed, or its time is over.
    pub cancel: Cancel,
}

/// A driver. Called by the kernel's call gate alone, on a thread of its own; may block.
pub trait Tool: Send + Sync {
    /// What it is.
    fn spec(&self) -> &ToolSpec;

    /// Does one call.
    fn call(&self, invocation: &Invocation<'_>) -> ToolResult;

    /// The space `to` begins as a copy of `from`. Called before anything is called in `to`, and again after a
    /// crash in between; on a thread that may block.
    fn forked(&self, from: &str, to: &str) -> Result<(), String> {
        let _ = (from, to);
        Ok(())
    }

    /// Nobody works in this space now: what runs for it ends. What is kept under a name that somebody gave stays; what is
    /// kept under a name that only the kernel knew is gone. Returns at once.
    fn released(&self, space: &str) {
        let _ = space;
    }
}
