//! Token shards: ids of documents in mapped files, one set of files for training and one per hold-out.
//!
//! The key decision: a document is the unit; its ids lie together, and an index at the file's end says where
//! it begins, how many UTF-8 bytes of text it was and which source it came from. So data order can begin rows at
//! documents, and bits per byte need nothing but the shards. Ids are what the encoder gave; a token for
//! the beginning or the end of a document is the business of whoever packs rows.
//!
//! ```text
//! folder/shards.json             format, vocabulary, tokenizer, sources, per split its files with their SHA-256
//! folder/SPLIT-00000.tokens      64 bytes: "YUSHARD1", u32 bytes per id (2 or 4), u32 0, u64 vocabulary,
//!                                          32 bytes SHA-256 of the tokenizer, u64 0
//!                                ids, then zeros up to a multiple of 8
//!                                16 bytes a document: u64 first token, u32 UTF-8 bytes, u32 source
//!                                24 bytes: u64 tokens, u64 documents, "YUSHARDE"
//! ```
//! All numbers are little-endian.

mod writer;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use yushan_model::mmap::Mapping;

pub use writer::Writer;

use crate::digest::{hex, of_file, sha256};
use crate::{Error, Result};

/// The split that is trained on; a hold-out is `holdout-SOURCE`.
pub const TRAIN: &str = "train";

pub(crate) const MANIFEST: &str = "shards.json";
const HEADER: usize = 64;
const RECORD: usize = 16;
const FOOTER: usize = 24;
const MAGIC: &[u8; 8] = b"YUSHARD1";
const END: &[u8; 8] = b"YUSHARDE";
const FORMAT: u32 = 1;

/// Documents as token ids: what data order and evaluation read.
pub trait Documents: Sync {
    /// How many documents.
    fn count(&self) -> usize;
    /// How many tokens document `document` has. Zero-based; so below.
    fn length(&self, document: usize) -> usize;
    /// Appends its ids to `out`.
    ///
    /// # Errors
    /// If its file turns out damaged.
    fn tokens_of(&self, document: usize, out: &mut Vec<u32>) -> Result<()>;
    /// The name of its source.
    fn source(&self, document: usize) -> &str;
    /// UTF-8 bytes of its text.
    fn bytes(&self, document: usize) -> u64;
    /// Tokens of all documents.
    fn tokens(&self) -> u64;
}

/// When a file's SHA-256 is compared with the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// All files, before anything is read.
    Now,
    /// Each file when its first document is read.
    Lazily,
}

/// `shards.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format's version: 1.
    pub format: u32,
    /// Ids are below this.
    pub vocabulary: u32,
    /// SHA-256 of the tokenizer, hexadecimal.
    pub tokenizer: String,
    /// Names of the sources; a document's source is an index.
    pub sources: Vec<String>,
    /// The sets of files.
    pub splits: Vec<Split>,
}

/// One set of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// [`TRAIN`] or `holdout-SOURCE`.
    pub name: String,
    /// In order.
    pub files: Vec<ShardFile>,
}

impl Split {
    /// Documents, tokens and UTF-8 bytes of text in all files.
    pub fn totals(&self) -> (u64, u64, u64) {
        self.files.iter().fold((0, 0, 0), |sum, file| {
            (sum.0 + file.documents, sum.1 + file.tokens, sum.2 + file.bytes)
        })
    }
}

/// One file of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardFile {
    /// Its name in the folder.
    pub name: String,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Documents in it.
    pub documents: u64,
    /// Tokens in it.
    pub tokens: u64,
    /// UTF-8 bytes of text.
    pub bytes: u64,
}

impl Manifest {
    /// Reads `shards.json` of a folder, and its SHA-256, which stands for all the data.
    ///
    /// # Errors
    /// If it is absent or not such a file.
    pub fn read(folder: &Path) -> Result<(Manifest, [u8; 32])> {
        let path = folder.join(MANIFEST);
        let bytes = std::fs::read(&path).map_err(|source| Error::io("reading", &path, source))?;
        let bad = |detail: String| Error::bad(path.display().to_string(), detail);
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| {
            bad(format!("not a list of token shards: {error}; build the shards again"))
        })?;
        if manifest.format != FORMAT {
            let detail =
                format!("format {} is not {FORMAT}, the one this program reads", manifest.format);
            return Err(bad(format!("{detail}; build the shards again")));
        }
        if let Some(file) =
            manifest.splits.iter().flat_map(|split| &split.files).find(|file| !is_plain(&file.name))
        {
            return Err(bad(format!("`{}` is not the name of a file in this folder", file.name)));
        }
        Ok((manifest, sha256(&bytes)))
    }
}

/// A name that stays in its folder.
fn is_plain(name: &str) -> bool {
    Path::new(name).components().count() == 1 && name.ends_with(".tokens")
}

