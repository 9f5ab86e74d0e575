//! Finding the tokens that stand outside of merging (`<|im_end|>`, `</s>`) in text.
//!
//! The key decision: leftmost, then longest, by walking down a sorted list one byte at a time, so
//! that thousands of tokens with one beginning cost no more than one.

use std::ops::Range;

use yushan_abi::TokenId;

use super::vocabulary::{TokenKind, Vocabulary};
use crate::{Error, Result};

/// Longest text of a special token in bytes; real ones stay under 50.
const LONGEST: usize = 512;

/// Whether special tokens in a text are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// No: `<|im_end|>` is eight characters of text. For everything a user or a tool wrote.
    AsText,
    /// Yes: for the text of templates.
    Parse,
}

/// How a special token treats white space around it (Hugging Face's `lstrip` and `rstrip`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Strip {
    pub(super) left: bool,
    pub(super) right: bool,
}

/// One token that is looked for.
struct Entry {
    bytes: Box<[u8]>,
    token: TokenId,
    strip: Strip,
    /// The file calls it user-defined, not control.
    word: bool,
    /// Found in plain text too: user-defined words that do not look like markers.
    always: bool,
}

/// One occurrence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What it covers, stripped white space included.
    pub(super) range: Range<usize>,
    pub(super) token: TokenId,
}

/// Looks for special tokens.
#[derive(Default)]
pub(crate) struct Matcher {
    /// Sorted by bytes.
    entries: Vec<Entry>,
    /// First byte → whether an entry begins with it; for `Special::Parse` and `Special::AsText`.
    begins: [Vec<bool>; 2],
    any: [bool; 2],
}

