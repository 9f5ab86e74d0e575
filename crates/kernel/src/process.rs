//! Processes: what the table says of each.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use yushan_abi::{Class, Counts, Label, Message};

/// Names a process, for as long as the system lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub u64);

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a process may use up. `None` is without bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Tokens read and written, those from the cache left out.
    pub tokens: Option<u64>,
    /// Calls of tools.
    pub calls: Option<u64>,
    /// Milliseconds since it was spawned.
    pub wall_ms: Option<u64>,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In line for the engine, or in it.
    Ready,
    /// Whoever reads its output has no room.
    Blocked,
    /// Waits for a child to exit.
    Waiting(Pid),
    /// Waits for a message.
    Receiving,
    /// Waits for a tool.
    Calling,
    /// Over.
    Exited,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It said all it had to say.
    Done,
    /// Killed, or nobody listened any more.
    Killed,
    /// A budget is used up: its name.
    Budget(String),
    /// Something failed.
    Failed(String),
}

/// What can be sent to a process, as on Unix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// End it.
    Kill,
    /// Hold it.
    Stop,
    /// Let it go on.
    Continue,
}

/// A process to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// Who started it.
    pub parent: Option<Pid>,
    /// What people see in lists.
    pub title: String,
    /// The model it thinks with.
    pub model: String,
    /// For whom.
    pub tenant: String,
    /// How soon.
    pub class: Class,
    /// Weight within its class.
    pub weight: u32,
    /// What it may use up.
    pub budget: Budget,
    /// What its context has seen.
    pub label: Label,
    /// Tokens to be read before it writes.
    pub prompt: usize,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its name.
    pub pid: Pid,
    /// As it was spawned; class, weight and label may have changed since.
    pub spawn: Spawn,
    /// What it does.
    pub state: State,
    /// Whether a signal holds it.
    pub stopped: bool,
    /// Tokens that wait to be fed.
    pub pending: usize,
    /// What it has seen and cost.
    pub counts: Counts,
    /// Tokens charged to its budget.
    pub spent: u64,
    /// Calls charged to its budget.
    pub calls: u64,
    /// Messages it has not read.
    pub mailbox: VecDeque<(Pid, Message)>,
    /// When it was spawned, when it wrote its first token, and when it ended, in milliseconds.
    pub times: (u64, Option<u64>, Option<u64>),
    /// How it ended.
    pub exit: Option<Exit>,
}
