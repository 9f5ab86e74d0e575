//! Numbers that may be none: JSON has no NaN and no infinity, a diverged run has both.
//!
//! The key decision: what is not finite is written as a string (`"NaN"`, `"inf"`, `"-inf"`), so that
//! nothing is lost and other readers see at once that it is no number; `null` reads as NaN.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Number {
    Value(f64),
    Text(String),
    Nothing(()),
}

fn value(number: Number) -> Option<f64> {
    match number {
        Number::Value(value) => Some(value),
        Number::Nothing(()) => Some(f64::NAN),
        Number::Text(text) => match text.as_str() {
            "NaN" | "nan" => Some(f64::NAN),
            "inf" | "Infinity" => Some(f64::INFINITY),
            "-inf" | "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
    }
}

/// For a field `Option<f64>`: `with = "number"`, `default`, left out when `None`.
pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        None => to.serialize_none(),
        Some(value) if value.is_finite() => to.serialize_f64(*value),
        Some(value) => to.serialize_str(&value.to_string()),
    }
}

/// A field that stands there is `Some`, if only of NaN.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let number = Number::deserialize(from)
        .map_err(|_| D::Error::custom("expected a number, \"NaN\", \"inf\" or \"-inf\""))?;
    match value(number) {
        Some(value) => Ok(Some(value)),
        None => Err(D::Error::custom("expected a number, \"NaN\", \"inf\" or \"-inf\"")),
    }
}
