//! Yushan's tools for other programs: over stdio, and over streamable HTTP as a service that a router can mount.
//!
//! It knows no driver: a call goes to a function that the binary gives, which sends it through the kernel's gate.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
    JsonObject, ListToolsResult, PaginatedRequestParams, ResourceContents, ServerCapabilities,
    ServerConfig, ToolAnnotations,
};
use rmcp::service::{RequestContext, ServiceExt};
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::Value;
use yushan_abi::{Cancel, Effect, FileRef, ToolResult, ToolSpec};

use super::runtime;

/// Bytes of a message that comes in.
const MESSAGE: usize = 4 << 20;
/// Bytes of files that go out with an answer.
const FILES: u64 = 16 << 20;

/// Does a call: the tool's name, its arguments, and whether somebody still waits. Runs on a thread that may block.
pub type Dispatch = dyn Fn(&str, Value, Cancel) -> ToolResult + Send + Sync;
/// The bytes of a file that a call left behind; none if they are gone.
pub type Bytes = dyn Fn(&FileRef) -> Option<Vec<u8>> + Send + Sync;

/// What is offered to other programs.
#[derive(Clone)]
pub struct Offer {
    tools: Arc<Vec<ToolSpec>>,
    call: Arc<Dispatch>,
    bytes: Arc<Bytes>,
}

impl Offer {
    /// Offers these tools; calls go to `call`, and files of their results are read with `bytes`.
    pub fn new(tools: Vec<ToolSpec>, call: Arc<Dispatch>, bytes: Arc<Bytes>) -> Offer {
        Offer { tools: Arc::new(tools), call, bytes }
    }

    /// Serves one program over these streams until it closes its side. Blocks.
    ///
    /// # Errors
    /// The streams fail, or what comes is not MCP.
    pub fn serve<R, W>(self, read: R, write: W) -> Result<(), String>
    where
        R: tokio::io::AsyncRead + Send + Unpin + 'static,
        W: tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        runtime().block_on(async {
            let transport = AsyncRwTransport::<RoleServer, _, _>::new(read, write)
                .with_max_line_length(MESSAGE);
            let service = ServiceExt::serve(self, transport).await;
            let service = service.map_err(|error| format!("no MCP client: {error}"))?;
            service.waiting().await.map(drop).map_err(|error| error.to_string())
        })
    }

    /// Serves the program that started this one, over standard input and output. Blocks.
    ///
    /// # Errors
    /// As [`Offer::serve`].
    pub fn serve_stdio(self) -> Result<(), String> {
        let _entered = runtime().enter();
        let (read, write) = rmcp::transport::stdio();
        self.serve(read, write)
    }

    /// Streamable HTTP, to be mounted at one route: answers `GET`, `POST` and `DELETE`. Requests to other hosts than these
    /// (`localhost`, `127.0.0.1`, with or without a port) and from pages of other origins are refused; who may come in at
    /// all is for whoever mounts it. Bodies are at most 4 MiB.
    pub fn service(self, hosts: Vec<String>, origins: Vec<String>) -> HttpService {
        let doors = StreamableHttpServerConfig::default()
            .with_allowed_hosts(hosts)
            .with_allowed_origins(origins)
            .enforce_origin_validation();
        self.behind(doors)
    }

    /// The same for whoever has judged the host and the origin of every request before.
    pub fn guarded_service(self) -> HttpService {
        let doors =
            StreamableHttpServerConfig::default().disable_allowed_hosts().disable_allowed_origins();
        self.behind(doors)
    }

    fn behind(self, doors: StreamableHttpServerConfig) -> HttpService {
        let config = doors.with_max_request_body_bytes(MESSAGE);
        HttpService(StreamableHttpService::new(
            move || Ok(self.clone()),
            Arc::new(LocalSessionManager::default()),
            config,
        ))
    }
}

/// A `tower` service for a router.
#[derive(Clone)]
pub struct HttpService(StreamableHttpService<Offer, LocalSessionManager>);

/// What it answers with.
pub type HttpAnswer =
    http::Response<http_body_util::combinators::BoxBody<bytes::Bytes, Infallible>>;

impl HttpService {
    /// Answers one request, within a Tokio runtime.
    pub async fn answer<B>(self, request: http::Request<B>) -> HttpAnswer
    where
        B: http_body::Body + Send + 'static,
        B::Error: std::fmt::Display,
        B::Data: Send + 'static,
    {
        self.0.handle(request).await
    }
}