/// One split, opened.
pub struct Shards {
    manifest: Manifest,
    hash: [u8; 32],
    files: Vec<Open>,
    /// `(n_files + 1)` documents before each file.
    before: Vec<usize>,
    tokens: u64,
}

struct Open {
    path: PathBuf,
    shard: Shard,
    expected: String,
    checked: OnceLock<std::result::Result<(), String>>,
}

impl Shards {
    /// Opens the split `split` of a folder that [`Writer`] made.
    ///
    /// # Errors
    /// If there is no such split, or a file is absent, damaged or of another tokenizer; the file is named, and what differs.
    pub fn open(folder: &Path, split: &str, check: Check) -> Result<Shards> {
        let (manifest, hash) = Manifest::read(folder)?;
        let Some(listed) = manifest.splits.iter().find(|one| one.name == split) else {
            let known: Vec<&str> = manifest.splits.iter().map(|one| one.name.as_str()).collect();
            let detail = format!("no split `{split}`; there are: {}", known.join(", "));
            return Err(Error::bad(folder.join(MANIFEST).display().to_string(), detail));
        };
        let (mut files, mut before) = (Vec::new(), vec![0]);
        for file in &listed.files {
            let path = folder.join(&file.name);
            let shard = Shard::open(&path)?;
            shard.agrees(file, &manifest).map_err(|detail| damaged(&path, detail))?;
            before.push(before[before.len() - 1] + shard.documents);
            let open =
                Open { path, shard, expected: file.sha256.clone(), checked: OnceLock::new() };
            if check == Check::Now {
                open.check()?;
            }
            files.push(open);
        }
        let tokens = files.iter().map(|open| open.shard.tokens as u64).sum();
        Ok(Shards { manifest, hash, files, before, tokens })
    }

    /// What `shards.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of `shards.json`, which holds the hashes of all files: the data's name in reports.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.manifest.vocabulary as usize
    }

    /// The file of a document, and its number in there.
    ///
    /// # Panics
    /// If there are not so many documents.
    fn place(&self, document: usize) -> (&Open, usize) {
        assert!(document < self.count(), "document {document} of {}", self.count());
        let file = self.before.partition_point(|&before| before <= document) - 1;
        (&self.files[file], document - self.before[file])
    }
}

impl Documents for Shards {
    fn count(&self) -> usize {
        self.before[self.before.len() - 1]
    }

    fn length(&self, document: usize) -> usize {
        let (open, inside) = self.place(document);
        open.shard.range(inside).map_or(0, |range| range.len())
    }

    fn tokens_of(&self, document: usize, out: &mut Vec<u32>) -> Result<()> {
        let (open, inside) = self.place(document);
        open.check()?;
        open.shard.tokens_of(inside, out).map_err(|detail| damaged(&open.path, detail))
    }

    fn source(&self, document: usize) -> &str {
        let (open, inside) = self.place(document);
        let source = open.shard.record(inside).source as usize;
        self.manifest.sources.get(source).map_or("", String::as_str)
    }

    fn bytes(&self, document: usize) -> u64 {
        let (open, inside) = self.place(document);
        open.shard.record(inside).bytes.into()
    }

    fn tokens(&self) -> u64 {
        self.tokens
    }
}

impl crate::order::Documents for Shards {
    fn count(&self) -> usize {
        Documents::count(self)
    }

    fn length(&self, document: usize) -> usize {
        Documents::length(self, document)
    }

    fn tokens_of(&self, document: usize, out: &mut Vec<u32>) -> Result<()> {
        Documents::tokens_of(self, document, out)
    }
}

impl Open {
    fn check(&self) -> Result<()> {
        let checked = self.checked.get_or_init(|| {
            let (hash, _) = of_file(&self.path).map_err(|error| error.to_string())?;
            if hex(&hash) != self.expected {
                return Err(format!(
                    "its SHA-256 is {}, {MANIFEST} says {}",
                    hex(&hash),
                    self.expected
                ));
            }
            self.shard.is_sound()
        });
        checked.clone().map_err(|detail| damaged(&self.path, detail))
    }
}

fn damaged(path: &Path, detail: String) -> Error {
    let advice = "the file was changed or damaged: restore it, or build the shards again";
    Error::bad(format!("shard {}", path.display()), format!("{detail}; {advice}"))
}

/// One file. Its parts have been measured, their contents not been looked at.
pub struct Shard {
    map: Mapping,
    width: usize,
    vocabulary: u64,
    tokenizer: [u8; 32],
    tokens: usize,
    documents: usize,
}

struct Record {
    start: u64,
    bytes: u32,
    source: u32,
}

impl Shard {
    /// Maps a file.
    ///
    /// # Errors
    /// If it is not a token shard, or shorter or longer than it says.
    pub fn open(path: &Path) -> Result<Shard> {
        Shard::measured(Mapping::open(path)?).map_err(|detail| damaged(path, detail))
    }

