//! The small components of a `tokenizer.json` around its model: normalizer, pre-tokenizer,
//! post-processor.
//!
//! The key decision: components are flattened into a list and matched against the combinations that
//! are reproduced exactly; anything else is an error that names the component.

use serde_json::Value;
use serde_json::value::RawValue;

use super::from_json::FORMAT;
use super::pieces::{META, Prefix};
use super::split::Rule;
use crate::{Error, Result};

/// Longest text of one component. Real ones stay below 10 KiB, except for compiled character maps,
/// which belong to Unigram models.
const LONGEST: usize = 1 << 18;

/// What happens to text before the model sees it.
pub(super) enum Pipeline {
    ByteLevel { rules: Vec<Rule>, nfc: bool, add_space: bool },
    Pieces { prefix: Prefix, split_every_space: bool },
}

impl Pipeline {
    pub(super) fn read(
        normalizer: Option<&RawValue>,
        pre_tokenizer: Option<&RawValue>,
    ) -> Result<Pipeline> {
        let normalizer = Normalizer::read(&flatten("normalizer", normalizer, "normalizers")?)?;
        let parts = flatten("pre_tokenizer", pre_tokenizer, "pretokenizers")?;
        let mut rules = Vec::new();
        let mut byte_level = None;
        let mut metaspace = None;
        for part in &parts {
            match kind(part) {
                "ByteLevel" => {
                    if flag(part, "use_regex", true) {
                        rules.push(Rule::Gpt2);
                    }
                    let add_space = flag(part, "add_prefix_space", true);
                    if add_space && parts.len() > 1 {
                        return Err(unsupported(
                            "add_prefix_space after another pre-tokenizer",
                            "false",
                        ));
                    }
                    byte_level = Some(add_space);
                }
                "Metaspace" => metaspace = Some(read_metaspace(part)?),
                _ => rules.push(read_rule(part)?),
            }
        }
        match (byte_level, metaspace) {
            (Some(add_space), None) if !normalizer.meta && normalizer.prefix.is_none() => {
                Ok(Pipeline::ByteLevel { rules, nfc: normalizer.nfc, add_space })
            }
            (None, Some((prefix, split_every_space)))
                if rules.is_empty() && normalizer == Normalizer::default() =>
            {
                Ok(Pipeline::Pieces { prefix, split_every_space })
            }
            (None, None) if rules.is_empty() && normalizer.meta && !normalizer.nfc => {
                let prefix = normalizer.prefix.unwrap_or(Prefix::Never);
                Ok(Pipeline::Pieces { prefix, split_every_space: false })
            }
            _ => {
                let names: Vec<&str> = parts.iter().map(kind).collect();
                Err(unsupported(
                    &format!("pre_tokenizer {names:?} with this normalizer"),
                    "ByteLevel, or Metaspace, or a normalizer that replaces spaces by ▁",
                ))
            }
        }
    }

    pub(super) fn is_byte_level(&self) -> bool {
        matches!(self, Pipeline::ByteLevel { .. })
    }
}

#[derive(Default, PartialEq)]
struct Normalizer {
    nfc: bool,
    /// Spaces become `▁`.
    meta: bool,
    prefix: Option<Prefix>,
}

impl Normalizer {
    fn read(parts: &[Value]) -> Result<Normalizer> {
        let mut normalizer = Normalizer::default();
        let meta = META.to_string();
        for part in parts {
            match kind(part) {
                "NFC" => normalizer.nfc = true,
                "Prepend" if text(part, "prepend") == Some(meta.as_str()) && !normalizer.meta => {
                    normalizer.prefix = Some(Prefix::Always);
                }
                "Replace"
                    if part.get("pattern").and_then(|p| text(p, "String")) == Some(" ")
                        && text(part, "content") == Some(meta.as_str()) =>
                {
                    normalizer.meta = true;
                }
                other => {
                    let expected = "NFC, or Prepend \"▁\" and Replace \" \" by \"▁\"";
                    return Err(unsupported(&format!("normalizer {other:?}"), expected));
                }
            }
        }
        Ok(normalizer)
    }
}

fn read_metaspace(part: &Value) -> Result<(Prefix, bool)> {
    let replacement = text(part, "replacement").unwrap_or("▁");
    if replacement != META.to_string() {
        return Err(unsupported(&format!("Metaspace with {replacement:?}"), "\"▁\""));
    }
    // Older files say add_prefix_space instead.
    let default = if flag(part, "add_prefix_space", true) { "always" } else { "never" };
    let prefix = match text(part, "prepend_scheme").unwrap_or(default) {
        "always" => Prefix::UnlessThere,
        "first" => Prefix::FirstUnlessThere,
        "never" => Prefix::Never,
        other => {
            return Err(unsupported(
                &format!("prepend_scheme {other:?}"),
                "always, first or never",
            ));
        }
    };
    Ok((prefix, flag(part, "split", true)))
}

