//! Log-probabilities from a server: `/v1/completions` with `echo` and `logprobs`.
//!
//! The key decision: request and reply are values, and how they travel is the caller's closure, so
//! that this crate needs no HTTP client and a test needs no network. The prompt goes out as token ids; so
//! the server adds nothing to it, and the figures are those of the engine behind it.
//!
//! Asked with `max_tokens` 0, as Yushan's server takes it. A server that must write a token (vLLM) is
//! asked for one, which is left out of the answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::likelihood::{Likelihood, NEVER};
use crate::{Error, Result};

/// Prompts of one request: what Yushan's server takes.
const MOST_PROMPTS: usize = 128;

/// The body of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletionRequest {
    /// The served model's name.
    pub model: String,
    /// Token ids of each prompt.
    pub prompt: Vec<Vec<u32>>,
    /// Tokens to write: 0, or 1 where 0 is refused.
    pub max_tokens: u32,
    /// Whether the prompt is part of the answer: yes.
    pub echo: bool,
    /// Likeliest tokens beside: none.
    pub logprobs: u32,
}

/// Of a reply, what is read.
#[derive(Debug, Deserialize)]
struct Reply {
    choices: Vec<Choice>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    index: usize,
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Deserialize)]
struct Logprobs {
    token_logprobs: Vec<Option<f32>>,
}

impl CompletionRequest {
    /// For the log-probabilities of `rows`.
    pub fn of(model: &str, rows: &[Vec<u32>], max_tokens: u32) -> CompletionRequest {
        let prompt = rows.to_vec();
        CompletionRequest { model: model.to_owned(), prompt, max_tokens, echo: true, logprobs: 0 }
    }

    /// Reads the reply to this request.
    pub fn read(&self, reply: Value) -> Result<Vec<Vec<f32>>> {
        let bad = |detail: String| Error::bad("the reply of /v1/completions", detail);
        let reply = Reply::deserialize(reply).map_err(|e| bad(e.to_string()))?;
        let mut answers = vec![None; self.prompt.len()];
        for choice in reply.choices {
            let Some(row) = self.prompt.get(choice.index) else {
                return Err(bad(format!("choice {} of {} prompts", choice.index, answers.len())));
            };
            let missing =
                "no logprobs: the server does not tell those of a prompt (echo, logprobs)";
            let logprobs = choice.logprobs.ok_or_else(|| bad(missing.into()))?.token_logprobs;
            let written = logprobs.len().checked_sub(row.len());
            if written.is_none_or(|written| written > self.max_tokens as usize) {
                let detail = format!(
                    "{} log-probabilities for a prompt of {} tokens: the server changed the prompt",
                    logprobs.len(),
                    row.len()
                );
                return Err(bad(detail));
            }
            let values =
                logprobs[..row.len()].iter().skip(1).map(|value| value.map(|v| v.max(NEVER)));
            let values: Option<Vec<f32>> = values.collect();
            answers[choice.index] = Some(values.ok_or_else(|| {
                bad("a token after the first has no log-probability; expected a number".into())
            })?);
        }
        let count = answers.iter().flatten().count();
        let all: Option<Vec<_>> = answers.into_iter().collect();
        all.ok_or_else(|| bad(format!("{count} choices for {} prompts", self.prompt.len())))
    }
}

/// A served model.
pub struct Completions<F> {
    /// Its name.
    pub model: String,
    /// 0, or 1 where the server refuses 0.
    pub max_tokens: u32,
    /// Prompts of a request, at most 128.
    pub batch: usize,
    /// Posts a body to `/v1/completions` and gives the reply's body, or an error for any other status than
    /// 200.
    pub send: F,
}

impl<F: FnMut(Value) -> Result<Value>> Likelihood for Completions<F> {
    fn logprobs(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let mut answers = vec![Vec::new(); rows.len()];
        // A row of one token has nothing to predict and need not travel.
        let asked: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].len() > 1).collect();
        for places in asked.chunks(self.batch.clamp(1, MOST_PROMPTS)) {
            let prompts: Vec<_> = places.iter().map(|&at| rows[at].clone()).collect();
            let request = CompletionRequest::of(&self.model, &prompts, self.max_tokens);
            let body = serde_json::to_value(&request)
                .map_err(|e| Error::bad("a request to /v1/completions", e.to_string()))?;
            for (&at, answer) in places.iter().zip(request.read((self.send)(body)?)?) {
                answers[at] = answer;
            }
        }
        Ok(answers)
    }
}
