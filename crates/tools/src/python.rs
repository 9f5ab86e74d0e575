//! The code interpreter: the system's Python in the sandbox, with a state that lasts, forks and survives.
//!
//! The key decision: the state of a space is the list of its cells ([`notebook`]), and a running interpreter is an image of it
//! that can be made again. A cell that did not come to its end did not happen: its process is ended, and the state before it is rebuilt by
//! running the earlier cells again, with the files that each of them had and with the same random numbers. So a fork needs no
//! copy of a process, a killed interpreter loses nothing, and a restart of the server neither. Where running again
//! says something else than before, the answer says so.

pub mod discover;
mod interpreter;
mod notebook;
mod sessions;
pub mod walls;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use yushan_abi::{
    Cancel, Disk, Effect, Invocation, Label, ParamRole, Part, Sources, Tool, ToolResult, ToolSpec,
};
use yushan_sandbox::Tier;

use self::discover::Found;
use self::interpreter::{Interpreter, Ran};
use self::notebook::{Cell, Notebook, fingerprint};
use self::sessions::{Place, Sessions};
use crate::arguments::{read, refused, spec};
use crate::space::{self, Edit, Entry, Space, Version, check_path, kept};

/// Bytes of a cell.
const MOST_CODE: usize = 256 << 10;
/// How often it is looked whether a space is free, or a place.
const LOOK: Duration = Duration::from_millis(5);

/// What cells may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of a cell.
    pub wall: Duration,
    /// Processor time of a cell.
    pub cpu: Duration,
    /// Processor time of each process of an interpreter, over all cells.
    pub life: Duration,
    /// For running earlier cells again.
    pub rebuild: Duration,
    /// For a place among the interpreters that run at once.
    pub place: Duration,
    /// Bytes of memory.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes in files.
    pub scratch: u64,
    /// Bytes that are kept of what a cell prints.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wall: Duration::from_secs(60),
            cpu: Duration::from_secs(60),
            life: Duration::from_secs(3600),
            rebuild: Duration::from_secs(300),
            place: Duration::from_secs(60),
            memory: 2 << 30,
            processes: 64,
            scratch: 512 << 20,
            output: 32 << 10,
        }
    }
}

/// Why a cell did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stop {
    Cancelled,
    Wall(Duration),
    Cpu(Duration),
    Output,
    Ended(i32),
    Broken(String),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Cancelled => write!(f, "it was cancelled"),
            Stop::Wall(wall) => write!(f, "it took longer than {} s", wall.as_secs_f32()),
            Stop::Cpu(cpu) => {
                write!(f, "it used more than {} s of processor time", cpu.as_secs_f32())
            }
            Stop::Output => write!(f, "it printed more than 64 MiB"),
            Stop::Ended(137) => write!(f, "it was killed: most likely it used too much memory"),
            Stop::Ended(code) => write!(f, "the interpreter ended with code {code}"),
            Stop::Broken(why) => write!(f, "the interpreter could not be understood: {why}"),
        }
    }
}

/// The tool `python`.
pub struct Python {
    disk: Arc<dyn Disk>,
    found: Found,
    limits: Limits,
    tier: OnceLock<Result<Tier, String>>,
    spec: ToolSpec,
    sessions: Sessions,
    fonts: Arc<OnceLock<Fonts>>,
    /// Whether they are being looked for.
    asked: Once,
    gone: Cancel,
}

/// File names and bytes.
type Fonts = Vec<(String, Vec<u8>)>;

struct Running {
    interpreter: Interpreter,
    /// Given back when the interpreter has ended.
    _place: Place,
    /// Cells that it has run.
    cells: usize,
    /// Files that it has, by path, with the hash of their bytes.
    files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    code: String,
    #[serde(default)]
    restart: bool,
}

