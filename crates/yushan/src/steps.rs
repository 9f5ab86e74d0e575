//! What an assistant's tools do, as a person at a terminal sees it, and as the next request tells the model.

use serde_json::{Value, json};

use crate::branches::Said;
use crate::inspect::visible;
use crate::system::plain;

/// Lines of an answer that are shown; all of it is in the conversation.
const SHOWN: usize = 12;
/// Letters of a line, or of arguments.
const WIDE: usize = 160;

/// A call that was answered: `⚙ python {"code": …}`, the first lines of the answer, the files.
pub(crate) fn answered(step: &Value) -> String {
    let text = |name: &str| step[name].as_str().unwrap_or("");
    let mut out = format!("⚙ {} {}\n", plain(text("name")), cut(&plain(text("arguments"))));
    let mark = if step["failed"] == true { "✗" } else { "│" };
    let answer = visible(text("text"));
    let lines: Vec<&str> = answer.lines().collect();
    for line in lines.iter().take(SHOWN) {
        out += &format!("  {mark} {}\n", cut(line));
    }
    if lines.len() > SHOWN {
        out += &format!("  {mark} … {} more lines\n", lines.len() - SHOWN);
    }
    for file in step["files"].as_array().into_iter().flatten() {
        let path = plain(file["path"].as_str().unwrap_or(""));
        let (kind, size) = (plain(file["media_type"].as_str().unwrap_or("")), &file["size"]);
        out += &format!("  {mark} file {path} ({kind}, {size} bytes): /get {path}\n");
    }
    out
}

/// What stands before the question whether a call may be made.
pub(crate) fn asks(step: &Value) -> String {
    let text = |name: &str| step[name].as_str().unwrap_or("");
    match text("name") {
        "ask" => {
            let arguments: Value = serde_json::from_str(text("arguments")).unwrap_or_default();
            visible(arguments["question"].as_str().unwrap_or("the assistant asks for a word"))
        }
        name => {
            format!("The assistant wants to call {}: {}", plain(name), visible(text("arguments")))
        }
    }
}

/// A call and its answer as messages, behind what was said before.
pub(crate) fn messages(said: String, step: &Value) -> [Said; 2] {
    let call = json!({
        "id": step["id"], "type": "function",
        "function": { "name": step["name"], "arguments": step["arguments"] },
    });
    let text = |name: &str| step[name].as_str().unwrap_or("").to_string();
    [
        Said { tool_calls: vec![call], ..Said::new("assistant", said) },
        Said { tool_call_id: Some(text("id")), ..Said::new("tool", text("text")) },
    ]
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(WIDE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_lines() {
        let step = json!({
            "id": "c1", "name": "python", "arguments": "{\"code\": \"1\\n\"}", "failed": false,
            "text": format!("a\u{1b}[2J\n{}", "b\n".repeat(20)),
            "files": [{"path": "plot.png", "media_type": "image/png", "size": 7}],
        });
        let shown = answered(&step);
        assert!(shown.starts_with("⚙ python {\"code\": \"1\\n\"}\n  │ a"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains("… 9 more lines"), "{shown}");
        assert!(shown.ends_with("file plot.png (image/png, 7 bytes): /get plot.png\n"), "{shown}");
        let failed = answered(&json!({"name": "x", "text": "no", "failed": true}));
        assert_eq!(failed, "⚙ x \n  ✗ no\n");
        let [call, answer] = messages("so".into(), &step);
        let told = json!([call, answer]);
        assert_eq!(told[0]["tool_calls"][0]["function"]["name"], "python");
        assert_eq!((&told[1]["role"], &told[1]["tool_call_id"]), (&json!("tool"), &json!("c1")));
        let asked = asks(&json!({"name": "ask", "arguments": "{\"question\": \"why?\"}"}));
        assert_eq!(asked, "why?");
    }
}
