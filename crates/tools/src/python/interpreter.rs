//! One running interpreter in its jail, and the frames spoken with it.
//!
//! The key decision: nothing that it says is believed. Every length is bounded before anything is read into memory, every wait ends by
//! a clock of this side, and the process is ended, not asked to end.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use yushan_abi::Cancel;
use yushan_sandbox::{Jail, Prisoner, Tier};

use super::discover::Found;
use super::{Limits, Stop};
use crate::space::{MOST_BYTES, MOST_FILES};

const RUNNER: &str = include_str!("runner.py");
/// Bytes of a frame's head.
const MOST_HEAD: u32 = 1 << 20;
/// Frames of one cell: one a file that was changed or removed, and the last.
const MOST_FRAMES: usize = 3 * MOST_FILES;
/// What is printed in one cell before it is stopped.
const MOST_SAID: u64 = 64 << 20;
/// How often it is looked whether somebody still wants it.
const LOOK: Duration = Duration::from_millis(20);
/// How often its processor time is looked at.
const LOOK_CPU: Duration = Duration::from_millis(200);
/// How long what was printed is waited for when all else has been said.
const GRACE: Duration = Duration::from_secs(2);
/// Answers that may wait to be read.
const WAITING: usize = 16;

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Request<'a> {
    Put { path: &'a str },
    Remove { path: &'a str },
    Home { path: &'a str },
    Run { number: usize, code: &'a str, mark: &'a str },
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Answer {
    File { path: String },
    Removed { path: String },
    Done { mark: String, value: Option<String>, error: Option<String>, left_out: Vec<String> },
}

enum Event {
    Said(Vec<u8>),
    Answer(Answer, Vec<u8>),
    /// It cannot be understood any more.
    Broken(String),
}

/// What a cell did.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// What it printed, its middle left out if it is long.
    pub(super) printed: String,
    /// What its last expression came to.
    pub(super) value: Option<String>,
    /// The error that ended it.
    pub(super) error: Option<String>,
    /// Files that it changed, and those that it removed.
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) removed: Vec<String>,
    /// Files that could not be put there or taken out, and why.
    pub(super) left_out: Vec<String>,
}

/// An interpreter that runs. It and all that it started are gone when this is dropped.
pub(super) struct Interpreter {
    // Dropped in this order: the processes before their folder.
    prisoner: Prisoner,
    requests: Sender<Vec<u8>>,
    events: Receiver<Event>,
    _folder: Option<TempDir>,
    limits: Limits,
    cells: usize,
}

impl Interpreter {
    /// Starts one; `seed` decides what chance brings.
    pub(super) fn start(
        found: &Found,
        tier: Tier,
        limits: &Limits,
        seed: &[u8; 32],
    ) -> Result<Interpreter, String> {
        let failed = |error: io::Error| format!("a folder for the interpreter: {error}");
        let folder = match tier {
            Tier::Full => None,
            Tier::Narrow => Some(folder().map_err(failed)?),
        };
        let scratch = folder.as_ref().map(|folder| folder.path().to_path_buf());
        let jail = jail(found, tier, limits, seed, scratch);
        let mut prisoner = jail.start().map_err(|error| error.to_string())?;
        let closed = || "the interpreter has no streams".to_string();
        let (requests, to_write) = mpsc::channel::<Vec<u8>>();
        let (sender, events) = mpsc::sync_channel(WAITING);
        let mut stdin = prisoner.stdin.take().ok_or_else(closed)?;
        // These end when the process does.
        std::thread::spawn(move || {
            to_write.iter().all(|bytes| stdin.write_all(&bytes).is_ok());
        });
        let stdout = prisoner.stdout.take().ok_or_else(closed)?;
        let answers = sender.clone();
        std::thread::spawn(move || read_answers(stdout, &answers));
        let stderr = prisoner.stderr.take().ok_or_else(closed)?;
        std::thread::spawn(move || read_said(stderr, &sender));
        Ok(Interpreter {
            prisoner,
            requests,
            events,
            _folder: folder,
            limits: limits.clone(),
            cells: 0,
        })
    }

    /// Puts a file there before the next cell.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) {
        self.ask(&Request::Put { path }, bytes);
    }

    /// Removes a file before the next cell.
    pub(super) fn remove(&self, path: &str) {
        self.ask(&Request::Remove { path }, b"");
    }

    /// Puts what [`fonts`] found where its libraries look for it.
    pub(super) fn furnish(&self, fonts: &[(String, Vec<u8>)]) {
        for (path, bytes) in fonts {
            self.ask(&Request::Home { path }, bytes);
        }
    }

    /// If it has ended the wait for the answer finds that out.
    fn ask(&self, request: &Request<'_>, body: &[u8]) {
        let head = serde_json::to_vec(request).unwrap_or_default();
        let mut frame = Vec::with_capacity(12 + head.len() + body.len());
        frame.extend(u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend((body.len() as u64).to_be_bytes());
        frame.extend(head);
        frame.extend(body);
        let _ = self.requests.send(frame);
    }

    /// Runs a cell. After an error this interpreter is of no more use.
    pub(super) fn run(
        &mut self,
        code: &str,
        wall: Duration,
        cancel: &Cancel,
    ) -> Result<Ran, (Stop, String)> {
        self.cells += 1;
        let mut nonce = [0; 16];
        fill(&mut nonce);
        let mark = format!("\0{}\0", hex(&nonce));
        self.ask(&Request::Run { number: self.cells, code, mark: &mark }, b"");
        let mut said = Said::new(mark.clone().into_bytes(), self.limits.output);
        let mut clock = Clock::new(wall, self.prisoner.cpu());
        let (mut ran, mut bytes, mut frames) = (Ran::default(), 0, 0);
        let stop = loop {
            if clock.is_done && said.is_over {
                ran.printed = said.text();
                return Ok(ran);
            }
            match self.events.recv_timeout(LOOK) {
                Ok(Event::Said(part)) => said.add(&part),
                Ok(Event::Answer(answer, body)) => {
                    (bytes, frames) = (bytes + body.len() as u64, frames + 1);
                    if clock.is_done || bytes > self.limits.scratch || frames > MOST_FRAMES {
                        break Stop::Broken("it gave back more than there can be".into());
                    }
                    if matches!(&answer, Answer::Done { mark: of, .. } if *of != mark) {
                        break Stop::Broken("it answered another cell".into());
                    }
                    clock.is_done = ran.add(answer, body);
                }
                Ok(Event::Broken(why)) => break Stop::Broken(why),
                Err(RecvTimeoutError::Disconnected) => break self.ended(),
                Err(RecvTimeoutError::Timeout) => {
                    if matches!(self.prisoner.ended(), Ok(Some(_)) | Err(_)) {
                        break self.ended();
                    }
                }
            }
            if said.total > MOST_SAID {
                break Stop::Output;
            }
            let cpu = || self.prisoner.cpu();
            if let Some(stop) = clock.look(cancel, &self.limits, cpu) {
                break stop;
            }
        };
        self.prisoner.kill();
        Err((stop, said.text()))
    }

    fn ended(&mut self) -> Stop {
        // Its streams close a moment before it is gone.
        let begun = Instant::now();
        while begun.elapsed() < GRACE {
            if let Ok(Some(code)) = self.prisoner.ended() {
                return Stop::Ended(code);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Stop::Broken("it closed its streams".into())
    }
}

impl Ran {
    /// Whether it was the last.
    fn add(&mut self, answer: Answer, body: Vec<u8>) -> bool {
        match answer {
            Answer::File { path } => self.files.push((path, body)),
            Answer::Removed { path } => self.removed.push(path),
            Answer::Done { value, error, left_out, .. } => {
                (self.value, self.error, self.left_out) = (value, error, left_out);
                return true;
            }
        }
        false
    }
}

/// When a cell is over.
struct Clock {
    begun: Instant,
    wall: Duration,
    cpu_before: Duration,
    cpu_looked: Instant,
    /// The cell is: only what it printed is waited for.
    is_done: bool,
    done_at: Option<Instant>,
}

impl Clock {
    fn new(wall: Duration, cpu_before: Duration) -> Clock {
        let now = Instant::now();
        Clock { begun: now, wall, cpu_before, cpu_looked: now, is_done: false, done_at: None }
    }

    fn look(
        &mut self,
        cancel: &Cancel,
        limits: &Limits,
        cpu: impl Fn() -> Duration,
    ) -> Option<Stop> {
        if cancel.is_cancelled() {
            return Some(Stop::Cancelled);
        }
        if self.begun.elapsed() > self.wall {
            return Some(Stop::Wall(self.wall));
        }
        if self.is_done && self.done_at.get_or_insert_with(Instant::now).elapsed() > GRACE {
            return Some(Stop::Broken("it closed its standard error".into()));
        }
        if self.cpu_looked.elapsed() > LOOK_CPU {
            self.cpu_looked = Instant::now();
            if cpu().saturating_sub(self.cpu_before) > limits.cpu {
                return Some(Stop::Cpu(limits.cpu));
            }
        }
        None
    }
}

/// What a cell prints, up to the mark that ends it: the beginning and the end are kept.
struct Said {
    mark: Vec<u8>,
    most: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
    total: u64,
    is_over: bool,
}

impl Said {
    fn new(mark: Vec<u8>, most: usize) -> Said {
        Said { mark, most, head: Vec::new(), tail: Vec::new(), total: 0, is_over: false }
    }

    fn add(&mut self, part: &[u8]) {
        if self.is_over {
            return; // of something that it left running
        }
        self.total += part.len() as u64;
        // The mark may lie across two parts: as much of the end is always in `tail`.
        self.tail.extend(part);
        let look_from = self.tail.len().saturating_sub(part.len() + self.mark.len());
        let found = self.tail[look_from..].windows(self.mark.len()).position(|at| at == self.mark);
        if let Some(at) = found {
            self.total -= (self.tail.len() - look_from - at) as u64;
            self.tail.truncate(look_from + at);
            self.is_over = true;
        }
        let keep = if self.is_over { 0 } else { self.mark.len() };
        let room = (self.most / 2).saturating_sub(self.head.len());
        let moved = room.min(self.tail.len().saturating_sub(keep));
        self.head.extend(self.tail.drain(..moved));
        let over = self.tail.len().saturating_sub(self.most / 2 + self.mark.len());
        self.tail.drain(..over);
    }

    fn text(&self) -> String {
        let missing = self.total - (self.head.len() + self.tail.len()) as u64;
        let (head, tail) =
            (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&self.tail));
        match missing {
            0 => String::from_utf8_lossy(&[self.head.as_slice(), &self.tail].concat()).into_owned(),
            _ => format!("{head}\n… {missing} bytes left out …\n{tail}"),
        }
    }
}

/// Matplotlib's list of fonts, which takes it seconds to make: made once, by an interpreter that has run nothing else, and given to
/// all others. Nothing if there is no Matplotlib, or it fails.
pub(super) fn fonts(
    found: &Found,
    tier: Tier,
    limits: &Limits,
    cancel: &Cancel,
) -> Vec<(String, Vec<u8>)> {
    const CODE: &str = "import glob, os, shutil, matplotlib.font_manager\n\
        for path in glob.glob(os.environ['MPLCONFIGDIR'] + '/fontlist*.json'): shutil.copy(path, '.')";
    if !found.packages.iter().any(|(name, _)| name == "matplotlib") {
        return Vec::new();
    }
    let Ok(mut interpreter) = Interpreter::start(found, tier, limits, &[0; 32]) else {
        return Vec::new();
    };
    interpreter.run(CODE, limits.wall, cancel).map(|ran| ran.files).unwrap_or_default()
}

/// A folder that is gone with its owner, and named so that one which was killed can be told.
fn folder() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(&format!("{FOLDER}{}-", std::process::id())).tempdir()
}

const FOLDER: &str = "yushan-python-";

/// Removes folders of programs that were killed before they could.
pub(super) fn sweep() {
    let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(FOLDER).and_then(|rest| rest.split('-').next());
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path()); // it may be another user's
        }
    }
}

