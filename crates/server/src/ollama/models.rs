//! `/api/version`, `tags`, `ps`, `show`, `pull`, `delete`.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as value};
use tokio::sync::mpsc::unbounded_channel;
use utoipa::ToSchema;
use yushan_abi::ModelInfo;

use crate::body::{Ignored, OPTIONS};
use crate::events::blocking;
use crate::fault::{Fault, OllamaError};
use crate::ollama::reply::line;
use crate::openai::with_ignored;
use crate::{Progress, Server, ids};

/// The last second that a date of four digits can name: what stays for ever stays until then.
const LAST: u64 = 253_402_300_799;

/// The version.
#[derive(Serialize, ToSchema)]
pub(crate) struct Version {
    version: &'static str,
}

/// Tells the version.
#[utoipa::path(get, path = "/api/version", responses((status = 200, body = Version)))]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Models.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tags {
    models: Vec<Tag>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tag {
    name: String,
    model: String,
    modified_at: String,
    /// Bytes of its file; of those in memory, bytes it takes there.
    size: u64,
    digest: String,
    details: Details,
    /// Of those in memory: until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// Of those in memory: bytes on a graphics processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_vram: Option<u64>,
    context_length: usize,
}

/// What a model is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Details {
    parent_model: &'static str,
    format: &'static str,
    family: String,
    families: Vec<String>,
    parameter_size: String,
    quantization_level: String,
}

impl Details {
    fn of(info: &ModelInfo) -> Details {
        Details {
            parent_model: "",
            format: "gguf",
            family: info.architecture.clone(),
            families: vec![info.architecture.clone()],
            parameter_size: size(info.parameters),
            quantization_level: info.quantization.clone(),
        }
    }
}

/// `7.6B`, `135.0M`, `260.0K`.
fn size(parameters: u64) -> String {
    for (unit, name) in [(1e9, "B"), (1e6, "M"), (1e3, "K")] {
        if parameters as f64 >= unit {
            return format!("{:.1}{name}", parameters as f64 / unit);
        }
    }
    parameters.to_string()
}

impl Tag {
    fn of(info: ModelInfo, running: bool) -> Tag {
        Tag {
            name: info.name.clone(),
            modified_at: ids::rfc3339(info.created),
            size: if running { info.memory } else { info.bytes },
            digest: info.digest.clone(),
            details: Details::of(&info),
            expires_at: info.loaded.filter(|_| running).map(|until| ids::rfc3339(until.min(LAST))),
            size_vram: running.then_some(0),
            context_length: info.context,
            model: info.name,
        }
    }
}

/// Lists the models.
#[utoipa::path(get, path = "/api/tags", responses((status = 200, body = Tags)))]
pub(crate) async fn tags(State(server): State<Arc<Server>>) -> Result<Json<Tags>, Fault> {
    let models = server.models().await?.into_iter();
    Ok(Json(Tags { models: models.map(|info| Tag::of(info, false)).collect() }))
}

/// Lists the models in memory.
#[utoipa::path(get, path = "/api/ps", responses((status = 200, body = Tags)))]
pub(crate) async fn ps(State(server): State<Arc<Server>>) -> Result<Json<Tags>, Fault> {
    let models = server.models().await?.into_iter().filter(|info| info.loaded.is_some());
    Ok(Json(Tags { models: models.map(|info| Tag::of(info, true)).collect() }))
}

/// Names a model; `name` is the old name of `model`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    model: Option<String>,
    name: Option<String>,
    stream: Option<bool>,
    verbose: Option<Ignored>,
    insecure: Option<Ignored>,
    username: Option<Ignored>,
    password: Option<Ignored>,
}

impl Named {
    fn model(&mut self) -> Result<String, Fault> {
        let name = self.model.take().or(self.name.take()).filter(|name| !name.is_empty());
        name.ok_or_else(|| Fault::invalid("model", "expected the name of a model"))
    }

