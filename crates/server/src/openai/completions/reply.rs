//! What a request to continue text gets.
//!
//! The key decision: with `echo` the tokens of the prompt stand before those of the answer, in the text and in the
//! log-probabilities alike; the very first has none (`null`), as OpenAI's had.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use yushan_abi::{Finish, Logprob};

use crate::openai::chat::{FINGERPRINT, Head};
use crate::openai::{NEVER, Tokens, Window, finish_detail, finish_reason};
use crate::stream::Answer;

/// Whole answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Completion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: Vec<TextChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Tokens>,
    pub(crate) system_fingerprint: &'static str,
    /// Our extension: what the model saw, of the first prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<Window>,
}

/// One of the answers, or a piece of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct TextChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<TextLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    /// Our extension, where the reason says too little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finish_detail: Option<String>,
}

/// Log-probabilities, in the old form: one list for each figure.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct TextLogprobs {
    tokens: Vec<String>,
    /// `null` for the first token of a prompt.
    token_logprobs: Vec<Option<f32>>,
    #[schema(value_type = Vec<Object>)]
    top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Characters before the token.
    text_offset: Vec<usize>,
}

impl TextLogprobs {
    /// Adds a token after `offset` characters; it makes `text` readable.
    pub(crate) fn add(&mut self, offset: usize, logprob: &Logprob) {
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.tokens.push(name(&logprob.bytes));
        self.token_logprobs.push(logprob.logprob.map(|logprob| logprob.max(NEVER)));
        let top = logprob.top.iter();
        let top = top.map(|(_, bytes, logprob)| (name(bytes), json!(logprob.max(NEVER))));
        self.top_logprobs.push(logprob.logprob.is_some().then(|| top.collect()));
        self.text_offset.push(offset);
    }
}

impl Completion {
    /// Of the answers to each prompt.
    pub(crate) fn of(head: Head, prompts: Vec<Vec<Answer>>) -> Completion {
        let of_prompt = |answers: &Vec<Answer>| {
            Tokens::of(&answers.iter().map(|answer| answer.counts).collect::<Vec<_>>())
        };
        let usage = prompts.iter().map(of_prompt).reduce(sum);
        let context = prompts.first().and_then(|answers| answers.first());
        let context = context.map(|answer| Window::of(&answer.counts));
        let answers = prompts.into_iter().flatten().enumerate();
        let choices = answers.map(|(index, answer)| choice(index, answer)).collect();
        Completion {
            id: head.id,
            object: "text_completion",
            created: head.created,
            model: head.model,
            choices,
            usage,
            system_fingerprint: FINGERPRINT,
            context,
        }
    }
}

fn sum(mut all: Tokens, more: Tokens) -> Tokens {
    all.prompt_tokens += more.prompt_tokens;
    all.completion_tokens += more.completion_tokens;
    all.total_tokens += more.total_tokens;
    all.prompt_tokens_details.cached_tokens += more.prompt_tokens_details.cached_tokens;
    all
}

fn choice(index: usize, answer: Answer) -> TextChoice {
    let mut logprobs = TextLogprobs::default();
    let mut text = String::new();
    let mut length = 0;
    for (piece, logprob) in answer.echo {
        if let Some(logprob) = logprob {
            logprobs.add(length, &logprob);
        }
        length += piece.chars().count();
        text.push_str(&piece);
    }
    for (piece, logprob) in &answer.pieces {
        logprobs.add(length, logprob);
        length += piece.chars().count();
    }
    text.push_str(&answer.text);
    TextChoice {
        index,
        text,
        logprobs: (!logprobs.tokens.is_empty()).then_some(logprobs),
        finish_reason: Some(text_reason(&answer.finish)),
        finish_detail: finish_detail(&answer.finish),
    }
}

/// There are no tools here.
pub(crate) fn text_reason(finish: &Finish) -> &'static str {
    match finish_reason(finish) {
        "length" => "length",
        _ => "stop",
    }
}
