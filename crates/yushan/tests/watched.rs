//! The system as those who run it meet it: limits of keys, lines of the log, counters, spans.

mod folder;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use folder::{finish, folder, yushan};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running system; it ends with the test.
struct System {
    child: Child,
    address: String,
    /// Lines of stderr after the address.
    lines: Receiver<String>,
}

impl System {
    fn start(mut command: Command) -> System {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = stderr.find_map(|line| {
            line.unwrap().strip_prefix("Ollama").map(|address| address.trim().to_string())
        });
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        System { child, address: address.unwrap(), lines }
    }

    /// Status, headers and body.
    fn ask(&self, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> (u16, Value) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = format!("{}{path}", self.address);
        let mut answer = match body {
            None => {
                let request = agent.get(&url);
                headers.iter().fold(request, |r, (name, value)| r.header(*name, *value)).call()
            }
            Some(body) => {
                let request = agent.post(&url).content_type("application/json");
                let request =
                    headers.iter().fold(request, |r, (name, value)| r.header(*name, *value));
                request.send(body.to_string())
            }
        }
        .unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Ends as with Ctrl-C.
    fn interrupt(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn serve(folder: &Path, flags: &str) -> Command {
    yushan(folder, &format!("serve model.gguf --port 0 --threads 1 {flags}"))
}

fn question() -> Value {
    json!({
        "model": "model",
        "messages": [{ "role": "user", "content": "a secret" }],
        "max_tokens": 8,
        "temperature": 0,
        "logit_bias": { "2": -100 },
    })
}

fn out(folder: &Path, arguments: &str) -> String {
    let (code, out, error) = finish(yushan(folder, arguments));
    assert_eq!(code, Some(0), "{arguments}: {error}");
    out
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn keys_have_limits_that_hold_after_a_restart() {
    let folder = folder();
    let folder = folder.path();
    let key = out(folder, "keys new ann --tokens-per-day 40 --concurrent 2");
    let bearer = format!("Bearer {}", key.trim());
    let authorization = [("authorization", bearer.as_str())];
    let ask =
        |system: &System| system.ask("/v1/chat/completions", Some(&question()), &authorization);
    let mut system = System::start(serve(folder, "--require-key"));
    let (status, first) = ask(&system);
    assert_eq!(status, 200, "{first}");
    let tokens = first["usage"]["total_tokens"].as_u64().unwrap();
    let fit = 40_u64.div_ceil(tokens);
    (1..fit).for_each(|_| assert_eq!(ask(&system).0, 200));
    // Killed without warning, once the charges were written, which takes a second.
    let listed = (0..100)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            parsed(&out(folder, "keys list --json"))
        })
        .find(|listed| listed[0]["used"]["today"]["requests"] == fit)
        .expect("the charges are written");
    system.child.kill().unwrap();
    let system = System::start(serve(folder, "--require-key"));
    let (status, refused) = ask(&system);
    assert_eq!((status, &refused["error"]["code"]), (429, &json!("insufficient_quota")));
    let (key, used) = (&listed[0], &listed[0]["used"]["today"]);
    assert_eq!(key["limits"], json!({ "tokens_per_day": 40, "concurrent": 2 }), "{listed}");
    let sum = used["prompt"].as_u64().unwrap() + used["generated"].as_u64().unwrap();
    assert_eq!(sum, fit * tokens, "{listed}");
    let text = out(folder, "keys list");
    assert!(text.contains("40 tokens/day, 2 at once") && text.contains(" today "), "{text}");
    // More is granted while the system runs.
    let id = key["id"].as_str().unwrap();
    out(folder, &format!("keys limit {id} --tokens-per-day none"));
    out(folder, "users limit ann --tokens-per-minute 100000");
    let again = (0..50).find(|_| {
        std::thread::sleep(Duration::from_millis(100));
        ask(&system).0 == 200
    });
    assert!(again.is_some(), "a limit that was taken away still holds");
    let users = parsed(&out(folder, "users --json"));
    assert_eq!((&users[0]["user"], &users[0]["keys"]), (&json!("ann"), &json!(1)), "{users}");
    assert_eq!(users[0]["limits"], json!({ "tokens_per_minute": 100_000 }), "{users}");
    assert!(out(folder, "users").starts_with("ann "));
    for (arguments, part) in [
        ("users limit ann", "--tokens-per-day"),
        ("users limit nobody --tokens-per-day 7", "no user is called \"nobody\""),
        ("keys limit 0123456789ab --concurrent 1", "keys list"),
        ("keys new ann --tokens-per-minute 0", "10^15"),
    ] {
        let (code, _, stderr) = finish(yushan(folder, arguments));
        assert!(code == Some(2) && stderr.contains(part), "{arguments}: {stderr}");
    }
}

#[test]
fn the_log_has_a_line_for_each_request_and_no_secrets() {
    let folder = folder();
    let key = out(folder.path(), "keys new ann");
    let bearer = format!("Bearer {}", key.trim());
    let system = System::start(serve(folder.path(), "--log-level info --log-format json"));
    let authorization = [("authorization", bearer.as_str())];
    assert_eq!(system.ask("/v1/chat/completions", Some(&question()), &authorization).0, 200);
    let line = system.lines.recv_timeout(PATIENCE).unwrap();
    let of = parsed(&line);
    for (name, value) in [
        ("level", json!("INFO")),
        ("method", json!("POST")),
        ("path", json!("/v1/chat/completions")),
        ("status", json!(200)),
        ("user", json!("ann")),
        ("model", json!("model")),
        ("generated", json!(8)),
    ] {
        assert_eq!(of[name], value, "{name}: {line}");
    }
    assert!(of["milliseconds"].is_u64() && of["prompt"].as_u64() > Some(1), "{line}");
    let mut wrong = question();
    wrong["a secret"] = json!(1);
    assert_eq!(system.ask("/v1/chat/completions?a=secret", Some(&wrong), &authorization).0, 400);
    let bad = system.lines.recv_timeout(PATIENCE).unwrap();
    assert_eq!(parsed(&bad)["error"], "invalid_value", "{bad}");
    for line in [line, bad] {
        assert!(!line.contains("secret") && !line.contains(key.trim()), "{line}");
    }
    drop(system);
    // Quiet, unless asked.
    let quiet = System::start(serve(folder.path(), ""));
    assert_eq!(quiet.ask("/v1/models", None, &[]).0, 200);
    assert!(quiet.lines.try_recv().is_err());
}

/// Takes what is sent to `/v1/traces`, and its headers.
fn collector() -> (String, Receiver<(String, Vec<Span>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, spans) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            std::thread::spawn(move || take(stream.unwrap(), |taken| sender.send(taken).unwrap()));
        }
    });
    (address, spans)
}

