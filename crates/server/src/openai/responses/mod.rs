//! `/v1/responses`: answers that are kept, continued, and made in the background.
//!
//! The key decision: a response is a document, and what runs in the background is a task and an entry in
//! [`Running`]. The document says "queued" until the task has ended, however it ends. Under it is a durable
//! process: after a restart the kernel goes on with it and [`again`] waits for it; what a model on another
//! server was to answer is asked again ([`pending`]). A document that says "queued" and has no entry belonged
//! to a process that nobody knows, and is reported as failed.

mod object;
pub(crate) mod pending;
mod request;
mod running;
mod stream;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use yushan_abi::{DiskError, Message, Sink};
use yushan_kernel::Life;

pub(crate) use object::ResponseObject;
pub(crate) use request::ResponseRequest;
pub(crate) use running::Running;

use crate::Server;
use crate::body::{CONVERSATION, refuse};
use crate::doors::Caller;
use crate::events::Events;
use crate::fault::{ErrorBody, Fault};
use crate::openai::with_ignored;
use crate::stream::{streamed, whole};
use crate::watch::Watch;
use object::{KIND, Kept};
use pending::Own;
use request::Asked;
use running::Stage;
use stream::ResponseFace;

/// Responses that may stand in one chain.
const CHAIN: usize = 1000;

/// Answers; with `stream`, as server-sent events; with `background`, later.
#[utoipa::path(
    post,
    path = "/v1/responses",
    request_body = ResponseRequest,
    responses(
        (status = 200, body = ResponseObject),
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
    let body: ResponseRequest = server.read(request, CONVERSATION).await?;
    let model = server.model(&body.model).await?;
    let history = history(&server, &caller, body.previous_response_id.clone()).await?;
    let streams = body.stream.unwrap_or(false);
    let asked = body.check(&model, &caller, history)?;
    let ignored = asked.ignored.clone();
    let response = if asked.object.background {
        in_background(server, &caller, asked).await?
    } else {
        let events = server.start(&caller, asked.request, 1).await;
        let events = events.map_err(|fault| fault.in_field("input"))?;
        if streams {
            let face = ResponseFace::new(asked.object, asked.input, &caller.tenant);
            streamed(&server, events, face)
        } else {
            let mut object = asked.object;
            whole(events).await?.into_iter().for_each(|answer| object.answer(answer));
            if object.store {
                keep(&server, &object, &asked.input, &caller.tenant).await?;
            }
            Json(object).into_response()
        }
    };
    Ok(with_ignored(response, &ignored))
}

async fn keep(
    server: &Server,
    object: &ResponseObject,
    input: &[Message],
    owner: &str,
) -> Result<(), Fault> {
    let document = Kept::document(object, input, owner);
    server.on_disk(move |disk| disk.put(&document)).await
}

/// What was said before, oldest first.
async fn history(
    server: &Server,
    caller: &Caller,
    mut previous: Option<String>,
) -> Result<Vec<Message>, Fault> {
    let mut links = Vec::new();
    while let Some(id) = previous {
        if links.len() == CHAIN {
            let detail = format!("a chain of more than {CHAIN} responses: begin a new one");
            return Err(Fault::invalid("previous_response_id", detail));
        }
        let kept = find(server, caller, &id).await?;
        if matches!(kept.response["status"].as_str(), Some("queued" | "in_progress")) {
            return Err(Fault::Conflict(format!("response {id} has not ended yet")));
        }
        previous = kept.response["previous_response_id"].as_str().map(String::from);
        links.push(kept.input.into_iter().chain(kept.output));
    }
    Ok(links.into_iter().rev().flatten().collect())
}

/// Begins a response that goes on alone.
async fn in_background(
    server: Arc<Server>,
    caller: &Caller,
    asked: Asked,
) -> Result<Response, Fault> {
    let Asked { mut request, object, input, .. } = asked;
    request.durable = Some(object.id.clone());
    request.account.clone_from(&caller.key);
    let own = Own::model(&server, &request.model).await?;
    if !own.keeps {
        pending::note(&server, &object.id, &caller.tenant, &request).await?;
    }
    // Before the task begins: what it ends with must come after.
    keep(&server, &object, &input, &caller.tenant).await?;
    let queued = Json(object.clone()).into_response();
    let watch = Watch::durable(&server, caller, &request, own.bills);
    match Events::begin(&server.complete, watch, request, 1).await {
        Ok(events) => {
            let begun = std::future::ready(Ok(events));
            collect(server, begun, object, input, caller.tenant.clone());
        }
        Err(fault) => {
            pending::over(&server, &object.id).await?;
            let key = object.id.clone();
            server.on_disk(move |disk| disk.delete(KIND, &key)).await?;
            return Err(fault.in_field("input"));
        }
    }
    Ok(queued)
}

/// Waits for the answer of a background response and keeps it.
fn collect(
    server: Arc<Server>,
    begun: impl Future<Output = Result<Events, Fault>> + Send + 'static,
    mut object: ResponseObject,
    input: Vec<Message>,
    owner: String,
) {
    let (id, running) = (object.id.clone(), server.running.clone());
    running.begin(&id.clone(), async move {
        let answered = async {
            let events = begun.await?.admitted().await?;
            server.running.started(&id);
            whole(events).await
        };
        match answered.await {
            Ok(answers) => answers.into_iter().for_each(|answer| object.answer(answer)),
            // It goes on after the next start.
            Err(Fault::Stopping) => return server.running.remove(&id),
            Err(fault) => object.fail(&fault),
        }
        if server.running.claim(&id) {
            // If the disk fails, the document goes on saying that it was queued: it is then reported
            // as failed.
            if keep(&server, &object, &input, &owner).await.is_ok() {
                // Otherwise it is forgotten at the next start.
                let _ = pending::over(&server, &id).await;
            }
            server.running.remove(&id);
        }
    });
}

