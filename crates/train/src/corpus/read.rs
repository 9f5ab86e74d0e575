//! All sources as one stream of batches, read on a thread of its own.
//!
//! The key decision: reading and unpacking are one stream in the recipe's order, whatever the number of threads; all
//! else about a document happens where batches are worked on. A batch holds raw documents of one file.

use std::io::{self, BufReader};

use super::columns::Column;
use super::input::{Input, Unpacked};
use super::jsonl;
use super::recipe::{Format, Recipe, Source};
use super::split::{Border, Splitter, passages};
use crate::digest::{hex, of_file};
use crate::{Error, Result};

/// Raw documents of one file.
#[derive(Default)]
pub(super) struct Batch {
    /// The number of its input.
    pub(super) input: usize,
    /// Their bytes, one after the other.
    data: Vec<u8>,
    /// For each where it ends in `data`, and what is known of it.
    items: Vec<(usize, Known)>,
    /// Unpacked bytes read for this batch.
    pub(super) unpacked: u64,
    /// Bytes of the packed file read so far.
    pub(super) packed: u64,
}

/// What is known of a raw document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Its text; whether it ends inside a line.
    Text { inside_line: bool },
    /// A line of JSON.
    Json,
    /// The beginning of a line that is too long, and how long it is.
    TooLong(u64),
    /// A row without text.
    NoText,
}

impl Batch {
    /// The raw documents.
    pub(super) fn items(&self) -> Vec<(&[u8], Known)> {
        let mut start = 0;
        let item = |&(end, known): &(usize, Known)| {
            (&self.data[std::mem::replace(&mut start, end)..end], known)
        };
        self.items.iter().map(item).collect()
    }
}

/// What the reading thread sends.
pub(super) enum Message {
    /// Documents.
    Batch(Batch),
    /// A file is over: its number and the SHA-256 of the packed file.
    End(usize, String),
}

/// Takes messages; false if nobody wants more.
pub(super) type Send<'a> = &'a mut dyn FnMut(Message) -> bool;

/// Bytes of a batch.
fn batch_bytes(recipe: &Recipe) -> usize {
    (recipe.memory.bytes() / 32).clamp(64 << 10, 4 << 20)
}

/// Bytes of memory that an unpacker or a page of Parquet may take.
fn unpacking(recipe: &Recipe) -> u64 {
    recipe.memory.0 / 4
}

/// Reads all files.
///
/// # Errors
/// If one cannot be read, is damaged or cut off, or has no such column.
pub(super) fn read_all(recipe: &Recipe, inputs: &[Input], send: Send<'_>) -> Result<()> {
    for (number, input) in inputs.iter().enumerate() {
        let source = &recipe.sources[input.source];
        let mut reading = Reading {
            number,
            most: batch_bytes(recipe),
            batch: Batch::default(),
            send: &mut *send,
        };
        reading.batch.input = number;
        let sha256 = match source.format {
            Format::Text => reading.text(input, source, unpacking(recipe))?,
            Format::Jsonl => reading.lines(input, source, unpacking(recipe))?,
            Format::Parquet => reading.column(input, source, unpacking(recipe))?,
        };
        let Some(sha256) = sha256 else { return Ok(()) };
        if !(reading.flush(input.bytes) && send(Message::End(number, sha256))) {
            return Ok(());
        }
    }
    Ok(())
}

/// One file being read.
struct Reading<'a> {
    number: usize,
    most: usize,
    batch: Batch,
    send: Send<'a>,
}

impl Reading<'_> {
    /// Sends the batch if it is full; false if nobody wants it.
    fn ends(&mut self, known: Known, packed: impl FnOnce() -> u64) -> bool {
        self.batch.items.push((self.batch.data.len(), known));
        // An item takes 24 bytes, and a document may be empty.
        let is_full = self.batch.data.len() + 24 * self.batch.items.len() >= self.most;
        !is_full || self.flush(packed())
    }

    fn flush(&mut self, packed: u64) -> bool {
        let next = Batch { input: self.number, ..Batch::default() };
        let mut batch = std::mem::replace(&mut self.batch, next);
        batch.packed = packed;
        (self.send)(Message::Batch(batch))
    }

    fn text(&mut self, input: &Input, source: &Source, memory: u64) -> Result<Option<String>> {
        let unpacked = BufReader::with_capacity(64 << 10, Unpacked::open(&input.path, memory)?);
        let border = Border::of(source.split_documents.as_deref());
        let mut splitter = Splitter::new(unpacked, border, source.max_document.bytes());
        loop {
            let (before, cuts) = (self.batch.data.len(), splitter.inside_lines);
            match splitter.next(&mut self.batch.data) {
                Ok(true) => {}
                Ok(false) => return finish(splitter.into_reader(), input).map(Some),
                Err(error) => return Err(failed(splitter.into_reader().get_ref(), input, error)),
            }
            self.batch.unpacked += (self.batch.data.len() - before) as u64;
            let known = Known::Text { inside_line: splitter.inside_lines > cuts };
            if !self.ends(known, || splitter.reader().get_mut().packed()) {
                return Ok(None);
            }
        }
    }

    fn lines(&mut self, input: &Input, source: &Source, memory: u64) -> Result<Option<String>> {
        let mut reader = BufReader::with_capacity(64 << 10, Unpacked::open(&input.path, memory)?);
        // A line holds a text of several passages and other fields, but a batch at most.
        let most = self.most.min((8 * source.max_document.bytes()).max(1 << 20));
        let mut line = Vec::new();
        loop {
            let read = match jsonl::next_line(&mut reader, &mut line, most) {
                Ok(0) => return finish(reader, input).map(Some),
                Ok(read) => read as u64,
                Err(error) => return Err(failed(reader.get_ref(), input, error)),
            };
            self.batch.unpacked += read;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let known = if line.len() > most { Known::TooLong(read) } else { Known::Json };
            let kept = if line.len() > most { 1000 } else { line.len() };
            self.batch.data.extend_from_slice(&line[..kept.min(line.len())]);
            if !self.ends(known, || reader.get_mut().packed()) {
                return Ok(None);
            }
        }
    }

    fn column(&mut self, input: &Input, source: &Source, memory: u64) -> Result<Option<String>> {
        let mut column = Column::open(&input.path, &source.text_field, memory)?;
        let mut texts = Vec::new();
        while column.next(&mut texts)? {
            for text in texts.drain(..) {
                let Some(text) = text else {
                    if !self.ends(Known::NoText, || 0) {
                        return Ok(None);
                    }
                    continue;
                };
                self.batch.unpacked += text.len() as u64;
                let mut wanted = true;
                passages(text.data(), source.max_document.bytes(), |passage, inside_line| {
                    if wanted {
                        self.batch.data.extend_from_slice(passage);
                        wanted = self.ends(Known::Text { inside_line }, || 0);
                    }
                });
                if !wanted {
                    return Ok(None);
                }
            }
        }
        Ok(Some(hex(&of_file(&input.path)?.0)))
    }
}

fn finish(reader: BufReader<Unpacked>, input: &Input) -> Result<String> {
    let (sha256, _) =
        reader.into_inner().finish().map_err(|source| Error::io("reading", &input.path, source))?;
    Ok(hex(&sha256))
}

fn failed(unpacked: &Unpacked, input: &Input, error: io::Error) -> Error {
    Error::bad(input.path.display().to_string(), unpacked.explained(&error))
}
