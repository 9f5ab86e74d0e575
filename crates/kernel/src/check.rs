//! Code in an answer, run before it is shown.
//!
//! The key decision: the check is a call like any other, made by the kernel in the place of the model: it passes the gate,
//! counts for the budget, stands in the journal. It works in a copy of the process's space, so that what it does is
//! gone with it. If it fails the model hears the error, once; what it says then is checked again and shown with
//! the verdict.

use serde::{Deserialize, Serialize};
use serde_json::json;
use yushan_abi::{Call, Label, Message, Part, Role, Sources, Verified};

/// How often the model may repair.
const REPAIRS: u32 = 1;

/// What is to be checked, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The tool that runs code; it takes `{"code": …}`.
    pub tool: String,
    /// Code that is run after that of the answer: examples that must hold.
    #[serde(default)]
    pub examples: String,
}

/// How far the check of a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Whether the first open call is a check.
    pub under_way: bool,
    /// Repairs that were asked for.
    pub repairs: u32,
    /// What came of the last one.
    pub verdict: Option<Verified>,
}

impl Check {
    /// The call that checks an answer; `None`: there is no code in it.
    pub fn call(&self, answer: &str, turn: u64) -> Option<Call> {
        let code = python(answer);
        if code.trim().is_empty() {
            return None;
        }
        let code = match self.examples.trim() {
            "" => code,
            examples => format!("{code}\n{examples}\n"),
        };
        let arguments = json!({ "code": code }).to_string();
        Some(Call { id: format!("check-{turn}"), name: self.tool.clone(), arguments })
    }
}

impl Checked {
    /// Takes the result of a check; what the model is told if it shall repair.
    pub(crate) fn take(&mut self, failed: bool, said: Vec<Part>) -> Option<Message> {
        self.under_way = false;
        self.verdict = Some(if failed { Verified::Failed } else { Verified::Ran });
        if !failed || self.repairs >= REPAIRS {
            return None;
        }
        self.repairs += 1;
        let label = Label::of(Sources::SYSTEM);
        let mut parts =
            vec![Part { text: "Your code was run and failed:\n".into(), label: label.clone() }];
        parts.extend(said);
        let text = "\nRepair it and give your whole answer again.".into();
        parts.push(Part { text, label });
        let (calls, answers, name) = (Vec::new(), None, None);
        Some(Message { role: Role::User, parts, calls, answers, name })
    }
}

/// All fenced blocks of Python, one after the other.
fn python(answer: &str) -> String {
    let (mut code, mut fence) = (String::new(), None::<(char, usize, bool)>);
    for line in answer.lines() {
        let bare = line.trim_start();
        let mark = bare.chars().next().filter(|c| matches!(c, '`' | '~'));
        let long = mark.map_or(0, |mark| bare.chars().take_while(|c| *c == mark).count());
        match (fence, mark) {
            (None, Some(mark)) if long >= 3 => {
                let language = bare[long..].trim().to_ascii_lowercase();
                let ours = matches!(language.as_str(), "python" | "py" | "python3");
                fence = Some((mark, long, ours));
            }
            // A fence is closed by one of its kind that is no shorter, and nothing behind it.
            (Some((open, length, _)), Some(mark))
                if mark == open && long >= length && bare[long..].trim().is_empty() =>
            {
                fence = None;
            }
            (Some((_, _, true)), _) => {
                code.push_str(line);
                code.push('\n');
            }
            _ => {}
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_stands_between_fences_of_python() {
        for (answer, expected) in [
            ("no code", ""),
            ("```python\nx = 1\n```", "x = 1\n"),
            ("a\n```py\nx = 1\n```\nb\n~~~Python\ny = 2\n~~~\n", "x = 1\ny = 2\n"),
            ("```rust\nfn main() {}\n```\n```\nplain\n```", ""),
            ("````python\ns = \"\"\"\n```\n\"\"\"\n````", "s = \"\"\"\n```\n\"\"\"\n"),
            ("```python\nwhile True:\n    pass", "while True:\n    pass\n"),
            ("  ```python\n  x\n  ```", "  x\n"),
        ] {
            assert_eq!(python(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_failure_is_told_once() {
        let check = Check { tool: "python".into(), examples: "assert f(2) == 4".into() };
        let call = check.call("```python\ndef f(x): return x\n```", 3).expect("there is code");
        assert_eq!((call.id.as_str(), call.name.as_str()), ("check-3", "python"));
        assert!(call.arguments.contains("return x\\n\\nassert f(2) == 4"), "{}", call.arguments);
        assert_eq!(check.call("words", 1), None);
        let said = || vec![Part { text: "AssertionError".into(), label: Label::of(Sources::CODE) }];
        let mut checked = Checked { under_way: true, ..Checked::default() };
        let told = checked.take(true, said()).expect("it shall repair");
        assert!(
            told.text().contains("AssertionError") && told.label().sources.contains(Sources::CODE)
        );
        assert_eq!(checked.take(true, said()), None);
        assert_eq!(checked.verdict, Some(Verified::Failed));
        assert_eq!(checked.take(false, said()), None);
        assert_eq!(checked.verdict, Some(Verified::Ran));
    }
}
