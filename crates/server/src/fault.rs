//! What goes wrong, and how each face says it.
//!
//! The key decision: one enum for every route. The OpenAI form is made here; the Ollama routes rewrite
//! the same fault into theirs as it leaves, so that no handler knows whose form it is answering in.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use yushan_abi::{DiskError, Refusal};

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A field makes no sense.
    #[error("{field}: {detail}")]
    Invalid {
        /// Which, as a path: `messages[0].content`.
        field: String,
        /// What stood there and what was expected.
        detail: String,
    },
    /// The body cannot be read as JSON.
    #[error("the body is not JSON: {0}")]
    Json(String),
    /// There is no such model.
    #[error("the model {0:?} does not exist: GET /v1/models lists those that do")]
    NoModel(String),
    /// The conversation is longer than the context.
    #[error(
        "this model's context holds {limit} tokens, but the request has {prompt}: shorten it, or choose an overflow policy"
    )]
    TooLong {
        /// Tokens the context holds.
        limit: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// The field that holds it.
        field: &'static str,
    },
    /// Too much to do.
    #[error("too many requests: try again in {after_ms} ms")]
    Busy {
        /// When to come again.
        after_ms: u64,
    },
    /// More than is granted by the minute, or at once.
    #[error("rate limit reached: {granted}; try again in {after_ms} ms")]
    Rate {
        /// What is granted, to whom.
        granted: String,
        /// When to come again.
        after_ms: u64,
    },
    /// What was granted is used up.
    #[error("quota used up: {granted}{}", more(*after_ms))]
    Quota {
        /// What was granted, to whom.
        granted: String,
        /// When there is more, if ever.
        after_ms: Option<u64>,
    },
    /// A key is missing or wrong.
    #[error("{0}")]
    NoKey(String),
    /// The host, the origin or the key may not.
    #[error("{0}")]
    Forbidden(String),
    /// The body is over the route's cap.
    #[error("the body is longer than the {limit} bytes that this route takes")]
    TooLarge {
        /// The cap.
        limit: usize,
    },
    /// The body did not come in time.
    #[error("the body did not arrive within {seconds} s")]
    Slow {
        /// The deadline.
        seconds: u64,
    },
    /// There is no such thing.
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// Its kind.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A model is not where it was looked for; what was looked for is said.
    #[error("{0}")]
    Absent(String),
    /// The process is over.
    #[error("process {0} has ended: `yushan logs {0}` tells how, if it had a program")]
    Over(u64),
    /// The journal tells of no such process.
    #[error(
        "the journal tells of no process {0}: `yushan ps --all` (GET /v1/processes) lists processes; those of plain requests have no journal"
    )]
    NoJournal(u64),
    /// The route is there, but not for this method.
    #[error("{0} is not allowed here")]
    Method(String),
    /// It stands otherwise with the thing than the request needs.
    #[error("{0}")]
    Conflict(String),
    /// Memory or disk is full.
    #[error("{0}")]
    NoRoom(String),
    /// The server stops.
    #[error("the server stops: try again when it is back")]
    Stopping,
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

/// When a quota is filled again.
fn more(after_ms: Option<u64>) -> String {
    match after_ms {
        Some(after_ms) => format!("; there is more in {} s", after_ms.div_ceil(1000)),
        None => "; whoever granted it can grant more".to_string(),
    }
}

