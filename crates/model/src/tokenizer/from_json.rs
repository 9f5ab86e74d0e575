//! Hugging Face's `tokenizer.json` (format of the `tokenizers` library), with what
//! `tokenizer_config.json` and `generation_config.json` beside it say about special tokens.
//!
//! The key decision: the vocabulary and the merges are walked where they lie (twice: once to count)
//! and go straight into the tables, so that memory is bounded by the file; the small rest is read as
//! a tree, and every component that is not known to be exactly reproduced is refused by its name.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use yushan_abi::TokenId;

use super::merge::{Alphabet, Merger, Order, PairCollector, Run, byte_alphabet};
use super::pieces::{Pieces, byte_of_piece, write_piece};
use super::pipeline::{Ends, Pipeline, unsupported};
use super::special::Strip;
use super::vocabulary::{Builder, TokenKind, Vocabulary};
use super::{Cut, InfillIds, Parts, RoleIds, Tokenizer, byte_level};
use crate::json;
use crate::{Error, Result};

pub(super) const FORMAT: &str = "tokenizer.json";

/// There may be as many holes in the numbering as tokens, and this many more.
const HOLES: usize = 256;

/// Control tokens that end a text where no configuration says which.
const EOS_NAMES: &[&str] = &["</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<eos>"];

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, default)]
    added_tokens: Option<&'a RawValue>,
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
struct Added<'a> {
    id: TokenId,
    #[serde(borrow)]
    content: Cow<'a, str>,
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
    vocab: Option<&'a RawValue>,
    #[serde(borrow, default)]
    merges: Option<&'a RawValue>,
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
    let words = Words { vocab: model.vocab, added: file.added_tokens };
    let vocabulary = vocabulary(model, &words, byte_level)?;
    let order = order(model, &vocabulary, byte_level)?;
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
        infill: InfillIds::default(),
    };
    let mut strips = Vec::new();
    words.each_added(&mut |_, token, _| {
        if token.lstrip || token.rstrip {
            strips.push((token.id, Strip { left: token.lstrip, right: token.rstrip }));
        }
        Ok(())
    })?;
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

