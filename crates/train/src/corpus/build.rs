//! The first stage: a recipe's sources become a folder of cleaned documents.
//!
//! The key decision: three passes, each a stream. Documents are read, cleaned and judged, and what is kept is staged on disk with
//! its hashes; duplicates are found by sorting the hashes; the staged rows are copied to their splits without the duplicates. What is
//! held in memory is bounded by the recipe's `memory`, and the output is bytes that depend on input and recipe alone. The folder
//! appears under its name when it is complete; what a killed build leaves is deleted by the next one.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use rayon::prelude::*;

use super::counts::Counts;
use super::duplicates::{Duplicates, Found, Kind};
use super::input::{Input, inputs};
use super::jsonl::fields_of;
use super::read::{Batch, Known, Message, read_all};
use super::reason::Reason;
use super::recipe::{Format, Recipe};
use super::report;
use super::rows::{COUNTS, Corpus, ReadFile, Row, Writer, write_json};
use super::work::{Asked, Done, Fate, Worker, worker_bytes};
use crate::{Error, Result};

/// How far a build is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done: `cleaning`, `comparing`, `writing`, `tokenizing`.
    pub stage: &'static str,
    /// Of `total`: bytes of packed files, or documents.
    pub done: u64,
    /// When `done` is this, the stage is over.
    pub total: u64,
    /// Bytes of raw text so far.
    pub text: u64,
    /// Documents so far.
    pub documents: u64,
    /// Of these kept so far.
    pub kept: u64,
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The folder of cleaned documents.
    pub corpus: Corpus,
    /// What was read, kept and dropped.
    pub counts: Vec<Counts>,
    /// Bytes of raw text, unpacked.
    pub text: u64,
    /// Whether the folder had been built from the same recipe and inputs before, and nothing was done.
    pub was_there: bool,
}