impl Fault {
    /// A field that makes no sense.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Fault {
        Fault::Invalid { field: field.into(), detail: detail.into() }
    }

    /// If the prompt is too long: which field of this request holds it.
    #[must_use]
    pub(crate) fn in_field(self, field: &'static str) -> Fault {
        match self {
            Fault::TooLong { limit, prompt, .. } => Fault::TooLong { limit, prompt, field },
            other => other,
        }
    }

    /// Status, type and code, as OpenAI names them.
    fn kind(&self) -> (StatusCode, &'static str, Option<&'static str>) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Fault::Invalid { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("invalid_value")),
            Fault::Json(_) => (StatusCode::BAD_REQUEST, INVALID, Some("invalid_json")),
            Fault::NoModel(_) => (StatusCode::NOT_FOUND, INVALID, Some("model_not_found")),
            Fault::TooLong { .. } => {
                (StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded"))
            }
            Fault::Busy { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"))
            }
            Fault::Rate { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"))
            }
            Fault::Quota { .. } => {
                const USED_UP: &str = "insufficient_quota";
                (StatusCode::TOO_MANY_REQUESTS, USED_UP, Some(USED_UP))
            }
            Fault::NoKey(_) => {
                (StatusCode::UNAUTHORIZED, "authentication_error", Some("invalid_api_key"))
            }
            Fault::Forbidden(_) => (StatusCode::FORBIDDEN, "permission_error", Some("forbidden")),
            Fault::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("body_too_large"))
            }
            Fault::Slow { .. } => (StatusCode::REQUEST_TIMEOUT, INVALID, Some("body_too_slow")),
            Fault::NotFound { .. } | Fault::Absent(_) | Fault::Over(_) | Fault::NoJournal(_) => {
                (StatusCode::NOT_FOUND, INVALID, Some("not_found"))
            }
            Fault::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, INVALID, None),
            Fault::Conflict(_) => (StatusCode::CONFLICT, INVALID, Some("conflict")),
            Fault::NoRoom(_) => (StatusCode::INSUFFICIENT_STORAGE, "server_error", Some("no_room")),
            Fault::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("stopping")),
            Fault::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", None),
        }
    }

    /// The field at fault.
    fn param(&self) -> Option<String> {
        match self {
            Fault::Invalid { field, .. } => Some(field.clone()),
            Fault::NoModel(_) => Some("model".to_string()),
            Fault::TooLong { field, .. } => Some((*field).to_string()),
            _ => None,
        }
    }

    /// One word for it, as logs and traces have it; says nothing of what the request held.
    pub(crate) fn word(&self) -> &'static str {
        let (_, kind, code) = self.kind();
        code.unwrap_or(kind)
    }

    /// Whether it is a fault of the server's, so that its message is for whoever runs it.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind().0.is_server_error()
    }

    /// In OpenAI's form, as it also stands in streams.
    pub(crate) fn body(&self) -> ErrorBody {
        let (_, kind, code) = self.kind();
        let message = self.to_string();
        ErrorBody { error: ErrorFields { message, kind, param: self.param(), code } }
    }
}

/// OpenAI's form of an error.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorFields,
}

/// What stands in it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorFields {
    /// What happened, what was expected, what to do next.
    pub(crate) message: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The field at fault, as a path.
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

/// Ollama's form of an error.
#[derive(Serialize, ToSchema)]
pub(crate) struct OllamaError {
    pub(crate) error: String,
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (status, ..) = self.kind();
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        match &self {
            Fault::Busy { after_ms }
            | Fault::Rate { after_ms, .. }
            | Fault::Quota { after_ms: Some(after_ms), .. } => {
                headers.insert(header::RETRY_AFTER, after_ms.div_ceil(1000).max(1).into());
            }
            Fault::NoKey(_) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // OpenAI's clients would come back at once, and once more.
            Fault::Quota { after_ms: None, .. } => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Rewrites a fault on its way out into Ollama's form.
pub(crate) async fn as_ollama(response: Response) -> Response {
    let Some(fault) = response.extensions().get::<Fault>() else { return response };
    let body = OllamaError { error: fault.to_string() };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut told = (parts.status, parts.headers, Json(body)).into_response();
    *told.extensions_mut() = parts.extensions;
    told
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        match refusal {
            Refusal::Invalid { field, detail } => Fault::Invalid { field, detail },
            Refusal::NoModel(name) => Fault::NoModel(name),
            Refusal::TooLong { limit, prompt } => {
                Fault::TooLong { limit, prompt, field: "messages" }
            }
            Refusal::Busy { after_ms } => Fault::Busy { after_ms },
            Refusal::Quota(granted) => Fault::Quota { granted, after_ms: None },
            refusal @ (Refusal::NoMemory(_) | Refusal::NoDisk(_)) => {
                Fault::NoRoom(refusal.to_string())
            }
            Refusal::Stopping => Fault::Stopping,
            refusal @ Refusal::Repeats(_) => Fault::Internal(refusal.to_string()),
            Refusal::Internal(detail) => Fault::Internal(detail),
        }
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Fault {
        match error {
            DiskError::Full(_) => Fault::NoRoom(error.to_string()),
            DiskError::Failed(_) | DiskError::Damaged(_) => Fault::Internal(error.to_string()),
        }
    }
}
