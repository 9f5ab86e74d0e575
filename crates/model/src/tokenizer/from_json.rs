//! Hugging Face's `tokenizer.json` (format of the `tokenizers` library), with what
//! `tokenizer_config.json` and `generation_config.json` beside it say about special tokens.
//!
//! The key decision: the vocabulary and the merges are read straight into the tables, without a
//! tree in between; the small rest is read as a tree, and every component that is not known to be
//! exactly reproduced is refused by its name.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use yushan_abi::TokenId;

use super::merge::{Alphabet, Merger, PairCollector, Run, byte_alphabet};
use super::pieces::{Pieces, byte_of_piece, write_piece};
use super::pipeline::{Ends, Pipeline, unsupported};
use super::special::Strip;
use super::vocabulary::{Builder, TokenKind, Vocabulary};
use super::{Cut, Parts, RoleIds, Tokenizer, byte_level};
use crate::{Error, Result};

pub(super) const FORMAT: &str = "tokenizer.json";

/// Ids may be this far beyond the number of tokens before the holes count as an error.
const HOLES: usize = 1 << 16;

/// Control tokens that end a text where no configuration says which.
const EOS_NAMES: &[&str] = &["</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<eos>"];

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(borrow, default)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added {
    id: TokenId,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(borrow, default)]
    vocab: Words<'a>,
    #[serde(borrow, default)]
    merges: Merges<'a>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, and from `config`, the `tokenizer_config.json` beside it, which
    /// tokens begin and end a text and the chat template.
    pub fn from_tokenizer_json(json: &[u8], config: Option<&[u8]>) -> Result<Tokenizer> {
        let broken = |detail: String| Error::format(FORMAT, "JSON", detail);
        let text = std::str::from_utf8(json).map_err(|error| broken(error.to_string()))?;
        let file: File<'_> =
            serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
        let config = match config {
            Some(bytes) => Config::read(bytes)?,
            None => Config::default(),
        };
        read(file, config)
    }

    /// Reads the tokenizer of a Hugging Face folder: `tokenizer.json`, and where they are there
    /// `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`.
    pub fn from_hugging_face(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        let json = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Missing {
                what: path.display().to_string(),
                hint: "the folder has no tokenizer; give one with --tokenizer FILE".into(),
            },
            _ => Error::io(&path, error),
        })?;
        Tokenizer::from_json_beside(&json, folder)
    }

    /// A `tokenizer.json` with the other files of its folder.
    pub(super) fn from_json_beside(json: &[u8], folder: &Path) -> Result<Tokenizer> {
        let config = read_if_there(&folder.join("tokenizer_config.json"))?;
        let mut tokenizer = Tokenizer::from_tokenizer_json(json, config.as_deref())?;
        if let Some(bytes) = read_if_there(&folder.join("generation_config.json"))? {
            tokenizer.add_ends(generation_ends(&bytes)?);
        }
        if let Some(bytes) = read_if_there(&folder.join("chat_template.jinja"))? {
            tokenizer.chat_template = Some(String::from_utf8(bytes).map_err(|error| {
                Error::format("chat_template.jinja", "text", error.to_string())
            })?);
        }
        Ok(tokenizer)
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

fn read(file: File<'_>, config: Config) -> Result<Tokenizer> {
    let model = &file.model;
    check_model(model)?;
    let pipeline = Pipeline::read(file.normalizer, file.pre_tokenizer)?;
    let template = Ends::read(file.post_processor)?;
    let byte_level = pipeline.is_byte_level();
    let vocabulary = vocabulary(model, &file.added_tokens, byte_level)?;
    let mut collector = PairCollector::new(&vocabulary, model.merges.0.len());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (number, merge) in model.merges.0.iter().enumerate() {
        let Some((a, b)) = merge.halves() else {
            return Err(bad_merge(number, "expected two words"));
        };
        left.clear();
        right.clear();
        write_word(a, byte_level, &mut left);
        write_word(b, byte_level, &mut right);
        if !collector.add(&left, &right) {
            let detail = format!("{a:?} and {b:?}: they or their merge are not in the vocabulary");
            return Err(bad_merge(number, &detail));
        }
    }
    let order = collector.order();
    let find = |text: &str| vocabulary.find_any(text);
    let unknown = model.unk_token.as_deref().and_then(find);
    let run = if model.fuse_unk == Some(true) { Run::Fused } else { Run::Single };
    let alphabet = if byte_level { byte_alphabet(&vocabulary) } else { Alphabet::Characters };
    let merger = Merger::new(
        &vocabulary,
        alphabet,
        order,
        model.ignore_merges == Some(true),
        unknown.map(|token| (token, run)),
    );
    let cut = match pipeline {
        Pipeline::ByteLevel { rules, nfc, add_space } => Cut::ByteLevel { rules, nfc, add_space },
        Pipeline::Pieces { prefix, split_every_space } => {
            Cut::Pieces(Pieces::new(&vocabulary, prefix, false, split_every_space))
        }
    };
    let role = |name: &Option<String>| name.as_deref().and_then(find);
    let control =
        |name: &&str| find(name).filter(|&token| vocabulary.kind(token) == TokenKind::Control);
    let roles = RoleIds {
        bos: role(&config.bos).or(template.before.as_deref().and_then(find)),
        eos: role(&config.eos)
            .or(template.after.as_deref().and_then(find))
            .or_else(|| EOS_NAMES.iter().find_map(control)),
        eot: None,
        unknown,
        pad: role(&config.pad),
    };
    let added = &file.added_tokens;
    let strips = added
        .iter()
        .filter(|token| token.lstrip || token.rstrip)
        .map(|token| (token.id, Strip { left: token.lstrip, right: token.rstrip }))
        .collect();
    Tokenizer::assemble(Parts {
        format: FORMAT,
        merger,
        cut,
        strips,
        add_bos: config.add_bos.unwrap_or(template.before.is_some()),
        add_eos: config.add_eos.unwrap_or(template.after.is_some()),
        roles,
        ends: Vec::new(),
        chat_template: config.chat_template,
        vocabulary,
    })
}

fn bad_merge(number: usize, detail: &str) -> Error {
    Error::format(FORMAT, format!("model.merges[{number}]"), detail)
}

fn check_model(model: &Model<'_>) -> Result<()> {
    let kind = model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(unsupported(&format!("model type {kind:?}"), "BPE"));
    }
    for (name, value) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if value.as_deref().is_some_and(|value| !value.is_empty()) {
            return Err(unsupported(&format!("model.{name} {value:?}"), "none"));
        }
    }
    if !model.vocab.is_map {
        return Err(Error::format(FORMAT, "model.vocab", "expected an object of words to ids"));
    }
    Ok(())
}

