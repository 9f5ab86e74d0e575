//! A tokenizer as GGUF metadata (`tokenizer.ggml.*`), the inverse of `from_gguf`.
//!
//! The key decision: what GGUF has no place for is said, not dropped in silence: each writer returns
//! notes for the person who converts. What would change most texts is refused.

use std::collections::HashSet;

use yushan_abi::TokenId;

use super::from_gguf::IGNORE_MERGES;
use super::merge::Merger;
use super::pieces::{META, Prefix};
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Cut, END_NAMES, Tokenizer, byte_level, split};
use crate::error::shown;
use crate::gguf::Header;
use crate::{Error, Result};

const FORMAT: &str = "tokenizer";

/// The score of a token that no merge makes.
const LOWEST: f32 = -1e6;

impl Tokenizer {
    /// Sets the metadata for a model of `rows` tokens; ids past the vocabulary become unused ones.
    /// Returns what GGUF cannot say.
    pub(crate) fn write_gguf(&self, rows: usize, header: &mut Header) -> Result<Vec<String>> {
        self.check_rows(rows)?;
        let mut notes = Vec::new();
        match &self.cut {
            Cut::ByteLevel { .. } if self.merger.pairs().is_none() => {
                return Err(Error::Unsupported {
                    what: "a byte-level tokenizer of ranks (tiktoken)".into(),
                    expected: "GGUF needs a list of merges; convert from a tokenizer.json".into(),
                });
            }
            Cut::ByteLevel { rules, nfc, add_space } => {
                let ignore_merges = self.merger.ignores_merges();
                let Some(name) = split::gguf_name(rules, ignore_merges) else {
                    return Err(Error::Unsupported {
                        what: "a pre-tokenizer that GGUF has no name for".into(),
                        expected: "GPT-2's, Llama 3's, Qwen2's and others that llama.cpp knows \
                                   can be written"
                            .into(),
                    });
                };
                header.set("tokenizer.ggml.model", "gpt2");
                header.set("tokenizer.ggml.pre", name);
                if IGNORE_MERGES.contains(&name) != ignore_merges {
                    notes.push("words that are tokens are merged by rank all the same".into());
                }
                if *nfc {
                    notes.push("text is no longer brought into Unicode's composed form".into());
                }
                self.write_tokens(rows, byte_level::encode, header, &mut notes)?;
                header.set("tokenizer.ggml.merges", &merges(&self.vocabulary, &self.merger)[..]);
                if *add_space {
                    header.set("tokenizer.ggml.add_space_prefix", true);
                }
            }
            Cut::Pieces(pieces) => {
                header.set("tokenizer.ggml.model", "llama");
                header.set("tokenizer.ggml.pre", "default");
                let scores = scores(&self.vocabulary, &self.merger, rows)?;
                self.write_tokens(rows, piece, header, &mut notes)?;
                header.set("tokenizer.ggml.scores", &scores[..]);
                let prefix = pieces.prefix;
                header.set("tokenizer.ggml.add_space_prefix", prefix != Prefix::Never);
                if pieces.squeeze {
                    header.set("tokenizer.ggml.remove_extra_whitespaces", true);
                }
                if matches!(prefix, Prefix::UnlessThere | Prefix::FirstUnlessThere) {
                    notes.push(
                        "a space is put before every text, also before one that begins with a \
                         space or follows a special token"
                            .into(),
                    );
                }
            }
        }
        self.write_roles(header, &mut notes);
        if let Some(template) = self.chat_template() {
            header.set("tokenizer.chat_template", template);
        }
        Ok(notes)
    }

    fn check_rows(&self, rows: usize) -> Result<()> {
        if self.vocabulary_size() > rows {
            return Err(Error::Unsupported {
                what: format!("{} tokens for a model of {rows}", self.vocabulary_size()),
                expected: "the tokenizer must not have more tokens than the model; it belongs to \
                           another one"
                    .into(),
            });
        }
        Ok(())
    }

    /// Texts and kinds of all tokens. `write` makes the file's text of the bytes of a normal token.
    fn write_tokens(
        &self,
        rows: usize,
        write: impl Fn(&[u8]) -> String,
        header: &mut Header,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let mut texts: Vec<String> = Vec::with_capacity(rows);
        let mut kinds = Vec::with_capacity(rows);
        for (token, kind) in self.vocabulary.kinds() {
            let bytes = self.vocabulary.bytes(token);
            let pieces = matches!(self.cut, Cut::Pieces(_));
            let text = match (kind, bytes) {
                (TokenKind::Unused, _) => format!("[PAD{token}]"),
                (TokenKind::Byte, [byte]) => format!("<0x{byte:02X}>"),
                (TokenKind::Normal, _) if !pieces || std::str::from_utf8(bytes).is_ok() => {
                    write(bytes)
                }
                _ => std::str::from_utf8(bytes).map(str::to_string).map_err(|_| {
                    Error::format(
                        FORMAT,
                        format!("token {token}"),
                        format!("{} is no UTF-8", shown(bytes)),
                    )
                })?,
            };
            texts.push(text);
            kinds.push(kind as i32);
        }
        for token in texts.len()..rows {
            texts.push(format!("[PAD{token}]"));
            kinds.push(TokenKind::Unused as i32);
        }
        let mut seen = HashSet::with_capacity(rows);
        if let Some(twice) = texts.iter().find(|text| !seen.insert(text.as_str())) {
            notes.push(format!("two tokens are written {twice:?}, which llama.cpp refuses"));
        }
        header.set("tokenizer.ggml.tokens", &texts[..]);
        header.set("tokenizer.ggml.token_type", &kinds[..]);
        Ok(())
    }

