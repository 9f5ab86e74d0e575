//! Quarantine: texts of others that the model never reads.
//!
//! Of a process in quarantine, whatever others wrote is kept behind a handle: the model reads how long it is and where it
//! came from, and may hand the handle on as an argument, or let a child without any capability read the text and
//! answer in a form that can say little.
//!
//! The key decision: what comes out is a value of a closed form, checked by the kernel, and what it can tell is
//! counted in bits. A child that is the attacker's can choose the value and nothing else.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yushan_abi::{Form, Label, Message, Part, Prompt, Role, Sources, ToolResult};

use crate::life::{Life, Program};
use crate::provenance::{bits_of, is_time};
use crate::syscall::failed;

/// Values that an answer may be chosen from.
const CHOICES: usize = 1024;

/// Tokens that an answer may have.
const TOKENS: usize = 64;

/// The form of what may come out of quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// Yes or no.
    Boolean,
    /// A number of a range.
    Integer {
        /// The least.
        minimum: i64,
        /// The greatest.
        maximum: i64,
    },
    /// A day.
    Date,
    /// One of these words.
    Choice {
        /// Which.
        choices: Vec<String>,
    },
    /// One of the values of this kind that tools have listed.
    Listed {
        /// Of what: `file`, `event` …
        kind: String,
    },
}

/// What a child in quarantine is to find out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extraction {
    /// In which form.
    pub answer: Answer,
    /// What it may say, where the form is a list.
    pub choices: Vec<String>,
    /// Who may read what it reads.
    pub label: Label,
}

impl Extraction {
    /// What the answer can tell.
    pub fn bits(&self) -> u32 {
        match &self.answer {
            Answer::Boolean => 1,
            Answer::Integer { minimum, maximum } => {
                bits_of(maximum.abs_diff(*minimum).saturating_add(1))
            }
            // A day of ten thousand years.
            Answer::Date => 22,
            Answer::Choice { .. } | Answer::Listed { .. } => bits_of(self.choices.len() as u64),
        }
    }

    /// The schema that the model is held to.
    pub fn schema(&self) -> Value {
        match &self.answer {
            Answer::Boolean => json!({"type": "boolean"}),
            Answer::Integer { minimum, maximum } => {
                json!({"type": "integer", "minimum": minimum, "maximum": maximum})
            }
            Answer::Date => json!({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}),
            Answer::Choice { .. } | Answer::Listed { .. } => json!({"enum": self.choices}),
        }
    }

    /// What a child said, as its parent gets it: a value of the form, with the bits it can tell, or nothing. A child that
    /// is the attacker's has no other way to speak.
    pub fn result(&self, said: &str) -> ToolResult {
        let value: Option<Value> = serde_json::from_str(said.trim()).ok();
        let fits = |value: &Value| match &self.answer {
            Answer::Boolean => value.is_boolean(),
            Answer::Integer { minimum, maximum } => {
                value.as_i64().is_some_and(|value| (*minimum..=*maximum).contains(&value))
            }
            Answer::Date => value.as_str().is_some_and(|day| day.len() == 10 && is_time(day)),
            Answer::Choice { .. } | Answer::Listed { .. } => {
                value.as_str().is_some_and(|value| self.choices.iter().any(|one| one == value))
            }
        };
        match value.filter(fits) {
            Some(value) => {
                let label =
                    Label { sources: Sources::SYSTEM, capacity: self.bits(), ..self.label.clone() };
                ToolResult::new(value.to_string(), label)
            }
            None => failed("no answer of this form came out of quarantine"),
        }
    }
}

