//! The log of a run: `RUN/log.jsonl`, one JSON object a step.
//!
//! The key decision: the file only grows, and each line goes out in one write, so whatever kills the run
//! leaves whole lines and at most one torn last one. Resuming from step S cuts the torn line and all
//! lines after S, so that the curve is one: the log of an interrupted run has the steps of an unbroken
//! one. Lines that are kept are never written anew: their bytes stay.
//!
//! A number is written so that it reads back as it was, but a reader of JSON may miss its last bit: whether two logs
//! are the same is asked of their text.
//!
//! The reader takes what it can: a line that is none is counted, named and left out. Not here: what is
//! drawn of it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::number;
use crate::evaluate::{Accuracy, BitsPerByte};
use crate::{Error, Result};

/// The file's name in a run's folder.
pub const LOG: &str = "log.jsonl";
/// Bytes of a line; a longer one is no line of ours.
const LONGEST: u64 = 4 << 20;
/// Problems that are kept with their place; all are counted.
const PROBLEMS: usize = 50;

/// One step, or an event between two steps. A field that was not measured is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens trained on so far.
    #[serde(default)]
    pub tokens: u64,
    /// Training loss of this step, nats a token. May be NaN.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Training loss as bits per byte, where the bytes are known.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub bpb: Option<f64>,
    /// Learning rate of this step.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Norm of the gradient before clipping.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Tokens a second of this step.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// Useful floating-point operations a second over the machine's measured peak, 0 to 1.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub peak_share: Option<f64>,
    /// Wall-clock seconds of training so far, the parts before a resume included.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Energy so far in joules, where the machine tells it.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// What happened, if it was not just a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// What the model writes at this step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sample: Vec<Sample>,
    /// Bits per byte on each hold-out, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub eval: BTreeMap<String, BitsPerByte>,
    /// Accuracy on each task, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, Accuracy>,
}

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// In words, for people: what was seen, what was done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The step at which it was seen, if the run went back from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// The loss that was seen there.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// What kind of event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The run began.
    Started,
    /// It went on from a checkpoint.
    Resumed,
    /// A checkpoint was damaged and an older one was taken.
    FellBack,
    /// The loss rose out of its band; the run went back to a checkpoint and left the rows out.
    SpikeRolledBack,
    /// Loss or gradient was not a number; the step was left out.
    NanSkipped,
    /// A checkpoint was written.
    Checkpoint,
    /// Why the log does not say joules.
    EnergyNotCounted,
    /// The run was asked to stop.
    Stopped,
    /// The last step is done.
    Finished,
    /// Of a later version.
    #[serde(untagged)]
    Other(String),
}

impl Line {
    /// Loss over all hold-outs of this line, each token counted once; nats a token.
    pub fn held_out(&self) -> Option<f64> {
        let (mut nats, mut tokens) = (0.0, 0);
        for score in self.eval.values().filter(|score| score.tokens > 0) {
            nats += score.loss? * score.tokens as f64;
            tokens += score.tokens;
        }
        (tokens > 0).then(|| nats / tokens as f64)
    }
}

impl Event {
    /// An event in words.
    pub fn new(kind: EventKind, detail: impl Into<String>) -> Event {
        Event { kind, detail: detail.into(), at: None, loss: None }
    }

    /// What happened, for people.
    pub fn words(&self) -> String {
        let name = super::watch::name(&self.kind);
        match self.detail.is_empty() {
            true => name.to_owned(),
            false => format!("{name}: {}", self.detail),
        }
    }
}

/// A prompt and how the model went on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was given; may be empty.
    pub prompt: String,
    /// What the model added.
    pub text: String,
    /// The seed of the sampler.
    #[serde(default)]
    pub seed: u64,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: f32,
}

/// What [`Writer::resume`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The last line that was kept and has a loss: its `seconds` and `tokens` go on from there.
    pub last: Option<Line>,
    /// Whole lines after the step, cut off.
    pub dropped: u64,
    /// Bytes of a torn last line, cut off.
    pub torn: u64,
}

/// Appends to a run's log.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    /// The line being written; kept for its room.
    buffer: Vec<u8>,
}

impl Writer {
    /// A new log in the folder `run`, which must be there. Refuses one that holds lines already.
    pub fn create(run: &Path) -> Result<Writer> {
        let path = run.join(LOG);
        let file = open(&path)?;
        let length = file.metadata().map_err(|e| Error::io("reading", &path, e))?.len();
        if length > 0 {
            let detail = "already holds a run; go on with it (--resume), or take another folder";
            return Err(Error::bad(path.display().to_string(), detail));
        }
        Ok(Writer { file, path, buffer: Vec::new() })
    }

    /// Adds to a log that may be somebody else's: nothing of it is cut.
    pub fn beside(run: &Path) -> Result<Writer> {
        let path = run.join(LOG);
        Ok(Writer { file: open(&path)?, path, buffer: Vec::new() })
    }

    /// Goes on after step `step`: cuts a torn last line and the lines of later steps. A log that is
    /// not there is made.
    pub fn resume(run: &Path, step: u64) -> Result<(Writer, Kept)> {
        let path = run.join(LOG);
        let mut writer = Writer { file: open(&path)?, path, buffer: Vec::new() };
        let kept = writer.rewind(step)?;
        Ok((writer, kept))
    }

