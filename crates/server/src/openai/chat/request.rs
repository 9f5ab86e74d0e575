//! The body of a chat request.
//!
//! The key decision: every field OpenAI documents stands here: used, refused by name, or listed as ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;
use yushan_abi::{ModelInfo, Prompt, Request, Sampling};
use yushan_kernel::Budget;

use crate::agent::{Agent, CheckCode, Wishes};
use crate::body::{Ignored, ignored, refuse, whole};
use crate::doors::Caller;
use crate::fault::Fault;
use crate::openai::fields::{
    self, Choice, Knobs, MOST_ANSWERS, ResponseFormat, Texts, Tool, Toolbox, class, max_tokens,
    overflow,
};
use crate::openai::messages::{ChatMessage, conversation};

/// A request to continue a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequest {
    pub(crate) model: String,
    pub(crate) messages: Vec<ChatMessage>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<Choice>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<ResponseFormat>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u64>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    stop: Option<Texts>,
    seed: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    logit_bias: Option<BTreeMap<String, f64>>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    service_tier: Option<String>,
    modalities: Option<Vec<String>>,
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
    /// Our extension: `refuse` (the default), `truncate_oldest`, `summarize`.
    overflow: Option<String>,
    /// Our extension, with tools of the system: names the files and running programs that they work with, the
    /// same from one request of a conversation to the next. Without it, they are gone with the answer.
    space: Option<String>,
    /// Our extension, with tools of the system: whether somebody is there who can allow calls.
    attended: Option<bool>,
    /// Our extension, with tools of the system: what the answer may use up.
    #[schema(value_type = Option<Object>)]
    budget: Option<Budget>,
    /// Our extension, with the system's tool `python`: runs the Python code of the answer before it is shown.
    check_code: Option<CheckCode>,
    /// Our extension, with tools of the system: whether handles stand for what others wrote, which `extract` alone
    /// opens, in a form that is given beforehand.
    quarantine: Option<bool>,
    store: Option<bool>,
    audio: Option<Ignored>,
    functions: Option<Ignored>,
    function_call: Option<Ignored>,
    web_search_options: Option<Ignored>,
    moderation: Option<Ignored>,
    metadata: Option<Ignored>,
    user: Option<Ignored>,
    safety_identifier: Option<Ignored>,
    prompt_cache_key: Option<Ignored>,
    prompt_cache_retention: Option<Ignored>,
    prompt_cache_options: Option<Ignored>,
    prediction: Option<Ignored>,
    reasoning_effort: Option<Ignored>,
    verbosity: Option<Ignored>,
}

/// What a stream tells besides.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
    /// Padding against eavesdroppers; taken, not used.
    pub(crate) include_obfuscation: Option<bool>,
}

/// A checked request.
pub(crate) struct Asked {
    pub(crate) request: Request,
    /// If tools of the system may be called.
    pub(crate) agent: Option<Agent>,
    pub(crate) n: usize,
    /// Whether it is streamed; whether the usage is then told.
    pub(crate) stream: Option<bool>,
    pub(crate) ignored: Vec<&'static str>,
}

impl ChatRequest {
    /// Checks every field.
    pub(crate) fn check(mut self, model: &ModelInfo, caller: &Caller) -> Result<Asked, Fault> {
        self.refuse_unsupported()?;
        let ignored = self.ignored();
        let n = whole("n", self.n, 1, MOST_ANSWERS)?.unwrap_or(1);
        let stream = stream_of(self.stream, self.stream_options.take())?;
        let sampling = self.sampling()?;
        let max_tokens = self.max_tokens(fields::most_tokens(model))?;
        let logprobs = self.logprobs()?;
        let messages = conversation(self.messages, &caller.tenant)?;
        let Toolbox { functions: tools, system } = fields::tools(self.tools.unwrap_or_default())?;
        let functions = tools.iter().map(|tool| tool.name.as_str());
        let names: Vec<&str> = functions.chain(system.keys().map(String::as_str)).collect();
        let tool_choice = fields::tool_choice(self.tool_choice, &names)?;
        let wishes = Wishes {
            space: self.space,
            attended: self.attended,
            budget: self.budget,
            check: self.check_code,
            quarantine: self.quarantine,
        };
        let agent = Agent::of(system, wishes, &caller.tenant)?;
        if agent.is_some() && n > 1 {
            return Err(Fault::invalid("n", "expected 1 with tools of the system"));
        }
        if agent.is_some() && logprobs.is_some() {
            return Err(Fault::invalid("logprobs", "not told with tools of the system"));
        }
        let form = match self.response_format {
            Some(format) => format.form("response_format")?,
            None => yushan_abi::Form::Text,
        };
        let request = Request {
            max_tokens,
            sampling,
            stops: fields::stops("stop", self.stop)?,
            form,
            tools,
            tool_choice,
            parallel_calls: self.parallel_tool_calls.unwrap_or(true),
            logprobs,
            overflow: overflow(self.overflow.as_deref())?,
            class: class(self.service_tier.as_deref())?,
            tenant: caller.tenant.clone(),
            ..Request::new(&*model.name, Prompt::Chat(messages))
        };
        Ok(Asked { request, agent, n, stream, ignored })
    }

