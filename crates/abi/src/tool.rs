//! `Tool`: what an assistant can call, and what the kernel must know of it beforehand.
//!
//! The key decision: a tool declares its effect and the role of each parameter, and the kernel decides
//! from these and the labels of the arguments; nothing is read from descriptions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::label::Label;

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
}

/// What a tool gave back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// For the model.
    pub text: String,
    /// Whether it says what went wrong.
    pub failed: bool,
    /// Where it came from.
    pub label: Label,
}

/// A driver. Called by the kernel's call gate alone, on a thread of its own; may block.
pub trait Tool: Send + Sync {
    /// What it is.
    fn spec(&self) -> &ToolSpec;

    /// Does one call. `key` is the same when a call is repeated after a crash.
    fn call(&self, arguments: &Value, key: &str) -> ToolResult;
}
