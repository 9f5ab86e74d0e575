//! `/v1/embeddings`: refused with a clear error until an engine can make them.

use crate::fault::{ErrorBody, Fault};

/// What clients are told.
pub(crate) const ABSENT: &str =
    "embeddings are not there yet: this server completes text; use another server for embeddings";

/// Refuses.
#[utoipa::path(post, path = "/v1/embeddings", responses((status = 501, body = ErrorBody)))]
pub(crate) async fn create() -> Fault {
    Fault::Absent(ABSENT.to_string())
}