impl Python {
    /// On the strongest tier that holds on this machine: found out at the first call, if it is not known yet.
    pub fn new(disk: Arc<dyn Disk>, found: Found, limits: Limits) -> Python {
        interpreter::sweep();
        let spec = describe(&found, &limits);
        let (tier, sessions, fonts) = (OnceLock::new(), Sessions::default(), Arc::default());
        let (asked, gone) = (Once::new(), Cancel::default());
        Python { disk, found, limits, tier, spec, sessions, fonts, asked, gone }
    }

    /// On this tier, or, if it is none, on none: every call is refused with the reason.
    pub fn on(
        disk: Arc<dyn Disk>,
        found: Found,
        limits: Limits,
        tier: Result<Tier, String>,
    ) -> Python {
        let python = Python::new(disk, found, limits);
        let _ = python.tier.set(tier); // it is new
        python
    }

    fn tier(&self) -> Result<Tier, String> {
        self.tier.get_or_init(|| walls::strongest(&*self.disk)).clone()
    }
}

fn describe(found: &Found, limits: &Limits) -> ToolSpec {
    let packages = found.packages.iter().map(|(name, version)| format!("{name} {version}"));
    let packages = packages.collect::<Vec<_>>().join(", ");
    let packages = if packages.is_empty() { "no packages".into() } else { packages };
    let missing = found.install().map_or_else(String::new, |install| {
        let missing = found.missing().join(", ");
        format!(" Not installed: {missing} (whoever runs this server can: `{install}`).")
    });
    let description = format!(
        "Runs Python {} in a sandbox and gives back what it prints and the value of its last expression. Variables stay from call to \
         call. The files of this conversation are in the working folder; files written there are kept, and plots \
         of matplotlib are kept as figure-1.png and so on. There are {packages}.{missing} No network, nothing can be \
         installed; {} s and {} MiB of memory a call.",
        found.version,
        limits.wall.as_secs(),
        limits.memory >> 20,
    );
    let properties = json!({
        "code": {"type": "string", "maxLength": MOST_CODE, "description": "Python source; may have many lines"},
        "restart": {"type": "boolean", "description": "Forget all variables first; files stay"},
    });
    let roles = [("code", ParamRole::Payload), ("restart", ParamRole::Opaque)];
    spec("python", &description, Effect::Exec, properties, &["code"], &roles)
}

impl Tool for Python {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, invocation: &Invocation<'_>) -> ToolResult {
        let arguments: Arguments = match read(invocation.arguments) {
            Ok(arguments) => arguments,
            Err(refused) => return refused,
        };
        if arguments.code.len() > MOST_CODE {
            return refused(format!("the code has more than {MOST_CODE} bytes; run it in parts"));
        }
        let tier = match self.tier() {
            Ok(tier) => tier,
            Err(why) => {
                let next = "whoever runs this server can look with `yushan doctor sandbox`";
                return refused(format!("Python does not run here: {why}; {next}"));
            }
        };
        let session = self.sessions.of(invocation.space);
        let Some(mut running) = wait(&session.running, &invocation.cancel) else {
            return refused("cancelled before the cell began");
        };
        let call = Call { python: self, tier, invocation, arguments: &arguments };
        let result = call.run(&mut running).unwrap_or_else(|failed| failed);
        *lock(&session.used) = Instant::now();
        result
    }

    fn forked(&self, from: &str, to: &str) -> Result<(), String> {
        space::fork(&*self.disk, from, to).map_err(|error| error.to_string())
    }

    fn released(&self, space: &str) {
        let session = self.sessions.remove(space);
        let (disk, space) = (Arc::clone(&self.disk), space.to_string());
        // Ending it takes a moment. A call that is still being made there keeps what it did: it ends first.
        std::thread::spawn(move || {
            if let Some(session) = session {
                *lock(&session.running) = None;
            }
            kept::delete(&*disk, &space);
        });
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Python {
    /// A new interpreter. The first one has to find its fonts by itself, while another looks for those of all others: for
    /// that moment there may be one more than there are places.
    fn start(&self, tier: Tier, seed: &[u8; 32]) -> Result<Interpreter, String> {
        let interpreter = Interpreter::start(&self.found, tier, &self.limits, seed)?;
        self.asked.call_once(|| {
            let (found, limits) = (self.found.clone(), self.limits.clone());
            let (fonts, gone) = (Arc::clone(&self.fonts), self.gone.clone());
            std::thread::spawn(move || {
                fonts.get_or_init(|| interpreter::fonts(&found, tier, &limits, &gone));
            });
        });
        interpreter.furnish(self.fonts.get().map_or(&[], Vec::as_slice));
        Ok(interpreter)
    }
}

/// One call of the tool.
struct Call<'a> {
    python: &'a Python,
    tier: Tier,
    invocation: &'a Invocation<'a>,
    arguments: &'a Arguments,
}