fn read_rule(part: &Value) -> Result<Rule> {
    let behavior = text(part, "behavior").unwrap_or("");
    match kind(part) {
        "Digits" if flag(part, "individual_digits", false) => Ok(Rule::Digit),
        "Digits" => Ok(Rule::Digits),
        "Punctuation" if behavior == "Contiguous" => Ok(Rule::Symbols),
        "Split" => {
            let pattern = part.get("pattern");
            let regex = pattern.and_then(|pattern| text(pattern, "Regex")).ok_or_else(|| {
                unsupported(&format!("Split by {}", pattern.unwrap_or(&Value::Null)), "a Regex")
            })?;
            let rule = Rule::from_regex(regex).ok_or_else(|| {
                unsupported(
                    &format!("Split by the regular expression {regex:?}"),
                    "one of those of GPT-2, Llama 3, Qwen2, GPT-4o, Tekken, Falcon, StarCoder, DeepSeek",
                )
            })?;
            // "Remove what does not match" is the same where everything matches.
            let invert = flag(part, "invert", false);
            match (behavior, invert) {
                ("Isolated", false) => Ok(rule),
                ("Removed", true) if rule.matches_everywhere() => Ok(rule),
                _ => Err(unsupported(
                    &format!("Split with behavior {behavior:?}, invert {invert}"),
                    "Isolated",
                )),
            }
        }
        other => Err(unsupported(
            &format!("pre_tokenizer {other:?} {behavior}"),
            "ByteLevel, Split, Digits, Punctuation (Contiguous) or Metaspace",
        )),
    }
}

/// The tokens that the post-processor puts around a text.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

impl Ends {
    pub(super) fn read(post_processor: Option<&RawValue>) -> Result<Ends> {
        let mut ends = Ends::default();
        for part in &flatten("post_processor", post_processor, "processors")? {
            match kind(part) {
                "ByteLevel" => {}
                "TemplateProcessing" => ends = Ends::of_template(part)?,
                other => {
                    let expected = "ByteLevel or TemplateProcessing";
                    return Err(unsupported(&format!("post_processor {other:?}"), expected));
                }
            }
        }
        Ok(ends)
    }

    fn of_template(part: &Value) -> Result<Ends> {
        let mut ends = Ends::default();
        let mut past = false;
        for item in part.get("single").and_then(Value::as_array).into_iter().flatten() {
            let special = item.get("SpecialToken").and_then(|token| text(token, "id"));
            let slot = if past { &mut ends.after } else { &mut ends.before };
            match special {
                Some(token) if slot.is_none() => *slot = Some(token.to_string()),
                None if item.get("Sequence").is_some() && !past => past = true,
                _ => {
                    let expected = "at most one token before and one after the text";
                    return Err(unsupported("this TemplateProcessing", expected));
                }
            }
        }
        Ok(ends)
    }
}

/// An error that names a component of the file that is not reproduced.
pub(super) fn unsupported(what: &str, expected: &str) -> Error {
    Error::Unsupported {
        what: format!("{FORMAT}: {what}"),
        expected: format!("expected {expected}"),
    }
}

/// A component as the list of those it is made of; none for `null`.
fn flatten(name: &'static str, raw: Option<&RawValue>, inner: &str) -> Result<Vec<Value>> {
    let Some(raw) = raw.map(RawValue::get).filter(|raw| *raw != "null") else {
        return Ok(Vec::new());
    };
    if raw.len() > LONGEST {
        return Err(unsupported(&format!("a {name} of {} bytes", raw.len()), "a short one"));
    }
    let value: Value = serde_json::from_str(raw)
        .map_err(|error| Error::format(FORMAT, name, error.to_string()))?;
    let mut parts = Vec::new();
    flatten_into(value, inner, &mut parts);
    Ok(parts)
}

/// Depth is bounded by the JSON reader, which stops at 128 levels.
fn flatten_into(mut value: Value, inner: &str, parts: &mut Vec<Value>) {
    match value.get_mut(inner).map(Value::take) {
        Some(Value::Array(list)) if kind(&value) == "Sequence" => {
            for item in list {
                flatten_into(item, inner, parts);
            }
        }
        _ => parts.push(value),
    }
}

fn kind(part: &Value) -> &str {
    text(part, "type").unwrap_or("")
}

fn text<'a>(part: &'a Value, name: &str) -> Option<&'a str> {
    part.get(name)?.as_str()
}

fn flag(part: &Value, name: &str, default: bool) -> bool {
    part.get(name).and_then(Value::as_bool).unwrap_or(default)
}
