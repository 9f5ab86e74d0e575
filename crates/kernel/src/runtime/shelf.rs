//! The shelf: which models there are, and which of them are in memory.
//!
//! A process holds a [`Lease`] for as long as it lives. A model that is listed and not in memory is loaded
//! on a thread of its own while everything else goes on; whoever else wants it waits for that one load.
//! When memory is short, the model whose last use lies longest back goes first; one that is leased never
//! goes. A model that nobody used for as long as it is to be kept goes too.
//!
//! The key decision: the table here says what may be used, and the engine's thread only holds the engines:
//! it is handed one and gives one back by commands, and is asked nothing. The lock of the table is never
//! held while something is loaded, dropped or sent.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use yushan_abi::{Keep, Language, ModelInfo, Refusal};

use super::{Command, Loaded};

/// What can be loaded. Implementations: the binary's files and pulled models; the fakes of tests.
pub trait Shelf: Send + Sync {
    /// Models that can be asked for, in the order in which they are listed. Asked often.
    fn list(&self) -> Vec<ModelInfo>;

    /// Bytes that a model will take.
    fn bytes(&self, name: &str) -> Result<u64, Refusal>;

    /// Loads a model; blocks. Called on a thread of its own.
    fn load(&self, name: &str) -> Result<Loaded, Refusal>;
}

/// A shelf, and how much of it may be in memory.
pub struct Stock {
    /// What can be loaded.
    pub shelf: Arc<dyn Shelf>,
    /// Bytes that all models in memory may take together; `None` is without bound.
    pub memory: Option<u64>,
    /// How long a model stays that was loaded because a request named it.
    pub keep: Keep,
}

impl Stock {
    /// Nothing but what is in memory already.
    pub fn none() -> Stock {
        Stock { shelf: Arc::new(Nothing), memory: None, keep: Keep::Forever }
    }
}

struct Nothing;

impl Shelf for Nothing {
    fn list(&self) -> Vec<ModelInfo> {
        Vec::new()
    }

    fn bytes(&self, name: &str) -> Result<u64, Refusal> {
        Err(Refusal::NoModel(name.into()))
    }

    fn load(&self, name: &str) -> Result<Loaded, Refusal> {
        Err(Refusal::NoModel(name.into()))
    }
}

/// Requests that may wait for loads: each holds a thread of whoever brings it.
const WAITING: usize = 32;

/// How long a model that was just loaded waits for the one who asked for it, however short it is kept.
const GRACE: Duration = Duration::from_secs(1);

/// How a load ended, for all that wait for it.
type Attempt = Arc<OnceLock<Result<(), Refusal>>>;

enum Entry {
    /// Being loaded; its bytes are reserved.
    Loading(u64, Attempt),
    Here(Box<Here>),
    /// Being given up; its bytes are not free yet.
    Leaving(u64),
}

/// A model in memory.
struct Here {
    info: ModelInfo,
    language: Arc<dyn Language>,
    /// Processes that use it.
    users: usize,
    /// Whether there ever was one.
    claimed: bool,
    used: Instant,
    keep: Keep,
    /// There is no other place it could be loaded from again: it stays.
    only_here: bool,
    /// It is on the shelf no more, or in another version: it goes with its last process.
    outdated: bool,
}

impl Here {
    fn is_idle(&self) -> bool {
        let awaited = !self.claimed && self.used.elapsed() < GRACE;
        self.users == 0 && !self.only_here && !awaited
    }

    /// When it is to go, if nobody uses it.
    fn until(&self) -> Option<Instant> {
        let least = if self.claimed { Duration::ZERO } else { GRACE };
        match self.keep {
            _ if self.outdated => Some(self.used + least),
            Keep::For(time) => self.used.checked_add(time.max(least)),
            Keep::Forever => None,
        }
    }
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<String, Entry>,
    /// Requests that wait for a load.
    waiting: usize,
    stopped: bool,
}

/// All models, shared by those who ask, those who load and the processes.
pub(crate) struct Models {
    stock: Stock,
    commands: SyncSender<Command>,
    table: Mutex<Table>,
    changed: Condvar,
}

