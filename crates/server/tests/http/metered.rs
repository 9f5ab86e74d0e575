//! What is counted and charged, and who is refused for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use yushan_server::{Server, router};

use crate::house::{House, chat, house, with};
use crate::scripted::{Fake, MODEL, Memory, OneModel, TwoKeys};

#[tokio::test]
async fn a_dropped_stream_cancels() {
    let house = house(true);
    let request = Request::post("/v1/chat/completions").header("host", "localhost");
    let body = with(chat("go on forever"), json!({"stream": true})).to_string();
    let request = request.body(Body::from(body)).expect("a request");
    let response = house.app.clone().oneshot(request).await.expect("infallible");
    let mut body = response.into_body();
    for _ in 0..3 {
        body.frame().await.expect("a frame").expect("no error");
    }
    drop(body);
    for _ in 0..1000 {
        if house.fake.gone.load(Ordering::SeqCst) == 1 {
            let metrics = house.get("/metrics").await.text;
            assert!(metrics.contains("yushan:requests_cancelled_total 1"), "{metrics}");
            assert!(metrics.contains("yushan:requests_processing 0"), "{metrics}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the fake goes on");
}

#[tokio::test]
async fn counters_follow_what_happened() {
    let keys = Arc::new(TwoKeys::new(true));
    let (fake, disk) = (Arc::new(Fake::default()), Arc::new(Memory::default()));
    let mut server = Server::new(fake.clone(), disk.clone(), Arc::new(OneModel), keys.clone());
    let usage = yushan_abi::Usage { pages_live: 1, pages_total: 4, ..Default::default() };
    let swapped = yushan_kernel::Swapped { out: 5, file_bytes: 7, ..Default::default() };
    server.seats = Box::new(move || Some(yushan_kernel::Seats { usage, swapped }));
    let house = House { app: router(Arc::new(server)), fake, disk, keys };
    for text in ["hello", "be busy", "be refused late", "fail"] {
        house.post("/v1/chat/completions", chat(text)).await;
    }
    let metrics = house.get("/metrics").await.text;
    for line in [
        // `<user>hello` and `<user>fail`.
        "prompt_tokens_total 21",
        "cached_tokens_total 10",
        "tokens_predicted_total 3",
        "requests_completed_total 1",
        "requests_failed_total 1",
        "requests_refused_total 2",
        "requests_cancelled_total 0",
        "requests_processing 0",
        "requests_deferred 0",
        "kv_cache_usage_ratio 0.25",
        "kv_swapped_out_total 5",
        "kv_swap_file_bytes 7",
        "time_to_first_token_seconds_count 2",
        "inter_token_latency_seconds_count 2",
    ] {
        assert!(metrics.contains(&format!("\nyushan:{line}\n")), "{line}: {metrics}");
    }
    let names = prometheus(&metrics);
    assert!(names.len() > 13 && names.contains(&"yushan:prompt_seconds_total".to_string()));
}

/// Reads Prometheus' text form, strictly, and gives the names of what is told. `prometheus_client` reads it in
/// `tests/clients`.
fn prometheus(text: &str) -> Vec<String> {
    let (mut names, mut kind, mut bucket) = (Vec::new(), String::new(), 0.0);
    let mut lines = text.lines().peekable();
    assert!(text.ends_with('\n'));
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("a name and words");
            let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            assert!(name.chars().all(named) && !words.is_empty(), "{line}");
            assert!(!names.contains(&name.to_string()), "{name} is told twice");
            let kinds = lines.next().and_then(|line| line.strip_prefix("# TYPE "));
            let of = kinds.and_then(|line| line.strip_prefix(name)).expect("its type").trim();
            assert!(["counter", "gauge", "histogram"].contains(&of), "{of}");
            assert_eq!(of == "counter", name.ends_with("_total"), "{name}");
            (kind, bucket) = (of.to_string(), 0.0);
            names.push(name.to_string());
            continue;
        }
        let (sample, value) = line.split_once(' ').expect("a sample and its value");
        let value: f64 = value.parse().expect("a number");
        let name = names.last().expect("help comes first");
        let rest = sample.strip_prefix(&**name).expect("samples stand behind their help");
        match (&*kind, rest) {
            ("histogram", "_sum") => {}
            ("histogram", "_count") => assert_eq!(value, bucket, "{name}"),
            ("histogram", label) => {
                let end =
                    label.strip_prefix("_bucket{le=\"").and_then(|rest| rest.strip_suffix("\"}"));
                let end = end.expect("the end of a bucket");
                assert!(end == "+Inf" || end.parse::<f64>().is_ok(), "{line}");
                assert!(value >= bucket, "{line}: buckets are sums");
                bucket = value;
            }
            (_, rest) => assert!(rest.is_empty() && value >= 0.0, "{line}"),
        }
    }
    names
}

