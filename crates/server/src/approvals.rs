//! What waits for the user, and the user's answers.
//!
//! The key decision: an approval is bound to one call by its key. What was allowed cannot be used for another call,
//! and there is no way to allow several at once; nobody there means no.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use yushan_kernel::card::Card;
use yushan_kernel::{Kernel, Life, Pid, Says, State as At};

use crate::Server;
use crate::body::OPTIONS;
use crate::doors::Caller;
use crate::events::blocking;
use crate::fault::{ErrorBody, Fault};
use crate::system::kernel;

/// What a process waits for.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approval {
    /// Names the call.
    key: String,
    pid: u64,
    /// What the process was started for.
    title: String,
    /// The tool; `ask`: a question to be answered in words.
    name: String,
    /// As the model gave them.
    arguments: Value,
    /// What would happen, value by value, and where each came from; none for a question.
    #[schema(value_type = Option<Object>)]
    card: Option<Card>,
    /// The same in lines, for people.
    text: String,
}

/// All that wait.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approvals {
    object: &'static str,
    data: Vec<Approval>,
}

/// The user's answer: one of both.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    /// Which call.
    key: String,
    /// Whether it may be made.
    allow: Option<bool>,
    /// With `allow: true`, the hash of the card that the user was shown: what is allowed is what stands on it.
    hash: Option<String>,
    /// The answer to a question.
    answer: Option<String>,
}

/// Lists what the caller's processes wait for.
#[utoipa::path(get, path = "/v1/approvals", responses((status = 200, body = Approvals)))]
pub(crate) async fn list(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Approvals>, Fault> {
    let kernel = kernel(&server)?;
    let data = blocking(move || {
        let waiting = kernel.processes().into_iter().filter(|process| process.state == At::Asking);
        let lives = waiting.filter_map(|process| own(&kernel, process.pid, &caller));
        let lives: Vec<Life> = lives.collect();
        let mut cards = kernel.cards(&caller.tenant);
        let mut card = |key: &str| {
            cards.iter().position(|card| card.key == key).map(|at| cards.swap_remove(at))
        };
        lives.iter().filter_map(|life| approval(life, card(&life.key()))).collect()
    })
    .await?;
    Ok(Json(Approvals { object: "list", data }))
}

/// Allows a call (`{"key": …, "allow": true, "hash": …}`) or forbids it (`{"key": …, "allow": false}`), or answers a question (`{"key": …, "answer": "…"}`).
#[utoipa::path(
    post,
    path = "/v1/approvals",
    request_body = Answer,
    responses(
        (status = 200, body = serde_json::Value),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)
    )
)]
pub(crate) async fn answer(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Value>, Fault> {
    let Answer { key, allow, hash, answer } = server.read(request, OPTIONS).await?;
    let says = match (allow, answer) {
        (Some(allow), None) => Says::Allow(key.clone(), allow),
        (None, Some(text)) => Says::Text(text),
        _ => return Err(Fault::invalid("allow", "expected either allow or answer")),
    };
    let absent = || Fault::NotFound { what: "open approval", name: key.clone() };
    let pid = key.split('.').next().and_then(|pid| pid.parse().ok()).map(Pid);
    let (pid, kernel) = (pid.ok_or_else(absent)?, kernel(&server)?);
    let wanted = key.clone();
    if allow == Some(true) && hash.is_none() {
        let why = "expected the hash of the call's card, which GET /v1/approvals gives";
        return Err(Fault::invalid("hash", why));
    }
    let said = blocking(move || {
        let life = own(&kernel, pid, &caller).filter(|life| life.key() == wanted);
        life.map(|_| match (hash, allow) {
            (Some(hash), Some(allow)) => kernel.decide(&caller.tenant, &hash, allow),
            _ => kernel.says(pid, &caller.tenant, says),
        })
    })
    .await?;
    said.ok_or_else(absent)??;
    Ok(Json(json!({ "key": key })))
}

/// What is known of a process of the caller's.
fn own(kernel: &Kernel, pid: Pid, caller: &Caller) -> Option<Life> {
    kernel.look(pid).filter(|life| life.program.request.tenant == caller.tenant)
}

fn approval(life: &Life, card: Option<Card>) -> Option<Approval> {
    let call = life.open.front()?;
    let text = || Value::String(call.arguments.clone());
    Some(Approval {
        key: life.key(),
        pid: life.pid.0,
        title: life.program.title.clone(),
        name: call.name.clone(),
        arguments: serde_json::from_str(&call.arguments).unwrap_or_else(|_| text()),
        text: card.as_ref().map(Card::text).unwrap_or_default(),
        card,
    })
}
