//! The tokens of a model: bytes, kind and score of each, and the way back from bytes to token.
//!
//! The key decision: the bytes of all tokens lie in one arena, already decoded (byte-level
//! alphabet undone, `▁` written as a space), so that loading 150,000 tokens allocates a handful of
//! times and decoding is a copy.

use yushan_abi::TokenId;

use super::hash::ByteIndex;
use crate::{Error, Result};

/// What a token is for; the values are GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum TokenKind {
    /// Text.
    Normal = 1,
    /// Stands for what cannot be written in the vocabulary.
    Unknown = 2,
    /// Steers the model (`<s>`, `<|im_end|>`); never made from user text.
    Control = 3,
    /// Added after training, text that is never split.
    UserDefined = 4,
    /// A hole in the numbering.
    Unused = 5,
    /// One byte, used where no other token fits.
    Byte = 6,
}

impl TokenKind {
    /// The kind that GGUF writes as `number`.
    pub(super) fn from_gguf(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether ordinary merging may produce the token.
    fn is_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined)
    }
}

/// Tokens in the order of their ids.
pub(super) struct Vocabulary {
    arena: Vec<u8>,
    /// Where token `i` starts in the arena; one more than there are tokens.
    starts: Vec<u32>,
    kinds: Vec<TokenKind>,
    /// SentencePiece's log-probabilities; empty where the model has none.
    scores: Vec<f32>,
    index: ByteIndex,
    longest: usize,
}

impl Vocabulary {
    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes of a token; empty where there is no such token.
    #[inline]
    pub(super) fn bytes(&self, token: TokenId) -> &[u8] {
        slice(&self.arena, &self.starts, token)
    }

    /// The kind of a token; `Unused` where there is no such token.
    pub(super) fn kind(&self, token: TokenId) -> TokenKind {
        self.kinds.get(token as usize).copied().unwrap_or(TokenKind::Unused)
    }

    /// SentencePiece's score, 0 where there is none.
    #[inline]
    pub(super) fn score(&self, token: TokenId) -> f32 {
        self.scores.get(token as usize).copied().unwrap_or(0.0)
    }

    /// The text token (normal or user-defined) of exactly these bytes.
    #[inline]
    pub(super) fn find(&self, bytes: &[u8]) -> Option<TokenId> {
        if bytes.len() > self.longest {
            return None;
        }
        self.index.get(bytes, |token| self.bytes(token))
    }

    /// 64 mixed bits of `bytes`, other ones for every vocabulary.
    #[inline]
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        self.index.hash(bytes)
    }

    /// Whether `token` is a text token of exactly these bytes.
    #[inline]
    pub(super) fn is_text(&self, token: TokenId, bytes: &[u8]) -> bool {
        self.kind(token).is_text() && self.bytes(token) == bytes
    }

    /// The first token of this kind or any other whose bytes are `text`; walks the vocabulary.
    pub(super) fn find_any(&self, text: &str) -> Option<TokenId> {
        (0..self.len() as TokenId).find(|&token| self.bytes(token) == text.as_bytes())
    }

    /// The first token of each of these names, of any kind but unused; names end in `>` or `]`.
    pub(super) fn named(&self, names: &[&str]) -> Vec<Option<TokenId>> {
        let mut named = vec![None; names.len()];
        for (token, kind) in self.kinds() {
            let bytes = self.bytes(token);
            if kind == TokenKind::Unused || !matches!(bytes.last(), Some(b'>' | b']')) {
                continue;
            }
            if let Some(at) = names.iter().position(|name| name.as_bytes() == bytes) {
                named[at].get_or_insert(token);
            }
        }
        named
    }

    /// Ids and kinds.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (TokenId, TokenKind)> + '_ {
        self.kinds.iter().enumerate().map(|(token, &kind)| (token as TokenId, kind))
    }

    /// Changes the kind of a token that turned out to steer the model.
    pub(super) fn set_kind(&mut self, token: TokenId, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(token as usize) {
            *slot = kind;
        }
    }
}

#[inline]
fn slice<'a>(arena: &'a [u8], starts: &[u32], token: TokenId) -> &'a [u8] {
    match starts.get(token as usize..).and_then(|rest| rest.first_chunk()) {
        Some(&[start, end]) => &arena[start as usize..end as usize],
        None => &[],
    }
}

/// Collects tokens in the order of their ids.
pub(super) struct Builder {
    format: &'static str,
    arena: Vec<u8>,
    starts: Vec<u32>,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
}

impl Builder {
    /// For `tokens` tokens of `bytes` bytes together from a file of this format. More can come; the
    /// caller has checked both against the file, so that they bound what is allocated.
    pub(super) fn new(format: &'static str, tokens: usize, bytes: usize) -> Self {
        let mut starts = Vec::with_capacity(tokens + 1);
        starts.push(0);
        Self {
            format,
            arena: Vec::with_capacity(bytes),
            starts,
            kinds: Vec::with_capacity(tokens),
            scores: Vec::new(),
        }
    }

    /// How many tokens there are so far.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Adds a token; `write` appends its bytes to the arena.
    pub(super) fn push(&mut self, kind: TokenKind, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        write(&mut self.arena);
        let (Ok(end), true) = (u32::try_from(self.arena.len()), self.len() < u32::MAX as usize - 1)
        else {
            let detail = "the tokens together are longer than 4 GiB";
            return Err(Error::format(self.format, format!("token {}", self.len()), detail));
        };
        self.starts.push(end);
        self.kinds.push(kind);
        Ok(())
    }

    /// Sets the score of the token pushed last. NaN is refused: it has no place in an order.
    pub(super) fn score(&mut self, score: f32) -> Result<()> {
        let token = self.len().saturating_sub(1);
        if score.is_nan() {
            let detail = "NaN; expected a log-probability";
            return Err(Error::format(self.format, format!("score of token {token}"), detail));
        }
        if self.scores.capacity() == 0 {
            self.scores.reserve_exact(self.kinds.capacity());
        }
        self.scores.resize(token, 0.0);
        self.scores.push(score);
        Ok(())
    }

    /// Makes the way back from bytes to tokens. Of two text tokens with the same bytes the later
    /// is found, as in llama.cpp; empty tokens are never found.
    pub(super) fn build(self) -> Vocabulary {
        let Builder { arena, starts, kinds, scores, .. } = self;
        let text = kinds.iter().filter(|kind| kind.is_text()).count();
        let mut index = ByteIndex::with_room_for(text);
        let mut longest = 0;
        let of = |token| slice(&arena, &starts, token);
        for (token, kind) in kinds.iter().enumerate() {
            let bytes = of(token as TokenId);
            if kind.is_text() && !bytes.is_empty() {
                index.insert(bytes, token as TokenId, of);
                longest = longest.max(bytes.len());
            }
        }
        Vocabulary { arena, starts, kinds, scores, index, longest }
    }
}
