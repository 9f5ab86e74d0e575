//! What a process is started with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use yushan_abi::{Label, Request};

use crate::check::Check;
use crate::gate::Capability;
use crate::plan::Plan;
use crate::process::{Budget, Pid};
use crate::quarantine::Extraction;

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
    /// Whether it reads nothing that others wrote: handles stand for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantine: bool,
    /// In which form alone it may say what it found in quarantine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extraction: Option<Extraction>,
    /// What it knows beside its conversation, or has read in it before: who wrote it, and who may read it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub data: Label,
    /// What it means to do, as far as it comes from its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// What it may let through, once it has read what others wrote.
    #[serde(default)]
    pub bounds: Bounds,
}

/// Bounds of what a process may let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Bits of choices: among what the user wrote, what was listed, what a form allows.
    pub bits: u32,
    /// Bytes of what is sent.
    pub bytes: u64,
}

impl Default for Bounds {
    /// A few dozen careful calls; a few pages of text.
    fn default() -> Bounds {
        Bounds { bits: 4096, bytes: 1 << 20 }
    }
}

fn is_default(label: &Label) -> bool {
    *label == Label::default()
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
            quarantine: false,
            extraction: None,
            data: Label::default(),
            plan: None,
            bounds: Bounds::default(),
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
