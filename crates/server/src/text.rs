//! Health, counters, and the text side of a model: `/health`, `/metrics`, `/tokenize`, `/detokenize`,
//! `/apply-template`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yushan_abi::Language;

use crate::Server;
use crate::body::{CONVERSATION, TEXT};
use crate::doors::Caller;
use crate::events::blocking;
use crate::fault::{ErrorBody, Fault};
use crate::openai::messages::{ChatMessage, conversation};

/// Whether the server answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    status: &'static str,
}

/// Tells that the server answers, and whether the kernel behind it runs.
#[utoipa::path(
    get,
    path = "/health",
    responses((status = 200, body = Health), (status = 503, body = Health))
)]
pub(crate) async fn health(State(server): State<Arc<Server>>) -> (StatusCode, Json<Health>) {
    let runs = server.kernel.as_ref().is_none_or(|kernel| kernel.is_alive());
    let (code, status) = match runs {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the kernel has ended: start the system again"),
    };
    (code, Json(Health { status }))
}

/// Counters and histograms, in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String)))]
pub(crate) async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let text = server.metrics.text((server.seats)());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Text to be made tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// May be left out if there is one model.
    model: Option<String>,
    content: String,
    /// Whether the tokens that begin every text of this model come first.
    #[serde(default)]
    add_special: bool,
    /// Whether special tokens in the text are read as such; else they are text.
    #[serde(default)]
    parse_special: bool,
    /// Whether the bytes of each token are told.
    #[serde(default)]
    with_pieces: bool,
}

/// Tokens.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tokenized {
    #[schema(value_type = Vec<Object>)]
    tokens: Vec<TokenOrPiece>,
}

/// A token, alone or with its text.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TokenOrPiece {
    Token(u32),
    Piece { id: u32, piece: Readable },
}

/// Text, or bytes that are none.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Readable {
    Text(String),
    Bytes(Vec<u8>),
}

/// Text as tokens.
#[utoipa::path(
    post,
    path = "/tokenize",
    request_body = TokenizeRequest,
    responses((status = 200, body = Tokenized), (status = 400, body = ErrorBody))
)]
pub(crate) async fn tokenize(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<Tokenized>, Fault> {
    let body: TokenizeRequest = server.read(request, TEXT).await?;
    let tokens = with_language(&server, body.model.clone(), move |language| {
        let tokens = language.tokenize(&body.content, body.add_special, body.parse_special);
        let piece = |id: u32| {
            if !body.with_pieces {
                return TokenOrPiece::Token(id);
            }
            let piece = match String::from_utf8(language.token_bytes(id)) {
                Ok(text) => Readable::Text(text),
                Err(error) => Readable::Bytes(error.into_bytes()),
            };
            TokenOrPiece::Piece { id, piece }
        };
        Ok(tokens.into_iter().map(piece).collect())
    });
    Ok(Json(Tokenized { tokens: tokens.await? }))
}

/// Tokens to be made text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// May be left out if there is one model.
    model: Option<String>,
    tokens: Vec<u32>,
}

/// Text.
#[derive(Serialize, ToSchema)]
pub(crate) struct Detokenized {
    content: String,
}

/// Tokens as text.
#[utoipa::path(
    post,
    path = "/detokenize",
    request_body = DetokenizeRequest,
    responses((status = 200, body = Detokenized), (status = 400, body = ErrorBody))
)]
pub(crate) async fn detokenize(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<Detokenized>, Fault> {
    let body: DetokenizeRequest = server.read(request, TEXT).await?;
    let tokens = body.tokens;
    let text =
        with_language(&server, body.model, move |language| Ok(language.detokenize(&tokens)?));
    Ok(Json(Detokenized { content: text.await? }))
}

/// A conversation to be written by the template.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TemplateRequest {
    /// May be left out if there is one model.
    model: Option<String>,
    messages: Vec<ChatMessage>,
}

/// What the template wrote.
#[derive(Serialize, ToSchema)]
pub(crate) struct Templated {
    prompt: String,
}

/// A conversation as the model's template writes it.
#[utoipa::path(
    post,
    path = "/apply-template",
    request_body = TemplateRequest,
    responses((status = 200, body = Templated), (status = 400, body = ErrorBody))
)]
pub(crate) async fn apply_template(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Templated>, Fault> {
    let body: TemplateRequest = server.read(request, CONVERSATION).await?;
    let messages = conversation(body.messages, &caller.tenant)?;
    let prompt =
        with_language(&server, body.model, move |language| Ok(language.apply_template(&messages)?));
    Ok(Json(Templated { prompt: prompt.await? }))
}

/// Does something with the text side of a model, or of the only one.
async fn with_language<T: Send + 'static>(
    server: &Server,
    model: Option<String>,
    work: impl FnOnce(&dyn Language) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let model = match model {
        Some(model) => model,
        None => match &*server.models().await? {
            [only] => only.name.clone(),
            models => {
                let detail = format!("there are {} models: name one", models.len());
                return Err(Fault::invalid("model", detail));
            }
        },
    };
    let complete = server.complete.clone();
    blocking(move || work(&*complete.language(&model)?)).await?
}
