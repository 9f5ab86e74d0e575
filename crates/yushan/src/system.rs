//! `ps`, `kill`, `nice`, `stop`, `cont`: the process table of a running system, as on Unix.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use yushan_abi::Class;
use yushan_kernel::{Process, State};

use crate::boot;
use crate::exit::BadFile;
use crate::inspect::visible;
use crate::serve::PORT;

/// How long the system may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most bytes of an answer: several conversations of the largest size.
const ANSWER: u64 = 1 << 30;

/// Where the system is, and who asks.
#[derive(Clone, clap::Args)]
pub(crate) struct Where {
    /// The system's address [default: of the one that uses the data folder, or http://127.0.0.1:3952]
    #[arg(long, value_name = "URL", env = "YUSHAN_SERVER")]
    server: Option<String>,
    /// A key: `chat` needs one with the scopes `look` and `use`, the other commands `manage`
    #[arg(long, value_name = "KEY", env = "YUSHAN_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// Show the processes of a running system
#[derive(clap::Args)]
pub(crate) struct Ps {
    /// Those that are over too
    #[arg(long, short)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

/// End processes
#[derive(clap::Args)]
pub(crate) struct Kill {
    /// Which
    #[arg(required = true)]
    pids: Vec<u64>,
    #[command(flatten)]
    at: Where,
}

/// Give a process another class and weight
#[derive(clap::Args)]
pub(crate) struct Nice {
    /// Which
    pid: u64,
    /// How soon it is served
    #[arg(value_enum)]
    class: ClassName,
    /// Its weight among others of its class
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: u32,
    #[command(flatten)]
    at: Where,
}

/// Hold a process
#[derive(clap::Args)]
pub(crate) struct Stop {
    /// Which
    pid: u64,
    #[command(flatten)]
    at: Where,
}

/// Let a held process go on
#[derive(clap::Args)]
pub(crate) struct Cont {
    /// Which
    pid: u64,
    #[command(flatten)]
    at: Where,
}

/// A class, as people type it.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum ClassName {
    /// Somebody waits.
    Interactive,
    /// An assistant at work.
    Agent,
    /// Whenever there is room.
    Batch,
}

impl ClassName {
    pub(crate) fn class(self) -> Class {
        match self {
            ClassName::Interactive => Class::Interactive,
            ClassName::Agent => Class::Agent,
            ClassName::Batch => Class::Batch,
        }
    }
}

/// Where a file of a space is, in the form of a URL.
fn file_path(space: &str, path: &str) -> String {
    let mut url = format!("/v1/spaces/{space}/files/");
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                url.push(byte.into());
            }
            _ => url += &format!("%{byte:02X}"),
        }
    }
    url
}

impl Where {
    /// This system, without a key.
    pub(crate) fn at(address: String) -> Where {
        Where { server: Some(address), key: None }
    }

    /// Whether the person said where.
    pub(crate) fn is_given(&self) -> bool {
        self.server.is_some()
    }

