//! The body of a request to continue text.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;
use yushan_abi::{ModelInfo, Prompt, Request, Sampling};

use crate::body::{Ignored, ignored, refuse, whole};
use crate::doors::Caller;
use crate::fault::Fault;
use crate::openai::chat::StreamOptions;
use crate::openai::fields::{self, Knobs, MOST_ANSWERS, Texts, class, max_tokens, most_tokens};

/// Prompts of one request.
const MOST_PROMPTS: usize = 128;
/// Tokens of an answer, if the request does not say: OpenAI's figure.
const USUAL_TOKENS: usize = 16;

/// A request to continue text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompletionRequest {
    pub(crate) model: String,
    prompt: Prompts,
    /// Whether the prompt is part of the answer.
    echo: Option<bool>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u64>,
    best_of: Option<u64>,
    max_tokens: Option<u64>,
    stop: Option<Texts>,
    seed: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    logit_bias: Option<BTreeMap<String, f64>>,
    /// Of so many likeliest tokens.
    logprobs: Option<u64>,
    service_tier: Option<String>,
    /// Our extension: 0 keeps all.
    top_k: Option<u64>,
    /// Our extension.
    min_p: Option<f64>,
    /// Our extension.
    typical_p: Option<f64>,
    /// Our extension.
    repeat_penalty: Option<f64>,
    /// Our extension.
    repeat_last_n: Option<u64>,
    /// What comes after the gap that the answer fills; the prompt, a text, is what comes before it.
    suffix: Option<String>,
    user: Option<Ignored>,
}

/// Text, texts, tokens, or several lists of tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a text, a list of texts, a list of token ids, or a list of lists of token ids"
)]
pub(crate) enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    Lists(Vec<Vec<u32>>),
}

impl Prompts {
    /// As a list.
    pub(crate) fn list(self) -> Vec<Prompt> {
        match self {
            Prompts::Text(text) => vec![Prompt::Text(text)],
            Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Prompts::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Prompts::Lists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}

/// Checked requests.
pub(crate) struct Asked {
    /// One for each prompt.
    pub(crate) requests: Vec<Request>,
    /// Answers to each.
    pub(crate) n: usize,
    /// Whether it is streamed; whether the usage is then told.
    pub(crate) stream: Option<bool>,
    pub(crate) ignored: Vec<&'static str>,
}

impl CompletionRequest {
    /// Checks every field.
    pub(crate) fn check(mut self, model: &ModelInfo, caller: &Caller) -> Result<Asked, Fault> {
        let n = whole("n", self.n, 1, MOST_ANSWERS)?.unwrap_or(1);
        let best_of = whole("best_of", self.best_of, 1, MOST_ANSWERS)?;
        let chooses = best_of.is_some_and(|best_of| best_of != n);
        refuse("best_of", chooses, "this server does not choose among answers: leave it out")?;
        let suffix = self.suffix.take().filter(|suffix| !suffix.is_empty());
        let options = self.stream_options.take();
        let padded = options.as_ref().is_some_and(|o| o.include_obfuscation == Some(true));
        let ignored = ignored(&[
            ("user", self.user.is_some()),
            ("stream_options.include_obfuscation", padded),
        ]);
        let stream = crate::openai::chat::stream_of(self.stream, options)?;
        let sampling = self.sampling()?;
        // With `echo`, 0 asks for the prompt's log-probabilities alone.
        let most = max_tokens("max_tokens", self.max_tokens, 0, most_tokens(model))?;
        let echo = self.echo.unwrap_or(false);
        let apart = "with a suffix the answer does not follow the prompt: leave out one of the two";
        refuse("echo", echo && suffix.is_some(), apart)?;
        if most == Some(0) && !echo {
            return Err(Fault::invalid("max_tokens", "0 tokens without echo: nothing to answer"));
        }
        let logprobs = whole("logprobs", self.logprobs, 0, 20)?;
        let class = class(self.service_tier.as_deref())?;
        let stops = fields::stops("stop", self.stop)?;
        let request = |prompt| Request {
            max_tokens: Some(most.unwrap_or(USUAL_TOKENS)),
            sampling: sampling.clone(),
            stops: stops.clone(),
            logprobs,
            echo,
            class,
            tenant: caller.tenant.clone(),
            ..Request::new(&*model.name, prompt)
        };
        let requests = prompts(self.prompt, suffix)?.into_iter().map(request).collect();
        Ok(Asked { requests, n, stream, ignored })
    }

    fn sampling(&self) -> Result<Sampling, Fault> {
        let knobs = Knobs {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: self.logit_bias.as_ref(),
            seed: self.seed,
        };
        knobs.sampling("", Sampling::default())
    }
}

/// The prompts, each with the gap before the suffix if there is one.
fn prompts(prompts: Prompts, suffix: Option<String>) -> Result<Vec<Prompt>, Fault> {
    let prompts = prompts.list();
    match prompts.len() {
        0 => return Err(Fault::invalid("prompt", "expected at least one prompt")),
        count if count > MOST_PROMPTS => {
            let detail = format!("{count} prompts; at most {MOST_PROMPTS}");
            return Err(Fault::invalid("prompt", detail));
        }
        _ => {}
    }
    let Some(suffix) = suffix else { return Ok(prompts) };
    let gap = |prompt| match prompt {
        Prompt::Text(prefix) => Ok(Prompt::Infill { prefix, suffix: suffix.clone() }),
        _ => Err(Fault::invalid("suffix", "it goes with a prompt of text, not of token ids")),
    };
    prompts.into_iter().map(gap).collect()
}
