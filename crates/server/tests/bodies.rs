//! Bodies that make no sense: every numeric field with numbers it cannot have, and ten thousand
//! mutated bodies. None of them is a fault of the server.

mod scripted;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use scripted::{Fake, MODEL, Memory, OneModel, TwoKeys};
use serde_json::{Value, json};
use tower::ServiceExt;
use yushan_server::{Server, router};

fn app() -> Router {
    let keys = Arc::new(TwoKeys::new(true));
    let (fake, disk) = (Arc::new(Fake::default()), Arc::new(Memory::default()));
    let mut server = Server::new(fake, disk, Arc::new(OneModel), keys);
    server.deadline = Duration::from_secs(5);
    router(Arc::new(server))
}

async fn post(app: &Router, path: &str, body: Vec<u8>) -> (u16, String) {
    let method = if path == "/api/delete" { "DELETE" } else { "POST" };
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Body::from(body)).expect("a request");
    let response = app.clone().oneshot(request).await.expect("infallible");
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

fn chat() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
}

fn text() -> Value {
    json!({"model": MODEL, "prompt": "hello"})
}

fn response() -> Value {
    json!({"model": MODEL, "input": "hello"})
}

fn process() -> Value {
    json!({"model": MODEL, "task": "hello"})
}

/// Sets a field, by its path.
fn set(body: &mut Value, path: &str, value: Value) {
    let mut at = body;
    for name in path.split('.') {
        at = &mut at[name];
    }
    *at = value;
}

/// `(path, body, field, what it may hold of: negative, zero, huge, fraction)`.
type Field = (&'static str, fn() -> Value, &'static str);

/// Whole numbers from 0 or 1 to something far below 2^40.
const WHOLE: &[Field] = &[
    ("/v1/chat/completions", chat, "n"),
    ("/v1/chat/completions", chat, "max_tokens"),
    ("/v1/chat/completions", chat, "max_completion_tokens"),
    ("/v1/chat/completions", chat, "top_logprobs"),
    ("/v1/chat/completions", chat, "top_k"),
    ("/v1/chat/completions", chat, "repeat_last_n"),
    ("/v1/completions", text, "n"),
    ("/v1/completions", text, "best_of"),
    ("/v1/completions", text, "max_tokens"),
    ("/v1/completions", text, "logprobs"),
    ("/v1/completions", text, "top_k"),
    ("/v1/completions", text, "repeat_last_n"),
    ("/v1/embeddings", response, "dimensions"),
    ("/v1/responses", response, "max_output_tokens"),
    ("/v1/responses", response, "top_logprobs"),
    ("/api/embed", response, "dimensions"),
    ("/api/embed", response, "options.num_ctx"),
    ("/api/embeddings", text, "options.num_ctx"),
    ("/api/chat", chat, "options.num_ctx"),
    ("/api/chat", chat, "options.top_k"),
    ("/api/chat", chat, "top_logprobs"),
    ("/api/chat", chat, "options.mirostat"),
    ("/api/generate", text, "options.num_ctx"),
    ("/api/generate", text, "options.top_k"),
    ("/api/generate", text, "top_logprobs"),
    ("/api/generate", text, "options.mirostat"),
    ("/v1/processes", process, "max_tokens"),
    ("/v1/processes", process, "weight"),
    ("/api/embed", response, "options.top_k"),
    ("/api/embed", response, "options.mirostat"),
    ("/api/embeddings", text, "options.top_k"),
    ("/api/embeddings", text, "options.mirostat"),
];

/// As above, but -1 and -2 have a meaning.
const NEGATIVE: &[Field] = &[
    ("/api/chat", chat, "options.num_predict"),
    ("/api/chat", chat, "options.repeat_last_n"),
    ("/api/generate", text, "options.num_predict"),
    ("/api/generate", text, "options.repeat_last_n"),
    ("/api/embed", response, "options.num_predict"),
    ("/api/embed", response, "options.repeat_last_n"),
    ("/api/embeddings", text, "options.num_predict"),
    ("/api/embeddings", text, "options.repeat_last_n"),
];

/// Any 64 bits.
const SEEDS: &[Field] = &[
    ("/v1/chat/completions", chat, "seed"),
    ("/v1/completions", text, "seed"),
    ("/api/chat", chat, "options.seed"),
    ("/api/generate", text, "options.seed"),
    ("/v1/processes", process, "seed"),
    ("/api/embed", response, "options.seed"),
    ("/api/embeddings", text, "options.seed"),
];

