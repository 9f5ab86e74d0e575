//! A plain page to chat in: one HTML file, one style sheet, one script written by hand.
//!
//! The key decision: the page may run its own script and nothing else (`Content-Security-Policy`), loads nothing from
//! elsewhere, and shows HTML only as the server has sanitized it. Words come from the tables below, in
//! English or 繁體中文, by what the browser asks for.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Server;
use crate::body::TEXT;
use crate::events::blocking;
use crate::fault::{ErrorBody, Fault};

const HTML: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// What a browser lets the page do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `(in the page, English, 繁體中文)`.
const WORDS: &[(&str, &str, &str)] = &[
    ("{lang}", "en", "zh-Hant-TW"),
    ("{model}", "Model", "模型"),
    ("{new}", "New chat", "新對話"),
    ("{say}", "Write a message", "輸入訊息"),
    ("{send}", "Send", "送出"),
    ("{stop}", "Stop", "停止"),
    ("{you}", "You", "你"),
    ("{stopped}", "stopped", "已停止"),
    ("{cut}", "cut off at the token limit", "已達長度上限"),
    ("{failed}", "Failed", "失敗"),
    ("{key}", "This server needs an API key:", "這個伺服器需要 API 金鑰："),
    ("{none}", "There is no model here yet: yushan pull NAME", "這裡還沒有模型：yushan pull 名稱"),
    ("{script}", "This page needs JavaScript.", "這個頁面需要 JavaScript。"),
];

/// The page for browsers; for Ollama's clients the words they look for.
pub(crate) async fn root(headers: HeaderMap) -> Response {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if !text(header::ACCEPT).unwrap_or_default().contains("text/html") {
        return "Ollama is running".into_response();
    }
    let chinese = prefers_chinese(text(header::ACCEPT_LANGUAGE).unwrap_or_default());
    let mut html = HTML.to_string();
    for (place, english, chinese_word) in WORDS {
        html = html.replace(place, if chinese { chinese_word } else { english });
    }
    let vary = (header::VARY, "Accept, Accept-Language");
    let mut response = asset("text/html; charset=utf-8", html);
    response.headers_mut().insert(vary.0, header::HeaderValue::from_static(vary.1));
    response
}

/// Whether Chinese comes before English.
fn prefers_chinese(languages: &str) -> bool {
    let weight = |name: &str| {
        let weights = languages.split(',').filter_map(|language| {
            let mut parts = language.split(';').map(str::trim);
            let tag = parts.next()?.to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            let known = tag == name || tag.strip_prefix(name)?.starts_with('-');
            known.then_some(weight.unwrap_or(1.0))
        });
        weights.fold(0.0, f32::max)
    };
    weight("zh") > weight("en")
        || (weight("zh") > 0.0
            && languages.to_ascii_lowercase().find("zh")
                < languages.to_ascii_lowercase().find("en"))
}

/// The script of the page.
pub(crate) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

/// The style of the page.
pub(crate) async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

fn asset(media: &'static str, text: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// Markdown to be shown.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenderRequest {
    markdown: String,
}

/// HTML that may stand in a page.
#[derive(Serialize, ToSchema)]
pub(crate) struct Rendered {
    html: String,
}

/// Markdown as sanitized HTML.
#[utoipa::path(
    post,
    path = "/render",
    request_body = RenderRequest,
    responses((status = 200, body = Rendered), (status = 400, body = ErrorBody))
)]
pub(crate) async fn render(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<Rendered>, Fault> {
    let body: RenderRequest = server.read(request, TEXT).await?;
    let html = blocking(move || crate::render::to_html(&body.markdown)).await?;
    Ok(Json(Rendered { html }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_browsers() {
        for (languages, chinese) in [
            ("", false),
            ("en-US,en;q=0.9", false),
            ("zh-TW,zh;q=0.9,en;q=0.8", true),
            ("zh-Hant,en", true),
            ("en,zh", false),
            ("en;q=0.5, zh-HK;q=0.9", true),
            ("de", false),
            ("zha", false),
        ] {
            assert_eq!(prefers_chinese(languages), chinese, "{languages}");
        }
    }

    #[test]
    fn every_word_has_its_place() {
        for (place, ..) in WORDS {
            assert!(HTML.contains(place), "{place}");
        }
        let words =
            WORDS.iter().fold(HTML.to_string(), |html, (place, ..)| html.replace(place, ""));
        assert!(!words.contains('{'), "a place without a word");
        assert!(!HTML.contains("http"), "nothing is loaded from elsewhere");
    }
}
