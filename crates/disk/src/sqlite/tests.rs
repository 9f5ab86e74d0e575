//! What only shows from inside: full databases, the settings of the connections, migrations.

use yushan_abi::{Index, Item, Label};

use super::*;

fn record(pid: u64) -> NewRecord {
    NewRecord { time_ms: 1, pid, body: "玉山".repeat(500) }
}

/// Allows the database this many pages.
fn allow(disk: &Sqlite, pages: i64) {
    let writer = disk.writer.lock().unwrap();
    writer.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
}

fn pages(disk: &Sqlite) -> i64 {
    disk.writer.lock().unwrap().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
}

/// All that the disk holds.
fn holds(disk: &Sqlite) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut records = Vec::new();
    disk.replay(1, &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    })
    .unwrap();
    let documents = disk.list("file", None, "", 99).unwrap();
    let hits = disk.search("ann", "玉山 tea", 99).unwrap();
    assert_eq!(disk.verify(), Ok(records.len() as u64));
    (records, documents, hits)
}

/// A session, call by call: journal, documents, items, each larger than a page.
fn session(disk: &Sqlite, number: u64) -> Result<(), DiskError> {
    let text = "玉山 tea ".repeat(600);
    match number % 3 {
        0 => disk.append(&[record(number), record(number)]).map(drop),
        1 => {
            let [kind, owner] = ["file", "ann"].map(str::to_string);
            let key = number.to_string();
            disk.put(&Document { kind, key, owner, created_ms: number, body: text })
        }
        _ => disk.insert(&Item {
            id: number.to_string(),
            owner: "ann".to_string(),
            text,
            label: Label::default(),
        }),
    }
}

/// The database is full at every page of a session in turn.
#[test]
fn a_full_database_refuses_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Sqlite::open(folder.path()).unwrap();
    let mut refusals = 0;
    for number in 0..9 {
        let before = holds(&disk);
        let mut room = pages(&disk);
        loop {
            allow(&disk, room);
            match session(&disk, number) {
                Ok(()) => break,
                Err(DiskError::Full(said)) => assert!(said.contains("yushan.db"), "{said}"),
                Err(other) => panic!("{other}"),
            }
            refusals += 1;
            room += 1;
            assert!(holds(&disk) == before, "call {number} with {room} pages");
        }
        assert!(holds(&disk) != before, "call {number}");
    }
    assert!(refusals > 20, "{refusals}");
    let held = holds(&disk);
    drop(disk);
    assert!(holds(&Sqlite::open(folder.path()).unwrap()) == held);
}

#[test]
fn what_is_returned_from_is_synced() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Sqlite::open(folder.path()).unwrap();
    let writer = disk.writer.lock().unwrap();
    let setting =
        |name| writer.query_row(name, [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    // 2 is FULL.
    assert_eq!(setting("PRAGMA synchronous"), 2.into());
    assert_eq!(setting("PRAGMA fullfsync"), 1.into());
    assert_eq!(setting("PRAGMA journal_mode"), "wal".to_string().into());
}

#[test]
fn an_older_database_is_brought_forward_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("yushan.db");
    let disk = Sqlite::open(folder.path()).unwrap();
    disk.append(&[record(1)]).unwrap();
    let held = holds(&disk);
    drop(disk);

    let known = schema::MIGRATIONS;
    let broken = [known, &["CREATE TABLE more (x)", "CREATE TABLE more (x)"]].concat();
    assert!(schema::open(&path, &broken).is_err());
    assert!(holds(&Sqlite::open(folder.path()).unwrap()) == held, "still of its version");

    let newer = [known, &["CREATE TABLE more (x); UPDATE head SET one = 1"]].concat();
    drop(schema::open(&path, &newer).unwrap());
    drop(schema::open(&path, &newer).unwrap());
    let refused = Sqlite::open(folder.path()).err().unwrap().to_string();
    assert!(refused.contains(&format!("has version {}", newer.len())), "{refused}");
}

/// Databases of every version that was ever written, with what was in them.
#[test]
fn a_database_of_any_version_becomes_the_present_one() {
    for version in 1..=schema::MIGRATIONS.len() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("yushan.db");
        drop(schema::open(&path, &schema::MIGRATIONS[..version]).unwrap());
        let written = Connection::open(&path).unwrap();
        let mut head = Head::default();
        for pid in [7, 8, 7] {
            let Record { seq, time_ms, pid, body, hash } = head.chain(&record(pid));
            let numbers = [seq, time_ms, pid].map(u64::cast_signed);
            written
                .execute(
                    "INSERT INTO journal (seq, time_ms, pid, body, hash) VALUES (?, ?, ?, ?, ?)",
                    params![numbers[0], numbers[1], numbers[2], body, hash],
                )
                .unwrap();
        }
        written
            .execute(
                "UPDATE head SET seq = ?, hash = ?",
                params![head.seq.cast_signed(), head.hash],
            )
            .unwrap();
        drop(written);
        let disk = Sqlite::open(folder.path()).unwrap();
        assert_eq!(disk.verify(), Ok(3), "version {version}");
        let mut seen = Vec::new();
        let shown = disk.replay_of(7, 0, &mut |record| {
            seen.push(record.seq);
            ControlFlow::Continue(())
        });
        assert_eq!((shown, seen), (Ok(()), vec![1, 3]), "version {version}");
        let writer = disk.writer.lock().unwrap();
        let now: i64 = writer.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(now, schema::MIGRATIONS.len() as i64);
    }
}

/// What one process's log costs must not grow with those of others.
#[test]
fn the_records_of_a_process_are_found_by_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Sqlite::open(folder.path()).unwrap();
    let writer = disk.writer.lock().unwrap();
    let mut plan = writer.prepare(&format!("EXPLAIN QUERY PLAN {OF_PROCESS}")).unwrap();
    let steps = plan.query_map([1, 1], |row| row.get::<_, String>(3)).unwrap();
    let steps: Vec<String> = steps.map(Result::unwrap).collect();
    assert!(steps[0].contains("journal_of_process (pid=? AND rowid>?)"), "{steps:?}");
    assert!(
        !steps.iter().any(|step| step.contains("SCAN") || step.contains("B-TREE")),
        "{steps:?}"
    );
}

#[test]
fn a_record_that_was_changed_is_not_shown_as_a_process_s_own() {
    for damage in [
        "UPDATE journal SET body = body || ' ' WHERE seq = 3",
        "UPDATE journal SET time_ms = 2 WHERE seq = 3",
        "UPDATE journal SET pid = 8 WHERE seq = 2",
        "UPDATE journal SET hash = zeroblob(32) WHERE seq = 2",
        "DELETE FROM journal WHERE seq = 2",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let disk = Sqlite::open(folder.path()).unwrap();
        disk.append(&[7, 7, 8].map(record)).unwrap();
        disk.writer.lock().unwrap().execute_batch(damage).unwrap();
        let shown = disk.replay_of(8, 0, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(shown, Err(DiskError::Damaged(_))), "{damage}: {shown:?}");
    }
}