/// The program of a child that reads what stands behind a handle and may call nothing.
pub(crate) fn reader(
    life: &Life,
    id: u64,
    question: &str,
    answer: Answer,
) -> Result<Program, String> {
    let held = usize::try_from(id).ok().and_then(|id| life.hidden.get(id));
    let held = held.ok_or("there is no such value; expected the number of one")?;
    let choices = match &answer {
        Answer::Choice { choices } => choices.clone(),
        Answer::Listed { kind } => {
            let of_kind = life.listed.iter().filter(|one| one.kind == *kind && !one.by_name);
            of_kind.map(|one| one.value.clone()).collect()
        }
        Answer::Integer { minimum, maximum } if minimum > maximum => {
            return Err(format!("no number is at least {minimum} and at most {maximum}"));
        }
        _ => Vec::new(),
    };
    if matches!(answer, Answer::Choice { .. } | Answer::Listed { .. })
        && !(1..=CHOICES).contains(&choices.len())
    {
        return Err(format!("{} values to choose from; expected 1 to {CHOICES}", choices.len()));
    }
    let extraction = Extraction { answer, choices, label: held.label.clone() };
    let (bits, left) = (extraction.bits(), life.left().0);
    if bits > left {
        return Err(format!("such an answer has {bits} bits, and {left} may still come out"));
    }
    let mut program = life.program.clone();
    let task = format!("Answer from the text alone, in JSON: {question}");
    let label = life.label.join(&Label::of(Sources::MODEL));
    program.request.prompt = Prompt::Chat(vec![
        Message::new(Role::System, task, label),
        Message::new(Role::User, held.text.clone(), held.label.clone()),
    ]);
    program.request.form = Form::Schema(extraction.schema());
    program.request.max_tokens = Some(TOKENS);
    program.request.tools.clear();
    program.capabilities.clear();
    program.title = "quarantine".into();
    (program.key, program.attended, program.quarantine) = (String::new(), false, false);
    program.extraction = Some(extraction);
    Ok(program)
}

/// How a text is shown that is not: its number, how long it is (to the next power of two) and where it came from.
pub(crate) fn shown(id: usize, part: &Part) -> Part {
    let sources: Vec<&str> = part.label.sources.names().collect();
    let text = format!(
        "[value {id}: text of up to {} bytes, from {}; its argument is \"{HANDLE}{id}\"]\n",
        part.text.len().next_power_of_two(),
        sources.join(", ")
    );
    Part { text, label: Label::of(Sources::SYSTEM) }
}

/// What an argument begins with that is a handle.
pub(crate) const HANDLE: &str = "$value ";

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out is of the form, whatever the child says, and costs its bits.
    #[test]
    fn a_child_in_quarantine_can_choose_a_value_and_nothing_else() {
        let choice = |choices: &[&str]| choices.iter().map(ToString::to_string).collect::<Vec<_>>();
        let label = Label::of(Sources::WEB).for_reader("ann");
        let listed = Answer::Listed { kind: "file".into() };
        for (answer, choices, said, expected, bits) in [
            (Answer::Boolean, vec![], "true", Some("true"), 1),
            (Answer::Boolean, vec![], "\"yes, and mail eve\"", None, 1),
            (Answer::Integer { minimum: -2, maximum: 5 }, vec![], " 5\n", Some("5"), 3),
            (Answer::Integer { minimum: 0, maximum: 9 }, vec![], "10", None, 4),
            (Answer::Integer { minimum: i64::MIN, maximum: i64::MAX }, vec![], "7", Some("7"), 64),
            (Answer::Date, vec![], "\"2024-05-19\"", Some("\"2024-05-19\""), 22),
            (Answer::Date, vec![], "\"2024-05-19 to eve\"", None, 22),
            (listed.clone(), choice(&["a", "b", "c"]), "\"c\"", Some("\"c\""), 2),
            (listed, choice(&["a", "b"]), "\"d\"", None, 1),
            (Answer::Choice { choices: choice(&["x"]) }, choice(&["x"]), "\"x\"", Some("\"x\""), 0),
        ] {
            let extraction = Extraction { answer, choices, label: label.clone() };
            let result = extraction.result(said);
            assert_eq!(extraction.bits(), bits, "{extraction:?}");
            assert_eq!(result.failed, expected.is_none(), "{extraction:?} {said}");
            if let Some(expected) = expected {
                assert_eq!(result.text(), expected);
                let label = result.label();
                assert!(label.is_trusted() && label.capacity == bits);
                assert_eq!(label.readers, extraction.label.readers, "it is as private as the text");
            }
        }
    }
}
