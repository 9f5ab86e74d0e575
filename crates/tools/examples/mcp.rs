//! MCP from both sides, for tests with other programs (`tests/mcp/run`) and to measure.
//!
//! `mcp serve` offers a few tools over HTTP and prints its address; it ends when its standard input is closed.
//! `mcp serve-stdio` offers them over standard input and output. `mcp call URL` uses all tools of a server.
//! `mcp measure [CALLS]` prints what a call over each transport costs beside the tool's own work, which is none.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use yushan_abi::{Cancel, Disk, FileRef, Invocation, Label, Sources, Tool, ToolResult, ToolSpec};
use yushan_tools::mcp::{Bridge, Connect, Offer, ServerConfig};

#[path = "../tests/memory/mod.rs"]
mod memory;

/// A red pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde\0\0\0\x0cIDATx\x9cc\xf8\xcf\xc0\0\0\x03\x01\x01\0\xc9\xfe\x92\xef\0\0\0\0IEND\xaeB`\x82";
/// Silence.
const WAV: &[u8] =
    b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0@\x1f\0\0\x80>\0\0\x02\0\x10\0data\0\0\0\0";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve"] => serve(),
        ["serve-stdio"] => offer().serve_stdio().expect("served"),
        ["call", url] => call(url),
        ["measure"] => measure(500),
        ["measure", calls] => measure(calls.parse().expect("a number of calls")),
        _ => eprintln!("usage: mcp serve | serve-stdio | call URL | measure [CALLS]"),
    }
}

/// The tools that the conformance suite asks a server for, as far as they are tools alone.
fn offer() -> Offer {
    let plain = [
        ("test_simple_text", "Says something."),
        ("test_image_content", "Shows a pixel."),
        ("test_audio_content", "Plays silence."),
        ("test_embedded_resource", "Gives a file."),
        ("test_multiple_content_types", "Gives a text, a picture and a file."),
        ("test_error_handling", "Fails."),
    ];
    let mut tools: Vec<ToolSpec> =
        plain.iter().map(|(name, description)| spec(name, description, json!({}))).collect();
    let sum = json!({"a": {"type": "number"}, "b": {"type": "number"}});
    tools.push(spec("add_numbers", "Adds.", sum));
    let mut strict = spec("json_schema_2020_12_tool", "Has a schema with much in it.", json!({}));
    strict.schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {
            "street": {"type": "string"}, "city": {"type": "string"}}}},
        "properties": {
            "name": {"type": "string"}, "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"}, "email": {"type": "string"}},
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]}, "else": {"required": ["email"]},
        "additionalProperties": false,
    });
    tools.push(strict);
    let region = json!({"region": {"type": "string", "x-mcp-header": "Region"}});
    tools.push(spec("with_a_header", "Has a parameter that clients repeat in a header.", region));
    Offer::new(tools, Arc::new(|name, arguments, _| run(name, &arguments)), Arc::new(bytes))
}

fn spec(name: &str, description: &str, properties: Value) -> ToolSpec {
    serde_json::from_value(json!({
        "name": name, "description": description,
        "schema": {"type": "object", "properties": properties},
    }))
    .expect("a specification")
}

fn run(name: &str, arguments: &Value) -> ToolResult {
    let label = Label::of(Sources::SYSTEM);
    let file = |path: &str, media_type: &str| {
        let size = bytes_of(path).map_or(0, |bytes| bytes.len() as u64);
        FileRef { path: path.into(), media_type: media_type.into(), size, sha256: String::new() }
    };
    let picture = || file("pixel.png", "image/png");
    let text = || file("note.txt", "text/plain");
    let (words, files) = match name {
        "test_simple_text" => ("This is a simple text response for testing.".to_string(), vec![]),
        "test_image_content" => (String::new(), vec![picture()]),
        "test_audio_content" => (String::new(), vec![file("silence.wav", "audio/wav")]),
        "test_embedded_resource" => (String::new(), vec![text()]),
        "test_multiple_content_types" => {
            ("Multiple content types test:".into(), vec![picture(), text()])
        }
        "test_error_handling" => {
            let words = "This tool intentionally returns an error for testing";
            return ToolResult::failed(words, label);
        }
        "add_numbers" => {
            let number = |name: &str| arguments[name].as_f64().unwrap_or_default();
            ((number("a") + number("b")).to_string(), vec![])
        }
        _ => (arguments.to_string(), vec![]),
    };
    ToolResult { files, ..ToolResult::new(words, label) }
}