    fn write_roles(&self, header: &mut Header, notes: &mut Vec<String>) {
        let roles = self.roles();
        // An end that neither its name nor a role tells.
        let named = |token: TokenId| {
            let bytes = self.token_bytes(token);
            END_NAMES.iter().any(|name| name.as_bytes() == bytes)
        };
        let infill = &roles.infill;
        let told = [roles.eos, roles.eot, infill.pad, infill.repository, infill.file];
        let mut others = self
            .ends_of_generation()
            .iter()
            .filter(|&&token| !told.contains(&Some(token)) && !named(token));
        for (name, id) in [
            ("bos", roles.bos),
            ("eos", roles.eos),
            ("eot", roles.eot),
            ("eom", others.next().copied()),
            ("unknown", roles.unknown),
            ("padding", roles.pad),
            ("fim_pre", infill.prefix),
            ("fim_suf", infill.suffix),
            ("fim_mid", infill.middle),
            ("fim_pad", infill.pad),
            ("fim_rep", infill.repository),
            ("fim_sep", infill.file),
        ] {
            if let Some(id) = id {
                header.set(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
        }
        if let Some(left) = others.next() {
            notes.push(format!("token {left} no longer ends an answer"));
        }
        header.set("tokenizer.ggml.add_bos_token", self.add_bos);
        header.set("tokenizer.ggml.add_eos_token", self.add_eos);
        let strips = |&(token, _): &(TokenId, TokenKind)| {
            let strip = self.matcher.strip_of(token);
            strip.left || strip.right
        };
        if self
            .vocabulary
            .kinds()
            .filter(|(_, kind)| *kind != TokenKind::Normal)
            .any(|t| strips(&t))
        {
            notes.push("special tokens no longer swallow the white space around them".into());
        }
    }
}

/// A piece as SentencePiece writes it.
fn piece(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(' ', META.encode_utf8(&mut [0; 4]))
}

/// `left right` for every merge, in order.
fn merges(vocabulary: &Vocabulary, merger: &Merger) -> Vec<String> {
    let word = |token| byte_level::encode(vocabulary.bytes(token));
    let pairs = merger.pairs().map(|pairs| pairs.sorted()).unwrap_or_default();
    pairs.iter().map(|&(left, right, _)| format!("{} {}", word(left), word(right))).collect()
}

/// The score of every token. A list of merges becomes scores if both mean the same: the merges that
/// make one token stand together, and no two tokens make a third without one.
fn scores(vocabulary: &Vocabulary, merger: &Merger, rows: usize) -> Result<Vec<f32>> {
    let Some(pairs) = merger.pairs() else {
        let score = |token| match (token as usize) < vocabulary.len() {
            true => vocabulary.score(token),
            false => LOWEST,
        };
        return Ok((0..rows as TokenId).map(score).collect());
    };
    let unlike = |token: TokenId| Error::Unsupported {
        what: format!(
            "a SentencePiece tokenizer whose merges are not in the order of scores (at token \
             {token})"
        ),
        expected: "GGUF keeps scores alone, so the merges must follow from them".into(),
    };
    let mut scores = vec![LOWEST; rows];
    let mut last = None;
    let mut place = 0;
    for (_, _, merge) in pairs.sorted() {
        if last == Some(merge.token) {
            continue;
        }
        if scores[merge.token as usize] != LOWEST {
            return Err(unlike(merge.token));
        }
        // Whole numbers up to 2^24 are exact.
        scores[merge.token as usize] = -(place as f32);
        place += 1;
        last = Some(merge.token);
    }
    for (token, kind) in vocabulary.kinds() {
        let bytes = vocabulary.bytes(token);
        if kind != TokenKind::Normal || vocabulary.find(bytes) != Some(token) {
            continue;
        }
        let text = String::from_utf8_lossy(bytes);
        for (at, _) in text.char_indices().skip(1).filter(|_| text.len() == bytes.len()) {
            let halves = vocabulary.find(&bytes[..at]).zip(vocabulary.find(&bytes[at..]));
            if halves.is_some_and(|(left, right)| pairs.get(left, right).is_none()) {
                return Err(unlike(token));
            }
        }
    }
    Ok(scores)
}
