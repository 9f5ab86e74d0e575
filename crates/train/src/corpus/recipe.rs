//! What a recipe for a corpus says: sources, filters, duplicates, hold-outs, memory.
//!
//! The key decision: every limit has a default from a published rule and stands in the recipe under its own name,
//! so that a report can name the rule that dropped a document. No value is read from anywhere else.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use yushan_abi::label::{Integrity, Label, Sources};

use crate::{Error, Result, keys};

/// A recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the corpus is called.
    pub name: String,
    /// How much memory the build may take, whatever the input's size: `"512 MB"`.
    #[serde(default = "memory")]
    pub memory: Size,
    /// Where text comes from, in this order.
    #[serde(default, rename = "source")]
    pub sources: Vec<Source>,
    /// Which documents are good enough.
    #[serde(default)]
    pub filter: Filter,
    /// Which documents are there already.
    #[serde(default)]
    pub dedup: Dedup,
    /// Which documents are kept from training.
    #[serde(default)]
    pub holdout: Holdout,
    /// For the second stage.
    #[serde(default)]
    pub tokenizer: Tokenizer,
    /// Paths are relative to this.
    #[serde(skip)]
    pub folder: PathBuf,
    /// As it was written.
    #[serde(skip)]
    pub text: String,
}

/// Where text comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A short name; hold-outs and reports use it.
    pub name: String,
    /// A file or a pattern with `*` and `?`, or a list of them; `$NAME` at the beginning is a variable of the
    /// environment.
    #[serde(deserialize_with = "one_or_many")]
    pub path: Vec<String>,
    /// How documents lie in the files.
    pub format: Format,
    /// The field or column of JSONL and Parquet that holds the text, or a list of lines.
    #[serde(default = "text_field")]
    pub text_field: String,
    /// The licence, as its SPDX name where it has one.
    pub licence: String,
    /// In text: a line like this stands between documents; `"blank lines"`: each paragraph is a document. Without it
    /// a file is one document.
    #[serde(default)]
    pub split_documents: Option<String>,
    /// Documents above this are cut into passages at the ends of paragraphs.
    #[serde(default = "max_document")]
    pub max_document: Size,
    /// Who could have written it: training data is `untrusted` unless it is known better.
    #[serde(default)]
    pub integrity: Trust,
    /// The share kept from training, instead of the one under `[holdout]`.
    #[serde(default)]
    pub holdout: Option<f64>,
    /// Instead of the common `[filter]`.
    #[serde(default)]
    pub filter: Option<Filter>,
}

/// How documents lie in files. Each may be packed with gzip, xz or zstd (Parquet packs its own pages).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain text.
    Text,
    /// One JSON object a line.
    Jsonl,
    /// A column of strings.
    Parquet,
}

/// [`Integrity`], as recipes write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Anybody could have written it.
    #[default]
    Untrusted,
    /// A model or a program wrote it.
    Tool,
    /// The user wrote it.
    User,
    /// The maker of the model wrote it.
    System,
}

impl Source {
    /// What rows of this source are labelled with.
    pub fn label(&self) -> Label {
        let sources = match self.integrity {
            Trust::Untrusted => Sources::TRAINING.union(Sources::FILE),
            Trust::Tool => Sources::MODEL,
            Trust::User => Sources::OWN_DATA,
            Trust::System => Sources::AUTHOR,
        };
        let mut label = Label::of(sources);
        label.origins.insert(self.name.clone());
        debug_assert_eq!(
            label.integrity() == Integrity::Untrusted,
            self.integrity == Trust::Untrusted
        );
        label
    }
}

/// What is done with bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InvalidUtf8 {
    /// U+FFFD stands for them, and the document is counted.
    #[default]
    Replace,
    /// The document is dropped.
    Drop,
}

