//! System calls: what a model can ask of the kernel, and the one door to every tool.
//!
//! The key decision: a model asks for everything in the one form it knows, calls of tools. The system's own
//! are described by schemas like any other tool, so that a constrained model cannot write an invalid one,
//! and what is not the system's goes through the gate ([`judge`]) to a driver ([`run`]); there is no
//! other way to a driver.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yushan_abi::{Call, Effect, Invocation, Label, ParamRole, Sources, Tool, ToolResult, ToolSpec};

use crate::gate::{self, Decision};
use crate::life::Life;
use crate::plan::{Plan, Step};
use crate::process::Pid;
use crate::provenance::Leaf;
use crate::quarantine::Answer;

/// Items that `recall` gives at most.
const MOST_RECALLED: usize = 20;

/// A system call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SystemCall {
    /// A second process with the same past.
    Fork {},
    /// A child with a task of its own.
    Spawn {
        /// Its task.
        task: String,
        /// What it shall be and do.
        #[serde(default)]
        instructions: String,
        /// Tools it may call: some of one's own.
        #[serde(default)]
        tools: Vec<String>,
        /// Tokens it may use up.
        #[serde(default)]
        tokens: Option<u64>,
    },
    /// Waits until a child is over.
    Wait {
        /// Which.
        pid: Pid,
    },
    /// A message to another process of the same user.
    Send {
        /// To whom.
        pid: Pid,
        /// What.
        text: String,
    },
    /// Waits for a message.
    Receive {},
    /// Keeps something for later conversations.
    Remember {
        /// What.
        text: String,
    },
    /// Looks for what was kept.
    Recall {
        /// In plain words.
        query: String,
        /// How many at most.
        #[serde(default = "few")]
        limit: usize,
    },
    /// Asks the user.
    Ask {
        /// What.
        question: String,
    },
    /// Says which tools it means to call, before it reads anything that others wrote.
    Plan {
        /// Which.
        steps: Vec<Step>,
    },
    /// Lets a child without capabilities read what stands behind a handle.
    Extract {
        /// The number of the handle.
        value: u64,
        /// What the child is asked.
        question: String,
        /// The form of its answer.
        answer: Answer,
    },
    /// Ends.
    Exit {
        /// What is said last.
        #[serde(default)]
        text: String,
    },
}

fn few() -> usize {
    5
}

impl SystemCall {
    /// The names of all.
    pub const NAMES: [&'static str; 11] = [
        "fork", "spawn", "wait", "send", "receive", "remember", "recall", "ask", "plan", "extract",
        "exit",
    ];

    /// Reads a call; `None` if it is a tool's.
    pub fn parse(call: &Call) -> Option<Result<SystemCall, String>> {
        SystemCall::NAMES.contains(&call.name.as_str()).then(|| {
            let arguments: Value = serde_json::from_str(&call.arguments)
                .map_err(|error| format!("the arguments are no JSON: {error}"))?;
            let parsed = serde_json::from_value(json!({ &call.name: arguments }));
            let mut parsed = parsed.map_err(|error| error.to_string())?;
            match &mut parsed {
                SystemCall::Recall { limit, .. } => *limit = (*limit).clamp(1, MOST_RECALLED),
                SystemCall::Plan { steps } => Plan { steps: steps.clone() }.check()?,
                _ => {}
            }
            Ok(parsed)
        })
    }

    /// What the model is told of one; `None` if there is none of this name.
    pub fn spec(name: &str) -> Option<ToolSpec> {
        let text = json!({"type": "string"});
        let number = json!({"type": "integer", "minimum": 0});
        let (description, properties, required) = match name {
            "fork" => {
                ("Split into two with the same past; the new one is told so.", json!({}), json!([]))
            }
            "spawn" => (
                "Start an assistant with a task of its own; gives its pid.",
                json!({
                    "task": text, "instructions": text, "tokens": number,
                    "tools": {"type": "array", "items": text},
                }),
                json!(["task"]),
            ),
            "wait" => (
                "Wait until a process you started is over; gives what it said.",
                json!({"pid": number}),
                json!(["pid"]),
            ),
            "send" => (
                "Send a message to another process.",
                json!({"pid": number, "text": text}),
                json!(["pid", "text"]),
            ),
            "receive" => ("Wait for a message.", json!({}), json!([])),
            "remember" => {
                ("Keep a fact for later conversations.", json!({"text": text}), json!(["text"]))
            }
            "recall" => (
                "Look for facts and conversations that were kept.",
                json!({"query": text, "limit": {"type": "integer", "minimum": 1, "maximum": MOST_RECALLED}}),
                json!(["query"]),
            ),
            "ask" => (
                "Ask the user, and wait for the answer.",
                json!({"question": text}),
                json!(["question"]),
            ),
            "plan" => (
                "Say which tools you will call, before you read anything of others.",
                json!({"steps": {"type": "array", "items": step_schema()}}),
                json!(["steps"]),
            ),
            "extract" => (
                "Have a value behind a handle read; gives the pid of the reader to wait for.",
                json!({"value": number, "question": text, "answer": answer_schema()}),
                json!(["value", "question", "answer"]),
            ),
            "exit" => ("End, saying this.", json!({"text": text}), json!([])),
            _ => return None,
        };
        Some(described(name, description, &properties, &required))
    }
}