    /// Cuts all after step `step`, as [`Writer::resume`] does: for a run that goes back from a spike.
    pub fn rewind(&mut self, step: u64) -> Result<Kept> {
        let failed = |e| Error::io("cutting", &self.path, e);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut reader = BufReader::new(&self.file);
        let (mut end, mut kept, mut whole) = (0, Kept::default(), true);
        let mut cutting = false;
        let mut line = Vec::new();
        loop {
            let length = next_line(&mut reader, &mut line).map_err(failed)?;
            if length == 0 {
                break;
            }
            let parsed = parse(&line);
            let torn = line.last() != Some(&b'\n');
            if torn && parsed.is_err() {
                kept.torn = length;
                break;
            }
            cutting |= parsed.as_ref().is_ok_and(|line| line.step > step);
            if cutting {
                kept.dropped += 1;
                continue;
            }
            end += length;
            whole = !torn;
            if let Ok(line) = parsed
                && line.loss.is_some()
            {
                kept.last = Some(line);
            }
        }
        self.file.set_len(end).map_err(failed)?;
        self.file.seek(SeekFrom::End(0)).map_err(failed)?;
        if !whole {
            self.file.write_all(b"\n").map_err(failed)?;
        }
        self.file.sync_data().map_err(failed)?;
        Ok(kept)
    }

    /// Adds a line, in one write.
    pub fn append(&mut self, line: &Line) -> Result<()> {
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, line)
            .map_err(|e| Error::bad("a line of the log", e.to_string()))?;
        self.buffer.push(b'\n');
        self.file.write_all(&self.buffer).map_err(|e| Error::io("writing", &self.path, e))
    }

    /// Waits until the disk has it: before a checkpoint is called saved.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("writing", &self.path, e))
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    // Appending writes land at the end even after a cut.
    let opened = options.read(true).append(true).create(true).open(path);
    opened.map_err(|e| Error::io("opening", path, e))
}

/// The next line with its end; 0 at the file's end. Of a line that is too long only the beginning is kept,
/// but its whole length is told.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<u64> {
    line.clear();
    let mut length = reader.by_ref().take(LONGEST).read_until(b'\n', line)? as u64;
    if length == LONGEST && line.last() != Some(&b'\n') {
        loop {
            let room = reader.fill_buf()?;
            let end = room.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(room.len(), |end| end + 1);
            let done = end.is_some() || used == 0;
            reader.consume(used);
            length += used as u64;
            if done {
                line.extend(end.map(|_| b'\n'));
                break;
            }
        }
    }
    Ok(length)
}

fn parse(line: &[u8]) -> std::result::Result<Line, String> {
    if line.len() as u64 >= LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    // A list would be taken as a line's fields in order.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("no JSON object".into());
    }
    serde_json::from_slice(line).map_err(|e| e.to_string())
}

/// A log as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// In the order of their steps.
    pub lines: Vec<Line>,
    /// Lines that are none: number (from 1) and why. The first fifty.
    pub problems: Vec<(usize, String)>,
    /// All of these.
    pub problem_count: usize,
    /// Whether the last line was torn: the run was killed, or is being written to.
    pub torn: bool,
}

impl Log {
    /// The log of the folder `run`.
    pub fn read(run: &Path) -> Result<Log> {
        let path = run.join(LOG);
        match File::open(&path) {
            Ok(file) => Log::of(BufReader::new(file)).map_err(|e| Error::io("reading", path, e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let detail = format!(
                    "no {LOG} there; expected the folder of a run, as `yushan train pretrain` makes it"
                );
                Err(Error::io("reading", run, std::io::Error::new(e.kind(), detail)))
            }
            Err(e) => Err(Error::io("opening", path, e)),
        }
    }

    /// Of any text of lines.
    pub fn of(mut reader: impl BufRead) -> std::io::Result<Log> {
        let mut log = Log::default();
        let mut line = Vec::new();
        for number in 1.. {
            if next_line(&mut reader, &mut line)? == 0 {
                break;
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match parse(&line) {
                Ok(line) => log.add(number, line),
                Err(_) if line.last() != Some(&b'\n') => log.torn = true,
                Err(why) => log.problem(number, why),
            }
        }
        Ok(log)
    }

    /// A step that comes again takes the place of what followed it.
    fn add(&mut self, number: usize, line: Line) {
        let before = self.lines.len();
        while self.lines.last().is_some_and(|last| last.step > line.step) {
            self.lines.pop();
        }
        if self.lines.len() < before {
            let gone = before - self.lines.len();
            let why =
                format!("step {} comes again: {gone} lines before it are left out", line.step);
            self.problem(number, why);
        }
        let same = self.lines.iter().rev().take_while(|last| last.step == line.step);
        let twin = same.enumerate().find(|(_, last)| last.loss.is_some()).map(|(back, _)| back);
        if let Some(back) = twin.filter(|_| line.loss.is_some()) {
            self.lines.remove(self.lines.len() - 1 - back);
            let why = format!("step {} stands there twice: the later one counts", line.step);
            self.problem(number, why);
        }
        self.lines.push(line);
    }

    fn problem(&mut self, line: usize, why: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS {
            self.problems.push((line, why));
        }
    }
}

#[cfg(test)]
mod tests;
