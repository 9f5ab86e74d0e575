//! Files that are not ours, or not as they were written.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use yushan_abi::{Disk, DiskError, Index};
use yushan_disk::Sqlite;

use crate::calls::{Both, document, item, record, replayed};

/// A folder with a disk that holds four records and a little of all else.
fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let disk = Sqlite::open(folder.path()).unwrap();
    disk.append(&[1, 2, 3, 4].map(|pid| record(pid, &"x".repeat(2000)))).unwrap();
    disk.put(&document("file", "a", "ann", "{}")).unwrap();
    disk.insert(&item("ann", "1", "玉山")).unwrap();
    folder
}

#[test]
fn verify_finds_what_was_changed_removed_or_moved() {
    for sql in [
        "UPDATE journal SET body = body || ' ' WHERE seq = 2",
        "UPDATE journal SET body = replace(body, 'x', 'y') WHERE seq = 4",
        "UPDATE journal SET time_ms = time_ms + 1 WHERE seq = 3",
        "UPDATE journal SET pid = 9 WHERE seq = 1",
        "UPDATE journal SET hash = zeroblob(32) WHERE seq = 4",
        "UPDATE journal SET hash = x'00' WHERE seq = 2",
        "UPDATE journal SET body = CAST(x'ff' AS TEXT) WHERE seq = 2",
        "DELETE FROM journal WHERE seq = 1",
        "DELETE FROM journal WHERE seq = 3",
        "DELETE FROM journal WHERE seq = 4",
        "DELETE FROM journal",
        "DELETE FROM head",
        "UPDATE head SET seq = 3",
        "UPDATE journal SET seq = 5 WHERE seq = 4",
        "UPDATE journal SET seq = -seq; UPDATE journal SET seq = 5 + seq",
        "INSERT INTO journal SELECT 5, time_ms, pid, body, hash FROM journal WHERE seq = 4",
    ] {
        let folder = filled();
        let disk = Sqlite::open(folder.path()).unwrap();
        assert_eq!(disk.verify(), Ok(4));
        Connection::open(folder.path().join("yushan.db")).unwrap().execute_batch(sql).unwrap();
        assert!(matches!(disk.verify(), Err(DiskError::Damaged(_))), "{sql}: {:?}", disk.verify());
        // Nor is anything built upon it that would hide it.
        let _ = disk.append(&[record(9, "{}")]);
        assert!(matches!(disk.verify(), Err(DiskError::Damaged(_))), "{sql}: {:?}", disk.verify());
    }
}

/// What is done to the folder of a disk; and what the error then says.
type Case = (&'static str, fn(&Path), &'static str);

#[test]
fn what_is_not_ours_is_refused_and_left_as_it_is() {
    let cases: &[Case] = &[
        ("a text", |db| fs::write(db, "玉山".repeat(999)).unwrap(), "not a database of Yushan"),
        ("a short text", |db| fs::write(db, "x").unwrap(), "not a database of Yushan"),
        ("zeros", |db| fs::write(db, [0; 8192]).unwrap(), "not a database of Yushan"),
        ("another program's", |db| other(db, "CREATE TABLE t (x)"), "another program"),
        (
            "its log",
            |db| other(db, "PRAGMA journal_mode = WAL; CREATE TABLE t (x)"),
            "another program",
        ),
        ("a marked one", |db| other(db, "PRAGMA application_id = 7"), "another program"),
        ("a newer one", |db| sql(db, "PRAGMA user_version = 99"), "version 99"),
        ("a negative one", |db| sql(db, "PRAGMA user_version = -1"), "version -1"),
        ("cut", |db| fs::write(db, &fs::read(db).unwrap()[..20_000]).unwrap(), "malformed"),
        ("cut short", |db| fs::write(db, &fs::read(db).unwrap()[..50]).unwrap(), "not a database"),
        ("a torn first page", |db| change(db, 100..4096, 0xff), "malformed"),
        ("no head", |db| sql(db, "DELETE FROM head"), "nothing says where"),
        ("no last record", |db| sql(db, "DELETE FROM journal WHERE seq = 4"), "end at 3, but 4"),
        ("no table", |db| sql(db, "DROP TABLE journal"), "no such table"),
        ("a lost database", lose, "its log"),
        (
            "a folder",
            |db| {
                fs::remove_file(db).unwrap();
                fs::create_dir(db).unwrap()
            },
            "is not a file",
        ),
    ];
    for (what, damage, said) in cases {
        let folder = filled();
        let db = folder.path().join("yushan.db");
        damage(&db);
        // An empty log says nothing.
        let files = |ending: &str| {
            let file = fs::read(folder.path().join(format!("yushan.db{ending}")));
            file.ok().filter(|bytes| !bytes.is_empty())
        };
        let before = (files(""), files("-wal"));
        let error = Sqlite::open(folder.path()).err().unwrap_or_else(|| panic!("{what}: opened"));
        assert!(error.to_string().contains(said), "{what}: {error}");
        assert!(error.to_string().contains("yushan.db"), "{what}: {error}");
        assert!((files(""), files("-wal")) == before, "{what}: changed");
    }
}