/// Limits of quality. Defaults: Rae et al. 2021 (Gopher, arXiv 2112.11446), appendix A.1.1 and table A1, but for
/// `min_words` (50 there; passages and poems are shorter) and `max_symbol_share`, which is ours.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// What is done with bytes that are not UTF-8.
    pub invalid_utf8: InvalidUtf8,
    /// Languages that stay, as `"en"` or `"zh-Hant"`; none: all.
    pub languages: Vec<String>,
    /// Words a document has at least; a Han character counts as a word.
    pub min_words: usize,
    /// Words a document has at most.
    pub max_words: usize,
    /// Characters a word has at least, on average; not for Han and kana.
    pub min_mean_word: f64,
    /// Characters a word has at most, on average.
    pub max_mean_word: f64,
    /// `#` and ellipses per word.
    pub max_symbols_per_word: f64,
    /// Share of characters that are no letters, digits, blanks or punctuation.
    pub max_symbol_share: f64,
    /// Share of lines that begin with a bullet.
    pub max_bullet_lines: f64,
    /// Share of lines that end with an ellipsis.
    pub max_ellipsis_lines: f64,
    /// Share of words with a letter.
    pub min_alphabetic_words: f64,
    /// How many of the, be, to, of, and, that, have, with occur; in English only.
    pub min_stop_words: u32,
    /// Share of lines that were there before.
    pub max_duplicate_lines: f64,
    /// Share of bytes in lines that were there before.
    pub max_duplicate_line_bytes: f64,
    /// Share of paragraphs that were there before.
    pub max_duplicate_paragraphs: f64,
    /// Share of bytes in paragraphs that were there before.
    pub max_duplicate_paragraph_bytes: f64,
    /// Share of characters of words in the most frequent 2-, 3- and 4-gram.
    pub max_top_n_grams: [f64; 3],
    /// Share of characters of words in 5- to 10-grams that were there before.
    pub max_duplicate_n_grams: [f64; 6],
}

impl Default for Filter {
    fn default() -> Filter {
        Filter {
            invalid_utf8: InvalidUtf8::Replace,
            languages: Vec::new(),
            min_words: 20,
            max_words: 100_000,
            min_mean_word: 3.0,
            max_mean_word: 10.0,
            max_symbols_per_word: 0.1,
            max_symbol_share: 0.1,
            max_bullet_lines: 0.9,
            max_ellipsis_lines: 0.3,
            min_alphabetic_words: 0.8,
            min_stop_words: 2,
            max_duplicate_lines: 0.3,
            max_duplicate_line_bytes: 0.2,
            max_duplicate_paragraphs: 0.3,
            max_duplicate_paragraph_bytes: 0.2,
            max_top_n_grams: [0.2, 0.18, 0.16],
            max_duplicate_n_grams: [0.15, 0.14, 0.13, 0.12, 0.11, 0.1],
        }
    }
}

/// Duplicates. Defaults: 14 bands of 8 rows over 5-grams of words, as FineWeb (Penedo et al. 2024, arXiv 2406.17557),
/// which finds pairs of Jaccard similarity s with probability 1 - (1 - s⁸)¹⁴: 92 % at 0.8, 5 % at 0.5.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dedup {
    /// Whether documents with the same cleaned text are dropped.
    pub exact: bool,
    /// Whether documents with nearly the same words are dropped.
    pub near: bool,
    /// Words in a shingle.
    pub shingle_words: usize,
    /// Bands of the signature.
    pub bands: usize,
    /// Rows of a band.
    pub rows: usize,
    /// A candidate is dropped when this share of its signature agrees.
    pub similarity: f64,
}

impl Default for Dedup {
    fn default() -> Dedup {
        Dedup { exact: true, near: true, shingle_words: 5, bands: 14, rows: 8, similarity: 0.7 }
    }
}

/// Documents kept from training, chosen by their content's hash: the same ones in every build.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Holdout {
    /// Share of each source's documents.
    pub share: f64,
}

impl Default for Holdout {
    fn default() -> Holdout {
        Holdout { share: 0.01 }
    }
}

/// The tokenizer of the second stage.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokenizer {
    /// Entries of the vocabulary to train; none: the pretraining's choice.
    pub vocabulary: Option<u32>,
    /// An existing `tokenizer.json` instead of a new one.
    pub file: Option<String>,
}

/// Bytes: a number, or `"512 MB"`, `"64 KiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Size(pub u64);

