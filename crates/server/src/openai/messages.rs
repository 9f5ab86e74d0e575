//! Messages of a chat, from OpenAI's form to ours.
//!
//! The key decision: a label is given here, from the role alone. What a client sends as the result of a tool
//! could have been written by anybody, and is labelled so, whatever it says.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;
use yushan_abi::{Call, Label, Message, Part, Role, Sources};

use crate::body::{Ignored, refuse};
use crate::fault::Fault;
use crate::openai::fields::OneOrList;

/// A message of a chat.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool`.
    pub(crate) role: String,
    /// A text, or a list of parts `{"type":"text","text":…}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) content: Option<OneOrList<ContentPart>>,
    /// Our extension, of a user's message: texts of files, which stand before the content and are nobody's word.
    #[serde(default)]
    pub(crate) attached: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    #[serde(default)]
    pub(crate) tool_call_id: Option<String>,
    #[serde(default)]
    pub(crate) refusal: Option<Ignored>,
    #[serde(default)]
    pub(crate) annotations: Option<Ignored>,
    #[serde(default)]
    pub(crate) reasoning_content: Option<Ignored>,
    #[serde(default)]
    pub(crate) audio: Option<Ignored>,
    #[serde(default)]
    pub(crate) function_call: Option<Ignored>,
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContentPart {
    /// `text`; others are refused by name.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) text: Option<String>,
    #[serde(default)]
    pub(crate) refusal: Option<String>,
    #[serde(default, rename = "image_url")]
    #[schema(value_type = Option<Object>)]
    pub(crate) _image_url: Option<serde_json::Value>,
    #[serde(default, rename = "input_audio")]
    #[schema(value_type = Option<Object>)]
    pub(crate) _input_audio: Option<serde_json::Value>,
    #[serde(default, rename = "file")]
    #[schema(value_type = Option<Object>)]
    pub(crate) _file: Option<serde_json::Value>,
}

/// A call in an assistant's message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) function: CalledFunction,
    #[serde(default, rename = "index")]
    pub(crate) _index: Option<u32>,
}

/// What was called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CalledFunction {
    pub(crate) name: String,
    /// A JSON object, as text.
    pub(crate) arguments: String,
}

/// Where text of this role comes from, when a client sends it.
pub(crate) fn label(role: Role, tenant: &str) -> Label {
    let sources = match role {
        Role::System => Sources::AUTHOR,
        Role::User => Sources::USER,
        Role::Assistant => Sources::MODEL,
        // The client ran the tool; who wrote its result is not known here.
        Role::Tool => Sources::WEB,
    };
    let label = Label::of(sources);
    if tenant.is_empty() { label } else { label.for_reader(tenant) }
}

/// The conversation of a chat, checked.
pub(crate) fn conversation(
    messages: Vec<ChatMessage>,
    tenant: &str,
) -> Result<Vec<Message>, Fault> {
    if messages.is_empty() {
        return Err(Fault::invalid("messages", "expected at least one message"));
    }
    let numbered = messages.into_iter().enumerate();
    let checked = numbered.map(|(at, message)| one(message, &format!("messages[{at}]"), tenant));
    let mut messages = checked.collect::<Result<Vec<_>, _>>()?;
    name_answers(&mut messages);
    Ok(messages)
}

/// Templates may write the name of the tool that answers; clients name the call alone.
pub(crate) fn name_answers(messages: &mut [Message]) {
    let mut called = BTreeMap::new();
    for message in messages {
        called.extend(message.calls.iter().map(|call| (call.id.clone(), call.name.clone())));
        if let (None, Some(call)) = (&message.name, &message.answers) {
            message.name = called.get(call).cloned();
        }
    }
}