impl Matcher {
    /// All control, unknown and user-defined tokens of the vocabulary. `strip` gives how a token
    /// treats white space.
    pub(super) fn new(
        format: &'static str,
        vocabulary: &Vocabulary,
        strip: impl Fn(TokenId) -> Strip,
    ) -> Result<Self> {
        let mut entries = Vec::new();
        for (token, kind) in vocabulary.kinds() {
            let bytes = vocabulary.bytes(token);
            let user = kind == TokenKind::UserDefined;
            if bytes.is_empty() || !(user || is_steering(kind)) {
                continue;
            }
            if bytes.len() > LONGEST {
                let detail =
                    format!("{} bytes; special tokens have at most {LONGEST}", bytes.len());
                return Err(Error::format(format, format!("special token {token}"), detail));
            }
            entries.push(Entry {
                bytes: bytes.into(),
                token,
                strip: strip(token),
                word: user,
                always: user && !looks_like_marker(bytes),
            });
        }
        entries.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.token.cmp(&b.token)));
        // Of two tokens with one text the lower id is meant.
        entries.dedup_by(|later, earlier| later.bytes == earlier.bytes);
        let mut matcher = Matcher { entries, ..Self::default() };
        for special in [Special::Parse, Special::AsText] {
            let mut begins = vec![false; 256];
            for entry in &matcher.entries {
                begins[entry.bytes[0] as usize] |= special == Special::Parse || entry.always;
            }
            matcher.any[special as usize] = begins.contains(&true);
            matcher.begins[special as usize] = begins;
        }
        Ok(matcher)
    }

    /// The first special token in `text` at or after `from`. With [`Special::AsText`] only the
    /// tokens that are words.
    pub(super) fn find(&self, text: &str, from: usize, special: Special) -> Option<Found> {
        if !self.any[special as usize] {
            return None;
        }
        let begins = &self.begins[special as usize];
        let bytes = text.as_bytes();
        let mut at = from;
        loop {
            at += bytes.get(at..)?.iter().position(|&byte| begins[byte as usize])?;
            if let Some(entry) = self.longest_at(&bytes[at..], special) {
                return Some(entry.widened(text, from, at));
            }
            at += 1;
        }
    }

    /// Where in `text` (what somebody wrote, to be set into a template) a special token could
    /// begin or end: the offsets behind the first characters of those found in it, of one that
    /// its end could begin, and of one whose end it could be. Ascending. With `words_allowed` the
    /// user-defined tokens found in it (`</think>`) do not count.
    pub(crate) fn risky_spots(&self, text: &str, words_allowed: bool) -> Vec<usize> {
        let begins = &self.begins[Special::Parse as usize];
        let bytes = text.as_bytes();
        let width = |at: usize| text[at..].chars().next().map_or(0, char::len_utf8);
        let mut spots = Vec::new();
        for at in (0..bytes.len()).filter(|&at| begins[bytes[at] as usize]) {
            if self.steers_at(&bytes[at..], words_allowed) {
                spots.push(at + width(at));
            }
        }
        // Templates trim.
        let (head, tail) = (text.trim_start().as_bytes(), text.trim_end().as_bytes());
        for entry in self.entries.iter().filter(|entry| !entry.always) {
            for cut in 1..entry.bytes.len() {
                if head.starts_with(&entry.bytes[cut..]) {
                    let at = bytes.len() - head.len();
                    spots.push(at + width(at));
                }
                let at = tail.len().wrapping_sub(cut);
                if tail.ends_with(&entry.bytes[..cut]) && text.is_char_boundary(at) {
                    spots.push(at + width(at));
                }
            }
        }
        spots.sort_unstable();
        spots.dedup();
        spots
    }

    /// How a token treats white space around it.
    pub(super) fn strip_of(&self, token: TokenId) -> Strip {
        self.entries.iter().find(|entry| entry.token == token).map(|e| e.strip).unwrap_or_default()
    }

    /// Whether a token that steers begins `text`.
    fn steers_at(&self, text: &[u8], words_allowed: bool) -> bool {
        let mut range = &self.entries[..];
        for (depth, &byte) in text.iter().enumerate() {
            let start = range.partition_point(|entry| entry.bytes.get(depth) < Some(&byte));
            range = &range[start..];
            let end = range.partition_point(|entry| entry.bytes.get(depth) <= Some(&byte));
            range = &range[..end];
            match range.first() {
                None => return false,
                Some(entry) if entry.bytes.len() == depth + 1 => {
                    if !(entry.always || words_allowed && entry.word) {
                        return true;
                    }
                }
                Some(_) => {}
            }
        }
        false
    }

    fn longest_at(&self, text: &[u8], special: Special) -> Option<&Entry> {
        let mut range = &self.entries[..];
        let mut best = None;
        for (depth, &byte) in text.iter().enumerate() {
            let start = range.partition_point(|entry| entry.bytes.get(depth) < Some(&byte));
            range = &range[start..];
            let end = range.partition_point(|entry| entry.bytes.get(depth) <= Some(&byte));
            range = &range[..end];
            // The shortest of those with one beginning is sorted first.
            match range.first() {
                None => break,
                Some(entry) if entry.bytes.len() == depth + 1 => {
                    if special == Special::Parse || entry.always {
                        best = Some(entry);
                    }
                }
                Some(_) => {}
            }
        }
        best
    }
}

impl Entry {
    /// The match at `at` with the white space that belongs to it, none of it before `from`.
    fn widened(&self, text: &str, from: usize, at: usize) -> Found {
        let mut range = at..at + self.bytes.len();
        if self.strip.left {
            range.start = from + text[from..at].trim_end().len();
        }
        if self.strip.right {
            range.end = text.len() - text[range.end..].trim_start().len();
        }
        Found { range, token: self.token }
    }
}

/// Kinds that steer the model instead of standing for text.
pub(super) fn is_steering(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Control | TokenKind::Unknown)
}

/// `<…>` and `[…]`: text that models are trained to obey, even where the file calls it a word.
fn looks_like_marker(bytes: &[u8]) -> bool {
    bytes.len() > 2
        && matches!(
            (bytes.first(), bytes.last()),
            (Some(b'<'), Some(b'>')) | (Some(b'['), Some(b']'))
        )
}
