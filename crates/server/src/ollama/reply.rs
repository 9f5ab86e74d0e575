//! What Ollama's `chat` and `generate` get: lines of JSON, or one.
//!
//! The key decision: one type of line for both, since they differ in one field; calls are told whole, as Ollama's
//! clients expect their arguments as an object.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use yushan_abi::{Call, Counts, Event, Finish};

use crate::fault::{Fault, OllamaError};
use crate::ids;
use crate::openai::{TokenLogprob, Window};
use crate::stream::{Answer, Face, Times};

/// Which of the two.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Chat,
    Generate,
}

/// A line, or the whole answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct Line {
    model: String,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<LineMessage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<TokenLogprob>,
    done: bool,
    #[serde(flatten)]
    end: Option<LineEnd>,
}

/// What the assistant says.
#[derive(Serialize, ToSchema)]
pub(crate) struct LineMessage {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<LineCall>,
}

/// A call.
#[derive(Serialize, ToSchema)]
pub(crate) struct LineCall {
    id: String,
    function: LineFunction,
}

/// What is called.
#[derive(Serialize, ToSchema)]
pub(crate) struct LineFunction {
    index: usize,
    name: String,
    arguments: Value,
}

/// What the last line tells; durations in nanoseconds.
#[derive(Serialize, ToSchema)]
pub(crate) struct LineEnd {
    done_reason: &'static str,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
    prompt_eval_duration: u64,
    eval_count: usize,
    eval_duration: u64,
    /// Our extension: what the model saw.
    window: Window,
}

impl Line {
    /// A piece of text.
    fn new(kind: Kind, model: &str, text: String) -> Line {
        let mut line = Line {
            model: model.to_string(),
            created_at: ids::rfc3339(ids::seconds()),
            message: None,
            response: None,
            logprobs: Vec::new(),
            done: false,
            end: None,
        };
        match kind {
            Kind::Generate => line.response = Some(text),
            Kind::Chat => {
                line.message =
                    Some(LineMessage { role: "assistant", content: text, tool_calls: Vec::new() });
            }
        }
        line
    }

    /// The whole answer.
    pub(crate) fn whole(kind: Kind, model: &str, answer: Answer, load: Duration) -> Line {
        let mut line = Line::new(kind, model, answer.text);
        let logprobs = answer.pieces.into_iter();
        line.logprobs = logprobs.map(|(_, logprob)| TokenLogprob::of(logprob)).collect();
        line.call(answer.calls);
        line.finish(&answer.finish, &answer.counts, answer.times.nanoseconds(), load)
    }

    /// The answer to a request that says nothing: the model was made ready, or given up.
    pub(crate) fn empty(kind: Kind, model: &str, reason: &'static str, load: Duration) -> Line {
        let line = Line::new(kind, model, String::new());
        let mut line = line.finish(&Finish::End, &Counts::default(), (0, 0, 0), load);
        if let Some(end) = &mut line.end {
            end.done_reason = reason;
        }
        line
    }

    fn call(&mut self, calls: Vec<Call>) {
        let Some(message) = &mut self.message else { return };
        let calls = calls.into_iter().enumerate();
        message.tool_calls = calls
            .map(|(index, call)| {
                // An answer that was cut off may end within its arguments.
                let arguments = serde_json::from_str(&call.arguments).ok();
                let arguments = arguments.filter(Value::is_object);
                let arguments = arguments.unwrap_or_else(|| json!({"unfinished": call.arguments}));
                LineCall {
                    id: call.id,
                    function: LineFunction { index, name: call.name, arguments },
                }
            })
            .collect();
    }

    /// Times are those after the model was there.
    fn finish(
        mut self,
        finish: &Finish,
        counts: &Counts,
        (total, prompt, answer): (u64, u64, u64),
        load: Duration,
    ) -> Line {
        let load = u64::try_from(load.as_nanos()).unwrap_or(u64::MAX);
        self.done = true;
        self.end = Some(LineEnd {
            done_reason: match finish {
                Finish::End | Finish::Stop(_) | Finish::Calls => "stop",
                Finish::Length | Finish::ContextFull => "length",
                Finish::Cancelled => "cancelled",
                Finish::Budget(_) => "budget",
            },
            total_duration: total.saturating_add(load),
            load_duration: load,
            prompt_eval_count: counts.prompt,
            prompt_eval_duration: prompt,
            eval_count: counts.generated,
            eval_duration: answer,
            window: Window::of(counts),
        });
        self
    }
}

/// Writes lines.
pub(crate) struct OllamaFace {
    kind: Kind,
    model: String,
    times: Times,
    /// How long the model was loaded before.
    load: Duration,
}

impl OllamaFace {
    pub(crate) fn new(kind: Kind, model: &str, load: Duration) -> OllamaFace {
        OllamaFace { kind, model: model.to_string(), times: Times::now(), load }
    }
}

/// Writes a value on a line of its own.
pub(crate) fn line(value: &impl Serialize, out: &mut String) {
    // The types of lines have no maps with other keys than texts.
    if let Ok(json) = serde_json::to_string(value) {
        out.push_str(&json);
        out.push('\n');
    }
}

impl Face for OllamaFace {
    const MEDIA: &'static str = "application/x-ndjson";
    const IDLE: &'static str = "";

    fn event(&mut self, _: usize, event: Event, out: &mut String) {
        self.times.saw(&event);
        match event {
            Event::Started(_)
            | Event::Echo { .. }
            | Event::Call { .. }
            | Event::Embedding(_)
            | Event::Answered { .. }
            | Event::Asks { .. }
            | Event::Verified(_) => {}
            Event::Text { text, logprob } => {
                if !text.is_empty() || logprob.is_some() {
                    let mut one = Line::new(self.kind, &self.model, text);
                    one.logprobs.extend(logprob.map(TokenLogprob::of));
                    line(&one, out);
                }
            }
            Event::Done { finish, counts, calls } => {
                if !calls.is_empty() {
                    let mut one = Line::new(self.kind, &self.model, String::new());
                    one.call(calls);
                    line(&one, out);
                }
                let last = Line::new(self.kind, &self.model, String::new());
                let times = self.times.nanoseconds();
                line(&last.finish(&finish, &counts, times, self.load), out);
            }
            Event::Failed(refusal) => self.fault(refusal.into(), out),
        }
    }

    fn end(&mut self, _: &mut String) {}

    fn fault(&mut self, fault: Fault, out: &mut String) {
        line(&OllamaError { error: fault.to_string() }, out);
    }
}
