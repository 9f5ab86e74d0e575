//! The tools over a file space: list, read, write, search, undo.
//!
//! The key decision: one tool for each verb and not one with an operation inside. The gate decides by what a tool declares, and
//! reading is not writing; who may only look gets the three that look. (The Model Context Protocol's file server and
//! the assistants for programming cut it the same way.)

mod search;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use yushan_abi::{
    Disk, Effect, Invocation, Label, ParamRole, Part, Sources, Tool, ToolResult, ToolSpec,
};

use crate::arguments::{read, refused, spec};
use crate::space::driver::failed;
use crate::space::{self, Edit, Entry, Space, SpaceError, Version};

/// Bytes of text that one call shows.
pub(crate) const SHOWN: usize = 64 << 10;

/// What a driver of this module does.
#[derive(Clone, Copy)]
enum Verb {
    List,
    Read,
    Write,
    Search,
    Undo,
}

/// One of the tools `files_list`, `files_read`, `files_write`, `files_search` and `files_undo`.
pub struct Files {
    disk: Arc<dyn Disk>,
    spec: ToolSpec,
    verb: Verb,
}

impl Files {
    /// All of them over one disk.
    pub fn all(disk: &Arc<dyn Disk>) -> Vec<Files> {
        let of = |verb: Verb| Files { disk: Arc::clone(disk), spec: verb.spec(), verb };
        [Verb::List, Verb::Read, Verb::Write, Verb::Search, Verb::Undo].map(of).into()
    }
}

impl Tool for Files {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, invocation: &Invocation<'_>) -> ToolResult {
        let space = Space::open(Arc::clone(&self.disk), invocation.owner, invocation.space);
        let space = match space {
            Ok(space) => space,
            Err(error) => return failed(&error, invocation),
        };
        match self.verb {
            Verb::List => with(invocation, |arguments| list(&space, &arguments)),
            Verb::Read => with(invocation, |arguments| show(&space, &arguments)),
            Verb::Write => with(invocation, |arguments| write(&space, arguments, invocation)),
            Verb::Search => {
                with(invocation, |arguments| search::search(&space, &arguments, &invocation.cancel))
            }
            Verb::Undo => with(invocation, |Nothing {}| undo(&space)),
        }
    }

    fn forked(&self, from: &str, to: &str) -> Result<(), String> {
        space::fork(&*self.disk, from, to).map_err(|error| error.to_string())
    }

    fn released(&self, space: &str) {
        space::kept::released(&self.disk, space);
    }
}

/// Reads the arguments and does it.
fn with<T: DeserializeOwned>(
    invocation: &Invocation<'_>,
    action: impl FnOnce(T) -> Result<ToolResult, SpaceError>,
) -> ToolResult {
    let arguments = match read(invocation.arguments) {
        Ok(arguments) => arguments,
        Err(refused) => return refused,
    };
    action(arguments).unwrap_or_else(|error| failed(&error, invocation))
}

impl Verb {
    fn spec(self) -> ToolSpec {
        let path = || json!({"type": "string", "description": "A path in the space, such as data/table.csv"});
        let whole = |what: &str| json!({"type": "integer", "minimum": 1, "description": what});
        match self {
            Verb::List => spec(
                "files_list",
                "Lists the files of this conversation with size and type; with a path, also how that file \
                 changed. Uploads, and what other tools wrote, are there too.",
                Effect::Read,
                json!({"history_of": path()}),
                &[],
                &[("history_of", ParamRole::Selector)],
            ),
            Verb::Read => spec(
                "files_read",
                "Reads a text file of this conversation, by lines. Up to 64 KiB at once: the answer says how to go on. \
                 For tables and other formats use the tools that convert or compute.",
                Effect::Read,
                json!({
                    "path": path(),
                    "from_line": whole("The first line to read, counted from 1"),
                    "lines": whole("How many lines"),
                }),
                &["path"],
                &[
                    ("path", ParamRole::Selector),
                    ("from_line", ParamRole::Selector),
                    ("lines", ParamRole::Selector),
                ],
            ),
            Verb::Write => write_spec(path()),
            Verb::Search => search::spec(),
            Verb::Undo => spec(
                "files_undo",
                "Takes back the newest change of the files of this conversation, whichever tool made it; called again, the \
                 one before.",
                Effect::Write,
                json!({}),
                &[],
                &[],
            ),
        }
    }
}

