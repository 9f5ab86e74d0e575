//! A continued text as server-sent events.

use yushan_abi::{Counts, Event, Logprob};

use crate::fault::Fault;
use crate::openai::chat::{FINGERPRINT, Head, sse};
use crate::openai::completions::reply::{Completion, TextChoice, TextLogprobs, text_reason};
use crate::openai::{Tokens, Window, finish_detail};
use crate::stream::Face;

/// Writes a continued text.
pub(crate) struct CompletionFace {
    head: Head,
    include_usage: bool,
    /// Of each answer, and characters written so far.
    answers: Vec<(Counts, usize)>,
    failed: bool,
}

impl CompletionFace {
    pub(crate) fn new(head: Head, n: usize, include_usage: bool) -> CompletionFace {
        let answers = vec![(Counts::default(), 0); n];
        CompletionFace { head, include_usage, answers, failed: false }
    }

    fn chunk(&self, choices: Vec<TextChoice>) -> Completion {
        Completion {
            id: self.head.id.clone(),
            object: "text_completion",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: None,
            system_fingerprint: FINGERPRINT,
            context: None,
        }
    }

    fn text(&mut self, index: usize, text: String, logprob: Option<Logprob>, out: &mut String) {
        if text.is_empty() && logprob.is_none() {
            return;
        }
        let offset = self.answers[index].1;
        self.answers[index].1 += text.chars().count();
        let logprobs = logprob.map(|logprob| {
            let mut logprobs = TextLogprobs::default();
            logprobs.add(offset, &logprob);
            logprobs
        });
        let choice = TextChoice { index, text, logprobs, finish_reason: None, finish_detail: None };
        sse(&self.chunk(vec![choice]), out);
    }
}

impl Face for CompletionFace {
    const MEDIA: &'static str = "text/event-stream";
    const IDLE: &'static str = ": \n\n";

    fn event(&mut self, index: usize, event: Event, out: &mut String) {
        match event {
            Event::Started(counts) => self.answers[index].0 = counts,
            Event::Echo { text, logprob } | Event::Text { text, logprob } => {
                self.text(index, text, logprob, out);
            }
            Event::Call { .. }
            | Event::Embedding(_)
            | Event::Answered { .. }
            | Event::Asks { .. }
            | Event::Verified(_) => {}
            Event::Done { finish, counts, .. } => {
                self.answers[index].0 = counts;
                let choice = TextChoice {
                    index,
                    text: String::new(),
                    logprobs: None,
                    finish_reason: Some(text_reason(&finish)),
                    finish_detail: finish_detail(&finish),
                };
                sse(&self.chunk(vec![choice]), out);
            }
            Event::Failed(refusal) => self.fault(refusal.into(), out),
        }
    }

    fn end(&mut self, out: &mut String) {
        if self.include_usage && !self.failed {
            let counts: Vec<_> = self.answers.iter().map(|(counts, _)| *counts).collect();
            let context = counts.first().map(Window::of);
            let usage = Some(Tokens::of(&counts));
            sse(&Completion { usage, context, ..self.chunk(Vec::new()) }, out);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn fault(&mut self, fault: Fault, out: &mut String) {
        self.failed = true;
        sse(&fault.body(), out);
    }
}
