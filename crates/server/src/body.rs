//! From a request's body to a checked value.
//!
//! The key decision: limits come before meaning. A body is read under a cap and a deadline, its nesting is
//! counted without recursion, and only then a parser that reports the path of what it could not read
//! sees it. Numbers arrive as `f64` or whole numbers and are checked against a range that the error names.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::HeaderMap;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use tokio::time::timeout;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{Object, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::fault::Fault;

/// Nested lists and objects in a body.
const DEPTH: usize = 64;

/// Caps of bodies, in bytes. Of a conversation, and of everything that may hold one.
pub(crate) const CONVERSATION: usize = 16 << 20;
/// Of text to be counted or shown.
pub(crate) const TEXT: usize = 4 << 20;
/// Of a few names and options.
pub(crate) const OPTIONS: usize = 64 << 10;
/// Of a file.
pub(crate) const FILE: usize = 64 << 20;

/// Bytes of a body that is parsed where others do not wait for it.
const LONG: usize = 256 << 10;

/// Reads a body of JSON.
pub(crate) async fn json<T: DeserializeOwned + Send + 'static>(
    body: Body,
    limit: usize,
    deadline: Duration,
) -> Result<T, Fault> {
    let bytes = bytes(body, limit, deadline).await?;
    match bytes.len() {
        LONG.. => crate::events::blocking(move || parse(&bytes)).await?,
        _ => parse(&bytes),
    }
}

/// Reads a body under a cap and a deadline.
pub(crate) async fn bytes(
    body: Body,
    limit: usize,
    deadline: Duration,
) -> Result<axum::body::Bytes, Fault> {
    // What is declared to be longer is refused before it comes.
    if axum::body::HttpBody::size_hint(&body).lower() > limit as u64 {
        return Err(Fault::TooLarge { limit });
    }
    match timeout(deadline, to_bytes(body, limit)).await {
        Err(_) => Err(Fault::Slow { seconds: deadline.as_secs() }),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let capped = std::error::Error::source(&error)
                .is_some_and(|source| source.to_string().contains("length limit exceeded"));
            Err(match capped {
                true => Fault::TooLarge { limit },
                false => Fault::Json(format!("the body broke off: {error}")),
            })
        }
    }
}

/// Whether a declared length is over a cap already, before a byte is read.
pub(crate) fn declared_too_long(headers: &HeaderMap, limit: usize) -> bool {
    let length = headers.get(axum::http::header::CONTENT_LENGTH);
    length
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        .is_some_and(|length| length > limit as u64)
}

/// Parses JSON; the error names the field.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let deep = nesting(bytes);
    if deep > DEPTH {
        return Err(Fault::invalid("body", format!("nested {deep} deep; at most {DEPTH}")));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            Category::Data => data_fault(&path, &inner.to_string()),
            // A number that no float holds: the text is JSON, the field takes it not.
            Category::Syntax if inner.to_string().starts_with("number out of range") => {
                data_fault(&path, &inner.to_string())
            }
            _ => Fault::Json(inner.to_string()),
        }
    })?;
    deserializer.end().map_err(|error| Fault::Json(error.to_string()))?;
    Ok(value)
}

/// The deepest nesting, seen without recursion.
fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// `unknown field `x`` and `missing field `x`` are said of the object around; the path shall end at the
/// field itself.
fn data_fault(path: &str, message: &str) -> Fault {
    let message = message.split(" at line ").next().unwrap_or(message);
    let around = if path == "." { "" } else { path };
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split('`').next());
    let field = match named {
        Some(name) if around.is_empty() || around == name => name.to_string(),
        Some(name) if around.ends_with(&format!(".{name}")) => around.to_string(),
        Some(name) => format!("{around}.{name}"),
        None if around.is_empty() => "body".to_string(),
        None => around.to_string(),
    };
    Fault::Invalid { field, detail: plain(message) }
}

