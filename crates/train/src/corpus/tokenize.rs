//! The second stage: a folder of cleaned documents and an encoder become token shards.
//!
//! The key decision: the encoder is a trait of three methods, so that a tokenizer can be trained on the cleaned documents
//! between the stages. Documents are encoded by all threads and written in order.

use std::fs::{self, File};
use std::path::Path;

use rayon::prelude::*;

use super::build::Progress;
use super::rows::{Corpus, Row};
use crate::shard::{self, Manifest, Writer};
use crate::{Error, Result};

/// Text of documents encoded at once.
const BATCH: usize = 4 << 20;

/// A tokenizer, as shards need it.
pub trait Encode: Sync {
    /// Ids are below this.
    fn vocabulary(&self) -> u32;
    /// SHA-256 of the tokenizer's file.
    fn sha256(&self) -> [u8; 32];
    /// Appends the ids of a text to `out`, without any that stand for its beginning or end.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<()>;
}

/// Makes a folder of token shards, one set of files for each split that has documents, and one for training in any case.
///
/// # Errors
/// If a row is damaged, a text cannot be encoded, or `out` exists.
pub fn tokenize(
    corpus: &Corpus,
    encoder: &dyn Encode,
    out: &Path,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Manifest> {
    if out.exists() {
        let detail = "the folder exists; choose another one, or delete it";
        return Err(Error::bad(out.display().to_string(), detail));
    }
    let parent =
        out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|source| Error::io("making", parent, source))?;
    let partial = tempfile::Builder::new().prefix(".shards-").tempdir_in(parent);
    let partial = partial.map_err(|source| Error::io("making a folder in", parent, source))?;
    let about = corpus.manifest();
    let is_wanted =
        |split: &&super::rows::Split| split.name == shard::TRAIN || !split.files.is_empty();
    let splits: Vec<String> =
        about.splits.iter().filter(is_wanted).map(|split| split.name.clone()).collect();
    let mut writer = Writer::create(
        partial.path(),
        encoder.vocabulary(),
        encoder.sha256(),
        &about.sources,
        &splits,
    );
    let files = about.splits.iter().flat_map(|split| &split.files);
    let total = files.map(|file| file.documents).sum();
    let mut stage = Stage {
        encoder,
        sources: &about.sources,
        progress: Progress { stage: "tokenizing", total, ..Progress::default() },
    };
    for (number, split) in splits.iter().enumerate() {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for row in corpus.rows(split)? {
            let row = row?;
            bytes += row.text.len() + 256;
            batch.push(row);
            if bytes >= BATCH {
                stage.write(number, &batch, &mut writer)?;
                progress(&stage.progress);
                (bytes, batch) = (0, Vec::new());
            }
        }
        stage.write(number, &batch, &mut writer)?;
        progress(&stage.progress);
    }
    let manifest = writer.finish()?;
    let partial = partial.keep();
    let failed = |source| Error::io("renaming to", out, source);
    fs::rename(&partial, out).map_err(failed)?;
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(manifest)
}

struct Stage<'a> {
    encoder: &'a dyn Encode,
    sources: &'a [String],
    progress: Progress,
}

impl Stage<'_> {
    fn write(&mut self, split: usize, batch: &[Row], writer: &mut Writer) -> Result<()> {
        let encoded: Vec<Result<Vec<u32>>> = batch
            .par_iter()
            .map(|row| {
                let mut ids = Vec::new();
                self.encoder.encode(&row.text, &mut ids).map(|()| ids)
            })
            .collect();
        for (row, ids) in batch.iter().zip(encoded) {
            let source = self.sources.iter().position(|name| *name == row.source);
            let source = source
                .ok_or_else(|| Error::bad("row", format!("unknown source `{}`", row.source)))?;
            writer.push(split, &ids?, row.text.len() as u32, source as u32)?;
            self.progress.text += row.text.len() as u64;
        }
        self.progress.done += batch.len() as u64;
        self.progress.documents = self.progress.done;
        self.progress.kept = self.progress.done;
        Ok(())
    }
}
