//! Processes: what the table says of each.

use std::collections::{BTreeMap, VecDeque};

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
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Tokens read and written, those from the cache left out.
    pub tokens: Option<u64>,
    /// Calls of tools.
    pub calls: Option<u64>,
    /// Money, in millionths of whatever prices are in.
    pub money: Option<u64>,
    /// Milliseconds since it was spawned.
    pub wall_ms: Option<u64>,
}

impl Budget {
    /// What is left after giving away, or using up, so much.
    #[must_use]
    pub fn less(self, used: Budget) -> Budget {
        let less = |limit: Option<u64>, used: Option<u64>| {
            limit.map(|limit| limit.saturating_sub(used.unwrap_or(0)))
        };
        Budget {
            tokens: less(self.tokens, used.tokens),
            calls: less(self.calls, used.calls),
            money: less(self.money, used.money),
            wall_ms: less(self.wall_ms, used.wall_ms),
        }
    }

    /// The smaller of both, bound by bound.
    #[must_use]
    pub fn least(self, other: Budget) -> Budget {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Budget {
            tokens: least(self.tokens, other.tokens),
            calls: least(self.calls, other.calls),
            money: least(self.money, other.money),
            wall_ms: least(self.wall_ms, other.wall_ms),
        }
    }
}

/// What tokens cost, in millionths for a million of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Tokens read; those from the cache are free.
    pub read: u64,
    /// Tokens written.
    pub written: u64,
}

/// What a process had used up when the system stopped under it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Tokens: the sums of its turns that were over, and what was written of the one that was not.
    pub counts: Counts,
    /// Calls of tools.
    pub calls: u64,
    /// Milliseconds.
    pub wall_ms: u64,
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
    /// Its turn is over: a tool works for it, or the journal.
    Calling,
    /// Waits for what the user says.
    Asking,
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
    /// Whoever pays for it may use no more, so its next turn did not begin: why.
    Quota(String),
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
    /// What tokens cost it.
    pub price: Price,
    /// What it had used up when the system stopped; nothing for one that is new.
    pub spent: Spent,
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
    /// What it has seen and cost: the sums of its turns, before the system stopped too. What a turn found in
    /// the engine of the one before counts as cached.
    pub counts: Counts,
    /// Tokens charged to its budget.
    pub spent: i64,
    /// Calls charged to its budget.
    pub calls: u64,
    /// How often it made each system call.
    pub meter: BTreeMap<String, u64>,
    /// Messages it has not read.
    pub mailbox: VecDeque<(Pid, Message)>,
    /// When it was spawned, when it wrote its first token, and when it ended, in milliseconds.
    pub times: (u64, Option<u64>, Option<u64>),
    /// How it ended.
    pub exit: Option<Exit>,
    /// Pages of keys and values that it holds in an engine; those that are shared count for each.
    #[serde(default)]
    pub pages: usize,
}

impl Process {
    /// What its tokens cost so far, and with so many more to read and to write: in millionths.
    pub fn cost(&self, reading: u64, writing: u64) -> u64 {
        let Price { read, written } = self.spawn.price;
        let generated = self.counts.generated as u64;
        let reading = self.used().saturating_add(reading).saturating_sub(generated);
        let generated = generated + writing;
        let cost =
            u128::from(reading) * u128::from(read) + u128::from(generated) * u128::from(written);
        u64::try_from(cost / 1_000_000).unwrap_or(u64::MAX)
    }

    /// Tokens charged to its budget, while some are read again that are not charged twice.
    pub fn used(&self) -> u64 {
        self.spent.max(0).cast_unsigned()
    }

    /// Milliseconds that it has lived, before the system stopped too.
    pub fn lived(&self, now_ms: u64) -> u64 {
        self.spawn.spent.wall_ms + self.times.2.unwrap_or(now_ms).saturating_sub(self.times.0)
    }
}
