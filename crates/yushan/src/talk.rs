//! `chat`: a conversation with a running system, or with one of its own.
//!
//! The key decision: it is a client like any other and knows the system only through
//! `/v1/chat/completions`, and `/v1/chats`, which keeps what was said. If no system runs it starts one in this
//! process (`own.rs`), and is a client of that. What the lines do is in `branches.rs`; here they are read, sent and written.
//! A thread waits for the reply, so that Ctrl-C ends it even while nothing comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::branches::{Act, Attachment, Branches, Figures, Said};
use crate::chat::{Lines, say};
use crate::exit::{self, BadFile, BadUsage};
use crate::inspect::visible;
use crate::interrupt::Interrupt;
use crate::kept;
use crate::own::Own;
use crate::replace::replace;
use crate::system::{Where, plain};
use crate::{boot, flags, steps, wire};

/// Most bytes of a file that goes before a message: about as much as a large context holds.
const ATTACHED: u64 = 1 << 20;
/// Most bytes of a file that `/load` reads.
const LOADED: u64 = 64 << 20;
/// The end of a reply that Ctrl-C stopped.
const INTERRUPTED: &str = "interrupted";
/// How often Ctrl-C is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Talk to a running system; if there is none, to one that ends with the conversation
#[derive(clap::Args)]
#[command(mut_group("Engine", |group| group.conflicts_with("server")))]
pub(crate) struct Chat {
    /// The model: a name that the system lists; if none runs, a file or a name on a hub too [default: the first
    /// that the system lists]
    model: Option<String>,
    /// Go on with a conversation that the system keeps: the last one, or that of this ID
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "")]
    resume: Option<String>,
    /// Tools that the assistant may use: names, separated by commas, or `all`; NAME:ask asks before each call, NAME:deny
    /// refuses it
    #[arg(long, value_name = "NAMES")]
    tools: Option<String>,
    /// Run the Python code of an answer in the sandbox before it is shown; needs the tool python
    #[arg(long)]
    check_code: bool,
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    engine: flags::Engine,
}

impl Chat {
    pub(crate) fn run(mut self) -> Result<()> {
        let own = self.own()?;
        if let Some(own) = &own {
            self.at = Where::at(own.address.clone());
        }
        let models = names(&self.at)?;
        let model = match &self.model {
            Some(name) if models.contains(name) => name.clone(),
            Some(name) if models.contains(&wire::short_name(name)) => wire::short_name(name),
            Some(name) => {
                let why = format!("no model {name:?}; the system has {}", models.join(", "));
                return Err(BadUsage(why).into());
            }
            None => match models.first() {
                Some(name) => name.clone(),
                None => return Err(BadFile("the system has no model".into()).into()),
            },
        };
        let mut branches = Branches::new(models, model, kept::session());
        branches.know(tools(&self.at)?);
        branches.checks_code = self.check_code;
        if let Some(names) = &self.tools {
            say(&branches.equip(names).map_err(BadUsage)?)?;
        }
        if self.check_code && !branches.equipped().iter().any(|name| name == "python") {
            let why = "--check-code runs code with the tool python: add --tools python";
            return Err(BadUsage(why.into()).into());
        }
        if let Some(id) = &self.resume {
            let kept = kept::find(&self.at, id)?;
            say(&branches.resume(&kept).map_err(|why| anyhow!("{why}"))?)?;
        }
        let interrupt = Interrupt::catch()?;
        let mut lines = Lines::open()?;
        while let Some(text) = lines.read()? {
            let act = branches.take(text);
            if act == Act::Leave {
                break;
            }
            if let Err(error) = self.perform(act, &mut branches, &interrupt, &mut lines) {
                say(&visible(&format!("error: {}", exit::line(&error))))?;
            }
        }
        lines.save();
        Ok(())
    }

    /// A system of its own, if no other is there for this.
    fn own(&self) -> Result<Option<Own>> {
        if self.at.is_given() {
            return Ok(None);
        }
        if let Some(address) = boot::running() {
            if self.engine.is_given() {
                let why = format!("a system runs at {address} with an engine as it was started");
                return Err(BadUsage(why).into());
            }
            return Ok(None);
        }
        // One that has another data folder, at the usual address.
        if self.model.is_none() && !self.engine.is_given() && names(&self.at).is_ok() {
            eprintln!(
                "The system at {}, of another data folder, keeps what is said.",
                self.at.base()
            );
            return Ok(None);
        }
        Own::start(self.model.clone(), &self.engine).map(Some)
    }

