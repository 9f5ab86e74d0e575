//! The pre-tokenizers that a new tokenizer can be trained with.
//!
//! The key decision: the same loops that encoding uses, under the names by which people know them and with
//! the regular expression that other libraries need in the file. Only rules that match everywhere
//! are offered, so a cut of the text is the whole story.
//!
//! Not here: pre-tokenizers made of several rules (Falcon, DeepSeek); those are read, never trained.

use super::split::{self, Rule};
use crate::{Error, Result};

/// Where byte-level BPE may not merge across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreTokenizer {
    name: &'static str,
    rule: Rule,
}

/// Names in the order they are shown to people.
const KNOWN: &[(&str, Rule)] = &[
    ("qwen2", Rule::Words { digits: 1, marks: false }),
    ("nanochat", Rule::Words { digits: 2, marks: false }),
    ("llama3", Rule::Words { digits: 3, marks: false }),
    ("gpt-2", Rule::Gpt2),
    ("gpt-4o", Rule::Cased { digits: 3, contractions: true }),
];

impl PreTokenizer {
    /// By name: `qwen2` (single digits), `nanochat` (up to two digits together), `llama3` (up to three, which
    /// is also cl100k_base), `gpt-2`, `gpt-4o`; or by the regular expression that stands in a `tokenizer.json`.
    pub fn new(name_or_regex: &str) -> Result<Self> {
        let known = |rule: Rule| KNOWN.iter().find(|(_, other)| *other == rule);
        KNOWN
            .iter()
            .find(|(name, _)| *name == name_or_regex)
            .or_else(|| known(Rule::from_regex(name_or_regex)?))
            .map(|&(name, rule)| Self { name, rule })
            .ok_or_else(|| Error::Unsupported {
                what: format!("the pre-tokenizer {name_or_regex:?}"),
                expected: format!(
                    "expected {}, or the regular expression of one of them",
                    Self::names().collect::<Vec<_>>().join(", ")
                ),
            })
    }

    /// The names that [`PreTokenizer::new`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _)| *name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Its regular expression, as `tokenizer.json` and the `tokenizers` library write it.
    pub fn regex(self) -> &'static str {
        self.rule.regex()
    }

    /// The name by which GGUF and llama.cpp know it, if they do.
    pub fn gguf_name(self) -> Option<&'static str> {
        split::gguf_name(&[self.rule], false)
    }

    pub(super) fn rule(self) -> Rule {
        self.rule
    }

    /// Calls `word` with every word of `text` in order; the words together are the text.
    pub fn words<'a>(self, text: &'a str, mut word: impl FnMut(&'a str)) {
        split::split(text, &[self.rule], &mut word);
    }
}

impl Default for PreTokenizer {
    /// Single digits: what small vocabularies count best with, and a name that llama.cpp knows.
    fn default() -> Self {
        let (name, rule) = KNOWN[0];
        Self { name, rule }
    }
}
