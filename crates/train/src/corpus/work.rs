//! What happens to one raw document: cleaned, judged, hashed, written as a row.
//!
//! The key decision: nothing here knows of any other document, so batches are worked on by any number of threads, and
//! what comes out is the same.

use super::clean::{clean, decoded};
use super::jsonl::{self, Line};
use super::language;
use super::minhash::MinHash;
use super::quality::{self, Seen};
use super::read::Known;
use super::reason::Reason;
use super::recipe::{Filter, InvalidUtf8, Recipe, Source};
use super::rows::{row_end, write_row};
use super::split::passages;
use super::words::Words;
use crate::digest::sha256;

/// What became of a document.
pub(super) struct Done {
    /// UTF-8 bytes of its text, raw if it was dropped before it was cleaned.
    pub(super) bytes: usize,
    /// The beginning of the SHA-256 of its text.
    pub(super) hash: u64,
    /// Whether it ends inside a line.
    pub(super) inside_line: bool,
    /// Whether invalid UTF-8 was replaced.
    pub(super) replaced: bool,
    /// Its fate.
    pub(super) fate: Fate,
}

/// Kept so far, or not.
pub(super) enum Fate {
    /// Dropped, with the beginning of its text.
    Dropped(Reason, String),
    /// Kept, unless it is a duplicate.
    Kept {
        /// As a line of JSON.
        row: Vec<u8>,
        /// Of its text.
        sha256: [u8; 32],
        /// Of its words; empty if it has none or nobody wants it.
        signature: Vec<u16>,
        /// Whether it is kept from training.
        is_holdout: bool,
    },
}

/// What a source asks of its documents.
pub(super) struct Asked<'a> {
    source: &'a Source,
    filter: &'a Filter,
    holdout: f64,
    row_end: String,
}

impl<'a> Asked<'a> {
    pub(super) fn new(recipe: &'a Recipe, source: &'a Source) -> Asked<'a> {
        Asked {
            source,
            filter: source.filter.as_ref().unwrap_or(&recipe.filter),
            holdout: source.holdout.unwrap_or(recipe.holdout.share),
            row_end: row_end(source),
        }
    }
}

/// One thread's tables, used again and again.
pub(super) struct Worker {
    words: Words,
    seen: Seen,
    /// None: near duplicates stay.
    hash: Option<MinHash>,
}

/// Bytes of memory that a worker takes for documents of up to `most` bytes: at most a word for two bytes, 20 bytes for a
/// word and four places of 8 bytes in the table.
pub(super) fn worker_bytes(most: usize) -> usize {
    most / 2 * (20 + 32)
}

/// Bytes of a dropped document that are looked at for a sample.
const SAMPLE: usize = 2000;

impl Worker {
    pub(super) fn new(recipe: &Recipe) -> Worker {
        let dedup = &recipe.dedup;
        let hash = dedup.near.then(|| MinHash::new(dedup.shingle_words, dedup.bands, dedup.rows));
        Worker { words: Words::default(), seen: Seen::default(), hash }
    }

    /// A raw document, which a line of JSON may divide into passages.
    pub(super) fn work(&mut self, raw: &[u8], known: Known, asked: &Asked<'_>) -> Vec<Done> {
        match known {
            Known::Text { inside_line } => vec![self.document(raw, inside_line, false, asked)],
            Known::NoText => vec![dropped(Reason::NoText, raw, raw.len())],
            Known::TooLong(bytes) => vec![dropped(Reason::LineTooLong, raw, bytes as usize)],
            Known::Json => self.line(raw, asked),
        }
    }

    fn line(&mut self, raw: &[u8], asked: &Asked<'_>) -> Vec<Done> {
        let (line, replaced) = decoded(raw);
        if replaced && asked.filter.invalid_utf8 == InvalidUtf8::Drop {
            return vec![dropped(Reason::InvalidUtf8, raw, raw.len())];
        }
        let text = match jsonl::text_of(
            line.trim_start_matches('\u{feff}').as_bytes(),
            &asked.source.text_field,
        ) {
            Line::Text(text) => text,
            Line::NoText => return vec![dropped(Reason::NoText, raw, raw.len())],
            Line::NotJson => return vec![dropped(Reason::NotJson, raw, raw.len())],
        };
        let mut done = Vec::new();
        passages(text.as_bytes(), asked.source.max_document.bytes(), |passage, inside_line| {
            done.push(self.document(passage, inside_line, replaced, asked));
        });
        done
    }

    fn document(
        &mut self,
        raw: &[u8],
        inside_line: bool,
        was_replaced: bool,
        asked: &Asked<'_>,
    ) -> Done {
        let (text, is_invalid) = decoded(raw);
        let mut done = if is_invalid && asked.filter.invalid_utf8 == InvalidUtf8::Drop {
            dropped(Reason::InvalidUtf8, raw, raw.len())
        } else {
            self.judged(&clean(&text), asked)
        };
        (done.inside_line, done.replaced) = (inside_line, is_invalid || was_replaced);
        done
    }

    fn judged(&mut self, text: &str, asked: &Asked<'_>) -> Done {
        if text.is_empty() {
            return dropped(Reason::Empty, b"", 0);
        }
        self.words.read(text);
        let language = language::of(&self.words);
        if let Some(reason) =
            quality::broken(text, &self.words, language, asked.filter, &mut self.seen)
        {
            return dropped(reason, text.as_bytes(), text.len());
        }
        let sha256 = sha256(text.as_bytes());
        let hash = beginning(&sha256);
        let mut signature = Vec::new();
        if let Some(minhash) = &mut self.hash {
            signature.reserve_exact(minhash.places());
            minhash.sign(&self.words, &mut signature);
        }
        let mut row = Vec::new();
        write_row(text, &sha256, language, &asked.row_end, &mut row);
        // 2⁶⁴ parts of the share; a share of 1 is above every hash.
        let is_holdout = (hash as f64) < asked.holdout * 2f64.powi(64);
        let fate = Fate::Kept { row, sha256, signature, is_holdout };
        Done { bytes: text.len(), hash, inside_line: false, replaced: false, fate }
    }
}

fn beginning(sha256: &[u8; 32]) -> u64 {
    u64::from_be_bytes(sha256[..8].try_into().expect("8 bytes"))
}

fn dropped(reason: Reason, raw: &[u8], bytes: usize) -> Done {
    let start = &raw[..raw.len().min(SAMPLE)];
    let (hash, text) = (beginning(&sha256(start)), String::from_utf8_lossy(start).into_owned());
    Done { bytes, hash, inside_line: false, replaced: false, fate: Fate::Dropped(reason, text) }
}
