//! The journal, read: the lives that it tells of.
//!
//! The key decision: a start reads from the first record that a living process needs, which is kept in a
//! document; everything before belongs to processes that are over, and stays for whoever asks for
//! their log. What a start reads is checked along the chain of hashes, to the journal's end; a log reads the records of
//! its process alone, and checks each against the hash before it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use yushan_abi::{Disk, DiskError, Document, Record};

use crate::life::{Entry, Life};
use crate::process::Pid;

/// Kind and key of the document that says where to begin.
const MARK: (&str, &str) = ("kernel", "journal");

/// Where a start begins to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The first record that is needed.
    pub from: u64,
    /// The last name of a process that was given.
    pub last: u64,
}

impl Mark {
    /// Reads it; without one, everything is needed.
    pub fn read(disk: &dyn Disk) -> Result<Mark, DiskError> {
        match disk.get(MARK.0, MARK.1)? {
            Some(document) => serde_json::from_str(&document.body)
                .map_err(|error| DiskError::Damaged(format!("the journal's mark: {error}"))),
            None => Ok(Mark::default()),
        }
    }

    /// Writes it.
    pub fn write(self, disk: &dyn Disk, time_ms: u64) -> Result<(), DiskError> {
        disk.put(&Document {
            kind: MARK.0.into(),
            key: MARK.1.into(),
            owner: String::new(),
            created_ms: time_ms,
            body: serde_json::to_string(&self).expect("a mark is plain data"),
        })
    }
}

/// A life that the journal tells of.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What it tells.
    pub life: Life,
    /// The number of its first record.
    pub first: u64,
    /// Times of its first and its last record, in milliseconds since 1970.
    pub times: (u64, u64),
}

/// All lives that begin at or behind a record.
pub fn lives(disk: &dyn Disk, from: u64) -> Result<BTreeMap<Pid, Told>, DiskError> {
    let mut lives: BTreeMap<Pid, Told> = BTreeMap::new();
    let mut damaged = None;
    disk.replay(from, &mut |record| match entry(&record) {
        Ok((pid, Entry::Began(program))) => {
            let times = (record.time_ms, record.time_ms);
            let life = Life::new(pid, *program);
            lives.insert(pid, Told { life, first: record.seq, times });
            ControlFlow::Continue(())
        }
        Ok((pid, entry)) => {
            if let Some(told) = lives.get_mut(&pid) {
                told.times.1 = record.time_ms;
                told.life.apply(entry);
            }
            ControlFlow::Continue(())
        }
        Err(error) => {
            damaged = Some(error);
            ControlFlow::Break(())
        }
    })?;
    damaged.map_or(Ok(lives), Err)
}

/// A record of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Its place in the journal of all.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What happened.
    pub entry: Entry,
}

/// The records of one process behind the number `after`, each checked against the hash before it.
pub fn log(disk: &dyn Disk, pid: Pid, after: u64) -> Result<Vec<Logged>, DiskError> {
    let (mut logged, mut damaged) = (Vec::new(), None);
    disk.replay_of(pid.0, after, &mut |record| match entry(&record) {
        Ok((_, entry)) => {
            let Record { seq, time_ms, .. } = record;
            logged.push(Logged { seq, time_ms, entry });
            ControlFlow::Continue(())
        }
        Err(error) => {
            damaged = Some(error);
            ControlFlow::Break(())
        }
    })?;
    damaged.map_or(Ok(logged), Err)
}

fn entry(record: &Record) -> Result<(Pid, Entry), DiskError> {
    let entry = serde_json::from_str(&record.body).map_err(|error| {
        DiskError::Damaged(format!("record {} of the journal: {error}", record.seq))
    });
    entry.map(|entry| (Pid(record.pid), entry))
}