/// A process's right to a model: it stays in memory until this is dropped.
pub(crate) struct Lease {
    pub(crate) info: ModelInfo,
    pub(crate) language: Arc<dyn Language>,
    models: Arc<Models>,
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        if let Some(Entry::Here(here)) = self.models.lock().entries.get_mut(&self.info.name) {
            here.users += 1;
        }
        let (info, language) = (self.info.clone(), self.language.clone());
        Lease { info, language, models: self.models.clone() }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Entry::Here(here)) = self.models.lock().entries.get_mut(&self.info.name) {
            here.users = here.users.saturating_sub(1);
            here.used = Instant::now();
        }
        self.models.changed.notify_all();
    }
}

impl Models {
    /// The models that the engine's thread holds already, and the shelf.
    pub(crate) fn new(
        held: Vec<(ModelInfo, Arc<dyn Language>)>,
        stock: Stock,
        commands: SyncSender<Command>,
    ) -> Arc<Models> {
        let listed = stock.shelf.list();
        let entries = held.into_iter().map(|(info, language)| {
            let only_here = listed.iter().all(|other| other.name != info.name);
            let name = info.name.clone();
            let here =
                Here { only_here, claimed: true, ..Here::new(info, language, Keep::Forever) };
            (name, Entry::Here(Box::new(here)))
        });
        let table = Table { entries: entries.collect(), ..Table::default() };
        let (table, changed) = (Mutex::new(table), Condvar::new());
        let models = Arc::new(Models { stock, commands, table, changed });
        let sweeping = models.clone();
        // Without it models only go when memory is needed.
        let _ = std::thread::Builder::new().name("models".into()).spawn(move || sweeping.sweep());
        models
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        self.changed.wait(table).unwrap_or_else(PoisonError::into_inner)
    }

    /// No model is loaded or given up any more.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// All models that can be asked for. What is in memory and not on the shelf any more is given up.
    pub(crate) fn list(&self) -> Vec<ModelInfo> {
        let mut list = self.stock.shelf.list();
        let mut table = self.lock();
        let mut outdated = false;
        for (name, entry) in &mut table.entries {
            let Entry::Here(here) = entry else { continue };
            let place = list.iter_mut().find(|info| info.name == *name);
            match place {
                Some(info) if info.digest == here.info.digest => {
                    let aliases = std::mem::take(&mut info.aliases);
                    *info = ModelInfo {
                        aliases,
                        loaded: until_1970(here.until()),
                        ..here.info.clone()
                    };
                }
                None if here.only_here => {
                    list.push(ModelInfo { loaded: Some(u64::MAX), ..here.info.clone() });
                }
                _ => {
                    outdated |= !here.outdated;
                    (here.outdated, here.claimed) = (true, true);
                }
            }
        }
        drop(table);
        if outdated {
            self.changed.notify_all();
        }
        list
    }

    /// Whether there is such a model, in memory or on the shelf.
    pub(crate) fn knows(&self, name: &str) -> bool {
        let here = matches!(self.lock().entries.get(name), Some(Entry::Here(_)));
        here || self.stock.shelf.list().iter().any(|info| info.name == name)
    }

    /// From now on a model stays for so long after its last use; whether there is such a model.
    pub(crate) fn keep(&self, name: &str, keep: Keep) -> bool {
        if let Some(Entry::Here(here)) = self.lock().entries.get_mut(name) {
            (here.keep, here.used) = (keep, Instant::now());
        }
        self.changed.notify_all();
        self.knows(name)
    }

