//! Recipes in TOML: what is written wrong is named, with its line and the nearest word that is known.
//!
//! The key decision: the recipe's types say what is known (`serde`, `deny_unknown_fields`); this file only
//! makes the parser's refusal readable, so no list of keys is kept twice. It knows no recipe.

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads a recipe. `what` names it in errors: its path, say. Types should say `deny_unknown_fields`.
///
/// # Errors
/// [`Error::Bad`] with the line, what was expected there and, for an unknown key or word, the nearest
/// known one.
pub fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let detail = readable(error.message());
        let place = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or(text);
            let at = before.matches('\n').count();
            let line = text.lines().nth(at).unwrap_or_default().trim();
            // What a refusal of a value does not name is the key.
            match detail.contains('`') || !(1..=80).contains(&line.len()) {
                true => format!("line {}: ", at + 1),
                false => format!("line {}, `{line}`: ", at + 1),
            }
        });
        Error::bad(what, format!("{}{detail}", place.unwrap_or_default()))
    })
}

/// ``unknown field `learing_rate`, expected one of `learning_rate`, `steps` `` with the nearest one named.
fn readable(message: &str) -> String {
    for (start, kind) in [("unknown field ", "key"), ("unknown variant ", "word")] {
        let Some(rest) = message.strip_prefix(start) else { continue };
        let mut names = quoted(rest);
        let Some(unknown) = names.next() else { continue };
        let known: Vec<&str> = names.collect();
        let hint = nearest(unknown, known.iter().copied())
            .map_or_else(|| ".".to_string(), |near| format!("; did you mean `{near}`?"));
        return format!("unknown {kind} `{unknown}`{hint} Known here: {}", known.join(", "));
    }
    // Serde names Rust's types.
    let mut message = message.trim_end().to_string();
    for (types, meaning) in
        [(["usize", "u64", "u32"], "a whole number"), (["f64", "f32", "float"], "a number")]
    {
        for name in types {
            if let Some(start) = message.strip_suffix(&format!("expected {name}")) {
                message = format!("{start}expected {meaning}");
            }
        }
    }
    message
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The known word that `unknown` was most likely meant to be; none if all are far from it.
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    let near =
        known.into_iter().map(|name| (strsim::jaro_winkler(&unknown, &name.to_lowercase()), name));
    // The first of equals, so that the answer does not depend on the iterator's end.
    let best = near.reduce(|best, other| if other.0 > best.0 { other } else { best })?;
    (best.0 > 0.7).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Recipe {
        #[serde(default)]
        steps: u32,
        #[serde(default)]
        learning_rate: f32,
        #[serde(default)]
        decay: Decay,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Decay {
        #[default]
        Linear,
        Cosine,
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, said) in [
            (
                "steps = 1\nlearing_rate = 2.0",
                "line 2: unknown key `learing_rate`; did you mean `learning_rate`?",
            ),
            ("Steps = 1", "line 1: unknown key `Steps`; did you mean `steps`?"),
            ("zzz = 1", "line 1: unknown key `zzz`. Known here: steps, learning_rate, decay"),
            ("\n\ndecay = \"cosin\"", "line 3: unknown word `cosin`; did you mean `cosine`?"),
            (
                "steps = \"many\"",
                "line 1, `steps = \"many\"`: invalid type: string \"many\", expected a whole number",
            ),
            ("steps = ", "line 1, `steps =`: "),
        ] {
            let error = parse::<Recipe>("recipe x.toml", text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("recipe x.toml: {said}")), "{error}");
        }
        let recipe: Recipe =
            parse("", "steps = 3\nlearning_rate = 0.5\ndecay = \"cosine\"").unwrap();
        assert!(
            recipe.steps == 3
                && recipe.learning_rate == 0.5
                && matches!(recipe.decay, Decay::Cosine)
        );
    }
}
