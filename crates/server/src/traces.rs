//! Spans of completions, by OpenTelemetry's conventions for generative AI.
//!
//! The key decision: the server knows OpenTelemetry's interface alone; who exports, how and where to, is the
//! binary's to wire. One span is one request, with all its answers, as the conventions have it. What was said stands
//! in it only where that was asked for.

use axum::http::HeaderMap;
use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, Tracer};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use serde_json::json;
use std::time::Instant;
use yushan_abi::{Event, Finish, Form, Message, Prompt, Request};

/// Bytes of an answer that a span keeps, where it keeps any.
const KEPT: usize = 1 << 20;

/// Where spans go.
pub struct Traces {
    /// Makes them.
    pub tracer: BoxedTracer,
    /// Reads of which trace a request is a part.
    pub propagator: Box<dyn TextMapPropagator + Send + Sync>,
    /// Whether prompts and answers stand in them.
    pub contents: bool,
}

impl Traces {
    /// The context that a request came with.
    pub(crate) fn parent(&self, headers: &HeaderMap) -> Context {
        self.propagator.extract_with_context(&Context::new(), &Headers(headers))
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// The span of one request; it ends when this is dropped.
pub(crate) struct Trace {
    span: BoxedSpan,
    begun: Instant,
    first: bool,
    prompt: Option<(usize, usize)>,
    answers: Vec<Answer>,
    contents: bool,
}

#[derive(Clone, Default)]
struct Answer {
    finish: Option<&'static str>,
    generated: usize,
    /// What it said, if that is kept.
    text: String,
}

impl Trace {
    /// Of `n` answers to a request.
    pub(crate) fn begin(
        traces: &Traces,
        parent: Option<&Context>,
        request: &Request,
        n: usize,
    ) -> Trace {
        let operation = match request.prompt {
            _ if request.form == yushan_abi::Form::Embedding => "embeddings",
            Prompt::Chat(_) => "chat",
            Prompt::Text(_) | Prompt::Tokens(_) | Prompt::Infill { .. } => "text_completion",
        };
        let mut attributes = asked(request, n);
        attributes.push(KeyValue::new("gen_ai.operation.name", operation));
        if traces.contents {
            attributes.push(KeyValue::new("gen_ai.input.messages", input(&request.prompt)));
        }
        // The model runs in this very process.
        let builder = traces
            .tracer
            .span_builder(format!("{operation} {}", request.model))
            .with_kind(SpanKind::Internal)
            .with_attributes(attributes);
        let fresh = Context::new();
        let span = traces.tracer.build_with_context(builder, parent.unwrap_or(&fresh));
        Trace {
            span,
            begun: Instant::now(),
            first: true,
            prompt: None,
            answers: vec![Answer::default(); n],
            contents: traces.contents,
        }
    }

    /// An event of one of the answers.
    pub(crate) fn saw(&mut self, choice: usize, event: &Event) {
        let answer = &mut self.answers[choice];
        match event {
            Event::Started(counts) => self.prompt = Some((counts.prompt, counts.cached)),
            Event::Echo { .. }
            | Event::Embedding(_)
            | Event::Answered { .. }
            | Event::Asks { .. }
            | Event::Verified(_)
            | Event::Failed(_) => {}
            Event::Text { .. } | Event::Call { .. } => {
                answer.generated += 1;
                if std::mem::take(&mut self.first) {
                    let seconds = self.begun.elapsed().as_secs_f64();
                    let name = "gen_ai.response.time_to_first_chunk";
                    self.span.set_attribute(KeyValue::new(name, seconds));
                }
                if let (true, Event::Text { text, .. }) = (self.contents, event)
                    && answer.text.len() + text.len() <= KEPT
                {
                    answer.text.push_str(text);
                }
            }
            Event::Done { finish, counts, .. } => {
                answer.finish = Some(reason(finish));
                answer.generated = counts.generated;
            }
        }
    }

    /// It failed, or was refused: the code of its error.
    pub(crate) fn failed(&mut self, code: &'static str) {
        self.span.set_attribute(KeyValue::new("error.type", code));
        self.span.set_status(Status::error(code));
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        if let Some((prompt, cached)) = self.prompt {
            let generated = self.answers.iter().map(|answer| answer.generated).sum();
            for (name, tokens) in [
                ("gen_ai.usage.input_tokens", prompt),
                ("gen_ai.usage.cache_read.input_tokens", cached),
                ("gen_ai.usage.output_tokens", generated),
            ] {
                self.span.set_attribute(KeyValue::new(name, number(tokens)));
            }
            // Whoever did not wait for the end gave it up.
            let reasons =
                self.answers.iter().map(|answer| answer.finish.unwrap_or("cancelled").into());
            let reasons = Array::String(reasons.collect());
            let name = "gen_ai.response.finish_reasons";
            self.span.set_attribute(KeyValue::new(name, Value::Array(reasons)));
        }
        if self.contents {
            let said = self.answers.iter().map(|answer| {
                let parts = json!([{"type": "text", "content": answer.text}]);
                json!({"role": "assistant", "parts": parts, "finish_reason": answer.finish})
            });
            let said = json!(said.collect::<Vec<_>>()).to_string();
            let said = KeyValue::new("gen_ai.output.messages", said);
            self.span.set_attribute(said);
        }
        self.span.end();
    }
}

/// What a request asks for.
fn asked(request: &Request, n: usize) -> Vec<KeyValue> {
    let sampling = &request.sampling;
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let output = if matches!(request.form, Form::Json | Form::Schema(_)) { "json" } else { "text" };
    let mut asked = vec![
        KeyValue::new("gen_ai.provider.name", "yushan"),
        KeyValue::new("gen_ai.request.model", request.model.clone()),
        KeyValue::new("gen_ai.response.model", request.model.clone()),
        KeyValue::new("gen_ai.output.type", output),
        KeyValue::new("gen_ai.request.temperature", f64::from(sampling.temperature)),
        KeyValue::new("gen_ai.request.top_p", f64::from(sampling.top_p)),
        KeyValue::new("gen_ai.request.frequency_penalty", f64::from(sampling.frequency_penalty)),
        KeyValue::new("gen_ai.request.presence_penalty", f64::from(sampling.presence_penalty)),
        // Bit for bit: seeds are any 64 bits, attributes have signs.
        KeyValue::new("gen_ai.request.seed", sampling.seed.cast_signed()),
    ];
    if sampling.top_k > 0 {
        asked.push(KeyValue::new("gen_ai.request.top_k", sampling.top_k as f64));
    }
    if let Some(most) = request.max_tokens {
        asked.push(KeyValue::new("gen_ai.request.max_tokens", number(most)));
    }
    if n != 1 {
        asked.push(KeyValue::new("gen_ai.request.choice.count", number(n)));
    }
    if !request.stops.is_empty() {
        let stops = request.stops.iter().map(|stop| StringValue::from(stop.clone())).collect();
        let stops = Value::Array(Array::String(stops));
        asked.push(KeyValue::new("gen_ai.request.stop_sequences", stops));
    }
    asked
}

/// What was said, in the conventions' form.
fn input(prompt: &Prompt) -> String {
    let one = |message: &Message| {
        let mut parts = vec![json!({"type": "text", "content": message.text()})];
        for call in &message.calls {
            let arguments: serde_json::Value =
                serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!(call.arguments));
            let call = json!({"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments});
            parts.push(call);
        }
        if let Some(id) = &message.answers {
            parts =
                vec![json!({"type": "tool_call_response", "id": id, "response": message.text()})];
        }
        json!({"role": message.role.name(), "parts": parts})
    };
    let text = |text: String| {
        json!([{"role": "user", "parts": [{"type": "text", "content": text}]}]).to_string()
    };
    match prompt {
        Prompt::Chat(messages) => json!(messages.iter().map(one).collect::<Vec<_>>()).to_string(),
        Prompt::Text(said) => text(said.clone()),
        Prompt::Tokens(tokens) => text(format!("{tokens:?}")),
        Prompt::Infill { prefix, suffix } => {
            let parts = [prefix, suffix].map(|side| json!({"type": "text", "content": side}));
            json!([{"role": "user", "parts": parts}]).to_string()
        }
    }
}

/// As the conventions name it, in OpenAI's words; the last two are ours.
fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::End | Finish::Stop(_) => "stop",
        Finish::Length | Finish::ContextFull => "length",
        Finish::Calls => "tool_calls",
        Finish::Cancelled => "cancelled",
        Finish::Budget(_) => "budget",
    }
}
