//! `/v1/completions`: text or tokens, continued.
//!
//! The key decision: several prompts are several requests that run side by side, as many as their list has;
//! their answers are numbered as OpenAI numbers them, prompt by prompt.

mod reply;
mod request;
mod stream;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;

pub(crate) use reply::Completion;
pub(crate) use request::{CompletionRequest, Prompts};

use crate::Server;
use crate::body::CONVERSATION;
use crate::doors::Caller;
use crate::fault::{ErrorBody, Fault};
use crate::openai::chat::Head;
use crate::openai::with_ignored;
use crate::stream::{streamed, whole};

/// Continues a text; with `stream`, as server-sent events.
#[utoipa::path(
    post,
    path = "/v1/completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, body = Completion),
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
    let body: CompletionRequest = server.read(request, CONVERSATION).await?;
    let model = server.model(&body.model).await?;
    let mut asked = body.check(&model, &caller)?;
    let head = Head::new("cmpl-", &model.name);
    let response = match (asked.stream, asked.requests.len()) {
        (Some(usage), 1) => {
            let events = server.start(&caller, asked.requests.swap_remove(0), asked.n).await;
            let events = events.map_err(|fault| fault.in_field("prompt"))?;
            streamed(&server, events, stream::CompletionFace::new(head, asked.n, usage))
        }
        (Some(_), _) => {
            return Err(Fault::invalid("stream", "several prompts are not streamed: send one"));
        }
        (None, _) => {
            let n = asked.n;
            let answers = try_join_all(asked.requests.into_iter().map(|request| {
                let (server, caller) = (&server, &caller);
                async move {
                    let events = server.start(caller, request, n).await;
                    whole(events.map_err(|fault| fault.in_field("prompt"))?).await
                }
            }));
            Json(Completion::of(head, answers.await?)).into_response()
        }
    };
    Ok(with_ignored(response, &asked.ignored))
}