/// A word of the file as it is kept here.
fn write_word(word: &str, byte_level: bool, bytes: &mut Vec<u8>) {
    if byte_level {
        byte_level::decode_into(word, bytes);
    } else {
        write_piece(word, bytes);
    }
}

/// Words and added tokens in the order of their ids, holes filled.
fn vocabulary(model: &Model<'_>, added: &[Added], byte_level: bool) -> Result<Vocabulary> {
    let words = &model.vocab.words;
    let most = words.len() + added.len() + HOLES;
    let size = words.iter().map(|word| word.1).chain(added.iter().map(|token| token.id)).max();
    let size = size.map_or(0, |id| id as usize + 1);
    if size > most {
        let detail = format!("id {} with {} tokens", size - 1, words.len() + added.len());
        return Err(Error::format(FORMAT, "model.vocab", detail));
    }
    // Number of the word or added token + 1 for each id; added tokens after the words.
    let mut slots = vec![0u32; size];
    for (number, (word, id)) in words.iter().enumerate() {
        let slot = &mut slots[*id as usize];
        if *slot != 0 {
            let detail =
                format!("{word:?} and {:?} both have id {id}", words[*slot as usize - 1].0);
            return Err(Error::format(FORMAT, "model.vocab", detail));
        }
        *slot = number as u32 + 1;
    }
    for (number, token) in added.iter().enumerate() {
        if token.single_word {
            return Err(unsupported(&format!("single_word of {:?}", token.content), "false"));
        }
        let slot = &mut slots[token.id as usize];
        match (*slot as usize).checked_sub(1) {
            Some(at) if at < words.len() && words[at].0 != token.content => {
                let detail = format!("id {}: {:?} in the vocabulary", token.id, words[at].0);
                return Err(Error::format(FORMAT, format!("added_tokens[{number}]"), detail));
            }
            _ => *slot = (words.len() + number) as u32 + 1,
        }
    }
    let fallback = model.byte_fallback == Some(true) && !byte_level;
    let unknown = model.unk_token.as_deref();
    let mut builder = Builder::new(FORMAT, size);
    for slot in slots {
        let Some(at) = (slot as usize).checked_sub(1) else {
            builder.push(TokenKind::Unused, |_| {})?;
            continue;
        };
        if let Some(token) = at.checked_sub(words.len()).map(|at| &added[at]) {
            let text = token.content.as_str();
            let kind = match (unknown == Some(text), token.special) {
                (true, _) => TokenKind::Unknown,
                (_, true) => TokenKind::Control,
                (_, false) => TokenKind::UserDefined,
            };
            builder.push(kind, |arena| arena.extend_from_slice(text.as_bytes()))?;
            continue;
        }
        let word = words[at].0.as_ref();
        match byte_of_piece(word).filter(|_| fallback) {
            Some(byte) => builder.push(TokenKind::Byte, |arena| arena.push(byte))?,
            None if unknown == Some(word) => {
                builder
                    .push(TokenKind::Unknown, |arena| arena.extend_from_slice(word.as_bytes()))?;
            }
            None => {
                builder.push(TokenKind::Normal, |arena| write_word(word, byte_level, arena))?;
            }
        }
    }
    Ok(builder.build())
}

