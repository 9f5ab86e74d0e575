//! The OpenAI face.
//!
//! The key decision: requests are types that refuse unknown fields and say which; replies are types too, so
//! that the OpenAPI document cannot disagree with either. Fields that are known and not used are
//! types too, and the header `x-yushan-ignored` of the reply names those that were given.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod responses;

use axum::http::HeaderValue;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use yushan_abi::{Counts, Finish, Logprob};

/// Names the fields that were given and not used.
pub(crate) fn with_ignored(mut response: Response, ignored: &[&'static str]) -> Response {
    if let Ok(value) = HeaderValue::from_str(&ignored.join(", "))
        && !ignored.is_empty()
    {
        response.headers_mut().insert("x-yushan-ignored", value);
    }
    response
}

/// Tokens of a request.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct Tokens {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    pub(crate) prompt_tokens_details: PromptDetails,
}

/// Of the prompt's tokens.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    /// Those whose keys and values came from the cache.
    pub(crate) cached_tokens: usize,
}

impl Tokens {
    /// Of several answers to one prompt.
    pub(crate) fn of(counts: &[Counts]) -> Tokens {
        let prompt = counts.first().map_or(0, |counts| counts.prompt);
        let generated = counts.iter().map(|counts| counts.generated).sum();
        Tokens {
            prompt_tokens: prompt,
            completion_tokens: generated,
            total_tokens: prompt + generated,
            prompt_tokens_details: PromptDetails {
                cached_tokens: counts.first().map_or(0, |counts| counts.cached),
            },
        }
    }
}

/// Our extension: what the model saw.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Window {
    /// Tokens the context holds.
    limit: usize,
    prompt_tokens: usize,
    cached_tokens: usize,
    /// Left out of the conversation: 0 unless an overflow policy was asked for.
    dropped_tokens: usize,
}

impl Window {
    pub(crate) fn of(counts: &Counts) -> Window {
        Window {
            limit: counts.limit,
            prompt_tokens: counts.prompt,
            cached_tokens: counts.cached,
            dropped_tokens: counts.dropped,
        }
    }
}

/// Why it ended, in OpenAI's words.
pub(crate) fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::End | Finish::Stop(_) => "stop",
        Finish::Calls => "tool_calls",
        Finish::Length | Finish::ContextFull | Finish::Cancelled | Finish::Budget(_) => "length",
    }
}

/// Our extension, where OpenAI's words say too little.
pub(crate) fn finish_detail(finish: &Finish) -> Option<String> {
    match finish {
        Finish::End | Finish::Calls | Finish::Length => None,
        Finish::Stop(stop) => Some(format!("stop: {stop}")),
        Finish::ContextFull => Some("the context is full".to_string()),
        Finish::Cancelled => Some("cancelled".to_string()),
        Finish::Budget(which) => Some(format!("budget: {which}")),
    }
}

/// A token with its log-probability, in the form of chats and responses.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct TokenLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) top_logprobs: Vec<TopLogprob>,
}

/// A token that could have stood there.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct TopLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
}

/// What JSON has in place of minus infinity.
pub(crate) const NEVER: f32 = -9999.0;

impl TokenLogprob {
    pub(crate) fn of(logprob: Logprob) -> TokenLogprob {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let top = logprob.top.into_iter().map(|(_, bytes, logprob)| TopLogprob {
            token: text(&bytes),
            logprob: logprob.max(NEVER),
            bytes,
        });
        TokenLogprob {
            token: text(&logprob.bytes),
            logprob: logprob.logprob.unwrap_or(NEVER).max(NEVER),
            top_logprobs: top.collect(),
            bytes: logprob.bytes,
        }
    }
}