fn jail(
    found: &Found,
    tier: Tier,
    limits: &Limits,
    seed: &[u8; 32],
    scratch: Option<PathBuf>,
) -> Jail {
    let mut jail = Jail::new(&found.program, tier);
    for folder in &found.folders {
        if !jail.readable.iter().any(|one| folder.starts_with(one)) {
            jail.readable.push(folder.clone());
        }
    }
    let words = ["-s", "-B", "-X", "utf8", "-c", RUNNER];
    jail.arguments = words.map(String::from).into();
    jail.arguments.extend([hex(seed), MOST_FILES.to_string(), MOST_BYTES.to_string()]);
    // One thread for each of these: sums come out the same when they are computed again.
    for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"] {
        jail.environment.push((name.into(), "1".into()));
    }
    let hash = u32::from_le_bytes([seed[0], seed[1], seed[2], seed[3]]);
    jail.environment.push(("PYTHONHASHSEED".into(), hash.to_string()));
    jail.environment.push(("MPLBACKEND".into(), "Agg".into()));
    jail.scratch = scratch;
    jail.limits.memory = limits.memory;
    jail.limits.processes = limits.processes;
    jail.limits.scratch = limits.scratch;
    jail.limits.cpu_seconds = limits.life.as_secs();
    jail
}

fn read_answers(mut stdout: impl Read, events: &SyncSender<Event>) {
    loop {
        let event = match read_answer(&mut stdout) {
            Ok(Some((answer, body))) => Event::Answer(answer, body),
            Ok(None) => return,
            Err(why) => Event::Broken(why),
        };
        let is_last = matches!(event, Event::Broken(_));
        if events.send(event).is_err() || is_last {
            return;
        }
    }
}

