//! Tokenizers in GGUF metadata (`tokenizer.ggml.*`): `llama` is SentencePiece BPE, `gpt2` is
//! byte-level BPE.
//!
//! The key decision: where the file is silent, the defaults are llama.cpp's, so that both read the
//! same ids from the same file.

use std::path::Path;

use yushan_abi::TokenId;

use super::merge::{Alphabet, Merger, Order, PairCollector, Run, byte_alphabet};
use super::pieces::{Pieces, Prefix, byte_of_piece, write_piece};
use super::vocabulary::{Builder, TokenKind, Vocabulary};
use super::{Cut, InfillIds, Parts, RoleIds, Tokenizer, byte_level, split};
use crate::error::shown;
use crate::gguf::Metadata;
use crate::{Error, Result};

const FORMAT: &str = "GGUF";

/// Pre-tokenizers for which llama.cpp takes words that are tokens as they are.
pub(super) const IGNORE_MERGES: &[&str] = &[
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "tekken",
];

impl Tokenizer {
    /// Reads the tokenizer in the metadata of a GGUF file.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer> {
        let Some(model) = metadata.string("tokenizer.ggml.model")? else {
            return Err(Error::Missing {
                what: "the tokenizer (tokenizer.ggml.model)".into(),
                hint: "give one with --tokenizer FILE, a tokenizer.json or a llama2.c tokenizer"
                    .into(),
            });
        };
        match model {
            "llama" => sentencepiece(metadata),
            "gpt2" => byte_pairs(metadata),
            other => Err(Error::Unsupported {
                what: format!("tokenizer model {other:?}"),
                expected: "expected \"llama\" (SentencePiece BPE) or \"gpt2\" (byte-level BPE)"
                    .into(),
            }),
        }
    }

    /// Reads a tokenizer kept apart from the model: a `tokenizer.json` (with its
    /// `tokenizer_config.json` beside it), a folder that holds one, or a llama2.c file for a model
    /// of `vocabulary` tokens.
    pub fn from_file(path: &Path, vocabulary: usize) -> Result<Tokenizer> {
        if path.is_dir() {
            return Tokenizer::from_hugging_face(path);
        }
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Tokenizer::from_llama2c(&bytes, vocabulary);
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        Tokenizer::from_json_beside(&bytes, folder)
    }
}

fn sentencepiece(metadata: &Metadata) -> Result<Tokenizer> {
    let vocabulary = vocabulary(metadata, true)?;
    let roles = roles(metadata, Some([1, 2, 0]), vocabulary.len())?;
    let unknown = roles.unknown.map(|token| (token, Run::Fused));
    let merger = Merger::new(&vocabulary, Alphabet::Characters, Order::Scores, false, unknown);
    let prefix = match metadata.flag("tokenizer.ggml.add_space_prefix")? {
        Some(false) => Prefix::Never,
        _ => Prefix::Always,
    };
    let squeeze = metadata.flag("tokenizer.ggml.remove_extra_whitespaces")? == Some(true);
    let pieces = Pieces::new(&vocabulary, prefix, squeeze, false);
    assemble(metadata, vocabulary, merger, Cut::Pieces(pieces), roles, true)
}

fn byte_pairs(metadata: &Metadata) -> Result<Tokenizer> {
    let vocabulary = vocabulary(metadata, false)?;
    let roles = roles(metadata, None, vocabulary.len())?;
    let key = "tokenizer.ggml.merges";
    let Some(merges) = metadata.array(key)? else {
        return Err(Error::Missing {
            what: key.into(),
            hint: "byte-level BPE needs its merges; convert the model again".into(),
        });
    };
    let Some(strings) = merges.strings() else {
        return Err(Error::format(FORMAT, key, "expected an array of strings"));
    };
    let mut collector = PairCollector::new(&vocabulary, merges.len());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (number, merge) in strings.enumerate() {
        // The first character belongs to the left side, even if it is a space.
        let halves = std::str::from_utf8(merge).ok().and_then(|text| {
            let first = text.chars().next()?.len_utf8();
            let space = first + text[first..].find(' ')?;
            Some((&text[..space], &text[space + 1..]))
        });
        let Some((a, b)) = halves else {
            let detail = format!("{}; expected two words", shown(merge));
            return Err(Error::format(FORMAT, format!("{key}[{number}]"), detail));
        };
        left.clear();
        right.clear();
        byte_level::decode_into(a, &mut left);
        byte_level::decode_into(b, &mut right);
        // As in llama.cpp, a merge of what is no token is never used.
        collector.add(&left, &right);
    }
    let order = collector.order();
    let name = metadata.string("tokenizer.ggml.pre")?.unwrap_or("default");
    let Some(rules) = split::rules_of_gguf(name) else {
        return Err(Error::Unsupported {
            what: format!("pre-tokenizer {name:?} (tokenizer.ggml.pre)"),
            expected: "expected one like \"gpt-2\", \"llama-bpe\", \"qwen2\" or \"smollm\"".into(),
        });
    };
    let ignore_merges = IGNORE_MERGES.contains(&name);
    let alphabet = byte_alphabet(&vocabulary);
    let unknown = roles.unknown.map(|token| (token, Run::Single));
    let merger = Merger::new(&vocabulary, alphabet, order, ignore_merges, unknown);
    let add_space = metadata.flag("tokenizer.ggml.add_space_prefix")? == Some(true);
    let cut = Cut::ByteLevel { rules: rules.to_vec(), nfc: false, add_space };
    assemble(metadata, vocabulary, merger, cut, roles, ignore_merges)
}

