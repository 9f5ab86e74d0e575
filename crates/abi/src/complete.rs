//! `Complete`: ask for a completion, get events.
//!
//! The key decision: events are pushed into a [`Sink`] that may say "full". Whoever completes then stops
//! making tokens for this one alone, so that a slow reader costs nobody else anything, and no thread
//! waits for it. Dropping the sink's owner shows as "gone", which cancels.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::disk::DiskError;
use crate::executor::TokenId;
use crate::keep::Keep;
use crate::language::Language;
use crate::message::{Call, Message};
use crate::tool::{ToolResult, ToolSpec};

/// How a token is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keep the `top_k` likeliest; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest whose probabilities first sum to this; 1 keeps all (Holtzman et al. 2019).
    pub top_p: f32,
    /// Keep what has at least this part of the likeliest one's probability; 0 keeps all.
    pub min_p: f32,
    /// Keep those whose surprise is nearest to the expected one until their probabilities sum to
    /// this; 1 keeps all (Meister et al. 2022).
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 does nothing (Keskar et
    /// al. 2019).
    pub repeat_penalty: f32,
    /// How many tokens, the prompt's included, the three penalties look back; 0 is none.
    pub repeat_last_n: usize,
    /// Subtracted for each time a token is among the recent ones.
    pub frequency_penalty: f32,
    /// Subtracted once if a token is among the recent ones.
    pub presence_penalty: f32,
    /// Added to single logits; negative infinity forbids a token.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// What llama.cpp does unless told otherwise: a little below the model's own variety, without the long tail.
    pub fn llama_cpp() -> Sampling {
        let default = Sampling::default();
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..default }
    }
}

impl Default for Sampling {
    /// What the OpenAI interface promises: temperature 1, nothing cut off.
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// The form an answer must have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Any text.
    #[default]
    Text,
    /// Any JSON object.
    Json,
    /// JSON of this schema.
    Schema(Value),
    /// Text of this grammar (GBNF or Lark).
    Grammar(String),
    /// Text that this regular expression matches.
    Regex(String),
    /// No text: what the model makes of the prompt as a whole, a vector of length 1
    /// ([`Event::Embedding`]).
    Embedding,
}

/// Which tools the model may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// What to do with a conversation that is longer than the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Refuse, with the exact count.
    #[default]
    Refuse,
    /// Leave out the oldest messages after the instructions, and say how many tokens they had. Of a
    /// text that is embedded, its end.
    TruncateOldest,
    /// As above, with a summary in their place.
    Summarize,
}

/// How soon a request wants to be served.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Somebody waits.
    #[default]
    Interactive,
    /// An assistant at work.
    Agent,
    /// Whenever there is room.
    Batch,
}

/// What is continued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// A conversation, brought into the model's form by its template.
    Chat(Vec<Message>),
    /// Text as it stands.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<TokenId>),
    /// A text with a gap, for models that fill in the middle.
    Infill {
        /// Before the gap.
        prefix: String,
        /// After it.
        suffix: String,
    },
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The model.
    pub model: String,
    /// What is continued.
    pub prompt: Prompt,
    /// Most tokens of the answer; `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer.
    pub stops: Vec<String>,
    /// The form of the answer.
    pub form: Form,
    /// Tools the model knows of.
    pub tools: Vec<ToolSpec>,
    /// Which of them it may call.
    pub tool_choice: ToolChoice,
    /// Whether it may call several at once.
    pub parallel_calls: bool,
    /// Log-probabilities of the chosen token and of so many likeliest ones.
    pub logprobs: Option<usize>,
    /// Whether the prompt's tokens are events too.
    pub echo: bool,
    /// If the conversation is too long.
    pub overflow: Overflow,
    /// How soon.
    pub class: Class,
    /// Weight among requests of its class.
    pub weight: u32,
    /// For whom: prefixes are shared within a tenant alone.
    pub tenant: String,
    /// Names the key of the tenant's that pays for it; empty: the tenant alone does.
    #[serde(default)]
    pub account: String,
    /// Whether it goes on after a crash, and the name that whoever asked knows it by.
    #[serde(default)]
    pub durable: Option<String>,
}

