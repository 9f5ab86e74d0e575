//! The body of a request for a response.
//!
//! The key decision: an input item is one flat type with the fields of all kinds, since OpenAI leaves out `type` for
//! messages; what a kind needs is checked by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use yushan_abi::{Call, Form, Message, ModelInfo, Overflow, Part, Prompt, Request, Role, Sampling};

use crate::body::{Ignored, ignored, refuse, whole};
use crate::doors::Caller;
use crate::fault::Fault;
use crate::openai::fields::{
    Choice, Function, Knobs, OneOrList, class, distinct, max_tokens, most_tokens, schema_form,
    tool_choice,
};
use crate::openai::messages::{label, name_answers, role};
use crate::openai::responses::object::{Named, ResponseObject};

/// A request for a response.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponseRequest {
    pub(crate) model: String,
    /// A text, or a list of items.
    #[schema(value_type = Object)]
    input: OneOrList<InputItem>,
    instructions: Option<String>,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) stream: Option<bool>,
    /// Whether the response can be asked for later.
    pub(crate) store: Option<bool>,
    /// Whether to answer at once and go on alone.
    pub(crate) background: Option<bool>,
    max_output_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_logprobs: Option<u64>,
    tools: Option<Vec<ResponseTool>>,
    tool_choice: Option<Choice>,
    parallel_tool_calls: Option<bool>,
    text: Option<TextConfig>,
    /// `auto`: the oldest messages may be left out; `disabled`.
    truncation: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    service_tier: Option<String>,
    /// `message.output_text.logprobs`; others are refused.
    include: Option<Vec<String>>,
    conversation: Option<Ignored>,
    prompt: Option<Ignored>,
    context_management: Option<Ignored>,
    moderation: Option<Ignored>,
    stream_options: Option<Ignored>,
    reasoning: Option<Ignored>,
    max_tool_calls: Option<Ignored>,
    user: Option<Ignored>,
    safety_identifier: Option<Ignored>,
    prompt_cache_key: Option<Ignored>,
    prompt_cache_retention: Option<Ignored>,
    prompt_cache_options: Option<Ignored>,
}

/// A function, as responses write it: without a wrapper.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct ResponseTool {
    #[serde(rename = "type")]
    kind: String,
    /// What belongs to it; `name`, `description`, `parameters`, `strict` for functions.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    rest: serde_json::Map<String, Value>,
}

/// The form of the text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextConfig {
    format: Option<TextFormat>,
    verbosity: Option<Ignored>,
}

/// The form of the text, as responses write it: without a wrapper.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextFormat {
    /// `text`, `json_object`, `json_schema`.
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

/// Something that was said, called or given back.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputItem {
    /// `message` (may be left out), `function_call`, `function_call_output`, `reasoning`.
    #[serde(rename = "type")]
    kind: Option<String>,
    role: Option<String>,
    #[schema(value_type = Option<Object>)]
    content: Option<OneOrList<InputPart>>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    #[schema(value_type = Option<Object>)]
    output: Option<OneOrList<InputPart>>,
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "status")]
    _status: Option<String>,
    #[serde(rename = "summary")]
    #[schema(value_type = Option<Object>)]
    _summary: Option<Value>,
    #[serde(rename = "encrypted_content")]
    _encrypted_content: Option<String>,
    #[serde(rename = "phase")]
    _phase: Option<String>,
}

/// A part of what was said.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct InputPart {
    /// `input_text`, `output_text`, `text`, `refusal`; others are refused.
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
}

/// A checked request.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) object: ResponseObject,
    /// What is new, without instructions.
    pub(crate) input: Vec<Message>,
    pub(crate) ignored: Vec<&'static str>,
}