impl Call<'_> {
    /// An error is a result too.
    fn run(&self, slot: &mut Option<Running>) -> Result<ToolResult, ToolResult> {
        let Invocation { owner, space: name, cancel, .. } = self.invocation;
        let disk = &self.python.disk;
        let space = Space::open(Arc::clone(disk), owner, name).map_err(failed)?;
        let mut notebook = Notebook::load(&**disk, owner, name).map_err(failed)?;
        if let Some((key, result)) = notebook.last.take()
            && key == self.invocation.key
        {
            return Ok(result);
        }
        if self.arguments.restart {
            *slot = None;
            notebook = Notebook::new();
        }
        if !notebook.has_room(&self.arguments.code) {
            let why = "this conversation has run as many cells as are kept";
            return Err(failed(format!("{why}: begin anew with `restart: true`; files stay")));
        }
        let mut notes = Vec::new();
        // Taken out: what is not put back is ended.
        let running = slot.take().filter(|running| running.cells == notebook.cells.len());
        let mut running = match running {
            Some(running) => running,
            None => self.rebuild(&space, &mut notebook, &mut notes)?,
        };
        let entries = space.list().map_err(failed)?;
        let (put, removed) = running.bring(&space, &entries)?;
        let seen = entries
            .iter()
            .fold(self.invocation.label.clone(), |label, entry| label.join(&entry.label));
        notebook.label = notebook.label.join(&seen).join(&Label::of(Sources::CODE));
        let begun = Instant::now();
        let wall = self.python.limits.wall;
        let ran = running.interpreter.run(&self.arguments.code, wall, cancel);
        let ran = ran.map_err(|(stop, printed)| stopped(&stop, &printed, &notebook.label))?;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let said = fingerprint(&ran);
        let code = self.arguments.code.clone();
        notebook.cells.push(Cell { code, put, removed, said, took_ms });
        running.cells += 1;
        let result = self.keep(&space, &mut notebook, &mut running, ran, notes)?;
        *slot = Some(running);
        Ok(result)
    }

    /// An interpreter that has run all cells again.
    fn rebuild(
        &self,
        space: &Space,
        notebook: &mut Notebook,
        notes: &mut Vec<String>,
    ) -> Result<Running, ToolResult> {
        let (python, cancel) = (self.python, &self.invocation.cancel);
        let place = python.sessions.place(python.limits.place, cancel).map_err(failed)?;
        let interpreter = python.start(self.tier, &notebook.seed()).map_err(failed)?;
        let mut running = Running { interpreter, _place: place, cells: 0, files: BTreeMap::new() };
        let deadline = Instant::now() + python.limits.rebuild;
        let mut other = Vec::new();
        for (number, cell) in notebook.cells.iter().enumerate() {
            for (path, sha256) in &cell.put {
                running.put(space, path, sha256)?;
            }
            cell.removed.iter().for_each(|path| running.remove(path));
            let left = deadline.saturating_duration_since(Instant::now());
            match running.interpreter.run(&cell.code, left, cancel) {
                Ok(ran) if fingerprint(&ran) == cell.said => running.follow(&ran),
                Ok(ran) => {
                    other.push((number + 1).to_string());
                    running.follow(&ran);
                }
                Err((Stop::Cancelled, _)) => {
                    return Err(failed("cancelled while earlier cells were run again"));
                }
                Err((stop, _)) => return Err(self.lost(notebook, number + 1, &stop)),
            }
            running.cells += 1;
        }
        if !other.is_empty() {
            notes.push(format!(
                "(The interpreter had ended, and the earlier cells were run again. What cells {} printed was not the same \
                 as before: variables that depend on time or chance may differ.)\n",
                other.join(", ")
            ));
        }
        Ok(running)
    }

    /// The state cannot be had again: what is kept of it is given up, and the cell is not run on less than it expects.
    fn lost(&self, notebook: &Notebook, number: usize, stop: &Stop) -> ToolResult {
        let Invocation { owner, space, .. } = self.invocation;
        let new = Notebook { label: notebook.label.clone(), ..Notebook::new() };
        let kept = new.keep(owner, space).and_then(|change| self.python.disk.change(&[change]));
        let why = format!(
            "The interpreter had ended, and its state is lost: running the earlier cells again failed at cell {number} of {} ({stop}). \
             All variables are gone, files are as they were. This cell was not run: define again what it needs.",
            notebook.cells.len()
        );
        match kept {
            // What stopped it may quote the interpreter.
            Ok(()) => ToolResult::failed(why, notebook.label.clone()),
            Err(error) => failed(error),
        }
    }

    /// Keeps the files that the cell changed, the cell, and the answer, all or none.
    fn keep(
        &self,
        space: &Space,
        notebook: &mut Notebook,
        running: &mut Running,
        ran: Ran,
        notes: Vec<String>,
    ) -> Result<ToolResult, ToolResult> {
        let Invocation { owner, space: name, key, .. } = self.invocation;
        let label = notebook.label.clone();
        let (edits, mut left_out) = edits(&ran, running, &label);
        left_out.extend(ran.left_out.iter().cloned());
        let remember = |notebook: &mut Notebook, result: ToolResult| {
            notebook.last = Some((key.to_string(), result));
            notebook.keep(owner, name)
        };
        let mut unkept = None;
        let kept = space.change_with(edits, |versions| {
            let result = answer(&ran, &notes, &left_out, versions, &label);
            Ok(vec![remember(notebook, result)?])
        });
        let versions = kept.unwrap_or_else(|error| {
            unkept = Some(error.to_string());
            Vec::new()
        });
        if let Some(why) = unkept {
            // The cell has happened, its files have not.
            left_out.push(format!("no file of this cell was kept: {why}"));
            let result = answer(&ran, &notes, &left_out, &[], &label);
            let change = remember(notebook, result).map_err(failed)?;
            self.python.disk.change(&[change]).map_err(failed)?;
        }
        for version in &versions {
            let after = version.after.as_ref().map(|entry| entry.file.sha256.clone());
            match after {
                Some(sha256) => drop(running.files.insert(version.path.clone(), sha256)),
                None => drop(running.files.remove(&version.path)),
            }
        }
        let result = notebook.last.as_ref().map(|(_, result)| result.clone());
        result.ok_or_else(|| failed("the cell was not kept"))
    }
}

