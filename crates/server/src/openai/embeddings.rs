//! `/v1/embeddings`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yushan_abi::Overflow;

use crate::Server;
use crate::body::{CONVERSATION, Ignored, ignored};
use crate::doors::Caller;
use crate::embed::embed;
use crate::fault::{ErrorBody, Fault};
use crate::openai::completions::Prompts;
use crate::openai::with_ignored;

/// A request to embed texts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingRequest {
    model: String,
    input: Prompts,
    /// How vectors are written.
    #[serde(default)]
    encoding_format: Encoding,
    /// As many as the model's vectors have, if given.
    dimensions: Option<u64>,
    user: Option<Ignored>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    /// As a list of numbers.
    #[default]
    Float,
    /// Their bytes, 32 bits each and the lowest first, in base 64.
    Base64,
}

/// Vectors.
#[derive(Serialize, ToSchema)]
pub(crate) struct EmbeddingList {
    object: &'static str,
    data: Vec<EmbeddingObject>,
    model: String,
    usage: EmbeddingTokens,
}

/// A vector.
#[derive(Serialize, ToSchema)]
pub(crate) struct EmbeddingObject {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

/// A vector of length 1.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

/// Tokens that were read.
#[derive(Serialize, ToSchema)]
pub(crate) struct EmbeddingTokens {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Embeds texts.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    request_body = EmbeddingRequest,
    responses(
        (status = 200, body = EmbeddingList),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody)
    )
)]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Fault> {
    let body: EmbeddingRequest = server.read(request, CONVERSATION).await?;
    let ignored = ignored(&[("user", body.user.is_some())]);
    let model = server.model(&body.model).await?;
    let prompts = ("input", body.input.list());
    let refuse = Overflow::Refuse;
    let done = embed(&server, &caller, &model, prompts, refuse, body.dimensions).await?;
    let data = done.vectors.into_iter().enumerate().map(|(index, vector)| EmbeddingObject {
        object: "embedding",
        index,
        embedding: match body.encoding_format {
            Encoding::Float => Vector::Numbers(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            }
        },
    });
    let list = EmbeddingList {
        object: "list",
        data: data.collect(),
        model: model.name,
        usage: EmbeddingTokens { prompt_tokens: done.tokens, total_tokens: done.tokens },
    };
    Ok(with_ignored(Json(list).into_response(), &ignored))
}
