//! Tools, calls and results as templates see them.
//!
//! The key decision: every string in them is marked before a template or an instruction puts it
//! together, so that neither a tool's description nor its result can spell a special token. A
//! template that knows tools gets them in the form of OpenAI's interface, arguments as objects, as
//! Hugging Face hands them over. One that does not gets plain messages: the tools in the
//! instructions, calls as the text that the model would have written, results as what the user says.
//!
//! Not here: what is free to call, and how the answer is held to it (`calls.rs`).

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::{Map, json};
use yushan_abi::{Call, ToolSpec};

use super::Message;
use crate::calls::{Convention, short_id};
use crate::tokenizer::Matcher;

/// What a template is rendered from.
pub(super) struct Seen {
    pub(super) messages: Vec<Value>,
    /// None is `none`.
    pub(super) tools: Value,
}

/// Marks texts.
pub(super) struct Marker<'a> {
    pub(super) matcher: &'a Matcher,
    /// Stands in none of the texts.
    pub(super) mark: char,
}

/// Tools in the form of OpenAI's interface.
pub(super) fn describe(tools: &[ToolSpec]) -> Vec<serde_json::Value> {
    let describe = |tool: &ToolSpec| {
        json!({"type": "function", "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.schema,
        }})
    };
    tools.iter().map(describe).collect()
}

impl Marker<'_> {
    /// The text with the mark behind the first character of everything that could be taken for a
    /// special token. With `words_allowed` the model's own words (`</think>`) are left.
    fn text(&self, text: &str, words_allowed: bool) -> String {
        let spots = self.matcher.risky_spots(text, words_allowed);
        let mut out = String::with_capacity(text.len() + spots.len() * self.mark.len_utf8());
        let mut start = 0;
        for spot in spots {
            out.push_str(&text[start..spot]);
            out.push(self.mark);
            start = spot;
        }
        out.push_str(&text[start..]);
        out
    }

    /// The value with all its strings marked. As deep as its parser let it be.
    pub(super) fn json(&self, value: &serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::String(text) => self.text(text, false).into(),
            serde_json::Value::Array(items) => items.iter().map(|item| self.json(item)).collect(),
            serde_json::Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| (self.text(key, false), self.json(value)))
                .collect::<Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    /// For a template that knows tools.
    pub(super) fn own_form(
        &self,
        messages: &[Message],
        tools: Vec<serde_json::Value>,
        convention: Convention,
    ) -> Seen {
        let id = |id: &str| match convention {
            Convention::Mistral => short_id(id),
            _ => self.text(id, false),
        };
        let call = |call: &Call| {
            let arguments = serde_json::from_str::<serde_json::Value>(&call.arguments);
            let arguments = arguments.unwrap_or_else(|_| call.arguments.clone().into());
            json!({"id": id(&call.id), "type": "function", "function": {
                "name": self.text(&call.name, false),
                "arguments": self.json(&arguments),
            }})
        };
        let message = |message: &Message| {
            let mut fields = self.fields(&message.role, self.content(message));
            if !message.calls.is_empty() {
                fields.insert("tool_calls".into(), message.calls.iter().map(call).collect());
            }
            if let Some(answers) = &message.answers {
                fields.insert("tool_call_id".into(), id(answers).into());
            }
            if let Some(name) = &message.name {
                fields.insert("name".into(), self.text(name, false).into());
            }
            Value::from(Serde(fields))
        };
        let messages = messages.iter().map(message).collect();
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        Seen { messages, tools }
    }

    /// For a template that does not: the tools stand before the instructions, or before what the
    /// user says first.
    pub(super) fn plain_form(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        convention: Convention,
        in_system: bool,
    ) -> Seen {
        let mut plain: Vec<(&str, String)> = Vec::with_capacity(messages.len() + 1);
        let mut after_result = false;
        for message in messages {
            let mut content = self.content(message);
            let is_result = message.role == "tool";
            if is_result {
                content = format!("<tool_response>\n{content}\n</tool_response>");
            }
            if !message.calls.is_empty() {
                let space = if content.is_empty() { "" } else { "\n" };
                let calls = convention.write(&message.calls, &|text| self.text(text, false));
                content = content + space + &calls;
            }
            match plain.last_mut() {
                // Results come together: many templates want user and assistant in turn.
                Some((_, last)) if is_result && after_result => {
                    *last += &("\n".to_string() + &content)
                }
                _ => plain.push((if is_result { "user" } else { &message.role }, content)),
            }
            after_result = is_result;
        }
        if !tools.is_empty() {
            let role = if in_system { "system" } else { "user" };
            let instruction = instruction(tools, convention);
            match plain.first_mut() {
                Some((first, content)) if *first == role => {
                    *content = format!("{instruction}\n\n{content}");
                }
                _ => plain.insert(0, (role, instruction)),
            }
        }
        let messages = plain
            .into_iter()
            .map(|(role, content)| Value::from(Serde(self.fields(role, content))))
            .collect();
        Seen { messages, tools: Value::from(()) }
    }

    fn content(&self, message: &Message) -> String {
        self.text(&message.content, message.role == "assistant")
    }

    fn fields(&self, role: &str, content: String) -> Map<String, serde_json::Value> {
        Map::from_iter([("role".into(), role.into()), ("content".into(), content.into())])
    }
}

/// Tells a model of its tools and how to call them.
fn instruction(tools: &[serde_json::Value], convention: Convention) -> String {
    let tools: Vec<String> = tools.iter().map(ToString::to_string).collect();
    let example =
        Call { id: String::new(), name: "NAME".into(), arguments: "{\"PARAMETER\": VALUE}".into() };
    let example = convention.write(&[example], &str::to_string);
    format!(
        "You have tools. Each line describes one as JSON:\n{}\n\nIf a tool helps, call it: write its \
         name and arguments in this form, with nothing after it.\n{example}\nThe result comes back \
         between <tool_response> and </tool_response>. If none helps, answer without.",
        tools.join("\n"),
    )
}

#[cfg(test)]
mod tests;
