//! `/v1/files`.
//!
//! The key decision: the bytes lie on the disk under their hash, and a document says whose they are; nobody else
//! can read, list or delete it, and for nobody else does it exist.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, FromRequest, Multipart, Path, Query, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};
use yushan_abi::Document;

use crate::Server;
use crate::body::{FILE, declared_too_long};
use crate::doors::Caller;
use crate::fault::{ErrorBody, Fault};
use crate::ids;

/// The kind of a file's document.
const KIND: &str = "file";
/// Files of one page of a list.
const MOST: usize = 1000;
/// What files are for, in OpenAI's words.
const PURPOSES: [&str; 6] = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];

/// A file, as clients see it and as it is kept.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct FileObject {
    id: String,
    object: String,
    bytes: usize,
    created_at: u64,
    filename: String,
    purpose: String,
    status: String,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    file: FileObject,
    sha256: String,
}

/// Files.
#[derive(Serialize, ToSchema)]
pub(crate) struct FileList {
    object: &'static str,
    data: Vec<FileObject>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// That a file is gone.
#[derive(Serialize, ToSchema)]
pub(crate) struct FileDeleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// A file that is sent, as a form.
#[derive(ToSchema)]
#[allow(dead_code)] // It only describes the body, which is read as it comes.
pub(crate) struct FileForm {
    purpose: String,
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Keeps a file.
#[utoipa::path(
    post,
    path = "/v1/files",
    request_body(content = FileForm, content_type = "multipart/form-data"),
    responses((status = 200, body = FileObject), (status = 400, body = ErrorBody))
)]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<FileObject>, Fault> {
    // The form's own lines need some room too.
    if declared_too_long(request.headers(), FILE + 4096) {
        return Err(Fault::TooLarge { limit: FILE });
    }
    let form = Multipart::from_request(request, &()).await;
    let form = form.map_err(|error| Fault::invalid("body", error.body_text()))?;
    let read = timeout(server.deadline, read(form)).await;
    let seconds = server.deadline.as_secs();
    let (name, purpose, bytes) = read.map_err(|_| Fault::Slow { seconds })??;
    if !PURPOSES.contains(&&*purpose) {
        let detail = format!("{purpose:?} was given; expected one of {}", PURPOSES.join(", "));
        return Err(Fault::invalid("purpose", detail));
    }
    let file = FileObject {
        id: ids::name("file-"),
        object: "file".to_string(),
        bytes: bytes.len(),
        created_at: ids::seconds(),
        filename: name,
        purpose,
        status: "processed".to_string(),
    };
    let kept = file.clone();
    let keep = move |disk: &dyn yushan_abi::Disk| {
        let sha256 = disk.put_bytes(&bytes)?;
        let key = kept.id.clone();
        let body = serde_json::json!(Kept { file: kept, sha256 }).to_string();
        let created_ms = ids::milliseconds();
        let kind = KIND.to_string();
        disk.put(&Document { kind, key, owner: caller.tenant, created_ms, body })
    };
    server.on_disk(keep).await?;
    Ok(Json(file))
}

/// `(name, purpose, bytes)` of a form.
async fn read(mut form: Multipart) -> Result<(String, String, Vec<u8>), Fault> {
    let bad =
        |error: axum::extract::multipart::MultipartError| Fault::invalid("body", error.body_text());
    let (mut purpose, mut file) = (None, None);
    while let Some(mut field) = form.next_field().await.map_err(bad)? {
        match field.name() {
            Some("purpose") => purpose = Some(field.text().await.map_err(bad)?),
            Some("file") => {
                let name = field.file_name().unwrap_or("file").to_string();
                let mut bytes = Vec::new();
                while let Some(chunk) = field.chunk().await.map_err(bad)? {
                    if bytes.len() + chunk.len() > FILE {
                        return Err(Fault::TooLarge { limit: FILE });
                    }
                    bytes.extend_from_slice(&chunk);
                }
                file = Some((name, bytes));
            }
            other => {
                let field = other.unwrap_or("body").to_string();
                let detail = "unknown field; expected purpose and file";
                return Err(Fault::invalid(field, detail));
            }
        }
    }
    let (name, bytes) = file.ok_or_else(|| Fault::invalid("file", "missing field `file`"))?;
    let purpose = purpose.ok_or_else(|| Fault::invalid("purpose", "missing field `purpose`"))?;
    Ok((name, purpose, bytes))
}

