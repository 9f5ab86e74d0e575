//! The clerk: the thread that writes the journal.
//!
//! The key decision: the engine never waits for a disk. It hands over notes, in order; whatever waits while
//! the clerk writes becomes one transaction, and what shall happen when a note is durable comes back as a
//! command. Without a disk every note is durable at once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use yushan_abi::{Disk, DiskError, NewRecord, Refusal};

use super::{Command, clock};
use crate::life::Entry;
use crate::process::Pid;

/// Notes of one transaction.
const TOGETHER: usize = 256;

/// Notes that may wait before processes wait for the disk too.
const BEHIND: usize = 1024;

/// Entries that become durable together, and what follows.
pub(super) struct Note {
    pub(super) entries: Vec<(Pid, Entry)>,
    pub(super) then: Then,
}

/// What follows when a note is durable.
pub(super) enum Then {
    /// Nothing: it is only known sooner or later.
    Nothing,
    /// These processes go on; if the disk refuses, they fail.
    GoOn(Vec<Pid>),
    /// Whoever asked for a process hears of it.
    Began(Pid, SyncSender<Result<Pid, Refusal>>),
    /// A process goes on, and whoever answered it hears that the answer is kept.
    Said(Pid, SyncSender<Result<(), Refusal>>),
    /// Whoever sent it hears that it is kept.
    Sent(SyncSender<Result<(), Refusal>>),
    /// Whoever waits hears this; nothing can be refused.
    Tell(SyncSender<Result<bool, Refusal>>, bool),
    /// Whoever waits hears that it is so.
    Told(SyncSender<Result<bool, Refusal>>),
    /// Whoever waits hears of it.
    Wake(SyncSender<Result<(), DiskError>>),
}

/// Where notes are handed over.
#[derive(Clone)]
pub(super) struct Clerk {
    notes: Sender<Note>,
    /// Notes that are not durable yet.
    waiting: Arc<AtomicUsize>,
}

impl Clerk {
    /// Starts the thread. It ends when the last clerk is dropped.
    ///
    /// # Panics
    /// If the operating system has no thread left.
    pub(super) fn start(disk: Option<Arc<dyn Disk>>, commands: SyncSender<Command>) -> Clerk {
        let (notes, receiver) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = waiting.clone();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_all(disk.as_deref(), &receiver, &commands, &left))
            .expect("a thread for the journal");
        Clerk { notes, waiting }
    }

    /// Hands over a note.
    pub(super) fn note(&self, entries: Vec<(Pid, Entry)>, then: Then) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread lives as long as somebody can call this.
        let _ = self.notes.send(Note { entries, then });
    }

    /// Whether the disk is so slow that notes pile up.
    pub(super) fn is_behind(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= BEHIND
    }

    /// Hands over entries and waits until they are durable.
    pub(super) fn wait(&self, entries: Vec<(Pid, Entry)>) -> Result<(), DiskError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.note(entries, Then::Wake(reply));
        answer.recv().unwrap_or_else(|_| Err(DiskError::Failed("the journal has ended".into())))
    }
}

fn write_all(
    disk: Option<&dyn Disk>,
    notes: &Receiver<Note>,
    commands: &SyncSender<Command>,
    waiting: &AtomicUsize,
) {
    let mut broken = Broken::default();
    while let Ok(first) = notes.recv() {
        let mut group = vec![first];
        group.extend(notes.try_iter().take(TOGETHER - 1));
        let count = group.len();
        if group.iter().all(|note| broken.before(note).is_none()) && write(disk, &group).is_ok() {
            waiting.fetch_sub(count, Ordering::Relaxed);
            group.into_iter().for_each(|note| follow(note, Ok(()), commands));
            continue;
        }
        // One by one, so that only those that really do not fit are refused.
        for note in group {
            let written = match broken.before(&note) {
                Some(error) => Err(error),
                None => write(disk, std::slice::from_ref(&note)),
            };
            broken.after(&note, &written);
            waiting.fetch_sub(1, Ordering::Relaxed);
            follow(note, written, commands);
        }
    }
}

/// Processes of which something could not be noted, and why: a journal with a hole would tell of another
/// process, so nothing more is noted of them but their end, if it has their beginning.
#[derive(Default)]
struct Broken(BTreeMap<Pid, (DiskError, bool)>);

impl Broken {
    /// Why a note must not be written.
    fn before(&self, note: &Note) -> Option<DiskError> {
        note.entries.iter().find_map(|(pid, entry)| match self.0.get(pid) {
            Some((_, true)) if matches!(entry, Entry::Exited(_)) => None,
            broken => broken.map(|(error, _)| error.clone()),
        })
    }

    fn after(&mut self, note: &Note, written: &Result<(), DiskError>) {
        for (pid, entry) in &note.entries {
            if let Entry::Exited(_) = entry {
                // Nothing is noted of a process after its end.
                self.0.remove(pid);
            } else if let Err(error) = written {
                let begun = !matches!(entry, Entry::Began(_));
                self.0.entry(*pid).or_insert_with(|| (error.clone(), begun));
            }
        }
    }
}

/// Writes notes, all or none. A disk that panics has failed.
fn write(disk: Option<&dyn Disk>, notes: &[Note]) -> Result<(), DiskError> {
    let Some(disk) = disk else { return Ok(()) };
    let time_ms = clock();
    let entries = notes.iter().flat_map(|note| &note.entries);
    let records = entries.map(|(pid, entry)| match serde_json::to_string(entry) {
        Ok(body) => Ok(NewRecord { time_ms, pid: pid.0, body }),
        Err(error) => Err(DiskError::Failed(format!("an entry of process {pid}: {error}"))),
    });
    let records: Vec<NewRecord> = records.collect::<Result<_, _>>()?;
    if records.is_empty() {
        return Ok(());
    }
    let append = catch_unwind(AssertUnwindSafe(|| disk.append(&records).map(drop)));
    append.unwrap_or_else(|_| Err(DiskError::Failed("the disk panicked".into())))
}

fn follow(note: Note, written: Result<(), DiskError>, commands: &SyncSender<Command>) {
    // What cannot be noted ends.
    if let Err(error) = &written
        && !matches!(note.then, Then::Wake(_))
    {
        let mut pids: Vec<Pid> = note.entries.iter().map(|(pid, _)| *pid).collect();
        pids.dedup();
        for pid in pids {
            let _ = commands.send(Command::Unnoted(pid, error.clone()));
        }
    }
    // Whoever is not there any more needs to hear nothing.
    match (note.then, written) {
        (Then::Nothing, _) | (Then::GoOn(_), Err(_)) => {}
        (Then::Said(pid, reply), written) => {
            if written.is_ok() {
                let _ = commands.send(Command::GoOn(pid));
            }
            let _ = reply.send(written.map_err(Refusal::from));
        }
        (Then::Sent(reply), written) => {
            let _ = reply.send(written.map_err(Refusal::from));
        }
        (Then::Told(reply), written) => {
            let _ = reply.send(written.map(|()| true).map_err(Refusal::from));
        }
        (Then::GoOn(pids), Ok(())) => {
            for pid in pids {
                let _ = commands.send(Command::GoOn(pid));
            }
        }
        (Then::Began(pid, reply), Ok(())) => {
            let _ = reply.send(Ok(pid));
        }
        (Then::Began(_, reply), Err(error)) => {
            let _ = reply.send(Err(error.into()));
        }
        (Then::Tell(reply, what), _) => {
            let _ = reply.send(Ok(what));
        }
        (Then::Wake(reply), written) => {
            let _ = reply.send(written);
        }
    }
}
