//! `export`, `import`, and what `chat` keeps: conversations on the system's disk.
//!
//! The key decision: the system checks and keeps them (`/v1/chats`); here files are only brought into its
//! form, a file a request, so that a file is imported whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::exit::BadFile;
use crate::replace::replace;
use crate::system::{Where, plain};

/// Conversations of one page.
const PAGE: usize = 1000;

/// Write conversations as JSON, in the form of OpenAI's messages
#[derive(clap::Args)]
pub(crate) struct Export {
    /// Which [default: all]
    ids: Vec<String>,
    /// The file to write [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    at: Where,
}

/// Read conversations: what export wrote, {"messages": [...]}, a list of messages, or a line for each
#[derive(clap::Args)]
pub(crate) struct Import {
    /// Which
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    at: Where,
}

impl Export {
    pub(crate) fn run(self) -> Result<()> {
        let ids = match self.ids.is_empty() {
            true => all(&self.at)?.iter().filter_map(|h| Some(h["id"].as_str()?.into())).collect(),
            false => self.ids,
        };
        let each = ids.iter().map(|id| get(&self.at, id));
        let text = format!("{:#}\n", json!({ "conversations": each.collect::<Result<Vec<_>>>()? }));
        match &self.out {
            None => std::io::stdout().write_all(text.as_bytes())?,
            Some(path) => {
                replace(path, text.as_bytes()).with_context(|| path.display().to_string())?
            }
        }
        eprintln!("{} conversations", ids.len());
        Ok(())
    }
}

impl Import {
    pub(crate) fn run(self) -> Result<()> {
        for path in &self.files {
            let named = || path.display().to_string();
            let conversations = read(path).map_err(|why| BadFile(format!("{}: {why}", named())))?;
            let count = conversations.len();
            let kept = keep(&self.at, conversations).with_context(named)?;
            for head in kept["data"].as_array().into_iter().flatten() {
                writeln!(std::io::stdout(), "{}", line(head))?;
            }
            eprintln!("{}: {count} conversations", named());
        }
        Ok(())
    }
}

/// The conversations of a file.
fn read(path: &Path) -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    conversations(&text)
}

/// The conversations of a text: JSON in one of three forms, or a line for each.
fn conversations(text: &str) -> Result<Vec<Value>, String> {
    let found = match serde_json::from_str(text) {
        Ok(whole) => of_value(whole)?,
        Err(whole) => {
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            let mut found = Vec::new();
            for (at, line) in lines {
                let value = serde_json::from_str(line).map_err(|error| match at {
                    // It is one value that is broken, not lines.
                    0 => format!("no JSON: {whole}"),
                    _ => format!("line {}: no JSON: {error}", at + 1),
                })?;
                let more = of_value(value).map_err(|why| format!("line {}: {why}", at + 1))?;
                found.extend(more);
            }
            found
        }
    };
    match found.is_empty() {
        true => Err("no conversation in it".into()),
        false => Ok(found),
    }
}

fn of_value(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Object(mut fields) if fields.contains_key("conversations") => {
            match fields.remove("conversations") {
                Some(Value::Array(list)) if fields.is_empty() => Ok(list),
                _ => Err("expected {\"conversations\": [...]} and nothing else".into()),
            }
        }
        Value::Object(fields) if fields.contains_key("messages") => Ok(vec![fields.into()]),
        Value::Array(list) if list.iter().any(|one| one.get("role").is_some()) => {
            Ok(vec![json!({ "messages": list })])
        }
        Value::Array(list) => Ok(list),
        _ => Err("no conversation; expected {\"conversations\": [...]}, {\"messages\": [...]}, a \
                  list of messages, or lines of these"
            .into()),
    }
}

/// A name that no other session has.
pub(crate) fn session() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("chat-{}-{}", now.as_millis(), std::process::id())
}

/// Keeps conversations.
pub(crate) fn keep(at: &Where, conversations: Vec<Value>) -> Result<Value> {
    at.ask("/v1/chats", Some(&json!({ "conversations": conversations })))
}

/// What lists say of all conversations.
fn all(at: &Where) -> Result<Vec<Value>> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = at.ask(&format!("/v1/chats?limit={PAGE}{after}"), None)?;
        found.extend(page["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
        match page["last_id"].as_str() {
            Some(last) if page["has_more"] == true => after = format!("&after={last}"),
            _ => return Ok(found),
        }
    }
}

/// A conversation.
fn get(at: &Where, id: &str) -> Result<Value> {
    at.ask(&format!("/v1/chats/{}", encoded(id)), None)
}

/// The conversation of this name, or the one that was spoken in last.
pub(crate) fn find(at: &Where, id: &str) -> Result<Value> {
    if !id.is_empty() {
        return get(at, id);
    }
    let heads = all(at)?;
    let last = heads.iter().max_by_key(|head| head["updated_at"].as_u64());
    match last.and_then(|head| head["id"].as_str()) {
        Some(id) => get(at, id),
        None => bail!("the system keeps no conversation yet"),
    }
}

/// A list of all conversations, the newest last, or of those with these words, the best first.
pub(crate) fn list(at: &Where, words: Option<&str>) -> Result<String> {
    let heads = match words {
        Some(words) => {
            let mut page = at.ask(&format!("/v1/chats?q={}", encoded(words)), None)?;
            page["data"].as_array_mut().map(std::mem::take)
        }
        None => {
            let mut heads = all(at)?;
            heads.sort_by_key(|head| head["updated_at"].as_u64());
            Some(heads)
        }
    };
    let heads = heads.ok_or_else(|| anyhow!("the system answers no list"))?;
    match heads.is_empty() {
        true => Ok("none".into()),
        false => Ok(heads.iter().map(line).collect::<Vec<_>>().join("\n")),
    }
}

fn line(head: &Value) -> String {
    let text = |name: &str| head[name].as_str().unwrap_or_default().to_string();
    let count = head["messages"].as_u64().unwrap_or(0);
    plain(&format!("{:<32} {count:>4} messages  {}", text("id"), text("title")))
}

/// As it stands in an address.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_form_are_conversations() {
        let messages = json!([{"role": "user", "content": "a"}]);
        let one = json!({ "messages": messages });
        for (text, expected) in [
            (json!({ "conversations": [one, one] }).to_string(), Ok(2)),
            (one.to_string(), Ok(1)),
            (messages.to_string(), Ok(1)),
            (json!([one, one]).to_string(), Ok(2)),
            (format!("{one}\n\n{messages}\n"), Ok(2)),
            (String::new(), Err("no conversation in it")),
            ("{".into(), Err("no JSON: EOF")),
            (format!("{one}\n{{"), Err("line 2: no JSON")),
            (format!("{one}\n7"), Err("line 2: no conversation")),
            ("7".into(), Err("no conversation; expected")),
            (json!({ "conversations": 7 }).to_string(), Err("expected {\"conversations\"")),
        ] {
            match (conversations(&text), expected) {
                (Ok(found), Ok(count)) => assert_eq!(found.len(), count, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        assert_eq!(conversations(&one.to_string()).unwrap(), [one]);
        assert_eq!(encoded("山 a"), "%E5%B1%B1%20a");
    }
}
