//! From the chunks of a stream to events.

use serde_json::Value;
use yushan_abi::{Call, Counts, Event, Finish, Logprob, Refusal, Request, TokenId};

use super::fault;

/// Calls of one answer.
const MOST_CALLS: usize = 128;
/// What stands for the number of a token that only the other server knows.
const UNKNOWN: TokenId = TokenId::MAX;
/// Characters of what is no JSON, in the error.
const SHOWN: usize = 60;

/// An answer in the making.
pub(super) struct Answer {
    counts: Counts,
    stops: Vec<String>,
    calls: Vec<Call>,
    started: bool,
    finish: Option<Finish>,
}

impl Answer {
    /// To this request; the context holds `limit` tokens, or 0 if that is not known.
    pub(super) fn to(request: &Request, limit: usize) -> Answer {
        let counts = Counts { limit, ..Counts::default() };
        let stops = request.stops.clone();
        Answer { counts, stops, calls: Vec::new(), started: false, finish: None }
    }

    /// What a chunk adds.
    pub(super) fn chunk(
        &mut self,
        data: &[u8],
        base: &str,
        model: &str,
    ) -> Result<Vec<Event>, Refusal> {
        let odd = |what: &str| {
            let text: String = String::from_utf8_lossy(data).chars().take(SHOWN).collect();
            Refusal::Internal(format!("{base} sent {what}: {text:?}"))
        };
        let chunk: Value = serde_json::from_slice(data).map_err(|_| odd("what is no JSON"))?;
        if !chunk["error"].is_null() {
            return Err(fault::in_stream(base, model, &chunk["error"]));
        }
        self.count(&chunk);
        let mut events = Vec::new();
        if !self.started {
            self.started = true;
            events.push(Event::Started(self.counts));
        }
        let choice = &chunk["choices"][0];
        if choice.is_null() {
            return Ok(events);
        }
        let text = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or("");
        texts(text, logprobs(&choice["logprobs"]), &mut events);
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            events.push(self.call(call).ok_or_else(|| odd("a call that makes no sense"))?);
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish = Some(self.finish(reason, choice));
        }
        Ok(events)
    }

    /// The last event; `None` if no reason was given why it ended.
    pub(super) fn end(self) -> Option<Event> {
        let Answer { counts, calls, finish, .. } = self;
        Some(Event::Done { finish: finish?, counts, calls })
    }

    /// Reads the usage, and our own note of what the model saw.
    fn count(&mut self, chunk: &Value) {
        // No honest count is larger, and sums of a few of these fit everywhere.
        let number = |value: &Value| value.as_u64().map(|n| n.min(u32::MAX.into()) as usize);
        let (usage, window) = (&chunk["usage"], &chunk["context"]);
        let counts = &mut self.counts;
        let set = |place: &mut usize, value: &Value| *place = number(value).unwrap_or(*place);
        set(&mut counts.prompt, &usage["prompt_tokens"]);
        set(&mut counts.generated, &usage["completion_tokens"]);
        set(&mut counts.cached, &usage["prompt_tokens_details"]["cached_tokens"]);
        set(&mut counts.prompt, &window["prompt_tokens"]);
        set(&mut counts.limit, &window["limit"]);
        set(&mut counts.dropped, &window["dropped_tokens"]);
    }

    fn call(&mut self, part: &Value) -> Option<Event> {
        let id = part["id"].as_str().filter(|id| !id.is_empty());
        let index = match part["index"].as_u64() {
            Some(index) => usize::try_from(index).ok()?,
            // Some servers send whole calls without a number.
            None => self.calls.len().checked_sub(usize::from(id.is_none()))?,
        };
        let name = part["function"]["name"].as_str();
        let arguments = part["function"]["arguments"].as_str().unwrap_or("").to_string();
        if let Some(call) = self.calls.get_mut(index) {
            call.arguments.push_str(&arguments);
            return Some(Event::Call { index, id: None, name: None, arguments });
        }
        if index != self.calls.len() || index >= MOST_CALLS {
            return None;
        }
        let id = id.map_or_else(|| format!("call_{index}"), str::to_string);
        let call = Call { id: id.clone(), name: name?.to_string(), arguments: arguments.clone() };
        self.calls.push(call);
        Some(Event::Call { index, id: Some(id), name: name.map(str::to_string), arguments })
    }

    /// Why it ended: in OpenAI's words, with what vLLM and we say besides.
    fn finish(&self, reason: &str, choice: &Value) -> Finish {
        let detail = choice["finish_detail"].as_str().unwrap_or("");
        let stop = detail.strip_prefix("stop: ").or(choice["stop_reason"].as_str());
        let stop = stop.filter(|stop| self.stops.iter().any(|known| known == stop));
        match (reason, detail) {
            ("tool_calls" | "function_call", _) => Finish::Calls,
            ("length", "the context is full") => Finish::ContextFull,
            ("length", "cancelled") => Finish::Cancelled,
            ("length", _) => match detail.strip_prefix("budget: ") {
                Some(which) => Finish::Budget(which.into()),
                None => Finish::Length,
            },
            ("content_filter", _) => Finish::Budget("the other server's filter".into()),
            _ => stop.map_or(Finish::End, |stop| Finish::Stop(stop.into())),
        }
    }
}

