//! How well a tokenizer fits texts, beside others on the same texts.
//!
//! The key decision: a tokenizer of any origin is measured by the same ids that a model would be trained on.
//! Words are counted by white space, so that tokens per word does not depend on how a tokenizer cuts; it says
//! little for languages without spaces, where bytes per token is the figure.

use std::path::Path;

use serde::Serialize;
use yushan_model::tokenizer::{PreTokenizer, Tokenizer};

use super::encode_batch;
use crate::{Error, Result};

/// How many of the longest tokens are shown.
const LONGEST: usize = 8;

/// Texts that are encoded before the next ones are read, in bytes.
const BATCH: usize = 8 << 20;

/// One tokenizer on one collection of texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// How many ids the tokenizer has.
    pub vocabulary: usize,
    /// Of the texts.
    pub bytes: u64,
    /// Stretches without white space.
    pub words: u64,
    /// What the texts became.
    pub tokens: u64,
    /// Ids that occur at all.
    pub used: usize,
    /// Tokens that are digits alone, a space before them not counted.
    pub digits: u64,
    /// Tokens that are white space alone.
    pub spaces: u64,
    /// The longest of the ids that occur, and how often they do.
    pub longest: Vec<(String, u64)>,
}

impl Evaluation {
    /// Compression: higher is better.
    pub fn bytes_per_token(&self) -> f64 {
        ratio(self.bytes, self.tokens)
    }

    /// Also called fertility: lower is better.
    pub fn tokens_per_word(&self) -> f64 {
        ratio(self.tokens, self.words)
    }

    /// Share of the ids that the texts never use.
    pub fn unused(&self) -> f64 {
        1.0 - ratio(self.used as u64, self.vocabulary as u64)
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// Encodes `texts` and counts. Memory: a few MiB of text at a time, and a count for each id.
///
/// # Errors
/// There is no text.
pub fn evaluate<T: AsRef<str> + Sync>(
    tokenizer: &Tokenizer,
    texts: impl Iterator<Item = T>,
    threads: usize,
) -> Result<Evaluation> {
    let mut counts = vec![0_u64; tokenizer.vocabulary_size()];
    let (mut bytes, mut words) = (0, 0);
    let mut texts = texts.peekable();
    while texts.peek().is_some() {
        let (mut batch, mut size) = (Vec::new(), 0);
        while let Some(text) = texts.next_if(|_| size < BATCH) {
            size += text.as_ref().len();
            words += text.as_ref().split_whitespace().count() as u64;
            batch.push(text);
        }
        bytes += size as u64;
        for tokens in encode_batch(tokenizer, &batch, threads) {
            tokens.iter().for_each(|&token| counts[token as usize] += 1);
        }
    }
    if bytes == 0 {
        return Err(Error::bad("texts", "there is no text to evaluate the tokenizer on"));
    }
    let of = |token: usize| tokenizer.token_bytes(token as u32);
    let sum = |is: fn(&[u8]) -> bool| {
        let tokens = counts.iter().enumerate().filter(|(token, _)| is(of(*token)));
        tokens.map(|(_, count)| count).sum()
    };
    let mut used: Vec<usize> = (0..counts.len()).filter(|&token| counts[token] > 0).collect();
    used.sort_by_key(|&token| (std::cmp::Reverse(of(token).len()), token));
    let longest = used.iter().take(LONGEST);
    Ok(Evaluation {
        vocabulary: counts.len(),
        bytes,
        words,
        tokens: counts.iter().sum(),
        used: used.len(),
        digits: sum(|bytes| {
            let digits = bytes.strip_prefix(b" ").unwrap_or(bytes);
            !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        }),
        spaces: sum(|bytes| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_whitespace)),
        longest: longest
            .map(|&token| (String::from_utf8_lossy(of(token)).into_owned(), counts[token]))
            .collect(),
    })
}

/// Rows of (tokenizer, texts, figures) as a Markdown table.
pub fn table(rows: &[(String, String, Evaluation)]) -> String {
    let mut table = String::from(
        "| tokenizer | ids | texts | MB | tokens | bytes/token | tokens/word | digits | white space | unused ids | longest |\n\
         |---|--:|---|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for (name, texts, row) in rows {
        let percent = |part: u64| 100.0 * ratio(part, row.tokens);
        let longest: Vec<String> =
            row.longest.iter().take(3).map(|(text, _)| shown(text)).collect();
        table += &format!(
            "| {name} | {} | {texts} | {:.2} | {} | {:.3} | {:.3} | {:.1} % | {:.1} % | {:.1} % | {} |\n",
            row.vocabulary,
            row.bytes as f64 / 1e6,
            row.tokens,
            row.bytes_per_token(),
            row.tokens_per_word(),
            percent(row.digits),
            percent(row.spaces),
            100.0 * row.unused(),
            longest.join(" ")
        );
    }
    table
}

/// A token for a cell of a table: short, one line, no bars.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(24).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("`{}{more}`", short.escape_debug().to_string().replace('|', "¦").replace('`', "'"))
}

/// A tokenizer to compare with: a folder or file in Hugging Face's form, a `.tiktoken` file of a known name
/// (`cl100k_base`, `o200k_base`, `r50k_base`, `p50k_base`), or GPT-2's `encoder.json` with `vocab.bpe` beside it.
///
/// # Errors
/// The file cannot be read, or is none of these.
pub fn open(path: &Path) -> Result<Tokenizer> {
    if path.is_dir() {
        return match path.join("encoder.json") {
            encoder if encoder.exists() => open(&encoder),
            _ => Ok(Tokenizer::from_hugging_face(path)?),
        };
    }
    let bytes = read(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name == "encoder.json" {
        return Ok(Tokenizer::from_gpt2(&bytes, &read(&path.with_file_name("vocab.bpe"))?)?);
    }
    let Some(stem) = name.strip_suffix(".tiktoken") else {
        return Ok(Tokenizer::from_tokenizer_json(&bytes, None)?);
    };
    let pre_tokenizer = match stem {
        "cl100k_base" => "llama3",
        "o200k_base" => "gpt-4o",
        "r50k_base" | "p50k_base" => "gpt-2",
        _ => {
            let detail = "how it cuts text is known for cl100k_base, o200k_base, r50k_base and p50k_base \
                          alone; give its tokenizer.json instead";
            return Err(Error::bad(path.display().to_string(), detail));
        }
    };
    let pre_tokenizer = PreTokenizer::new(pre_tokenizer)?;
    Ok(Tokenizer::from_tiktoken(&bytes, pre_tokenizer, &["<|endoftext|>"])?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::io("reading", path, error))
}
