//! A chat as server-sent events: role first, then deltas, the reason, the usage, `[DONE]`.

use serde::Serialize;
use yushan_abi::{Counts, Event};

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
}

impl ChatFace {
    pub(crate) fn new(head: Head, n: usize, include_usage: bool) -> ChatFace {
        ChatFace { head, include_usage, counts: vec![Counts::default(); n], failed: false }
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
        let choice =
            ChunkChoice { index, delta, logprobs, finish_reason: None, finish_detail: None };
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
                let choice = ChunkChoice {
                    index,
                    delta,
                    logprobs: None,
                    finish_reason: None,
                    finish_detail: None,
                };
                let context = Some(Window::of(&counts));
                sse(&ChatChunk { context, ..self.chunk(vec![choice]) }, out);
            }
            Event::Echo { .. } | Event::Embedding(_) => {}
            Event::Text { text, logprob } => {
                if !text.is_empty() || logprob.is_some() {
                    let delta = Delta { content: Some(Some(text)), ..Delta::default() };
                    self.delta(index, delta, logprob.map(TokenLogprob::of), out);
                }
            }
            Event::Call { index: call, id, name, arguments } => {
                let kind = id.is_some().then_some("function");
                let function = FunctionDelta { name, arguments };
                let call = CallDelta { index: call, id, kind, function };
                let delta = Delta { tool_calls: vec![call], ..Delta::default() };
                self.delta(index, delta, None, out);
            }
            Event::Done { finish, counts, .. } => {
                self.counts[index] = counts;
                let choice = ChunkChoice {
                    index,
                    delta: Delta::default(),
                    logprobs: None,
                    finish_reason: Some(finish_reason(&finish)),
                    finish_detail: finish_detail(&finish),
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