impl Request {
    /// A request with the defaults.
    pub fn new(model: impl Into<String>, prompt: Prompt) -> Request {
        Request {
            model: model.into(),
            prompt,
            max_tokens: None,
            sampling: Sampling::default(),
            stops: Vec::new(),
            form: Form::default(),
            tools: Vec::new(),
            tool_choice: ToolChoice::default(),
            parallel_calls: true,
            logprobs: None,
            echo: false,
            overflow: Overflow::default(),
            class: Class::default(),
            weight: 1,
            tenant: String::new(),
            account: String::new(),
            durable: None,
        }
    }
}

/// Log-probabilities of one position, in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logprob {
    /// The token.
    pub id: TokenId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Of the token that stands here; `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    /// The likeliest, best first.
    pub top: Vec<(TokenId, Vec<u8>, f32)>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, or its form was complete.
    End,
    /// A stop text came next.
    Stop(String),
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    ContextFull,
    /// It calls tools.
    Calls,
    /// Whoever asked went away, or killed it.
    Cancelled,
    /// A budget is used up: which.
    Budget(String),
}

/// What a completion saw and cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Tokens the context holds.
    pub limit: usize,
    /// Of the prompt.
    pub prompt: usize,
    /// Of these, whose KV came from the cache.
    pub cached: usize,
    /// Left out of the conversation: 0 unless a policy was asked for.
    pub dropped: usize,
    /// Of the answer.
    pub generated: usize,
}

/// What came of running the code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// It ran, with the examples that were given.
    Ran,
    /// It failed, or an example did.
    Failed,
    /// There was none, or it could not be run here.
    NotRun,
}

/// What happens, in order: `Started`, then the others, then one `Done` or `Failed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It was admitted and its prompt counted.
    Started(Counts),
    /// A token of the prompt, with `echo`.
    Echo {
        /// What it makes readable.
        text: String,
        /// If asked for.
        logprob: Option<Logprob>,
    },
    /// Some text. Empty text may come with a logprob (a token inside a character).
    Text {
        /// What it adds.
        text: String,
        /// If asked for.
        logprob: Option<Logprob>,
    },
    /// A part of a call: the first of a call has its id and name, all add to its arguments.
    Call {
        /// Which call of this answer.
        index: usize,
        /// Names the call.
        id: Option<String>,
        /// The tool.
        name: Option<String>,
        /// What is added to the arguments.
        arguments: String,
    },
    /// A call that was made here has its answer; what follows is said after it.
    Answered {
        /// The call.
        call: Call,
        /// What the tool gave.
        result: ToolResult,
    },
    /// It waits for the user: whether this call may be made or, if the call is `ask`, for an answer.
    Asks {
        /// Names the call; whoever allows it says so.
        key: String,
        /// The call.
        call: Call,
    },
    /// What came of running the code of the answer, where that was asked for.
    Verified(Verified),
    /// What was asked for in the form of [`Form::Embedding`].
    Embedding(Vec<f32>),
    /// It ended.
    Done {
        /// Why.
        finish: Finish,
        /// What it cost.
        counts: Counts,
        /// All its calls, whole.
        calls: Vec<Call>,
    },
    /// It failed.
    Failed(Refusal),
}