/// A piece of text with the log-probabilities of its tokens: each with its part, if they say which.
fn texts(text: &str, logprobs: Vec<(String, Logprob)>, events: &mut Vec<Event>) {
    let whole: String = logprobs.iter().map(|(token, _)| token.as_str()).collect();
    let split = whole == text;
    let mut rest = text.to_string();
    for (token, logprob) in logprobs {
        let text = if split { token } else { std::mem::take(&mut rest) };
        events.push(Event::Text { text, logprob: Some(logprob) });
        if split {
            rest.clear();
        }
    }
    if !rest.is_empty() {
        events.push(Event::Text { text: rest, logprob: None });
    }
}

/// Log-probabilities with the text of each token, in the form of chats or in the old one.
fn logprobs(value: &Value) -> Vec<(String, Logprob)> {
    let number = |value: &Value| value.as_f64().map(|number| number as f32);
    if let Some(content) = value["content"].as_array() {
        let of = |entry: &Value| {
            let token = entry["token"].as_str().unwrap_or("");
            let top = entry["top_logprobs"].as_array().into_iter().flatten();
            let top = top.map(|entry| {
                let token = entry["token"].as_str().unwrap_or("");
                (UNKNOWN, bytes(token, &entry["bytes"]), number(&entry["logprob"]).unwrap_or(0.0))
            });
            let logprob = Logprob {
                id: UNKNOWN,
                bytes: bytes(token, &entry["bytes"]),
                logprob: number(&entry["logprob"]),
                top: top.collect(),
            };
            (token.to_string(), logprob)
        };
        return content.iter().map(of).collect();
    }
    let tokens = value["tokens"].as_array().into_iter().flatten().enumerate();
    let of = |(at, token): (usize, &Value)| {
        let token = token.as_str().unwrap_or("");
        let top = value["top_logprobs"][at].as_object().into_iter().flatten();
        let top = top.map(|(token, logprob)| {
            (UNKNOWN, token.as_bytes().to_vec(), number(logprob).unwrap_or(0.0))
        });
        let mut top: Vec<_> = top.collect();
        top.sort_by(|a, b| b.2.total_cmp(&a.2));
        let logprob = number(&value["token_logprobs"][at]);
        let bytes = token.as_bytes().to_vec();
        (token.to_string(), Logprob { id: UNKNOWN, bytes, logprob, top })
    };
    tokens.map(of).collect()
}

/// The bytes of a token, where they are told; else its text's.
fn bytes(token: &str, told: &Value) -> Vec<u8> {
    let told: Option<Vec<u8>> = told.as_array().and_then(|bytes| {
        bytes.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect()
    });
    told.unwrap_or_else(|| token.as_bytes().to_vec())
}