impl<B> tower::Service<http::Request<B>> for HttpService
where
    B: http_body::Body + Send + 'static,
    B::Error: std::fmt::Display,
    B::Data: Send + 'static,
{
    type Response = HttpAnswer;
    type Error = Infallible;
    type Future = std::pin::Pin<
        Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send + 'static>,
    >;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { Ok(HttpService(service).answer(request).await) })
    }
}

impl ServerHandler for Offer {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        let us = Implementation::new("yushan", env!("CARGO_PKG_VERSION"));
        ServerConfig::new(capabilities).with_server_info(us)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.iter().map(described).collect()))
    }

    /// Asked before a call, to compare its headers with its arguments.
    fn get_tool(&self, name: &str) -> Option<rmcp::model::Tool> {
        self.tools.iter().find(|spec| spec.name == name).map(described)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(spec) = self.tools.iter().find(|spec| spec.name == request.name) else {
            let text = format!("there is no tool {:?}", request.name);
            return Err(ErrorData::invalid_params(text, None));
        };
        let (name, call, bytes) =
            (spec.name.clone(), Arc::clone(&self.call), Arc::clone(&self.bytes));
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let cancel = Cancel::default();
        let given_up = cancel.clone();
        let work =
            tokio::task::spawn_blocking(move || answered(&call(&name, arguments, cancel), &*bytes));
        tokio::pin!(work);
        let result = tokio::select! {
            result = &mut work => result,
            () = context.ct.cancelled() => {
                given_up.cancel();
                work.await
            }
        };
        result
            .map(CallToolResponse::Complete)
            .map_err(|_| ErrorData::internal_error("the tool failed; see the server's log", None))
    }
}

fn described(spec: &ToolSpec) -> rmcp::model::Tool {
    let schema: JsonObject = spec.schema.as_object().cloned().unwrap_or_default();
    let hints = ToolAnnotations::from_raw(
        None,
        Some(spec.effect == Effect::Read),
        Some(matches!(spec.effect, Effect::Irreversible | Effect::Exec | Effect::Spend)),
        None,
        Some(matches!(spec.effect, Effect::Egress | Effect::Spend | Effect::Irreversible)),
    );
    rmcp::model::Tool::new(spec.name.clone(), spec.description.clone(), schema)
        .with_annotations(hints)
}

/// Files go with the answer as far as they fit; the others are named.
fn answered(result: &ToolResult, bytes: &Bytes) -> CallToolResult {
    let text = result.text();
    let mut content = Vec::new();
    if !text.is_empty() || result.files.is_empty() {
        content.push(ContentBlock::text(text));
    }
    let mut room = FILES;
    for file in &result.files {
        let data = if file.size <= room { bytes(file) } else { None };
        content.push(match data {
            Some(data) => {
                room -= file.size;
                block(file, data)
            }
            None => ContentBlock::text(format!(
                "[file {} ({}, {} bytes)]",
                file.path, file.media_type, file.size
            )),
        });
    }
    if result.failed { CallToolResult::error(content) } else { CallToolResult::success(content) }
}

fn block(file: &FileRef, data: Vec<u8>) -> ContentBlock {
    let media_type = file.media_type.clone();
    let kind = media_type.split('/').next().unwrap_or_default();
    if matches!(kind, "image" | "audio") {
        let data = BASE64_STANDARD.encode(data);
        return match kind {
            "image" => ContentBlock::image(data, media_type),
            _ => ContentBlock::audio(data, media_type),
        };
    }
    let is_text = kind == "text" || media_type == "application/json";
    let (uri, mime_type) = (uri(&file.path), Some(media_type));
    ContentBlock::resource(match String::from_utf8(data) {
        Ok(text) if is_text => {
            ResourceContents::TextResourceContents { uri, mime_type, text, meta: None }
        }
        other => {
            let data = other.map_or_else(|error| error.into_bytes(), String::into_bytes);
            let blob = BASE64_STANDARD.encode(data);
            ResourceContents::BlobResourceContents { uri, mime_type, blob, meta: None }
        }
    })
}

/// A file's name for other programs; there is nothing to be fetched under it.
fn uri(path: &str) -> String {
    let mut out = String::from("yushan:///");
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
