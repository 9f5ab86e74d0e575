//! Questions with a choice of answers, and the forms they come in.
//!
//! The key decision: whatever the form, an item is a context and endings of it, one of which is right, and a
//! model is asked how likely each ending is; so ARC, MMLU, HellaSwag and cloze tests are one thing.
//! The wording is that of lm-evaluation-harness' tasks, so that figures can be set side by side. A row that
//! is no item is counted and named, not scored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// Rows that are named with their fault; all are counted.
const PROBLEMS: usize = 20;
/// Choices of an item; more is no question of ours.
const MOST_CHOICES: usize = 64;

/// A question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// What is given, without a space at its end.
    pub context: String,
    /// What stands between it and a choice: a space, nothing in Chinese.
    pub delimiter: String,
    /// The endings.
    pub choices: Vec<String>,
    /// Which is right.
    pub answer: usize,
}

/// How a row of JSON says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `question`, `choices`, and a key: `answerKey` (a label, as ARC has it) or `answer` (an index, as MMLU
    /// has it). The choices are a list, or `{"text": […], "label": […]}`; ARC's own `question` of `{stem,
    /// choices}` is read too. Asked as "Question: …\nAnswer:".
    Arc,
    /// `ctx` (or `ctx_a` and `ctx_b`), `endings`, `label`, and `activity_label` if there is one.
    HellaSwag,
}

impl Form {
    /// The form of a file: endings are HellaSwag's.
    pub fn of(text: &str) -> Form {
        let mut rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        match rows.next().is_some_and(|row| !row["endings"].is_null()) {
            true => Form::HellaSwag,
            false => Form::Arc,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Form::Arc => "arc",
            Form::HellaSwag => "hellaswag",
        }
    }
}

/// What a file of rows gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Items {
    /// The questions.
    pub items: Vec<Item>,
    /// Rows that are none: number (from 1) and why. The first twenty.
    pub problems: Vec<(usize, String)>,
    /// All of these.
    pub problem_count: usize,
}

impl Items {
    /// Reads JSONL.
    pub fn read(text: &str, form: Form) -> Items {
        let mut all = Items::default();
        for (at, line) in text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let row = serde_json::from_str(line).map_err(|e| Error::bad("no JSON", e.to_string()));
            match row.and_then(|row| Item::of(&row, form)) {
                Ok(item) => all.items.push(item),
                Err(why) => {
                    all.problem_count += 1;
                    if all.problems.len() < PROBLEMS {
                        all.problems.push((at + 1, why.to_string()));
                    }
                }
            }
        }
        all
    }
}

impl Item {
    /// Reads a row.
    pub fn of(row: &Value, form: Form) -> Result<Item> {
        let item = match form {
            Form::Arc => arc(row)?,
            Form::HellaSwag => hella_swag(row)?,
        };
        let count = item.choices.len();
        if !(2..=MOST_CHOICES).contains(&count) {
            return Err(bad(format!("{count} choices; expected 2 to {MOST_CHOICES}")));
        }
        if item.choices.iter().any(|choice| choice.trim().is_empty()) {
            return Err(bad("an empty choice"));
        }
        Ok(item)
    }
}

fn bad(detail: impl Into<String>) -> Error {
    Error::bad("the question", detail)
}

fn text<'a>(row: &'a Value, field: &str) -> Result<&'a str> {
    row[field].as_str().ok_or_else(|| bad(format!("no text `{field}`")))
}

fn texts(value: &Value, field: &str) -> Result<Vec<String>> {
    let list = value.as_array().ok_or_else(|| bad(format!("no list `{field}`")))?;
    let texts: Option<Vec<_>> = list.iter().map(|text| text.as_str().map(str::to_owned)).collect();
    texts.ok_or_else(|| bad(format!("`{field}` holds what is no text")))
}

fn arc(row: &Value) -> Result<Item> {
    let (question, choices) = match &row["question"] {
        Value::String(question) => (question.as_str(), &row["choices"]),
        inner => (text(inner, "stem")?, &inner["choices"]),
    };
    let (choices, labels) = match choices {
        Value::Object(both) => {
            let field = |name: &str| texts(both.get(name).unwrap_or(&Value::Null), name);
            (field("text")?, field("label")?)
        }
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            let both = |name: &'static str| list.iter().map(move |one| text(one, name));
            let owned = |one: Result<&str>| one.map(str::to_owned);
            (
                both("text").map(owned).collect::<Result<_>>()?,
                both("label").map(owned).collect::<Result<_>>()?,
            )
        }
        list => (texts(list, "choices")?, Vec::new()),
    };
    let answer = match row.get("answerKey") {
        Some(key) => labelled(key, &labels, choices.len())?,
        None => index(&row["answer"], "answer", choices.len())?,
    };
    let context = format!("Question: {}\nAnswer:", question.trim());
    Ok(Item { context, delimiter: " ".into(), choices, answer })
}

/// A label that stands in the list; without a list, `A` or `1` is the first.
fn labelled(key: &Value, labels: &[String], count: usize) -> Result<usize> {
    let key = key.as_str().ok_or_else(|| bad("no text `answerKey`"))?;
    let found = match (labels.is_empty(), key.as_bytes()) {
        (false, _) => labels.iter().position(|label| label == key),
        (true, [letter @ b'A'..=b'Z']) => Some(usize::from(letter - b'A')),
        (true, [digit @ b'1'..=b'9']) => Some(usize::from(digit - b'1')),
        _ => None,
    };
    found.filter(|&at| at < count).ok_or_else(|| bad(format!("no choice has the label `{key}`")))
}

