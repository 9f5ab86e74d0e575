//! A disk on paper, and tools that keep a tally: for tests of programs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use yushan_abi::*;
use yushan_kernel::{Billing, Payer};

/// A disk that can be copied, and that refuses to write after so many records.
#[derive(Clone, Default)]
pub(super) struct Paper {
    pub(super) records: Arc<Mutex<Vec<Record>>>,
    documents: Arc<Mutex<BTreeMap<(String, String), Document>>>,
    items: Arc<Mutex<Vec<Item>>>,
    room: Option<usize>,
    /// The write that fails, counted from 1, and the only one.
    fails: Option<usize>,
    writes: Arc<Mutex<usize>>,
}

impl Paper {
    /// A disk with room for so many records.
    pub(super) fn small(room: usize) -> Paper {
        Paper { room: Some(room), ..Paper::default() }
    }

    /// A disk of which one write fails, with an error of the device.
    pub(super) fn faulty(write: usize) -> Paper {
        Paper { fails: Some(write), ..Paper::default() }
    }

    /// The disk as it was after so many records; what was kept to be found is there.
    pub(super) fn torn(&self, records: usize) -> Paper {
        let records = self.records.lock().unwrap()[..records].to_vec();
        let items = Arc::new(Mutex::new(self.items.lock().unwrap().clone()));
        Paper { records: Arc::new(Mutex::new(records)), items, ..Paper::default() }
    }
}

impl Disk for Paper {
    fn append(&self, records: &[NewRecord]) -> Result<u64, DiskError> {
        let mut all = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if self.room.is_some_and(|room| all.len() + records.len() > room) {
            return Err(DiskError::Full("no space left on device".into()));
        }
        let mut writes = self.writes.lock().unwrap();
        *writes += 1;
        if self.fails == Some(*writes) {
            return Err(DiskError::Failed("input/output error".into()));
        }
        for NewRecord { time_ms, pid, body } in records.iter().cloned() {
            let seq = all.len() as u64 + 1;
            all.push(Record { seq, time_ms, pid, body, hash: [0; 32] });
        }
        Ok(all.len() as u64)
    }
    fn replay(
        &self,
        from: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        let all = self.records.lock().unwrap().clone();
        let _ = all.into_iter().filter(|record| record.seq >= from).try_for_each(visit);
        Ok(())
    }
    fn replay_of(
        &self,
        pid: u64,
        after: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        let all = self.records.lock().unwrap().clone();
        let of = |record: &Record| record.pid == pid && record.seq > after;
        let _ = all.into_iter().filter(of).try_for_each(visit);
        Ok(())
    }
    fn verify(&self) -> Result<u64, DiskError> {
        Ok(self.records.lock().unwrap().len() as u64)
    }
    fn put(&self, document: &Document) -> Result<(), DiskError> {
        let name = (document.kind.clone(), document.key.clone());
        self.documents.lock().unwrap().insert(name, document.clone());
        Ok(())
    }
    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DiskError> {
        Ok(self.documents.lock().unwrap().get(&(kind.into(), key.into())).cloned())
    }
    fn delete(&self, kind: &str, key: &str) -> Result<bool, DiskError> {
        Ok(self.documents.lock().unwrap().remove(&(kind.into(), key.into())).is_some())
    }
    fn list(
        &self,
        _: &str,
        _: Option<&str>,
        _: &str,
        _: usize,
    ) -> Result<Vec<Document>, DiskError> {
        Ok(Vec::new())
    }
    fn change(&self, _: &[Change]) -> Result<(), DiskError> {
        Err(DiskError::Failed("a kernel changes one thing at a time".into()))
    }
    fn put_bytes(&self, _: &[u8]) -> Result<String, DiskError> {
        Err(DiskError::Failed("paper holds no bytes".into()))
    }
    fn get_bytes(&self, _: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(None)
    }
}

impl Index for Paper {
    fn insert(&self, item: &Item) -> Result<(), DiskError> {
        let mut items = self.items.lock().unwrap();
        items.retain(|other| other.id != item.id);
        items.push(item.clone());
        Ok(())
    }
    fn remove(&self, _: &str, _: &str) -> Result<bool, DiskError> {
        Ok(false)
    }
    fn search(&self, owner: &str, query: &str, limit: usize) -> Result<Vec<Hit>, DiskError> {
        let items = self.items.lock().unwrap();
        let hits = items.iter().filter(|item| item.owner == owner && item.text.contains(query));
        Ok(hits.take(limit).map(|item| Hit { item: item.clone(), score: 1.0 }).collect())
    }
}

/// A tool that answers `NAME(ARGUMENTS)` and keeps the keys it was called with.
pub(super) struct Tally {
    spec: ToolSpec,
    source: Sources,
    pub(super) keys: Mutex<Vec<String>>,
}

impl Tally {
    pub(super) fn new(name: &str, effect: Effect, source: Sources) -> Arc<Tally> {
        let spec = serde_json::json!({
            "name": name, "effect": effect,
            "schema": {"properties": {"to": {"type": ["string", "integer"]}}, "required": ["to"]},
            "roles": {"to": "destination"},
        });
        let spec = serde_json::from_value(spec).unwrap();
        Arc::new(Tally { spec, source, keys: Mutex::default() })
    }
}

impl Tool for Tally {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }
    fn call(&self, Invocation { arguments, key, .. }: &Invocation<'_>) -> ToolResult {
        self.keys.lock().unwrap().push((*key).into());
        assert!(arguments["to"] != "breaks", "a tool that breaks down");
        let text = format!("{}({arguments})", self.spec.name);
        ToolResult::new(text, Label::of(self.source))
    }
}

/// Accounts on paper: what each payer was charged, and what each may use.
#[derive(Default)]
pub(super) struct Till {
    pub(super) charged: Mutex<BTreeMap<Payer, Counts>>,
    /// Tokens that may be used before no more turns begin; `None`: as many as one likes.
    pub(super) most: Mutex<Option<usize>>,
    /// How often a turn has to wait first.
    pub(super) busy: Mutex<usize>,
}

impl Till {
    /// Tokens read and written that a payer was charged.
    pub(super) fn of(&self, payer: &Payer) -> (usize, usize) {
        let charged = self.charged.lock().unwrap();
        charged.get(payer).map_or((0, 0), |counts| (counts.prompt, counts.generated))
    }
}

impl Billing for Till {
    fn may_begin(&self, payer: &Payer) -> Result<(), Refusal> {
        let mut busy = self.busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return Err(Refusal::Busy { after_ms: 1 });
        }
        let (read, written) = self.of(payer);
        match *self.most.lock().unwrap() {
            Some(most) if read + written >= most => {
                Err(Refusal::Quota(format!("{most} tokens for {}", payer.tenant)))
            }
            _ => Ok(()),
        }
    }
    fn bill(&self, payer: &Payer, used: Counts) {
        let mut charged = self.charged.lock().unwrap();
        let sum = charged.entry(payer.clone()).or_default();
        sum.prompt += used.prompt;
        sum.cached += used.cached;
        sum.generated += used.generated;
    }
}
