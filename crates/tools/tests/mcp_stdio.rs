//! Programs that speak MCP over their standard input and output, in the sandbox and out of it.
//!
//! Without a test harness: this program is the server too, and its first line has to be the sandbox's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use yushan_abi::{Cancel, Disk, Invocation, Label, Sources, Tool, ToolResult, ToolSpec};
use yushan_tools::mcp::config::JailConfig;
use yushan_tools::mcp::{Bridge, Connect, McpError, Offer, ServerConfig};

mod memory;

fn main() {
    yushan_sandbox::enter();
    if std::env::args().nth(1).as_deref() == Some("--serve") {
        return offer().serve_stdio().expect("served");
    }
    let checks: [(&str, fn()); 5] = [
        ("a program's tools are called and answer", a_program_s_tools_are_called_and_answer),
        (
            "a program in the sandbox sees nothing of ours",
            a_program_in_the_sandbox_sees_nothing_of_ours,
        ),
        ("a program that dies is started again", a_program_that_dies_is_started_again),
        ("a program ends with all that it started", a_program_ends_with_all_that_it_started),
        (
            "what is no server is an error with its words",
            what_is_no_server_is_an_error_with_its_words,
        ),
    ];
    for (name, check) in checks {
        check();
        println!("ok: {name}");
    }
}

fn offer() -> Offer {
    let tools = ["echo", "look", "die"].map(|name| ToolSpec {
        name: name.into(),
        description: String::new(),
        schema: json!({"type": "object", "properties": {"text": {"type": "string"}}}),
        effect: yushan_abi::Effect::Read,
        roles: BTreeMap::new(),
    });
    let run = |name: &str, arguments: Value, _: Cancel| {
        let text = arguments["text"].as_str().unwrap_or_default().to_string();
        let said = match name {
            "die" => std::process::exit(3),
            "look" => match (std::fs::read(&text), std::env::var("SECRET_OF_OURS")) {
                (Ok(bytes), _) => format!("read {} bytes", bytes.len()),
                (_, Ok(secret)) => secret,
                (Err(error), _) => format!("{:?}", error.kind()),
            },
            _ => text,
        };
        ToolResult::new(said, Label::of(Sources::SYSTEM))
    };
    Offer::new(tools.to_vec(), Arc::new(run), Arc::new(|_| None))
}

fn open(
    program: PathBuf,
    arguments: &[&str],
    jail: Option<JailConfig>,
) -> Result<Arc<Bridge>, McpError> {
    let disk: Arc<dyn Disk> = Arc::new(memory::MemoryDisk::default());
    let connect = Connect::Stdio {
        program,
        arguments: arguments.iter().map(|one| one.to_string()).collect(),
        environment: BTreeMap::new(),
        jail,
    };
    let (name, effects, limits) = ("local".into(), BTreeMap::new(), Default::default());
    Bridge::open(ServerConfig { name, connect, effects, limits }, disk)
}

fn ourselves(jail: Option<JailConfig>) -> Arc<Bridge> {
    let program = std::env::current_exe().expect("a path");
    open(program, &["--serve"], jail).unwrap_or_else(|error| panic!("{error}"))
}

fn call(bridge: &Arc<Bridge>, tool: &str, text: &str) -> ToolResult {
    let tools = bridge.tools().expect("tools");
    let tool = tools.iter().find(|one| one.spec().name == format!("local__{tool}"));
    let (label, cancel) = (Label::of(Sources::USER), Cancel::default());
    let arguments = json!({"text": text});
    let (key, space, owner) = ("key", "space", "ann");
    let invocation = Invocation { arguments: &arguments, key, space, owner, label: &label, cancel };
    Tool::call(&**tool.expect("the tool"), &invocation)
}

fn a_program_s_tools_are_called_and_answer() {
    let bridge = ourselves(None);
    let result = call(&bridge, "echo", "hello 山");
    assert!(!result.failed && result.text() == "hello 山", "{result:?}");
    assert!(!result.label().is_trusted() && result.label().sources.contains(Sources::MCP));
}

fn a_program_in_the_sandbox_sees_nothing_of_ours() {
    let folder = std::env::temp_dir().join(format!("yushan-mcp-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let secret = folder.join("secret");
    std::fs::write(&secret, "secret").expect("written");
    let path = secret.to_str().expect("a path").to_string();
    let outside = call(&ourselves(None), "look", &path);
    assert_eq!(outside.text(), "read 6 bytes");
    let program = std::env::current_exe().expect("a path");
    let inside = ourselves(Some(JailConfig { readable: vec![program] }));
    assert_eq!(call(&inside, "look", &path).text(), "NotFound");
    std::fs::remove_dir_all(&folder).expect("removed");
}

fn a_program_that_dies_is_started_again() {
    let bridge = ourselves(None);
    let dead = call(&bridge, "die", "");
    assert!(dead.failed && dead.text().contains("is not known"), "{}", dead.text());
    assert_eq!(call(&bridge, "echo", "again").text(), "again");
}

/// Processes whose command line has this word.
fn alive(word: &str) -> usize {
    let has = |entry: std::io::Result<std::fs::DirEntry>| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(word).then_some(())
    };
    std::fs::read_dir("/proc").expect("processes").filter_map(has).count()
}

fn a_program_ends_with_all_that_it_started() {
    // A duration that no other process sleeps for.
    let word = format!("9{:05}", std::process::id() % 100_000);
    let program = std::env::current_exe().expect("a path");
    let script = format!("sleep {word} & exec {:?} --serve", program);
    let bridge = open("/bin/sh".into(), &["-c", &script], None).expect("a server");
    assert_eq!(call(&bridge, "echo", "there").text(), "there");
    assert!(alive(&word) > 0);
    drop(bridge);
    let begun = Instant::now();
    while alive(&word) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "what it started is left behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn what_is_no_server_is_an_error_with_its_words() {
    for (program, arguments, expected) in [
        ("/bin/sh", vec!["-c", "echo no such option >&2; exit 2"], "no such option"),
        ("/bin/sh", vec!["-c", "echo '{}'; echo garbage"], "could not be reached"),
        ("/nowhere", vec![], "did not start"),
    ] {
        let error = open(program.into(), &arguments, None).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}
