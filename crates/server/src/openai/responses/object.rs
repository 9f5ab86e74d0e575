//! A response, as clients see it and as it is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use yushan_abi::{
    Call, Counts, Document, Finish, Message, Overflow, Part, Request, Role, ToolChoice,
};

use crate::fault::Fault;
use crate::ids;
use crate::openai::messages::label;
use crate::openai::{TokenLogprob, Window};
use crate::stream::Answer;

/// The kind of a response's document.
pub(crate) const KIND: &str = "response";

/// A response.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct ResponseObject {
    pub(crate) id: String,
    object: &'static str,
    pub(crate) created_at: u64,
    pub(crate) completed_at: Option<u64>,
    /// `queued`, `in_progress`, `completed`, `incomplete`, `failed`, `cancelled`.
    pub(crate) status: &'static str,
    pub(crate) background: bool,
    pub(crate) error: Option<ResponseError>,
    incomplete_details: Option<Incomplete>,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    pub(crate) model: String,
    pub(crate) output: Vec<OutputItem>,
    parallel_tool_calls: bool,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) store: bool,
    temperature: f32,
    top_p: f32,
    top_logprobs: usize,
    #[schema(value_type = Object)]
    text: Value,
    #[schema(value_type = Object)]
    tool_choice: Value,
    #[schema(value_type = Vec<Object>)]
    tools: Value,
    truncation: &'static str,
    metadata: BTreeMap<String, String>,
    usage: Option<ResponseUsage>,
    /// Our extension: what the model saw.
    context: Option<Window>,
}

/// Why a response failed.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct ResponseError {
    code: &'static str,
    message: String,
}

impl ResponseError {
    /// Of a fault.
    pub(crate) fn of(fault: &Fault) -> ResponseError {
        let code = match fault {
            Fault::Busy { .. } => "rate_limit_exceeded",
            Fault::Invalid { .. } | Fault::TooLong { .. } | Fault::NoModel(_) => "invalid_prompt",
            _ => "server_error",
        };
        ResponseError { code, message: fault.to_string() }
    }
}

/// Why a response is not complete.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct Incomplete {
    reason: &'static str,
}

/// Tokens of a response.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct ResponseUsage {
    input_tokens: usize,
    input_tokens_details: InputDetails,
    output_tokens: usize,
    output_tokens_details: OutputDetails,
    total_tokens: usize,
}

/// Of the input's tokens.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct InputDetails {
    cached_tokens: usize,
    cache_write_tokens: usize,
}

/// Of the output's tokens.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct OutputDetails {
    reasoning_tokens: usize,
}

/// Something the model made.
#[derive(Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputItem {
    /// It said something.
    Message { id: String, role: &'static str, status: &'static str, content: Vec<OutputText> },
    /// It calls a function.
    FunctionCall {
        id: String,
        call_id: String,
        name: String,
        arguments: String,
        status: &'static str,
    },
}

/// What it said.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct OutputText {
    #[serde(rename = "type")]
    kind: &'static str,
    pub(crate) text: String,
    #[schema(value_type = Vec<Object>)]
    annotations: [(); 0],
    pub(crate) logprobs: Vec<TokenLogprob>,
}

impl OutputText {
    /// Some text.
    pub(crate) fn of(text: String, logprobs: Vec<TokenLogprob>) -> OutputText {
        OutputText { kind: "output_text", text, annotations: [], logprobs }
    }
}

/// What a response repeats of its request.
pub(crate) struct Named {
    pub(crate) instructions: Option<String>,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) store: bool,
    pub(crate) background: bool,
    pub(crate) tools: Value,
    pub(crate) format: Value,
}