    fn ignored(&self) -> Vec<&'static str> {
        crate::body::ignored(&[
            ("verbose", self.verbose.is_some()),
            ("insecure", self.insecure.is_some()),
            ("username", self.username.is_some()),
            ("password", self.password.is_some()),
        ])
    }
}

/// What there is to know of a model.
#[derive(Serialize, ToSchema)]
pub(crate) struct Shown {
    modelfile: String,
    parameters: String,
    template: String,
    details: Details,
    #[schema(value_type = Object)]
    model_info: Value,
    capabilities: Vec<&'static str>,
    modified_at: String,
}

/// Describes a model.
#[utoipa::path(
    post,
    path = "/api/show",
    request_body = Named,
    responses((status = 200, body = Shown), (status = 404, body = OllamaError))
)]
pub(crate) async fn show(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Response, Fault> {
    let mut body: Named = server.read(request, OPTIONS).await?;
    let info = super::model(&server, &body.model()?).await?;
    let architecture = &info.architecture;
    let mut about = serde_json::Map::new();
    about.insert("general.architecture".to_string(), value!(architecture));
    about.insert("general.parameter_count".to_string(), value!(info.parameters));
    about.insert(format!("{architecture}.context_length"), value!(info.context));
    let template = info.template.clone().unwrap_or_default();
    let shown = Shown {
        modelfile: format!("FROM {}\n", info.name),
        parameters: String::new(),
        capabilities: vec!["completion", "tools", "embedding"],
        details: Details::of(&info),
        model_info: Value::Object(about),
        modified_at: ids::rfc3339(info.created),
        template,
    };
    Ok(with_ignored(Json(shown).into_response(), &body.ignored()))
}

/// How far a download is.
#[derive(Serialize, ToSchema)]
pub(crate) struct PullLine {
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

impl PullLine {
    fn of(progress: Progress) -> PullLine {
        let Progress { status, digest, total, completed } = progress;
        PullLine { status, digest, total, completed }
    }

    fn success() -> PullLine {
        PullLine::of(Progress { status: "success".to_string(), ..Progress::default() })
    }
}

/// Fetches a model; tells how far it is as lines of JSON unless `stream` is false.
#[utoipa::path(
    post,
    path = "/api/pull",
    request_body = Named,
    responses((status = 200, body = PullLine), (status = 400, body = OllamaError))
)]
pub(crate) async fn pull(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Response, Fault> {
    let mut body: Named = server.read(request, OPTIONS).await?;
    let name = body.model()?;
    let library = server.library.clone();
    let response = if body.stream.unwrap_or(true) {
        let (sender, receiver) = unbounded_channel();
        tokio::task::spawn_blocking(move || {
            let mut told = |progress| match sender.send(Ok(PullLine::of(progress))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            let ended = library.pull(&name, &mut told);
            // Nobody listens any more: nobody needs to know.
            let _ = sender.send(ended.map(|()| PullLine::success()));
        });
        let lines = unfold(receiver, |mut receiver| async move {
            let mut out = String::new();
            match receiver.recv().await? {
                Ok::<_, Fault>(progress) => line(&progress, &mut out),
                Err(fault) => line(&OllamaError { error: fault.to_string() }, &mut out),
            }
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(out)), receiver))
        });
        let media = [(header::CONTENT_TYPE, "application/x-ndjson")];
        (media, Body::from_stream(lines)).into_response()
    } else {
        blocking(move || library.pull(&name, &mut |_| ControlFlow::Continue(()))).await??;
        Json(PullLine::success()).into_response()
    };
    Ok(with_ignored(response, &body.ignored()))
}

/// Deletes a model.
#[utoipa::path(
    delete,
    path = "/api/delete",
    request_body = Named,
    responses((status = 200), (status = 404, body = OllamaError))
)]
pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<StatusCode, Fault> {
    let mut body: Named = server.read(request, OPTIONS).await?;
    let info = super::model(&server, &body.model()?).await?;
    let library = server.library.clone();
    blocking(move || library.delete(&info.name)).await??;
    Ok(StatusCode::OK)
}