fn write_spec(path: Value) -> ToolSpec {
    spec(
        "files_write",
        "Writes a text file of this conversation: all of it (`text`), in place of a part that occurs exactly once \
                 (`replace` and `text`), or removes it (`remove`). Can be undone with files_undo.",
        Effect::Write,
        json!({
            "path": path,
            "text": {"type": "string", "description": "The new text"},
            "replace": {"type": "string", "description": "What `text` stands in place of; it must occur exactly once"},
            "remove": {"type": "boolean", "description": "Removes the file instead"},
        }),
        &["path"],
        &[
            ("path", ParamRole::Target),
            ("text", ParamRole::Payload),
            ("replace", ParamRole::Selector),
            ("remove", ParamRole::Selector),
        ],
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    history_of: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    path: String,
    from_line: Option<usize>,
    lines: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    path: String,
    text: Option<String>,
    replace: Option<String>,
    #[serde(default)]
    remove: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn own(text: impl Into<String>) -> Part {
    Part { text: text.into(), label: Label::of(Sources::SYSTEM) }
}

fn line(entry: &Entry) -> String {
    let file = &entry.file;
    format!("{} ({}, {} bytes)", file.path, file.media_type, file.size)
}

/// One part a file: a name may be chosen by whoever wrote it.
fn list(space: &Space, arguments: &List) -> Result<ToolResult, SpaceError> {
    if let Some(path) = &arguments.history_of {
        return history(space, path);
    }
    let entries = space.list()?;
    let total: u64 = entries.iter().map(|entry| entry.file.size).sum();
    let mut parts = vec![own(match entries.len() {
        0 => "there are no files yet".to_string(),
        1 => format!("1 file, {total} bytes:\n"),
        count => format!("{count} files, {total} bytes:\n"),
    })];
    let text = |entry: Entry| Part { text: line(&entry) + "\n", label: entry.label };
    parts.extend(entries.into_iter().map(text));
    Ok(ToolResult { parts, ..ToolResult::default() })
}

fn history(space: &Space, path: &str) -> Result<ToolResult, SpaceError> {
    let versions = space.history(path)?;
    let mut parts = vec![own(match versions.len() {
        0 => "no change of this file is remembered".to_string(),
        _ => "newest first:\n".to_string(),
    })];
    parts.extend(versions.iter().map(changed));
    Ok(ToolResult { parts, ..ToolResult::default() })
}

/// What a change did, with the labels of what it names.
fn changed(version: &Version) -> Part {
    let labels = [&version.before, &version.after].into_iter().flatten();
    let label = labels.fold(Label::default(), |label, entry| label.join(&entry.label));
    let path = &version.path;
    let text = match (&version.before, &version.after) {
        (None, Some(after)) => format!("{path}: made, {} bytes\n", after.file.size),
        (Some(before), Some(after)) => {
            format!("{path}: from {} to {} bytes\n", before.file.size, after.file.size)
        }
        (Some(before), None) => format!("{path}: removed, {} bytes\n", before.file.size),
        (None, None) => format!("{path}: nothing\n"),
    };
    Part { text, label }
}

fn show(space: &Space, arguments: &Read) -> Result<ToolResult, SpaceError> {
    let content = space.read(&arguments.path)?;
    let Ok(text) = String::from_utf8(content.bytes) else {
        let path = &arguments.path;
        let kind = space::media_type(path, b"\xff");
        let why =
            format!("{path} is no text in UTF-8 ({kind}); convert it, or read it with python");
        return Ok(ToolResult::failed(why, content.label));
    };
    let all = text.lines().count();
    let from = arguments.from_line.unwrap_or(1).max(1);
    if from > all.max(1) {
        let why = format!("the file has {all} lines, there is no line {from}");
        return Ok(ToolResult::failed(why, content.label));
    }
    let most = arguments.lines.unwrap_or(usize::MAX);
    let (mut shown, mut count) = (String::new(), 0);
    for line in text.split_inclusive('\n').skip(from - 1).take(most) {
        if shown.len() + line.len() > SHOWN {
            break;
        }
        shown.push_str(line);
        count += 1;
    }
    let last = from + count - 1;
    let mut head = None;
    if count == 0 && all > 0 {
        // One line that is longer than all that is shown.
        let line = text.split_inclusive('\n').nth(from - 1).unwrap_or_default();
        shown = line[..line.floor_char_boundary(SHOWN)].to_string();
        let size = line.len();
        head =
            Some(format!("the first {} of {size} bytes of line {from} of {all}:\n", shown.len()));
    } else if (from, last) != (1, all) {
        head = Some(format!("lines {from} to {last} of {all}:\n"));
    }
    let next = (last < all && count > 0)
        .then(|| format!("\n(goes on: from_line {} of {all} lines)", last + 1));
    let mut parts: Vec<Part> = head.map(own).into_iter().collect();
    parts.push(Part { text: shown, label: content.label });
    parts.extend(next.map(own));
    Ok(ToolResult { parts, ..ToolResult::default() })
}

fn write(
    space: &Space,
    arguments: Write,
    invocation: &Invocation<'_>,
) -> Result<ToolResult, SpaceError> {
    let path = &arguments.path;
    // A model wrote it, from what it has seen.
    let label = invocation.label.join(&Label::of(Sources::MODEL));
    let edit = |bytes, label| Edit { path: path.clone(), bytes: Some(bytes), label };
    let edit = match (arguments.text, arguments.replace, arguments.remove) {
        (None, None, true) => {
            space.remove(path)?;
            return Ok(ToolResult::new(format!("{path}: removed"), label));
        }
        (Some(text), None, false) => edit(text.into_bytes(), label),
        (Some(text), Some(old), false) => {
            let content = space.read(path)?;
            let whole = String::from_utf8_lossy(&content.bytes);
            let places = if old.is_empty() { 0 } else { whole.matches(&old).count() };
            if places != 1 {
                let why = format!("the text in `replace` occurs {places} times in {path}");
                return Ok(refused(format!(
                    "{why}; it must occur once: give more of what is around it"
                )));
            }
            let bytes = whole.replacen(&old, &text, 1).into_bytes();
            edit(bytes, label.join(&content.label))
        }
        _ => {
            let why = "give `text`, or `text` and `replace`, or `remove: true` alone";
            return Ok(refused(why));
        }
    };
    let label = edit.label.clone();
    let versions = space.change(vec![edit], Vec::new())?;
    let files = versions.iter().filter_map(|version| version.after.clone());
    let files: Vec<_> = files.map(|entry| entry.file).collect();
    let text: String = versions.iter().map(|version| changed(version).text).collect();
    let text = if versions.is_empty() { format!("{path}: as it was") } else { text };
    Ok(ToolResult { files, ..ToolResult::new(text, label) })
}

fn undo(space: &Space) -> Result<ToolResult, SpaceError> {
    let versions = space.undo()?;
    let mut parts = vec![own("taken back:\n")];
    parts.extend(versions.iter().map(changed));
    Ok(ToolResult { parts, ..ToolResult::default() })
}

/// A schema's text with a bound, for [`search`].
pub(crate) fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

#[cfg(test)]
mod tests;
