//! What a chat request gets: a completion, or chunks of one.

use serde::Serialize;
use utoipa::ToSchema;
use yushan_abi::Call;

use crate::agent::Step;
use crate::openai::chat::Head;
use crate::openai::{TokenLogprob, Tokens, Window, finish_detail, finish_reason};
use crate::stream::Answer;

/// A whole answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Tokens,
    system_fingerprint: &'static str,
    /// Our extension: what the model saw.
    context: Window,
}

/// One of the answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    /// Our extension, where the reason says too little.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_detail: Option<String>,
    /// Our extension: what tools of the system did before this was said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<Step>,
}

/// What the assistant says.
#[derive(Serialize, ToSchema)]
pub(crate) struct AnswerMessage {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<AnswerCall>,
}

/// A call.
#[derive(Serialize, ToSchema)]
pub(crate) struct AnswerCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: AnswerFunction,
}

/// What is called.
#[derive(Serialize, ToSchema)]
pub(crate) struct AnswerFunction {
    name: String,
    arguments: String,
}

/// Log-probabilities of an answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<TokenLogprob>,
    pub(crate) refusal: Option<Vec<TokenLogprob>>,
}

/// The version that answered.
pub(crate) const FINGERPRINT: &str = concat!("yushan-", env!("CARGO_PKG_VERSION"));

impl ChatCompletion {
    pub(crate) fn of(head: Head, answers: Vec<Answer>) -> ChatCompletion {
        let counts: Vec<_> = answers.iter().map(|answer| answer.counts).collect();
        let choices = answers.into_iter().enumerate();
        ChatCompletion {
            id: head.id,
            object: "chat.completion",
            created: head.created,
            model: head.model,
            choices: choices.map(|(index, answer)| ChatChoice::of(index, answer)).collect(),
            usage: Tokens::of(&counts),
            system_fingerprint: FINGERPRINT,
            context: Window::of(&counts.first().copied().unwrap_or_default()),
        }
    }
}

impl ChatChoice {
    fn of(index: usize, answer: Answer) -> ChatChoice {
        let pieces = answer.pieces.into_iter();
        let logprobs: Vec<_> = pieces.map(|(_, logprob)| TokenLogprob::of(logprob)).collect();
        let content = (!answer.text.is_empty() || answer.calls.is_empty()).then_some(answer.text);
        ChatChoice {
            index,
            message: AnswerMessage {
                role: "assistant",
                content,
                refusal: None,
                tool_calls: answer.calls.into_iter().map(AnswerCall::of).collect(),
            },
            logprobs: (!logprobs.is_empty())
                .then_some(ChatLogprobs { content: logprobs, refusal: None }),
            finish_reason: finish_reason(&answer.finish),
            finish_detail: finish_detail(&answer.finish),
            steps: answer.steps,
        }
    }
}

impl AnswerCall {
    fn of(call: Call) -> AnswerCall {
        let function = AnswerFunction { name: call.name, arguments: call.arguments };
        AnswerCall { id: call.id, kind: "function", function }
    }
}

/// A piece of an answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatChunk<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) system_fingerprint: &'static str,
    pub(crate) choices: Vec<ChunkChoice>,
    /// Of the last chunk, if it was asked for; `null` before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Tokens>>,
    /// Our extension, in the first chunk and in that with the usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<Window>,
}

/// A piece of one of the answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: Delta,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finish_detail: Option<String>,
    /// Our extension: what a tool of the system did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<Step>,
}

impl ChunkChoice {
    pub(crate) fn new(index: usize, delta: Delta) -> ChunkChoice {
        ChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            finish_detail: None,
            step: None,
        }
    }
}

/// What a piece adds.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    /// `null` in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Option<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<CallDelta>,
}

/// What a piece adds to a call.
#[derive(Serialize, ToSchema)]
pub(crate) struct CallDelta {
    pub(crate) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    pub(crate) function: FunctionDelta,
}

/// What a piece adds to what is called.
#[derive(Serialize, ToSchema)]
pub(crate) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) arguments: String,
}