/// The merges, each checked to be one of tokens.
fn order(model: &Model<'_>, vocabulary: &Vocabulary, byte_level: bool) -> Result<Order> {
    let mut count = 0;
    each_merge(model.merges, &mut |_, _, _| {
        count += 1;
        Ok(())
    })?;
    let mut collector = PairCollector::new(vocabulary, count);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    each_merge(model.merges, &mut |number, a, b| {
        left.clear();
        right.clear();
        write_word(a, byte_level, &mut left);
        write_word(b, byte_level, &mut right);
        if !collector.add(&left, &right) {
            let detail = format!("{a:?} and {b:?}: they or their merge are not in the vocabulary");
            return Err(bad_merge(number, &detail));
        }
        Ok(())
    })?;
    Ok(collector.order())
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
    if !model.vocab.is_some_and(|raw| raw.get().starts_with('{')) {
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
fn vocabulary(model: &Model<'_>, words: &Words<'_>, byte_level: bool) -> Result<Vocabulary> {
    let (mut count, mut bytes, mut size) = (0_usize, 0, 0);
    words.each(&mut |found| {
        count += 1;
        bytes += found.text().len();
        size = size.max(found.id() as usize + 1);
        Ok(())
    })?;
    if size > 2 * count + HOLES {
        let detail = format!("id {} with {count} tokens", size - 1);
        return Err(Error::format(FORMAT, "model.vocab", detail));
    }
    let places = words.places(size)?;
    let fallback = model.byte_fallback == Some(true) && !byte_level;
    let unknown = model.unk_token.as_deref();
    let mut builder = Builder::new(FORMAT, size, bytes);
    for place in places {
        match words.at(place) {
            None => builder.push(TokenKind::Unused, |_| {})?,
            Some(Found::Added(token)) => {
                let text = token.content.as_ref();
                let kind = match (unknown == Some(text), token.special) {
                    (true, _) => TokenKind::Unknown,
                    (_, true) => TokenKind::Control,
                    (_, false) => TokenKind::UserDefined,
                };
                builder.push(kind, |arena| arena.extend_from_slice(text.as_bytes()))?;
            }
            Some(Found::Word(word, _)) => match byte_of_piece(&word).filter(|_| fallback) {
                Some(byte) => builder.push(TokenKind::Byte, |arena| arena.push(byte))?,
                None if unknown == Some(&word) => {
                    let kind = TokenKind::Unknown;
                    builder.push(kind, |arena| arena.extend_from_slice(word.as_bytes()))?;
                }
                None => {
                    builder
                        .push(TokenKind::Normal, |arena| write_word(&word, byte_level, arena))?;
                }
            },
        }
    }
    Ok(builder.build())
}

/// Where words and added tokens stand in the file.
struct Words<'a> {
    vocab: Option<&'a RawValue>,
    added: Option<&'a RawValue>,
}

/// One of them.
enum Found<'a> {
    Word(Cow<'a, str>, TokenId),
    Added(Added<'a>),
}

impl Found<'_> {
    fn text(&self) -> &str {
        match self {
            Found::Word(word, _) => word,
            Found::Added(token) => &token.content,
        }
    }

    fn id(&self) -> TokenId {
        match self {
            Found::Word(_, id) => *id,
            Found::Added(token) => token.id,
        }
    }
}

impl<'a> Words<'a> {
    /// All words, then all added tokens.
    fn each(&self, found: &mut dyn FnMut(Found<'a>) -> Result<()>) -> Result<()> {
        self.each_word(&mut |_, word, id| found(Found::Word(word, id)))?;
        self.each_added(&mut |_, token, _| found(Found::Added(token)))
    }

    /// The words of `model.vocab`, each with its place in the text.
    fn each_word(
        &self,
        each: &mut dyn FnMut(usize, Cow<'a, str>, TokenId) -> Result<()>,
    ) -> Result<()> {
        let text = self.vocab.map_or("{}", RawValue::get);
        // A word begins after the value before it, white space and a comma.
        let mut past = 1;
        json::members(FORMAT, text, &mut |word, raw| {
            let skip = |byte: u8| byte.is_ascii_whitespace() || byte == b',';
            let rest = &text.as_bytes()[past..];
            let at = past + rest.iter().position(|&byte| !skip(byte)).unwrap_or(0);
            past = raw.get().as_ptr() as usize - text.as_ptr() as usize + raw.get().len();
            let Ok(id) = serde_json::from_str(raw.get()) else {
                let detail = format!("{word:?}: {}, expected an id", raw.get());
                return Err(Error::format(FORMAT, "model.vocab", detail));
            };
            each(at, word, id)
        })
    }

    /// The added tokens, each with its number and its place in the text.
    fn each_added(
        &self,
        each: &mut dyn FnMut(usize, Added<'a>, usize) -> Result<()>,
    ) -> Result<()> {
        let Some(added) = self.added else { return Ok(()) };
        let text = added.get();
        let mut number = 0;
        json::elements(FORMAT, "added_tokens", added, &mut |raw| {
            let token = serde_json::from_str(raw.get()).map_err(|error| {
                Error::format(FORMAT, format!("added_tokens[{number}]"), error.to_string())
            })?;
            number += 1;
            each(number - 1, token, raw.get().as_ptr() as usize - text.as_ptr() as usize)
        })
    }

    /// The place of each id: 0 for a hole, or else 1 more than twice the offset in the words (even)
    /// or in the added tokens (odd). An added token may stand among the words too.
    fn places(&self, size: usize) -> Result<Vec<u32>> {
        let place = |at: usize, added: bool| {
            u32::try_from(at * 2 + usize::from(added) + 1)
                .map_err(|_| Error::format(FORMAT, "model.vocab", "longer than 2 GiB"))
        };
        let mut places = vec![0_u32; size];
        self.each_word(&mut |at, word, id| {
            let slot = &mut places[id as usize];
            if let Some(Found::Word(other, _)) = self.at(*slot) {
                let detail = format!("{word:?} and {other:?} both have id {id}");
                return Err(Error::format(FORMAT, "model.vocab", detail));
            }
            *slot = place(at, false)?;
            Ok(())
        })?;
        self.each_added(&mut |number, token, at| {
            if token.single_word {
                return Err(unsupported(&format!("single_word of {:?}", token.content), "false"));
            }
            let slot = &mut places[token.id as usize];
            match self.at(*slot) {
                Some(Found::Word(word, _)) if word != token.content => {
                    let detail = format!("id {}: {word:?} in the vocabulary", token.id);
                    return Err(Error::format(FORMAT, format!("added_tokens[{number}]"), detail));
                }
                _ => *slot = place(at, true)?,
            }
            Ok(())
        })?;
        Ok(places)
    }

    /// What stands at a place of [`Words::places`]; the id of a word is not read again.
    fn at(&self, place: u32) -> Option<Found<'a>> {
        let place = place.checked_sub(1)? as usize;
        let raw = if place.is_multiple_of(2) { self.vocab } else { self.added };
        let mut json = serde_json::Deserializer::from_str(raw?.get().get(place / 2..)?);
        match place & 1 {
            0 => json::Text::deserialize(&mut json).ok().map(|word| Found::Word(word.0, 0)),
            _ => Added::deserialize(&mut json).ok().map(Found::Added),
        }
    }
}

/// The two words of each merge: `"a b"` or `["a", "b"]`.
fn each_merge(
    merges: Option<&RawValue>,
    each: &mut dyn FnMut(usize, &str, &str) -> Result<()>,
) -> Result<()> {
    let Some(merges) = merges else { return Ok(()) };
    let mut number = 0;
    json::elements(FORMAT, "model.merges", merges, &mut |raw| {
        let text = raw.get();
        let (joined, pair);
        let halves = if text.starts_with('[') {
            pair = serde_json::from_str::<(json::Text<'_>, json::Text<'_>)>(text).ok();
            pair.as_ref().map(|(a, b)| (a.0.as_ref(), b.0.as_ref()))
        } else {
            joined = serde_json::from_str::<json::Text<'_>>(text).ok();
            let halves = joined.as_ref().and_then(|text| text.0.split_once(' '));
            halves.filter(|(_, b)| !b.contains(' '))
        };
        let Some((a, b)) = halves else { return Err(bad_merge(number, "expected two words")) };
        number += 1;
        each(number - 1, a, b)
    })
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
