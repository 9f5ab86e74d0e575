//! `/api/chat`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use yushan_abi::{Call, Keep, Message, ModelInfo, Part, Prompt};

use crate::Server;
use crate::body::{CONVERSATION, Ignored, ignored, refuse};
use crate::doors::Caller;
use crate::events::blocking;
use crate::fault::{Fault, OllamaError};
use crate::ollama::keep::{KeepAlive, keep};
use crate::ollama::options::{self, Options};
use crate::ollama::reply::{Kind, Line, OllamaFace};
use crate::openai::fields::{Tool, functions};
use crate::openai::messages::{label, name_answers, role};
use crate::openai::with_ignored;
use crate::stream::{streamed, whole};

/// A request to continue a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OllamaChatRequest {
    model: String,
    #[serde(default)]
    messages: Vec<OllamaMessage>,
    tools: Option<Vec<Tool>>,
    stream: Option<bool>,
    /// `"json"`, or a JSON schema.
    format: Option<Value>,
    options: Option<Options>,
    /// Whether the oldest messages may be left out of a conversation that is too long.
    truncate: Option<bool>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    keep_alive: Option<KeepAlive>,
    think: Option<Ignored>,
    shift: Option<Ignored>,
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OllamaMessage {
    role: String,
    #[serde(default)]
    content: String,
    images: Option<Vec<Value>>,
    tool_calls: Option<Vec<OllamaCall>>,
    tool_name: Option<String>,
    tool_call_id: Option<String>,
    thinking: Option<Ignored>,
}

/// A call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OllamaCall {
    id: Option<String>,
    #[serde(rename = "type")]
    _kind: Option<String>,
    function: OllamaFunction,
}

/// What was called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OllamaFunction {
    #[serde(rename = "index")]
    _index: Option<u32>,
    #[serde(rename = "description")]
    _description: Option<String>,
    name: String,
    #[schema(value_type = Object)]
    #[serde(default)]
    arguments: serde_json::Map<String, Value>,
}

/// Continues a conversation; as lines of JSON unless `stream` is false.
#[utoipa::path(
    post,
    path = "/api/chat",
    request_body = OllamaChatRequest,
    responses(
        (status = 200, body = Line),
        (status = 400, body = OllamaError),
        (status = 404, body = OllamaError)
    )
)]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Fault> {
    let body: OllamaChatRequest = server.read(request, CONVERSATION).await?;
    let model = super::model(&server, &body.model).await?;
    let kind = Kind::Chat;
    if body.messages.is_empty() {
        return ready(&server, kind, &model, body.keep_alive).await;
    }
    let (ignored, keep_alive) = (body.ignored(), body.keep_alive);
    let stream = body.stream.unwrap_or(true);
    let request = body.check(&model, &caller)?;
    answer(&server, &caller, Asked { kind, model, request, stream, keep_alive, ignored }).await
}

/// A checked request, of either kind.
pub(crate) struct Asked {
    pub(crate) kind: Kind,
    pub(crate) model: ModelInfo,
    pub(crate) request: yushan_abi::Request,
    pub(crate) stream: bool,
    pub(crate) keep_alive: Option<KeepAlive>,
    /// Names of fields that were given and are not used.
    pub(crate) ignored: Vec<&'static str>,
}

/// Answers `chat` and `generate`.
pub(crate) async fn answer(
    server: &Server,
    caller: &Caller,
    asked: Asked,
) -> Result<Response, Fault> {
    let Asked { kind, model, request, stream, keep_alive, mut ignored } = asked;
    let name = model.name;
    let load = loaded(server, &name).await?;
    let face = OllamaFace::new(kind, &name, load);
    let events = server.start(caller, request, 1).await?;
    // It runs, so the time counts from its end on.
    if !keep(server, &name, keep_alive).await? {
        ignored.push("keep_alive");
    }
    let response = if stream {
        streamed(server, events, face)
    } else {
        let answer = whole(events).await?.pop();
        let answer = answer.ok_or_else(|| Fault::Internal("no answer came".to_string()))?;
        Json(Line::whole(kind, &name, answer, load)).into_response()
    };
    Ok(with_ignored(response, &ignored))
}

/// Brings a model into memory; how long that took.
async fn loaded(server: &Server, model: &str) -> Result<Duration, Fault> {
    let begun = Instant::now();
    let (complete, name) = (server.complete.clone(), model.to_string());
    blocking(move || complete.ready(&name)).await??;
    Ok(begun.elapsed())
}

/// A request without words makes the model ready, or gives it up if it is to be kept for no time.
pub(crate) async fn ready(
    server: &Server,
    kind: Kind,
    model: &ModelInfo,
    keep_alive: Option<KeepAlive>,
) -> Result<Response, Fault> {
    let gives_up = matches!(keep_alive, Some(KeepAlive(Keep::For(Duration::ZERO))));
    let (reason, load) = match gives_up {
        true => ("unload", Duration::ZERO),
        false => ("load", loaded(server, &model.name).await?),
    };
    let kept = keep(server, &model.name, keep_alive).await?;
    let response = Json(Line::empty(kind, &model.name, reason, load)).into_response();
    Ok(with_ignored(response, if kept { &[] } else { &["keep_alive"] }))
}

impl OllamaChatRequest {
    fn ignored(&self) -> Vec<&'static str> {
        let mut names = ignored(&[
            ("think", self.think.is_some()),
            ("shift", self.shift.is_some()),
            ("messages.thinking", self.messages.iter().any(|message| message.thinking.is_some())),
        ]);
        names.extend(self.options.iter().flat_map(Options::ignored));
        names
    }

    fn check(self, model: &ModelInfo, caller: &Caller) -> Result<yushan_abi::Request, Fault> {
        let mut messages = Vec::with_capacity(self.messages.len());
        for (at, message) in self.messages.into_iter().enumerate() {
            messages.push(message.check(&format!("messages[{at}]"), &caller.tenant)?);
        }
        name_answers(&mut messages);
        let mut request = yushan_abi::Request::new(&*model.name, Prompt::Chat(messages));
        self.options.unwrap_or_default().apply(model, &mut request)?;
        request.form = options::form(self.format)?;
        request.tools = functions(self.tools.unwrap_or_default())?;
        request.logprobs = options::logprobs(self.logprobs, self.top_logprobs)?;
        request.overflow = options::overflow(self.truncate);
        request.tenant = caller.tenant.clone();
        Ok(request)
    }
}

impl OllamaMessage {
    fn check(self, field: &str, tenant: &str) -> Result<Message, Fault> {
        let role = role(&self.role).ok_or_else(|| {
            let given = &self.role;
            let detail = format!("{given:?} was given; expected system, user, assistant or tool");
            Fault::invalid(format!("{field}.role"), detail)
        })?;
        let pictures = self.images.is_some_and(|images| !images.is_empty());
        refuse(&format!("{field}.images"), pictures, "this server reads text alone")?;
        let calls = self.tool_calls.unwrap_or_default().into_iter().enumerate();
        let calls = calls.map(|(at, call)| Call {
            // Ollama's calls have names only lately; within a message the place will do.
            id: call.id.unwrap_or_else(|| format!("call_{at}")),
            name: call.function.name,
            arguments: Value::Object(call.function.arguments).to_string(),
        });
        let part = Part { text: self.content, label: label(role, tenant) };
        Ok(Message {
            role,
            parts: vec![part],
            calls: calls.collect(),
            answers: self.tool_call_id,
            name: self.tool_name,
        })
    }
}
