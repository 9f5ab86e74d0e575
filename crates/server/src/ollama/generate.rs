//! `/api/generate`.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use yushan_abi::{Message, ModelInfo, Prompt, Role};

use crate::Server;
use crate::body::{CONVERSATION, Ignored, ignored, refuse};
use crate::doors::Caller;
use crate::fault::{Fault, OllamaError};
use crate::ollama::chat::{Asked, answer, ready};
use crate::ollama::keep::KeepAlive;
use crate::ollama::options::{self, Options};
use crate::ollama::reply::{Kind, Line};
use crate::openai::messages::label;

/// A request to answer a prompt.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerateRequest {
    model: String,
    #[serde(default)]
    prompt: String,
    system: Option<String>,
    /// Whether the prompt goes to the model as it stands, without its template.
    raw: Option<bool>,
    stream: Option<bool>,
    /// `"json"`, or a JSON schema.
    format: Option<Value>,
    options: Option<Options>,
    /// Whether the oldest part may be left out of a prompt that is too long.
    truncate: Option<bool>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    /// What comes after the gap that the answer fills; the prompt is what comes before it.
    suffix: Option<String>,
    template: Option<String>,
    context: Option<Vec<u32>>,
    images: Option<Vec<Value>>,
    keep_alive: Option<KeepAlive>,
    think: Option<Ignored>,
    shift: Option<Ignored>,
}

/// Answers a prompt; as lines of JSON unless `stream` is false.
#[utoipa::path(
    post,
    path = "/api/generate",
    request_body = GenerateRequest,
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
    let body: GenerateRequest = server.read(request, CONVERSATION).await?;
    let model = super::model(&server, &body.model).await?;
    let kind = Kind::Generate;
    if body.prompt.is_empty() && !given(&body.suffix) {
        return ready(&server, kind, &model, body.keep_alive).await;
    }
    let (ignored, keep_alive) = (body.ignored(), body.keep_alive);
    let stream = body.stream.unwrap_or(true);
    let request = body.check(&model, &caller)?;
    answer(&server, &caller, Asked { kind, model, request, stream, keep_alive, ignored }).await
}

fn given(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

impl GenerateRequest {
    fn ignored(&self) -> Vec<&'static str> {
        let mut names =
            ignored(&[("think", self.think.is_some()), ("shift", self.shift.is_some())]);
        names.extend(self.options.iter().flat_map(Options::ignored));
        names
    }

    fn check(self, model: &ModelInfo, caller: &Caller) -> Result<yushan_abi::Request, Fault> {
        refuse("template", given(&self.template), "templates are the model's: use raw instead")?;
        let tokens = self.context.is_some_and(|context| !context.is_empty());
        refuse("context", tokens, "deprecated by Ollama: send the messages to /api/chat")?;
        let pictures = self.images.is_some_and(|images| !images.is_empty());
        refuse("images", pictures, "this server reads text alone")?;
        let raw = self.raw.unwrap_or(false);
        let prompt = if let Some(suffix) = self.suffix.filter(|suffix| !suffix.is_empty()) {
            refuse("raw", raw, "a raw prompt has no gap: leave out raw or the suffix")?;
            refuse("system", given(&self.system), "a prompt with a suffix has no system text")?;
            Prompt::Infill { prefix: self.prompt, suffix }
        } else if raw {
            refuse("system", given(&self.system), "raw prompts have no system text")?;
            Prompt::Text(self.prompt)
        } else {
            let said = |role, text| Message::new(role, text, label(role, &caller.tenant));
            let system = self.system.filter(|text| !text.is_empty());
            let system = system.map(|text| said(Role::System, text));
            Prompt::Chat(system.into_iter().chain([said(Role::User, self.prompt)]).collect())
        };
        let mut request = yushan_abi::Request::new(&*model.name, prompt);
        self.options.unwrap_or_default().apply(model, &mut request)?;
        request.form = options::form(self.format)?;
        request.logprobs = options::logprobs(self.logprobs, self.top_logprobs)?;
        request.overflow = options::overflow(self.truncate);
        request.tenant = caller.tenant.clone();
        Ok(request)
    }
}