/// Takes up background responses where they stood when the server stopped: a reader for a process that
/// the journal tells of, if its response waits for it.
pub(crate) fn again(server: &Arc<Server>, life: &Life) -> Result<Option<Box<dyn Sink>>, DiskError> {
    let document = server.disk.get(KIND, &life.program.key)?;
    let kept = document.and_then(|document| Some((Kept::of(&document).ok()?, document.owner)));
    let waits = kept.filter(|(kept, _)| kept.response["status"] == "queued");
    let Some((kept, owner)) = waits else { return Ok(None) };
    let object = ResponseObject::again(&kept, &life.program.request);
    let (events, sink) = Events::again(Watch::again(server, None));
    let begun = std::future::ready(Ok(events));
    collect(server.clone(), begun, object, kept.input, owner);
    Ok(Some(sink))
}

/// The caller's response of this name, with the status it has now.
async fn find(server: &Server, caller: &Caller, id: &str) -> Result<Kept, Fault> {
    let read = || {
        let key = id.to_string();
        server.on_disk(move |disk| disk.get(KIND, &key))
    };
    let absent = || Fault::NotFound { what: "response", name: id.to_string() };
    // Before the document: a task removes its entry after it has written.
    let stage = server.running.stage(id);
    let document = read().await?.filter(|document| document.owner == caller.tenant);
    let mut kept = Kept::of(&document.ok_or_else(absent)?)?;
    if kept.response["status"] == "queued" {
        match stage {
            Some(Stage::Queued) => {}
            Some(Stage::Started | Stage::Ending) => kept.response["status"] = json!("in_progress"),
            None => {
                kept.response["status"] = json!("failed");
                let message = "the server stopped, or its disk failed, before the response ended";
                kept.response["error"] = json!({"code": "server_error", "message": message});
            }
        }
    }
    Ok(kept)
}

/// How a response is read again.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct GetQuery {
    /// Refused: a response is not streamed again.
    stream: Option<bool>,
}

/// Gives a response.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    params(("id" = String, Path), GetQuery),
    responses((status = 200, body = ResponseObject), (status = 404, body = ErrorBody))
)]
pub(crate) async fn get(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    query: Result<Query<GetQuery>, QueryRejection>,
) -> Result<Json<Value>, Fault> {
    let Query(query) = query.map_err(|error| Fault::invalid("query", error.body_text()))?;
    let again = query.stream == Some(true);
    refuse("stream", again, "a response is streamed while it is made, not again")?;
    Ok(Json(find(&server, &caller, &id).await?.response))
}

/// That a response is gone.
#[derive(Serialize, ToSchema)]
pub(crate) struct ResponseDeleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Deletes a response; one that is being made is cancelled first.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    params(("id" = String, Path)),
    responses((status = 200, body = ResponseDeleted), (status = 404, body = ErrorBody))
)]
pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<ResponseDeleted>, Fault> {
    find(&server, &caller, &id).await?;
    if server.running.stage(&id).is_some() && !server.running.stop(&id) {
        return Err(Fault::Conflict(format!("response {id} is just ending: try again")));
    }
    let key = id.clone();
    let deleted = server.on_disk(move |disk| disk.delete(KIND, &key)).await;
    server.running.remove(&id);
    let deleted = deleted?;
    pending::over(&server, &id).await?;
    Ok(Json(ResponseDeleted { id, object: "response", deleted }))
}

/// Stops a response that is made in the background.
#[utoipa::path(
    post,
    path = "/v1/responses/{id}/cancel",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = ResponseObject),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)
    )
)]
pub(crate) async fn cancel(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    let mut kept = find(&server, &caller, &id).await?;
    if kept.response["background"] != true {
        return Err(Fault::invalid("id", "only a background response can be cancelled"));
    }
    if server.running.stop(&id) {
        kept.response["status"] = json!("cancelled");
        let document = yushan_abi::Document {
            kind: KIND.to_string(),
            key: id.clone(),
            owner: caller.tenant.clone(),
            created_ms: kept.response["created_at"].as_u64().unwrap_or_default() * 1000,
            body: json!(kept).to_string(),
        };
        let written = server.on_disk(move |disk| disk.put(&document)).await;
        server.running.remove(&id);
        written?;
        pending::over(&server, &id).await?;
    } else {
        // It has ended, or is just ending: what it ended with stands.
        kept = find(&server, &caller, &id).await?;
    }
    Ok(Json(kept.response))
}

/// What a response was asked.
#[derive(Serialize, ToSchema)]
pub(crate) struct InputItems {
    object: &'static str,
    #[schema(value_type = Vec<Object>)]
    data: Vec<Value>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// Lists the items of a response's own input.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    params(("id" = String, Path)),
    responses((status = 200, body = InputItems), (status = 404, body = ErrorBody))
)]
pub(crate) async fn input_items(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<InputItems>, Fault> {
    let data = find(&server, &caller, &id).await?.items;
    let id = |item: Option<&Value>| Some(item?["id"].as_str()?.to_string());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(Json(InputItems { object: "list", first_id, last_id, has_more: false, data }))
}
