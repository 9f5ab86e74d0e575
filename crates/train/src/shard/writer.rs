//! Writes token shards, in the order in which documents are pushed.
//!
//! The key decision: nothing is kept in memory; a file's index goes to a file of its own that is appended at the
//! end, and the SHA-256 is taken on the way. The folder is complete when `shards.json` is there: it is written last.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::{END, FORMAT, HEADER, MAGIC, MANIFEST, Manifest, ShardFile, Split};
use crate::digest::{Hashing, hex};
use crate::{Error, Result};

/// Tokens after which a file is closed.
const FILE_TOKENS: u64 = 1 << 26;

/// A folder of shards being written.
pub struct Writer {
    folder: PathBuf,
    manifest: Manifest,
    tokenizer: [u8; 32],
    file_tokens: u64,
    /// The open file of each split.
    open: Vec<Option<Open>>,
}

struct Open {
    name: String,
    ids: Hashing<BufWriter<File>>,
    index: BufWriter<File>,
    documents: u64,
    tokens: u64,
    bytes: u64,
}

impl Writer {
    /// In an existing folder. `tokenizer` is the SHA-256 of the tokenizer's file.
    pub fn create(
        folder: &Path,
        vocabulary: u32,
        tokenizer: [u8; 32],
        sources: &[String],
        splits: &[String],
    ) -> Writer {
        let named = |name: &String| Split { name: name.clone(), files: Vec::new() };
        let manifest = Manifest {
            format: FORMAT,
            vocabulary,
            tokenizer: hex(&tokenizer),
            sources: sources.to_vec(),
            splits: splits.iter().map(named).collect(),
        };
        let open = splits.iter().map(|_| None).collect();
        Writer { folder: folder.to_path_buf(), manifest, tokenizer, file_tokens: FILE_TOKENS, open }
    }

    /// Closes files after `tokens` tokens; a document is never divided.
    #[must_use]
    pub fn with_file_tokens(mut self, tokens: u64) -> Writer {
        self.file_tokens = tokens.max(1);
        self
    }

    /// Bytes per id.
    fn width(&self) -> usize {
        if self.manifest.vocabulary <= 1 << 16 { 2 } else { 4 }
    }

    /// Adds a document to split number `split`: its ids, the UTF-8 bytes of its text, the number of its source.
    ///
    /// # Errors
    /// If an id is not in the vocabulary, or the file cannot be written.
    pub fn push(&mut self, split: usize, ids: &[u32], bytes: u32, source: u32) -> Result<()> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.manifest.vocabulary) {
            let detail =
                format!("token {id} is not below the vocabulary of {}", self.manifest.vocabulary);
            return Err(Error::bad(
                "tokenizer",
                format!("{detail}: its file and its encoder differ"),
            ));
        }
        let width = self.width();
        if self.open[split].is_none() {
            self.open[split] = Some(self.begin(split)?);
        }
        let open = self.open[split].as_mut().expect("just opened");
        if let Err(error) = open.push(ids, width, bytes, source) {
            return Err(Error::io("writing", self.folder.join(&open.name), error));
        }
        if open.tokens >= self.file_tokens { self.close(split) } else { Ok(()) }
    }

    fn begin(&self, split: usize) -> Result<Open> {
        let split = &self.manifest.splits[split];
        let name = format!("{}-{:05}.tokens", split.name, split.files.len());
        let path = self.folder.join(&name);
        let failed = |source| Error::io("writing", &path, source);
        let mut ids = Hashing::new(BufWriter::new(File::create(&path).map_err(failed)?));
        let index = tempfile::tempfile_in(&self.folder).map_err(failed)?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend((self.width() as u32).to_le_bytes());
        header.extend(0u32.to_le_bytes());
        header.extend(u64::from(self.manifest.vocabulary).to_le_bytes());
        header.extend(self.tokenizer);
        header.resize(HEADER, 0);
        ids.write_all(&header).map_err(failed)?;
        Ok(Open { name, ids, index: BufWriter::new(index), documents: 0, tokens: 0, bytes: 0 })
    }

    fn close(&mut self, split: usize) -> Result<()> {
        let Some(open) = self.open[split].take() else { return Ok(()) };
        let path = self.folder.join(&open.name);
        let file = open.end().map_err(|source| Error::io("writing", path, source))?;
        self.manifest.splits[split].files.push(file);
        Ok(())
    }

    /// Closes all files and writes `shards.json`.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn finish(mut self) -> Result<Manifest> {
        for split in 0..self.open.len() {
            self.close(split)?;
        }
        let path = self.folder.join(MANIFEST);
        let mut text = serde_json::to_string_pretty(&self.manifest).expect("plain data");
        text.push('\n');
        fs::write(&path, text).map_err(|source| Error::io("writing", path, source))?;
        Ok(self.manifest)
    }
}

impl Open {
    fn push(&mut self, ids: &[u32], width: usize, bytes: u32, source: u32) -> io::Result<()> {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&self.tokens.to_le_bytes());
        record[8..12].copy_from_slice(&bytes.to_le_bytes());
        record[12..].copy_from_slice(&source.to_le_bytes());
        self.index.write_all(&record)?;
        let mut piece = Vec::with_capacity(ids.len() * width);
        match width {
            2 => piece.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            _ => piece.extend(ids.iter().flat_map(|&id| id.to_le_bytes())),
        }
        self.ids.write_all(&piece)?;
        self.documents += 1;
        self.tokens += ids.len() as u64;
        self.bytes += u64::from(bytes);
        Ok(())
    }

    fn end(mut self) -> io::Result<ShardFile> {
        let rest = self.ids.length().next_multiple_of(8) - self.ids.length();
        self.ids.write_all(&[0; 8][..rest as usize])?;
        let mut index = self.index.into_inner().map_err(|error| error.into_error())?;
        index.rewind()?;
        io::copy(&mut index, &mut self.ids)?;
        self.ids.write_all(&self.tokens.to_le_bytes())?;
        self.ids.write_all(&self.documents.to_le_bytes())?;
        self.ids.write_all(END)?;
        self.ids.flush()?;
        self.ids.inner().get_ref().sync_all()?;
        let (sha256, _) = self.ids.done();
        Ok(ShardFile {
            name: self.name,
            sha256: hex(&sha256),
            documents: self.documents,
            tokens: self.tokens,
            bytes: self.bytes,
        })
    }
}