/// Why a request was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A field makes no sense.
    #[error("{field}: {detail}")]
    Invalid {
        /// Which.
        field: String,
        /// What stood there and what was expected.
        detail: String,
    },
    /// There is no such model.
    #[error("the model {0:?} does not exist")]
    NoModel(String),
    /// A process made the same call so often, with the same answer, and went on.
    #[error("it made the same call {0} times in a row and did not heed the answer")]
    Repeats(u32),
    /// The conversation is too long.
    #[error(
        "the context holds {limit} tokens, but the request has {prompt}: shorten it, or choose an overflow policy"
    )]
    TooLong {
        /// Tokens the context holds.
        limit: usize,
        /// Tokens of the prompt.
        prompt: usize,
    },
    /// Too much to do; come again.
    #[error("too many requests: try again in {after_ms} ms")]
    Busy {
        /// When.
        after_ms: u64,
    },
    /// What whoever pays was granted is used up: what that was.
    #[error("quota used up: {0}")]
    Quota(String),
    /// The model does not fit into memory.
    #[error("not enough memory: {0}")]
    NoMemory(String),
    /// The disk is full, so that what must be durable cannot be.
    #[error("{0}")]
    NoDisk(String),
    /// The system stops; what is durable goes on after its next start.
    #[error("the system stops")]
    Stopping,
    /// A fault of ours or of a disk.
    #[error("{0}")]
    Internal(String),
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Refusal {
        match error {
            DiskError::Full(_) => Refusal::NoDisk(error.to_string()),
            DiskError::Failed(_) | DiskError::Damaged(_) => Refusal::Internal(error.to_string()),
        }
    }
}

/// What a sink says to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Taken; more.
    More,
    /// Taken, but there is room for no more: ask [`Sink::is_ready`] before the next.
    Full,
    /// Nobody listens any more.
    Gone,
}

/// Takes the events of one completion. Called by the thread that computes: never blocks.
pub trait Sink: Send {
    /// Takes an event.
    fn push(&mut self, event: Event) -> Flow;

    /// Whether there is room again, or nobody listens any more.
    fn is_ready(&mut self) -> Flow;
}

/// A sink that takes everything, for callers that wait for the whole answer.
impl Sink for std::sync::mpsc::Sender<Event> {
    fn push(&mut self, event: Event) -> Flow {
        if self.send(event).is_ok() { Flow::More } else { Flow::Gone }
    }

    fn is_ready(&mut self) -> Flow {
        Flow::More
    }
}

/// A sink without a reader: for processes that nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Sink for Nobody {
    fn push(&mut self, _: Event) -> Flow {
        Flow::More
    }

    fn is_ready(&mut self) -> Flow {
        Flow::More
    }
}

/// A model that can be asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The name requests give.
    pub name: String,
    /// Other names that requests may give.
    pub aliases: Vec<String>,
    /// When it came here, in seconds since 1970.
    pub created: u64,
    /// Tokens its context holds; 0 where that is not known.
    pub context: usize,
    /// Bytes of its file.
    pub bytes: u64,
    /// Bytes it takes in memory; 0 where it is not there.
    pub memory: u64,
    /// `llama`, `qwen2`, …
    pub architecture: String,
    /// Parameters.
    pub parameters: u64,
    /// The type most weights have: `Q4_0`, …
    pub quantization: String,
    /// SHA-256 or another name of its contents, in hexadecimal.
    pub digest: String,
    /// Its chat template, if it has one.
    pub template: Option<String>,
    /// Whether it is in memory, and until when (seconds since 1970).
    pub loaded: Option<u64>,
}

/// Completes requests. Implementations: the kernel; an HTTP client of another server; the scripted fake.
pub trait Complete: Send + Sync {
    /// Begins. A request that is refused at once gets no events.
    fn complete(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), Refusal>;

    /// The models that can be asked for.
    fn models(&self) -> Vec<ModelInfo>;

    /// The text side of a model, where it is here and not on another server.
    fn language(&self, model: &str) -> Result<Arc<dyn Language>, Refusal>;

    /// Brings a model into memory, so that what is asked of it next need not wait; blocks until it is
    /// there. Nothing is to be done where models are always there.
    fn ready(&self, model: &str) -> Result<(), Refusal> {
        let known = self.models().iter().any(|info| info.name == model);
        if known { Ok(()) } else { Err(Refusal::NoModel(model.to_string())) }
    }

    /// From now on a model stays in memory for so long after its last use; whether that is to be
    /// decided here.
    fn keep(&self, _model: &str, _keep: Keep) -> bool {
        false
    }
}