/// `model.vocab`: words and ids in the order of the file.
#[derive(Default)]
struct Words<'a> {
    words: Vec<(Cow<'a, str>, TokenId)>,
    /// False for the lists that other model types have.
    is_map: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Words<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Words<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of words to ids")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = map.next_key_seed(Text)? {
                    words.push((word, map.next_value()?));
                }
                Ok(Words { words, is_map: true })
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Words::default())
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// `model.merges` in order.
#[derive(Default)]
struct Merges<'a>(Vec<MergeText<'a>>);

enum MergeText<'a> {
    /// `"a b"`
    Joined(Cow<'a, str>),
    /// `["a", "b"]`
    Pair(Cow<'a, str>, Cow<'a, str>),
}

impl MergeText<'_> {
    fn halves(&self) -> Option<(&str, &str)> {
        match self {
            MergeText::Joined(text) => text.split_once(' ').filter(|(_, b)| !b.contains(' ')),
            MergeText::Pair(a, b) => Some((a, b)),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merges<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Merges<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut merges = Vec::new();
                while let Some(merge) = list.next_element()? {
                    merges.push(merge);
                }
                Ok(Merges(merges))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MergeText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = MergeText<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"a b\" or [\"a\", \"b\"]")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
                Ok(MergeText::Joined(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
                Ok(MergeText::Joined(Cow::Owned(text.to_string())))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let short = |n| serde::de::Error::invalid_length(n, &"two words");
                let left = list.next_element_seed(Text)?.ok_or_else(|| short(0))?;
                let right = list.next_element_seed(Text)?.ok_or_else(|| short(1))?;
                match list.next_element::<IgnoredAny>()? {
                    None => Ok(MergeText::Pair(left, right)),
                    Some(_) => Err(short(3)),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A string, borrowed from the file where it holds no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_string()))
    }
}

/// What `tokenizer_config.json` says.
#[derive(Default)]
struct Config {
    bos: Option<String>,
    eos: Option<String>,
    pad: Option<String>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    chat_template: Option<String>,
}

impl Config {
    fn read(bytes: &[u8]) -> Result<Config> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| Error::format("tokenizer_config.json", "JSON", error.to_string()))?;
        // A token is written as its text or as an object with its text.
        let token = |name: &str| {
            let token = value.get(name)?;
            token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_string)
        };
        // Only these classes build their beginning and end from the flags; for the others
        // `tokenizer.json` alone decides.
        let class = value.get("tokenizer_class").and_then(Value::as_str).unwrap_or("");
        let obeys = ["Llama", "CodeLlama", "Gemma"].iter().any(|name| class.starts_with(name));
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).filter(|_| obeys);
        let template = value.get("chat_template");
        let named = |list: &Vec<Value>| {
            let default = list
                .iter()
                .find(|item| item.get("name").and_then(Value::as_str) == Some("default"));
            default.or(list.first())?.get("template")?.as_str().map(str::to_string)
        };
        Ok(Config {
            bos: token("bos_token"),
            eos: token("eos_token"),
            pad: token("pad_token"),
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            chat_template: template.and_then(|template| match template {
                Value::String(text) => Some(text.clone()),
                Value::Array(list) => named(list),
                _ => None,
            }),
        })
    }
}

/// `eos_token_id` of `generation_config.json`: one id or several.
fn generation_ends(bytes: &[u8]) -> Result<Vec<TokenId>> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::format("generation_config.json", "JSON", error.to_string()))?;
    let ids = match value.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(id) => std::slice::from_ref(id),
        None => &[],
    };
    Ok(ids.iter().filter_map(Value::as_u64).filter_map(|id| id.try_into().ok()).collect())
}
