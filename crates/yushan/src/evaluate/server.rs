//! A model on a server, as something that tells probabilities: `/v1/completions` with `echo` and `logprobs`.
//!
//! The key decision: one request at a time, each with a few rows, and a server that has no room is asked again; what
//! else it refuses ends the evaluation with its words.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use ureq::Agent;
use yushan_train::Error;
use yushan_train::evaluate::Completions;

use crate::exit::BadUsage;
use crate::remote;

/// Prompts of a request.
const PROMPTS: usize = 16;
/// How long a reply may take: a batch of long rows on a slow machine.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Bytes of a reply: each token comes with its text and its place.
const LARGEST: u64 = 256 << 20;
/// Times that a server without room is asked, and the pause before it is asked again.
const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// A model that a server has.
pub(super) struct Served {
    agent: Agent,
    base: String,
    key: Option<String>,
    name: String,
    /// Tokens to write, at least.
    least: u32,
    /// Tokens of a prompt at most, if the server says what the model holds: one is for the answer.
    pub(super) context: Option<usize>,
}

/// Looks a model up: by its name, or the only one.
pub(super) fn find(address: &str, name: Option<&str>) -> Result<Served> {
    let base = remote::base(address);
    let agent = remote::agent(Some(PATIENCE));
    let key = std::env::var(remote::KEY).ok().filter(|key| !key.is_empty());
    let request = remote::with_key(agent.get(format!("{base}/models")), key.as_deref());
    let list = body(&base, request.call())?;
    let models = list["data"].as_array().map_or(&[][..], Vec::as_slice);
    let id = |model: &Value| model["id"].as_str().unwrap_or("").to_owned();
    let found = match name {
        Some(name) => models.iter().find(|model| id(model) == name),
        None => Some(models).filter(|models| models.len() == 1).and_then(|models| models.first()),
    };
    let Some(found) = found else {
        let names: Vec<String> = models.iter().map(id).collect();
        let what = format!("{base} has {}: choose with --served NAME", names.join(", "));
        return Err(BadUsage(what).into());
    };
    let count = |field: &str| found[field].as_u64().and_then(|count| usize::try_from(count).ok());
    Ok(Served {
        name: id(found),
        least: u32::from(found["owned_by"] != "yushan"),
        context: count("max_model_len").or(count("context_length")).map(|n| n.saturating_sub(1)),
        agent,
        base,
        key,
    })
}

impl Served {
    /// As the library asks it.
    pub(super) fn completions(
        self,
    ) -> Completions<impl FnMut(Value) -> yushan_train::Result<Value>> {
        let (model, max_tokens) = (self.name.clone(), self.least);
        Completions { model, max_tokens, batch: PROMPTS, send: move |body| self.send(&body) }
    }

    fn send(&self, asked: &Value) -> yushan_train::Result<Value> {
        let (url, asked) = (format!("{}/completions", self.base), asked.to_string());
        for _ in 1..ATTEMPTS {
            let answer = self.post(&url, &asked);
            match &answer {
                Ok(answer) if matches!(answer.status().as_u16(), 429 | 503) => {
                    std::thread::sleep(PAUSE);
                }
                _ => return body(&self.base, answer),
            }
        }
        body(&self.base, self.post(&url, &asked))
    }

    fn post(&self, url: &str, asked: &str) -> Answer {
        let request = self.agent.post(url).content_type("application/json");
        remote::with_key(request, self.key.as_deref()).send(asked)
    }
}

type Answer = std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>;

/// The JSON of an answer, or what the server says in its place.
fn body(base: &str, answer: Answer) -> yushan_train::Result<Value> {
    let bad = |detail: String| Error::bad(base, detail);
    let mut answer = answer.map_err(|error| bad(format!("it does not answer: {error}")))?;
    let status = answer.status();
    let text = answer.body_mut().with_config().limit(LARGEST).read_to_string();
    let text = text.map_err(|error| bad(format!("its answer cannot be read: {error}")))?;
    let json: Option<Value> = serde_json::from_str(&text).ok();
    if !status.is_success() {
        let said = json.as_ref().and_then(|json| json["error"]["message"].as_str());
        let said: String =
            said.unwrap_or(&text).chars().filter(|c| !c.is_control()).take(500).collect();
        return Err(bad(format!("status {}: {said}", status.as_u16())));
    }
    json.ok_or_else(|| bad("its answer is no JSON".into()))
}