    fn perform(
        &self,
        act: Act,
        branches: &mut Branches,
        interrupt: &Interrupt,
        lines: &mut Lines,
    ) -> Result<()> {
        match act {
            Act::Say(text) => say(&text),
            Act::Ask => self.answer(branches, interrupt, lines),
            Act::Upload(path) => self.upload(branches.space(), &path),
            Act::Files => {
                let list = self.at.ask(&format!("/v1/spaces/{}/files", branches.space()), None)?;
                let files = list["data"].as_array().map_or(&[][..], Vec::as_slice);
                let line = |file: &Value| {
                    let path = plain(file["path"].as_str().unwrap_or(""));
                    format!("{:>10}  {path}", file["size"])
                };
                match files {
                    [] => say("There are no files."),
                    files => say(&files.iter().map(line).collect::<Vec<_>>().join("\n")),
                }
            }
            Act::Get(path, to) => {
                let bytes = self.at.get_file(branches.space(), &path)?;
                replace(&to, &bytes).with_context(|| to.display().to_string())?;
                say(&format!("Saved to {}, {} bytes.", to.display(), bytes.len()))
            }
            Act::ForkSpace(from, to, text) => {
                self.at.ask(&format!("/v1/spaces/{from}"), Some(&json!({ "fork": to })))?;
                say(&text)
            }
            Act::Attach(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                let name = name.to_string_lossy().into_owned();
                let text = text_of(&path, ATTACHED)?;
                say(&branches.attach(Attachment { name, text }))
            }
            Act::Save(path) => {
                let text = format!("{:#}\n", branches.saved());
                match replace(&path, text.as_bytes()) {
                    Ok(()) => say(&format!("Saved to {}.", path.display())),
                    Err(error) => bail!("{}: {error}", path.display()),
                }
            }
            Act::Load(path) => match branches.load(&text_of(&path, LOADED)?) {
                Ok(said) => say(&said),
                Err(why) => bail!("{}: {why}", path.display()),
            },
            Act::History(words) => say(&kept::list(&self.at, words.as_deref())?),
            Act::Resume(id) => {
                let kept = kept::find(&self.at, &id)?;
                say(&branches.resume(&kept).map_err(|why| anyhow!("{why}"))?)
            }
            Act::Nothing | Act::Leave => Ok(()),
        }
    }