impl ResponseObject {
    /// One that begins.
    pub(crate) fn new(request: &Request, named: Named) -> ResponseObject {
        ResponseObject {
            id: ids::name("resp_"),
            object: "response",
            created_at: ids::seconds(),
            completed_at: None,
            status: if named.background { "queued" } else { "in_progress" },
            background: named.background,
            error: None,
            incomplete_details: None,
            instructions: named.instructions,
            max_output_tokens: request.max_tokens,
            model: request.model.clone(),
            output: Vec::new(),
            parallel_tool_calls: request.parallel_calls,
            previous_response_id: named.previous_response_id,
            store: named.store,
            temperature: request.sampling.temperature,
            top_p: request.sampling.top_p,
            top_logprobs: request.logprobs.unwrap_or(0),
            text: json!({"format": named.format}),
            tool_choice: match &request.tool_choice {
                ToolChoice::Auto => json!("auto"),
                ToolChoice::None => json!("none"),
                ToolChoice::Required => json!("required"),
                ToolChoice::Named(name) => json!({"type": "function", "name": name}),
            },
            tools: named.tools,
            truncation: match request.overflow {
                Overflow::Refuse => "disabled",
                Overflow::TruncateOldest | Overflow::Summarize => "auto",
            },
            metadata: named.metadata,
            usage: None,
            context: None,
        }
    }

    /// One that was begun before the server stopped.
    pub(crate) fn again(kept: &Kept, request: &Request) -> ResponseObject {
        let response = &kept.response;
        let text = |name: &str| response[name].as_str().map(String::from);
        let metadata = response["metadata"].as_object().into_iter().flatten();
        let metadata =
            metadata.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string())));
        let named = Named {
            instructions: text("instructions"),
            previous_response_id: text("previous_response_id"),
            metadata: metadata.collect(),
            store: true,
            background: true,
            tools: response["tools"].clone(),
            format: response["text"]["format"].clone(),
        };
        ResponseObject {
            id: text("id").unwrap_or_default(),
            created_at: response["created_at"].as_u64().unwrap_or_default(),
            ..ResponseObject::new(request, named)
        }
    }

    /// Takes a whole answer.
    pub(crate) fn answer(&mut self, answer: Answer) {
        let complete = ended(&answer.finish);
        if !answer.text.is_empty() || answer.calls.is_empty() {
            let logprobs = answer.pieces.into_iter();
            let logprobs = logprobs.map(|(_, logprob)| TokenLogprob::of(logprob)).collect();
            let content = vec![OutputText::of(answer.text, logprobs)];
            let (id, role) = (ids::name("msg_"), "assistant");
            self.output.push(OutputItem::Message { id, role, status: complete, content });
        }
        for Call { id: call_id, name, arguments } in answer.calls {
            let id = ids::name("fc_");
            let status = "completed";
            self.output.push(OutputItem::FunctionCall { id, call_id, name, arguments, status });
        }
        self.end(&answer.finish, &answer.counts);
    }

    /// It ended.
    pub(crate) fn end(&mut self, finish: &Finish, counts: &Counts) {
        self.completed_at = Some(ids::seconds());
        self.status = match finish {
            Finish::Cancelled => "cancelled",
            finish => ended(finish),
        };
        if self.status == "incomplete" {
            self.incomplete_details = Some(Incomplete { reason: "max_output_tokens" });
        }
        self.usage = Some(ResponseUsage {
            input_tokens: counts.prompt,
            input_tokens_details: InputDetails {
                cached_tokens: counts.cached,
                cache_write_tokens: 0,
            },
            output_tokens: counts.generated,
            output_tokens_details: OutputDetails { reasoning_tokens: 0 },
            total_tokens: counts.prompt + counts.generated,
        });
        self.context = Some(Window::of(counts));
    }

    /// It failed.
    pub(crate) fn fail(&mut self, fault: &Fault) {
        self.status = "failed";
        self.error = Some(ResponseError::of(fault));
    }

    /// As the next response in the chain reads it.
    fn messages(&self, tenant: &str) -> Vec<Message> {
        let (mut parts, mut calls) = (Vec::new(), Vec::new());
        for item in &self.output {
            match item {
                OutputItem::Message { content, .. } => {
                    let label = label(Role::Assistant, tenant);
                    let texts = content.iter().map(|text| text.text.clone());
                    parts.extend(texts.map(|text| Part { text, label: label.clone() }));
                }
                OutputItem::FunctionCall { call_id: id, name, arguments, .. } => {
                    let (id, name, arguments) = (id.clone(), name.clone(), arguments.clone());
                    calls.push(Call { id, name, arguments });
                }
            }
        }
        if parts.is_empty() && calls.is_empty() {
            return Vec::new();
        }
        vec![Message { role: Role::Assistant, parts, calls, answers: None, name: None }]
    }
}