fn one(message: ChatMessage, field: &str, tenant: &str) -> Result<Message, Fault> {
    let role = role(&message.role).ok_or_else(|| {
        let given = &message.role;
        Fault::invalid(
            format!("{field}.role"),
            format!("{given:?} was given; expected system, developer, user, assistant or tool"),
        )
    })?;
    let old = format!("{field}.function_call");
    refuse(&old, message.function_call.is_some(), "deprecated: use tool_calls")?;
    refuse(&format!("{field}.audio"), message.audio.is_some(), "this server takes no sound")?;
    let calls = calls(message.tool_calls.unwrap_or_default(), field)?;
    if !calls.is_empty() && role != Role::Assistant {
        return Err(Fault::invalid(format!("{field}.tool_calls"), "only an assistant calls tools"));
    }
    if role == Role::Tool && message.tool_call_id.is_none() {
        let detail = "a tool's message says which call it answers";
        return Err(Fault::invalid(format!("{field}.tool_call_id"), detail));
    }
    let label = label(role, tenant);
    let texts = match message.content {
        Some(content) => texts(content, &format!("{field}.content"))?,
        None if role == Role::Assistant => Vec::new(),
        None => return Err(Fault::invalid(format!("{field}.content"), "expected a text")),
    };
    let attached = message.attached.unwrap_or_default();
    if !attached.is_empty() && role != Role::User {
        return Err(Fault::invalid(format!("{field}.attached"), "only a user attaches files"));
    }
    // Whoever attaches a file may read it, and nobody else for all we know.
    let file = Label::of(Sources::FILE).for_reader(tenant);
    let attached = attached.into_iter().map(|text| Part { text, label: file.clone() });
    let said = texts.into_iter().map(|text| Part { text, label: label.clone() });
    let parts = attached.chain(said).collect();
    Ok(Message { role, parts, calls, answers: message.tool_call_id, name: message.name })
}

/// OpenAI's name of a role.
pub(crate) fn role(name: &str) -> Option<Role> {
    match name {
        "system" | "developer" => Some(Role::System),
        "user" => Some(Role::User),
        "assistant" => Some(Role::Assistant),
        "tool" => Some(Role::Tool),
        _ => None,
    }
}

fn texts(content: OneOrList<ContentPart>, field: &str) -> Result<Vec<String>, Fault> {
    let parts = match content {
        OneOrList::One(text) => return Ok(vec![text]),
        OneOrList::List(parts) => parts,
    };
    let numbered = parts.into_iter().enumerate();
    let text = |(at, part): (usize, ContentPart)| {
        let needs = |name| Fault::invalid(format!("{field}[{at}].{name}"), "expected a text");
        match part.kind.as_str() {
            "text" => part.text.ok_or_else(|| needs("text")),
            "refusal" => part.refusal.ok_or_else(|| needs("refusal")),
            other => Err(Fault::invalid(
                format!("{field}[{at}].type"),
                format!("{other:?} was given; this server reads \"text\" alone"),
            )),
        }
    };
    numbered.map(text).collect()
}

fn calls(calls: Vec<ToolCall>, field: &str) -> Result<Vec<Call>, Fault> {
    let numbered = calls.into_iter().enumerate();
    let call = |(at, call): (usize, ToolCall)| match call.kind.as_str() {
        "function" => {
            let CalledFunction { name, arguments } = call.function;
            Ok(Call { id: call.id, name, arguments })
        }
        other => Err(Fault::invalid(
            format!("{field}.tool_calls[{at}].type"),
            format!("{other:?} was given; expected \"function\""),
        )),
    };
    numbered.map(call).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_that_is_attached_is_nobodys_word() {
        let messages = |role: &str| {
            let message = json!({"role": role, "content": "Sum it up.", "attached": ["call evil"]});
            conversation(vec![serde_json::from_value(message).expect("a message")], "ann")
        };
        let conversation = messages("user").expect("is taken");
        let sources = conversation[0].parts.iter().map(|part| part.label.sources);
        assert!(sources.eq([Sources::FILE, Sources::USER]));
        assert_eq!(conversation[0].text(), "call evilSum it up.");
        let refused = messages("assistant").expect_err("is refused");
        assert!(refused.to_string().contains("attached"), "{refused}");
    }
}
