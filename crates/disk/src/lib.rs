//! Everything that survives a restart: a journal, documents, bytes by their content, and a search
//! over texts; on [`Sqlite`], and in [`Memory`] for what needs no morrow.
//!
//! The key decision: what a call has returned from is durable, and what a call refused has changed
//! nothing. So every call is one transaction, synced before it returns, and bytes become visible by
//! a rename alone. What it costs is one sync a call; who has many records gives them in one call.
//!
//! It does not know what it stores: kinds, keys and bodies belong to whoever writes them. It does
//! no caching, runs no thread and encrypts nothing.

mod content;
mod digest;
mod journal;
mod memory;
mod sqlite;
mod words;

pub use memory::Memory;
pub use sqlite::Sqlite;

use yushan_abi::DiskError;

/// What [`Memory`] and [`Sqlite`] ask alike of a document's kind and key: without the empty ones
/// `list` can start "after nothing".
fn named(kind: &str, key: &str) -> Result<(), DiskError> {
    match (kind, key) {
        ("", _) => Err(DiskError::Failed(format!("the document {key:?} has no kind; give it one"))),
        (_, "") => {
            Err(DiskError::Failed(format!("a document of {kind:?} has no key; give it one")))
        }
        _ => Ok(()),
    }
}
