//! Vocabularies of OpenAI: `*.tiktoken` (a line for each token, base64 and rank) and GPT-2's `encoder.json` with
//! `vocab.bpe`.
//!
//! The key decision: a `.tiktoken` file has no merges, and none are guessed: any two neighbours that together are
//! a token may merge, the lowest rank first, and a word that is a token is that token. That is what the
//! tiktoken library does. The file does not say how text is cut; the caller does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use yushan_abi::TokenId;

use super::merge::{Merger, Order, byte_alphabet};
use super::vocabulary::{Builder, TokenKind};
use super::{Cut, Parts, PreTokenizer, RoleIds, Tokenizer};
use crate::{Error, Result};

const FORMAT: &str = "tiktoken";

/// Ranks are kept as scores, and these are the whole numbers that are exact in 32 bits.
const MOST: u32 = 1 << 24;

impl Tokenizer {
    /// Reads a `.tiktoken` file. `specials`: the tokens after the last rank, in order.
    pub fn from_tiktoken(
        file: &[u8],
        pre_tokenizer: PreTokenizer,
        specials: &[&str],
    ) -> Result<Tokenizer> {
        let lines = file.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let count = lines.clone().count();
        let mut builder = Builder::new(FORMAT, count, file.len() / 2);
        for (number, line) in lines.enumerate() {
            let bad = |detail: &str| Error::format(FORMAT, format!("line {}", number + 1), detail);
            let line = line.trim_ascii();
            let (word, rank) = line
                .iter()
                .position(|&byte| byte == b' ')
                .and_then(|at| Some((&line[..at], std::str::from_utf8(&line[at + 1..]).ok()?)))
                .ok_or_else(|| bad("expected a token in base64, a space and its rank"))?;
            let rank = rank.parse::<u32>().ok().filter(|rank| *rank < MOST);
            if rank != Some(number as u32) {
                return Err(bad("expected the ranks 0, 1, 2, … in order"));
            }
            let mut bytes = Vec::new();
            STANDARD.decode_vec(word, &mut bytes).map_err(|error| bad(&error.to_string()))?;
            if bytes.is_empty() {
                return Err(bad("an empty token"));
            }
            builder.push(TokenKind::Normal, |arena| arena.extend_from_slice(&bytes))?;
            builder.score(-(number as f32))?;
        }
        for name in specials {
            builder.push(TokenKind::Control, |arena| arena.extend_from_slice(name.as_bytes()))?;
            builder.score(-(MOST as f32))?;
        }
        let vocabulary = builder.build();
        for byte in 0..=255_u8 {
            if vocabulary.find(&[byte]).is_none() {
                let detail = format!("byte {byte:#04x} is no token; is the file whole?");
                return Err(Error::format(FORMAT, "vocabulary", detail));
            }
        }
        let end = (!specials.is_empty()).then_some(count as TokenId);
        let alphabet = byte_alphabet(&vocabulary);
        Tokenizer::assemble(Parts {
            format: FORMAT,
            merger: Merger::new(&vocabulary, alphabet, Order::Scores, true, None),
            cut: Cut::ByteLevel { rules: vec![pre_tokenizer.rule()], nfc: false, add_space: false },
            vocabulary,
            strips: Vec::new(),
            roles: RoleIds { bos: end, eos: end, ..RoleIds::default() },
            add_bos: false,
            add_eos: false,
            ends: Vec::new(),
            chat_template: None,
        })
    }

    /// Reads GPT-2's `encoder.json` and `vocab.bpe`.
    pub fn from_gpt2(encoder: &[u8], merges: &[u8]) -> Result<Tokenizer> {
        let broken = |what: &'static str, detail: String| Error::format(what, "text", detail);
        let encoder: &RawValue = serde_json::from_slice(encoder)
            .map_err(|error| broken("encoder.json", error.to_string()))?;
        let merges =
            std::str::from_utf8(merges).map_err(|error| broken("vocab.bpe", error.to_string()))?;
        let merges: Vec<&str> = merges
            .lines()
            .filter(|line| !line.starts_with("#version") && !line.is_empty())
            .collect();
        let merges = serde_json::json!(merges);
        let vocab = encoder.get();
        let end = serde_json::from_str::<serde_json::Map<_, _>>(vocab)
            .map_err(|error| broken("encoder.json", error.to_string()))?
            .remove("<|endoftext|>");
        let added: Vec<_> = end
            .iter()
            .map(|id| serde_json::json!({"id": id, "content": "<|endoftext|>", "special": true}))
            .collect();
        let added = serde_json::json!(added);
        let pre = r#"{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}"#;
        let file = format!(
            r#"{{"added_tokens": {added}, "pre_tokenizer": {pre}, "model": {{"vocab": {vocab}, "merges": {merges}}}}}"#
        );
        let config = br#"{"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}"#;
        Tokenizer::from_tokenizer_json(file.as_bytes(), Some(config))
    }
}
