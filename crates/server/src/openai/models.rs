//! `/v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;
use yushan_abi::ModelInfo;

use crate::Server;
use crate::fault::{ErrorBody, Fault};

/// All models.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Our extension: tokens its context holds, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<usize>,
    /// Our extension: whether it is in memory.
    loaded: bool,
}

impl From<ModelInfo> for Model {
    fn from(info: ModelInfo) -> Model {
        Model {
            id: info.name,
            object: "model",
            created: info.created,
            owned_by: "yushan",
            context_length: Some(info.context).filter(|&context| context > 0),
            loaded: info.loaded.is_some(),
        }
    }
}

/// Lists the models that can be asked for.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, body = ModelList)))]
pub(crate) async fn list(State(server): State<Arc<Server>>) -> Result<Json<ModelList>, Fault> {
    let data = server.models().await?.into_iter().map(Model::from).collect();
    Ok(Json(ModelList { object: "list", data }))
}

/// Describes one. Its name may hold slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    params(("id" = String, Path)),
    responses((status = 200, body = Model), (status = 404, body = ErrorBody))
)]
pub(crate) async fn one(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, Fault> {
    Ok(Json(server.model(&id).await?.into()))
}