/// Makes a folder of cleaned documents. `threads`: 0 for all cores; it changes nothing but the time.
///
/// # Errors
/// If the recipe's files are absent, damaged or hold no documents, or `out` was made from something else.
pub fn clean(
    recipe: &Recipe,
    out: &Path,
    threads: usize,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Built> {
    let inputs = inputs(recipe)?;
    if out.exists() {
        return existing(recipe, &inputs, out);
    }
    let place = Place::prepare(out)?;
    let scratch = place.partial.join("scratch");
    fs::create_dir(&scratch).map_err(|source| Error::io("making", &scratch, source))?;
    let mut build = Build::new(recipe, &inputs, &scratch, progress)?;
    let read = build.read(threads)?;
    let text = build.progress.text;
    let found =
        build.duplicates.found().map_err(|source| Error::io("sorting in", &scratch, source))?;
    let mut writer = Writer::new(&place.partial, recipe);
    let mut last = Last {
        staged: build.staged,
        counts: build.counts,
        progress: build.progress,
        report: build.report,
    };
    last.write(found, build.number, &mut writer, &scratch)?;
    let counts = last.counts;
    if counts.iter().all(|one| one.train.documents + one.holdout.documents == 0) {
        return Err(Error::bad(format!("corpus `{}`", recipe.name), nothing_left(&counts)));
    }
    let manifest = writer.finish(recipe, read)?;
    write_json(&place.partial.join(COUNTS), &counts)?;
    report::write(&place.partial, recipe, &manifest, &counts)?;
    fs::remove_dir_all(&scratch).map_err(|source| Error::io("removing", &scratch, source))?;
    place.publish(out)?;
    Ok(Built { corpus: Corpus::open(out)?, counts, text, was_there: false })
}

/// What is in the way of a second build: the same, or something else.
fn existing(recipe: &Recipe, inputs: &[Input], out: &Path) -> Result<Built> {
    let other = |what: &str| {
        let advice = "choose another folder, or delete this one";
        Error::bad(out.display().to_string(), format!("the folder exists, and {what}; {advice}"))
    };
    let corpus = Corpus::open(out).map_err(|error| other(&format!("is no corpus ({error})")))?;
    let manifest = corpus.manifest();
    if manifest.recipe != recipe.text {
        return Err(other("was built from another recipe"));
    }
    let same = manifest.inputs.len() == inputs.len()
        && manifest
            .inputs
            .iter()
            .zip(inputs)
            .all(|(read, now)| (&read.name, read.bytes) == (&now.name(), now.bytes));
    if !same {
        return Err(other("was built from other files"));
    }
    corpus.check()?;
    let counts = corpus.counts()?;
    let text = counts.iter().map(|one| one.read.bytes).sum();
    Ok(Built { corpus, counts, text, was_there: true })
}

/// Why nothing is left, in one sentence.
fn nothing_left(counts: &[Counts]) -> String {
    let read: u64 = counts.iter().map(|one| one.read.documents).sum();
    if read == 0 {
        return "its files hold no documents; check `path` and `split_documents` in the recipe"
            .into();
    }
    let dropped = counts.iter().flat_map(|one| &one.dropped);
    let most = dropped.max_by_key(|(_, count)| count.documents);
    let why = most.map_or(String::new(), |(reason, count)| {
        format!(", {} as `{}`", count.documents, reason.name())
    });
    format!("all {read} documents were dropped{why}; loosen [filter] in the recipe")
}

/// Where a folder is made before it has its name.
struct Place {
    partial: PathBuf,
    parent: PathBuf,
    /// Locked while the build runs.
    _lock: File,
}

impl Place {
    fn prepare(out: &Path) -> Result<Place> {
        let Some(name) = out.file_name() else {
            return Err(Error::bad(out.display().to_string(), "no name for a folder"));
        };
        let parent = out
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
            .to_path_buf();
        fs::create_dir_all(&parent).map_err(|source| Error::io("making", &parent, source))?;
        let named = |end: &str| parent.join(format!(".{}.{end}", name.to_string_lossy()));
        let (lock, partial) = (named("lock"), named("partial"));
        let file = File::create(&lock).map_err(|source| Error::io("writing", &lock, source))?;
        if file.try_lock().is_err() {
            return Err(Error::bad(
                out.display().to_string(),
                "another build of this folder is running; wait for it",
            ));
        }
        if partial.exists() {
            fs::remove_dir_all(&partial)
                .map_err(|source| Error::io("removing", &partial, source))?;
        }
        fs::create_dir(&partial).map_err(|source| Error::io("making", &partial, source))?;
        Ok(Place { partial, parent, _lock: file })
    }

    /// Gives the folder its name, durably.
    fn publish(&self, out: &Path) -> Result<()> {
        let sync = |path: &Path| {
            File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(|source| Error::io("syncing", path, source))
        };
        for entry in fs::read_dir(&self.partial)
            .map_err(|source| Error::io("reading", &self.partial, source))?
        {
            sync(&entry.map_err(|source| Error::io("reading", &self.partial, source))?.path())?;
        }
        sync(&self.partial)?;
        fs::rename(&self.partial, out).map_err(|source| Error::io("renaming to", out, source))?;
        sync(&self.parent)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing is there after a success; what cannot be removed is removed by the next build.
        let _ = fs::remove_dir_all(&self.partial);
        let _ = fs::remove_file(self.partial.with_extension("lock"));
    }
}

/// The first pass.
struct Build<'a> {
    recipe: &'a Recipe,
    inputs: &'a [Input],
    staged: BufWriter<File>,
    duplicates: Duplicates,
    counts: Vec<Counts>,
    /// Documents staged.
    number: u64,
    /// Of the file being read: rows without text, others, and the first of the former.
    without: (u64, u64, Option<Vec<u8>>),
    progress: Progress,
    report: &'a mut dyn FnMut(&Progress),
}

