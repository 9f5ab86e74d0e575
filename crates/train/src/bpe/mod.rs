//! Byte-level BPE from texts: training, the files of the result, encoding over threads, evaluation.
//!
//! The key decision: the result equals that of Hugging Face's `BpeTrainer` merge by merge (same order of
//! ids, same ties), so that it can be checked against an independent implementation, and everything
//! else follows from counts of words: a corpus of any size is read once, and training
//! never sees it again (Sennrich et al. 2016, arXiv 1508.07909).
//!
//! Not here: the loops that cut and merge text (`yushan_model::tokenizer`), normalization (there is none: any
//! text comes back byte for byte), Unigram and WordPiece.

mod encode;
mod evaluate;
mod merges;
#[cfg(test)]
mod tests;
mod words;
mod write;

use yushan_model::tokenizer::PreTokenizer;

use crate::{Error, Result};

pub use encode::encode_batch;
pub use evaluate::{Evaluation, evaluate, open, table};
pub use words::Words;

/// Ids that every vocabulary needs for bytes.
const BYTES: usize = 256;

/// The special tokens of a base model and of a chat model in ChatML, bos first.
pub const SPECIALS: &[&str] = &["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// What a tokenizer is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many ids: special tokens, 256 bytes, merges.
    pub vocabulary: usize,
    /// Where merges stop.
    pub pre_tokenizer: PreTokenizer,
    /// Special tokens, in the order of their ids, which begin at 0. The first begins every text and
    /// ends it; `<|im_end|>`, if it is there, ends a turn.
    pub specials: Vec<String>,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vocabulary: 8192,
            pre_tokenizer: PreTokenizer::default(),
            specials: SPECIALS.iter().map(|name| name.to_string()).collect(),
            min_frequency: 2,
        }
    }
}

/// A trained tokenizer: the merges and the tokens they make.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    pre_tokenizer: PreTokenizer,
    specials: Vec<String>,
    /// Bytes of every id; special tokens have their names.
    tokens: Vec<Box<[u8]>>,
    /// Left, right, in the order of merging.
    merges: Vec<(u32, u32)>,
}

impl Trained {
    /// How many ids there are.
    pub fn vocabulary_size(&self) -> usize {
        self.tokens.len()
    }

    /// The merges as pairs of ids, first merged first.
    pub fn merges(&self) -> &[(u32, u32)] {
        &self.merges
    }
}

/// Trains on counted words. The same words give the same tokenizer, whatever threads counted them.
///
/// # Errors
/// No words; a vocabulary too small for bytes and special tokens; special tokens that are empty,
/// doubled or could be merged from text; fewer merges in the words than the vocabulary asks for (the
/// message says how many there are).
pub fn train(words: &Words, options: &Options) -> Result<Trained> {
    check(words, options)?;
    let room = options.vocabulary - BYTES - options.specials.len();
    let specials: Vec<&[u8]> = options.specials.iter().map(|name| name.as_bytes()).collect();
    let found = merges::learn(words.sorted(), &specials, room, options.min_frequency.max(1))?;
    if found.tokens.len() < options.vocabulary {
        return Err(Error::bad(
            "tokenizer",
            format!(
                "the corpus gives only {} merges of pairs that occur {} times or more, {} were asked for; \
                 use a vocabulary of {} at most, or more text",
                found.merges.len(),
                options.min_frequency.max(1),
                room,
                found.tokens.len()
            ),
        ));
    }
    Ok(Trained {
        pre_tokenizer: options.pre_tokenizer,
        specials: options.specials.clone(),
        tokens: found.tokens,
        merges: found.merges,
    })
}

fn check(words: &Words, options: &Options) -> Result<()> {
    let specials = &options.specials;
    let least = BYTES + specials.len();
    if options.vocabulary < least {
        let detail = format!(
            "a vocabulary of {} is too small: 256 bytes and {} special tokens need {least}",
            options.vocabulary,
            specials.len()
        );
        return Err(Error::bad("tokenizer", detail));
    }
    if words.pre_tokenizer() != options.pre_tokenizer {
        let detail = format!(
            "the words were cut by {}, the tokenizer is to cut by {}; count them again",
            words.pre_tokenizer().name(),
            options.pre_tokenizer.name()
        );
        return Err(Error::bad("tokenizer", detail));
    }
    for (at, name) in specials.iter().enumerate() {
        let mut pieces = 0;
        options.pre_tokenizer.words(name, |_| pieces += 1);
        let why = if specials[..at].contains(name) {
            "stands there twice"
        } else if pieces < 2 {
            "could be merged from ordinary text; use a name such as <|name|>"
        } else {
            continue;
        };
        return Err(Error::bad(format!("special token {name:?}"), why));
    }
    if words.is_empty() {
        return Err(Error::bad("corpus", "it has no text to train a tokenizer on"));
    }
    Ok(())
}
