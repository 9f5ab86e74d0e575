//! A request from its arrival to its last byte: what is known of it, and its line in the log.
//!
//! The key decision: one shared record, put into the request before the guards and held by whoever still
//! works for it. The line is written when the last holder lets go, so that a stream's line has its whole
//! duration and its tokens. Nothing that a body says stands in it: neither prompts nor names nor messages
//! about them; of an error of the client's, its code alone.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::Context;
use yushan_abi::Counts;

use crate::Server;
use crate::fault::Fault;

/// One request.
pub(crate) struct Visit {
    method: Method,
    path: String,
    begun: Instant,
    /// The span that it is a part of, if it came with one and spans are wanted.
    pub(crate) parent: Option<Context>,
    seen: Mutex<Seen>,
}

/// What became known of it.
#[derive(Default)]
struct Seen {
    status: Option<u16>,
    fault: Option<Fault>,
    user: Option<String>,
    model: Option<String>,
    counts: Counts,
    /// Held until the request has ended.
    turn: Option<Box<dyn Any + Send>>,
}

impl Visit {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody was let in.
    pub(crate) fn admitted(&self, user: &str) {
        self.seen().user = Some(user.to_string());
    }

    /// It runs as long as this is held.
    pub(crate) fn hold(&self, turn: Box<dyn Any + Send>) {
        self.seen().turn = Some(turn);
    }

    /// A model answers it.
    pub(crate) fn asks(&self, model: &str) {
        self.seen().model = Some(model.to_string());
    }

    /// It used tokens.
    pub(crate) fn used(&self, counts: Counts) {
        let mut seen = self.seen();
        seen.counts.prompt += counts.prompt;
        seen.counts.cached += counts.cached;
        seen.counts.generated += counts.generated;
    }

    /// It failed after its response had begun, or without one.
    pub(crate) fn failed(&self, fault: Fault) {
        self.seen().fault = Some(fault);
    }
}

/// Two levels, one form: the macros want the level when they are compiled.
macro_rules! line {
    ($level:ident, $visit:expr, $seen:expr, $cause:expr) => {
        tracing::$level!(
            target: "yushan::request",
            method = %$visit.method,
            path = $visit.path,
            status = $seen.status,
            milliseconds = u64::try_from($visit.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            user = $seen.user,
            model = $seen.model,
            prompt = $seen.model.as_ref().map(|_| $seen.counts.prompt),
            cached = $seen.model.as_ref().map(|_| $seen.counts.cached),
            generated = $seen.model.as_ref().map(|_| $seen.counts.generated),
            error = $seen.fault.as_ref().map(Fault::word),
            cause = $cause,
            "request"
        )
    };
}

impl Drop for Visit {
    fn drop(&mut self) {
        let seen = std::mem::take(&mut *self.seen());
        match seen.fault.as_ref().filter(|fault| fault.is_ours()).map(ToString::to_string) {
            Some(cause) => line!(error, self, seen, Some(cause.as_str())),
            None => line!(info, self, seen, None::<&str>),
        }
    }
}

/// The outermost layer: makes the record and notes how the request was answered.
pub(crate) async fn record(
    State(server): State<Arc<Server>>,
    mut request: Request,
    next: Next,
) -> Response {
    let visit = Arc::new(Visit {
        method: request.method().clone(),
        path: request.uri().path().to_string(),
        begun: Instant::now(),
        parent: server.traces.as_ref().map(|traces| traces.parent(request.headers())),
        seen: Mutex::default(),
    });
    request.extensions_mut().insert(visit.clone());
    let response = next.run(request).await;
    let mut seen = visit.seen();
    seen.status = Some(response.status().as_u16());
    if let Some(fault) = response.extensions().get::<Fault>() {
        seen.fault = Some(fault.clone());
    }
    drop(seen);
    response
}
