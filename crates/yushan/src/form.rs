//! The form a reply must have, from the files on the command line.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use yushan_model::Error;
use yushan_model::grammar::{Constraint, Grammar, GrammarEngine};
use yushan_model::tokenizer::Tokenizer;

use crate::open;
use crate::run::Form;

/// The constraint at the beginning of a reply, if the flags ask for one.
pub(crate) fn constraint(
    flags: &Form,
    tokenizer: &Arc<Tokenizer>,
    vocabulary: usize,
) -> Result<Option<Constraint>> {
    let engine = GrammarEngine::new(tokenizer.clone(), vocabulary);
    let compile = |path: &Path, grammar: Grammar<'_>| {
        let constraint = engine.compile(grammar).with_context(|| path.display().to_string())?;
        for warning in constraint.warnings() {
            eprintln!("warning: {}: {warning}", path.display());
        }
        anyhow::Ok(Some(constraint))
    };
    match (&flags.json_schema, &flags.grammar) {
        (Some(path), _) => {
            let schema = serde_json::from_str(&open::text(path)?)
                .map_err(|error| Error::Grammar(format!("{}: no JSON: {error}", path.display())))?;
            compile(path, Grammar::JsonSchema(&schema))
        }
        (None, Some(path)) => {
            let text = open::text(path)?;
            compile(path, grammar(path, &text))
        }
        (None, None) => Ok(None),
    }
}

/// Which kind of grammar a file holds: by its extension, or else by how it defines its rules.
fn grammar<'a>(path: &Path, text: &'a str) -> Grammar<'a> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gbnf") => Grammar::Gbnf(text),
        Some("lark") => Grammar::Lark(text),
        // An editor has put a newline at the end of the line.
        Some("regex" | "re") => Grammar::Regex(text.strip_suffix('\n').unwrap_or(text)),
        _ => Grammar::of_text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_grammars_are_told_apart() {
        for (name, text, expected) in [
            ("a.gbnf", "", "Gbnf"),
            ("a.lark", "::=", "Lark"),
            ("a.regex", "a+\n", "Regex(\"a+\")"),
            ("a.txt", "root ::= \"a\"", "Gbnf"),
            ("a.txt", "start: \"a\"", "Lark"),
        ] {
            let found = format!("{:?}", grammar(Path::new(name), text));
            assert!(found.starts_with(expected), "{name}: {found}");
        }
    }
}
