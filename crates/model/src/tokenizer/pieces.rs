//! How SentencePiece sees a text: spaces are part of the words they begin.
//!
//! The key decision: `▁` is written as a space inside this crate, in the vocabulary and in the
//! text, so that encoding rarely copies and decoding never replaces. Text is cut where no token
//! reaches across (before a space, around a line break), which gives the same tokens as merging it
//! whole, in less time.

use std::borrow::Cow;

use super::vocabulary::{TokenKind, Vocabulary};

/// SentencePiece's sign for a space.
pub(super) const META: char = '▁';

/// Which texts get a space before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// None.
    Never,
    /// Every stretch of text between special tokens (SentencePiece, llama.cpp).
    Always,
    /// The same, unless it begins with a space (`Metaspace` with `prepend_scheme: always`).
    UnlessThere,
    /// The very beginning, unless it begins with a space (`prepend_scheme: first`).
    FirstUnlessThere,
}

/// Where a stretch of text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where everything begins.
    First,
    /// After a special token.
    Later,
    /// Where other text has ended that is not there: no space is put before it.
    Continued,
}

/// How text becomes words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    pub(super) prefix: Prefix,
    /// SentencePiece's `remove_extra_whitespaces`: runs of spaces become one, ends are trimmed.
    pub(super) squeeze: bool,
    /// Every space begins a word (`Metaspace` with `split: true`), even the second of two.
    pub(super) split_every_space: bool,
    /// No token has a space after anything else than spaces: words can be cut before spaces.
    spaces_lead: bool,
    /// No token holds a line break and something else.
    lines_alone: bool,
}

impl Pieces {
    /// Looks through the vocabulary for where text may be cut.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        prefix: Prefix,
        squeeze: bool,
        split_every_space: bool,
    ) -> Self {
        let mut pieces =
            Self { prefix, squeeze, split_every_space, spaces_lead: true, lines_alone: true };
        for (token, kind) in vocabulary.kinds() {
            if !matches!(kind, TokenKind::Normal | TokenKind::UserDefined) {
                continue;
            }
            let bytes = vocabulary.bytes(token);
            let word = bytes.iter().position(|&byte| byte != b' ').unwrap_or(bytes.len());
            pieces.spaces_lead &= !bytes[word..].contains(&b' ');
            pieces.lines_alone &= bytes.len() == 1 || !bytes.contains(&b'\n');
        }
        pieces
    }

    /// The text that is merged: `▁` as a space, with the space in front if there is one to add.
    pub(super) fn normalize<'a>(&self, text: &'a str, place: Place) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        if text.contains(META) {
            text = Cow::Owned(text.replace(META, " "));
        }
        if self.squeeze {
            text = Cow::Owned(squeeze(&text));
        }
        let wanted = match self.prefix {
            Prefix::Never => false,
            _ if place == Place::Continued => false,
            Prefix::Always => true,
            Prefix::UnlessThere => !text.starts_with(' '),
            Prefix::FirstUnlessThere => place == Place::First && !text.starts_with(' '),
        };
        if wanted && !text.is_empty() {
            let mut owned = String::with_capacity(text.len() + 1);
            owned.push(' ');
            owned.push_str(&text);
            return Cow::Owned(owned);
        }
        text
    }

    /// Calls `word` with every stretch of `text` that merges on its own.
    pub(super) fn words<'a>(&self, text: &'a str, word: &mut dyn FnMut(&'a str)) {
        let bytes = text.as_bytes();
        let mut start = 0;
        for at in 1..bytes.len() {
            let (before, here) = (bytes[at - 1], bytes[at]);
            // Both signs are ASCII, so every cut is a character boundary.
            let space =
                here == b' ' && (self.split_every_space || (self.spaces_lead && before != b' '));
            let line = self.lines_alone && (here == b'\n' || before == b'\n');
            if space || line {
                word(&text[start..at]);
                start = at;
            }
        }
        if start < bytes.len() {
            word(&text[start..]);
        }
    }
}

fn squeeze(text: &str) -> String {
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut squeezed = words.next().unwrap_or_default().to_string();
    for word in words {
        squeezed.push(' ');
        squeezed.push_str(word);
    }
    squeezed
}

/// A piece of a file as it is kept here: `▁` as a space.
pub(super) fn write_piece(piece: &str, bytes: &mut Vec<u8>) {
    for (number, part) in piece.split(META).enumerate() {
        if number > 0 {
            bytes.push(b' ');
        }
        bytes.extend_from_slice(part.as_bytes());
    }
}

/// The byte that a piece like `<0x0A>` stands for.
pub(super) fn byte_of_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok())?
}