/// One frame; none if the stream ends before it.
fn read_answer(stream: &mut impl Read) -> Result<Option<(Answer, Vec<u8>)>, String> {
    let mut lengths = [0; 12];
    if stream.read_exact(&mut lengths).is_err() {
        return Ok(None);
    }
    let [a, b, c, d, body @ ..] = lengths;
    let (head, body) = (u32::from_be_bytes([a, b, c, d]), u64::from_be_bytes(body));
    if head > MOST_HEAD || body > MOST_BYTES {
        return Err(format!("an answer of {head} and {body} bytes"));
    }
    let mut take = |count: u64| -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = stream.by_ref().take(count).read_to_end(&mut bytes);
        match read {
            Ok(size) if size as u64 == count => Ok(bytes),
            _ => Err("it ended in an answer".into()),
        }
    };
    let (head, body) = (take(u64::from(head))?, take(body)?);
    let answer = serde_json::from_slice(&head).map_err(|error| format!("an answer: {error}"))?;
    Ok(Some((answer, body)))
}

fn read_said(mut stderr: impl Read, events: &SyncSender<Event>) {
    let mut part = vec![0; 64 << 10];
    while let Ok(size @ 1..) = stderr.read(&mut part) {
        if events.send(Event::Said(part[..size].to_vec())).is_err() {
            return;
        }
    }
}

