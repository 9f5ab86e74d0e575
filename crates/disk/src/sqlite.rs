//! The disk on SQLite: `yushan.db` in a folder, and `bytes/` beside it.
//!
//! The key decision: one connection writes, behind a mutex, and every call is one transaction that is
//! synced when it returns (write-ahead log, `synchronous = FULL`). Readers have connections of their own
//! and see a snapshot; they wait for nobody. Nothing is cached, so several processes may have the
//! same folder open.
//!
//! One gap is left: if the sync of a commit itself fails *and* the system dies before the next write,
//! the refused records may be there afterwards, whole and in their chain.

mod fault;
mod index;
mod schema;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use yushan_abi::{Change, Disk, DiskError, Document, NewRecord, Record};

use crate::content::{Contents, Machine, make_folder};
use crate::digest::Hash;
use crate::journal::Head;
use crate::named;
use fault::Fault;

/// The records of a process behind a number, each with the hash of the record before it.
const OF_PROCESS: &str = "
    SELECT own.seq, own.time_ms, own.pid, own.body, own.hash, before.hash
    FROM journal AS own LEFT JOIN journal AS before ON before.seq = own.seq - 1
    WHERE own.pid = ? AND own.seq > ? ORDER BY own.seq";

/// Idle readers that are kept.
const READERS: usize = 8;

/// A disk and an index in a folder.
pub struct Sqlite {
    path: PathBuf,
    /// Idle. They close before the writer, which then can empty the log.
    readers: Mutex<Vec<Connection>>,
    writer: Mutex<Connection>,
    contents: Contents,
}

impl Sqlite {
    /// Opens the disk in `folder`, made if there is none. A folder that holds something else is refused
    /// and left as it is.
    pub fn open(folder: &Path) -> Result<Sqlite, DiskError> {
        make_folder(folder)?;
        let path = folder.join("yushan.db");
        let writer = Mutex::new(schema::open(&path, schema::MIGRATIONS)?);
        let contents = Contents::open(&folder.join("bytes"), Machine)?;
        let disk = Sqlite { path, readers: Mutex::default(), writer, contents };
        disk.read(|reader| {
            let head = head(reader)?;
            last(reader)?.ends_at(&head)?;
            Ok(())
        })?;
        Ok(disk)
    }

    /// Reads from one snapshot.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, DiskError> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let read = || {
            let reader = idle.map_or_else(|| schema::reader(&self.path), Ok)?;
            let transaction = reader.unchecked_transaction()?;
            let result = work(&transaction)?;
            drop(transaction);
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < READERS {
                readers.push(reader);
            }
            Ok(result)
        };
        read().map_err(|fault: Fault| fault.at(&self.path))
    }

    /// Writes all or nothing, durable on return.
    fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, DiskError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        write().map_err(|fault: Fault| fault.at(&self.path))
    }
}

impl Disk for Sqlite {
    fn append(&self, records: &[NewRecord]) -> Result<u64, DiskError> {
        if records.is_empty() {
            return self.read(|reader| Ok(head(reader)?.seq));
        }
        self.write(|transaction| {
            let mut head = head(transaction)?;
            let sql = "INSERT INTO journal (seq, time_ms, pid, body, hash) VALUES (?, ?, ?, ?, ?)";
            let mut insert = transaction.prepare_cached(sql)?;
            for new in records {
                let Record { seq, time_ms, pid, body, hash } = head.chain(new);
                let numbers = [seq, time_ms, pid].map(u64::cast_signed);
                insert.execute(params![numbers[0], numbers[1], numbers[2], body, hash])?;
            }
            let mut update = transaction.prepare_cached("UPDATE head SET seq = ?, hash = ?")?;
            update.execute(params![head.seq.cast_signed(), head.hash])?;
            Ok(head.seq)
        })
    }

    fn replay(
        &self,
        from: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        self.read(|reader| {
            let from = from.max(1);
            let end = head(reader)?;
            if from > end.seq {
                return Ok(());
            }
            let mut head = match record(reader, from - 1)? {
                Some(before) => Head { seq: before.seq, hash: before.hash },
                None if from == 1 => Head::default(),
                None => {
                    let said = format!("the journal's record {} is missing", from - 1);
                    return Err(DiskError::Damaged(said).into());
                }
            };
            if walk(reader, &mut head, visit)?.is_continue() {
                head.ends_at(&end)?;
            }
            Ok(())
        })
    }