fn sql(db: &Path, sql: &str) {
    Connection::open(db).unwrap().execute_batch(sql).unwrap();
}

fn other(db: &Path, made: &str) {
    fs::remove_file(db).unwrap();
    sql(db, made);
}

fn change(db: &Path, range: std::ops::Range<usize>, byte: u8) {
    let mut bytes = fs::read(db).unwrap();
    bytes[range].fill(byte);
    fs::write(db, bytes).unwrap();
}

/// The log of a process that was killed, without its database.
fn lose(db: &Path) {
    fs::write(db.with_extension("db-wal"), [7; 99]).unwrap();
    fs::remove_file(db).unwrap();
}

/// Whatever byte is turned, the journal gives records as they were written, or an error.
#[test]
fn a_turned_byte_is_never_a_record() {
    let folder = filled();
    let db = folder.path().join("yushan.db");
    let written = replayed(&Sqlite::open(folder.path()).unwrap(), 1, 9).unwrap();
    let whole = fs::read(&db).unwrap();
    let mut refused = 0;
    for place in (0..whole.len()).step_by(whole.len() / 97) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x41;
        fs::write(&db, &bytes).unwrap();
        let seen = Sqlite::open(folder.path()).and_then(|disk| {
            let _ = disk.search("ann", "玉山", 9);
            let _ = disk.list("file", None, "", 9);
            replayed(&disk as &dyn Both, 1, 9)
        });
        match seen {
            Ok(seen) => assert!(seen == written, "byte {place}"),
            Err(_) => refused += 1,
        }
        let _ = fs::remove_file(db.with_extension("db-wal"));
        let _ = fs::remove_file(db.with_extension("db-shm"));
    }
    assert!(refused > 5, "{refused}");
}

#[test]
fn a_damaged_content_is_found_and_healed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Sqlite::open(folder.path()).unwrap();
    let name = disk.put_bytes(b"a picture of Yushan").unwrap();
    for damage in [&b"a picture of yushan"[..], b"a picture", b"", b"a picture of Yushan\n"] {
        fs::write(folder.path().join("bytes").join(&name), damage).unwrap();
        assert!(matches!(disk.get_bytes(&name), Err(DiskError::Damaged(_))), "{damage:?}");
        assert_eq!(disk.put_bytes(b"a picture of Yushan"), Ok(name.clone()));
        assert_eq!(disk.get_bytes(&name), Ok(Some(b"a picture of Yushan".to_vec())));
    }
}

/// Two processes, or two parts of one, may have a disk open.
#[test]
fn a_folder_may_be_opened_by_many_at_once() {
    for _ in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for pid in 0..6 {
                let folder = folder.path();
                scope.spawn(move || {
                    let disk = Sqlite::open(folder).unwrap();
                    disk.append(&[record(pid, "{}")]).unwrap();
                    disk.put_bytes(&pid.to_le_bytes()).unwrap();
                });
            }
        });
        assert_eq!(Sqlite::open(folder.path()).unwrap().verify(), Ok(6));
    }
}
