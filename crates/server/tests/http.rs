//! Every route over the scripted fakes, in process.

mod scripted;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use scripted::{CONTEXT, Fake, MODEL, Memory, OneModel, TwoKeys};
use serde_json::{Value, json};
use tower::ServiceExt;
use yushan_abi::{Keep, Overflow, Prompt, Sources, ToolChoice};
use yushan_server::{Doors, Server, router};

struct House {
    app: Router,
    fake: Arc<Fake>,
    disk: Arc<Memory>,
    keys: Arc<TwoKeys>,
}

fn house(open: bool) -> House {
    let (fake, disk) = (Arc::new(Fake::default()), Arc::new(Memory::default()));
    let keys = Arc::new(TwoKeys::new(open));
    let mut server = Server::new(fake.clone(), disk.clone(), Arc::new(OneModel), keys.clone());
    server.index = Some(disk.clone());
    server.doors = Doors::default().origin("https://chat.example.org");
    server.deadline = Duration::from_millis(200);
    House { app: router(Arc::new(server)), fake, disk, keys }
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The values of the `data:` lines, without `[DONE]`.
    fn events(&self) -> Vec<Value> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
        let values = lines.filter(|line| *line != "[DONE]");
        values.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn lines(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl House {
    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.app.clone().oneshot(request).await.expect("infallible");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        Reply { status, headers, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    async fn as_key(&self, key: &str, method: &str, path: &str, body: &Value) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(request.body(Body::from(body)).expect("a request")).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.as_key("", "POST", path, &body).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.as_key("", "GET", path, &Value::Null).await
    }

    fn last(&self) -> yushan_abi::Request {
        self.fake.last.lock().unwrap().clone().expect("a request")
    }
}

fn chat(text: &str) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": text}]})
}

/// `base` with the fields of `more`.
fn with(mut base: Value, more: Value) -> Value {
    for (name, value) in more.as_object().expect("an object") {
        base[name] = value.clone();
    }
    base
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "weather", "description": "d", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}})
}

#[tokio::test]
async fn models_are_listed_and_described() {
    let house = house(true);
    let list = house.get("/v1/models").await.json();
    assert_eq!(list["data"][0]["id"], MODEL);
    assert_eq!(list["data"][0]["context_length"], CONTEXT);
    assert_eq!(house.get(&format!("/v1/models/{MODEL}")).await.json()["object"], "model");
    let reply = house.get("/v1/models/none").await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_chat_is_answered_whole() {
    let house = house(true);
    let reply = house.post("/v1/chat/completions", chat("hello")).await;
    let body = reply.json();
    assert_eq!(reply.status, 200, "{body}");
    assert!(body["id"].as_str().expect("an id").starts_with("chatcmpl-"));
    assert_eq!(body["choices"][0]["message"]["content"], "You said: hello");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let prompt = "<user>hello".len();
    assert_eq!(body["usage"]["prompt_tokens"], prompt);
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], prompt / 2);
    let window = json!({"limit": CONTEXT, "prompt_tokens": prompt, "cached_tokens": prompt / 2,
                        "dropped_tokens": 0});
    assert_eq!(body["context"], window);
}

#[tokio::test]
async fn a_chat_is_streamed_in_the_order_clients_expect() {
    let house = house(true);
    let body = with(
        chat("hello you"),
        json!({"stream": true, "n": 2,
        "stream_options": {"include_usage": true}}),
    );
    let reply = house.post("/v1/chat/completions", body).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert!(reply.text.ends_with("data: [DONE]\n\n"));
    let events = reply.events();
    let first = &events[0]["choices"][0]["delta"];
    assert_eq!((&first["role"], &first["content"]), (&json!("assistant"), &Value::Null));
    assert!(events.iter().all(|event| event["id"] == events[0]["id"]));
    for index in 0..2 {
        let own = events.iter().filter_map(|event| event["choices"].get(0));
        let own: Vec<_> = own.filter(|choice| choice["index"] == index).collect();
        let text: String =
            own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, "You said: hello you");
        let last = own.last().expect("choices");
        assert_eq!((&last["finish_reason"], &last["delta"]), (&json!("stop"), &json!({})));
    }
    let usage = events.last().expect("events");
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 8);
}