fn take(stream: TcpStream, mut taken: impl FnMut((String, Vec<Span>))) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head += &line;
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let sent = ExportTraceServiceRequest::decode(&*body).unwrap();
        let scopes = sent.resource_spans.into_iter().flat_map(|resource| {
            let mut named = resource.resource.unwrap().attributes.into_iter();
            let named = named.find(|attribute| attribute.key == "service.name").unwrap();
            assert_eq!(named.value.unwrap().value, Some(AnyValue::StringValue("test".into())));
            resource.scope_spans
        });
        taken((head, scopes.flat_map(|scope| scope.spans).collect()));
        let reply =
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
        reader.get_mut().write_all(reply).unwrap();
    }
}

fn attribute(span: &Span, name: &str) -> Value {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    let Some(value) = found.and_then(|found| found.value.clone()?.value) else {
        return Value::Null;
    };
    plain(value)
}

fn plain(value: AnyValue) -> Value {
    match value {
        AnyValue::StringValue(text) => json!(text),
        AnyValue::IntValue(number) => json!(number),
        AnyValue::DoubleValue(number) => json!(number),
        AnyValue::BoolValue(bool) => json!(bool),
        AnyValue::ArrayValue(list) => {
            list.values.into_iter().filter_map(|value| value.value).map(plain).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn spans_reach_a_collector() {
    let folder = folder();
    for contents in [false, true] {
        let (address, sent) = collector();
        let mut command = serve(folder.path(), "");
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &address)
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-project=snow")
            .env("OTEL_SERVICE_NAME", "test")
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            .env("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", contents.to_string());
        let mut system = System::start(command);
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let traceparent = format!("00-{trace}-{parent}-01");
        let (status, answer) =
            system.ask("/v1/chat/completions", Some(&question()), &[("traceparent", &traceparent)]);
        assert_eq!(status, 200, "{answer}");
        let unknown = json!({"model": "model", "prompt": "a".repeat(100_000), "n": 2});
        assert_eq!(system.ask("/v1/completions", Some(&unknown), &[]).0, 400);
        let texts = json!({"model": "model", "input": "a secret"});
        assert_eq!(system.ask("/v1/embeddings", Some(&texts), &[]).0, 200);
        system.interrupt();
        let mut spans = Vec::new();
        while spans.len() < 3 {
            let (head, more) = sent.recv_timeout(PATIENCE).unwrap();
            assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
            assert!(head.to_lowercase().contains("x-project: snow"), "{head}");
            spans.extend(more);
        }
        let [answered, failed, embedded] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(answered.name, "chat model");
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            (hex(&answered.trace_id), hex(&answered.parent_span_id)),
            (trace.into(), parent.into())
        );
        assert!(answered.end_time_unix_nano > answered.start_time_unix_nano);
        for (name, value) in [
            ("gen_ai.operation.name", json!("chat")),
            ("gen_ai.provider.name", json!("yushan")),
            ("gen_ai.request.model", json!("model")),
            ("gen_ai.request.max_tokens", json!(8)),
            ("gen_ai.request.temperature", json!(0.0)),
            ("gen_ai.usage.input_tokens", answer["usage"]["prompt_tokens"].clone()),
            ("gen_ai.usage.output_tokens", json!(8)),
            ("gen_ai.response.finish_reasons", json!(["length"])),
            ("error.type", Value::Null),
        ] {
            assert_eq!(attribute(answered, name), value, "{name}");
        }
        let said = attribute(answered, "gen_ai.input.messages");
        let wrote = attribute(answered, "gen_ai.output.messages");
        if contents {
            let said = parsed(said.as_str().unwrap());
            assert_eq!(said[0]["parts"][0]["content"], "a secret");
            let wrote = parsed(wrote.as_str().unwrap());
            let content = &answer["choices"][0]["message"]["content"];
            assert_eq!(&wrote[0]["parts"][0]["content"], content);
        } else {
            assert_eq!((said, wrote), (Value::Null, Value::Null));
            assert!(!format!("{answered:?}").contains("secret"));
        }
        assert_eq!(failed.name, "text_completion model");
        assert_eq!(attribute(failed, "error.type"), "context_length_exceeded");
        assert_eq!(attribute(failed, "gen_ai.request.choice.count"), 2);
        assert!(failed.parent_span_id.is_empty());
        assert_eq!(embedded.name, "embeddings model");
        assert_eq!(attribute(embedded, "gen_ai.operation.name"), "embeddings");
    }
}

#[test]
fn a_collector_that_is_not_there_costs_a_line() {
    let folder = folder();
    let mut command = serve(folder.path(), "");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    command.env("OTEL_BSP_SCHEDULE_DELAY", "20");
    let mut system = System::start(command);
    for _ in 0..3 {
        assert_eq!(system.ask("/v1/chat/completions", Some(&question()), &[]).0, 200);
        std::thread::sleep(Duration::from_millis(60));
    }
    let line = system.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("WARN") && line.contains("collector"), "{line}");
    system.interrupt();
    let more: Vec<String> = system.lines.iter().collect();
    assert!(more.iter().all(|line| !line.contains("collector")), "{more:?}");
}

