//! `spawn`, `logs`, `replay`, `answer`, `mail`: processes that go on by themselves, and what is known of them.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use yushan_abi::Sources;
use yushan_kernel::journal::Logged;
use yushan_kernel::{Card, Entry, Exit, Life, Replay};

use crate::exit::BadUsage;
use crate::inspect::visible;
use crate::system::{ClassName, Where, class_name, plain};

/// How often `logs --follow` looks.
const EVERY: Duration = Duration::from_millis(300);

/// How long a replay may take.
const REPLAY: Duration = Duration::from_secs(24 * 3600);

/// Start an assistant that works by itself, and goes on after a restart
#[derive(clap::Args)]
pub(crate) struct Spawn {
    /// Its task
    task: String,
    /// The model it thinks with [default: the only one that is served]
    #[arg(long, short)]
    model: Option<String>,
    /// What it shall be and do
    #[arg(long, value_name = "TEXT", default_value = "")]
    instructions: String,
    /// What it may call: fork, spawn, wait, send, receive, remember, recall, ask, exit, and tools
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tools: Vec<String>,
    /// Tokens it may use up
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// Calls it may make
    #[arg(long, value_name = "N")]
    calls: Option<u64>,
    /// Money it may use up, in millionths of what prices are in
    #[arg(long, value_name = "MILLIONTHS")]
    money: Option<u64>,
    /// Seconds it may take
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Most tokens of a turn
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// How soon it is served
    #[arg(long, value_enum, default_value = "agent")]
    class: ClassName,
    /// Whether you are there to be asked
    #[arg(long)]
    attended: bool,
    /// Show what it says and does until it is over
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    at: Where,
}