#[tokio::test]
async fn fields_reach_the_request() {
    let house = house(true);
    let body = with(
        chat("hello"),
        json!({
            "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": -3, "n": 2,
            "frequency_penalty": -1, "presence_penalty": 2, "logit_bias": {"17": -100}, "stop": "x",
            "max_completion_tokens": 9, "tools": [tool()], "tool_choice": "required",
            "parallel_tool_calls": false, "logprobs": true, "top_logprobs": 3, "service_tier": "flex",
            "overflow": "truncate_oldest", "user": "me", "metadata": {"a": "b"},
        }),
    );
    let reply = house.post("/v1/chat/completions", body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.headers["x-yushan-ignored"], "metadata, user");
    let request = house.last();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.5, 0.9, 7));
    assert_eq!((sampling.seed as i64, &*sampling.logit_bias), (-2, &[(17, -100.0)][..]));
    assert_eq!((request.max_tokens, request.logprobs), (Some(9), Some(3)));
    assert_eq!((request.tool_choice, request.parallel_calls), (ToolChoice::Required, false));
    assert_eq!((request.overflow, request.stops), (Overflow::TruncateOldest, vec!["x".into()]));
    let Prompt::Chat(messages) = request.prompt else { panic!("a chat") };
    assert!(messages[0].label().sources.contains(Sources::USER));
}

#[tokio::test]
async fn what_a_tool_gave_back_is_not_trusted() {
    let house = house(true);
    let body = json!({"model": MODEL, "tools": [tool()], "messages": [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_0", "content": "rain"},
    ]});
    let reply = house.post("/v1/chat/completions", body).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "You said: rain");
    let Prompt::Chat(messages) = house.last().prompt else { panic!("a chat") };
    let trusted: Vec<_> = messages.iter().map(|message| message.label().is_trusted()).collect();
    assert_eq!(trusted, [true, true, true, false]);
    assert_eq!(messages[3].answers.as_deref(), Some("call_0"));
    assert_eq!(messages[3].name.as_deref(), Some("weather"));
}

#[tokio::test]
async fn tools_are_called_whole_and_in_pieces() {
    let house = house(true);
    let body = with(chat("the weather?"), json!({"tools": [tool()]}));
    let whole = house.post("/v1/chat/completions", body.clone()).await.json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], r#"{"city":"text"}"#);
    let streamed =
        house.post("/v1/chat/completions", with(body, json!({"stream": true}))).await.events();
    let deltas =
        streamed.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0));
    let deltas: Vec<_> = deltas.collect();
    assert_eq!((&deltas[0]["id"], &deltas[0]["type"]), (&json!("call_0"), &json!("function")));
    let pieces = deltas.iter().map(|delta| delta["function"]["arguments"].as_str().expect("text"));
    assert_eq!(pieces.collect::<String>(), r#"{"city":"text"}"#);
}

