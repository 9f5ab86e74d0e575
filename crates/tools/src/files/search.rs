//! Searching the texts of a space: plain words or a regular expression, line by line.

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::json;
use yushan_abi::{Cancel, Effect, ParamRole, Part, ToolResult, ToolSpec};

use super::{SHOWN, own, text};
use crate::arguments;
use crate::space::{Space, SpaceError};

/// Bytes of a compiled expression, and of what is looked for.
const MOST_PROGRAM: usize = 1 << 20;
const MOST_QUERY: usize = 1000;
/// Lines that are shown, and bytes of each.
const MOST_LINES: usize = 200;
const MOST_LINE: usize = 400;

pub(super) fn spec() -> ToolSpec {
    arguments::spec(
        "files_search",
        "Searches the text files of this conversation line by line: for a text, without regard to case, or with `regex` for a regular \
         expression. Gives path, line number and line.",
        Effect::Read,
        json!({
            "query": text("What to look for"),
            "regex": {"type": "boolean", "description": "Whether the query is a regular expression (as in Rust: no look-around)"},
            "path": text("Only in this file, or in files below this folder"),
        }),
        &["query"],
        &[
            ("query", ParamRole::Selector),
            ("regex", ParamRole::Selector),
            ("path", ParamRole::Selector),
        ],
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    query: String,
    #[serde(default)]
    regex: bool,
    path: Option<String>,
}

pub(super) fn search(
    space: &Space,
    search: &Search,
    cancel: &Cancel,
) -> Result<ToolResult, SpaceError> {
    let pattern = match pattern(search) {
        Ok(pattern) => pattern,
        Err(why) => return Ok(arguments::refused(why)),
    };
    let below = search.path.as_deref().map(|path| path.trim_end_matches('/'));
    let is_in = |path: &str| {
        below.is_none_or(|below| {
            path.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let (mut parts, mut lines, mut bytes, mut looked, mut skipped) = (Vec::new(), 0, 0, 0, 0);
    for entry in space.list()?.into_iter().filter(|entry| is_in(&entry.file.path)) {
        if cancel.is_cancelled() {
            return Ok(arguments::refused("stopped"));
        }
        let Ok(text) = String::from_utf8(space.bytes(&entry.file.sha256)?) else {
            skipped += 1;
            continue;
        };
        looked += 1;
        let mut found = String::new();
        for (number, line) in text.lines().enumerate() {
            let Some(place) = pattern.find(line) else { continue };
            lines += 1;
            if lines <= MOST_LINES && bytes + found.len() < SHOWN {
                let line = around(line, place.start());
                found += &format!("{}:{}: {line}\n", entry.file.path, number + 1);
            }
        }
        bytes += found.len();
        if !found.is_empty() {
            parts.push(Part { text: found, label: entry.label });
        }
    }
    let shown: usize = parts.iter().map(|part| part.text.lines().count()).sum();
    let mut tail = match lines {
        0 => format!("no line found in {looked} text files"),
        _ if shown < lines => {
            format!("{lines} lines found, the first {shown} are shown; narrow it down")
        }
        _ => format!("{lines} lines found"),
    };
    if skipped > 0 {
        tail += &format!("; {skipped} files that are no text were left out");
    }
    parts.push(own(tail));
    Ok(ToolResult { parts, ..ToolResult::default() })
}

fn pattern(search: &Search) -> Result<Regex, String> {
    if search.query.is_empty() || search.query.len() > MOST_QUERY {
        return Err(format!("`query` must have 1 to {MOST_QUERY} bytes"));
    }
    let query = if search.regex { search.query.clone() } else { regex::escape(&search.query) };
    let mut builder = RegexBuilder::new(&query);
    builder.case_insensitive(!search.regex).size_limit(MOST_PROGRAM).dfa_size_limit(MOST_PROGRAM);
    builder
        .build()
        .map_err(|error| format!("`query` is no regular expression that can be used: {error}"))
}

/// The part of a long line around a place.
fn around(line: &str, at: usize) -> String {
    if line.len() <= MOST_LINE {
        return line.to_string();
    }
    let from = line.floor_char_boundary(at.saturating_sub(MOST_LINE / 4));
    let to = line.floor_char_boundary((from + MOST_LINE).min(line.len()));
    format!("…{}… ({} bytes)", &line[from..to], line.len())
}