#[tokio::test]
async fn what_is_used_is_charged_and_what_is_used_up_is_refused() {
    let house = house(false);
    let metered = [
        ("/v1/chat/completions", chat("hello you")),
        ("/v1/completions", json!({"model": MODEL, "prompt": "hello"})),
        ("/v1/responses", json!({"model": MODEL, "input": "hello"})),
        ("/v1/embeddings", json!({"model": MODEL, "input": "hello"})),
        ("/api/chat", chat("hello")),
        ("/api/generate", json!({"model": MODEL, "prompt": "hello"})),
        ("/api/embed", json!({"model": MODEL, "input": "hello"})),
        ("/v1/processes", json!({"model": MODEL, "task": "hello"})),
        ("/v1/processes/1/replay", Value::Null),
    ];
    for (path, body) in &metered {
        let reply = house.as_key("key-poor", "POST", path, body).await;
        assert_eq!(reply.status, 429, "{path}: {}", reply.text);
        assert_eq!(reply.headers["x-should-retry"], "false");
        let error = reply.json()["error"].clone();
        assert!(path.starts_with("/api") || error["code"] == "insufficient_quota", "{error}");
        let reply = house.as_key("key-fast", "POST", path, body).await;
        assert_eq!((reply.status, &reply.headers["retry-after"]), (429, &"60".parse().unwrap()));
        let error = reply.json()["error"].clone();
        assert!(path.starts_with("/api") || error["code"] == "rate_limit_exceeded", "{error}");
    }
    assert_eq!(house.as_key("key-poor", "GET", "/v1/models", &Value::Null).await.status, 200);
    let reply = house.as_key("key-ann", "POST", metered[0].0, &metered[0].1).await;
    for (name, value) in [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", "1.000s"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "1m0.000s"),
    ] {
        assert_eq!(reply.headers[name], value, "{name}");
    }
    let usage = reply.json()["usage"].clone();
    let (prompt, generated) = house.keys.charged("ann");
    assert_eq!(
        json!([prompt, generated]),
        json!([usage["prompt_tokens"], usage["completion_tokens"]])
    );
    // Two answers to one prompt, in a stream: the prompt costs once.
    let streamed = with(chat("hello you"), json!({"stream": true, "n": 2}));
    house.as_key("key-bob", "POST", metered[0].0, &streamed).await;
    assert_eq!(house.keys.charged("bob"), (prompt, 2 * generated));
    assert_eq!(Arc::strong_count(&house.keys.running), 1, "nothing runs any more");
}

#[tokio::test]
async fn whoever_goes_early_pays_for_what_was_made() {
    let house = house(false);
    let body = with(chat("go on forever"), json!({"stream": true})).to_string();
    let request = Request::post("/v1/chat/completions").header("host", "localhost");
    let request = request.header("authorization", "Bearer key-ann").body(Body::from(body));
    let response =
        house.app.clone().oneshot(request.expect("a request")).await.expect("infallible");
    let mut body = response.into_body();
    let mut read = String::new();
    while read.matches("on ").count() < 5 {
        let frame = body.frame().await.expect("more").expect("a frame");
        read += std::str::from_utf8(&frame.into_data().expect("data")).expect("text");
    }
    assert_eq!(Arc::strong_count(&house.keys.running), 2, "it runs");
    drop(body);
    let (prompt, generated) = house.keys.charged("ann");
    assert!(prompt == "<user>go on forever".len() && generated >= 5, "{prompt} {generated}");
    assert_eq!(Arc::strong_count(&house.keys.running), 1, "its turn is over");
}