fn bytes_of(path: &str) -> Option<&'static [u8]> {
    match path {
        "pixel.png" => Some(PNG),
        "silence.wav" => Some(WAV),
        "note.txt" => Some(b"This is a file."),
        _ => None,
    }
}

fn bytes(file: &FileRef) -> Option<Vec<u8>> {
    bytes_of(&file.path).map(<[u8]>::to_vec)
}

/// Listens on a free port of this machine until `stop` is set.
fn listen(offer: Offer) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let hosts = vec!["localhost".into(), "127.0.0.1".into()];
            let origins =
                vec![format!("http://{address}"), format!("http://localhost:{}", address.port())];
            let router = axum::Router::new().route_service("/mcp", offer.service(hosts, origins));
            sender.send(format!("http://localhost:{}/mcp", address.port())).expect("heard");
            axum::serve(listener, router).await.expect("served");
        });
    });
    receiver.recv().expect("an address")
}

fn serve() {
    println!("{}", listen(offer()));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn bridge(connect: Connect) -> Arc<Bridge> {
    let disk: Arc<dyn Disk> = Arc::new(memory::MemoryDisk::default());
    let (name, effects, limits) = ("other".into(), Default::default(), Default::default());
    match Bridge::open(ServerConfig { name, connect, effects, limits }, disk) {
        Ok(bridge) => bridge,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

fn called(tool: &dyn Tool, arguments: &Value) -> ToolResult {
    let (label, cancel) = (Label::default(), Cancel::default());
    let (key, space, owner) = ("key", "space", "owner");
    tool.call(&Invocation { arguments, key, space, owner, label: &label, cancel })
}

/// Calls every tool once, with a value for each of its parameters.
fn call(url: &str) {
    let bridge = bridge(Connect::Http { url: url.into(), token: None });
    let tools = bridge.tools().expect("tools");
    // The suite says what some tools are to be called with.
    let context = std::env::var("MCP_CONFORMANCE_CONTEXT").unwrap_or_default();
    let context: Value = serde_json::from_str(&context).unwrap_or_default();
    for tool in &tools {
        let spec = tool.spec();
        let mut arguments = json!({});
        for (name, schema) in spec.schema["properties"].as_object().into_iter().flatten() {
            arguments[name] = value_of(schema);
        }
        let wanted = context["toolCalls"].as_array().into_iter().flatten();
        let mut wanted = wanted.filter(|call| {
            spec.name == format!("other__{}", call["name"].as_str().unwrap_or_default())
        });
        if let Some(call) = wanted.next() {
            arguments = call["arguments"].clone();
        }
        if spec.name == "other__json_schema_echo" {
            let of =
                tools.iter().find(|tool| tool.spec().name == "other__json_schema_2020_12_tool");
            arguments["schema"] = of.map(|tool| tool.spec().schema.clone()).unwrap_or_default();
        }
        let result = called(&**tool, &arguments);
        println!(
            "{}({arguments}) -> {} {}",
            spec.name,
            if result.failed { "failed" } else { "ok" },
            result.text()
        );
    }
}

fn value_of(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    match schema["type"].as_str().unwrap_or("string") {
        "number" | "integer" => json!(5),
        "boolean" => json!(true),
        "array" => json!([]),
        "object" => json!({}),
        _ => json!("text"),
    }
}

fn measure(calls: usize) {
    let program = std::env::current_exe().expect("a path");
    let stdio = Connect::Stdio {
        program,
        arguments: vec!["serve-stdio".into()],
        environment: Default::default(),
        jail: None,
    };
    let http = Connect::Http { url: listen(offer()), token: None };
    for (name, connect) in [("stdio", stdio), ("streamable HTTP", http)] {
        let bridge = bridge(connect);
        let tools = bridge.tools().expect("tools");
        let tool = tools.iter().find(|tool| tool.spec().name == "other__add_numbers");
        let tool = tool.expect("the tool");
        let arguments = json!({"a": 2, "b": 3});
        let mut times: Vec<Duration> = (0..calls)
            .map(|_| {
                let start = Instant::now();
                let result = called(&**tool, &arguments);
                assert_eq!(result.text(), "5");
                start.elapsed()
            })
            .collect();
        times.sort();
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
        println!("{name}: {calls} calls, p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), at(100));
    }
}
