//! Calls as data, for the tests that run them on one disk and compare with another.

use std::ops::ControlFlow;

use yushan_abi::{Disk, DiskError, Document, Hit, Index, Item, Label, NewRecord, Record, Sources};

/// A disk and an index in one.
pub(crate) trait Both: Disk + Index {}
impl<T: Disk + Index> Both for T {}

/// One call.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Append(Vec<NewRecord>),
    Replay { from: u64, most: usize },
    ReplayOf { pid: u64, after: u64, most: usize },
    Verify,
    Put(Document),
    Get { kind: String, key: String },
    Delete { kind: String, key: String },
    List { kind: String, owner: Option<String>, after: String, limit: usize },
    PutBytes(Vec<u8>),
    GetBytes(String),
    Insert(Item),
    Remove { owner: String, id: String },
    Search { owner: String, query: String, limit: usize },
}

/// What it gave.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Nothing,
    Number(u64),
    Flag(bool),
    Name(String),
    Bytes(Option<Vec<u8>>),
    Records(Vec<Record>),
    Documents(Vec<Document>),
    Hits(Vec<Hit>),
}

/// Makes a call.
pub(crate) fn call(disk: &dyn Both, call: &Call) -> Result<Answer, DiskError> {
    Ok(match call {
        Call::Append(records) => Answer::Number(disk.append(records)?),
        Call::Replay { from, most } => Answer::Records(replayed(disk, *from, *most)?),
        Call::ReplayOf { pid, after, most } => {
            Answer::Records(replayed_of(disk, *pid, *after, *most)?)
        }
        Call::Verify => Answer::Number(disk.verify()?),
        Call::Put(document) => disk.put(document).map(|()| Answer::Nothing)?,
        Call::Get { kind, key } => Answer::Documents(disk.get(kind, key)?.into_iter().collect()),
        Call::Delete { kind, key } => Answer::Flag(disk.delete(kind, key)?),
        Call::List { kind, owner, after, limit } => {
            Answer::Documents(disk.list(kind, owner.as_deref(), after, *limit)?)
        }
        Call::PutBytes(bytes) => Answer::Name(disk.put_bytes(bytes)?),
        Call::GetBytes(name) => Answer::Bytes(disk.get_bytes(name)?),
        Call::Insert(item) => disk.insert(item).map(|()| Answer::Nothing)?,
        Call::Remove { owner, id } => Answer::Flag(disk.remove(owner, id)?),
        Call::Search { owner, query, limit } => Answer::Hits(disk.search(owner, query, *limit)?),
    })
}

/// The first `most` records from `from` on.
pub(crate) fn replayed(disk: &dyn Both, from: u64, most: usize) -> Result<Vec<Record>, DiskError> {
    let mut records = Vec::new();
    disk.replay(from, &mut |record| take(&mut records, most, record))?;
    Ok(records)
}

/// The first `most` records of a process behind `after`.
pub(crate) fn replayed_of(
    disk: &dyn Both,
    pid: u64,
    after: u64,
    most: usize,
) -> Result<Vec<Record>, DiskError> {
    let mut records = Vec::new();
    disk.replay_of(pid, after, &mut |record| take(&mut records, most, record))?;
    Ok(records)
}

fn take(records: &mut Vec<Record>, most: usize, record: Record) -> ControlFlow<()> {
    if records.len() < most {
        records.push(record);
    }
    if records.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

pub(crate) fn record(pid: u64, body: &str) -> NewRecord {
    NewRecord { time_ms: 1_700_000_000_000_u64.wrapping_add(pid), pid, body: body.to_string() }
}

pub(crate) fn document(kind: &str, key: &str, owner: &str, body: &str) -> Document {
    let [kind, key, owner, body] = [kind, key, owner, body].map(str::to_string);
    Document { kind, key, owner, created_ms: 1_700_000_000_000, body }
}

pub(crate) fn item(owner: &str, id: &str, text: &str) -> Item {
    let [owner, id, text] = [owner, id, text].map(str::to_string);
    let label = Label::of(Sources::USER).for_reader(&owner);
    Item { id, owner, text, label }
}