    /// A model, loaded if it is not in memory.
    pub(crate) fn lease(self: &Arc<Models>, name: &str) -> Result<Lease, Refusal> {
        let mut table = self.lock();
        loop {
            if table.stopped {
                return Err(Refusal::Stopping);
            }
            match table.entries.get_mut(name) {
                // What is there now is not what is asked for; the other can be loaded when this has gone.
                Some(Entry::Here(here)) if here.outdated && here.users > 0 => {
                    return Err(Refusal::Busy { after_ms: 1000 });
                }
                Some(Entry::Here(here)) if !here.outdated => {
                    (here.users, here.claimed) = (here.users + 1, true);
                    here.used = Instant::now();
                    let (info, language) = (here.info.clone(), here.language.clone());
                    return Ok(Lease { info, language, models: self.clone() });
                }
                Some(Entry::Here(_)) => {
                    drop(table);
                    self.unload(name);
                    table = self.lock();
                }
                Some(Entry::Leaving(_)) => table = self.wait(table),
                Some(Entry::Loading(_, attempt)) => {
                    let attempt = attempt.clone();
                    table = self.await_attempt(table, &attempt)?;
                }
                None => {
                    let attempt = Attempt::default();
                    table.entries.insert(name.into(), Entry::Loading(0, attempt.clone()));
                    drop(table);
                    self.start_load(name, &attempt);
                    table = self.await_attempt(self.lock(), &attempt)?;
                }
            }
        }
    }

    /// Waits for a load; with too many that wait, comes back with a refusal.
    fn await_attempt<'a>(
        &self,
        mut table: MutexGuard<'a, Table>,
        attempt: &Attempt,
    ) -> Result<MutexGuard<'a, Table>, Refusal> {
        if table.waiting >= WAITING && attempt.get().is_none() {
            return Err(Refusal::Busy { after_ms: 1000 });
        }
        table.waiting += 1;
        while attempt.get().is_none() && !table.stopped {
            table = self.wait(table);
        }
        table.waiting -= 1;
        match attempt.get() {
            Some(Err(refusal)) => Err(refusal.clone()),
            _ => Ok(table),
        }
    }

    fn start_load(self: &Arc<Models>, name: &str, attempt: &Attempt) {
        let (models, owned, mine) = (self.clone(), name.to_string(), attempt.clone());
        let load = move || models.load(&owned, &mine);
        if std::thread::Builder::new().name("load".into()).spawn(load).is_err() {
            self.loaded(name, attempt, Err(Refusal::Busy { after_ms: 1000 }));
        }
    }

    /// Loads a model, whatever its file holds, and hands its engine over.
    fn load(self: Arc<Models>, name: &str, attempt: &Attempt) {
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            let bytes = self.stock.shelf.bytes(name)?;
            self.make_room(name, bytes, attempt)?;
            self.stock.shelf.load(name)
        }));
        let loaded = loaded.unwrap_or_else(|_| {
            let why = format!("loading {name:?} panicked: its file may be damaged");
            Err(Refusal::Internal(why))
        });
        self.loaded(name, attempt, loaded);
    }

    fn loaded(&self, name: &str, attempt: &Attempt, loaded: Result<Loaded, Refusal>) {
        let (entry, end) = match loaded {
            Ok(Loaded { mut info, language, executor }) => {
                info.name = name.to_string();
                match self.commands.send(Command::Add(name.into(), executor)) {
                    Ok(()) => (Some(Here::new(info, language, self.stock.keep)), Ok(())),
                    Err(_) => (None, Err(Refusal::Stopping)),
                }
            }
            Err(refusal) => (None, Err(refusal)),
        };
        let mut table = self.lock();
        match entry {
            Some(here) => drop(table.entries.insert(name.into(), Entry::Here(Box::new(here)))),
            None => drop(table.entries.remove(name)),
        }
        let _ = attempt.set(end);
        drop(table);
        self.changed.notify_all();
    }

    /// Reserves the bytes that a model will take, and gives up idle models for them, if that helps.
    fn make_room(&self, name: &str, bytes: u64, attempt: &Attempt) -> Result<(), Refusal> {
        loop {
            let mut table = self.lock();
            let room = self.stock.memory.unwrap_or(u64::MAX);
            if table.others(name, |_| true).saturating_add(bytes) <= room {
                table.entries.insert(name.into(), Entry::Loading(bytes, attempt.clone()));
                return Ok(());
            }
            let kept = table.others(name, |entry| match entry {
                Entry::Here(here) => !here.is_idle(),
                Entry::Loading(..) => true,
                Entry::Leaving(_) => false,
            });
            if kept.saturating_add(bytes) > room {
                return Err(table.no_memory(name, bytes, room));
            }
            match table.least_recent() {
                Some(victim) => {
                    drop(table);
                    self.unload(&victim);
                }
                None => drop(self.wait(table)),
            }
        }
    }

    /// Gives a model up, if it is idle (still).
    fn unload(&self, name: &str) {
        let mut table = self.lock();
        match table.entries.get_mut(name) {
            Some(entry) => match entry {
                Entry::Here(here) if here.is_idle() => *entry = Entry::Leaving(here.info.memory),
                _ => return,
            },
            None => return,
        }
        drop(table);
        let (reply, answer) = mpsc::sync_channel(1);
        if self.commands.send(Command::Remove(name.into(), reply)).is_ok() {
            // Its memory is given back here, so that the engine's thread does not wait for that.
            drop(answer.recv());
        }
        self.lock().entries.remove(name);
        self.changed.notify_all();
    }

    /// Gives up what was not used for as long as it is to be kept, until the end.
    fn sweep(&self) {
        let mut table = self.lock();
        while !table.stopped {
            let now = Instant::now();
            let idle = table.entries.iter().filter_map(|(name, entry)| match entry {
                Entry::Here(here) if here.users == 0 && !here.only_here => {
                    Some((here.until()?, name))
                }
                _ => None,
            });
            match idle.min() {
                Some((until, name)) if until <= now => {
                    let name = name.clone();
                    drop(table);
                    self.unload(&name);
                    table = self.lock();
                }
                Some((until, _)) => {
                    let waited = self.changed.wait_timeout(table, until - now);
                    table = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => table = self.wait(table),
            }
        }
    }
}

