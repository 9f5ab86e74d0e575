//! A disk that forgets: for a system that shall leave no trace, and for tests of those above.
//!
//! The key decision: it answers every call as [`Sqlite`](crate::Sqlite) does, in results, order and
//! scores; a property test compares them call by call, so each is the other's oracle.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use yushan_abi::{Change, Disk, DiskError, Document, Hit, Index, Item, NewRecord, Record};

use crate::digest::{check_name, hex, sha256};
use crate::journal::Head;
use crate::named;
use crate::words::{Corpus, Terms, asked, terms};

/// A disk and an index in memory.
#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    journal: Vec<Record>,
    head: Head,
    /// By kind and key.
    documents: BTreeMap<(String, String), Document>,
    /// By name.
    contents: HashMap<String, Vec<u8>>,
    /// By owner and id.
    items: HashMap<String, BTreeMap<String, Indexed>>,
    /// Items that were ever inserted.
    inserted: u64,
}

impl State {
    fn put(&mut self, document: &Document) {
        let name = (document.kind.clone(), document.key.clone());
        let created_ms = self.documents.get(&name).map_or(document.created_ms, |d| d.created_ms);
        self.documents.insert(name, Document { created_ms, ..document.clone() });
    }

    fn delete(&mut self, kind: &str, key: &str) -> bool {
        self.documents.remove(&(kind.to_string(), key.to_string())).is_some()
    }

    fn insert(&mut self, item: &Item) {
        self.inserted += 1;
        let (number, terms) = (self.inserted, terms(&item.text));
        let indexed = Indexed { number, terms, item: item.clone() };
        self.items.entry(item.owner.clone()).or_default().insert(item.id.clone(), indexed);
    }

    fn remove(&mut self, owner: &str, id: &str) -> bool {
        self.items.get_mut(owner).is_some_and(|items| items.remove(id).is_some())
    }
}

struct Indexed {
    /// Grows from one inserted item to the next.
    number: u64,
    terms: Terms,
    item: Item,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record by its number.
    fn record(&self, seq: u64) -> Option<Record> {
        let place = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.state().journal.get(place).cloned()
    }
}

impl Disk for Memory {
    fn append(&self, records: &[NewRecord]) -> Result<u64, DiskError> {
        let mut state = self.state();
        let mut head = state.head;
        state.journal.extend(records.iter().map(|new| head.chain(new)));
        state.head = head;
        Ok(head.seq)
    }

    fn replay(
        &self,
        from: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        // Not locked while visited: the visitor may come back.
        let last = self.state().head.seq;
        let records = (from.max(1)..=last).map_while(|seq| self.record(seq));
        let _ = records.map(visit).find(ControlFlow::is_break);
        Ok(())
    }

    fn replay_of(
        &self,
        pid: u64,
        after: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        let first = usize::try_from(after).unwrap_or(usize::MAX);
        let records: Vec<Record> = {
            let state = self.state();
            let behind = state.journal.get(first..).unwrap_or_default();
            behind.iter().filter(|record| record.pid == pid).cloned().collect()
        };
        let _ = records.into_iter().map(visit).find(ControlFlow::is_break);
        Ok(())
    }

    fn verify(&self) -> Result<u64, DiskError> {
        let state = self.state();
        let mut head = Head::default();
        state.journal.iter().try_for_each(|record| head.follow(record))?;
        head.ends_at(&state.head)?;
        Ok(head.seq)
    }

    fn put(&self, document: &Document) -> Result<(), DiskError> {
        self.change(&[Change::Put(document.clone())])
    }

    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DiskError> {
        Ok(self.state().documents.get(&(kind.to_string(), key.to_string())).cloned())
    }

    fn delete(&self, kind: &str, key: &str) -> Result<bool, DiskError> {
        Ok(self.state().delete(kind, key))
    }

