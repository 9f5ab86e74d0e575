//! `/mcp`: the tools of this system for other programs, over the Model Context Protocol.
//!
//! The key decision: hosts, origins and keys are judged by the guards of every route, and a body has come whole and in
//! time before whoever speaks the protocol sees it.

use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;

use crate::Server;
use crate::body::bytes;
use crate::doors::Caller;
use crate::fault::{ErrorBody, Fault};

/// Bytes of a message.
const MESSAGE: usize = 4 << 20;

/// Speaks MCP with a program of somebody who was let in. Implementation: the binary's offer of its tools.
pub trait Mcp: Send + Sync {
    /// Answers a request of the streamable HTTP transport. Nothing may block within.
    fn answer(
        &self,
        caller: &Caller,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Response> + Send>>;
}

/// Messages of the Model Context Protocol over streamable HTTP: `POST`; `GET` for the server's own, `DELETE` to end a
/// session.
#[utoipa::path(
    post,
    path = "/mcp",
    request_body = serde_json::Value,
    responses((status = 200, body = serde_json::Value), (status = 404, body = ErrorBody))
)]
pub(crate) async fn answer(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Fault> {
    let mcp = server.mcp.clone();
    let mcp = mcp.ok_or_else(|| Fault::NotFound { what: "tools", name: "here".into() })?;
    let (parts, body) = request.into_parts();
    let body = bytes(body, MESSAGE, server.deadline).await?;
    Ok(mcp.answer(&caller, Request::from_parts(parts, Body::from(body))).await)
}
