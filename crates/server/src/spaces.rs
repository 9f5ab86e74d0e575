//! The files that tools work with, over HTTP: put in, listed, taken out.
//!
//! The key decision: what is put in is labelled as a file from outside, whoever puts it there: that a user passes a
//! table on does not make its text the user's words.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use yushan_abi::{FileRef, Label, Sources};

use crate::Server;
use crate::agent::named;
use crate::body::{FILE, OPTIONS, bytes};
use crate::doors::Caller;
use crate::events::blocking;
use crate::fault::{ErrorBody, Fault};
use crate::openai::files::download;
use crate::system::kernel;

/// Files of conversations and processes. Implementations: the tools' file spaces; the fake of the tests. All block.
pub trait Spaces: Send + Sync {
    /// The files of a space, by path.
    fn list(&self, owner: &str, space: &str) -> Result<Vec<FileRef>, Fault>;

    /// The bytes of a file.
    fn read(&self, owner: &str, space: &str, path: &str) -> Result<Vec<u8>, Fault>;

    /// Writes a file over what was there. Durable on return.
    fn write(
        &self,
        owner: &str,
        space: &str,
        path: &str,
        bytes: &[u8],
        label: &Label,
    ) -> Result<FileRef, Fault>;

    /// Whether anything is kept for a space: files, or the state of tools.
    fn is_there(&self, space: &str) -> Result<bool, Fault>;

    /// Removes a file.
    fn remove(&self, owner: &str, space: &str, path: &str) -> Result<(), Fault>;
}

/// The files of a space.
#[derive(Serialize, ToSchema)]
pub(crate) struct SpaceFiles {
    object: &'static str,
    #[schema(value_type = Vec<Object>)]
    data: Vec<FileRef>,
}

/// That a file is gone.
#[derive(Serialize, ToSchema)]
pub(crate) struct SpaceFileDeleted {
    path: String,
    deleted: bool,
}

/// Does something with the spaces of this system, under the caller's own name for one.
async fn within<T: Send + 'static>(
    server: &Server,
    caller: &Caller,
    space: &str,
    work: impl FnOnce(&dyn Spaces, &str, &str) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let spaces = server.spaces.clone();
    let spaces =
        spaces.ok_or_else(|| Fault::NotFound { what: "file spaces", name: "here".into() })?;
    let (owner, space) = (caller.tenant.clone(), named(space, &caller.tenant)?);
    blocking(move || work(&*spaces, &owner, &space)).await?
}

/// Another space that begins as a copy.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fork {
    /// Its name.
    fork: String,
}

/// Copies a space: its files, and the state of what tools keep running for it. What is done in one is not
/// seen in the other.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}",
    params(("space" = String, Path)),
    request_body = Fork,
    responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody))
)]
pub(crate) async fn fork(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(space): Path<String>,
    request: Request,
) -> Result<Json<Value>, Fault> {
    let Fork { fork } = server.read(request, OPTIONS).await?;
    let kernel = kernel(&server)?;
    let (from, to) = (named(&space, &caller.tenant)?, named(&fork, &caller.tenant)?);
    let spaces = server.spaces.clone();
    let forked = blocking(move || {
        if spaces.map_or(Ok(false), |spaces| spaces.is_there(&to))? {
            let why = "a space of this name exists already; choose another name";
            return Err(Fault::invalid("fork", why));
        }
        Ok(kernel.fork_space(&from, &to))
    });
    forked.await??.map_err(|why| Fault::invalid("fork", why))?;
    Ok(Json(json!({ "space": fork })))
}

/// Lists the files of a space: what was put in, and what tools made.
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/files",
    params(("space" = String, Path)),
    responses((status = 200, body = SpaceFiles), (status = 400, body = ErrorBody))
)]
pub(crate) async fn list(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(space): Path<String>,
) -> Result<Json<SpaceFiles>, Fault> {
    let list = |spaces: &dyn Spaces, owner: &str, space: &str| spaces.list(owner, space);
    let data = within(&server, &caller, &space, list).await?;
    Ok(Json(SpaceFiles { object: "list", data }))
}

/// Gives a file's bytes, as a download: never as a page of this server.
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/files/{path}",
    params(("space" = String, Path), ("path" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream"), (status = 404, body = ErrorBody))
)]
pub(crate) async fn read(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path((space, path)): Path<(String, String)>,
) -> Result<Response, Fault> {
    let read =
        move |spaces: &dyn Spaces, owner: &str, space: &str| spaces.read(owner, space, &path);
    let bytes = within(&server, &caller, &space, read).await?;
    Ok(download(bytes))
}

/// Puts a file into a space, over what was there; the body is the file.
#[utoipa::path(
    put,
    path = "/v1/spaces/{space}/files/{path}",
    params(("space" = String, Path), ("path" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody))
)]
pub(crate) async fn write(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path((space, path)): Path<(String, String)>,
    body: Body,
) -> Result<Json<FileRef>, Fault> {
    let bytes = bytes(body, FILE, server.deadline).await?;
    let label = Label::of(Sources::FILE).for_reader(caller.tenant.clone());
    let write = move |spaces: &dyn Spaces, owner: &str, space: &str| {
        spaces.write(owner, space, &path, &bytes, &label)
    };
    Ok(Json(within(&server, &caller, &space, write).await?))
}

/// Removes a file.
#[utoipa::path(
    delete,
    path = "/v1/spaces/{space}/files/{path}",
    params(("space" = String, Path), ("path" = String, Path)),
    responses((status = 200, body = SpaceFileDeleted), (status = 404, body = ErrorBody))
)]
pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path((space, path)): Path<(String, String)>,
) -> Result<Json<SpaceFileDeleted>, Fault> {
    let gone = path.clone();
    let remove =
        move |spaces: &dyn Spaces, owner: &str, space: &str| spaces.remove(owner, space, &path);
    within(&server, &caller, &space, remove).await?;
    Ok(Json(SpaceFileDeleted { path: gone, deleted: true }))
}