#[tokio::test]
async fn logprobs_and_forms_are_told() {
    let house = house(true);
    let body = with(chat("a"), json!({"logprobs": true, "top_logprobs": 2}));
    let reply = house.post("/v1/chat/completions", body).await.json();
    let content = &reply["choices"][0]["logprobs"]["content"];
    assert_eq!(content[0]["logprob"], -0.5);
    assert_eq!(content[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for (format, expected) in [
        (format, r#"{"n":7}"#),
        (json!({"type": "json_object"}), r#"{"answer":"a"}"#),
        (json!({"type": "text"}), "You said: a"),
    ] {
        let body = with(chat("a"), json!({"response_format": format}));
        let reply = house.post("/v1/chat/completions", body).await.json();
        assert_eq!(reply["choices"][0]["message"]["content"], expected);
    }
}

#[tokio::test]
async fn completions_take_text_texts_and_tokens() {
    let house = house(true);
    let ask = |more| with(json!({"model": MODEL, "prompt": "ab"}), more);
    for (more, texts) in [
        (json!({}), vec![" and so on and on"]),
        (json!({"echo": true, "max_tokens": 0}), vec!["ab"]),
        (
            json!({"prompt": ["ab", "cd"], "echo": true, "max_tokens": 2}),
            vec!["ab and ", "cd and "],
        ),
        (json!({"prompt": [97, 98], "echo": true, "max_tokens": 0}), vec!["ab"]),
        (json!({"prompt": [[97], [98]], "echo": true, "max_tokens": 0}), vec!["a", "b"]),
        (json!({"n": 2, "best_of": 2, "stop": [" on"]}), vec![" and so", " and so"]),
    ] {
        let reply = house.post("/v1/completions", ask(more.clone())).await;
        let body = reply.json();
        let choices = body["choices"].as_array().unwrap_or_else(|| panic!("{body}"));
        let found: Vec<_> =
            choices.iter().map(|choice| choice["text"].as_str().expect("text")).collect();
        assert_eq!(found, texts, "{more}");
        assert_eq!(choices.last().expect("one")["index"], texts.len() - 1);
    }
    let body = ask(json!({"echo": true, "logprobs": 1, "max_tokens": 1}));
    let logprobs = &house.post("/v1/completions", body).await.json()["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["a", "b", " "]));
    assert_eq!(logprobs["token_logprobs"], json!([null, -0.5, -0.5]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2]));
    let body = ask(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = house.post("/v1/completions", body).await.events();
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, " and so on and on");
    assert_eq!(events.last().expect("usage")["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn refusals_have_their_status_and_code() {
    let house = house(true);
    for (text, status, code) in [
        ("be busy", 429, "rate_limit_exceeded"),
        ("be refused late", 400, "context_length_exceeded"),
        ("be too big", 507, "no_room"),
        ("fail", 500, ""),
        ("vanish", 500, ""),
    ] {
        let reply = house.post("/v1/chat/completions", chat(text)).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, error["code"].as_str().unwrap_or("")), (status, code), "{text}");
    }
    let busy = house.post("/v1/chat/completions", chat("be busy")).await;
    assert_eq!(busy.headers["retry-after"], "2");
    let long = house.post("/v1/chat/completions", chat(&"x".repeat(CONTEXT))).await.json();
    let said = long["error"]["message"].as_str().expect("a message");
    assert!(said.contains("4096") && said.contains("4102"), "{said}");
    for (path, field) in [("/v1/completions", "prompt"), ("/v1/responses", "input")] {
        let body = with(json!({"model": MODEL}), json!({field: "x".repeat(CONTEXT + 1)}));
        let error = house.post(path, body).await.json();
        assert_eq!(error["error"]["code"], "context_length_exceeded", "{error}");
        assert_eq!(error["error"]["param"], field);
    }
    // In the middle of a stream an error is an event.
    for text in ["fail", "vanish"] {
        let body =
            with(chat(text), json!({"stream": true, "stream_options": {"include_usage": true}}));
        let reply = house.post("/v1/chat/completions", body).await;
        assert_eq!(reply.status, 200);
        let events = reply.events();
        assert_eq!(events.last().expect("an error")["error"]["type"], "server_error", "{text}");
    }
    let late = with(chat("be refused late"), json!({"stream": true}));
    assert_eq!(house.post("/v1/chat/completions", late).await.status, 400);
}

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
async fn ollama_answers_in_lines() {
    let house = house(true);
    let reply = house.post("/api/chat", chat("hello")).await;
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    let lines = reply.lines();
    let text: String =
        lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    assert_eq!(text, "You said: hello");
    let last = lines.last().expect("lines");
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&json!(11), &json!(3)));
    assert!(last["total_duration"].as_u64() >= last["eval_duration"].as_u64());

    let body = with(chat("weather"), json!({"stream": false, "tools": [tool()]}));
    let reply = house.post("/api/chat", body).await.json();
    assert_eq!(reply["message"]["tool_calls"][0]["function"]["arguments"], json!({"city": "text"}));
    let body = json!({"model": format!("{MODEL}:latest"), "prompt": "hi", "system": "s", "stream": false,
        "options": {"num_predict": 2, "temperature": 0, "num_ctx": CONTEXT}, "think": false});
    let reply = house.post("/api/generate", body).await;
    assert_eq!(reply.headers["x-yushan-ignored"], "think");
    assert_eq!(
        (&reply.json()["response"], &reply.json()["done_reason"]),
        (&json!("You said: "), &json!("length"))
    );
    let reply = house.post("/api/generate", json!({"model": MODEL})).await.json();
    assert_eq!(reply["done_reason"], "load");
    let body = json!({"model": MODEL, "prompt": "hi", "format": "json", "stream": false});
    assert_eq!(house.post("/api/generate", body).await.json()["response"], r#"{"answer":"hi"}"#);
    let failed = house.post("/api/chat", chat("fail")).await.lines();
    assert_eq!(failed.last().expect("a line")["error"], "the disk is on fire");
}

#[tokio::test]
async fn ollama_keeps_models_as_long_as_clients_say() {
    let house = house(true);
    let minute = Some(Keep::For(Duration::from_secs(60)));
    for (keep_alive, prompt, reason, kept, expires) in [
        (json!("1m"), "", "load", minute, json!("2027-01-15T08:00:00Z")),
        (json!(-1), "", "load", Some(Keep::Forever), json!("9999-12-31T23:59:59Z")),
        (json!(60.0), "hi", "stop", minute, json!("2027-01-15T08:00:00Z")),
        (json!("0"), "", "unload", Some(Keep::For(Duration::ZERO)), Value::Null),
    ] {
        // Its alias will do.
        let body =
            json!({"model": "tiny", "prompt": prompt, "stream": false, "keep_alive": keep_alive});
        let reply = house.post("/api/generate", body).await;
        assert_eq!(reply.json()["done_reason"], reason, "{keep_alive}");
        assert!(!reply.headers.contains_key("x-yushan-ignored"), "{keep_alive}");
        assert_eq!(*house.fake.kept.lock().unwrap(), kept, "{keep_alive}");
        let running = &house.get("/api/ps").await.json()["models"][0];
        assert_eq!(running["expires_at"], expires, "{keep_alive}");
        assert!(running.is_null() || running["size"] == 2048, "{running}");
    }
    for wrong in [json!("soon"), json!([]), json!("5")] {
        let body = json!({"model": MODEL, "messages": [], "keep_alive": wrong});
        let reply = house.post("/api/chat", body).await;
        let good = wrong == json!("5");
        assert_eq!(reply.status, if good { 200 } else { 400 }, "{wrong}");
        assert!(good || reply.json()["error"].as_str().unwrap().starts_with("keep_alive: "));
    }
}

#[tokio::test]
async fn ollama_lists_shows_and_pulls() {
    let house = house(true);
    assert_eq!(house.get("/").await.text, "Ollama is running");
    assert!(house.get("/api/version").await.json()["version"].is_string());
    let tag = &house.get("/api/tags").await.json()["models"][0];
    assert_eq!(
        (&tag["model"], &tag["details"]["parameter_size"]),
        (&json!(MODEL), &json!("260.0K"))
    );
    assert_eq!(
        house.get("/api/ps").await.json()["models"][0]["expires_at"],
        "2027-01-15T08:00:00Z"
    );
    let shown = house.post("/api/show", json!({"model": MODEL})).await.json();
    assert_eq!(shown["model_info"]["llama.context_length"], CONTEXT);
    let lines = house.post("/api/pull", json!({"model": MODEL})).await.lines();
    assert_eq!((lines.len(), &lines[3]["status"]), (4, &json!("success")));
    let failed = house.post("/api/pull", json!({"name": "none", "stream": false})).await;
    assert_eq!(
        (failed.status, failed.json()),
        (404, json!({"error": "there is no model \"none\""}))
    );
    for (path, body, status) in [
        ("/api/embed", json!({"model": MODEL, "input": ""}), 400),
        ("/api/show", json!({"model": "none"}), 404),
        (
            "/api/chat",
            json!({"model": MODEL, "messages": [{"role": "user", "content": "a", "images": ["b"]}]}),
            400,
        ),
        ("/api/nothing", json!({}), 404),
        ("/api/tags", json!({}), 405),
    ] {
        let reply = house.post(path, body).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.json()["error"].is_string(), "{path}");
    }
    let reply = house.as_key("", "DELETE", "/api/delete", &json!({"model": MODEL})).await;
    assert_eq!(reply.status, 409);
}

#[tokio::test]
async fn responses_are_kept_and_continued() {
    let house = house(true);
    let ask = |more| with(json!({"model": MODEL, "input": "one"}), more);
    let first = house.post("/v1/responses", ask(json!({"instructions": "be kind"}))).await.json();
    assert_eq!(first["status"], "completed", "{first}");
    assert_eq!(first["output"][0]["content"][0]["text"], "You said: one");
    let id = first["id"].as_str().expect("an id");
    assert_eq!(house.get(&format!("/v1/responses/{id}")).await.json(), first);
    let items = house.get(&format!("/v1/responses/{id}/input_items")).await.json();
    assert_eq!(items["data"][0]["content"][0]["text"], "one");
    let body =
        ask(json!({"input": [{"role": "user", "content": "two"}], "previous_response_id": id}));
    assert_eq!(house.post("/v1/responses", body).await.json()["status"], "completed");
    let Prompt::Chat(messages) = house.last().prompt else { panic!("a chat") };
    let texts: Vec<_> = messages.iter().map(yushan_abi::Message::text).collect();
    assert_eq!(texts, ["one", "You said: one", "two"], "instructions are not inherited");
    let other = house.as_key("key-bob", "GET", &format!("/v1/responses/{id}"), &Value::Null).await;
    assert_eq!(other.status, 404, "whose it is not");
    let gone = house.as_key("", "DELETE", &format!("/v1/responses/{id}"), &Value::Null).await;
    assert_eq!(gone.json()["deleted"], true);
    assert_eq!(house.get(&format!("/v1/responses/{id}")).await.status, 404);
    let body = ask(json!({"previous_response_id": id}));
    assert_eq!(house.post("/v1/responses", body).await.status, 404);
    let unkept = house.post("/v1/responses", ask(json!({"store": false}))).await.json();
    let id = unkept["id"].as_str().expect("an id");
    assert_eq!(house.get(&format!("/v1/responses/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_response_is_streamed_in_the_documented_order() {
    let house = house(true);
    let tools = json!([{"type": "function", "name": "weather", "parameters": tool()["function"]["parameters"]}]);
    for (input, items) in [
        (
            "hello",
            vec![
                "content_part.added",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
            ],
        ),
        ("weather", vec!["function_call_arguments.delta", "function_call_arguments.done"]),
    ] {
        let body = json!({"model": MODEL, "input": input, "stream": true, "tools": tools});
        let reply = house.post("/v1/responses", body).await;
        let events = reply.events();
        let mut names: Vec<_> =
            events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
        names.dedup();
        let inner = items.iter().map(|name| format!("response.{name}"));
        let outer = |names: [&str; 3]| names.map(|name| format!("response.{name}"));
        let expected: Vec<_> = outer(["created", "in_progress", "output_item.added"])
            .into_iter()
            .chain(inner)
            .chain(["response.output_item.done".to_string(), "response.completed".to_string()])
            .collect();
        assert_eq!(names, expected);
        let numbers =
            events.iter().map(|event| event["sequence_number"].as_u64().expect("a number"));
        assert!(numbers.eq(0..events.len() as u64));
        let last = &events.last().expect("events")["response"];
        let id = last["id"].as_str().expect("an id");
        assert_eq!(&house.get(&format!("/v1/responses/{id}")).await.json(), last);
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_acknowledged() {
    let house = house(true);
    house.disk.full.store(true, Ordering::SeqCst);
    let ask = |more| with(json!({"model": MODEL, "input": "one"}), more);
    for more in [json!({}), json!({"background": true})] {
        assert_eq!(house.post("/v1/responses", ask(more)).await.status, 507);
    }
    let events = house.post("/v1/responses", ask(json!({"stream": true}))).await.events();
    assert!(events.iter().all(|event| event["type"] != "response.completed"));
    assert_eq!(events.last().expect("an error")["type"], "error");
}

#[tokio::test]
async fn background_responses_end_or_are_cancelled() {
    let house = house(true);
    let ask = |input: &str| json!({"model": MODEL, "input": input, "background": true});
    let ended = async |input: &str| {
        let queued = house.post("/v1/responses", ask(input)).await.json();
        assert_eq!(queued["status"], "queued");
        let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
        for _ in 0..1000 {
            let now = house.get(&path).await.json();
            if !matches!(now["status"].as_str(), Some("queued" | "in_progress")) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{input}: it does not end");
    };
    let done = ended("hello").await;
    assert_eq!(done["output"][0]["content"][0]["text"], "You said: hello");
    assert_eq!(ended("fail").await["error"]["message"], "the disk is on fire");
    // What is refused at once was never queued.
    let refused = house.post("/v1/responses", ask("be busy")).await;
    assert_eq!((refused.status, &refused.headers["retry-after"]), (429, &"2".parse().unwrap()));
    let queued = house.post("/v1/responses", ask("go on forever")).await.json();
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    let cancelled = house.post(&format!("{path}/cancel"), Value::Null).await.json();
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(house.get(&path).await.json()["status"], "cancelled");
    assert_eq!(house.as_key("", "DELETE", &path, &Value::Null).await.json()["deleted"], true);
}

#[tokio::test]
async fn files_are_kept_for_their_owner() {
    let house = house(true);
    let form = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n--b\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nhello\r\n--b--\r\n";
    let send = |form: &str| {
        let request = Request::post("/v1/files").header("host", "localhost");
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        request.body(Body::from(form.to_string())).expect("a request")
    };
    let file = house.send(send(form)).await.json();
    assert_eq!((&file["bytes"], &file["filename"]), (&json!(5), &json!("a.txt")), "{file}");
    let path = format!("/v1/files/{}", file["id"].as_str().expect("an id"));
    assert_eq!(house.get(&path).await.json(), file);
    assert_eq!(house.get(&format!("{path}/content")).await.text, "hello");
    assert_eq!(house.get("/v1/files").await.json()["data"], json!([file]));
    for path in [path.clone(), format!("{path}/content")] {
        assert_eq!(house.as_key("key-bob", "GET", &path, &Value::Null).await.status, 404);
    }
    assert_eq!(house.as_key("key-bob", "DELETE", &path, &Value::Null).await.status, 404);
    assert_eq!(house.as_key("", "DELETE", &path, &Value::Null).await.json()["deleted"], true);
    for bad in [
        "",
        "--b--\r\n",
        &form.replace("user_data", "fun"),
        &form[..60],
        &form.replace("purpose", "x"),
    ] {
        assert_eq!(house.send(send(bad)).await.status, 400, "{bad}");
    }
}

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
    let source = include_str!("../src/routes.rs");
    let pages = ["/", "/page.js", "/page.css", "/openapi.json", "/api/embeddings"];
    let routes = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let routes: Vec<_> = routes.filter(|route| !pages.contains(route)).collect();
    assert!(routes.len() > 20);
    for route in routes {
        let path = route.replace("{*id}", "{id}");
        assert!(document["paths"][&path].is_object(), "{path}");
    }
}

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

#[tokio::test]
async fn texts_are_embedded_in_their_order() {
    let house = house(true);
    let half = json!([0.0, 1.0, 0.0, 0.0]);
    let embed = async |more: Value| {
        let base = json!({"model": MODEL, "input": "aa"});
        house.post("/v1/embeddings", with(base, more)).await
    };
    let body = embed(json!({"user": "ann"})).await;
    assert_eq!(body.headers["x-yushan-ignored"], "user");
    let body = body.json();
    assert_eq!(body["data"], json!([{"object": "embedding", "index": 0, "embedding": half}]));
    assert_eq!(body["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}));
    let many: Vec<String> = (1..50).map(|n| "a".repeat(n)).collect();
    let body = embed(json!({"input": many, "encoding_format": "base64"})).await.json();
    assert_eq!(body["usage"]["total_tokens"], 49 * 25);
    assert_eq!(body["data"][48]["index"], 48);
    assert_eq!(body["data"][48]["embedding"], "AAAAAAAAgD8AAAAAAAAAAA==");
    for input in [json!([97]), json!([[97], [97, 97]]), json!(["a", "a"])] {
        let body = embed(json!({"input": input, "dimensions": 4})).await.json();
        assert_eq!(body["data"][0]["embedding"], half, "{body}");
    }
    for (more, param) in [
        (json!({"dimensions": 3}), "dimensions"),
        (json!({"dimensions": 0}), "dimensions"),
        (json!({"input": []}), "input"),
        (json!({"input": [""]}), "input"),
        (json!({"input": {}}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": "a".repeat(CONTEXT + 1)}), "input"),
        (json!({"encoding_format": "int8"}), "encoding_format"),
        (json!({"input_type": "query"}), "input_type"),
    ] {
        let reply = embed(more.clone()).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{more}");
    }
    let body = json!({"model": MODEL, "input": ["a", "aa"], "options": {"num_ctx": 64}});
    let reply = house.post("/api/embed", body).await;
    assert_eq!(reply.headers["x-yushan-ignored"], "options");
    let body = reply.json();
    assert_eq!(body["embeddings"], json!([half, half]));
    assert_eq!((&body["prompt_eval_count"], &body["dropped_tokens"]), (&json!(3), &json!(0)));
    let body = json!({"model": MODEL, "prompt": "a"});
    assert_eq!(house.post("/api/embeddings", body).await.json()["embedding"], half);
    let body = json!({"model": MODEL, "input": "a", "truncate": true});
    assert_eq!(house.post("/api/embed", body).await.status, 200);
    assert_eq!(house.last().overflow, Overflow::TruncateOldest);
}

#[tokio::test]
async fn conversations_are_kept_found_and_given_back_as_they_were() {
    let house = house(true);
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c1",
        "type": "function", "function": {"name": "weather", "arguments": "{}"}}]});
    let messages = json!([
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "rain\n in  Taipei?"}]},
        call,
        {"role": "tool", "tool_call_id": "c1", "content": "much"},
    ]);
    let chat = json!({"id": "one", "model": MODEL, "created_at": 7, "updated_at": 9,
        "messages": messages});
    let keep = async |key, chats: Value| {
        house.as_key(key, "POST", "/v1/chats", &json!({ "conversations": chats })).await
    };
    let get = async |key, path: &str| house.as_key(key, "GET", path, &Value::Null).await;
    let other = json!({"title": "Snow", "messages": [{"role": "user", "content": "cold?"}]});
    let body = keep("key-ann", json!([chat, other])).await.json();
    let head = json!({"id": "one", "object": "chat", "title": "rain in Taipei?", "model": MODEL,
        "created_at": 7, "updated_at": 9, "messages": 4});
    assert_eq!(body["data"][0], head);
    assert_eq!(get("key-ann", "/v1/chats/one").await.json(), chat);
    for (path, count) in [
        ("/v1/chats", 2),
        ("/v1/chats?limit=1", 1),
        ("/v1/chats?after=one", 0),
        ("/v1/chats?q=Taipei", 1),
        ("/v1/chats?q=Snow", 1),
        ("/v1/chats?q=kind", 0),
    ] {
        let list = get("key-ann", path).await.json();
        assert_eq!(list["data"].as_array().expect("a list").len(), count, "{path}: {list}");
    }
    // The same name is another conversation for somebody else, who has none yet.
    assert_eq!(get("key-bob", "/v1/chats/one").await.status, 404);
    assert_eq!(house.as_key("key-bob", "DELETE", "/v1/chats/one", &Value::Null).await.status, 404);
    assert_eq!(get("key-bob", "/v1/chats?q=Taipei").await.json()["data"], json!([]));
    keep("key-bob", json!([{"id": "one", "messages": [{"role": "user", "content": "b"}]}])).await;
    assert_eq!(get("key-ann", "/v1/chats/one").await.json(), chat);
    // One that makes no sense, and none is kept.
    for (bad, param) in [
        (json!({"id": "a/b", "messages": messages}), "conversations[1].id"),
        (json!({"id": "new", "messages": messages}), "conversations[1].id"),
        (json!({"messages": []}), "conversations[1].messages"),
        (json!({"messages": [{"role": "king"}]}), "conversations[1].messages[0].role"),
        (json!({"messages": [7]}), "conversations[1].messages[0]"),
        (json!({"messages": messages, "x": 1}), "conversations[1].x"),
        (json!({"messages": messages, "created_at": -1}), "conversations[1].created_at"),
    ] {
        let reply = keep("key-ann", json!([{"id": "new", "messages": messages}, bad])).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{bad}");
        assert_eq!(get("key-ann", "/v1/chats/new").await.status, 404, "{bad}");
    }
    for path in ["/v1/chats?limit=0", "/v1/chats?limit=x", "/v1/chats?q=a&after=b", "/v1/chats?x=1"]
    {
        assert_eq!(get("key-ann", path).await.status, 400, "{path}");
    }
    let gone = house.as_key("key-ann", "DELETE", "/v1/chats/one", &Value::Null).await;
    assert_eq!(gone.json(), json!({"id": "one", "object": "chat", "deleted": true}));
    assert_eq!(get("key-ann", "/v1/chats?q=Taipei").await.json()["data"], json!([]));
    assert_eq!(get("key-bob", "/v1/chats/one").await.status, 200);
    house.disk.full.store(true, Ordering::SeqCst);
    assert_eq!(keep("key-ann", json!([chat])).await.status, 507);
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

/// Every route of the table, with every method it has, is behind the guards; those that need no key are listed here.
#[tokio::test]
async fn no_route_has_a_way_around_the_guards() {
    let house = house(false);
    let open = ["/", "/page.js", "/page.css", "/health", "/openapi.json"];
    let source = include_str!("../src/routes.rs");
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
