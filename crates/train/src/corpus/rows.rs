//! Cleaned documents on disk: JSON lines, one set of files a split, under a manifest with their SHA-256.
//!
//! The key decision: a row says for itself where it came from and what it may be trusted with, so that a row that is copied
//! elsewhere keeps its source, licence and label.
//!
//! ```text
//! folder/corpus.json          format, recipe, inputs and files with their SHA-256
//! folder/counts.json          what was read, kept and dropped, per source and reason
//! folder/train-00000.jsonl    {"text", "sha256", "language", "source", "licence", "label"}
//! folder/holdout-SOURCE-00000.jsonl
//! folder/report.md, report.html, lengths.svg, drops.svg
//! ```

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use yushan_abi::label::Label;

use super::counts::Counts;
use super::recipe::Recipe;
use crate::digest::{Hashing, hex, of_file};
use crate::shard::TRAIN;
use crate::{Error, Result};

pub(super) const MANIFEST: &str = "corpus.json";
pub(super) const COUNTS: &str = "counts.json";
const FORMAT: u32 = 1;
/// Bytes after which a file of rows is closed.
const FILE_BYTES: u64 = 1 << 28;

/// One cleaned document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Clean text.
    pub text: String,
    /// SHA-256 of the text, hexadecimal.
    pub sha256: String,
    /// BCP 47, or `und`.
    pub language: String,
    /// The source's name.
    pub source: String,
    /// The source's licence.
    pub licence: String,
    /// Who could have written it.
    pub label: Label,
}

/// What all rows of a source end with.
pub(super) fn row_end(source: &super::Source) -> String {
    let tail = serde_json::json!({"source": source.name, "licence": source.licence, "label": source.label()});
    format!(",{}\n", &tail.to_string()[1..])
}

/// Appends a row; `end` is what [`row_end`] gave.
pub(super) fn write_row(
    text: &str,
    sha256: &[u8; 32],
    language: &str,
    end: &str,
    row: &mut Vec<u8>,
) {
    row.reserve(text.len() + text.len() / 16 + end.len() + 128);
    row.extend_from_slice(b"{\"text\":");
    // Writing to memory does not fail, and a text is always JSON.
    serde_json::to_writer(&mut *row, text).expect("a text as JSON");
    row.extend_from_slice(b",\"sha256\":\"");
    row.extend_from_slice(hex(sha256).as_bytes());
    row.extend_from_slice(b"\",\"language\":\"");
    row.extend_from_slice(language.as_bytes());
    row.push(b'"');
    row.extend_from_slice(end.as_bytes());
}

/// `corpus.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format's version: 1.
    pub format: u32,
    /// The corpus's name.
    pub name: String,
    /// The recipe, as it was written.
    pub recipe: String,
    /// Sources in the recipe's order.
    pub sources: Vec<String>,
    /// What was read.
    pub inputs: Vec<ReadFile>,
    /// What came out.
    pub splits: Vec<Split>,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    /// Its source.
    pub source: String,
    /// Its name without folder.
    pub name: String,
    /// As packed.
    pub bytes: u64,
    /// Of the packed file, hexadecimal.
    pub sha256: String,
}

/// The rows of one split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// [`TRAIN`] or `holdout-SOURCE`.
    pub name: String,
    /// In order.
    pub files: Vec<RowFile>,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowFile {
    /// Its name in the folder.
    pub name: String,
    /// Hexadecimal.
    pub sha256: String,
    /// Rows.
    pub documents: u64,
    /// UTF-8 bytes of their texts.
    pub bytes: u64,
}

/// The name of a source's hold-out.
pub fn holdout(source: &str) -> String {
    format!("holdout-{source}")
}

/// A folder of cleaned documents.
#[derive(Clone, Debug)]
pub struct Corpus {
    folder: PathBuf,
    manifest: Manifest,
}

impl Corpus {
    /// Opens a folder that [`super::clean`] made. Rows are checked as they are read.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(folder: &Path) -> Result<Corpus> {
        let path = folder.join(MANIFEST);
        let bytes = fs::read(&path).map_err(|source| Error::io("reading", &path, source))?;
        let bad = |detail: String| Error::bad(path.display().to_string(), detail);
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| {
            bad(format!("not a list of cleaned documents: {error}; build the corpus again"))
        })?;
        if manifest.format != FORMAT {
            return Err(bad(format!(
                "format {} is not {FORMAT}; build the corpus again",
                manifest.format
            )));
        }
        let mut files = manifest.splits.iter().flat_map(|split| &split.files);
        if let Some(file) = files.find(|file| Path::new(&file.name).components().count() != 1) {
            return Err(bad(format!("`{}` is not the name of a file in this folder", file.name)));
        }
        Ok(Corpus { folder: folder.to_path_buf(), manifest })
    }

    /// What `corpus.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was read, kept and dropped.
    ///
    /// # Errors
    /// If `counts.json` cannot be read.
    pub fn counts(&self) -> Result<Vec<Counts>> {
        let path = self.folder.join(COUNTS);
        let bytes = fs::read(&path).map_err(|source| Error::io("reading", &path, source))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::bad(path.display().to_string(), error.to_string()))
    }

    /// The rows of a split, in order.
    ///
    /// # Errors
    /// If there is no such split. The rows' own errors name their file.
    pub fn rows(&self, split: &str) -> Result<Rows> {
        let Some(found) = self.manifest.splits.iter().find(|one| one.name == split) else {
            let known: Vec<&str> =
                self.manifest.splits.iter().map(|one| one.name.as_str()).collect();
            let detail = format!("no split `{split}`; there are: {}", known.join(", "));
            return Err(Error::bad(self.folder.display().to_string(), detail));
        };
        let files: Vec<_> = found
            .files
            .iter()
            .map(|file| (self.folder.join(&file.name), file.sha256.clone()))
            .collect();
        Ok(Rows { files: files.into_iter(), open: None, line: Vec::new() })
    }

    /// Whether all files are as they were written.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self) -> Result<()> {
        for file in self.manifest.splits.iter().flat_map(|split| &split.files) {
            let path = self.folder.join(&file.name);
            differs(&path, &hex(&of_file(&path)?.0), &file.sha256)?;
        }
        Ok(())
    }
}