/// Which files.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    purpose: Option<String>,
    limit: Option<usize>,
    /// Files after this one.
    after: Option<String>,
    order: Option<String>,
}

/// Lists the caller's files, by their names.
#[utoipa::path(get, path = "/v1/files", params(ListQuery), responses((status = 200, body = FileList)))]
pub(crate) async fn list(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<FileList>, Fault> {
    let Query(query) = query.map_err(|error| Fault::invalid("query", error.body_text()))?;
    crate::body::refuse("order", query.order.is_some(), "files come in the order of their names")?;
    let limit = query.limit.unwrap_or(MOST);
    let limit = crate::body::whole("limit", Some(limit as u64), 1, MOST)?.unwrap_or(MOST);
    let after = query.after.unwrap_or_default();
    let read =
        move |disk: &dyn yushan_abi::Disk| disk.list(KIND, Some(&caller.tenant), &after, limit + 1);
    let mut documents = server.on_disk(read).await?;
    let has_more = documents.len() > limit;
    documents.truncate(limit);
    let files = documents.iter().map(kept).collect::<Result<Vec<_>, _>>()?;
    let wanted = |file: &FileObject| query.purpose.as_ref().is_none_or(|p| *p == file.purpose);
    let data: Vec<_> = files.into_iter().map(|kept| kept.file).filter(wanted).collect();
    Ok(Json(FileList {
        object: "list",
        first_id: data.first().map(|file| file.id.clone()),
        last_id: data.last().map(|file| file.id.clone()),
        has_more,
        data,
    }))
}

fn kept(document: &Document) -> Result<Kept, Fault> {
    let kept = serde_json::from_str(&document.body);
    kept.map_err(|error| Fault::Internal(format!("file {}: damaged: {error}", document.key)))
}

/// The caller's file of this name.
async fn find(server: &Server, caller: &Caller, id: &str) -> Result<Kept, Fault> {
    let key = id.to_string();
    let document = server.on_disk(move |disk| disk.get(KIND, &key)).await?;
    match document.filter(|document| document.owner == caller.tenant) {
        Some(document) => kept(&document),
        None => Err(Fault::NotFound { what: "file", name: id.to_string() }),
    }
}

/// Describes a file.
#[utoipa::path(
    get,
    path = "/v1/files/{id}",
    params(("id" = String, Path)),
    responses((status = 200, body = FileObject), (status = 404, body = ErrorBody))
)]
pub(crate) async fn get(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FileObject>, Fault> {
    Ok(Json(find(&server, &caller, &id).await?.file))
}

/// Bytes as a download: never as a page of this server.
pub(crate) fn download(bytes: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, bytes).into_response()
}

/// Gives a file's bytes back, as a download: never as a page of this server.
#[utoipa::path(
    get,
    path = "/v1/files/{id}/content",
    params(("id" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream"), (status = 404, body = ErrorBody))
)]
pub(crate) async fn content(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Fault> {
    let kept = find(&server, &caller, &id).await?;
    let bytes = server.on_disk(move |disk| disk.get_bytes(&kept.sha256)).await?;
    let bytes = bytes.ok_or_else(|| Fault::Internal(format!("file {id}: its bytes are lost")))?;
    Ok(download(bytes))
}

/// Deletes a file.
#[utoipa::path(
    delete,
    path = "/v1/files/{id}",
    params(("id" = String, Path)),
    responses((status = 200, body = FileDeleted), (status = 404, body = ErrorBody))
)]
pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FileDeleted>, Fault> {
    let file = find(&server, &caller, &id).await?.file;
    let key = file.id.clone();
    let deleted = server.on_disk(move |disk| disk.delete(KIND, &key)).await?;
    Ok(Json(FileDeleted { id: file.id, object: "file", deleted }))
}