impl Size {
    /// Reads `"512 MB"`: decimal units, and binary ones with an `i`.
    pub fn parse(text: &str) -> Option<Size> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "kib" => 1 << 10,
            "mb" => 1_000_000,
            "mib" => 1 << 20,
            "gb" => 1_000_000_000,
            "gib" => 1 << 30,
            _ => return None,
        };
        text[..digits].parse::<u64>().ok()?.checked_mul(unit).map(Size)
    }

    /// As a length.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Size, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes or a text such as \"512 MB\"")
            }
            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> std::result::Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom("a size is not below 0"))
            }
            fn visit_u64<E>(self, bytes: u64) -> std::result::Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Size, E> {
                Size::parse(text).ok_or_else(|| {
                    E::custom(format!("`{text}` is no size; write \"512 MB\" or \"64 KiB\""))
                })
            }
        }
        from.deserialize_any(Written)
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    struct Paths;
    impl<'de> Visitor<'de> for Paths {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path or a list of paths")
        }
        fn visit_str<E: serde::de::Error>(self, path: &str) -> std::result::Result<Vec<String>, E> {
            Ok(vec![path.to_string()])
        }
        fn visit_seq<A: SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> std::result::Result<Vec<String>, A::Error> {
            let mut paths = Vec::new();
            while let Some(path) = list.next_element()? {
                paths.push(path);
            }
            if paths.is_empty() {
                Err(A::Error::custom("a list without a path"))
            } else {
                Ok(paths)
            }
        }
    }
    from.deserialize_any(Paths)
}

fn memory() -> Size {
    Size(512_000_000)
}

fn max_document() -> Size {
    Size(64 << 10)
}

fn text_field() -> String {
    "text".into()
}

/// The least memory that a build works with.
const LEAST_MEMORY: u64 = 16_000_000;

impl Recipe {
    /// Reads a recipe's file.
    ///
    /// # Errors
    /// If it cannot be read, an unknown key is in it (the nearest known one is named), or values contradict each other.
    pub fn read(path: &Path) -> Result<Recipe> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::io("reading", path, source))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Recipe::parse(&format!("recipe {}", path.display()), &text, folder)
    }

    /// Reads a recipe; paths in it are relative to `folder`, and `what` names it in errors.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn parse(what: &str, text: &str, folder: &Path) -> Result<Recipe> {
        let mut recipe: Recipe = keys::parse(what, text)?;
        recipe.folder = folder.to_path_buf();
        recipe.text = text.to_string();
        recipe.check().map_err(|detail| Error::bad(what, detail))?;
        Ok(recipe)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.sources.is_empty() {
            return Err(
                "no source: write at least one [[source]] with name, path, format and licence"
                    .into(),
            );
        }
        if self.memory.0 < LEAST_MEMORY {
            return Err(format!(
                "memory = {} bytes is too little; at least \"16 MB\"",
                self.memory.0
            ));
        }
        for (at, source) in self.sources.iter().enumerate() {
            source
                .check(self.memory)
                .map_err(|detail| format!("source `{}`: {detail}", source.name))?;
            if self.sources[..at].iter().any(|other| other.name == source.name) {
                return Err(format!("two sources are called `{}`", source.name));
            }
        }
        share("holdout.share", self.holdout.share)?;
        share("dedup.similarity", self.dedup.similarity)?;
        let Dedup { shingle_words, bands, rows, .. } = self.dedup;
        if !(1..=64).contains(&shingle_words)
            || bands == 0
            || rows == 0
            || bands.saturating_mul(rows) > 512
        {
            return Err("dedup: shingle_words from 1 to 64, bands × rows from 1 to 512".into());
        }
        Ok(())
    }
}

impl Source {
    fn check(&self, memory: Size) -> std::result::Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err(
                "a name has 1 to 64 letters, digits, - or _, as files are called after it".into()
            );
        }
        if self.split_documents.is_some() && self.format != Format::Text {
            return Err("split_documents is for format = \"text\" alone".into());
        }
        let most = memory.0 / 128;
        if self.max_document.0 < 256 || self.max_document.0 > most {
            return Err(format!(
                "max_document = {} bytes; from 256 to {most}, a 128th of the memory",
                self.max_document.0
            ));
        }
        self.holdout.map_or(Ok(()), |value| share("holdout", value))
    }
}

fn share(what: &str, value: f64) -> std::result::Result<(), String> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(format!("{what} = {value}; a share is from 0 to 1"))
    }
}
