//! A foreign server of tools: this program, started once more, speaks MCP over its standard input and output.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use yushan_abi::{Cancel, Disk, Effect, Label, Sources, Tool, ToolResult, ToolSpec};
use yushan_tools::mcp::{Bridge, Connect, Offer, ServerConfig};

/// The argument that makes this program the server.
pub(crate) const SERVE: &str = "--serve-ledger";

/// Serves until whoever started it closes its side.
pub(crate) fn serve() -> ExitCode {
    let text = json!({"type": "string"});
    let tool = |name: &str, properties: Value| ToolSpec {
        name: name.into(),
        description: String::new(),
        schema: json!({"type": "object", "properties": properties}),
        effect: Effect::Irreversible,
        roles: BTreeMap::new(),
    };
    let tools = vec![
        tool("balance", json!({"account": text})),
        tool("pay", json!({"to": text, "amount": {"type": "number"}})),
    ];
    let run = |name: &str, arguments: Value, _: Cancel| {
        let said = match name {
            "balance" => format!("{} holds 1200", arguments["account"].as_str().unwrap_or("?")),
            _ => format!("paid {} to {}", arguments["amount"], arguments["to"]),
        };
        ToolResult::new(said, Label::of(Sources::SYSTEM))
    };
    match Offer::new(tools, Arc::new(run), Arc::new(|_| None)).serve_stdio() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Its tools, as a user configures them who knows that asking for a balance changes nothing.
pub(crate) fn tools(disk: &Arc<dyn Disk>) -> Vec<Arc<dyn Tool>> {
    let connect = Connect::Stdio {
        program: std::env::current_exe().expect("this program"),
        arguments: vec![SERVE.into()],
        environment: BTreeMap::new(),
        jail: None,
    };
    let effects = BTreeMap::from([("balance".to_string(), Effect::Read)]);
    let (name, limits) = ("ledger".to_string(), Default::default());
    let config = ServerConfig { name, connect, effects, limits };
    Bridge::open(config, disk.clone()).expect("it answers").tools().expect("tools")
}
