//! The process table over HTTP: list, look, signal, nice.
//!
//! The same calls that `yushan ps`, `kill` and `nice` make, and nothing more: what a process is and what a
//! signal does is the kernel's to say.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use serde::{Deserialize, Serialize};
use yushan_abi::Class;
use yushan_kernel::{Kernel, Pid, Process, Signal};

use crate::Server;
use crate::body::{OPTIONS, json};
use crate::events::blocking;
use crate::fault::{ErrorBody, Fault};

/// The list.
#[derive(Serialize)]
pub(crate) struct Processes {
    object: &'static str,
    data: Vec<Process>,
}

/// What a process may be told.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Order {
    /// A signal.
    Signal(Signal),
    /// Another class and weight.
    Nice(Class, u32),
}

fn kernel(server: &Server) -> Result<&Arc<Kernel>, Fault> {
    server.kernel.as_ref().ok_or_else(|| Fault::NotFound { what: "kernel", name: "here".into() })
}

/// All processes, those that ended lately too.
#[utoipa::path(get, path = "/v1/processes", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn list(State(server): State<Arc<Server>>) -> Result<Json<Processes>, Fault> {
    let kernel = kernel(&server)?.clone();
    let data = blocking(move || kernel.processes()).await?;
    Ok(Json(Processes { object: "list", data }))
}

/// Sends a process a signal (`{"signal": "kill"}`, `"stop"`, `"continue"`), or gives it another class and
/// weight (`{"nice": ["batch", 2]}`).
#[utoipa::path(
    post,
    path = "/v1/processes/{pid}",
    params(("pid" = u64, Path,)),
    request_body = serde_json::Value,
    responses((status = 200, body = serde_json::Value), (status = 404, body = ErrorBody))
)]
pub(crate) async fn tell(
    State(server): State<Arc<Server>>,
    Path(pid): Path<u64>,
    request: Request,
) -> Result<Json<serde_json::Value>, Fault> {
    let kernel = kernel(&server)?.clone();
    let order: Order = json(request.into_body(), OPTIONS, server.deadline).await?;
    let told = blocking(move || match order {
        Order::Signal(signal) => kernel.signal(Pid(pid), signal),
        Order::Nice(class, weight) => kernel.nice(Pid(pid), class, weight),
    })
    .await?;
    match told {
        true => Ok(Json(serde_json::json!({ "pid": pid }))),
        false => Err(Fault::NotFound { what: "process", name: pid.to_string() }),
    }
}
