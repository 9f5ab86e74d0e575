//! A chat as server-sent events: role first, then deltas, the reason, the usage, `[DONE]`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use yushan_abi::{Counts, Event};

use crate::agent::Step;
use crate::fault::Fault;
use crate::openai::chat::Head;
use crate::openai::chat::reply::{
    CallDelta, ChatChunk, ChatLogprobs, ChunkChoice, Delta, FINGERPRINT, FunctionDelta,
};
use crate::openai::{TokenLogprob, Tokens, Window, finish_detail, finish_reason};
use crate::stream::Face;

/// Writes a value as an event without a name.
pub(crate) fn sse(value: &impl Serialize, out: &mut String) {
    // The types of replies have no maps with other keys than texts, and no numbers JSON cannot hold.
    if let Ok(json) = serde_json::to_string(value) {
        out.push_str("data: ");
        out.push_str(&json);
        out.push_str("\n\n");
    }
}

/// Writes a chat.
pub(crate) struct ChatFace {
    head: Head,
    include_usage: bool,
    /// Of each answer.
    counts: Vec<Counts>,
    failed: bool,
    /// Tools that are run here: their calls are shown when they are answered.
    system: BTreeSet<String>,
    /// The calls that come are of these: whether each is run here, and its place among the client's.
    calls: BTreeMap<usize, Option<usize>>,
    /// Whether text was shown, and a step after it: what is said next is a new paragraph.
    said: (bool, bool),
}

impl ChatFace {
    pub(crate) fn new(head: Head, n: usize, include_usage: bool) -> ChatFace {
        ChatFace {
            head,
            include_usage,
            counts: vec![Counts::default(); n],
            failed: false,
            system: BTreeSet::new(),
            calls: BTreeMap::new(),
            said: (false, false),
        }
    }

    /// These tools are run here.
    pub(crate) fn with(self, system: BTreeSet<String>) -> ChatFace {
        ChatFace { system, ..self }
    }

    fn step(&mut self, index: usize, step: Step, out: &mut String) {
        self.said.1 = self.said.0;
        let choice = ChunkChoice { step: Some(step), ..ChunkChoice::new(index, Delta::default()) };
        sse(&self.chunk(vec![choice]), out);
    }

    /// The place of a call among those that the client runs; `None`: it is run here.
    fn place(&mut self, call: usize, name: Option<&str>) -> Option<usize> {
        if let (None, Some(name)) = (self.calls.get(&call), name) {
            let theirs = self.calls.values().flatten().count();
            let place = (!self.system.contains(name)).then_some(theirs);
            self.calls.insert(call, place);
        }
        self.calls.get(&call).copied().flatten()
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk<'_> {
        ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: self.include_usage.then_some(None),
            context: None,
        }
    }

    fn delta(&self, index: usize, delta: Delta, logprob: Option<TokenLogprob>, out: &mut String) {
        let logprobs =
            logprob.map(|logprob| ChatLogprobs { content: vec![logprob], refusal: None });
        let choice = ChunkChoice { logprobs, ..ChunkChoice::new(index, delta) };
        sse(&self.chunk(vec![choice]), out);
    }
}

impl Face for ChatFace {
    const MEDIA: &'static str = "text/event-stream";
    const IDLE: &'static str = ": \n\n";

    fn event(&mut self, index: usize, event: Event, out: &mut String) {
        match event {
            Event::Started(counts) => {
                self.counts[index] = counts;
                let delta =
                    Delta { role: Some("assistant"), content: Some(None), ..Delta::default() };
                let choice = ChunkChoice::new(index, delta);
                let context = Some(Window::of(&counts));
                sse(&ChatChunk { context, ..self.chunk(vec![choice]) }, out);
            }
            Event::Echo { .. } | Event::Embedding(_) => {}
            Event::Answered { call, result } => {
                self.step(index, Step::answered(call, result), out);
            }
            Event::Asks { key, call } => self.step(index, Step::asks(key, call), out),
            Event::Verified(verdict) => self.step(index, Step::checked(verdict), out),
            Event::Text { text, logprob } => {
                if !text.is_empty() || logprob.is_some() {
                    let apart = std::mem::take(&mut self.said.1) && !text.is_empty();
                    self.said.0 |= !text.is_empty();
                    let text = if apart { format!("\n\n{text}") } else { text };
                    let delta = Delta { content: Some(Some(text)), ..Delta::default() };
                    self.delta(index, delta, logprob.map(TokenLogprob::of), out);
                }
            }
            Event::Call { index: call, id, name, arguments } => {
                let Some(call) = self.place(call, name.as_deref()) else { return };
                let kind = id.is_some().then_some("function");
                let function = FunctionDelta { name, arguments };
                let call = CallDelta { index: call, id, kind, function };
                let delta = Delta { tool_calls: vec![call], ..Delta::default() };
                self.delta(index, delta, None, out);
            }
            Event::Done { finish, counts, .. } => {
                self.counts[index] = counts;
                let choice = ChunkChoice {
                    finish_reason: Some(finish_reason(&finish)),
                    finish_detail: finish_detail(&finish),
                    ..ChunkChoice::new(index, Delta::default())
                };
                sse(&self.chunk(vec![choice]), out);
            }
            Event::Failed(refusal) => self.fault(refusal.into(), out),
        }
    }

    fn end(&mut self, out: &mut String) {
        if self.include_usage && !self.failed {
            let context = self.counts.first().map(Window::of);
            let usage = Some(Some(Tokens::of(&self.counts)));
            sse(&ChatChunk { usage, context, ..self.chunk(Vec::new()) }, out);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn fault(&mut self, fault: Fault, out: &mut String) {
        self.failed = true;
        sse(&fault.body(), out);
    }
}