impl ResponseRequest {
    /// Checks every field; `history` comes before the input.
    pub(crate) fn check(
        mut self,
        model: &ModelInfo,
        caller: &Caller,
        history: Vec<Message>,
    ) -> Result<Asked, Fault> {
        self.refuse_unsupported()?;
        let mut ignored = self.ignored();
        let knobs = Knobs { temperature: self.temperature, top_p: self.top_p, ..Knobs::default() };
        let sampling = knobs.sampling("", Sampling::default())?;
        let low = max_tokens("max_output_tokens", self.max_output_tokens, 1, most_tokens(model))?;
        let logprobs = self.logprobs()?;
        let format = self.text.take().and_then(|text| {
            if text.verbosity.is_some() {
                ignored.push("text.verbosity");
            }
            text.format
        });
        let tools = self.tools.take().unwrap_or_default();
        let specs = specs(&tools)?;
        let names: Vec<&str> = specs.iter().map(|tool| tool.name.as_str()).collect();
        let choice = tool_choice(self.tool_choice.take(), &names)?;
        let (input, thoughts) = input(self.input, &caller.tenant)?;
        if thoughts {
            ignored.push("input.reasoning");
        }
        let instructions = self.instructions.clone().filter(|text| !text.is_empty());
        let instructions = instructions
            .map(|text| Message::new(Role::System, text, label(Role::System, &caller.tenant)));
        let messages = instructions.into_iter().chain(history).chain(input.iter().cloned());
        let mut messages: Vec<Message> = messages.collect();
        name_answers(&mut messages);
        let overflow = truncation(self.truncation.as_deref())?;
        let request = Request {
            max_tokens: low,
            form: format.clone().map_or(Ok(Form::Text), TextFormat::form)?,
            tools: specs,
            tool_choice: choice.clone(),
            parallel_calls: self.parallel_tool_calls.unwrap_or(true),
            logprobs,
            overflow,
            class: class(self.service_tier.as_deref())?,
            tenant: caller.tenant.clone(),
            sampling,
            ..Request::new(&*model.name, Prompt::Chat(messages))
        };
        let format = format.map_or_else(|| json!({"type": "text"}), |format| json!(format));
        let named = Named {
            instructions: self.instructions,
            previous_response_id: self.previous_response_id,
            metadata: self.metadata.unwrap_or_default(),
            store: self.store.unwrap_or(true),
            background: self.background.unwrap_or(false),
            tools: json!(tools),
            format,
        };
        Ok(Asked { object: ResponseObject::new(&request, named), request, input, ignored })
    }

    fn refuse_unsupported(&self) -> Result<(), Fault> {
        let background = self.background == Some(true);
        let streams = background && self.stream == Some(true);
        refuse("stream", streams, "a background response is asked for later, not streamed")?;
        let lost = background && self.store == Some(false);
        refuse("store", lost, "a background response must be stored to be asked for")?;
        const CHAIN: &str = "not there: use previous_response_id, or send the items";
        refuse("conversation", self.conversation.is_some(), CHAIN)?;
        refuse("prompt", self.prompt.is_some(), "no prompts are kept here: send instructions")?;
        let manages = self.context_management.is_some();
        refuse("context_management", manages, "not there: use truncation")?;
        refuse("moderation", self.moderation.is_some(), "this server has no moderation model")?;
        let entries = self.metadata.as_ref().map_or(0, BTreeMap::len);
        refuse("metadata", entries > 16, "more than 16 entries")?;
        for (at, what) in self.include.iter().flatten().enumerate() {
            let known =
                what == "message.output_text.logprobs" || what == "reasoning.encrypted_content";
            let field = format!("include[{at}]");
            refuse(&field, !known, "this server has message.output_text.logprobs alone")?;
        }
        Ok(())
    }

    fn ignored(&self) -> Vec<&'static str> {
        ignored(&[
            ("stream_options", self.stream_options.is_some()),
            ("reasoning", self.reasoning.is_some()),
            ("max_tool_calls", self.max_tool_calls.is_some()),
            ("user", self.user.is_some()),
            ("safety_identifier", self.safety_identifier.is_some()),
            ("prompt_cache_key", self.prompt_cache_key.is_some()),
            ("prompt_cache_retention", self.prompt_cache_retention.is_some()),
            ("prompt_cache_options", self.prompt_cache_options.is_some()),
            (
                "include.reasoning.encrypted_content",
                self.include.iter().flatten().any(|what| what.starts_with("reasoning.")),
            ),
        ])
    }

    fn logprobs(&self) -> Result<Option<usize>, Fault> {
        let top = whole("top_logprobs", self.top_logprobs, 0, 20)?;
        let included = self.include.iter().flatten().any(|what| what.starts_with("message."));
        Ok(top.or(included.then_some(0)))
    }
}

fn truncation(word: Option<&str>) -> Result<Overflow, Fault> {
    match word {
        None | Some("disabled") => Ok(Overflow::Refuse),
        Some("auto") => Ok(Overflow::TruncateOldest),
        Some(other) => {
            let detail = format!("{other:?} was given; expected auto or disabled");
            Err(Fault::invalid("truncation", detail))
        }
    }
}

fn specs(tools: &[ResponseTool]) -> Result<Vec<yushan_abi::ToolSpec>, Fault> {
    let specs = tools.iter().enumerate().map(|(at, tool)| {
        if tool.kind != "function" {
            let given = &tool.kind;
            return Err(Fault::invalid(
                format!("tools[{at}].type"),
                format!("{given:?} was given; this server knows \"function\""),
            ));
        }
        let field = format!("tools[{at}]");
        let function = serde_json::from_value::<Function>(Value::Object(tool.rest.clone()));
        function.map_err(|error| Fault::invalid(&*field, error.to_string()))?.spec(&field)
    });
    distinct(specs.collect::<Result<_, _>>()?)
}