impl Running {
    fn put(&mut self, space: &Space, path: &str, sha256: &str) -> Result<(), ToolResult> {
        let bytes = space.bytes(sha256).map_err(failed)?;
        self.interpreter.put(path, &bytes);
        self.files.insert(path.into(), sha256.into());
        Ok(())
    }

    fn remove(&mut self, path: &str) {
        self.interpreter.remove(path);
        self.files.remove(path);
    }

    /// Makes its files those of the space, and tells what that took.
    fn bring(
        &mut self,
        space: &Space,
        entries: &[Entry],
    ) -> Result<(BTreeMap<String, String>, Vec<String>), ToolResult> {
        let wanted = |path: &String| entries.iter().any(|entry| &entry.file.path == path);
        let removed: Vec<String> =
            self.files.keys().filter(|path| !wanted(path)).cloned().collect();
        removed.iter().for_each(|path| self.remove(path));
        let mut put = BTreeMap::new();
        for Entry { file, .. } in entries {
            if self.files.get(&file.path) != Some(&file.sha256) {
                self.put(space, &file.path, &file.sha256)?;
                put.insert(file.path.clone(), file.sha256.clone());
            }
        }
        Ok((put, removed))
    }

    /// What a cell that was run again did to the files: they are not the space's until they are brought.
    fn follow(&mut self, ran: &Ran) {
        for path in ran.files.iter().map(|(path, _)| path).chain(&ran.removed) {
            self.files.insert(path.clone(), String::new());
        }
    }
}