    fn refuse_unsupported(&self) -> Result<(), Fault> {
        const OLD: &str = "deprecated: use tools and tool_choice";
        refuse("functions", self.functions.is_some(), OLD)?;
        refuse("function_call", self.function_call.is_some(), OLD)?;
        refuse("audio", self.audio.is_some(), "this server answers with text alone")?;
        let speaks = self.modalities.iter().flatten().any(|word| word != "text");
        refuse("modalities", speaks, "this server answers with text alone")?;
        let web = self.web_search_options.is_some();
        refuse("web_search_options", web, "this server does not search: give it a tool that does")?;
        refuse("moderation", self.moderation.is_some(), "this server has no moderation model")?;
        let store = self.store == Some(true);
        refuse("store", store, "chats are not kept: use /v1/responses, which keeps responses")
    }

    fn ignored(&self) -> Vec<&'static str> {
        let padded = self.stream_options.as_ref();
        ignored(&[
            ("metadata", self.metadata.is_some()),
            ("user", self.user.is_some()),
            ("safety_identifier", self.safety_identifier.is_some()),
            ("prompt_cache_key", self.prompt_cache_key.is_some()),
            ("prompt_cache_retention", self.prompt_cache_retention.is_some()),
            ("prompt_cache_options", self.prompt_cache_options.is_some()),
            ("prediction", self.prediction.is_some()),
            ("reasoning_effort", self.reasoning_effort.is_some()),
            ("verbosity", self.verbosity.is_some()),
            (
                "stream_options.include_obfuscation",
                padded.is_some_and(|options| options.include_obfuscation == Some(true)),
            ),
            ("messages.refusal", self.messages.iter().any(|message| message.refusal.is_some())),
            (
                "messages.annotations",
                self.messages.iter().any(|message| message.annotations.is_some()),
            ),
            (
                "messages.reasoning_content",
                self.messages.iter().any(|message| message.reasoning_content.is_some()),
            ),
        ])
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

    /// `max_tokens` is the old name of `max_completion_tokens`.
    fn max_tokens(&self, context: usize) -> Result<Option<usize>, Fault> {
        let old = max_tokens("max_tokens", self.max_tokens, 1, context)?;
        let new = max_tokens("max_completion_tokens", self.max_completion_tokens, 1, context)?;
        match (old, new) {
            (Some(old), Some(new)) if old != new => Err(Fault::invalid(
                "max_tokens",
                format!("{old} was given, and {new} as max_completion_tokens: give one"),
            )),
            _ => Ok(new.or(old)),
        }
    }

    fn logprobs(&self) -> Result<Option<usize>, Fault> {
        let top = whole("top_logprobs", self.top_logprobs, 0, 20)?;
        match (self.logprobs.unwrap_or(false), top) {
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, None) => Ok(None),
            (false, Some(_)) => Err(Fault::invalid("top_logprobs", "needs logprobs: true")),
        }
    }
}

/// Whether to stream; whether to tell the usage then.
pub(crate) fn stream_of(
    stream: Option<bool>,
    options: Option<StreamOptions>,
) -> Result<Option<bool>, Fault> {
    match (stream.unwrap_or(false), options) {
        (true, options) => {
            Ok(Some(options.is_some_and(|options| options.include_usage.unwrap_or(false))))
        }
        (false, None) => Ok(None),
        (false, Some(_)) => Err(Fault::invalid("stream_options", "needs stream: true")),
    }
}