/// The message without Rust's names of types.
fn plain(message: &str) -> String {
    let Some((before, kind)) = message.rsplit_once("expected ") else { return message.into() };
    let kind = match kind {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        kind if kind.starts_with("struct ") => "an object",
        kind => kind,
    };
    format!("{before}expected {kind}")
}

/// A field that is known, taken and not used: the conformance table lists each, and the reply names it.
#[derive(Debug)]
pub(crate) struct Ignored;

impl PartialSchema for Ignored {
    /// Anything.
    fn schema() -> RefOr<Schema> {
        RefOr::T(Schema::Object(Object::with_type(SchemaType::AnyValue)))
    }
}

impl ToSchema for Ignored {}

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ignored, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Ignored)
    }
}

/// Names of the fields that were given and are not used.
pub(crate) fn ignored(fields: &[(&'static str, bool)]) -> Vec<&'static str> {
    fields.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect()
}

/// A field that is known and that this server cannot honour: refused unless absent.
pub(crate) fn refuse(field: &str, given: bool, why: &str) -> Result<(), Fault> {
    if given { Err(Fault::invalid(field, why)) } else { Ok(()) }
}

/// A number within a range.
pub(crate) fn within(
    field: &str,
    value: Option<f64>,
    low: f64,
    high: f64,
) -> Result<Option<f32>, Fault> {
    match value {
        Some(value) if !(low..=high).contains(&value) => Err(Fault::invalid(
            field,
            format!("{value} was given; expected a number from {low} to {high}"),
        )),
        // The range is far within f32.
        value => Ok(value.map(|value| value as f32)),
    }
}

/// A whole number within a range.
pub(crate) fn whole(
    field: &str,
    value: Option<u64>,
    low: usize,
    high: usize,
) -> Result<Option<usize>, Fault> {
    let Some(value) = value else { return Ok(None) };
    match usize::try_from(value) {
        Ok(value) if (low..=high).contains(&value) => Ok(Some(value)),
        _ => Err(Fault::invalid(
            field,
            format!("{value} was given; expected a whole number from {low} to {high}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(rename = "list")]
        _list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "count")]
        _count: u32,
    }

    #[test]
    fn errors_name_the_field() {
        for (json, field) in [
            (r#"{"list":[{"count":-1}]}"#, "list[0].count"),
            (r#"{"list":[{"count":1},{}]}"#, "list[1].count"),
            (r#"{"list":[{"count":1,"x":2}]}"#, "list[0].x"),
            (r#"{"list":[],"y":2}"#, "y"),
            (r#"{}"#, "list"),
            (r#"[]"#, "body"),
            (r#"3"#, "body"),
        ] {
            match parse::<Outer>(json.as_bytes()) {
                Err(Fault::Invalid { field: found, .. }) => assert_eq!(found, field, "{json}"),
                other => panic!("{json}: {other:?}"),
            }
        }
        for json in ["", "{", "{]", r#"{"list":NaN}"#, r#"{"list":[]} x"#] {
            assert!(matches!(parse::<Outer>(json.as_bytes()), Err(Fault::Json(_))), "{json}");
        }
    }

    #[test]
    fn nesting_is_counted_outside_strings() {
        for (json, depth) in [("3", 0), ("[[]]", 2), (r#"{"a":["[[[","\"[["]}"#, 2), ("]]]][", 1)] {
            assert_eq!(nesting(json.as_bytes()), depth, "{json}");
        }
        let deep = "[".repeat(1_000_000);
        assert!(matches!(parse::<Outer>(deep.as_bytes()), Err(Fault::Invalid { .. })));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (value, good) in
            [(0.0, true), (2.0, true), (-0.1, false), (f64::NAN, false), (1e300, false)]
        {
            assert_eq!(within("t", Some(value), 0.0, 2.0).is_ok(), good, "{value}");
        }
        for (value, good) in [(0, false), (1, true), (5, true), (6, false), (u64::MAX, false)] {
            assert_eq!(whole("n", Some(value), 1, 5).is_ok(), good, "{value}");
        }
    }
}