fn described(name: &str, description: &str, properties: &Value, required: &Value) -> ToolSpec {
    let schema = json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    });
    let roles = [("text", ParamRole::Payload), ("task", ParamRole::Payload)];
    ToolSpec {
        name: name.into(),
        description: description.into(),
        schema,
        // What they reach stays under the labels of whoever calls: nothing leaves by them.
        effect: Effect::Read,
        roles: roles.map(|(name, role)| (name.to_string(), role)).into(),
    }
}

/// A step of a plan.
fn step_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "tool": {"type": "string"},
            "arguments": {"type": "object"},
            "times": {"type": "integer", "minimum": 1},
        },
        "required": ["tool"], "additionalProperties": false,
    })
}

/// The forms of answers that may come out of quarantine.
fn answer_schema() -> Value {
    let form = |name: &str, properties: Value| {
        let mut properties = properties;
        let required: Vec<String> =
            properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        properties["type"] = json!({"const": name});
        let required: Vec<String> = std::iter::once("type".into()).chain(required).collect();
        json!({
            "type": "object", "properties": properties, "required": required,
            "additionalProperties": false,
        })
    };
    json!({"anyOf": [
        form("boolean", json!({})),
        form("integer", json!({"minimum": {"type": "integer"}, "maximum": {"type": "integer"}})),
        form("date", json!({})),
        form("choice", json!({"choices": {"type": "array", "items": {"type": "string"}}})),
        form("listed", json!({"kind": {"type": "string"}})),
    ]})
}

/// A call, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What the gate says.
    pub decision: Decision,
    /// What the driver gets: handles are their texts.
    pub arguments: Value,
    /// The join of all that the caller has read, and of those texts: what a driver makes of the arguments is no
    /// better.
    pub label: Label,
    /// Where each value came from. Of a call that only looks: nothing.
    pub leaves: Vec<Leaf>,
}

/// What the gate says to a tool's call at a time, in milliseconds since 1970.
pub fn judge(life: &Life, spec: &ToolSpec, call: &Call, now_ms: u64) -> Result<Judged, String> {
    let arguments: Value = serde_json::from_str(&call.arguments)
        .map_err(|error| format!("the arguments are no JSON: {error}"))?;
    if !arguments.is_object() {
        return Err("the arguments are no JSON object".into());
    }
    let capability = life.capability(&call.name);
    let looks = spec.effect == Effect::Read
        && capability.as_ref().is_none_or(|capability| capability.only.is_empty());
    let leaves = if looks { Vec::new() } else { life.leaves(spec, &arguments) };
    let standing = life.standing(call, &arguments, capability.as_ref(), now_ms);
    let facts = gate::facts(spec, &leaves, &standing);
    let decision = match (gate::decide(facts), life.confirmed) {
        (Decision::Ask(_), Some(true)) => Decision::Allow,
        (Decision::Ask(rule), Some(false)) => Decision::Deny(rule),
        (decision, _) => decision,
    };
    let (arguments, behind) = life.resolved(arguments);
    Ok(Judged { decision, arguments, label: life.label.join(&behind), leaves })
}

/// Runs a tool that the gate let through. Blocks. A tool that panics has failed.
pub fn run(tool: &dyn Tool, invocation: &Invocation<'_>) -> ToolResult {
    let called = catch_unwind(AssertUnwindSafe(|| tool.call(invocation)));
    called.unwrap_or_else(|_| failed("the tool broke down"))
}

/// An answer of the kernel's own.
pub fn said(text: impl Into<String>) -> ToolResult {
    ToolResult::new(text, Label::of(Sources::SYSTEM))
}

/// A refusal of the kernel's own. The model is never told a rule.
pub fn failed(text: impl Into<String>) -> ToolResult {
    ToolResult { failed: true, ..said(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_call_is_described_and_read() {
        let call = |name: &str, arguments: &str| {
            SystemCall::parse(&Call {
                id: "1".into(),
                name: name.into(),
                arguments: arguments.into(),
            })
        };
        for name in SystemCall::NAMES {
            let spec = SystemCall::spec(name).expect("is described");
            // The smallest arguments that the schema allows.
            let required = spec.schema["required"].as_array().expect("a list");
            let value = |name: &Value| match name.as_str() {
                Some("pid") => (name.as_str().unwrap_or("").to_string(), json!(7)),
                Some("value") => ("value".to_string(), json!(0)),
                Some("steps") => ("steps".to_string(), json!([{"tool": "x"}])),
                Some("answer") => ("answer".to_string(), json!({"type": "date"})),
                other => (other.unwrap_or("").to_string(), json!("x")),
            };
            let arguments: serde_json::Map<String, Value> = required.iter().map(value).collect();
            let read = call(name, &Value::Object(arguments).to_string());
            assert!(matches!(read, Some(Ok(_))), "{name}: {read:?}");
            assert!(call(name, "{\"other\": 1}").is_some_and(|read| read.is_err()), "{name}");
            assert!(call(name, "nonsense").is_some_and(|read| read.is_err()), "{name}");
        }
        assert_eq!(call("calculator", "{}"), None);
        let most = call("recall", "{\"query\": \"x\", \"limit\": 10000}");
        assert_eq!(most, Some(Ok(SystemCall::Recall { query: "x".into(), limit: MOST_RECALLED })));
    }
}