fn differs(path: &Path, found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let detail = format!(
        "its SHA-256 is {found}, {MANIFEST} says {expected}: the file was changed or damaged"
    );
    Err(Error::bad(
        path.display().to_string(),
        format!("{detail}; restore it, or build the corpus again"),
    ))
}

/// Rows of a split, one after the other.
pub struct Rows {
    files: std::vec::IntoIter<(PathBuf, String)>,
    open: Option<Open>,
    line: Vec<u8>,
}

struct Open {
    reader: BufReader<Hashing<File>>,
    path: PathBuf,
    sha256: String,
}

impl Rows {
    fn read(&mut self) -> Result<Option<Row>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some((path, sha256)) = self.files.next() else { return Ok(None) };
                let file =
                    File::open(&path).map_err(|source| Error::io("reading", &path, source))?;
                self.open = Some(Open { reader: BufReader::new(Hashing::new(file)), path, sha256 });
                continue;
            };
            self.line.clear();
            let read = open.reader.read_until(b'\n', &mut self.line);
            if read.map_err(|source| Error::io("reading", &open.path, source))? > 0 {
                let row = serde_json::from_slice(&self.line);
                return row.map(Some).map_err(|error| {
                    let detail =
                        format!("a row does not read ({error}): the file was changed or damaged");
                    Error::bad(
                        open.path.display().to_string(),
                        format!("{detail}; build the corpus again"),
                    )
                });
            }
            let Some(Open { reader, path, sha256 }) = self.open.take() else { continue };
            differs(&path, &hex(&reader.into_inner().done().0), &sha256)?;
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        let row = self.read().transpose();
        if matches!(row, Some(Err(_))) {
            (self.open, self.files) = (None, Vec::new().into_iter());
        }
        row
    }
}

/// Writes rows to their splits.
pub(super) struct Writer {
    folder: PathBuf,
    splits: Vec<Split>,
    open: Vec<Option<(BufWriter<Hashing<File>>, RowFile)>>,
}

impl Writer {
    /// Split 0 is for training, split 1 + i the hold-out of source i.
    pub(super) fn new(folder: &Path, recipe: &Recipe) -> Writer {
        let names = std::iter::once(TRAIN.to_string())
            .chain(recipe.sources.iter().map(|source| holdout(&source.name)));
        let splits: Vec<Split> = names.map(|name| Split { name, files: Vec::new() }).collect();
        let open = splits.iter().map(|_| None).collect();
        Writer { folder: folder.to_path_buf(), splits, open }
    }

    pub(super) fn push(&mut self, split: usize, row: &[u8], bytes: u64) -> Result<()> {
        let path;
        if let Some((_, file)) = &self.open[split] {
            path = self.folder.join(&file.name);
        } else {
            let Split { name, files } = &self.splits[split];
            let name = format!("{name}-{:05}.jsonl", files.len());
            path = self.folder.join(&name);
            let file = File::create(&path).map_err(|source| Error::io("writing", &path, source))?;
            let about = RowFile { name, sha256: String::new(), documents: 0, bytes: 0 };
            self.open[split] = Some((BufWriter::new(Hashing::new(file)), about));
        }
        let (writer, about) = self.open[split].as_mut().expect("opened above");
        writer.write_all(row).map_err(|source| Error::io("writing", &path, source))?;
        about.documents += 1;
        about.bytes += bytes;
        if writer.get_ref().length() >= FILE_BYTES { self.close(split) } else { Ok(()) }
    }

    fn close(&mut self, split: usize) -> Result<()> {
        let Some((writer, mut about)) = self.open[split].take() else { return Ok(()) };
        let failed = |source| Error::io("writing", self.folder.join(&about.name), source);
        let mut hashing = writer.into_inner().map_err(|error| failed(error.into_error()))?;
        hashing.inner().sync_all().map_err(failed)?;
        about.sha256 = hex(&hashing.done().0);
        self.splits[split].files.push(about);
        Ok(())
    }

    /// Closes all files and writes the manifest.
    pub(super) fn finish(mut self, recipe: &Recipe, inputs: Vec<ReadFile>) -> Result<Manifest> {
        for split in 0..self.open.len() {
            self.close(split)?;
        }
        let manifest = Manifest {
            format: FORMAT,
            name: recipe.name.clone(),
            recipe: recipe.text.clone(),
            sources: recipe.sources.iter().map(|source| source.name.clone()).collect(),
            inputs,
            splits: self.splits,
        };
        write_json(&self.folder.join(MANIFEST), &manifest)?;
        Ok(manifest)
    }
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("plain data");
    text.push('\n');
    fs::write(path, text).map_err(|source| Error::io("writing", path, source))
}