    fn replay_of(
        &self,
        pid: u64,
        after: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        self.read(|reader| {
            // Numbers of records stay far below the sign.
            let Ok(after) = i64::try_from(after) else { return Ok(()) };
            let mut records = reader.prepare_cached(OF_PROCESS)?;
            let mut rows = records.query(params![pid.cast_signed(), after])?;
            while let Some(row) = rows.next()? {
                let (record, before) = (as_record(row)?, row.get::<_, Option<Hash>>(5)?);
                let mut head = match (record.seq, before) {
                    (1, _) => Head::default(),
                    (seq, Some(hash)) => Head { seq: seq - 1, hash },
                    (seq, None) => {
                        let said = format!("the journal's record {} is missing", seq - 1);
                        return Err(DiskError::Damaged(said).into());
                    }
                };
                head.follow(&record)?;
                if visit(record).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn verify(&self) -> Result<u64, DiskError> {
        self.read(|reader| {
            let found: String = reader.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if found != "ok" {
                return Err(DiskError::Damaged(found).into());
            }
            let mut chain = Head::default();
            let _ = walk(reader, &mut chain, &mut |_| ControlFlow::Continue(()))?;
            chain.ends_at(&head(reader)?)?;
            Ok(chain.seq)
        })
    }

    fn put(&self, document: &Document) -> Result<(), DiskError> {
        self.write(|transaction| put(transaction, document))
    }

    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DiskError> {
        self.read(|reader| {
            let mut get = reader.prepare_cached(
                "SELECT kind, key, owner, created_ms, body FROM documents WHERE kind = ? AND key = ?",
            )?;
            Ok(get.query_row([kind, key], document).optional()?)
        })
    }

    fn delete(&self, kind: &str, key: &str) -> Result<bool, DiskError> {
        self.write(|transaction| delete(transaction, kind, key))
    }

    fn list(
        &self,
        kind: &str,
        owner: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Document>, DiskError> {
        self.read(|reader| {
            let whose = if owner.is_some() { "owner = ?4" } else { "?4 IS NULL" };
            let mut list = reader.prepare_cached(&format!(
                "SELECT kind, key, owner, created_ms, body FROM documents
                 WHERE kind = ?1 AND {whose} AND key > ?2 ORDER BY key LIMIT ?3"
            ))?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let found = list.query_map(params![kind, after, limit, owner], document)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    fn change(&self, changes: &[Change]) -> Result<(), DiskError> {
        self.write(|transaction| {
            changes.iter().try_for_each(|change| match change {
                Change::Put(document) => put(transaction, document),
                Change::Delete { kind, key } => delete(transaction, kind, key).map(drop),
                Change::Insert(item) => index::insert(transaction, item),
                Change::Remove { owner, id } => index::remove(transaction, owner, id).map(drop),
            })
        })
    }

    fn put_bytes(&self, bytes: &[u8]) -> Result<String, DiskError> {
        self.contents.put(bytes)
    }

    fn get_bytes(&self, sha256: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.contents.get(sha256)
    }
}

fn put(transaction: &Transaction<'_>, document: &Document) -> Result<(), Fault> {
    let Document { kind, key, owner, created_ms, body } = document;
    named(kind, key)?;
    let mut put = transaction.prepare_cached(
        "INSERT INTO documents (kind, key, owner, created_ms, body) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (kind, key) DO UPDATE SET owner = excluded.owner, body = excluded.body",
    )?;
    put.execute(params![kind, key, owner, created_ms.cast_signed(), body])?;
    Ok(())
}

fn delete(transaction: &Transaction<'_>, kind: &str, key: &str) -> Result<bool, Fault> {
    let sql = "DELETE FROM documents WHERE kind = ? AND key = ?";
    Ok(transaction.prepare_cached(sql)?.execute([kind, key])? > 0)
}

/// Shows the records behind `head` in their order, and checks each before it is shown.
fn walk(
    reader: &Connection,
    head: &mut Head,
    visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Fault> {
    let sql = "SELECT seq, time_ms, pid, body, hash FROM journal WHERE seq > ? ORDER BY seq";
    let mut records = reader.prepare_cached(sql)?;
    for record in records.query_map([head.seq.cast_signed()], as_record)? {
        let record = record?;
        head.follow(&record)?;
        if visit(record).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Where the journal ends, as was noted.
fn head(connection: &Connection) -> Result<Head, Fault> {
    let mut head = connection.prepare_cached("SELECT seq, hash FROM head")?;
    let head = head.query_row([], as_head).optional()?;
    Ok(head.ok_or_else(|| DiskError::Damaged("nothing says where the journal ends".to_string()))?)
}

/// Where the journal's records end.
fn last(connection: &Connection) -> Result<Head, Fault> {
    let sql = "SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1";
    Ok(connection.prepare_cached(sql)?.query_row([], as_head).optional()?.unwrap_or_default())
}

fn record(connection: &Connection, seq: u64) -> Result<Option<Record>, Fault> {
    let sql = "SELECT seq, time_ms, pid, body, hash FROM journal WHERE seq = ?";
    Ok(connection.prepare_cached(sql)?.query_row([seq.cast_signed()], as_record).optional()?)
}

fn as_head(row: &Row<'_>) -> rusqlite::Result<Head> {
    Ok(Head { seq: row.get::<_, i64>(0)?.cast_unsigned(), hash: row.get(1)? })
}

fn as_record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        time_ms: row.get::<_, i64>(1)?.cast_unsigned(),
        pid: row.get::<_, i64>(2)?.cast_unsigned(),
        body: row.get(3)?,
        hash: row.get(4)?,
    })
}

fn document(row: &Row<'_>) -> rusqlite::Result<Document> {
    Ok(Document {
        kind: row.get(0)?,
        key: row.get(1)?,
        owner: row.get(2)?,
        created_ms: row.get::<_, i64>(3)?.cast_unsigned(),
        body: row.get(4)?,
    })
}

#[cfg(test)]
mod tests;
