//! The grammar of answers that may call tools.
//!
//! The key decision: one Lark grammar for a whole answer. Free text stands beside the calls as a
//! pattern that ends, lazily, where a call's opener does; from there on only the names of tools and
//! JSON that their schemas accept can follow. So no model, however small, writes an invalid call,
//! and text costs nothing but its mask.
//!
//! Keywords of a tool's schema that no grammar can express are left to the tool.

use std::fmt::Write as _;

use yushan_abi::ToolSpec;

use super::{Convention, inner, quoted};
use crate::grammar::{checked_arguments, checked_form};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Most calls of one answer: a small model would write them for ever.
const MOST_CALLS: usize = 16;

/// What an answer may be besides calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plain<'a> {
    /// Nothing: it must call.
    Nothing,
    /// Any text.
    Text,
    /// JSON of this schema.
    Json(&'a serde_json::Value),
}

/// The Lark grammar of an answer that calls some of `tools`, several if `parallel`.
pub(crate) fn answer(
    tokenizer: &Tokenizer,
    convention: Convention,
    tools: &[&ToolSpec],
    parallel: bool,
    plain: Plain<'_>,
) -> Result<String> {
    let mut lark = String::new();
    match plain {
        Plain::Nothing => lark.push_str("start: first\n"),
        Plain::Json(schema) => {
            let _ = writeln!(lark, "start: first | plain\nplain: %json {}", checked_form(schema)?);
        }
        Plain::Text => lark.push_str(&free(tokenizer, convention)),
    }
    let opener = marker(tokenizer, convention.opener());
    let closer = match convention {
        Convention::Llama3 => String::new(),
        _ => marker(tokenizer, convention.closer()),
    };
    let several = |next: &str| match parallel {
        true => format!("({next}){{0,{}}}", MOST_CALLS - 1),
        false => String::new(),
    };
    let (head, next) =
        (literal(convention.before_name(true)), literal(convention.before_name(false)));
    let end = literal(convention.after_arguments());
    let _ = match convention {
        Convention::Hermes => writeln!(
            lark,
            "first: {opener} calls\n\
             calls: call {}\n\
             call: {head} tool {end} {closer}",
            several(&format!("\"\\n\" {opener} call"))
        ),
        Convention::Mistral => writeln!(
            lark,
            "first: {opener} calls\n\
             calls: \" \"? {head} tool {end} {} {closer}",
            several(&format!("{next} tool {end}"))
        ),
        Convention::Llama3 => writeln!(
            lark,
            "first: {head} rest\n\
             calls: {head} rest\n\
             rest: tool {end}"
        ),
    };
    let choices: Vec<String> = (0..tools.len()).map(|at| format!("tool_{at}")).collect();
    let _ = writeln!(lark, "tool: {}", choices.join(" | "));
    for (at, tool) in tools.iter().enumerate() {
        let name = inner(&quoted(&tool.name)).to_string() + &convention.before_arguments();
        let schema = checked_arguments(&arguments(tool)?)?;
        let _ = writeln!(lark, "tool_{at}: {} %json {schema}", literal(&name));
    }
    Ok(lark)
}

/// The rules of text up to a call, or without one. Text that would be read as a bare call is none.
fn free(tokenizer: &Tokenizer, convention: Convention) -> String {
    let opener = convention.opener();
    let mut lark = format!("plain: TEXT\nopened[lazy]: TEXT {}\n", literal(opener));
    let mut opened = "opened".to_string();
    if let Some(token) = control(tokenizer, opener) {
        let _ = write!(opened, " | TEXT <[{token}]>");
    }
    let _ = writeln!(lark, "opening: {opened}");
    lark.push_str(match convention {
        Convention::Llama3 => {
            "start: plain | opening calls | bare rest\n\
             bare[lazy]: BARE \":\" \" \"? \"\\\"\"\n\
             BARE: /[ \\n\\r\\t]*\\{[ \\n\\r\\t]*\"name\"/\n\
             ANY: /(\\n|.)*/\n\
             TEXT: ANY & ~(BARE ANY)\n"
        }
        _ => "start: plain | opening calls\nTEXT: /(\\n|.)*/\n",
    });
    lark
}

/// The schema of a tool's arguments, which must be an object.
fn arguments(tool: &ToolSpec) -> Result<serde_json::Value> {
    let mut schema = match &tool.schema {
        serde_json::Value::Null => serde_json::json!({}),
        schema => schema.clone(),
    };
    let told = |kind: &str| {
        let detail = format!(
            "the parameters of {:?} are {kind}; expected the schema of an object",
            tool.name
        );
        Error::request("tools", detail)
    };
    let Some(fields) = schema.as_object_mut() else { return Err(told("no JSON schema")) };
    match fields.get("type") {
        None => {
            fields.insert("type".into(), "object".into());
        }
        Some(kind) if kind == "object" => {}
        Some(kind) => return Err(told(&format!("of type {kind}"))),
    }
    Ok(schema)
}

/// A text, by its control token too if it has one.
fn marker(tokenizer: &Tokenizer, text: &str) -> String {
    match control(tokenizer, text) {
        Some(token) => format!("(<[{token}]> | {})", literal(text)),
        None => literal(text),
    }
}

/// The control token of this text.
pub(crate) fn control(tokenizer: &Tokenizer, text: &str) -> Option<yushan_abi::TokenId> {
    tokenizer.token_of(text).filter(|&token| tokenizer.is_special(token))
}

/// A text in Lark, whose strings are JSON's.
fn literal(text: &str) -> String {
    quoted(text)
}