/// Fractions between bounds above -10 and below 100.
const FRACTIONS: &[Field] = &[
    ("/v1/chat/completions", chat, "temperature"),
    ("/v1/chat/completions", chat, "top_p"),
    ("/v1/chat/completions", chat, "min_p"),
    ("/v1/chat/completions", chat, "typical_p"),
    ("/v1/chat/completions", chat, "repeat_penalty"),
    ("/v1/chat/completions", chat, "frequency_penalty"),
    ("/v1/chat/completions", chat, "presence_penalty"),
    ("/v1/completions", text, "temperature"),
    ("/v1/completions", text, "top_p"),
    ("/v1/completions", text, "min_p"),
    ("/v1/completions", text, "typical_p"),
    ("/v1/completions", text, "repeat_penalty"),
    ("/v1/completions", text, "frequency_penalty"),
    ("/v1/completions", text, "presence_penalty"),
    ("/v1/responses", response, "temperature"),
    ("/v1/responses", response, "top_p"),
    ("/api/chat", chat, "options.temperature"),
    ("/api/chat", chat, "options.top_p"),
    ("/api/chat", chat, "options.min_p"),
    ("/api/chat", chat, "options.typical_p"),
    ("/api/chat", chat, "options.repeat_penalty"),
    ("/api/chat", chat, "options.frequency_penalty"),
    ("/api/chat", chat, "options.presence_penalty"),
    ("/api/chat", chat, "options.tfs_z"),
    ("/api/generate", text, "options.temperature"),
    ("/api/generate", text, "options.top_p"),
    ("/api/generate", text, "options.min_p"),
    ("/api/generate", text, "options.typical_p"),
    ("/api/generate", text, "options.repeat_penalty"),
    ("/api/generate", text, "options.frequency_penalty"),
    ("/api/generate", text, "options.presence_penalty"),
    ("/api/generate", text, "options.tfs_z"),
    ("/v1/processes", process, "temperature"),
    ("/api/embed", response, "options.temperature"),
    ("/api/embed", response, "options.top_p"),
    ("/api/embed", response, "options.min_p"),
    ("/api/embed", response, "options.typical_p"),
    ("/api/embed", response, "options.repeat_penalty"),
    ("/api/embed", response, "options.frequency_penalty"),
    ("/api/embed", response, "options.presence_penalty"),
    ("/api/embed", response, "options.tfs_z"),
    ("/api/embeddings", text, "options.temperature"),
    ("/api/embeddings", text, "options.top_p"),
    ("/api/embeddings", text, "options.min_p"),
    ("/api/embeddings", text, "options.typical_p"),
    ("/api/embeddings", text, "options.repeat_penalty"),
    ("/api/embeddings", text, "options.frequency_penalty"),
    ("/api/embeddings", text, "options.presence_penalty"),
    ("/api/embeddings", text, "options.tfs_z"),
];

#[tokio::test]
async fn every_numeric_field_refuses_what_it_cannot_hold() {
    let app = app();
    // Written as they stand in JSON: NaN and 1e999 are no JSON numbers and must not become any.
    let types =
        ["\"1\"", "\"NaN\"", "NaN", "Infinity", "1e999", "-1e999", "true", "[1]", "{\"a\":1}"];
    let whole =
        ["-1", "-9223372036854775808", "1099511627776", "18446744073709551616", "1.5", "1e300"];
    let negative = ["-3", "1099511627776", "-9223372036854775809", "1.5", "1e300"];
    let seeds = ["18446744073709551616", "1.5", "1e300", "-1e300"];
    let fractions = ["-10.5", "100.5", "1e300", "-1e300", "18446744073709551616"];
    for (fields, numbers) in
        [(WHOLE, &whole[..]), (NEGATIVE, &negative), (SEEDS, &seeds), (FRACTIONS, &fractions)]
    {
        for &(path, body, field) in fields {
            for number in numbers.iter().chain(&types) {
                let mut body = body();
                set(&mut body, field, json!("PLACE"));
                let text = body.to_string().replace("\"PLACE\"", number);
                let (status, reply) = post(&app, path, text.into_bytes()).await;
                assert_eq!(status, 400, "{path} {field} = {number}: {reply}");
                let json = !["NaN", "Infinity", "1e999", "-1e999"].contains(number);
                let last = field.rsplit('.').next().unwrap_or(field);
                assert!(!json || reply.contains(last), "{path} {field} = {number}: {reply}");
                if path.starts_with("/v1") && json {
                    let error: Value = serde_json::from_str(&reply).expect("JSON");
                    assert_eq!(error["error"]["param"], field, "{reply}");
                }
            }
        }
    }
}

