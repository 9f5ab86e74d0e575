//! Answers of a forced form: JSON schema, regular expression, Lark, GBNF.
//!
//! `llguidance` keeps the grammar and says after every token which ones may follow; the sampler
//! sees that as a mask. The key decision: a grammar never rewrites what the model said. It only
//! forbids, so it goes with penalties, seeds and speculation as any other filter does, and where it
//! leaves one token, that token costs a step (or a lucky guess) like any other.
//!
//! Grammars come from users: their size and nesting are bounded here, the work they cause by
//! llguidance's limits. Not here: the loop (`generate.rs`), and freedom from allocation, as
//! llguidance makes a new mask for every token.

mod gbnf;

use std::sync::{Arc, OnceLock};

use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::toktrie::{INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory, panic_utils};
use yushan_abi::TokenId;

use crate::tokenizer::{Ends, Special, Tokenizer};
use crate::{Error, Result};

/// Longest source of a grammar, in bytes.
const LONGEST: usize = 1 << 20;
/// Deepest nesting of brackets and of schemas; llguidance's parsers recurse.
const DEEPEST: usize = 128;

/// The white space that may stand between the parts of a JSON document: a space, or a new line and
/// its indentation. Without a bound, small models write white space for ever.
const SPACE: &str = r"\x20|\n[\x20\t]{0,20}";

