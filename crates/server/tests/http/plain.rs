//! Tokens and templates, the page, the OpenAPI document.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use crate::house::house;
use crate::scripted::MODEL;

#[tokio::test]
async fn text_becomes_tokens_and_back() {
    let house = house(true);
    let reply = house.post("/tokenize", json!({"content": "ab", "add_special": true})).await.json();
    assert_eq!(reply["tokens"], json!([1, 97, 98]));
    let body = json!({"content": "é", "model": MODEL, "with_pieces": true});
    assert_eq!(
        house.post("/tokenize", body).await.json()["tokens"][0],
        json!({"id": 195, "piece": [195]})
    );
    let reply = house.post("/detokenize", json!({"tokens": [97, 98]})).await.json();
    assert_eq!(reply["content"], "ab");
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(house.post("/apply-template", body).await.json()["prompt"], "<user>hi");
    assert_eq!(house.post("/detokenize", json!({"tokens": [999]})).await.status, 400);
    assert_eq!(house.get("/health").await.json()["status"], "ok");
}

#[tokio::test]
async fn the_page_is_plain_and_speaks_two_languages() {
    let house = house(true);
    for (language, word) in [("en", "New chat"), ("zh-TW", "新對話")] {
        let request = Request::get("/").header("host", "localhost").header("accept", "text/html");
        let request = request.header("accept-language", language).body(Body::empty());
        let reply = house.send(request.expect("a request")).await;
        assert!(reply.text.contains(word));
        let policy = reply.headers["content-security-policy"].to_str().expect("text");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    for path in ["/page.js", "/page.css"] {
        assert_eq!(house.get(path).await.status, 200);
    }
    let body = json!({"markdown": "**a** <script>b</script>"});
    let html = house.post("/render", body).await.json()["html"].to_string();
    assert!(html.contains("<strong>a</strong>") && !html.contains("<script"), "{html}");
}

#[tokio::test]
async fn the_openapi_document_names_every_route() {
    let house = house(true);
    let document = house.get("/openapi.json").await.json();
    let source = include_str!("../../src/routes.rs");
    let pages = ["/", "/page.js", "/page.css", "/openapi.json", "/api/embeddings"];
    let routes = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let routes: Vec<_> = routes.filter(|route| !pages.contains(route)).collect();
    assert!(routes.len() > 20);
    for route in routes {
        let path = route.replace("{*id}", "{id}");
        assert!(document["paths"][&path].is_object(), "{path}");
    }
}
