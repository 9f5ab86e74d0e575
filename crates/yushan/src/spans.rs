//! Where spans go: an OpenTelemetry collector, if the environment names one.
//!
//! The key decision: OpenTelemetry's own SDK batches and encodes, and reads its own variables
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_BSP_…`); ours is the HTTP
//! client, so that no second one is linked. A thread of the SDK sends; at most 2,048 spans wait, and what comes on top is
//! dropped. A collector that does not answer costs requests nothing and is told of once.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use yushan_server::Traces;

/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the system waits for the last spans when it ends.
const LAST: Duration = Duration::from_secs(2);

/// Sends spans until it is dropped; then sends what is left.
pub(crate) struct Spans {
    provider: SdkTracerProvider,
}

impl Spans {
    /// Begins, if the environment says where to.
    pub(crate) fn begin() -> Result<Option<Spans>> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value == "true");
        let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        if disabled || !named.into_iter().any(set) {
            return Ok(None);
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build();
        let client = Client { agent: agent.into(), failing: AtomicBool::new(false) };
        let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
        let exporter = exporter.context("OTEL_EXPORTER_OTLP_…")?;
        let mut resource = Resource::builder();
        if !set("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name("yushan");
        }
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Spans { provider }))
    }

    /// Where the server puts them.
    pub(crate) fn traces(&self) -> Traces {
        let asked = std::env::var("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT");
        Traces {
            tracer: BoxedTracer::new(Box::new(self.provider.tracer("yushan"))),
            propagator: Box::new(TraceContextPropagator::new()),
            contents: asked.is_ok_and(|value| value.eq_ignore_ascii_case("true")),
        }
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        // Whoever stops the system waits for it; what a collector does not take then is lost.
        if let Err(error) = self.provider.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// The HTTP client that is linked anyway.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    /// Whether the last call failed, so that it is told once.
    failing: AtomicBool,
}

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.to_vec());
        let (parts, mut body) = self.agent.run(request)?.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

impl HttpClient for Client {
    /// Blocks: the SDK calls it from its own thread.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let sent = self.send(request);
        let problem = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let failed = self.failing.swap(problem.is_some(), Ordering::Relaxed);
        if let Some(error) = problem.filter(|_| !failed) {
            tracing::warn!(error, "the OpenTelemetry collector takes no spans; they are dropped");
        }
        Box::pin(std::future::ready(sent))
    }
}
