//! Contents on a file system that fails at every step in turn.

use std::sync::Mutex;

use super::*;

/// Fails once, at its `at`-th call.
struct Failing {
    calls: Mutex<u64>,
    at: u64,
    kind: ErrorKind,
}

impl Failing {
    fn fails(&self) -> io::Result<()> {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        if *calls == self.at { Err(self.kind.into()) } else { Ok(()) }
    }
}

impl Files for Failing {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.fails()?;
        Machine.read(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.fails() {
            Machine.write(path, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        Machine.write(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fails()?;
        Machine.rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.fails()?;
        Machine.sync_folder(folder)
    }
}

#[test]
fn a_step_that_fails_leaves_no_half() {
    let full = |error: &DiskError| matches!(error, DiskError::Full(_));
    let failed = |error: &DiskError| matches!(error, DiskError::Failed(_));
    for (kind, expected) in [
        (ErrorKind::StorageFull, &full as &dyn Fn(&DiskError) -> bool),
        (ErrorKind::QuotaExceeded, &full),
        (ErrorKind::PermissionDenied, &failed),
        (ErrorKind::Other, &failed),
    ] {
        let mut at = 0;
        let mut whole = false;
        // Until a run comes through without having met its failure.
        while !whole {
            at += 1;
            whole = session_fails_at(at, kind, expected);
        }
        assert!(at > 10, "{at}");
    }
}

/// Puts and gets two contents twice; whether nothing failed.
fn session_fails_at(at: u64, kind: ErrorKind, expected: &dyn Fn(&DiskError) -> bool) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let failing = Failing { calls: Mutex::new(0), at, kind };
    let contents = match Contents::open(folder.path(), failing) {
        Ok(contents) => contents,
        Err(error) => {
            assert!(expected(&error), "{error}");
            return false;
        }
    };
    let mut whole = true;
    for bytes in [&b"first"[..], b"second", b"first", b"second"] {
        let name = hex(&sha256(&[bytes]));
        match contents.put(bytes) {
            Ok(put) => assert_eq!(put, name),
            Err(error) => {
                assert!(expected(&error), "{error}");
                whole = false;
                let left = contents.get(&name).unwrap();
                assert!(left.is_none_or(|left| left == bytes));
            }
        }
        match contents.get(&name) {
            Ok(got) => assert!(got.is_none_or(|got| got == bytes)),
            Err(error) => {
                assert!(expected(&error), "{error}");
                whole = false;
            }
        }
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 0);
        // The failure has passed: the same call again does all.
        if !whole {
            assert_eq!(contents.put(bytes), Ok(name.clone()));
            assert_eq!(contents.get(&name), Ok(Some(bytes.to_vec())));
        }
    }
    whole
}

#[test]
fn what_a_killed_process_left_is_swept_by_who_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = Contents::open(folder.path(), Machine).unwrap();
    let left = folder.path().join("new/1-0");
    fs::write(&left, b"half").unwrap();
    let second = Contents::open(folder.path(), Machine).unwrap();
    assert!(left.exists(), "it may be somebody's who is writing it");
    drop((first, second));
    Contents::open(folder.path(), Machine).unwrap();
    assert!(!left.exists());
}
