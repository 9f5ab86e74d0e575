//! `Language`: the text side of a model, as the kernel needs it.
//!
//! The key decision: the kernel schedules tokens and never learns what they mean. Templates,
//! tokenizers, samplers, grammars and the way a model writes calls stand behind two objects: a
//! [`Language`] for each model, shared, and a [`Writer`] for each answer, which turns a row of logits
//! into the next token and what can be shown of it.

use crate::complete::{Logprob, Refusal, Request};
use crate::executor::TokenId;
use crate::message::{Call, Message};

/// What one token gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The token, to be fed next unless the answer ended.
    pub token: TokenId,
    /// What it adds to the answer.
    pub pieces: Vec<Piece>,
    /// If asked for.
    pub logprob: Option<Logprob>,
    /// Whether it was the last, and why.
    pub end: Option<End>,
}

/// Something that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A call begins.
    CallBegins {
        /// Names the call.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of the arguments of the call that began last.
    Arguments(String),
}

/// Why a writer ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The model said so.
    End,
    /// A stop text.
    Stop(String),
    /// It called tools.
    Calls(Vec<Call>),
}

/// The text side of a model.
pub trait Language: Send + Sync {
    /// The prompt of a request as tokens: its conversation through the template with its tools, its
    /// text, or its tokens after a check.
    fn encode(&self, request: &Request) -> Result<Vec<TokenId>, Refusal>;

    /// A conversation as the template writes it.
    fn apply_template(&self, messages: &[Message]) -> Result<String, Refusal>;

    /// Text as tokens; special tokens in it are text unless `special`.
    fn tokenize(&self, text: &str, add_bos: bool, special: bool) -> Vec<TokenId>;

    /// Tokens as text.
    fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal>;

    /// The bytes of one token.
    fn token_bytes(&self, token: TokenId) -> Vec<u8>;

    /// Begins an answer to `prompt`: checks the sampling, compiles the form.
    fn begin(&self, request: &Request, prompt: &[TokenId]) -> Result<Box<dyn Writer>, Refusal>;
}

/// One answer in the making. What it has accepted is its whole state: a writer that began alike and
/// was given the same tokens by [`Writer::replay`] goes on alike.
pub trait Writer: Send {
    /// Chooses the next token from `(vocabulary)` logits and takes it.
    fn next(&mut self, logits: &[f32]) -> Result<Written, Refusal>;

    /// Takes a token that was chosen before a crash or a swap.
    fn replay(&mut self, token: TokenId) -> Result<Written, Refusal>;

    /// What was held back because a stop text might have begun, when the answer ends otherwise.
    fn finish(&mut self) -> Vec<Piece>;

    /// Log-probabilities of a token that stands in the prompt.
    fn score(&self, logits: &[f32], token: TokenId) -> Option<Logprob>;

    /// The token, as in a prompt, without probabilities.
    fn echo(&mut self, token: TokenId) -> String;
}
