//! `/api/embed` and the older `/api/embeddings`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yushan_abi::{ModelInfo, Overflow, Prompt};

use crate::Server;
use crate::body::{CONVERSATION, Ignored, ignored};
use crate::doors::Caller;
use crate::embed::embed;
use crate::fault::{Fault, OllamaError};
use crate::ollama::options::{Options, overflow};
use crate::openai::fields::Texts;
use crate::openai::with_ignored;
use crate::stream::Times;

/// A request to embed texts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbedRequest {
    model: String,
    input: Texts,
    /// Whether the end of a text that is too long may be left out.
    truncate: Option<bool>,
    dimensions: Option<u64>,
    /// Checked; none of them changes a vector.
    options: Option<Options>,
    keep_alive: Option<Ignored>,
}

/// Vectors.
#[derive(Serialize, ToSchema)]
pub(crate) struct EmbedReply {
    model: String,
    embeddings: Vec<Vec<f32>>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
    /// Our extension: tokens that were left out, 0 unless `truncate` was asked for.
    dropped_tokens: usize,
}

/// A request to embed a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingsRequest {
    model: String,
    prompt: String,
    /// Checked; none of them changes a vector.
    options: Option<Options>,
    keep_alive: Option<Ignored>,
}

/// A vector.
#[derive(Serialize, ToSchema)]
pub(crate) struct EmbeddingsReply {
    embedding: Vec<f32>,
}

/// Embeds texts.
#[utoipa::path(
    post,
    path = "/api/embed",
    request_body = EmbedRequest,
    responses(
        (status = 200, body = EmbedReply),
        (status = 400, body = OllamaError),
        (status = 404, body = OllamaError)
    )
)]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Fault> {
    let times = Times::now();
    let body: EmbedRequest = server.read(request, CONVERSATION).await?;
    let (model, ignored) = checked(&server, &body.model, body.options, body.keep_alive).await?;
    let prompts = ("input", body.input.list().into_iter().map(Prompt::Text).collect());
    let overflow = overflow(body.truncate);
    let done = embed(&server, &caller, &model, prompts, overflow, body.dimensions).await?;
    let reply = EmbedReply {
        model: body.model,
        embeddings: done.vectors,
        total_duration: times.nanoseconds().0,
        load_duration: 0,
        prompt_eval_count: done.tokens,
        dropped_tokens: done.dropped,
    };
    Ok(with_ignored(Json(reply).into_response(), &ignored))
}

/// Embeds one text.
#[utoipa::path(
    post,
    path = "/api/embeddings",
    request_body = EmbeddingsRequest,
    responses(
        (status = 200, body = EmbeddingsReply),
        (status = 400, body = OllamaError),
        (status = 404, body = OllamaError)
    )
)]
pub(crate) async fn create_one(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Fault> {
    let body: EmbeddingsRequest = server.read(request, CONVERSATION).await?;
    let (model, ignored) = checked(&server, &body.model, body.options, body.keep_alive).await?;
    let prompts = ("prompt", vec![Prompt::Text(body.prompt)]);
    let mut done = embed(&server, &caller, &model, prompts, Overflow::Refuse, None).await?;
    let reply = EmbeddingsReply { embedding: done.vectors.pop().unwrap_or_default() };
    Ok(with_ignored(Json(reply).into_response(), &ignored))
}

/// The model of this name, and the fields that were given and are not used; options are checked all the same.
async fn checked(
    server: &Server,
    name: &str,
    options: Option<Options>,
    keep_alive: Option<Ignored>,
) -> Result<(ModelInfo, Vec<&'static str>), Fault> {
    let model = super::model(server, name).await?;
    let ignored = ignored(&[("options", options.is_some()), ("keep_alive", keep_alive.is_some())]);
    if let Some(options) = options {
        let none = Prompt::Text(String::new());
        options.apply(&model, &mut yushan_abi::Request::new(&*model.name, none))?;
    }
    Ok((model, ignored))
}
