//! How models write calls of tools: three conventions, told by the template's text.
//!
//! | convention | a call |
//! |---|---|
//! | Hermes, Qwen | `<tool_call>` `{"name": …, "arguments": {…}}` `</tool_call>`, one or several |
//! | Llama 3 | `{"name": …, "parameters": {…}}` as the whole answer, or after `<|python_tag|>`; one |
//! | Mistral | `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]` |
//!
//! The key decision: one table for the three places that must agree, the reader of what a model
//! writes (`parser.rs`), the grammar that it is held to (`constraint.rs`), and the instruction for
//! models whose template knows no tools (`chat/tools.rs`).
//!
//! Not here: whether a call may be done (the kernel's gate).

mod constraint;
mod parser;

use yushan_abi::{Call, TokenId};

pub(crate) use constraint::{Plain, answer, control};
pub use parser::Parser;

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// `<tool_call>`, as Hermes, Qwen and many others.
    Hermes,
    /// Bare JSON or `<|python_tag|>`, as Llama 3.
    Llama3,
    /// `[TOOL_CALLS]`, as Mistral.
    Mistral,
}

impl Convention {
    /// All of them.
    pub const ALL: [Convention; 3] = [Convention::Hermes, Convention::Llama3, Convention::Mistral];

    /// The convention of a template that writes tools itself; `None` if it knows no tools, or writes
    /// calls in another way.
    pub fn of_template(source: &str) -> Option<Convention> {
        let has = |text: &str| source.contains(text);
        let found = match () {
            () if has("<tool_call>") && !has("<function=") => Convention::Hermes,
            // `[ARGS]` belongs to a later form, without JSON around the name.
            () if has("[TOOL_CALLS]") && !has("[ARGS]") => Convention::Mistral,
            () if has("<|python_tag|>") || has("<|start_header_id|>") => Convention::Llama3,
            () => return None,
        };
        has("tools").then_some(found)
    }

    /// What a call begins with, if with no bare JSON.
    pub fn opener(self) -> &'static str {
        match self {
            Convention::Hermes => "<tool_call>",
            Convention::Llama3 => "<|python_tag|>",
            Convention::Mistral => "[TOOL_CALLS]",
        }
    }

    /// What follows the JSON of the last call.
    pub(crate) fn closer(self) -> &'static str {
        match self {
            Convention::Hermes => "</tool_call>",
            Convention::Llama3 => "",
            Convention::Mistral => "]",
        }
    }

    /// The key of the arguments.
    fn arguments(self) -> &'static str {
        match self {
            Convention::Llama3 => "parameters",
            Convention::Hermes | Convention::Mistral => "arguments",
        }
    }

    /// What stands before the name of a call: its quote has been opened.
    fn before_name(self, first: bool) -> &'static str {
        match (self, first) {
            (Convention::Hermes, _) => "\n{\"name\": \"",
            (Convention::Mistral, true) => "[{\"name\": \"",
            (Convention::Mistral, false) => ", {\"name\": \"",
            (Convention::Llama3, _) => "{\"name\": \"",
        }
    }

    /// Between a name and its arguments.
    fn before_arguments(self) -> String {
        format!("\", \"{}\": ", self.arguments())
    }

    /// What follows the arguments of a call.
    fn after_arguments(self) -> &'static str {
        match self {
            Convention::Hermes => "}\n",
            Convention::Llama3 | Convention::Mistral => "}",
        }
    }

    /// Calls as a model would write them; their names and arguments are passed through `text`.
    pub(crate) fn write(self, calls: &[Call], text: &dyn Fn(&str) -> String) -> String {
        let mut out = String::new();
        for (at, call) in calls.iter().enumerate() {
            out.push_str(match self {
                Convention::Hermes if at == 0 => "<tool_call>",
                Convention::Hermes => "\n<tool_call>",
                Convention::Mistral if at == 0 => "[TOOL_CALLS] ",
                Convention::Llama3 if at > 0 => "\n",
                Convention::Mistral | Convention::Llama3 => "",
            });
            out.push_str(self.before_name(at == 0));
            out.push_str(&text(inner(&quoted(&call.name))));
            out.push_str(&self.before_arguments());
            out.push_str(&text(&call.arguments));
            out.push_str(self.after_arguments());
            if self == Convention::Hermes || at + 1 == calls.len() {
                out.push_str(self.closer());
            }
        }
        out
    }
}

/// Text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What stands between the quotes.
fn inner(quoted: &str) -> &str {
    quoted.get(1..quoted.len() - 1).unwrap_or_default()
}

/// Names the calls of one answer: nine letters and digits, as Mistral's templates want them, that
/// depend on nothing but the prompt and the place of the call.
#[derive(Clone, Debug)]
pub struct Ids {
    state: u64,
}

impl Ids {
    /// For the answer to this prompt.
    pub fn of_prompt(prompt: &[TokenId]) -> Ids {
        Ids::of_bytes(prompt.iter().flat_map(|token| token.to_le_bytes()))
    }

    /// FNV-1a (Fowler, Noll and Vo), 64 bits.
    fn of_bytes(bytes: impl Iterator<Item = u8>) -> Ids {
        let state = bytes.fold(0xcbf2_9ce4_8422_2325u64, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Ids { state }
    }

    /// The name of call `at`.
    fn name(&self, at: usize) -> String {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut left = self.state.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        left = (left ^ (left >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        left ^= left >> 32;
        let mut digit = || {
            let digit = DIGITS[(left % 62) as usize];
            left /= 62;
            char::from(digit)
        };
        (0..9).map(|_| digit()).collect()
    }
}

/// An id as Mistral's templates take it: the same for the same.
pub(crate) fn short_id(id: &str) -> String {
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_string();
    }
    Ids::of_bytes(id.bytes()).name(0)
}

#[cfg(test)]
mod tests;