    fn list(
        &self,
        kind: &str,
        owner: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Document>, DiskError> {
        let state = self.state();
        let from = (kind.to_string(), after.to_string());
        let documents = state.documents.range(from..).map(|(_, document)| document);
        Ok(documents
            .take_while(|document| document.kind == kind)
            .filter(|document| document.key != after)
            .filter(|document| owner.is_none_or(|owner| document.owner == owner))
            .take(limit)
            .cloned()
            .collect())
    }

    fn change(&self, changes: &[Change]) -> Result<(), DiskError> {
        for change in changes {
            if let Change::Put(document) = change {
                named(&document.kind, &document.key)?;
            }
        }
        let mut state = self.state();
        for change in changes {
            match change {
                Change::Put(document) => state.put(document),
                Change::Delete { kind, key } => drop(state.delete(kind, key)),
                Change::Insert(item) => state.insert(item),
                Change::Remove { owner, id } => drop(state.remove(owner, id)),
            }
        }
        Ok(())
    }

    fn put_bytes(&self, bytes: &[u8]) -> Result<String, DiskError> {
        let name = hex(&sha256(&[bytes]));
        self.state().contents.entry(name.clone()).or_insert_with(|| bytes.to_vec());
        Ok(name)
    }

    fn get_bytes(&self, sha256: &str) -> Result<Option<Vec<u8>>, DiskError> {
        check_name(sha256)?;
        Ok(self.state().contents.get(sha256).cloned())
    }
}

impl Index for Memory {
    fn insert(&self, item: &Item) -> Result<(), DiskError> {
        self.state().insert(item);
        Ok(())
    }

    fn remove(&self, owner: &str, id: &str) -> Result<bool, DiskError> {
        Ok(self.state().remove(owner, id))
    }

    fn search(&self, owner: &str, query: &str, limit: usize) -> Result<Vec<Hit>, DiskError> {
        let state = self.state();
        let Some(items) = state.items.get(owner) else { return Ok(Vec::new()) };
        let terms = items.values().map(|indexed| indexed.terms.total).sum();
        let corpus = Corpus { items: items.len() as u64, terms };
        let count = |indexed: &Indexed, term: &str| indexed.terms.counts.get(term).copied();
        let asked = asked(query).into_iter().map(|term| {
            let found = items.values().filter(|indexed| count(indexed, &term).is_some()).count();
            (term, found as u64)
        });
        let asked: Vec<(String, u64)> = asked.collect();
        let mut found: Vec<(f64, &Indexed)> = Vec::new();
        for indexed in items.values() {
            let scores = asked.iter().filter_map(|(term, found)| {
                Some(corpus.score(count(indexed, term)?, indexed.terms.total, *found))
            });
            found.extend(scores.reduce(|a, b| a + b).map(|score| (score, indexed)));
        }
        found.sort_by(|(a, x), (b, y)| b.total_cmp(a).then(y.number.cmp(&x.number)));
        let hits = found.into_iter().take(limit);
        Ok(hits.map(|(score, indexed)| Hit { item: indexed.item.clone(), score }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes one thing about a journal of four.
    type Damage = fn(&mut State);

    #[test]
    fn verify_finds_what_was_changed_removed_or_moved() {
        let damages: &[(&str, Damage)] = &[
            ("a body", |state| state.journal[1].body.push(' ')),
            ("a time", |state| state.journal[2].time_ms += 1),
            ("a process", |state| state.journal[0].pid += 1),
            ("a hash", |state| state.journal[3].hash[31] ^= 1),
            ("the first removed", |state| drop(state.journal.remove(0))),
            ("one removed", |state| drop(state.journal.remove(2))),
            ("the last removed", |state| drop(state.journal.pop())),
            ("two moved", |state| state.journal.swap(1, 2)),
        ];
        for (what, damage) in damages {
            let memory = Memory::new();
            let record = |pid| NewRecord { time_ms: 5, pid, body: format!("{{\"n\":{pid}}}") };
            assert_eq!(memory.append(&[1, 2, 3, 4].map(record)), Ok(4));
            assert_eq!(memory.verify(), Ok(4));
            damage(&mut memory.state());
            assert!(matches!(memory.verify(), Err(DiskError::Damaged(_))), "{what}");
        }
    }
}