/// `add_bos`: whether BOS is added where the file does not say.
fn assemble(
    metadata: &Metadata,
    vocabulary: Vocabulary,
    merger: Merger,
    cut: Cut,
    roles: RoleIds,
    add_bos: bool,
) -> Result<Tokenizer> {
    let mut ends = Vec::new();
    ends.extend(id(metadata, "tokenizer.ggml.eom_token_id", vocabulary.len())?);
    let template = metadata.string("tokenizer.chat_template")?;
    Tokenizer::assemble(Parts {
        format: FORMAT,
        vocabulary,
        merger,
        cut,
        strips: Vec::new(),
        roles,
        add_bos: metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
        add_eos: metadata.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
        ends,
        chat_template: template.map(str::to_string),
    })
}

/// The tokens with their types and, for SentencePiece (`pieces`), their scores.
fn vocabulary(metadata: &Metadata, pieces: bool) -> Result<Vocabulary> {
    let key = "tokenizer.ggml.tokens";
    let Some(tokens) = metadata.array(key)? else {
        return Err(Error::Missing {
            what: key.into(),
            hint: "the file has no vocabulary; give one with --tokenizer FILE".into(),
        });
    };
    let Some(strings) = tokens.strings() else {
        return Err(Error::format(FORMAT, key, "expected an array of strings"));
    };
    let mut kinds =
        numbers(metadata, "tokenizer.ggml.token_type", tokens.len(), |array| array.integers())?;
    let mut scores =
        numbers(metadata, "tokenizer.ggml.scores", tokens.len(), |array| array.floats())?
            .filter(|_| pieces);
    let length = tokens.strings().map_or(0, |strings| strings.map(<[u8]>::len).sum());
    let mut builder = Builder::new(FORMAT, tokens.len(), length);
    for (number, bytes) in strings.enumerate() {
        let kind = match kinds.as_mut().and_then(Iterator::next) {
            None => TokenKind::Normal,
            Some(kind) => TokenKind::from_gguf(kind).ok_or_else(|| {
                let field = format!("tokenizer.ggml.token_type[{number}]");
                Error::format(FORMAT, field, format!("{kind}; expected 1 to 6"))
            })?,
        };
        push(&mut builder, kind, bytes, pieces)?;
        if let Some(score) = scores.as_mut().and_then(Iterator::next) {
            builder.score(score)?;
        }
    }
    Ok(builder.build())
}

/// Adds one token as the file writes it: `▁` or the byte-level alphabet undone in text.
fn push(builder: &mut Builder, kind: TokenKind, bytes: &[u8], pieces: bool) -> Result<()> {
    let text = std::str::from_utf8(bytes).ok();
    let byte = text.filter(|_| kind == TokenKind::Byte).and_then(byte_of_piece);
    builder.push(kind, |arena| match (text, byte, kind) {
        (_, Some(byte), _) => arena.push(byte),
        (Some(text), _, TokenKind::Normal | TokenKind::UserDefined) if pieces => {
            write_piece(text, arena);
        }
        (Some(text), _, TokenKind::Normal) => {
            byte_level::decode_into(text, arena);
        }
        _ => arena.extend_from_slice(bytes),
    })
}

/// An array of numbers beside the tokens; as long as they are, or absent.
fn numbers<'a, T>(
    metadata: &'a Metadata,
    key: &str,
    tokens: usize,
    read: impl FnOnce(crate::gguf::Array<'a>) -> Option<T>,
) -> Result<Option<T>> {
    let Some(array) = metadata.array(key)? else { return Ok(None) };
    if array.len() != tokens {
        let detail = format!("{} elements; expected {tokens}, one a token", array.len());
        return Err(Error::format(FORMAT, key, detail));
    }
    match read(array) {
        Some(values) => Ok(Some(values)),
        None => Err(Error::format(FORMAT, key, "expected an array of numbers")),
    }
}

/// `defaults`: BOS, EOS and unknown where the file does not say.
fn roles(metadata: &Metadata, defaults: Option<[TokenId; 3]>, size: usize) -> Result<RoleIds> {
    let default = |at: usize| defaults.map(|ids| ids[at]).filter(|&id| (id as usize) < size);
    let read = |name: &str| id(metadata, &format!("tokenizer.ggml.{name}_token_id"), size);
    Ok(RoleIds {
        bos: read("bos")?.or(default(0)),
        eos: read("eos")?.or(default(1)),
        eot: read("eot")?,
        unknown: read("unknown")?.or(default(2)),
        pad: read("padding")?,
        infill: InfillIds {
            // The second names are llama.cpp's former ones.
            prefix: read("fim_pre")?.or(read("prefix")?),
            suffix: read("fim_suf")?.or(read("suffix")?),
            middle: read("fim_mid")?.or(read("middle")?),
            pad: read("fim_pad")?,
            repository: read("fim_rep")?,
            file: read("fim_sep")?,
        },
    })
}

fn id(metadata: &Metadata, key: &str, size: usize) -> Result<Option<TokenId>> {
    match metadata.integer(key)? {
        // -1 and its unsigned twin stand for none.
        Some(id) if id == u32::MAX as usize => Ok(None),
        Some(id) if id >= size => {
            Err(Error::format(FORMAT, key, format!("{id}; expected an id below {size}")))
        }
        id => Ok(id.map(|id| id as TokenId)),
    }
}