/// Show what a process was told and what it said, from its journal
#[derive(clap::Args)]
pub(crate) struct Logs {
    /// Which
    pid: u64,
    /// Go on until it is over
    #[arg(long, short)]
    follow: bool,
    /// Print JSON, an entry a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

/// Ask a process of the journal again, and show the first difference
#[derive(clap::Args)]
pub(crate) struct ReplayOf {
    /// Which
    pid: u64,
    #[command(flatten)]
    at: Where,
}

/// Answer a process that asks: its question, or whether it may make a call
#[derive(clap::Args)]
pub(crate) struct Answer {
    /// Which
    pid: u64,
    /// The answer to its question; without one, what it asks is shown
    text: Option<String>,
    /// It may make the call
    #[arg(long, conflicts_with_all = ["text", "deny"])]
    allow: bool,
    /// It may not
    #[arg(long, conflicts_with = "text")]
    deny: bool,
    #[command(flatten)]
    at: Where,
}

/// Send a process a message
#[derive(clap::Args)]
pub(crate) struct Mail {
    /// Which
    pid: u64,
    /// What
    text: String,
    #[command(flatten)]
    at: Where,
}

impl Spawn {
    pub(crate) fn run(self) -> Result<()> {
        let model = match self.model.clone() {
            Some(model) => model,
            None => only_model(&self.at)?,
        };
        let order = json!({
            "model": model, "task": self.task, "instructions": self.instructions,
            "tools": self.tools, "max_tokens": self.max_tokens, "class": self.class.class(),
            "attended": self.attended,
            "budget": {
                "tokens": self.tokens, "calls": self.calls, "money": self.money,
                "wall_ms": self.seconds.map(|seconds| seconds.saturating_mul(1000)),
            },
        });
        let answer = self.at.ask("/v1/processes", Some(&order))?;
        let pid = answer["pid"].as_u64().context("the system gave no pid")?;
        println!("{pid}");
        match self.follow {
            true => Logs { pid, follow: true, json: false, at: self.at }.run(),
            false => Ok(()),
        }
    }
}

/// The only model that a system serves.
fn only_model(at: &Where) -> Result<String> {
    let models = at.ask("/v1/models", None)?;
    let names: Vec<&str> =
        models["data"].as_array().into_iter().flatten().filter_map(|m| m["id"].as_str()).collect();
    match names[..] {
        [name] => Ok(name.to_string()),
        _ => Err(BadUsage(format!("which model? --model is one of {}", names.join(", "))).into()),
    }
}

impl Logs {
    pub(crate) fn run(self) -> Result<()> {
        let mut out = std::io::stdout();
        let mut last = 0;
        loop {
            let path = format!("/v1/processes/{}/log?after={last}", self.pid);
            let log = self.at.ask(&path, None)?;
            let mut over = false;
            for line in log["data"].as_array().into_iter().flatten() {
                let Logged { seq, entry, .. } = Logged::deserialize(line)
                    .context("the system has another form of journal: is it of this version?")?;
                (last, over) = (seq, over || matches!(entry, Entry::Exited(_)));
                match self.json {
                    true => writeln!(out, "{line}")?,
                    false => write!(out, "{}", in_words(&entry))?,
                }
            }
            out.flush()?;
            if over || !self.follow {
                return Ok(());
            }
            std::thread::sleep(EVERY);
        }
    }
}

/// An entry as people read it; nothing of those that only repeat others.
fn in_words(entry: &Entry) -> String {
    match entry {
        Entry::Began(program) => {
            let able: Vec<&str> = program.capabilities.keys().map(String::as_str).collect();
            let able = if able.is_empty() { "nothing".into() } else { able.join(", ") };
            format!("began: {} (may call {able})\n", plain(&program.title))
        }
        Entry::Wrote { .. } => String::new(),
        Entry::Said { text, calls, counts, .. } => {
            let mut out = String::new();
            if !text.is_empty() {
                out += &format!("said: {}\n", visible(text));
            }
            for call in calls {
                out += &format!("calls {} {}\n", plain(&call.name), plain(&call.arguments));
            }
            let cached = counts.cached;
            out += &format!(
                "  ({} tokens read, {cached} of them cached, {} written)\n",
                counts.prompt, counts.generated
            );
            out
        }
        Entry::Intended { key } => format!("begins call {key}\n"),
        Entry::Confirmed(allowed) => {
            format!("the user {}\n", if *allowed { "allows it" } else { "forbids it" })
        }
        Entry::Answered { result, .. } => {
            let sources: Vec<&str> = result.label().sources.names().collect();
            let failed = if result.failed { " (failed)" } else { "" };
            format!("answer from {}{failed}: {}\n", sources.join(", "), visible(&result.text()))
        }
        Entry::Unchecked => "the code of the answer is not run: it may not be\n".into(),
        Entry::Heard(from, message) => {
            let other = message.label().sources.contains(Sources::OTHER_USER);
            let from = match (from.0, other) {
                (0, false) => "the user".into(),
                (0, true) => "another user".into(),
                _ => format!("process {from}"),
            };
            format!("message from {from}: {}\n", visible(&message.text()))
        }
        Entry::Shared { .. } => String::new(),
        Entry::Lent(budget) => match budget.tokens {
            Some(tokens) => format!("gave {tokens} tokens of its budget to a child\n"),
            None => String::new(),
        },
        Entry::Niced(class, weight) => format!("class {}, weight {weight}\n", class_name(*class)),
        Entry::Held(held) => if *held { "held\n" } else { "goes on\n" }.into(),
        Entry::Exited(exit) => format!("over: {}\n", end(exit)),
    }
}

/// How a process ended.
fn end(exit: &Exit) -> String {
    match exit {
        Exit::Done => "done".into(),
        Exit::Killed => "it was killed".into(),
        Exit::Budget(budget) => format!("its budget of {} was used up", plain(budget)),
        Exit::Quota(granted) => format!("it may use no more: {}", plain(granted)),
        Exit::Failed(why) => format!("it failed: {}", plain(why)),
    }
}

impl ReplayOf {
    pub(crate) fn run(self) -> Result<()> {
        let path = format!("/v1/processes/{}/replay", self.pid);
        let text = self.at.send(&path, Some(&Value::Null), Some(REPLAY))?.read_to_string()?;
        let replay: Replay = serde_json::from_str(&text)?;
        let (turns, tokens) = (replay.turns, replay.tokens);
        match replay.difference {
            None if turns == 0 => {
                println!("process {} said nothing that could be asked again", self.pid);
                Ok(())
            }
            None => {
                println!("{turns} turns, {tokens} tokens: the same");
                Ok(())
            }
            Some(difference) => {
                println!("turn {}, after {} characters", difference.turn, difference.equal);
                println!("journal: {}", plain(&difference.journal));
                println!("now:     {}", plain(&difference.now));
                bail!("process {} does not say the same again", self.pid)
            }
        }
    }
}

impl Answer {
    pub(crate) fn run(self) -> Result<()> {
        let order = match (self.text, self.allow, self.deny) {
            (Some(text), ..) => json!({ "answer": text }),
            (None, false, false) => return show_question(&self.at, self.pid),
            (None, allow, _) => {
                let known = self.at.ask(&format!("/v1/processes/{}", self.pid), None)?;
                json!({ "allow": [known["key"], allow] })
            }
        };
        self.at.order(self.pid, order)
    }
}

/// What a process asks: exactly what would happen, and where each argument came from.
fn show_question(at: &Where, pid: u64) -> Result<()> {
    let mut known = at.ask(&format!("/v1/processes/{pid}"), None)?;
    if known["process"]["state"] != "asking" {
        bail!("process {pid} asks nothing");
    }
    let life: Life = serde_json::from_value(known["life"].take()).context("a process")?;
    let call = life.open.front().context("the process asks nothing any more")?;
    if call.name == "ask" {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        println!("{}", visible(arguments["question"].as_str().unwrap_or_default()));
        return Ok(());
    }
    let spec = life.program.request.tools.iter().find(|spec| spec.name == call.name);
    let spec = spec.context("the process asks for a tool that it was not told of")?;
    print!("{}", visible(&Card::of(&life, spec, 0).text()));
    println!("answer with yushan answer {pid} --allow or --deny");
    Ok(())
}

impl Mail {
    pub(crate) fn run(self) -> Result<()> {
        self.at.order(self.pid, json!({ "send": self.text }))
    }
}

#[cfg(test)]
mod tests {
    use yushan_abi::Class;

    use super::*;

    #[test]
    fn ends_and_classes_are_in_words() {
        for (entry, words) in [
            (Entry::Exited(Exit::Done), "over: done\n"),
            (Entry::Exited(Exit::Killed), "over: it was killed\n"),
            (
                Entry::Exited(Exit::Budget("tokens".into())),
                "over: its budget of tokens was used up\n",
            ),
            (Entry::Exited(Exit::Failed("no\u{1b}".into())), "over: it failed: no"),
            (
                Entry::Exited(Exit::Quota("9 tokens a day for ann, 9 used".into())),
                "over: it may use no more: 9 tokens a day for ann, 9 used\n",
            ),
            (Entry::Niced(Class::Batch, 2), "class batch, weight 2\n"),
        ] {
            let said = in_words(&entry);
            assert!(said.starts_with(words) && !said.contains('\u{1b}'), "{said:?}");
        }
    }
}
