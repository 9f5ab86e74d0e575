//! `/openapi.json`: made from the types and the handlers, so that it cannot disagree with them.

use axum::Json;
use utoipa::OpenApi;

use crate::{ollama, openai, page, text};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Yushan",
        description = "An LLM operating system: OpenAI and Ollama faces over one kernel"
    ),
    paths(
        crate::chats::keep,
        crate::chats::list,
        crate::chats::get,
        crate::chats::delete,
        crate::system::tools,
        crate::system::invoke,
        crate::approvals::list,
        crate::mcp::answer,
        crate::approvals::answer,
        crate::spaces::fork,
        crate::spaces::list,
        crate::spaces::read,
        crate::spaces::write,
        crate::spaces::delete,
        crate::system::list,
        crate::system::spawn,
        crate::system::look,
        crate::system::tell,
        crate::system::log,
        crate::system::replay,
        openai::models::list,
        openai::models::one,
        openai::chat::create,
        openai::completions::create,
        openai::embeddings::create,
        openai::responses::create,
        openai::responses::get,
        openai::responses::delete,
        openai::responses::cancel,
        openai::responses::input_items,
        openai::files::create,
        openai::files::list,
        openai::files::get,
        openai::files::content,
        openai::files::delete,
        ollama::models::version,
        ollama::models::tags,
        ollama::models::ps,
        ollama::models::show,
        ollama::embed::create,
        ollama::embed::create_one,
        ollama::models::pull,
        ollama::models::delete,
        ollama::chat::create,
        ollama::generate::create,
        text::health,
        text::metrics,
        text::tokenize,
        text::detokenize,
        text::apply_template,
        page::render,
    )
)]
struct Api;

/// Describes every route.
pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}
