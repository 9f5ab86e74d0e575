//! The tables, their version, and whether a file is ours at all.
//!
//! The key decision: a file is looked at, read only, before anything may write to it. What is not
//! ours, comes from a newer Yushan, or does not read is refused and stays as it is, byte for byte.
//! A new database is made in one transaction, and an old one is brought forward in one.
//!
//! Numbers of 64 bits without sign stand as SQLite's signed ones with the same bits.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, TransactionBehavior, ffi};
use yushan_abi::DiskError;

use super::fault::Fault;
use crate::content::refused;

/// `application_id` of the file: "Yush".
const APPLICATION: i64 = 0x5975_7368;

/// Bytes of SQLite's smallest page.
const SMALLEST: u64 = 512;

/// What leads from each version to the next, from nothing on. Never changed, only added to.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE journal (
        seq INTEGER PRIMARY KEY,
        time_ms INTEGER NOT NULL,
        pid INTEGER NOT NULL,
        body TEXT NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
    -- Where the journal ends: one row.
    CREATE TABLE head (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        seq INTEGER NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
    INSERT INTO head VALUES (1, 0, zeroblob(32));

    CREATE TABLE documents (
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        owner TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (kind, key)
    ) STRICT;
    CREATE INDEX documents_of_owner ON documents (kind, owner, key);

    -- Who has items: how many, and of how many terms together.
    CREATE TABLE owners (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        items INTEGER NOT NULL,
        terms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE items (
        number INTEGER PRIMARY KEY,
        owner INTEGER NOT NULL,
        id TEXT NOT NULL,
        text TEXT NOT NULL,
        label TEXT NOT NULL,
        terms INTEGER NOT NULL,
        UNIQUE (owner, id)
    ) STRICT;
    -- The terms of each item, marked with its owner; rowid is the item's number.
    CREATE VIRTUAL TABLE words
        USING fts5(terms, content = '', contentless_delete = 1, tokenize = 'ascii');
    -- One row for each place where a term stands.
    CREATE VIRTUAL TABLE places USING fts5vocab(words, 'instance');
",
    "
    -- What belongs to one process; a row's number stands behind every entry.
    CREATE INDEX journal_of_process ON journal (pid);
",
];

/// What every connection is told first. `fullfsync` is what makes a sync one on macOS.
const SETTINGS: &str = "
    PRAGMA synchronous = FULL;
    PRAGMA fullfsync = ON;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;
";

/// How long a call waits for another process that writes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Opens the database for writing, made or brought forward if it must be.
pub(super) fn open(path: &Path, migrations: &[&str]) -> Result<Connection, DiskError> {
    look(path, migrations.len())?;
    let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let opened = patiently(|| {
        let mut writer = connect(path, create)?;
        migrate(&mut writer, path, migrations)?;
        let mode: String = writer.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            let said = format!(
                "{}: the file system cannot keep a write-ahead log (SQLite uses {mode:?}); move \
                 it to a local disk",
                path.display()
            );
            return Err(Fault::Disk(DiskError::Failed(said)));
        }
        Ok(writer)
    });
    opened.map_err(|fault| fault.at(path))
}

/// Opens the database for reading.
pub(super) fn reader(path: &Path) -> Result<Connection, Fault> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Tries again while another connection is in the way. SQLite waits by itself for most locks, but not where two could wait for
/// each other, as when both turn the write-ahead log on.
fn patiently<T>(mut work: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let begun = std::time::Instant::now();
    loop {
        match work() {
            Err(Fault::Sql(Error::SqliteFailure(code, _)))
                if matches!(code.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
                    && begun.elapsed() < PATIENCE =>
            {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch(SETTINGS)?;
    Ok(connection)
}

/// Refuses what must not be written to.
fn look(path: &Path, current: usize) -> Result<(), DiskError> {
    let size = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let said = "is not a file; expected the database, or nothing";
            return Err(DiskError::Failed(format!("{} {said}", path.display())));
        }
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(refused("opening", path, &error)),
    };
    if size == 0 {
        // SQLite would take the log for a stranger's and delete it.
        let log = beside(path, "-wal");
        if is_there(&log) {
            return Err(DiskError::Damaged(format!(
                "{} is missing or empty, but its log {} is there; bring the database back from \
                 a copy, or move the \
                 log away to begin anew",
                path.display(),
                log.display()
            )));
        }
        return Ok(());
    }
    if size < SMALLEST {
        // SQLite would take it for a new database and write over it.
        return Err(foreign(path, &format!("{size} bytes are less than a page of SQLite")));
    }
    // An interrupted beginning: what stands in the file is not yet anything.
    if !is_there(&beside(path, "-journal")) {
        match unmoved(path).and_then(|reader| version(&reader, path, current)) {
            Err(Fault::Disk(refused)) => return Err(refused),
            Err(Fault::Sql(Error::SqliteFailure(code, _)))
                if code.code == ErrorCode::NotADatabase =>
            {
                return Err(foreign(path, "it is not of SQLite"));
            }
            // Not the whole truth: the log may have what is missing.
            _ => (),
        }
    }
    match patiently(|| reader(path).and_then(|reader| version(&reader, path, current))) {
        // SQLite takes the interrupted beginning back as soon as it may write.
        Err(Fault::Sql(Error::SqliteFailure(code, _)))
            if code.extended_code == ffi::SQLITE_READONLY_ROLLBACK =>
        {
            Ok(())
        }
        looked => looked.map(drop).map_err(|fault| fault.at(path)),
    }
}

/// Opens the file alone, without its log and without making anything beside it. SQLite does it, since
/// whoever else opens and closes the file gives up the locks that this process has on it.
fn unmoved(path: &Path) -> Result<Connection, Fault> {
    let mut address = "file:".to_string();
    for &byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            address.push(char::from(byte));
        } else {
            address.push_str(&format!("%{byte:02x}"));
        }
    }
    address.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Ok(Connection::open_with_flags(address, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
}

/// Brings the tables to the current version.
fn migrate(writer: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), Fault> {
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = version(&transaction, path, migrations.len())?;
    if version < migrations.len() {
        migrations[version..].iter().try_for_each(|step| transaction.execute_batch(step))?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", migrations.len() as i64)?;
    }
    Ok(transaction.commit()?)
}

/// Which version a database has; 0: it is empty.
fn version(connection: &Connection, path: &Path, current: usize) -> Result<usize, Fault> {
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let things = number("SELECT count(*) FROM sqlite_schema")?;
    if application == 0 && version == 0 && things == 0 {
        return Ok(0);
    }
    if application != APPLICATION {
        return Err(foreign(path, "it belongs to another program").into());
    }
    match usize::try_from(version) {
        Ok(version) if (1..=current).contains(&version) => Ok(version),
        _ => Err(DiskError::Failed(format!(
            "{} has version {version} of the tables; this Yushan knows 1 to {current}: use the \
             Yushan that wrote it, or \
             a newer one",
            path.display()
        ))
        .into()),
    }
}

fn foreign(path: &Path, why: &str) -> DiskError {
    DiskError::Failed(format!(
        "{} is not a database of Yushan: {why}; it was left as it is: move it away, or choose \
         another folder",
        path.display()
    ))
}

/// What SQLite keeps beside a database.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(ending);
    beside.into()
}

fn is_there(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0)
}