/// An index from 0, as a number or in quotes.
fn index(value: &Value, field: &str, count: usize) -> Result<usize> {
    let quoted = value.as_str().and_then(|text| text.trim().parse().ok());
    let at = quoted.or(value.as_u64().and_then(|at| usize::try_from(at).ok()));
    at.filter(|&at| at < count)
        .ok_or_else(|| bad(format!("`{field}` is {value}; expected 0 to {}", count.max(1) - 1)))
}

fn hella_swag(row: &Value) -> Result<Item> {
    let context = match (row["ctx_a"].as_str(), row["ctx_b"].as_str()) {
        (Some(a), Some(b)) => format!("{a} {}", capitalized(b)),
        _ => text(row, "ctx")?.to_owned(),
    };
    let context = match row["activity_label"].as_str() {
        Some(activity) => format!("{activity}: {context}"),
        None => context,
    };
    let choices = texts(&row["endings"], "endings")?;
    let answer = index(&row["label"], "label", choices.len())?;
    let choices = choices.iter().map(|ending| without_marks(ending)).collect();
    Ok(Item { context: without_marks(&context), delimiter: " ".into(), choices, answer })
}

/// As Python's `capitalize`: the first letter large, the others small.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters.flat_map(char::to_lowercase)).collect()
}

/// Without what WikiHow left: `[title]` ends a sentence, other brackets go, double spaces are one.
fn without_marks(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let (mut kept, mut rest) = (String::with_capacity(text.len()), &*text);
    while let Some((before, after)) = rest.split_once('[') {
        let Some((_, behind)) = after.split_once(']') else { break };
        kept.push_str(before);
        rest = behind;
    }
    kept.push_str(rest);
    kept.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(form: Form, row: &Value, context: &str, choices: &[&str], answer: usize) {
        let item = Item::of(row, form).unwrap();
        assert_eq!((item.context.as_str(), item.answer), (context, answer));
        assert_eq!(
            (item.choices, item.delimiter.as_str()),
            (choices.iter().map(|choice| (*choice).to_owned()).collect(), " ",)
        );
    }

    #[test]
    fn every_form_is_one_item() {
        let asked = "Question: Why?\nAnswer:";
        let labelled = json!({"text": ["so", "no"], "label": ["A", "B"]});
        for (row, answer) in [
            (json!({"question": "Why?", "choices": labelled, "answerKey": "B"}), 1),
            (json!({"question": " Why? ", "choices": ["so", "no"], "answer": "1"}), 1),
            (json!({"question": "Why?", "choices": ["so", "no"], "answer": 0}), 0),
            (json!({"question": "Why?", "choices": ["so", "no"], "answerKey": "A"}), 0),
            (json!({"question": "Why?", "choices": ["so", "no"], "answerKey": "2"}), 1),
            (
                json!({"question": {"stem": "Why?", "choices": [
                    {"text": "so", "label": "1"}, {"text": "no", "label": "2"}]}, "answerKey": "2"}),
                1,
            ),
        ] {
            check(Form::Arc, &row, asked, &["so", "no"], answer);
            assert_eq!(Form::of(&format!("\n{row}\n")), Form::Arc);
        }
        let row = json!({"activity_label": "Baking", "ctx_a": "A man bakes.", "ctx_b": "the Cake",
            "ctx": "not this", "endings": [" is [step] done.", "flies [title] Away"], "label": "1"});
        check(
            Form::HellaSwag,
            &row,
            "Baking: A man bakes. The cake",
            &["is done.", "flies.  Away".replace("  ", " ").as_str()],
            1,
        );
        let row = json!({"ctx": "He [open", "endings": ["a", "b"], "label": 0});
        assert_eq!(Form::of(&row.to_string()), Form::HellaSwag);
        check(Form::HellaSwag, &row, "He [open", &["a", "b"], 0);
    }

    #[test]
    fn a_row_that_is_no_question_is_named() {
        for (form, row, message) in [
            (
                Form::Arc,
                json!({"question": "q", "choices": ["a", "b"], "answer": "answer"}),
                "expected 0 to 1",
            ),
            (
                Form::Arc,
                json!({"question": "q", "choices": ["a", "b"], "answer": 2}),
                "expected 0 to 1",
            ),
            (Form::Arc, json!({"question": "q", "choices": [], "answer": 0}), "expected 0 to 0"),
            (Form::Arc, json!({"question": "q", "choices": ["a", 1], "answer": 0}), "no text"),
            (
                Form::Arc,
                json!({"question": "q", "choices": ["a", " "], "answer": 0}),
                "empty choice",
            ),
            (Form::Arc, json!({"question": "q", "choices": ["a"], "answer": 0}), "1 choices"),
            (
                Form::Arc,
                json!({"question": "q", "choices": ["a", "b"], "answerKey": "E"}),
                "label `E`",
            ),
            (Form::Arc, json!({"question": 3}), "no text `stem`"),
            (Form::Arc, json!([]), "no text `stem`"),
            (Form::HellaSwag, json!({"ctx": "c", "endings": "e", "label": 0}), "no list `endings`"),
            (Form::HellaSwag, json!({"endings": ["a", "b"], "label": 0}), "no text `ctx`"),
        ] {
            let error = Item::of(&row, form).unwrap_err().to_string();
            assert!(error.contains(message), "{error}: expected {message}");
        }
        let text =
            "nonsense\n\n{\"question\":\"q\u{2028}\",\"choices\":[\"a\",\"b\"],\"answer\":0}\n";
        let items = Items::read(&text.repeat(30), Form::Arc);
        assert_eq!((items.items.len(), items.problem_count, items.problems.len()), (30, 30, 20));
        assert_eq!(items.problems[1].0, 4);
    }
}