#[tokio::test]
async fn errors_name_the_field_at_fault() {
    let app = app();
    for (path, base, field, value, param) in [
        ("/v1/chat/completions", chat as fn() -> Value, "foo", json!(1), "foo"),
        ("/v1/chat/completions", chat, "messages", json!([]), "messages"),
        (
            "/v1/chat/completions",
            chat,
            "messages",
            json!([{"role": "king", "content": "a"}]),
            "messages[0].role",
        ),
        (
            "/v1/chat/completions",
            chat,
            "messages",
            json!([{"role": "user"}]),
            "messages[0].content",
        ),
        (
            "/v1/chat/completions",
            chat,
            "messages",
            json!([{"role": "user", "content": "a", "x": 1}]),
            "messages[0].x",
        ),
        (
            "/v1/chat/completions",
            chat,
            "messages",
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]),
            "messages[0].content[0].type",
        ),
        (
            "/v1/chat/completions",
            chat,
            "messages",
            json!([{"role": "user", "content": [{"type": "text", "text": 3}]}]),
            "messages[0].content[0].text",
        ),
        (
            "/v1/chat/completions",
            chat,
            "messages",
            json!([{"role": "tool", "content": "a"}]),
            "messages[0].tool_call_id",
        ),
        ("/v1/chat/completions", chat, "tools", json!([{"type": "function"}]), "tools[0].function"),
        (
            "/v1/chat/completions",
            chat,
            "tools",
            json!([{"type": "function", "function": {"name": "a b"}}]),
            "tools[0].function.name",
        ),
        (
            "/v1/chat/completions",
            chat,
            "tools",
            json!([{"type": "function", "function": {"name": "a", "parameters": 3}}]),
            "tools[0].function.parameters",
        ),
        ("/v1/chat/completions", chat, "tool_choice", json!("required"), "tool_choice"),
        (
            "/v1/chat/completions",
            chat,
            "tool_choice",
            json!({"type": "function", "function": {"name": "a"}}),
            "tool_choice",
        ),
        (
            "/v1/chat/completions",
            chat,
            "response_format",
            json!({"type": "poem"}),
            "response_format.type",
        ),
        (
            "/v1/chat/completions",
            chat,
            "response_format",
            json!({"type": "json_schema"}),
            "response_format.json_schema",
        ),
        ("/v1/chat/completions", chat, "stop", json!([""]), "stop[0]"),
        ("/v1/chat/completions", chat, "stop", json!(3), "stop"),
        ("/v1/chat/completions", chat, "logit_bias", json!({"x": 1}), "logit_bias.x"),
        ("/v1/chat/completions", chat, "logit_bias", json!({"3": 101}), "logit_bias.3"),
        (
            "/v1/chat/completions",
            chat,
            "stream_options",
            json!({"include_usage": true}),
            "stream_options",
        ),
        ("/v1/chat/completions", chat, "functions", json!([]), "functions"),
        ("/v1/chat/completions", chat, "store", json!(true), "store"),
        ("/v1/chat/completions", chat, "overflow", json!("drop"), "overflow"),
        ("/v1/chat/completions", chat, "service_tier", json!("gold"), "service_tier"),
        ("/v1/chat/completions", chat, "modalities", json!(["audio"]), "modalities"),
        ("/v1/completions", text, "suffix", json!("no gap"), "suffix"),
        ("/v1/completions", text, "suffix", json!(["a"]), "suffix"),
        ("/v1/completions", text, "prompt", json!([]), "prompt"),
        ("/v1/completions", text, "prompt", json!([-1]), "prompt"),
        ("/v1/completions", text, "prompt", json!([256]), "prompt"),
        ("/v1/completions", text, "best_of", json!(2), "best_of"),
        ("/v1/completions", text, "max_tokens", json!(0), "max_tokens"),
        ("/v1/responses", response, "input", json!([]), "input"),
        (
            "/v1/responses",
            response,
            "input",
            json!([{"type": "item_reference", "id": "a"}]),
            "input[0].type",
        ),
        (
            "/v1/responses",
            response,
            "input",
            json!([{"role": "user", "content": [{"type": "input_image"}]}]),
            "input[0].content[0].type",
        ),
        (
            "/v1/responses",
            response,
            "input",
            json!([{"type": "function_call", "name": "a"}]),
            "input[0].call_id",
        ),
        ("/v1/responses", response, "tools", json!([{"type": "web_search"}]), "tools[0].type"),
        (
            "/v1/responses",
            response,
            "tools",
            json!([{"type": "function", "name": "a", "x": 1}]),
            "tools[0]",
        ),
        ("/v1/responses", response, "conversation", json!("a"), "conversation"),
        ("/v1/responses", response, "include", json!(["file_search_call.results"]), "include[0]"),
        ("/v1/responses", response, "truncation", json!("some"), "truncation"),
        (
            "/v1/responses",
            response,
            "text",
            json!({"format": {"type": "poem"}}),
            "text.format.type",
        ),
    ] {
        let mut body = base();
        set(&mut body, field, value);
        let (status, reply) = post(&app, path, body.to_string().into_bytes()).await;
        assert_eq!(status, 400, "{path} {body}: {reply}");
        let error: Value = serde_json::from_str(&reply).expect("JSON");
        assert_eq!(error["error"]["param"], param, "{path} {body}: {reply}");
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
}

