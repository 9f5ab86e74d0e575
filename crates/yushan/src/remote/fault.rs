//! What another server refuses, in our words.

use serde_json::Value;
use yushan_abi::Refusal;

/// Longest message that is passed on, in characters.
const LONGEST: usize = 500;
/// Longest pause that is passed on, in seconds.
const PAUSE: u64 = 3600;

/// The refusal that a status and a body stand for.
pub(super) fn of_status(
    base: &str,
    model: &str,
    status: u16,
    retry_after: Option<&str>,
    body: &str,
) -> Refusal {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    // Older vLLM has no `error` around it.
    let error = if json["error"].is_null() { &json } else { &json["error"] };
    let message = message(error);
    let said = if message.is_empty() { format!("status {status}") } else { message.clone() };
    let after_ms = || {
        let seconds = retry_after.and_then(|text| text.trim().parse::<u64>().ok());
        seconds.unwrap_or(1).clamp(1, PAUSE) * 1000
    };
    match status {
        401 | 403 => Refusal::Internal(format!(
            "{base} refuses this system's key ({said}): see {}",
            super::KEY
        )),
        404 => Refusal::NoModel(model.into()),
        429 | 503 => Refusal::Busy { after_ms: after_ms() },
        507 => Refusal::NoMemory(format!("{base}: {said}")),
        400 | 413 | 422 => too_long(error, &message).unwrap_or_else(|| {
            let field = error["param"].as_str().unwrap_or("request").to_string();
            Refusal::Invalid { field, detail: format!("{base} says: {said}") }
        }),
        _ => Refusal::Internal(format!("{base} failed ({status}): {said}")),
    }
}

/// The refusal that an `error` within a stream stands for.
pub(super) fn in_stream(base: &str, model: &str, error: &Value) -> Refusal {
    let message = message(error);
    match error["code"].as_str().unwrap_or("") {
        "rate_limit_exceeded" => Refusal::Busy { after_ms: 1000 },
        "model_not_found" => Refusal::NoModel(model.into()),
        _ => too_long(error, &message)
            .unwrap_or_else(|| Refusal::Internal(format!("{base} failed: {message}"))),
    }
}

fn message(error: &Value) -> String {
    let text = error["message"].as_str().or(error.as_str()).unwrap_or("");
    text.chars().filter(|char| !char.is_control()).take(LONGEST).collect()
}

/// That the prompt is too long: told by its code, or by the words of vLLM, with both counts in it.
fn too_long(error: &Value, message: &str) -> Option<Refusal> {
    let told = error["code"] == "context_length_exceeded"
        || message.contains("maximum context length")
        || message.contains("context window");
    let mut numbers = message
        .split(|char: char| !char.is_ascii_digit())
        .filter_map(|digits| digits.parse::<usize>().ok())
        .filter(|&number| number > 1);
    match (told, numbers.next(), numbers.next()) {
        (true, Some(limit), Some(prompt)) => Some(Refusal::TooLong { limit, prompt }),
        _ => None,
    }
}
