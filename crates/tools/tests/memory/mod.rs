//! A disk in memory for tests: documents and bytes, all or nothing, and refusals on demand.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use yushan_abi::{Change, Disk, DiskError, Document, NewRecord, Record};

#[derive(Default)]
pub(crate) struct MemoryDisk {
    documents: Mutex<BTreeMap<(String, String), Document>>,
    contents: Mutex<BTreeMap<String, Vec<u8>>>,
    /// While set, nothing can be written.
    pub(crate) is_full: AtomicBool,
}

impl MemoryDisk {
    fn room(&self) -> Result<(), DiskError> {
        let is_full = self.is_full.load(Ordering::Relaxed);
        if is_full { Err(DiskError::Full("no room".into())) } else { Ok(()) }
    }

    fn not_here<T>() -> Result<T, DiskError> {
        Err(DiskError::Failed("this disk keeps documents and bytes alone".into()))
    }
}

impl Disk for MemoryDisk {
    fn append(&self, _: &[NewRecord]) -> Result<u64, DiskError> {
        MemoryDisk::not_here()
    }

    fn replay(
        &self,
        _: u64,
        _: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        MemoryDisk::not_here()
    }

    fn replay_of(
        &self,
        _: u64,
        _: u64,
        _: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        MemoryDisk::not_here()
    }

    fn verify(&self) -> Result<u64, DiskError> {
        MemoryDisk::not_here()
    }

    fn put(&self, document: &Document) -> Result<(), DiskError> {
        self.change(&[Change::Put(document.clone())])
    }

    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DiskError> {
        Ok(self.documents.lock().unwrap().get(&(kind.into(), key.into())).cloned())
    }

    fn delete(&self, kind: &str, key: &str) -> Result<bool, DiskError> {
        self.room()?;
        Ok(self.documents.lock().unwrap().remove(&(kind.into(), key.into())).is_some())
    }

    fn list(
        &self,
        kind: &str,
        owner: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Document>, DiskError> {
        let documents = self.documents.lock().unwrap();
        let of = documents.values().filter(|document| document.kind == kind);
        let of = of.filter(|document| document.key.as_str() > after);
        let of = of.filter(|document| owner.is_none_or(|owner| document.owner == owner));
        Ok(of.take(limit).cloned().collect())
    }

    fn change(&self, changes: &[Change]) -> Result<(), DiskError> {
        self.room()?;
        let mut documents = self.documents.lock().unwrap();
        for change in changes {
            match change {
                Change::Put(document) => {
                    let key = (document.kind.clone(), document.key.clone());
                    documents.insert(key, document.clone());
                }
                Change::Delete { kind, key } => {
                    documents.remove(&(kind.clone(), key.clone()));
                }
                Change::Insert(_) | Change::Remove { .. } => return MemoryDisk::not_here(),
            }
        }
        Ok(())
    }

    fn put_bytes(&self, bytes: &[u8]) -> Result<String, DiskError> {
        self.room()?;
        // A name by content is all that is asked of it here.
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let name = format!("{:064x}", hasher.finish());
        self.contents.lock().unwrap().insert(name.clone(), bytes.to_vec());
        Ok(name)
    }

    fn get_bytes(&self, sha256: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.contents.lock().unwrap().get(sha256).cloned())
    }
}