/// What a cell changed, as far as it can be kept; and what cannot.
fn edits(ran: &Ran, running: &mut Running, label: &Label) -> (Vec<Edit>, Vec<String>) {
    let (mut edits, mut left_out) = (Vec::new(), Vec::new());
    for (path, bytes) in &ran.files {
        // Until it is kept the interpreter's file is not the space's.
        running.files.insert(path.clone(), String::new());
        match check_path(path) {
            Ok(path) => {
                let bytes = Some(bytes.clone());
                edits.push(Edit { path, bytes, label: label.clone() });
            }
            Err(error) => left_out.push(error.to_string()),
        }
    }
    // A name that could not be kept is not missed.
    for path in ran.removed.iter().filter(|path| check_path(path).is_ok()) {
        running.files.remove(path);
        edits.push(Edit { path: path.clone(), bytes: None, label: label.clone() });
    }
    (edits, left_out)
}

/// What the model reads.
fn answer(
    ran: &Ran,
    notes: &[String],
    left_out: &[String],
    versions: &[Version],
    label: &Label,
) -> ToolResult {
    let mut text = ran.printed.clone();
    for more in [&ran.value, &ran.error].into_iter().flatten() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text += more;
    }
    let files: Vec<_> = versions.iter().filter_map(|version| version.after.clone()).collect();
    let mut lines: Vec<String> = files.iter().map(|entry| entry.file.path.clone()).collect();
    let gone = versions.iter().filter(|version| version.after.is_none());
    lines.extend(gone.map(|version| format!("{} (removed)", version.path)));
    if !lines.is_empty() {
        text += &format!("\n[files: {}]", lines.join(", "));
    }
    for why in left_out {
        text += &format!("\n[not kept: {why}]");
    }
    if text.trim().is_empty() {
        text = "(nothing was printed)".into();
    }
    let system = Label::of(Sources::SYSTEM);
    let mut parts: Vec<Part> = Vec::new();
    parts.extend(notes.iter().map(|note| Part { text: note.clone(), label: system.clone() }));
    parts.push(Part { text: text.trim_start_matches('\n').into(), label: label.clone() });
    let files = files.into_iter().map(|entry| entry.file).collect();
    ToolResult { parts, failed: ran.error.is_some(), files, ..ToolResult::default() }
}

/// A cell that did not come to its end.
fn stopped(stop: &Stop, printed: &str, label: &Label) -> ToolResult {
    let why = format!(
        "The cell was stopped: {stop}. It counts as not run: variables and files are as they were before it. Do less at a time.\n"
    );
    let printed = if printed.trim().is_empty() { "" } else { printed };
    let parts = vec![
        Part { text: why, label: label.clone() },
        Part { text: printed.to_string(), label: label.clone() },
    ];
    ToolResult { parts, failed: true, files: Vec::new(), ..ToolResult::default() }
}

fn failed(error: impl std::fmt::Display) -> ToolResult {
    refused(error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lock, unless nobody wants it any more.
fn wait<'a, T>(mutex: &'a Mutex<T>, cancel: &Cancel) -> Option<MutexGuard<'a, T>> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if cancel.is_cancelled() => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
        }
    }
}