fn ended(finish: &Finish) -> &'static str {
    match finish {
        Finish::End | Finish::Stop(_) | Finish::Calls => "completed",
        Finish::Length | Finish::ContextFull | Finish::Cancelled | Finish::Budget(_) => {
            "incomplete"
        }
    }
}

/// What is kept of a response.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    /// As clients see it.
    pub(crate) response: Value,
    /// What was asked, and then said.
    pub(crate) input: Vec<Message>,
    pub(crate) output: Vec<Message>,
    /// What was asked, as items.
    pub(crate) items: Vec<Value>,
}

impl Kept {
    /// The document of a response.
    pub(crate) fn document(object: &ResponseObject, input: &[Message], owner: &str) -> Document {
        let kept = Kept {
            response: json!(object),
            input: input.to_vec(),
            output: object.messages(owner),
            items: input.iter().flat_map(items).collect(),
        };
        Document {
            kind: KIND.to_string(),
            key: object.id.clone(),
            owner: owner.to_string(),
            created_ms: object.created_at * 1000,
            body: json!(kept).to_string(),
        }
    }

    /// Read again.
    pub(crate) fn of(document: &Document) -> Result<Kept, Fault> {
        let kept = serde_json::from_str(&document.body);
        kept.map_err(|error| {
            Fault::Internal(format!("response {}: damaged: {error}", document.key))
        })
    }
}

/// A message as input items.
fn items(message: &Message) -> Vec<Value> {
    let text = message.text();
    let id = ids::name("msg_");
    match (message.role, &message.answers) {
        (Role::Tool, answers) => vec![json!({
            "id": ids::name("fco_"),
            "type": "function_call_output",
            "call_id": answers,
            "output": text,
            "status": "completed",
        })],
        (Role::Assistant, _) => {
            let said = (!text.is_empty()).then(|| {
                let content = [OutputText::of(text, Vec::new())];
                json!({"id": id, "type": "message", "role": "assistant", "status": "completed",
                       "content": content})
            });
            let calls = message.calls.iter().map(|call| {
                json!({"id": ids::name("fc_"), "type": "function_call", "call_id": call.id,
                       "name": call.name, "arguments": call.arguments, "status": "completed"})
            });
            said.into_iter().chain(calls).collect()
        }
        (role @ (Role::User | Role::System), _) => vec![json!({
            "id": id,
            "type": "message",
            "role": role.name(),
            "status": "completed",
            "content": [{"type": "input_text", "text": text}],
        })],
    }
}

#[cfg(test)]
mod tests {
    use yushan_abi::{Label, Prompt, Sources};

    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let request = Request::new("m", Prompt::Chat(Vec::new()));
        let named = Named {
            instructions: None,
            previous_response_id: None,
            metadata: BTreeMap::new(),
            store: true,
            background: false,
            tools: json!([]),
            format: json!({"type": "text"}),
        };
        let mut object = ResponseObject::new(&request, named);
        let content = vec![OutputText::of("said".to_string(), Vec::new())];
        let (id, role, status) = (ids::name("msg_"), "assistant", "completed");
        object.output.push(OutputItem::Message { id, role, status, content });
        let input = [Message::new(Role::User, "asked", Label::of(Sources::USER))];
        let kept = Kept::of(&Kept::document(&object, &input, "ann")).expect("its own form");
        assert_eq!(kept.input, input);
        assert_eq!(kept.output[0].text(), "said");
        assert_eq!(kept.output[0].label(), Label::of(Sources::MODEL).for_reader("ann"));
        assert_eq!(kept.items[0]["content"][0]["text"], "asked");
    }
}
