//! The list of all routes: path, what it needs, handler.
//!
//! The key decision: one table, grouped by what a key must allow. Whoever adds a route puts it into one of the
//! groups; there is no way around the guards.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};

use crate::doors::{self, Access};
use crate::fault::{Fault, as_ollama};
use crate::openai::{chat, completions, embeddings, files, models, responses};
use crate::{Server, approvals, chats, mcp, ollama, openapi, page, spaces, system, text, visits};

/// All routes behind their guards.
pub fn router(server: Arc<Server>) -> Router {
    let guarded = |access, metered, routes: Router<Arc<Server>>| {
        let server = server.clone();
        let guard = move |request: Request, next: Next| {
            doors::keys(server.clone(), access, metered, request, next)
        };
        routes.route_layer(from_fn(guard))
    };
    let of = |access, routes| guarded(access, false, routes);
    let metered = |routes| guarded(Access::Use, true, routes);
    let managed = |routes| guarded(Access::Manage, true, routes);
    let ollama = Router::new()
        .merge(of(Access::Look, ollama_look()))
        .merge(metered(ollama_use()))
        .merge(of(Access::Manage, ollama_manage()))
        .route_layer(map_response(as_ollama));
    Router::new()
        .merge(of(Access::Look, look()))
        .merge(metered(completing()))
        .merge(of(Access::Use, showing()))
        .merge(of(Access::Use, keeping()))
        .merge(of(Access::Manage, processes()))
        .merge(managed(working()))
        .merge(open())
        .merge(ollama)
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(from_fn_with_state(server.clone(), doors::visitors))
        .layer(from_fn_with_state(server.clone(), visits::record))
        .with_state(server)
}

type Routes = Router<Arc<Server>>;

/// Needs no key: what a browser or a probe asks for first.
fn open() -> Routes {
    Router::new()
        .route("/", get(page::root).head(page::root))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/health", get(text::health))
        .route("/openapi.json", get(openapi::document))
}

fn look() -> Routes {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/metrics", get(text::metrics))
}

/// They use tokens: begun by [`Keys::begin`](crate::Keys::begin), and charged.
fn completing() -> Routes {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/responses", post(responses::create))
        .route("/mcp", get(mcp::answer).post(mcp::answer).delete(mcp::answer))
}

fn showing() -> Routes {
    Router::new()
        .route("/tokenize", post(text::tokenize))
        .route("/detokenize", post(text::detokenize))
        .route("/apply-template", post(text::apply_template))
        .route("/render", post(page::render))
}

fn keeping() -> Routes {
    Router::new()
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/chats", get(chats::list).post(chats::keep))
        .route("/v1/chats/{id}", get(chats::get).delete(chats::delete))
        .route("/v1/files", get(files::list).post(files::create))
        .route("/v1/files/{id}", get(files::get).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/tools", get(system::tools))
        .route("/v1/tools/{name}", post(system::invoke))
        .route("/v1/approvals", get(approvals::list).post(approvals::answer))
        .route("/v1/spaces/{space}", post(spaces::fork))
        .route("/v1/spaces/{space}/files", get(spaces::list))
        .route(
            "/v1/spaces/{space}/files/{*path}",
            get(spaces::read).put(spaces::write).delete(spaces::delete),
        )
}

fn processes() -> Routes {
    Router::new()
        .route("/v1/processes", get(system::list))
        .route("/v1/processes/{pid}", get(system::look).post(system::tell))
        .route("/v1/processes/{pid}/log", get(system::log))
}

/// They use tokens, as those of [`completing`].
fn working() -> Routes {
    Router::new()
        .route("/v1/processes", post(system::spawn))
        .route("/v1/processes/{pid}/replay", post(system::replay))
}

fn ollama_look() -> Routes {
    Router::new()
        .route("/api/version", get(ollama::models::version).head(ollama::models::version))
        .route("/api/tags", get(ollama::models::tags))
        .route("/api/ps", get(ollama::models::ps))
        .route("/api/show", post(ollama::models::show))
}

fn ollama_use() -> Routes {
    Router::new()
        .route("/api/chat", post(ollama::chat::create))
        .route("/api/generate", post(ollama::generate::create))
        .route("/api/embed", post(ollama::embed::create))
        .route("/api/embeddings", post(ollama::embed::create_one))
}

fn ollama_manage() -> Routes {
    Router::new()
        .route("/api/pull", post(ollama::models::pull))
        .route("/api/delete", delete(ollama::models::delete))
}

async fn nowhere(request: Request) -> Response {
    let path = request.uri().path().to_string();
    named(path.clone(), Fault::NotFound { what: "route", name: path }).await
}

async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path().to_string();
    let fault = Fault::Method(format!("{} {path}", request.method()));
    named(path, fault).await
}

/// In the form of the face that the path belongs to.
async fn named(path: String, fault: Fault) -> Response {
    let response = fault.into_response();
    if path.starts_with("/api/") { as_ollama(response).await } else { response }
}
