//! Text to token ids and back: byte-level BPE (GPT-2, Llama 3, Qwen2, …) and SentencePiece BPE with
//! byte fallback, from GGUF, `tokenizer.json` and llama2.c files.
//!
//! The key decision: special tokens that stand in a text are text unless the caller says
//! [`Special::Parse`], so that no message can steer the model by spelling `<|im_end|>`.
//! Every file format is turned into the same few parts: a [`Vocabulary`], a [`Merger`], a way to cut
//! text into words, and a list of special tokens.
//!
//! Not here: templates (`chat.rs`), training (`yushan-train`), Unigram and WordPiece models.

mod byte_level;
mod encoder;
mod from_gguf;
mod from_json;
mod from_llama2c;
mod from_tiktoken;
mod hash;
mod infill;
mod into_gguf;
mod merge;
mod pieces;
mod pipeline;
mod pre_tokenizer;
mod special;
mod split;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod unicode;
mod unicode_table;
mod vocabulary;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use yushan_abi::TokenId;

use crate::{Error, Result};
use merge::{Merger, Scratch};
use pieces::{Pieces, Place};
pub(crate) use special::Matcher;
use special::{Strip, is_steering};
use split::Rule;
use vocabulary::{TokenKind, Vocabulary};

pub use encoder::Encoder;
pub use infill::InfillIds;
pub use pre_tokenizer::PreTokenizer;
pub use special::Special;
pub use stream::StreamDecoder;
#[cfg(test)]
pub(crate) use tests::{llama3_json, test_tokenizer};

/// Longest stretch that is merged as one word, in bytes; longer ones are cut, to bound memory (48
/// bytes a byte of the word). Words of real text stay far below.
const LONGEST_WORD: usize = 1 << 20;

/// Whether the tokens that begin and end a text are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// The text alone.
    Bare,
    /// The beginning and the end that the model's file asks for, most often one BOS token.
    Declared,
}

/// The ids with a role, each if the model has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleIds {
    /// Begins a text.
    pub bos: Option<TokenId>,
    /// Ends a text.
    pub eos: Option<TokenId>,
    /// Ends a turn of a chat.
    pub eot: Option<TokenId>,
    /// Stands for what cannot be written.
    pub unknown: Option<TokenId>,
    /// Fills a batch.
    pub pad: Option<TokenId>,
    /// Of texts with a gap.
    pub infill: InfillIds,
}

/// A model's tokenizer. Immutable once built; share it between threads.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    merger: Merger,
    cut: Cut,
    matcher: Arc<Matcher>,
    roles: RoleIds,
    add_bos: bool,
    add_eos: bool,
    /// Every token after which nothing more is to be generated; ascending.
    ends: Vec<TokenId>,
    chat_template: Option<String>,
}

/// How text becomes words that merge on their own.
enum Cut {
    /// Byte-level BPE.
    ByteLevel {
        rules: Vec<Rule>,
        /// Text is brought into Unicode's composed form first.
        nfc: bool,
        /// A text that does not begin with a space gets one.
        add_space: bool,
    },
    /// SentencePiece.
    Pieces(Pieces),
}

/// Control tokens that end an answer, whatever the file's eos says, as llama.cpp knows them.
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_sentence|>",
    "<end_of_utterance>",
];

/// Which of [`END_NAMES`] may end a turn, in order of preference.
const TURN_NAMES: usize = 5;

/// What a format's reader found; [`Tokenizer::assemble`] makes the rest.
struct Parts {
    format: &'static str,
    vocabulary: Vocabulary,
    merger: Merger,
    cut: Cut,
    strips: Vec<(TokenId, Strip)>,
    roles: RoleIds,
    add_bos: bool,
    add_eos: bool,
    /// Ends that the file names besides eos.
    ends: Vec<TokenId>,
    chat_template: Option<String>,
}

impl Tokenizer {
    /// The token ids of `text`. Never fails: what the vocabulary cannot write becomes bytes or the
    /// unknown token.
    pub fn encode(&self, text: &str, special: Special, ends: Ends) -> Vec<TokenId> {
        match special {
            Special::Parse => self.encode_guarded(text, &[], ends),
            Special::AsText => {
                self.encode_guarded(text, std::slice::from_ref(&(0..text.len())), ends)
            }
        }
    }