    fn answer(
        &self,
        branches: &mut Branches,
        interrupt: &Interrupt,
        lines: &mut Lines,
    ) -> Result<()> {
        interrupt.take();
        let mut reply = Reply::default();
        let (at, request) = (self.at.clone(), branches.request());
        let pieces = pieces(move || {
            let body = at.send("/v1/chat/completions", Some(&request), None)?;
            Ok(body.into_reader())
        });
        let mut approve = |step: &Value| self.approve(step, lines);
        let done = reply.write(&pieces, interrupt, &mut std::io::stdout(), &mut approve);
        if !reply.text.is_empty() {
            say("")?; // ends the line
        }
        match done {
            Ok(())
                if reply.text.is_empty()
                    && reply.steps.is_empty()
                    && reply.figures.end == INTERRUPTED =>
            {
                branches.failed();
                return say("Stopped before a word came: the message is taken back.");
            }
            Ok(()) => {
                let Reply { steps, text, figures } = reply;
                branches.replied(steps, text.trim_start().to_string(), figures);
                kept::keep(&self.at, vec![branches.kept()])?;
            }
            Err(error) => {
                branches.failed();
                let tools = branches.equipped().len();
                if tools > 0 && exit::line(&error).contains("context holds") {
                    say(&format!(
                        "What the {tools} tools are is a part of each request; /tools NAMES chooses fewer."
                    ))?;
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Chat {
    /// Gives the assistant's tools a file.
    fn upload(&self, space: &str, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let kept = self.at.put_file(space, &name, bytes)?;
        let (path, size) = (plain(kept["path"].as_str().unwrap_or("")), &kept["size"]);
        say(&format!("Its tools see {path}, {size} bytes."))
    }

    /// Asks the person, and tells the system what was said; once more if the card was stale by then.
    fn approve(&self, step: &Value, lines: &mut Lines) -> Result<()> {
        let Err(error) = self.approve_now(step, lines) else { return Ok(()) };
        eprintln!("{}", exit::line(&error));
        self.approve_now(step, lines)
    }

    fn approve_now(&self, step: &Value, lines: &mut Lines) -> Result<()> {
        let question = step["name"] == "ask";
        // What would happen and where each value came from is the system's to say, not the model's.
        let list = if question { Value::Null } else { self.at.ask("/v1/approvals", None)? };
        let mut open = list["data"].as_array().into_iter().flatten();
        let open = open.find(|open| open["key"] == step["key"]).unwrap_or(&Value::Null);
        let hash = &open["card"]["hash"];
        match open["text"].as_str().filter(|text| !text.is_empty()) {
            Some(text) => say(visible(text).trim_end())?,
            None => say(&steps::asks(step))?,
        }
        let prompt = if question { "answer: " } else { "allow? [y/N] " };
        // Whoever goes away has not allowed it.
        let line = lines.ask(prompt)?.unwrap_or_default();
        let told = match question {
            true => json!({ "key": step["key"], "answer": line }),
            false => {
                let yes = ["y", "yes", "是", "好"].contains(&line.to_lowercase().as_str());
                json!({ "key": step["key"], "allow": yes, "hash": hash })
            }
        };
        self.at.ask("/v1/approvals", Some(&told)).map(drop)
    }
}

/// The tools of a system, and what each does. System calls are not among them: a chat is one process.
fn tools(at: &Where) -> Result<Vec<(String, String)>> {
    let list = at.ask("/v1/tools", None)?;
    let text = |tool: &Value, name: &str| tool[name].as_str().unwrap_or("").to_string();
    let tools = list["data"].as_array().into_iter().flatten();
    let tools = tools.map(|tool| (text(tool, "name"), text(tool, "description")));
    let own = |name: &str| yushan_kernel::syscall::SystemCall::NAMES.contains(&name);
    Ok(tools.filter(|(name, _)| !own(name) || matches!(&**name, "ask" | "plan")).collect())
}

/// The models that a system lists.
pub(crate) fn names(at: &Where) -> Result<Vec<String>> {
    let list = at.ask("/v1/models", None)?;
    let models = list["data"].as_array().into_iter().flatten();
    Ok(models.filter_map(|model| model["id"].as_str().map(str::to_string)).collect())
}

/// A reply as it comes.
#[derive(Default)]
struct Reply {
    /// What tools did before the text.
    steps: Vec<Said>,
    text: String,
    figures: Figures,
}

impl Reply {
    /// Writes the pieces until the last, or until Ctrl-C.
    fn write(
        &mut self,
        pieces: &Receiver<Result<String>>,
        interrupt: &Interrupt,
        out: &mut dyn Write,
        approve: &mut dyn FnMut(&Value) -> Result<()>,
    ) -> Result<()> {
        let sent = Instant::now();
        let mut first = None;
        loop {
            if interrupt.take() {
                self.figures.end = INTERRUPTED.into();
                break;
            }
            match pieces.recv_timeout(LOOK) {
                Ok(Ok(data)) if data == "[DONE]" => break,
                Ok(Ok(data)) if data.is_empty() => {}
                Ok(Ok(data)) => {
                    let (piece, step) = self.add(&data)?;
                    let mut shown = visible(&piece);
                    if step["answered"].is_object() {
                        let said = std::mem::take(&mut self.text);
                        let newline = if said.is_empty() { "" } else { "\n" };
                        shown = format!("{newline}{}", steps::answered(&step["answered"]));
                        self.steps.extend(steps::messages(said, &step["answered"]));
                    }
                    if !shown.is_empty() {
                        first.get_or_insert_with(|| sent.elapsed());
                        out.write_all(shown.as_bytes()).and_then(|()| out.flush())?;
                    }
                    if step["asks"].is_object() {
                        approve(&step["asks"])?;
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the reply broke off before its end"),
            }
        }
        let all = sent.elapsed();
        let first = first.unwrap_or(all);
        self.figures.times = (first.as_secs_f64(), (all - first).as_secs_f64());
        Ok(())
    }

    /// What an event adds to the text, and the step that it tells of.
    fn add(&mut self, data: &str) -> Result<(String, Value)> {
        let Ok(event) = serde_json::from_str::<Value>(data) else {
            bail!("the reply has a line that is not JSON: {data:?}");
        };
        if let Some(message) = event["error"]["message"].as_str() {
            bail!("{message}");
        }
        let choice = &event["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.figures.end = match choice["finish_detail"].as_str() {
                Some(detail) => format!("{reason}: {detail}"),
                None => reason.to_string(),
            };
        }
        let count = |value: &Value| value.as_u64().unwrap_or(0);
        if let usage @ Value::Object(_) = &event["usage"] {
            self.figures.counts = Some((
                count(&usage["prompt_tokens"]),
                count(&usage["prompt_tokens_details"]["cached_tokens"]),
                count(&usage["completion_tokens"]),
            ));
        }
        let piece = choice["delta"]["content"].as_str().unwrap_or("");
        self.text.push_str(piece);
        Ok((piece.to_string(), choice["step"].clone()))
    }
}

/// The data of server-sent events, one a line. The thread ends with the reply, or at the first line
/// after nobody listens any more; that closes the connection, and the system ends the process.
fn pieces<R: Read>(open: impl FnOnce() -> Result<R> + Send + 'static) -> Receiver<Result<String>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let body = match open() {
            Ok(body) => body,
            Err(error) => {
                let _ = send.send(Err(error)); // perhaps nobody listens any more
                return;
            }
        };
        for line in BufReader::new(body).lines() {
            // Comments keep the connection alive; they too ask whether anybody listens.
            let piece = match line {
                Ok(line) => Ok(line.strip_prefix("data:").unwrap_or("").trim().to_string()),
                Err(error) => Err(anyhow!("the reply broke off: {error}")),
            };
            if send.send(piece).is_err() {
                return;
            }
        }
    });
    receive
}

/// A file of UTF-8 text that has no more bytes than that.
fn text_of(path: &Path, most: u64) -> Result<String> {
    let failed = |why: &dyn std::fmt::Display| anyhow!("{}: {why}", path.display());
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > most {
        return Err(failed(&format!("more than {} KiB: give a part of it", most >> 10)));
    }
    String::from_utf8(bytes).map_err(|_| failed(&"no UTF-8 text: expected a text file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_a_reply() {
        let events = [
            r#"data: {"choices":[{"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#,
            ": still there",
            r#"data: {"choices":[{"delta":{"content":"Good\u001b "},"finish_reason":null}]}"#,
            r#"data:{"choices":[{"delta":{"content":"day"},"finish_reason":null}]}"#,
            r#"data: {"choices":[{"delta":{},"finish_reason":"length"}]}"#,
            r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}}"#,
            "data: [DONE]",
        ];
        let interrupt = Interrupt::catch().unwrap();
        let read = |lines: &[&str]| {
            let body = std::io::Cursor::new(lines.join("\n\n"));
            let (mut reply, mut out) = (Reply::default(), Vec::new());
            let mut approve = |_: &Value| panic!("nothing is asked");
            let done = reply.write(&pieces(move || Ok(body)), &interrupt, &mut out, &mut approve);
            assert_eq!(String::from_utf8(out).unwrap(), visible(&reply.text));
            (reply, done.map_err(|error| error.to_string()))
        };
        let (reply, done) = read(&events);
        assert_eq!((reply.text.as_str(), done), ("Good\u{1b} day", Ok(())));
        assert_eq!(reply.figures.counts, Some((7, 3, 2)));
        assert_eq!(reply.figures.end, "length");
        for (lines, part) in [
            (&events[..3], "broke off"),
            (&["data: {"][..], "not JSON"),
            (&[r#"data: {"error":{"message":"the context is full"}}"#], "the context is full"),
        ] {
            assert!(read(lines).1.unwrap_err().contains(part), "{part}");
        }
    }

    #[test]
    fn files_are_small_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        for (bytes, expected) in [
            (&b"word"[..], Ok("word")),
            (b"words", Err("more than 0 KiB")),
            (b"\xff", Err("no UTF-8 text")),
        ] {
            std::fs::write(&path, bytes).unwrap();
            match (text_of(&path, 4), expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text, expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (result, _) => panic!("{bytes:?}: {result:?}"),
            }
        }
        assert!(text_of(&folder.path().join("absent"), 4).is_err());
    }
}
