//! `Disk` and `Index`: what survives a restart, and how it is found again.
//!
//! The key decision: two shapes are enough. A *journal* that only grows, each record chained to the one
//! before by its hash; and *documents*, JSON under a kind and a key, with an owner. What a call has
//! returned from is durable.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::label::Label;

/// What a disk could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The operating system or the database refused; nothing was changed.
    #[error("{0}")]
    Failed(String),
    /// There is no room; nothing was changed.
    #[error("the disk is full: {0}")]
    Full(String),
    /// What is stored is not what was written.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// A record of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place: 1, 2, 3, …
    pub seq: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// The process it belongs to; 0: the system.
    pub pid: u64,
    /// JSON.
    pub body: String,
    /// SHA-256 of the hash before, the sequence number, time, pid and body.
    pub hash: [u8; 32],
}

/// A record to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// The process it belongs to; 0: the system.
    pub pid: u64,
    /// JSON.
    pub body: String,
}

/// A document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// What it is: `conversation`, `file`, `key`, `user`, `response`, …
    pub kind: String,
    /// Its name, unique within its kind.
    pub key: String,
    /// Whose it is; empty: the system's.
    pub owner: String,
    /// Milliseconds since 1970, when it was first written.
    pub created_ms: u64,
    /// JSON.
    pub body: String,
}

/// A change of documents, or of what is found by its words where the same disk is an [`Index`].
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// As [`Disk::put`].
    Put(Document),
    /// As [`Disk::delete`].
    Delete {
        /// The document's kind.
        kind: String,
        /// Its key.
        key: String,
    },
    /// As [`Index::insert`].
    Insert(Item),
    /// As [`Index::remove`].
    Remove {
        /// Whose the item is.
        owner: String,
        /// Its name.
        id: String,
    },
}

/// Stores. Implementations: SQLite; memory. (`yushan-disk`.)
pub trait Disk: Send + Sync {
    /// Appends records to the journal, all or none, and gives the number of the last.
    fn append(&self, records: &[NewRecord]) -> Result<u64, DiskError>;

    /// Shows the records from `from` on, in order, until told to stop.
    fn replay(
        &self,
        from: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError>;

    /// Shows the records of one process behind the number `after`, in order, until told to stop. Each is
    /// checked against the hash of the record before it in the journal, and nothing else is read: that
    /// none is missing in between is for [`Disk::replay`] and [`Disk::verify`] to find.
    fn replay_of(
        &self,
        pid: u64,
        after: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError>;

    /// Checks the chain of hashes and gives how many records there are.
    fn verify(&self) -> Result<u64, DiskError>;

    /// Writes a document over the one with its kind and key, whose time of creation is kept.
    fn put(&self, document: &Document) -> Result<(), DiskError>;

    /// Reads a document.
    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DiskError>;

    /// Deletes a document; whether there was one.
    fn delete(&self, kind: &str, key: &str) -> Result<bool, DiskError>;

    /// Documents of a kind, of one owner or of all, by key, after a key.
    fn list(
        &self,
        kind: &str,
        owner: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Document>, DiskError>;

    /// Makes changes in their order, all or none.
    fn change(&self, changes: &[Change]) -> Result<(), DiskError>;

    /// Stores bytes under their SHA-256, once, and gives it in hexadecimal.
    fn put_bytes(&self, bytes: &[u8]) -> Result<String, DiskError>;

    /// Reads bytes by their SHA-256 and checks it.
    fn get_bytes(&self, sha256: &str) -> Result<Option<Vec<u8>>, DiskError>;
}

/// Something that can be found by its words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name.
    pub id: String,
    /// Whose it is: nobody else finds it.
    pub owner: String,
    /// What is searched.
    pub text: String,
    /// Where it came from.
    pub label: Label,
}

/// Something found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// What.
    pub item: Item,
    /// How well it fits: larger is better.
    pub score: f64,
}

/// Searches. Implementations: SQLite's full text (with Chinese split by bigrams); memory.
pub trait Index: Send + Sync {
    /// Adds an item, in place of one with its id.
    fn insert(&self, item: &Item) -> Result<(), DiskError>;

    /// Removes an item; whether it was there.
    fn remove(&self, owner: &str, id: &str) -> Result<bool, DiskError>;

    /// The best items of an owner for a query in plain words, best first.
    fn search(&self, owner: &str, query: &str, limit: usize) -> Result<Vec<Hit>, DiskError>;
}
