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
use crate::body::{CONVERSATION, bytes};
use crate::doors::Caller;
use crate::fault::Fault;

/// Speaks MCP with a program of somebody who was let in. Implementation: the binary's offer of its tools.
pub trait Mcp: Send + Sync {
    /// Answers a request of the streamable HTTP transport. Nothing may block within.
    fn answer(
        &self,
        caller: &Caller,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Response> + Send>>;
}

/// All methods: `POST` for messages, `GET` for the server's own, `DELETE` to end a session.
pub(crate) async fn answer(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Fault> {
    let mcp = server.mcp.clone();
    let mcp = mcp.ok_or_else(|| Fault::NotFound { what: "tools", name: "here".into() })?;
    let (parts, body) = request.into_parts();
    let body = bytes(body, CONVERSATION, server.deadline).await?;
    Ok(mcp.answer(&caller, Request::from_parts(parts, Body::from(body))).await)
}