    /// A shard in memory; every document is looked at.
    ///
    /// # Errors
    /// As [`Shard::open`], and if the index or an id is out of bounds.
    pub fn parse(bytes: Vec<u8>) -> Result<Shard> {
        let bad = |detail: String| damaged(Path::new("in memory"), detail);
        let shard = Shard::measured(Mapping::from_bytes(bytes)).map_err(bad)?;
        shard.is_sound().map_err(bad)?;
        Ok(shard)
    }

    fn measured(map: Mapping) -> std::result::Result<Shard, String> {
        let length = map.len();
        if length < HEADER + FOOTER {
            return Err(format!("{length} bytes are too few for a token shard"));
        }
        let footer = &map[length - FOOTER..];
        if map[..8] != *MAGIC || footer[16..] != *END {
            return Err(
                "no token shard: it does not begin with YUSHARD1 and end with YUSHARDE".into()
            );
        }
        let (width, vocabulary) = (u32_at(&map, 8) as usize, u64_at(&map, 16));
        if width != 2 && width != 4 {
            return Err(format!("ids of {width} bytes; 2 or 4 expected"));
        }
        let (tokens, documents) = (u64_at(footer, 0), u64_at(footer, 8));
        let expected = size(tokens, documents, width);
        if expected != Some(length as u64) {
            let said =
                expected.map_or("more than fit".to_string(), |bytes| format!("{bytes} bytes"));
            return Err(format!(
                "it says {tokens} tokens in {documents} documents, which take {said}, and has {length} bytes"
            ));
        }
        let tokenizer = map[24..56].try_into().expect("32 bytes");
        Ok(Shard {
            width,
            vocabulary,
            tokenizer,
            tokens: tokens as usize,
            documents: documents as usize,
            map,
        })
    }

    /// Documents in it.
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// Appends the ids of document `document` to `out`.
    ///
    /// # Errors
    /// What is wrong with the index.
    pub fn tokens_of(
        &self,
        document: usize,
        out: &mut Vec<u32>,
    ) -> std::result::Result<(), String> {
        let range = self.range(document)?;
        let ids = &self.map[HEADER + range.start * self.width..HEADER + range.end * self.width];
        match self.width {
            2 => out.extend(
                ids.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]]))),
            ),
            _ => out.extend(
                ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])),
            ),
        }
        Ok(())
    }

    fn record(&self, document: usize) -> Record {
        let at = HEADER + padded(self.tokens * self.width) + document * RECORD;
        Record {
            start: u64_at(&self.map, at),
            bytes: u32_at(&self.map, at + 8),
            source: u32_at(&self.map, at + 12),
        }
    }

    /// The tokens of a document.
    fn range(&self, document: usize) -> std::result::Result<std::ops::Range<usize>, String> {
        let start = self.record(document).start;
        let end = if document + 1 < self.documents {
            self.record(document + 1).start
        } else {
            self.tokens as u64
        };
        if start > end || end > self.tokens as u64 {
            return Err(format!(
                "document {document} has tokens {start} to {end} of {}",
                self.tokens
            ));
        }
        Ok(start as usize..end as usize)
    }

    /// Whether index and ids are within bounds.
    fn is_sound(&self) -> std::result::Result<(), String> {
        if self.documents > 0 && self.record(0).start != 0 || self.documents == 0 && self.tokens > 0
        {
            return Err("tokens before the first document".into());
        }
        let (limit, mut ids) = (self.vocabulary, Vec::new());
        for document in 0..self.documents {
            ids.clear();
            self.tokens_of(document, &mut ids)?;
            if let Some(id) = ids.iter().find(|&&id| u64::from(id) >= limit) {
                return Err(format!(
                    "document {document} has token {id}; the vocabulary has {limit}"
                ));
            }
        }
        Ok(())
    }

    /// Whether the file is the one that the manifest lists.
    fn agrees(&self, file: &ShardFile, manifest: &Manifest) -> std::result::Result<(), String> {
        for (what, found, listed) in [
            ("documents", self.documents.to_string(), file.documents.to_string()),
            ("tokens", self.tokens.to_string(), file.tokens.to_string()),
            ("as vocabulary", self.vocabulary.to_string(), manifest.vocabulary.to_string()),
            ("as tokenizer", hex(&self.tokenizer), manifest.tokenizer.clone()),
        ] {
            if found != listed {
                return Err(format!("it has {found} {what}, {MANIFEST} says {listed}"));
            }
        }
        Ok(())
    }
}

/// Bytes of a file, if they can be counted.
fn size(tokens: u64, documents: u64, width: usize) -> Option<u64> {
    let ids = tokens.checked_mul(width as u64)?.checked_next_multiple_of(8)?;
    documents.checked_mul(RECORD as u64)?.checked_add(ids)?.checked_add((HEADER + FOOTER) as u64)
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
