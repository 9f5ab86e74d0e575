//! The clerk: the thread that writes the journal.
//!
//! The key decision: the engine never waits for a disk. It hands over notes, in order; whatever waits while
//! the clerk writes becomes one transaction, and what shall happen when a note is durable comes back as a
//! command. Without a disk every note is durable at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use yushan_abi::{Disk, DiskError, NewRecord, Refusal};

use super::{Command, clock};
use crate::life::Entry;
use crate::process::Pid;

/// Notes of one transaction.
const TOGETHER: usize = 256;

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
    /// Whoever waits hears whether it could be noted.
    Told(SyncSender<bool>),
    /// Whoever waits hears this; nothing can be refused.
    Tell(SyncSender<bool>, bool),
    /// Whoever waits hears of it.
    Wake(SyncSender<Result<(), DiskError>>),
}

/// Where notes are handed over.
#[derive(Clone)]
pub(super) struct Clerk(Sender<Note>);

impl Clerk {
    /// Starts the thread. It ends when the last clerk is dropped.
    ///
    /// # Panics
    /// If the operating system has no thread left.
    pub(super) fn start(disk: Option<Arc<dyn Disk>>, commands: SyncSender<Command>) -> Clerk {
        let (notes, receiver) = mpsc::channel();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_all(disk.as_deref(), &receiver, &commands))
            .expect("a thread for the journal");
        Clerk(notes)
    }

    /// Hands over a note.
    pub(super) fn note(&self, entries: Vec<(Pid, Entry)>, then: Then) {
        // The thread lives as long as somebody can call this.
        let _ = self.0.send(Note { entries, then });
    }

    /// Hands over entries and waits until they are durable.
    pub(super) fn wait(&self, entries: Vec<(Pid, Entry)>) -> Result<(), DiskError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.note(entries, Then::Wake(reply));
        answer.recv().unwrap_or_else(|_| Err(DiskError::Failed("the journal has ended".into())))
    }
}

fn write_all(disk: Option<&dyn Disk>, notes: &Receiver<Note>, commands: &SyncSender<Command>) {
    while let Ok(first) = notes.recv() {
        let mut group = vec![first];
        group.extend(notes.try_iter().take(TOGETHER - 1));
        let records: Vec<NewRecord> = group.iter().flat_map(records).collect();
        match write(disk, &records) {
            Ok(()) => group.into_iter().for_each(|note| follow(note, Ok(()), commands)),
            // One by one, so that only those that really do not fit are refused.
            Err(_) => {
                for note in group {
                    let written = write(disk, &records_of(&note));
                    follow(note, written, commands);
                }
            }
        }
    }
}

fn write(disk: Option<&dyn Disk>, records: &[NewRecord]) -> Result<(), DiskError> {
    match disk {
        Some(disk) if !records.is_empty() => disk.append(records).map(|_| ()),
        _ => Ok(()),
    }
}

fn records_of(note: &Note) -> Vec<NewRecord> {
    records(note).collect()
}

fn records(note: &Note) -> impl Iterator<Item = NewRecord> {
    let time_ms = clock();
    note.entries.iter().map(move |(pid, entry)| NewRecord {
        time_ms,
        pid: pid.0,
        body: serde_json::to_string(entry).expect("entries are plain data"),
    })
}

fn follow(note: Note, written: Result<(), DiskError>, commands: &SyncSender<Command>) {
    // A journal with a hole would tell of another process: what cannot be noted ends.
    if let Err(error) = &written
        && !matches!(note.then, Then::Wake(_))
    {
        let pids: BTreeSet<Pid> = note.entries.iter().map(|(pid, _)| *pid).collect();
        for pid in pids {
            let _ = commands.send(Command::Unnoted(pid, error.clone()));
        }
    }
    let refused = |error: DiskError| Refusal::Internal(error.to_string());
    // Whoever is not there any more needs to hear nothing.
    match (note.then, written) {
        (Then::Nothing, _) | (Then::GoOn(_), Err(_)) => {}
        (Then::Said(pid, reply), written) => {
            if written.is_ok() {
                let _ = commands.send(Command::GoOn(pid));
            }
            let _ = reply.send(written.map_err(refused));
        }
        (Then::Sent(reply), written) => {
            let _ = reply.send(written.map_err(refused));
        }
        (Then::Told(reply), written) => {
            let _ = reply.send(written.is_ok());
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
            let _ = reply.send(Err(refused(error)));
        }
        (Then::Tell(reply, what), _) => {
            let _ = reply.send(what);
        }
        (Then::Wake(reply), written) => {
            let _ = reply.send(written);
        }
    }
}
