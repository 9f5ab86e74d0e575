//! llama2.c's `tokenizer.bin`: `max_token_length: i32`, then for each token `score: f32`,
//! `length: i32` and its bytes (karpathy/llama2.c, `tokenizer.py` and `run.c`).
//!
//! The format holds neither the number of tokens nor their kinds: the number comes from the
//! parameters file, ids 0, 1 and 2 are unknown, BOS and EOS, and `<0xNN>` stands for a byte.

use super::merge::{Alphabet, Merger, Order, Run};
use super::pieces::{Pieces, Prefix, byte_of_piece};
use super::vocabulary::{Builder, TokenKind};
use super::{Cut, Parts, RoleIds, Tokenizer};
use crate::{Error, Result};

const FORMAT: &str = "llama2.c tokenizer";

impl Tokenizer {
    /// Reads a llama2.c tokenizer of `vocabulary` tokens, as many as the model has.
    pub fn from_llama2c(bytes: &[u8], vocabulary: usize) -> Result<Tokenizer> {
        let mut reader = Reader { bytes, at: 0 };
        reader.u32("max_token_length")?;
        // Each token takes at least 8 bytes, so a wrong number cannot ask for much memory.
        let room = vocabulary.min(bytes.len() / 8);
        let mut builder = Builder::new(FORMAT, room, bytes.len() - 8 * room);
        for token in 0..vocabulary {
            let score = f32::from_bits(reader.u32(&format!("score of token {token}"))?);
            let piece = reader.piece(token)?;
            let byte = std::str::from_utf8(piece).ok().and_then(byte_of_piece);
            let kind = match (token, byte) {
                (0, _) => TokenKind::Unknown,
                (1 | 2, _) => TokenKind::Control,
                (_, Some(_)) => TokenKind::Byte,
                _ => TokenKind::Normal,
            };
            builder.push(kind, |arena| match (kind, byte) {
                (TokenKind::Byte, Some(byte)) => arena.push(byte),
                // Written by the exporter as "\n<s>\n".
                (TokenKind::Control, _) => arena.extend_from_slice(piece.trim_ascii()),
                _ => arena.extend_from_slice(piece),
            })?;
            builder.score(score)?;
        }
        if reader.at < bytes.len() {
            let left = bytes.len() - reader.at;
            let detail = format!("{left} bytes follow the {vocabulary} tokens; expected none");
            return Err(Error::format(FORMAT, "end of file", detail));
        }
        let vocabulary = builder.build();
        let unknown = (vocabulary.len() > 0).then_some((0, Run::Fused));
        let merger = Merger::new(&vocabulary, Alphabet::Characters, Order::Scores, false, unknown);
        let pieces = Pieces::new(&vocabulary, Prefix::Always, false, false);
        let has = |token| (vocabulary.len() > token as usize).then_some(token);
        let roles = RoleIds { bos: has(1), eos: has(2), unknown: has(0), ..RoleIds::default() };
        Tokenizer::assemble(Parts {
            format: FORMAT,
            vocabulary,
            merger,
            cut: Cut::Pieces(pieces),
            strips: Vec::new(),
            roles,
            add_bos: true,
            add_eos: false,
            ends: Vec::new(),
            chat_template: None,
        })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn u32(&mut self, field: &str) -> Result<u32> {
        let Some(word) = self.bytes[self.at..].first_chunk() else {
            let detail = format!("the file ends at byte {}", self.bytes.len());
            return Err(Error::format(FORMAT, field, detail));
        };
        self.at += 4;
        Ok(u32::from_le_bytes(*word))
    }

    fn piece(&mut self, token: usize) -> Result<&'a [u8]> {
        let length = self.u32(&format!("length of token {token}"))? as usize;
        let Some(piece) = self.bytes[self.at..].get(..length) else {
            let detail = format!("{length}, but {} bytes are left", self.bytes.len() - self.at);
            return Err(Error::format(FORMAT, format!("length of token {token}"), detail));
        };
        self.at += length;
        Ok(piece)
    }
}
