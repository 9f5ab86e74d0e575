//! Answers that call tools of this system: what a request says of them, and what a client is shown.
//!
//! The key decision: they are an extension of `/v1/chat/completions` and not a face of their own. A tool of the type
//! `system` is named, not described; a client that knows nothing of it gets text as always, and one that does
//! is told each step.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yushan_abi::{Call, FileRef, Request, ToolResult, Verified};
use yushan_kernel::check::Check;
use yushan_kernel::gate::Capability;
use yushan_kernel::life::Mode;
use yushan_kernel::{Budget, Program};

use crate::fault::Fault;

/// Letters of a space's name.
const NAME: std::ops::RangeInclusive<usize> = 1..=64;

/// The tool that runs code.
const PYTHON: &str = "python";

/// What an answer may use up, if nobody says so: no conversation needs more calls.
const USUAL: Budget = Budget { tokens: None, calls: Some(256), money: None, wall_ms: None };

/// Code in the answer is run before that is shown, and then these examples.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckCode {
    /// Python, for example `assert f(2) == 4`.
    #[serde(default)]
    examples: String,
}

/// What an answer may call.
pub(crate) struct Agent {
    tools: BTreeMap<String, (Mode, Capability)>,
    space: String,
    attended: bool,
    budget: Budget,
    check: Option<Check>,
    quarantine: bool,
}

/// What a request says of its answer beside the tools.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) space: Option<String>,
    pub(crate) attended: Option<bool>,
    pub(crate) budget: Option<Budget>,
    pub(crate) check: Option<CheckCode>,
    pub(crate) quarantine: Option<bool>,
}

impl Agent {
    /// Checked; `None`: there are no tools of the system.
    pub(crate) fn of(
        tools: BTreeMap<String, (Mode, Capability)>,
        wishes: Wishes,
        tenant: &str,
    ) -> Result<Option<Agent>, Fault> {
        let Wishes { space, attended, budget, check, quarantine } = wishes;
        if tools.is_empty() {
            let given = [
                ("space", space.is_some()),
                ("attended", attended.is_some()),
                ("budget", budget.is_some()),
                ("check_code", check.is_some()),
                ("quarantine", quarantine.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((field, _)) => {
                    Err(Fault::invalid(field, "is for tools of the system, and there are none"))
                }
                None => Ok(None),
            };
        }
        let space = match space {
            None => String::new(),
            Some(name) => named(&name, tenant)?,
        };
        let (attended, budget) = (attended.unwrap_or(false), budget.unwrap_or(USUAL));
        let check = check.map(|check| Check { tool: PYTHON.into(), examples: check.examples });
        if check.is_some() && !tools.contains_key(PYTHON) {
            let why = "needs the tool {\"type\": \"system\", \"name\": \"python\"}";
            return Err(Fault::invalid("check_code", why));
        }
        let quarantine = quarantine.unwrap_or(false);
        Ok(Some(Agent { tools, space, attended, budget, check, quarantine }))
    }

    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.tools.keys().cloned().collect()
    }

    pub(crate) fn program(self, request: Request) -> Program {
        let mut modes = BTreeMap::new();
        let mut capabilities = BTreeMap::new();
        for (name, (mode, capability)) in self.tools {
            modes.insert(name.clone(), mode);
            capabilities.insert(name, capability);
        }
        Program {
            capabilities,
            modes,
            quarantine: self.quarantine,
            space: self.space,
            attended: self.attended,
            budget: self.budget,
            check: self.check,
            ..Program::new(request)
        }
    }
}

/// A space belongs to its user: others who give it the same name have another.
pub fn named(name: &str, tenant: &str) -> Result<String, Fault> {
    let fits = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if !NAME.contains(&name.len()) || !name.chars().all(fits) {
        let why = format!("{name:?} was given; expected 1 to 64 letters of A-Z a-z 0-9 - _ .");
        return Err(Fault::invalid("space", why));
    }
    Ok(format!("{tenant}:{name}"))
}

/// A step of an answer, as a client is shown it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// What was said before a call.
    Said(String),
    /// A call was made here, and answered.
    Answered(Answered),
    /// It waits for the user.
    Asks(Asks),
    /// The code of the answer was run, or not: `ran`, `failed`, `not_run`.
    Checked(&'static str),
}

/// A call that was made here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Answered {
    id: String,
    name: String,
    /// A JSON object, as text.
    arguments: String,
    text: String,
    failed: bool,
    /// Who could have written the text.
    sources: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    files: Vec<FileRef>,
}

/// What the user is asked: whether a call may be made or, if its name is `ask`, a question.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Asks {
    /// Names the call to `/v1/approvals`.
    key: String,
    id: String,
    name: String,
    /// A JSON object, as text.
    arguments: String,
}

impl Step {
    pub(crate) fn answered(call: Call, result: ToolResult) -> Step {
        let (text, label) = (result.text(), result.label());
        Step::Answered(Answered {
            id: call.id,
            name: call.name,
            arguments: call.arguments,
            text,
            failed: result.failed,
            sources: label.sources.names().collect(),
            files: result.files,
        })
    }

    pub(crate) fn checked(verdict: Verified) -> Step {
        Step::Checked(match verdict {
            Verified::Ran => "ran",
            Verified::Failed => "failed",
            Verified::NotRun => "not_run",
        })
    }

    pub(crate) fn asks(key: String, call: Call) -> Step {
        Step::Asks(Asks { key, id: call.id, name: call.name, arguments: call.arguments })
    }
}
