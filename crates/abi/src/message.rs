//! Conversations: messages, their parts, and the calls in them.
//!
//! The key decision: one form for every face. OpenAI, Ollama and Anthropic requests become these, and
//! a message is made of parts because a label belongs to a part: a user's sentence and the page that
//! was pasted behind it stand in one message and are not equally trusted.

use serde::{Deserialize, Serialize};

use crate::label::Label;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The result of a call.
    Tool,
}

impl Role {
    /// As templates name it.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    pub text: String,
    /// Where it came from.
    pub label: Label,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub parts: Vec<Part>,
    /// An assistant's calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// Which call a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// The tool's name, or the speaker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A message of one part.
    pub fn new(role: Role, text: impl Into<String>, label: Label) -> Message {
        let parts = vec![Part { text: text.into(), label }];
        Message { role, parts, calls: Vec::new(), answers: None, name: None }
    }

    /// The parts, one after the other.
    pub fn text(&self) -> String {
        self.parts.iter().map(|part| part.text.as_str()).collect()
    }

    /// The join of its parts' labels.
    pub fn label(&self) -> Label {
        self.parts.iter().fold(Label::default(), |label, part| label.join(&part.label))
    }
}

/// A call that a model asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Names this call; the answer refers to it.
    pub id: String,
    /// The tool.
    pub name: String,
    /// A JSON object, as the model wrote it.
    pub arguments: String,
}