/// A generator of numbers: splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.roll(if depth == 0 { 7 } else { 9 }) {
            0 => Value::Null,
            1 => json!(self.roll(2) == 0),
            2 => json!(self.roll(100) as i64 - 50),
            3 => json!(*self.pick(&[-1e300, 1e300, 0.5, -0.0, 1e-300])),
            4 => json!(*self.pick(&[i64::MIN, i64::MAX, -1, 0, 1 << 40])),
            5 => json!(*self.pick(&[
                "",
                "a",
                "text",
                "function",
                "auto",
                "user",
                "\u{0}",
                "é\u{202e}"
            ])),
            6 => json!(MODEL),
            7 => (0..self.roll(4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let names = ["type", "role", "content", "text", "name", "function", "schema", "x"];
                (0..self.roll(4))
                    .map(|_| (self.pick(&names).to_string(), self.value(depth - 1)))
                    .collect()
            }
        }
    }

    /// Replaces, drops or adds something somewhere in a value.
    fn mutate(&mut self, value: &mut Value) {
        let inner = self.roll(4) > 0;
        match value {
            Value::Object(map) if inner && !map.is_empty() => {
                let names: Vec<String> = map.keys().cloned().collect();
                let name = self.pick(&names).clone();
                match self.roll(8) {
                    0 => drop(map.remove(&name)),
                    1 => drop(map.insert("extra".to_string(), self.value(2))),
                    _ => self.mutate(&mut map[&name]),
                }
            }
            Value::Array(list) if inner && !list.is_empty() => {
                let at = self.roll(list.len());
                match self.roll(4) {
                    0 => drop(list.remove(at)),
                    1 => list.push(self.value(2)),
                    _ => self.mutate(&mut list[at]),
                }
            }
            other => *other = self.value(3),
        }
    }
}

