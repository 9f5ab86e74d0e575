//! From sources of text to cleaned documents and token shards: `yushan data build`.
//!
//! The key decision: two stages with plain files between them. [`clean`] turns a recipe into a folder of JSON lines that anybody
//! can read; a tokenizer is trained on them or loaded; [`tokenize`] turns the folder into [`crate::shard`]s. Both stream, so the
//! input may be larger than memory by any factor, and both give the same bytes for the same input on every machine.
//! It does not fetch anything, and it does not judge what a text says.

mod build;
mod clean;
mod columns;
mod counts;
mod duplicates;
mod input;
pub mod jsonl;
mod language;
mod minhash;
mod quality;
mod read;
mod reason;
mod recipe;
mod report;
mod rows;
mod sort;
pub mod split;
mod tokenize;
mod words;
mod work;

pub use build::{Built, Progress, clean};
pub use counts::{Count, Counts};
pub(crate) use input::Unpacked;
pub use reason::Reason;
pub use recipe::{
    Dedup, Filter, Format, Holdout, InvalidUtf8, Recipe, Size, Source, Tokenizer, Trust,
};
pub use rows::{Corpus, Manifest, ReadFile, Row, RowFile, Rows, Split, holdout};
pub use tokenize::{Encode, tokenize};

#[cfg(test)]
mod tests;
