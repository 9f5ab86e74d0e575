//! `mcp`: this system's tools for other programs, and what has changed in theirs.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use yushan_abi::{FileRef, Label, Sources, ToolResult, ToolSpec};
use yushan_tools::mcp::{Bridge, Offer};

use crate::accounts::open_disk;
use crate::drivers::Configured;
use crate::inspect::visible;
use crate::offer::{Task, offered, refused};
use crate::system::Where;
use crate::talk::names;

/// Offer this system's tools to other programs over MCP, and look at what other servers offer
#[derive(clap::Args)]
pub(crate) struct Mcp {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Offer the tools of the running system over standard input and output, for a program that starts this command
    Serve(Serve),
    /// Show the servers of tools.json, their tools, and descriptions that wait for consent
    List,
    /// Agree to the description that a server gives a tool now
    Consent {
        /// The server, as tools.json names it
        server: String,
        /// The tool, as the server names it
        tool: String,
        /// The hash that `list` shows
        hash: String,
    },
}

#[derive(clap::Args)]
struct Serve {
    /// Names the files and running programs that the tools work with
    #[arg(long, value_name = "NAME", default_value = "mcp")]
    space: String,
    #[command(flatten)]
    at: Where,
}

impl Mcp {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Serve(serve) => serve.run(),
            What::List => list(),
            What::Consent { server, tool, hash } => {
                bridge(&server)?.consent(&tool, &hash)?;
                println!("{server}: {tool} is described so from the next start of the system on");
                Ok(())
            }
        }
    }
}

impl Serve {
    fn run(self) -> Result<()> {
        let list = self.at.ask("/v1/tools", None)?;
        let specs: Vec<ToolSpec> = serde_json::from_value(list["data"].clone())?;
        let specs = offered(specs);
        let (at, space) = (self.at.clone(), self.space.clone());
        let call = move |name: &str, arguments: Value, _: yushan_abi::Cancel| {
            let answer = match name {
                Task::TOOL => Task::read(arguments).and_then(|task| asked(&at, &space, task)),
                _ => called(&at, &space, name, &arguments),
            };
            answer.unwrap_or_else(|why| refused(format!("{why:#}")))
        };
        let bytes = move |file: &FileRef| self.at.get_file(&self.space, &file.path).ok();
        let offer = Offer::new(specs, Arc::new(call), Arc::new(bytes));
        offer.serve_stdio().map_err(|why| anyhow!("{why}"))
    }
}

fn called(at: &Where, space: &str, name: &str, arguments: &Value) -> Result<ToolResult> {
    let order = json!({ "arguments": arguments, "space": space });
    Ok(serde_json::from_value(at.ask(&format!("/v1/tools/{name}"), Some(&order))?)?)
}

fn asked(at: &Where, space: &str, task: Task) -> Result<ToolResult> {
    let model = match task.model {
        Some(model) => model,
        None => names(at)?.into_iter().next().context("the system has no model")?,
    };
    let tools = task.tools.iter().map(|name| json!({ "type": "system", "name": name }));
    let tools: Vec<Value> = tools.collect();
    let mut order =
        json!({ "model": model, "messages": [{ "role": "user", "content": task.task }] });
    if !tools.is_empty() {
        order["tools"] = tools.into();
        order["space"] = space.into();
    }
    let body = at.send("/v1/chat/completions", Some(&order), None)?;
    let answer: Value = serde_json::from_str(&body.into_with_config().read_to_string()?)?;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    Ok(ToolResult::new(text, Label::of(Sources::MODEL)))
}

fn list() -> Result<()> {
    let disk: Arc<dyn yushan_abi::Disk> = Arc::new(open_disk()?);
    let configured = Configured::read()?;
    if configured.mcp.is_empty() {
        println!("tools.json in the data folder names no MCP server");
    }
    for config in configured.mcp {
        let name = config.name.clone();
        let bridge = match Bridge::open(config, disk.clone()) {
            Ok(bridge) => bridge,
            Err(error) => {
                println!("{name}: {error}");
                continue;
            }
        };
        for tool in bridge.tools()? {
            let spec = tool.spec();
            let effect = serde_json::to_string(&spec.effect)?;
            println!("{}  {effect}  {}", spec.name, visible(&spec.description));
        }
        for pending in bridge.pending()? {
            println!("{name}: {} waits for consent", pending.tool);
            let before = pending.before.map_or("(new)".into(), |before| before.description);
            println!("  before  {}", visible(&before));
            println!("  now     {}", visible(&pending.now.description));
            println!("  yushan mcp consent {name} {} {}", pending.tool, pending.now.hash);
        }
    }
    Ok(())
}

fn bridge(server: &str) -> Result<Arc<Bridge>> {
    let disk: Arc<dyn yushan_abi::Disk> = Arc::new(open_disk()?);
    let configured = Configured::read()?;
    match configured.mcp.into_iter().find(|config| config.name == server) {
        Some(config) => Ok(Bridge::open(config, disk)?),
        None => bail!("tools.json names no server {server:?}"),
    }
}