/// Random bytes of the operating system.
pub(super) fn fill(bytes: &mut [u8]) {
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes));
    read.expect("every system has /dev/urandom");
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_kept_at_both_ends_up_to_the_mark() {
        let whole =
            [b"begin".to_vec(), vec![b'x'; 1000], b"the end\0mark\0later".to_vec()].concat();
        for size in [1, 2, 3, 7, 64, whole.len()] {
            let mut said = Said::new(b"\0mark\0".to_vec(), 40);
            whole.chunks(size).for_each(|part| said.add(part));
            let text = said.text();
            assert!(
                said.is_over && text.starts_with("begin") && text.ends_with("xthe end"),
                "{text}"
            );
            assert!(text.len() < 120 && text.contains("bytes left out"), "{size}: {text}");
            let mut short = Said::new(b"\0mark\0".to_vec(), 40);
            b"hello\0mark\0".chunks(size).for_each(|part| short.add(part));
            assert_eq!((short.text().as_str(), short.is_over), ("hello", true));
        }
    }

    #[test]
    fn answers_that_lie_are_refused_before_memory_is_taken() {
        let frame = |head: u32, body: u64, rest: &[u8]| {
            [head.to_be_bytes().as_slice(), &body.to_be_bytes(), rest].concat()
        };
        for (bytes, expected) in [
            (frame(u32::MAX, 0, b""), "an answer of 4294967295"),
            (frame(2, u64::MAX, b"{}"), "18446744073709551615 bytes"),
            (frame(2, 0, b"{"), "it ended in an answer"),
            (frame(2, 0, b"{}"), "an answer: missing field `kind`"),
            (frame(2, 0, b"\xff\xff"), "an answer: "),
        ] {
            let error = read_answer(&mut bytes.as_slice()).err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read_answer(&mut b"\0\0".as_slice()).unwrap().is_none());
    }
}