impl<'a> Build<'a> {
    fn new(
        recipe: &'a Recipe,
        inputs: &'a [Input],
        scratch: &Path,
        report: &'a mut dyn FnMut(&Progress),
    ) -> Result<Build<'a>> {
        let failed = |source| Error::io("writing in", scratch, source);
        let counts = recipe.sources.iter().map(|source| Counts {
            source: source.name.clone(),
            licence: source.licence.clone(),
            ..Counts::default()
        });
        let total = inputs.iter().map(|input| input.bytes).sum();
        Ok(Build {
            recipe,
            inputs,
            staged: BufWriter::with_capacity(
                1 << 18,
                tempfile::tempfile_in(scratch).map_err(failed)?,
            ),
            duplicates: Duplicates::new(&recipe.dedup, scratch, recipe.memory.bytes())
                .map_err(failed)?,
            counts: counts.collect(),
            number: 0,
            without: (0, 0, None),
            progress: Progress { stage: "cleaning", total, ..Progress::default() },
            report,
        })
    }

    fn read(&mut self, threads: usize) -> Result<Vec<ReadFile>> {
        let (recipe, inputs) = (self.recipe, self.inputs);
        let most =
            recipe.sources.iter().map(|source| source.max_document.bytes()).max().unwrap_or(0);
        let fit = (recipe.memory.bytes() / 4 / worker_bytes(most).max(1)).max(1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores } else { threads }.min(fit);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|error| Error::bad("threads", error.to_string()))?;
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            let reader = scope.spawn(move || {
                read_all(recipe, inputs, &mut |message| sender.send(message).is_ok())
            });
            let read = self.receive(&receiver, &pool);
            // The reader ends when nobody takes its messages.
            drop(receiver);
            let read_all =
                reader.join().map_err(|_| Error::bad("reading", "the reading thread panicked"))?;
            read.and_then(|read| read_all.map(|()| read))
        })
    }

    fn receive(
        &mut self,
        receiver: &Receiver<Message>,
        pool: &rayon::ThreadPool,
    ) -> Result<Vec<ReadFile>> {
        let recipe = self.recipe;
        let asked: Vec<Asked<'_>> =
            recipe.sources.iter().map(|source| Asked::new(recipe, source)).collect();
        let mut files = Vec::new();
        let mut before = 0;
        for message in receiver {
            match message {
                Message::Batch(batch) => {
                    let source = self.inputs[batch.input].source;
                    let done = worked(&batch, &asked[source], recipe, pool);
                    self.take(&batch, source, done)?;
                    self.progress.done = self.progress.done.max(before + batch.packed);
                }
                Message::End(number, sha256) => {
                    let input = &self.inputs[number];
                    let name = &self.recipe.sources[input.source].name;
                    self.end(input)?;
                    before += input.bytes;
                    files.push(ReadFile {
                        source: name.clone(),
                        name: input.name(),
                        bytes: input.bytes,
                        sha256,
                    });
                }
            }
            (self.report)(&self.progress);
        }
        Ok(files)
    }

    /// Stages and counts what a batch became.
    fn take(&mut self, batch: &Batch, source: usize, done: Vec<Vec<Done>>) -> Result<()> {
        self.progress.text += batch.unpacked;
        let is_rows = self.recipe.sources[source].format != Format::Text;
        for ((raw, _), documents) in batch.items().into_iter().zip(done) {
            for one in documents {
                let without = matches!(one.fate, Fate::Dropped(Reason::NoText, _));
                if is_rows && without && self.without.2.is_none() {
                    self.without.2 = Some(raw.to_vec());
                }
                *if without { &mut self.without.0 } else { &mut self.without.1 } += 1;
                self.document(source, one)?;
            }
        }
        Ok(())
    }

    fn document(&mut self, source: usize, done: Done) -> Result<()> {
        let counts = &mut self.counts[source];
        counts.read.add(done.bytes);
        counts.cut_inside_lines += u64::from(done.inside_line);
        counts.replaced += u64::from(done.replaced);
        self.progress.documents += 1;
        match done.fate {
            Fate::Dropped(reason, sample) => counts.drop(reason, done.bytes, done.hash, || sample),
            Fate::Kept { row, sha256, signature, is_holdout } => {
                let head = Head {
                    source: source as u64,
                    is_holdout,
                    row: row.len(),
                    bytes: done.bytes,
                    hash: done.hash,
                };
                let written =
                    head.write(&mut self.staged).and_then(|()| self.staged.write_all(&row));
                written
                    .and_then(|()| self.duplicates.push(self.number, &sha256, &signature))
                    .map_err(|source| Error::io("writing in", "the scratch folder", source))?;
                self.number += 1;
                self.progress.kept += 1;
            }
        }
        Ok(())
    }

    /// A file is over.
    fn end(&mut self, input: &Input) -> Result<()> {
        self.counts[input.source].files.add(usize::try_from(input.bytes).unwrap_or(usize::MAX));
        let (without, with, first) = std::mem::take(&mut self.without);
        let source = &self.recipe.sources[input.source];
        if source.format == Format::Jsonl && without > 0 && with == 0 {
            let detail = format!(
                "no row has a text in the field `{}`; the first one has: {}. Correct `text_field` in the recipe",
                source.text_field,
                fields_of(&first.unwrap_or_default())
            );
            return Err(Error::bad(input.path.display().to_string(), detail));
        }
        Ok(())
    }
}