    /// As [`Tokenizer::encode`] with [`Special::Parse`], but special tokens that touch one of the
    /// `guarded` byte ranges (ascending) stay text: what a user wrote inside a rendered template.
    pub fn encode_guarded(&self, text: &str, guarded: &[Range<usize>], ends: Ends) -> Vec<TokenId> {
        let mut out = Vec::with_capacity(text.len() / 4 + 4);
        let declared = ends == Ends::Declared;
        out.extend(self.roles.bos.filter(|_| declared && self.add_bos));
        self.encode_into(text, guarded, Place::First, &mut Scratch::default(), &mut out);
        out.extend(self.roles.eos.filter(|_| declared && self.add_eos));
        out
    }

    /// The text of `tokens`. Control tokens are left out ([`Special::AsText`]) or shown by their
    /// names ([`Special::Parse`]); bytes that are no UTF-8 become U+FFFD. Of a SentencePiece
    /// text the space before the first word is left out, as encoding put it there.
    pub fn decode(&self, tokens: &[TokenId], special: Special) -> String {
        let mut out = String::new();
        let mut decoder = StreamDecoder::at_start(self, special);
        for &token in tokens {
            decoder.push(self, token, &mut out);
        }
        decoder.finish(&mut out);
        out
    }

    /// The bytes a token stands for, a control token's name included; empty for ids that the
    /// tokenizer does not know (models often have more rows than tokens).
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.vocabulary.bytes(token)
    }

    /// How text becomes tokens, for people to read.
    pub fn kind(&self) -> &'static str {
        match self.cut {
            Cut::ByteLevel { .. } => "byte-level BPE",
            Cut::Pieces(_) => "SentencePiece BPE",
        }
    }

    /// How many tokens there are. A model's head can be wider.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token of exactly this text, of whatever kind, e.g. `<|im_start|>`.
    pub fn token_of(&self, text: &str) -> Option<TokenId> {
        self.vocabulary.find(text.as_bytes()).or_else(|| self.vocabulary.find_any(text))
    }

    /// Whether the token steers the model instead of standing for text.
    pub fn is_special(&self, token: TokenId) -> bool {
        is_steering(self.vocabulary.kind(token))
    }

    /// The ids with a role.
    pub fn roles(&self) -> &RoleIds {
        &self.roles
    }

    /// Whether the model wants its BOS token before every text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.roles.bos.is_some()
    }

    /// Whether nothing more is to be generated after this token.
    pub fn is_end_of_generation(&self, token: TokenId) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// Every token after which nothing more is to be generated, ascending.
    pub fn ends_of_generation(&self) -> &[TokenId] {
        &self.ends
    }

    /// The chat template of the file, if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The bytes of every id below `vocabulary` as `toktrie::TokTrie` wants them: special tokens
    /// after its marker byte 0xFF, ids without text empty.
    pub fn trie_words(&self, vocabulary: usize) -> Vec<Vec<u8>> {
        (0..vocabulary as TokenId)
            .map(|token| match self.vocabulary.kind(token) {
                TokenKind::Unused => Vec::new(),
                kind if is_steering(kind) => {
                    let mut word = vec![toktrie::TokTrie::SPECIAL_TOKEN_MARKER];
                    word.extend_from_slice(self.token_bytes(token));
                    word
                }
                _ => self.token_bytes(token).to_vec(),
            })
            .collect()
    }

    /// What finds special tokens, for templates to share.
    pub(crate) fn matcher(&self) -> Arc<Matcher> {
        Arc::clone(&self.matcher)
    }

    /// Whether encoding puts a space before the first word.
    pub(crate) fn adds_space(&self) -> bool {
        match &self.cut {
            Cut::ByteLevel { add_space, .. } => *add_space,
            Cut::Pieces(pieces) => pieces.prefix != pieces::Prefix::Never,
        }
    }

    /// More tokens after which nothing is to be generated; unknown ids are ignored.
    fn add_ends(&mut self, ends: impl IntoIterator<Item = TokenId>) {
        let size = self.vocabulary_size();
        self.ends.extend(ends.into_iter().filter(|&token| (token as usize) < size));
        self.ends.sort_unstable();
        self.ends.dedup();
    }

    fn assemble(mut parts: Parts) -> Result<Self> {
        let size = parts.vocabulary.len();
        let roles = &mut parts.roles;
        for (name, id) in [
            ("bos", roles.bos),
            ("eos", roles.eos),
            ("eot", roles.eot),
            ("unknown", roles.unknown),
            ("padding", roles.pad),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= size) {
                let detail = format!("{id}; expected an id below {size}");
                return Err(Error::format(parts.format, format!("{name} token id"), detail));
            }
        }
        let mut ends = parts.ends;
        ends.extend(roles.eos.into_iter().chain(roles.eot));
        let named = parts.vocabulary.named(END_NAMES);
        for token in named.iter().flatten() {
            parts.vocabulary.set_kind(*token, TokenKind::Control);
            ends.push(*token);
        }
        ends.extend(infill::find(&mut parts.vocabulary, &mut roles.infill));
        roles.eot = roles.eot.or_else(|| named[..TURN_NAMES].iter().flatten().next().copied());
        ends.sort_unstable();
        ends.dedup();
        let strips = parts.strips;
        let matcher = Matcher::new(parts.format, &parts.vocabulary, |token| {
            strips.iter().find(|(id, _)| *id == token).map(|(_, s)| *s).unwrap_or_default()
        })?;
        Ok(Self {
            vocabulary: parts.vocabulary,
            merger: parts.merger,
            cut: parts.cut,
            matcher: Arc::new(matcher),
            roles: parts.roles,
            add_bos: parts.add_bos,
            add_eos: parts.add_eos,
            ends,
            chat_template: parts.chat_template,
        })
    }

    /// The next special token at or after `from` that may be one there.
    fn next_special(
        &self,
        text: &str,
        from: &mut usize,
        guarded: &[Range<usize>],
    ) -> Option<special::Found> {
        loop {
            // Inside a guarded range only words are looked for, outside everything.
            let past = guarded.partition_point(|range| range.end <= *from);
            let special = match guarded.get(past) {
                Some(range) if range.start <= *from => Special::AsText,
                _ => Special::Parse,
            };
            let limit = match (guarded.get(past), special) {
                (Some(range), Special::AsText) => range.end,
                (Some(range), Special::Parse) => range.start,
                (None, _) => text.len(),
            };
            // Cut at the limit: a token that reaches into a guarded range is not one.
            match self.matcher.find(&text[..limit], *from, special) {
                Some(found) => return Some(found),
                None if limit < text.len() => *from = limit,
                None => return None,
            }
        }
    }

    /// Appends the tokens of `text` alone, which begins at `place`; see [`Tokenizer::encode_guarded`].
    fn encode_into(
        &self,
        text: &str,
        guarded: &[Range<usize>],
        mut place: Place,
        scratch: &mut Scratch,
        out: &mut Vec<TokenId>,
    ) {
        let (mut start, mut from) = (0, 0);
        while let Some(found) = self.next_special(text, &mut from, guarded) {
            self.encode_fragment(&text[start..found.range.start], place, scratch, out);
            out.push(found.token);
            (start, place) = (found.range.end, Place::Later);
            from = start;
        }
        self.encode_fragment(&text[start..], place, scratch, out);
    }

    fn encode_fragment(
        &self,
        text: &str,
        place: Place,
        scratch: &mut Scratch,
        out: &mut Vec<TokenId>,
    ) {
        if text.is_empty() {
            return;
        }
        let mut word = |mut word: &str| {
            while word.len() > LONGEST_WORD {
                let (head, rest) = word.split_at(word.floor_char_boundary(LONGEST_WORD));
                self.merger.word(&self.vocabulary, head, scratch, out);
                word = rest;
            }
            self.merger.word(&self.vocabulary, word, scratch, out);
        };
        match &self.cut {
            Cut::ByteLevel { rules, nfc, add_space } => {
                let mut text = Cow::Borrowed(text);
                if *nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
                    text = Cow::Owned(text.nfc().collect());
                }
                if *add_space && place != Place::Continued && !text.starts_with(' ') {
                    text = Cow::Owned(format!(" {text}"));
                }
                split::split(&text, rules, &mut |piece| word(piece));
            }
            Cut::Pieces(pieces) => {
                pieces.words(&pieces.normalize(text, place), &mut |piece| word(piece));
            }
        }
    }
}