impl TextFormat {
    fn form(self) -> Result<Form, Fault> {
        match (self.kind.as_str(), self.schema) {
            ("text", _) => Ok(Form::Text),
            ("json_object", _) => Ok(Form::Json),
            ("json_schema", Some(schema)) => schema_form("text.format.schema", schema),
            ("json_schema", None) => {
                Err(Fault::invalid("text.format.schema", "type \"json_schema\" needs it"))
            }
            (other, _) => Err(Fault::invalid(
                "text.format.type",
                format!("{other:?} was given; expected text, json_object or json_schema"),
            )),
        }
    }
}

/// The messages of an input, and whether thoughts were left out.
fn input(input: OneOrList<InputItem>, tenant: &str) -> Result<(Vec<Message>, bool), Fault> {
    let items = match input {
        OneOrList::One(text) => {
            return Ok((vec![Message::new(Role::User, text, label(Role::User, tenant))], false));
        }
        OneOrList::List(items) => items,
    };
    let mut messages: Vec<Message> = Vec::new();
    let mut thoughts = false;
    for (at, item) in items.into_iter().enumerate() {
        let field = format!("input[{at}]");
        match item.kind.as_deref().unwrap_or("message") {
            "message" => messages.push(item.message(&field, tenant)?),
            "function_call" => {
                let call = item.call(&field)?;
                // Calls belong to the turn of the assistant that they follow.
                match messages.last_mut().filter(|last| last.role == Role::Assistant) {
                    Some(turn) => turn.calls.push(call),
                    None => messages.push(calling(vec![call])),
                }
            }
            "function_call_output" => messages.push(item.output(&field, tenant)?),
            "reasoning" => thoughts = true,
            other => {
                let detail = format!(
                    "{other:?} was given; expected message, function_call or function_call_output"
                );
                return Err(Fault::invalid(format!("{field}.type"), detail));
            }
        }
    }
    if messages.is_empty() {
        return Err(Fault::invalid("input", "expected a text or at least one item"));
    }
    Ok((messages, thoughts))
}

/// An assistant's turn that only calls.
pub(crate) fn calling(calls: Vec<Call>) -> Message {
    Message { role: Role::Assistant, parts: Vec::new(), calls, answers: None, name: None }
}

impl InputItem {
    fn message(self, field: &str, tenant: &str) -> Result<Message, Fault> {
        let given = needed(self.role, field, "role")?;
        let role = role(&given).filter(|role| *role != Role::Tool).ok_or_else(|| {
            let detail =
                format!("{given:?} was given; expected user, assistant, system, developer");
            Fault::invalid(format!("{field}.role"), detail)
        })?;
        let texts = texts(needed(self.content, field, "content")?, &format!("{field}.content"))?;
        let label = label(role, tenant);
        let parts = texts.into_iter().map(|text| Part { text, label: label.clone() }).collect();
        Ok(Message { role, parts, calls: Vec::new(), answers: None, name: None })
    }

    fn call(self, field: &str) -> Result<Call, Fault> {
        Ok(Call {
            id: needed(self.call_id, field, "call_id")?,
            name: needed(self.name, field, "name")?,
            arguments: needed(self.arguments, field, "arguments")?,
        })
    }

    fn output(self, field: &str, tenant: &str) -> Result<Message, Fault> {
        let call = needed(self.call_id, field, "call_id")?;
        let texts = texts(needed(self.output, field, "output")?, &format!("{field}.output"))?;
        let mut message = Message::new(Role::Tool, texts.concat(), label(Role::Tool, tenant));
        message.answers = Some(call);
        Ok(message)
    }
}

fn needed<T>(value: Option<T>, around: &str, name: &str) -> Result<T, Fault> {
    value.ok_or_else(|| {
        Fault::invalid(format!("{around}.{name}"), format!("missing field `{name}`"))
    })
}

fn texts(content: OneOrList<InputPart>, field: &str) -> Result<Vec<String>, Fault> {
    let parts = match content {
        OneOrList::One(text) => return Ok(vec![text]),
        OneOrList::List(parts) => parts,
    };
    let numbered = parts.into_iter().enumerate();
    let text = |(at, part): (usize, InputPart)| {
        let field = format!("{field}[{at}]");
        match part.kind.as_str() {
            "input_text" | "output_text" | "text" => needed(part.text, &field, "text"),
            "refusal" => needed(part.refusal, &field, "refusal"),
            other => Err(Fault::invalid(
                format!("{field}.type"),
                format!("{other:?} was given; this server reads input_text and output_text alone"),
            )),
        }
    };
    numbered.map(text).collect()
}