    /// An answer as JSON.
    pub(crate) fn ask(&self, path: &str, order: Option<&Value>) -> Result<Value> {
        let body = self.send(path, order, Some(PATIENCE))?;
        let text = body.into_with_config().limit(ANSWER).read_to_string();
        let text = text.with_context(|| format!("the answer of {} broke off", self.base()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no Yushan system", self.base()))
    }

    /// An answer that is still coming; `patience` is for all of it. A refusal is an error with the
    /// server's words.
    pub(crate) fn send(
        &self,
        path: &str,
        order: Option<&Value>,
        patience: Option<Duration>,
    ) -> Result<ureq::Body> {
        let (agent, url) = self.reach(path, patience);
        self.answered(match order {
            None => self.signed(agent.get(&url)).call(),
            Some(order) => {
                let request = agent.post(&url).content_type("application/json");
                self.signed(request).send(order.to_string())
            }
        })
    }

    /// Puts a file into a space; what is known of it then.
    pub(crate) fn put_file(&self, space: &str, path: &str, bytes: Vec<u8>) -> Result<Value> {
        let (agent, url) = self.reach(&file_path(space, path), None);
        let body = self.answered(self.signed(agent.put(&url)).send(&bytes[..]))?;
        Ok(serde_json::from_reader(body.into_reader())?)
    }

    /// The bytes of a file of a space.
    pub(crate) fn get_file(&self, space: &str, path: &str) -> Result<Vec<u8>> {
        let body = self.send(&file_path(space, path), None, None)?;
        Ok(body.into_with_config().limit(ANSWER).read_to_vec()?)
    }

    fn reach(&self, path: &str, patience: Option<Duration>) -> (ureq::Agent, String) {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(patience).build().into();
        (agent, format!("{}{path}", self.base()))
    }

    /// With the key, if there is one.
    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        let key = self.key.as_ref().map(|key| format!("Bearer {key}"));
        key.iter().fold(request, |request, key| request.header("authorization", key))
    }

    fn answered(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<ureq::Body> {
        let mut answer = answer.map_err(|error| self.silent(&error))?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        match body["error"]["message"].as_str() {
            Some(message) => bail!("{message}"),
            None => bail!("{} is no Yushan system: it says {}", self.base(), answer.status()),
        }
    }

    /// Its address.
    pub(crate) fn base(&self) -> String {
        let base = self.server.clone().or_else(boot::running);
        let base = base.unwrap_or_else(|| format!("http://127.0.0.1:{PORT}"));
        base.trim_end_matches('/').to_string()
    }

    fn silent(&self, error: &ureq::Error) -> BadFile {
        let base = self.base();
        BadFile(format!("{base} does not answer ({error}): start the system with yushan serve"))
    }

    /// The process table.
    pub(crate) fn processes(&self) -> Result<Vec<Process>> {
        let mut answer = self.ask("/v1/processes", None)?;
        serde_json::from_value(answer["data"].take())
            .with_context(|| format!("{} is no Yushan system", self.base()))
    }

    pub(crate) fn order(&self, pid: u64, order: Value) -> Result<()> {
        self.ask(&format!("/v1/processes/{pid}"), Some(&order)).map(|_| ())
    }
}

impl Ps {
    pub(crate) fn run(self) -> Result<()> {
        let mut processes = self.at.processes()?;
        processes.retain(|process| self.all || process.exit.is_none());
        let mut out = std::io::stdout();
        if self.json {
            writeln!(out, "{:#}", serde_json::to_value(&processes)?)?;
        } else {
            out.write_all(table(&processes).as_bytes())?;
        }
        Ok(())
    }
}

fn table(processes: &[Process]) -> String {
    let mut out = format!(
        "{:>6} {:>6} {:<10} {:<11} {:>7} {:>7} {:>7} {:>8}  {:<16} {}\n",
        "PID",
        "PARENT",
        "STATE",
        "CLASS",
        "PROMPT",
        "CACHED",
        "WRITTEN",
        "TOKENS/S",
        "MODEL",
        "TITLE"
    );
    for process in processes {
        let parent = process.spawn.parent.map_or_else(String::new, |parent| parent.to_string());
        let class = class(process);
        let counts = process.counts;
        out += &format!(
            "{:>6} {parent:>6} {:<10} {class:<11} {:>7} {:>7} {:>7} {:>8}  {:<16} {}\n",
            process.pid,
            state(process),
            counts.prompt,
            counts.cached,
            counts.generated,
            speed(process),
            plain(&process.spawn.model),
            plain(&process.spawn.title),
        );
    }
    out
}

/// What comes from outside, on one line and without what a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

pub(crate) fn class(process: &Process) -> &'static str {
    class_name(process.spawn.class)
}

pub(crate) fn class_name(class: Class) -> &'static str {
    match class {
        Class::Interactive => "interactive",
        Class::Agent => "agent",
        Class::Batch => "batch",
    }
}

pub(crate) fn state(process: &Process) -> &'static str {
    match process.state {
        _ if process.exit.is_some() => "exited",
        _ if process.stopped => "stopped",
        State::Ready => "ready",
        State::Blocked => "blocked",
        State::Waiting(_) => "waiting",
        State::Receiving => "receiving",
        State::Calling => "calling",
        State::Asking => "asking",
        State::Exited => "exited",
    }
}

/// Tokens a second since the first one, of processes that are over.
fn speed(process: &Process) -> String {
    let (_, first, ended) = process.times;
    match (first, ended) {
        (Some(first), Some(ended)) if ended > first && process.counts.generated > 1 => {
            let tokens = (process.counts.generated - 1) as f64;
            format!("{:.1}", 1000.0 * tokens / (ended - first) as f64)
        }
        _ => "-".into(),
    }
}

impl Kill {
    pub(crate) fn run(self) -> Result<()> {
        self.pids.iter().try_for_each(|&pid| self.at.order(pid, json!({ "signal": "kill" })))
    }
}

impl Nice {
    pub(crate) fn run(self) -> Result<()> {
        self.at.order(self.pid, json!({ "nice": [self.class.class(), self.weight] }))
    }
}

impl Stop {
    pub(crate) fn run(self) -> Result<()> {
        self.at.order(self.pid, json!({ "signal": "stop" }))
    }
}

impl Cont {
    pub(crate) fn run(self) -> Result<()> {
        self.at.order(self.pid, json!({ "signal": "continue" }))
    }
}