/// What each raw document of a batch became, in order.
fn worked(
    batch: &Batch,
    asked: &Asked<'_>,
    recipe: &Recipe,
    pool: &rayon::ThreadPool,
) -> Vec<Vec<Done>> {
    let items: Vec<(&[u8], Known)> = batch.items();
    let work = |worker: &mut Worker, &(raw, known): &(&[u8], Known)| worker.work(raw, known, asked);
    pool.install(|| items.par_iter().map_init(|| Worker::new(recipe), work).collect())
}

/// What stands before a staged row.
struct Head {
    source: u64,
    is_holdout: bool,
    row: usize,
    bytes: usize,
    hash: u64,
}

impl Head {
    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let fields = [
            self.source << 1 | u64::from(self.is_holdout),
            self.row as u64,
            self.bytes as u64,
            self.hash,
        ];
        to.write_all(bytemuck::cast_slice(&fields))
    }

    fn read(from: &mut impl Read) -> io::Result<Head> {
        let mut fields = [0u64; 4];
        from.read_exact(bytemuck::cast_slice_mut(&mut fields))?;
        let [source, row, bytes, hash] = fields;
        Ok(Head {
            source: source >> 1,
            is_holdout: source & 1 == 1,
            row: row as usize,
            bytes: bytes as usize,
            hash,
        })
    }
}

/// The last pass.
struct Last<'a> {
    staged: BufWriter<File>,
    counts: Vec<Counts>,
    progress: Progress,
    report: &'a mut dyn FnMut(&Progress),
}

impl Last<'_> {
    /// Copies staged rows to their splits, without duplicates.
    fn write(
        &mut self,
        mut found: Found,
        documents: u64,
        writer: &mut Writer,
        scratch: &Path,
    ) -> Result<()> {
        let failed = |source| Error::io("reading in", scratch, source);
        self.staged.flush().map_err(failed)?;
        let mut file = self.staged.get_ref().try_clone().map_err(failed)?;
        file.rewind().map_err(failed)?;
        let mut staged = BufReader::with_capacity(1 << 18, file);
        self.progress =
            Progress { stage: "writing", done: 0, total: documents, kept: 0, ..self.progress };
        let mut row = Vec::new();
        for number in 0..documents {
            let head = Head::read(&mut staged).map_err(failed)?;
            row.resize(head.row, 0);
            staged.read_exact(&mut row).map_err(failed)?;
            let counts = &mut self.counts[head.source as usize];
            let text = || serde_json::from_slice::<Row>(&row).map_or(String::new(), |row| row.text);
            match found.is_duplicate(number).map_err(failed)? {
                Some(Kind::Exact) => {
                    counts.drop(Reason::ExactDuplicate, head.bytes, head.hash, text)
                }
                Some(Kind::Near) => counts.drop(Reason::NearDuplicate, head.bytes, head.hash, text),
                None => {
                    counts.keep(head.bytes, head.is_holdout);
                    let split = if head.is_holdout { 1 + head.source as usize } else { 0 };
                    writer.push(split, &row, head.bytes as u64)?;
                    self.progress.kept += 1;
                }
            }
            self.progress.done = number + 1;
            if number % 1024 == 0 || number + 1 == documents {
                (self.report)(&self.progress);
            }
        }
        Ok(())
    }
}
