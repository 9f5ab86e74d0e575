//! `keep_alive`: a time as text or in seconds.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{Object, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use yushan_abi::Keep;

use crate::Server;
use crate::events::blocking;
use crate::fault::Fault;

/// How long the model stays in memory after this request: `"5m"`, seconds, 0 (unload), -1 (for ever).
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive(pub(crate) Keep);

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeepAlive, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let keep = match &value {
            Value::String(text) => text.parse().map_err(D::Error::custom)?,
            Value::Number(number) => number
                .as_f64()
                .and_then(Keep::seconds)
                .ok_or_else(|| D::Error::custom(format!("{number} was given; expected seconds")))?,
            other => {
                let detail = "expected a time: for example \"5m\", or seconds";
                return Err(D::Error::custom(format!("{other} was given; {detail}")));
            }
        };
        Ok(KeepAlive(keep))
    }
}

impl PartialSchema for KeepAlive {
    fn schema() -> RefOr<Schema> {
        RefOr::T(Schema::Object(Object::with_type(SchemaType::AnyValue)))
    }
}

impl ToSchema for KeepAlive {}

/// Has a model kept as its request says; whether that was to be decided here.
pub(crate) async fn keep(
    server: &Server,
    model: &str,
    keep: Option<KeepAlive>,
) -> Result<bool, Fault> {
    let Some(KeepAlive(keep)) = keep else { return Ok(true) };
    let (complete, name) = (server.complete.clone(), model.to_string());
    blocking(move || complete.keep(&name, keep)).await
}
