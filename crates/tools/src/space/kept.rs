//! What is kept for a space, by all drivers together: copied as one, and deleted as one.
//!
//! The key decision: the kinds of documents stand in one list, and whichever driver is told of a fork or of an end does it for all of
//! them in one change of the disk. So a space is a copy or it is not, whatever stopped in between and however many
//! drivers are told.
//!
//! Contents, which lie under their hash, stay: other spaces may name them, and a disk cannot count who does.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use yushan_abi::{Change, Disk, DiskError, Document};

use super::now;

/// The files of a space and their history.
pub(crate) const FILES: &str = "space";
/// What was read and found on the web.
pub(crate) const PAGES: &str = "web-space";
/// The cells that the code interpreter has run.
pub(crate) const CELLS: &str = "python";
/// Whose copy a space began as.
const ORIGIN: &str = "space-origin";
const KINDS: [&str; 3] = [FILES, PAGES, CELLS];
/// What the names of spaces begin with that the kernel makes: of a process, of a fork, of a check.
const MADE: [&str; 3] = ["process-", "fork-", "check-"];

/// Why a space did not become a copy; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForkError {
    /// It has something already.
    #[error(
        "a space of this name exists already, and a copy would be mixed with it; choose another name"
    )]
    Exists,
    /// The disk refused.
    #[error("the space cannot be copied: {0}")]
    Disk(#[from] DiskError),
}

/// The space `to` begins with all that is kept for `from`. Asked for again, after a crash or by another driver, it stays as it
/// is by then.
///
/// # Errors
/// There is something in `to` that does not come from this fork, or the disk refuses.
pub fn fork(disk: &dyn Disk, from: &str, to: &str) -> Result<(), ForkError> {
    // Two forks onto one name would both find nothing there.
    static FORKING: Mutex<()> = Mutex::new(());
    let _lock = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
    let origin = serde_json::Value::from(from).to_string();
    if disk.get(ORIGIN, to)?.is_some_and(|document| document.body == origin) {
        return Ok(());
    }
    let mut changes = Vec::new();
    for kind in KINDS {
        if disk.get(kind, to)?.is_some() {
            return Err(ForkError::Exists);
        }
        let Some(document) = disk.get(kind, from)? else { continue };
        let copy = Document { key: to.into(), created_ms: now(), ..document };
        if changes.is_empty() {
            let (kind, body) = (ORIGIN.into(), origin.clone());
            changes.push(Change::Put(Document { kind, body, ..copy.clone() }));
        }
        changes.push(Change::Put(copy));
    }
    // A copy of nothing is nothing.
    if changes.is_empty() { Ok(()) } else { Ok(disk.change(&changes)?) }
}

/// Whether anything is kept for a space.
///
/// # Errors
/// The disk refuses.
pub fn is_there(disk: &dyn Disk, space: &str) -> Result<bool, DiskError> {
    for kind in KINDS {
        if disk.get(kind, space)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Nobody works in this space now: what is kept for it goes, if nobody can name it again. Returns at once.
pub(crate) fn released(disk: &Arc<dyn Disk>, space: &str) {
    if !is_nameless(space) {
        return;
    }
    // One thread does it for all: a driver is told where nobody may wait for a disk.
    static SWEEPER: OnceLock<Sender<(Arc<dyn Disk>, String)>> = OnceLock::new();
    let sweeper = SWEEPER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<(Arc<dyn Disk>, String)>();
        std::thread::spawn(move || orders.iter().for_each(|(disk, space)| delete(&*disk, &space)));
        sender
    });
    let _ = sweeper.send((Arc::clone(disk), space.into()));
}

/// Deletes what is kept for a space, if nobody can name it again.
pub(crate) fn delete(disk: &dyn Disk, space: &str) {
    let is_there = |kind: &&str| !matches!(disk.get(kind, space), Ok(None));
    let kinds = KINDS.into_iter().chain([ORIGIN]).filter(is_there);
    let gone = kinds.map(|kind| Change::Delete { kind: kind.into(), key: space.into() });
    let gone: Vec<Change> = gone.collect();
    if is_nameless(space) && !gone.is_empty() {
        let _ = disk.change(&gone); // a disk that refuses keeps it
    }
}

/// Whether the kernel has made the name for one process, fork or check. A user's space is named after the user, with a
/// colon behind: the next turn of a conversation, or the user, finds it again.
fn is_nameless(space: &str) -> bool {
    MADE.iter().any(|made| space.starts_with(made)) && !space.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryDisk;

    fn put(disk: &dyn Disk, kind: &str, key: &str, body: &str) {
        let (kind, key, body) = (kind.into(), key.into(), body.into());
        disk.put(&Document { kind, key, owner: "ann".into(), created_ms: 0, body }).unwrap();
    }

    fn bodies(disk: &dyn Disk, space: &str) -> [Option<String>; 3] {
        KINDS.map(|kind| disk.get(kind, space).unwrap().map(|document| document.body))
    }

    #[test]
    fn a_space_becomes_a_copy_whole_or_not_at_all_and_once() {
        let disk = MemoryDisk::default();
        put(&disk, FILES, "a", "files");
        put(&disk, CELLS, "a", "cells");
        fork(&disk, "a", "b").unwrap();
        assert_eq!(bodies(&disk, "b"), [Some("files".into()), None, Some("cells".into())]);
        // Again, when both have gone on: neither a kind that was there nor one that was not is touched.
        put(&disk, FILES, "b", "newer");
        put(&disk, PAGES, "a", "pages");
        fork(&disk, "a", "b").unwrap();
        assert_eq!(bodies(&disk, "b"), [Some("newer".into()), None, Some("cells".into())]);
        // Whatever of it exists, of another space or of none, nothing is changed.
        put(&disk, PAGES, "c", "own");
        for (from, to) in [("a", "c"), ("c", "b"), ("a", "a")] {
            let before = bodies(&disk, to);
            assert_eq!(fork(&disk, from, to), Err(ForkError::Exists), "{from} to {to}");
            assert_eq!(bodies(&disk, to), before);
        }
        fork(&disk, "nothing", "of it").unwrap();
        assert_eq!(bodies(&disk, "of it"), [None, None, None]);
    }

    #[test]
    fn what_nobody_can_name_again_is_deleted_and_nothing_else() {
        let disk = MemoryDisk::default();
        put(&disk, FILES, "ann:talk", "files");
        for (space, stays) in [
            ("process-7", false),
            ("fork-7.1.0", false),
            ("check-7.1.0", false),
            ("process-7:mine", true),
            ("ann:process-7", true),
            ("talk", true),
        ] {
            fork(&disk, "ann:talk", space).unwrap();
            delete(&disk, space);
            for kind in [FILES, ORIGIN] {
                assert_eq!(disk.get(kind, space).unwrap().is_some(), stays, "{kind} of {space}");
            }
        }
        assert!(disk.get(FILES, "ann:talk").unwrap().is_some());
    }
}