impl Here {
    fn new(info: ModelInfo, language: Arc<dyn Language>, keep: Keep) -> Here {
        let used = Instant::now();
        Here {
            info,
            language,
            users: 0,
            claimed: false,
            used,
            keep,
            only_here: false,
            outdated: false,
        }
    }
}

impl Table {
    /// Bytes of all models but one that are so.
    fn others(&self, name: &str, are: impl Fn(&Entry) -> bool) -> u64 {
        let others = self.entries.iter().filter(|(other, entry)| *other != name && are(entry));
        others.fold(0, |sum: u64, (_, entry)| {
            sum.saturating_add(match entry {
                Entry::Here(here) => here.info.memory,
                Entry::Loading(bytes, _) | Entry::Leaving(bytes) => *bytes,
            })
        })
    }

    /// The idle model whose last use lies longest back.
    fn least_recent(&self) -> Option<String> {
        let idle = self.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Here(here) if here.is_idle() => Some((here.used, name)),
            _ => None,
        });
        idle.min().map(|(_, name)| name.clone())
    }

    fn no_memory(&self, name: &str, bytes: u64, room: u64) -> Refusal {
        let used = self.entries.iter().filter_map(|(other, entry)| match entry {
            Entry::Here(here) if !here.is_idle() => {
                let (mib, users) = (here.info.memory.div_ceil(1 << 20), here.users);
                Some(format!("{other} ({mib} MiB, {users} processes)"))
            }
            Entry::Loading(bytes, _) if other != name => {
                Some(format!("{other} ({} MiB, being loaded)", bytes.div_ceil(1 << 20)))
            }
            _ => None,
        });
        let used: Vec<String> = used.collect();
        let by = if used.is_empty() { "no other model".into() } else { used.join(", ") };
        Refusal::NoMemory(format!(
            "{name} needs {} MiB; models may take {} MiB together, and in use is {by}",
            bytes.div_ceil(1 << 20),
            room >> 20
        ))
    }
}

/// A moment in seconds since 1970; never is the end of time.
fn until_1970(until: Option<Instant>) -> Option<u64> {
    let Some(until) = until else { return Some(u64::MAX) };
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(999);
    Some(super::clock() / 1000 + left.as_secs())
}