/// A record that no process needs any more: the start does not read it, the check beside it does.
#[test]
fn a_journal_that_was_changed_is_told_of() {
    let folder = folder();
    let mut system = System::start(serve(folder.path(), ""));
    let task = json!({"model": "model", "task": "tamper with this", "max_tokens": 4});
    let (status, answer) = system.ask("/v1/processes", Some(&task), &[]);
    assert_eq!(status, 200, "{answer}");
    let log = format!("/v1/processes/{}/log", answer["pid"]);
    let over = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        system.ask(&log, None, &[]).1.to_string().contains("exited")
    });
    assert!(over, "it does not end");
    system.interrupt();
    // This start notes that nothing of it is needed.
    System::start(serve(folder.path(), "")).interrupt();
    // Whoever closes it last brings the log into the file.
    drop(yushan_disk::Sqlite::open(&folder.path().join("home/disk")).unwrap());
    let path = folder.path().join("home/disk/yushan.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // Also where the file has a copy of it that is of no use any more.
    let places: Vec<usize> =
        (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"tamper")).collect();
    assert!(!places.is_empty(), "it is in the journal");
    places.into_iter().for_each(|at| bytes[at] = b'T');
    std::fs::write(&path, bytes).unwrap();
    let system = System::start(serve(folder.path(), ""));
    let line = system.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("ERROR") && line.contains("damaged"), "{line}");
    // And so is whoever asks for it.
    assert_eq!(system.ask(&log, None, &[]).0, 500);
}
