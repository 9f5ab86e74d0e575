//! `/v1/chat/completions`.
//!
//! The key decision: a request that can be refused is refused before the first byte of a stream: the headers
//! wait for the first event.

mod reply;
mod request;
mod stream;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};

pub(crate) use reply::{ChatCompletion, FINGERPRINT};
pub(crate) use request::{ChatRequest, StreamOptions, stream_of};
pub(crate) use stream::sse;

use crate::agent::Agent;
use crate::body::CONVERSATION;
use crate::doors::Caller;
use crate::fault::{ErrorBody, Fault};
use crate::openai::with_ignored;
use crate::stream::{streamed, whole};
use crate::{Server, ids};

/// What every part of a reply repeats.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Head {
    /// Of a reply that begins now.
    pub(crate) fn new(prefix: &str, model: &str) -> Head {
        Head { id: ids::name(prefix), created: ids::seconds(), model: model.to_string() }
    }
}

/// Continues a conversation; with `stream`, as server-sent events.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    request_body = ChatRequest,
    responses(
        (status = 200, body = ChatCompletion),
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
    let body: ChatRequest = server.read(request, CONVERSATION).await?;
    let model = server.model(&body.model).await?;
    let asked = body.check(&model, &caller)?;
    let head = Head::new("chatcmpl-", &model.name);
    let system = asked.agent.as_ref().map(Agent::names).unwrap_or_default();
    let events = match asked.agent {
        None => server.start(&caller, asked.request, asked.n).await?,
        Some(agent) => server.start_agent(&caller, agent.program(asked.request)).await?,
    };
    let response = match asked.stream {
        Some(usage) => {
            let face = stream::ChatFace::new(head, asked.n, usage).with(system);
            streamed(&server, events, face)
        }
        None => Json(ChatCompletion::of(head, whole(events).await?)).into_response(),
    };
    Ok(with_ignored(response, &asked.ignored))
}