/// What an answer must look like.
#[derive(Clone, Copy, Debug)]
pub enum Grammar<'a> {
    /// A JSON document that a schema accepts.
    JsonSchema(&'a serde_json::Value),
    /// A text that a regular expression matches from beginning to end (Rust's syntax).
    Regex(&'a str),
    /// A text of the rule `start` (llguidance's Lark).
    Lark(&'a str),
    /// A text of the rule `root` (llama.cpp's GBNF).
    Gbnf(&'a str),
}

impl<'a> Grammar<'a> {
    /// A grammar of unknown kind: GBNF and Lark define their rules with different signs.
    pub fn of_text(text: &'a str) -> Grammar<'a> {
        if text.contains("::=") { Grammar::Gbnf(text) } else { Grammar::Lark(text) }
    }
}

/// Compiles grammars for one tokenizer. Costs nothing until the first one.
pub struct GrammarEngine {
    tokenizer: Arc<Tokenizer>,
    vocabulary: usize,
    factory: OnceLock<std::result::Result<ParserFactory, String>>,
}

impl GrammarEngine {
    /// For a model whose rows of logits are `vocabulary` wide.
    pub fn new(tokenizer: Arc<Tokenizer>, vocabulary: usize) -> Self {
        Self { tokenizer, vocabulary, factory: OnceLock::new() }
    }

    /// A constraint at the beginning of an answer.
    pub fn compile(&self, grammar: Grammar<'_>) -> Result<Constraint> {
        let source = match grammar {
            Grammar::JsonSchema(schema) => {
                check_schema(schema)?;
                TopLevelGrammar::from_json_schema(with_little_space(schema))
            }
            Grammar::Regex(regex) => {
                check_size(regex)?;
                TopLevelGrammar::from_regex(regex)
            }
            Grammar::Lark(lark) => {
                check_size(lark)?;
                check_lark(lark)?;
                TopLevelGrammar::from_lark(lark.to_string())
            }
            Grammar::Gbnf(gbnf) => {
                check_size(gbnf)?;
                TopLevelGrammar::from_lark(gbnf::to_lark(gbnf)?)
            }
        };
        self.start(source)
    }

    /// As [`GrammarEngine::compile`] of a Lark grammar that was written here, around schemas that
    /// have been checked.
    pub(crate) fn compile_own(&self, lark: String) -> Result<Constraint> {
        self.start(TopLevelGrammar::from_lark(lark))
    }

    fn start(&self, source: TopLevelGrammar) -> Result<Constraint> {
        let factory = self.factory.get_or_init(|| build(&self.tokenizer, self.vocabulary));
        let factory = factory.as_ref().map_err(|error| Error::Grammar(error.clone()))?;
        let parser = std::panic::AssertUnwindSafe(|| factory.create_parser(source));
        let parser = panic_utils::catch_unwind(parser).map_err(refused)?;
        let mut matcher = Matcher::new(Ok(parser));
        if let Some(error) = matcher.get_error() {
            return Err(refused(error));
        }
        let warnings = matcher.grammar_warnings();
        Ok(Constraint { matcher, mask: SimpleVob::new(), warnings })
    }
}

/// The state of a grammar along one answer.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    mask: SimpleVob,
    warnings: Vec<String>,
}

impl Constraint {
    /// The tokens that may come next, at least one: bit `t % 32` of word `t / 32`. An error if none
    /// may, or if finding out took more work than is allowed.
    pub fn mask(&mut self) -> Result<&[u32]> {
        if self.is_finished() {
            return Err(refused("the answer is complete; nothing may follow"));
        }
        self.mask = self.matcher.compute_mask().map_err(|error| {
            match self.matcher.stop_reason() {
                StopReason::NoExtensionBias => refused(
                    "no token of the vocabulary can follow; expected a grammar that the model's tokens can write",
                ),
                _ => refused(error),
            }
        })?;
        Ok(self.mask.as_slice())
    }

    /// Goes past a token that the mask allows.
    pub fn accept(&mut self, token: TokenId) -> Result<()> {
        self.matcher.consume_token(token).map_err(refused)
    }

    /// Whether the answer is complete and nothing may follow it.
    pub fn is_finished(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    /// What llguidance found questionable in the grammar, e.g. keywords of a schema that it ignores.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// The first paragraph of an error: llguidance appends backtraces and the state of its parser.
fn refused(error: impl ToString) -> Error {
    let error = error.to_string();
    let end = error.find("\n<").unwrap_or(error.len());
    Error::Grammar(error[..end].trim_end().to_string())
}

fn check_size(source: &str) -> Result<()> {
    if source.len() > LONGEST {
        let detail = format!("{} bytes; expected at most {LONGEST}", source.len());
        return Err(Error::Grammar(detail));
    }
    Ok(())
}

fn check_depth(depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::Grammar(format!(
            "nested over {DEEPEST} deep; expected a flatter grammar"
        )));
    }
    Ok(())
}

/// Brackets in strings count too, which is only wrong on the safe side.
fn check_lark(source: &str) -> Result<()> {
    let (mut depth, mut escaped) = (0usize, false);
    for byte in source.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        check_depth(depth)?;
    }
    Ok(())
}

fn check_schema(schema: &serde_json::Value) -> Result<()> {
    // Level by level, as a tree of any depth may come.
    let (mut level, mut next, mut depth, mut nodes) = (vec![schema], Vec::new(), 0, 0);
    while !level.is_empty() {
        check_depth(depth)?;
        nodes += level.len();
        if nodes > LONGEST / 8 {
            let detail = format!("over {} values in the schema", LONGEST / 8);
            return Err(Error::Grammar(detail));
        }
        for value in level.drain(..) {
            match value {
                serde_json::Value::Array(items) => next.extend(items),
                serde_json::Value::Object(fields) => next.extend(fields.values()),
                _ => {}
            }
        }
        std::mem::swap(&mut level, &mut next);
        depth += 1;
    }
    Ok(())
}

/// The schema of an answer as it stands behind `%json` in a Lark grammar.
pub(crate) fn checked_form(schema: &serde_json::Value) -> Result<serde_json::Value> {
    check_schema(schema)?;
    Ok(with_little_space(schema))
}

/// As [`checked_form`], of the arguments of a call: on one line, as models have learnt to write
/// them, and without what no grammar can express, instead of refused for it.
pub(crate) fn checked_arguments(schema: &serde_json::Value) -> Result<serde_json::Value> {
    check_schema(schema)?;
    let one_line = serde_json::json!({
        "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?", "lenient": true,
    });
    Ok(with_options(schema, one_line))
}

/// The schema with [`SPACE`], unless it says otherwise itself.
fn with_little_space(schema: &serde_json::Value) -> serde_json::Value {
    with_options(schema, serde_json::json!({ "whitespace_pattern": SPACE }))
}

/// The schema with these options for llguidance, unless it has some itself.
fn with_options(schema: &serde_json::Value, options: serde_json::Value) -> serde_json::Value {
    let mut schema = match schema {
        serde_json::Value::Bool(true) => serde_json::json!({}),
        other => other.clone(),
    };
    if let Some(fields) = schema.as_object_mut() {
        fields.entry("x-guidance").or_insert(options);
    }
    schema
}

/// The tokenizer as llguidance sees it.
struct Environment {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
    /// Whether a piece of a text is tokenized as it would be inside the text.
    canonical: bool,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        if !self.canonical {
            return self.trie.greedy_tokenize(bytes);
        }
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.tokenizer.encode(text, Special::AsText, Ends::Bare)
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

fn build(
    tokenizer: &Arc<Tokenizer>,
    vocabulary: usize,
) -> std::result::Result<ParserFactory, String> {
    let ends: Vec<TokenId> = tokenizer.ends_of_generation().to_vec();
    let ends: Vec<TokenId> = ends.into_iter().filter(|&end| (end as usize) < vocabulary).collect();
    let size = u32::try_from(vocabulary).map_err(|_| "the vocabulary is too large".to_string())?;
    panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let info = TokRxInfo::new(size, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &tokenizer.trie_words(vocabulary));
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let canonical = !tokenizer.adds_space();
        let environment: TokEnv =
            Arc::new(Environment { trie, tokenizer: tokenizer.clone(), canonical });
        let mut factory = ParserFactory::new_simple(&environment)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(factory)
    }))
    .map_err(|error| refused(error).to_string())
}

#[cfg(test)]
mod tests;
