//! Hosts, origins, keys, and bounds of bodies.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::json;

use crate::house::house;
use crate::scripted::MODEL;

#[tokio::test]
async fn hosts_origins_and_keys_are_asked_for() {
    let house = house(false);
    let ask = async |headers: &[(&str, &str)], method: &str, path: &str| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        house.send(request.body(Body::empty()).expect("a request")).await
    };
    let (host, key) = (("host", "localhost:3952"), ("authorization", "Bearer key-ann"));
    for (headers, path, status) in [
        (vec![host, key], "/v1/models", 200),
        (vec![host, ("x-api-key", "key-ann")], "/v1/models", 200),
        (vec![host], "/v1/models", 401),
        (vec![host, ("authorization", "Bearer wrong")], "/v1/models", 401),
        (vec![host], "/api/tags", 401),
        (vec![host], "/metrics", 401),
        (vec![host], "/health", 200),
        (vec![host], "/", 200),
        (vec![("host", "evil.org"), key], "/v1/models", 403),
        (vec![("host", "evil.org")], "/health", 403),
        (vec![key], "/v1/models", 400),
        (vec![host, host, key], "/v1/models", 400),
        (vec![host, key, ("origin", "http://localhost:3952")], "/v1/models", 200),
        (vec![host, key, ("origin", "https://evil.org")], "/v1/models", 403),
        (vec![host, key, ("origin", "null")], "/v1/models", 403),
        (vec![host, key, ("sec-fetch-site", "cross-site")], "/v1/models", 403),
        (vec![host, ("sec-fetch-site", "cross-site")], "/", 200),
    ] {
        let reply = ask(&headers, "GET", path).await;
        assert_eq!(reply.status, status, "{headers:?} {path}: {}", reply.text);
        if status >= 400 && !path.starts_with("/api") {
            assert!(reply.json()["error"]["message"].is_string());
        }
    }
    let page = ("origin", "https://chat.example.org");
    let before = ask(&[host, page], "OPTIONS", "/v1/models").await;
    assert_eq!(before.status, 204);
    let reply = ask(&[host, key, page], "GET", "/v1/models").await;
    assert_eq!(reply.headers["access-control-allow-origin"], "https://chat.example.org");
    let reply = house.as_key("key-bob", "POST", "/api/pull", &json!({"model": MODEL})).await;
    assert_eq!(reply.status, 403, "a scope");
}

#[tokio::test]
async fn bodies_are_bounded_in_size_depth_and_time() {
    let house = house(true);
    let post = |path: &str, body: Body| {
        Request::post(path).header("host", "localhost").body(body).expect("a request")
    };
    let huge = "x".repeat(1 << 20);
    assert_eq!(house.send(post("/api/show", Body::from(huge))).await.status, 413);
    let deep = "[".repeat(100_000);
    assert_eq!(house.send(post("/v1/chat/completions", Body::from(deep))).await.status, 400);
    let slow = futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>();
    let reply = house.send(post("/v1/chat/completions", Body::from_stream(slow))).await;
    assert_eq!(reply.status, StatusCode::REQUEST_TIMEOUT.as_u16());
}

/// Every route of the table, with every method it has, is behind the guards; those that need no key are listed here.
#[tokio::test]
async fn no_route_has_a_way_around_the_guards() {
    let house = house(false);
    let open = ["/", "/page.js", "/page.css", "/health", "/openapi.json"];
    let source = include_str!("../../src/routes.rs");
    let mut seen = 0;
    for rest in source.split(".route(\"").skip(1) {
        let (path, handlers) = rest.split_once('"').expect("a path");
        let handlers = handlers.split(".route(").next().unwrap_or("");
        let path = path.replace("{*id}", "x").replace("{id}", "x").replace("{pid}", "1");
        let methods = ["get", "post", "delete", "head"];
        let methods: Vec<&str> =
            methods.into_iter().filter(|name| handlers.contains(&format!("{name}("))).collect();
        assert!(!methods.is_empty(), "{path}");
        for method in methods {
            seen += 1;
            let method = method.to_uppercase();
            let ask = async |headers: &[(&str, &str)]| {
                let mut request = Request::builder().method(&*method).uri(&path);
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                house.send(request.body(Body::from("{}")).expect("a request")).await.status
            };
            let (host, key) = (("host", "localhost"), ("authorization", "Bearer key-ann"));
            assert_eq!(ask(&[("host", "evil.org"), key]).await, 403, "{method} {path}: host");
            assert_eq!(ask(&[key]).await, 400, "{method} {path}: no host");
            let origin = ("origin", "https://evil.org");
            assert_eq!(ask(&[host, key, origin]).await, 403, "{method} {path}: origin");
            let wrong = ("authorization", "Bearer wrong");
            for stranger in [vec![host], vec![host, wrong]] {
                let status = ask(&stranger).await;
                let expected = !open.contains(&&*path);
                assert_eq!(status == 401, expected, "{method} {path}: {status}");
            }
            assert!(![401, 403].contains(&ask(&[host, key]).await), "{method} {path}: a key");
        }
    }
    assert!(seen > 35, "{seen}");
}