fn seeds() -> Vec<(&'static str, Value)> {
    let tool =
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let rich = json!({"model": MODEL, "messages": [{"role": "system", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "f"}]},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function",
            "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "b"}],
        "tools": [tool], "tool_choice": "auto", "stream": true, "temperature": 1, "n": 2, "stop": ["x"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "logit_bias": {"5": 1}, "logprobs": true, "top_logprobs": 2, "seed": 4, "max_tokens": 3});
    let mut ollama = chat();
    ollama["options"] = json!({"num_predict": 4, "temperature": 0.1, "stop": ["a"], "seed": 1});
    ollama["tools"] = json!([tool]);
    let mut responses = response();
    responses["input"] = json!([{"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "b"}]);
    responses["tools"] = json!([{"type": "function", "name": "f", "parameters": {}}]);
    responses["text"] = json!({"format": {"type": "text"}});
    responses["stream"] = json!(true);
    let mut completion = text();
    completion["prompt"] = json!([[97, 98], [99]]);
    completion["echo"] = json!(true);
    completion["logprobs"] = json!(2);
    vec![
        ("/v1/chat/completions", rich),
        ("/v1/completions", completion),
        ("/v1/completions", text()),
        ("/v1/responses", responses),
        ("/v1/responses", response()),
        ("/api/chat", ollama),
        (
            "/api/generate",
            json!({"model": MODEL, "prompt": "a", "format": {"type": "object"}, "raw": true}),
        ),
        ("/api/show", json!({"model": MODEL})),
        ("/api/pull", json!({"model": MODEL, "stream": true})),
        ("/api/delete", json!({"model": MODEL})),
        ("/tokenize", json!({"content": "a", "add_special": true, "with_pieces": true})),
        ("/detokenize", json!({"tokens": [1, 2, 3]})),
        ("/apply-template", json!({"messages": [{"role": "user", "content": "a"}]})),
        ("/v1/processes", process()),
        ("/v1/processes/1", json!({"nice": ["batch", 2]})),
        ("/render", json!({"markdown": "# a\n[b](c)"})),
    ]
}

#[tokio::test]
async fn ten_thousand_mutated_bodies_are_no_fault_of_ours() {
    let app = app();
    let seeds = seeds();
    let mut dice = Dice(2026);
    let mut answered = 0;
    for round in 0..10_000 {
        let (path, seed) = &seeds[round % seeds.len()];
        let mut body = seed.clone();
        for _ in 0..=dice.roll(4) / 3 {
            dice.mutate(&mut body);
        }
        let mut bytes = body.to_string().into_bytes();
        // A quarter also as bytes: cut, flipped, doubled.
        match dice.roll(12) {
            0 => bytes.truncate(dice.roll(bytes.len())),
            1 if !bytes.is_empty() => {
                let at = dice.roll(bytes.len());
                bytes[at] = dice.roll(256) as u8;
            }
            2 => bytes.extend(bytes.clone()),
            _ => {}
        }
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let (status, reply) = post(&app, path, bytes).await;
        assert!(status < 500, "round {round}: {path} {shown}: {status} {reply}");
        if status >= 400 {
            let error: Value = serde_json::from_str(&reply).expect("an error in JSON");
            assert!(!error["error"].is_null(), "round {round}: {reply}");
        } else {
            answered += 1;
        }
    }
    assert!(
        (500..9_500).contains(&answered),
        "{answered} were answered: the mutations do not bite"
    );
}

/// Numbers that stand in lists and maps: the path, the field, and a body that has one at `PLACE`.
const INNER: &[(&str, &str, &str)] = &[
    ("/v1/completions", "prompt", r#"{"model": MODEL, "prompt": [97, PLACE]}"#),
    ("/v1/completions", "prompt", r#"{"model": MODEL, "prompt": [[97, PLACE]]}"#),
    (
        "/v1/completions",
        "logit_bias",
        r#"{"model": MODEL, "prompt": "a", "logit_bias": {"5": PLACE}}"#,
    ),
    (
        "/v1/completions",
        "logit_bias",
        r#"{"model": MODEL, "prompt": "a", "logit_bias": {"PLACE": 1}}"#,
    ),
    (
        "/v1/chat/completions",
        "logit_bias",
        r#"{"model": MODEL, "messages": [{"role": "user", "content": "a"}], "logit_bias": {"5": PLACE}}"#,
    ),
    (
        "/v1/chat/completions",
        "messages.tool_calls.index",
        r#"{"model": MODEL, "messages": [{"role": "assistant", "tool_calls": [{"index": PLACE, "id": "c",
            "type": "function", "function": {"name": "f", "arguments": "{}"}}]}]}"#,
    ),
    (
        "/apply-template",
        "messages.tool_calls.index",
        r#"{"messages": [{"role": "assistant", "tool_calls": [{"index": PLACE, "id": "c",
            "type": "function", "function": {"name": "f", "arguments": "{}"}}]}]}"#,
    ),
    ("/api/generate", "context", r#"{"model": MODEL, "prompt": "a", "context": [PLACE]}"#),
    ("/v1/embeddings", "input", r#"{"model": MODEL, "input": [97, PLACE]}"#),
    (
        "/v1/chats",
        "conversations.created_at",
        r#"{"conversations": [{"messages": [{"role": "user", "content": "a"}], "created_at": PLACE}]}"#,
    ),
    (
        "/v1/chats",
        "conversations.updated_at",
        r#"{"conversations": [{"messages": [{"role": "user", "content": "a"}], "updated_at": PLACE}]}"#,
    ),
    ("/detokenize", "tokens", r#"{"tokens": [97, PLACE]}"#),
    ("/v1/processes/1", "nice", r#"{"nice": ["batch", PLACE]}"#),
];

#[tokio::test]
async fn numbers_in_lists_and_maps_are_refused() {
    let app = app();
    let numbers = [
        "-101",
        "-1e300",
        "1099511627776",
        "18446744073709551616",
        "1e300",
        "NaN",
        "\"x\"",
        "[1]",
        "true",
    ];
    for (path, field, body) in INNER {
        for number in numbers {
            // A key of a map is a text already.
            let quoted = body.contains("\"PLACE\"");
            let number = if quoted { number.trim_matches('"') } else { number };
            let text = body.replace("MODEL", &json!(MODEL).to_string()).replace("PLACE", number);
            let (status, reply) = post(&app, path, text.clone().into_bytes()).await;
            assert_eq!(status, 400, "{path} {text}: {reply}");
            let last = field.rsplit('.').next().unwrap_or(field);
            let broken = number == "NaN" && !quoted;
            assert!(broken || reply.contains(last), "{path} {text}: {reply}");
        }
    }
    for path in ["/v1/processes/x", "/v1/processes/-1", "/v1/processes/18446744073709551616"] {
        let (status, reply) = post(&app, path, br#"{"signal": "kill"}"#.to_vec()).await;
        let error: Value = serde_json::from_str(&reply).unwrap_or_default();
        assert_eq!((status, &error["error"]["param"]), (400, &json!("pid")), "{path}: {reply}");
    }
    for limit in ["-1", "0", "x", "NaN", "1.5", "1e300", "18446744073709551616", "99999999"] {
        let request = Request::get(format!("/v1/files?limit={limit}")).header("host", "localhost");
        let request = request.body(Body::empty()).expect("a request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        assert_eq!(status, 400, "limit={limit}: {bytes:?}");
        assert!(String::from_utf8_lossy(&bytes).contains("limit"), "limit={limit}: {bytes:?}");
    }
}

/// The tables above name every number that a body may hold, as the OpenAPI document lists them.
#[tokio::test]
async fn every_numeric_field_is_in_a_table() {
    let request = Request::get("/openapi.json").header("host", "localhost").body(Body::empty());
    let response = app().oneshot(request.expect("a request")).await.expect("infallible");
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    let document: Value = serde_json::from_slice(&bytes).expect("JSON");
    let mut missing = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").values() {
            let schema = &method["requestBody"]["content"]["application/json"]["schema"];
            let mut fields = Vec::new();
            numbers(schema, &document, "", 0, &mut fields);
            for field in fields {
                let tables = [WHOLE, NEGATIVE, SEEDS, FRACTIONS];
                let here = |of: &Field| (of.0, of.2) == (path, &*field);
                let known = tables.into_iter().flatten().any(here)
                    || INNER.iter().any(|of| (of.0, of.1) == (path, &*field));
                if !known {
                    missing.push(format!("{path} {field}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "in no table: {missing:#?}");
}

/// Paths of the numbers in a schema.
fn numbers(schema: &Value, document: &Value, path: &str, depth: usize, found: &mut Vec<String>) {
    if depth > 8 {
        return;
    }
    if let Some(name) = schema["$ref"].as_str() {
        let of = document.pointer(name.trim_start_matches('#')).expect("a schema");
        return numbers(of, document, path, depth + 1, found);
    }
    let is = |name: &str| {
        schema["type"] == name
            || schema["type"].as_array().is_some_and(|types| types.contains(&json!(name)))
    };
    if (is("integer") || is("number")) && !found.iter().any(|known| known == path) {
        found.push(path.to_string());
    }
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        numbers(of, document, &path, depth + 1, found);
    }
    for list in ["oneOf", "anyOf", "allOf"] {
        for of in schema[list].as_array().into_iter().flatten() {
            numbers(of, document, path, depth + 1, found);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            numbers(&schema[inner], document, path, depth + 1, found);
        }
    }
}
