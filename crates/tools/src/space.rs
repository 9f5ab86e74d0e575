//! A file space: the files of one conversation or process, with their history.
//!
//! The key decision: a space is one document that names contents by their hash. So every change is whole or not at
//! all, a fork is a copy of the document, undo looks into the same document, and no content is stored twice. Each file has the label
//! of what wrote it.

pub(crate) mod driver;
pub(crate) mod kept;
mod paths;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use yushan_abi::{Change, Disk, DiskError, Document, FileRef, Label};

use kept::FILES;
pub use kept::{ForkError, fork, is_there};
pub use paths::{check as check_path, media_type};

/// Files of a space.
pub const MOST_FILES: usize = 1000;
/// Bytes of one file.
pub const MOST_BYTES: u64 = 64 << 20;
/// Bytes of all files of a space.
pub const MOST_TOTAL: u64 = 256 << 20;
/// Changes that can be looked at and undone; older ones are forgotten.
pub const MOST_CHANGES: usize = 200;
/// Bytes of the document: labels can be long.
const MOST_DOCUMENT: usize = 4 << 20;
/// Locks for changes: a space has the one that its name falls to.
const LOCKS: usize = 64;

/// What a space could not do. The model reads it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// The path cannot be one.
    #[error("the path {path:?} {why}; give a relative path such as data/table.csv")]
    Path {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        why: String,
        /// Of the other files that are named.
        labels: Label,
    },
    /// There is no such file.
    #[error("there is no file {path:?}; {near}")]
    Absent {
        /// As it was given.
        path: String,
        /// Which there are.
        near: String,
        /// Of those that `near` names: names may come from anybody.
        labels: Label,
    },
    /// It does not fit.
    #[error("{0}")]
    Full(String),
    /// There is no change left.
    #[error("there is nothing to undo: no change of this space is known any more")]
    NothingToUndo,
    /// It is another user's.
    #[error("this file space belongs to another user")]
    Foreign,
    /// The disk refused; nothing was changed.
    #[error("the files cannot be kept or read: {0}")]
    Disk(#[from] DiskError),
}

/// What is in a space at a path, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path, media type, size and hash.
    #[serde(flatten)]
    pub file: FileRef,
    /// Who wrote it.
    pub label: Label,
    /// Milliseconds since 1970, when it was written.
    pub time_ms: u64,
}

/// A file with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Who wrote it.
    pub label: Label,
}

/// One file of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where.
    pub path: String,
    /// What it then holds; none: it is removed.
    pub bytes: Option<Vec<u8>>,
    /// Who wrote it.
    pub label: Label,
}

/// What became of a path: before and after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Where.
    pub path: String,
    /// What was there; none: nothing.
    pub before: Option<Entry>,
    /// What was there then; none: nothing.
    pub after: Option<Entry>,
}

#[derive(Default, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
    /// Oldest first; the files of each were changed together.
    changes: VecDeque<Vec<Version>>,
}

/// The files of one conversation or process. Cheap to open; several may be open at once.
#[derive(Clone)]
pub struct Space {
    disk: Arc<dyn Disk>,
    owner: String,
    name: String,
}

impl Space {
    /// The space of this name; one that does not exist yet is empty.
    ///
    /// # Errors
    /// It is another user's, or the disk does not answer.
    pub fn open(disk: Arc<dyn Disk>, owner: &str, name: &str) -> Result<Space, SpaceError> {
        let space = Space { disk, owner: owner.into(), name: name.into() };
        space.manifest()?;
        Ok(space)
    }

    /// What is at a path.
    ///
    /// # Errors
    /// The path is no path, nothing is there, or the disk does not answer.
    pub fn read(&self, path: &str) -> Result<Content, SpaceError> {
        let path = check_path(path)?;
        let manifest = self.manifest()?;
        let entry = manifest.files.get(&path).ok_or_else(|| manifest.absent(&path))?;
        let bytes = self.bytes(&entry.file.sha256)?;
        Ok(Content { bytes, label: entry.label.clone() })
    }

    /// The bytes of any version, by their hash.
    ///
    /// # Errors
    /// They are gone, or the disk does not answer.
    pub fn bytes(&self, sha256: &str) -> Result<Vec<u8>, SpaceError> {
        let gone = || DiskError::Damaged(format!("the content {sha256} is missing"));
        Ok(self.disk.get_bytes(sha256)?.ok_or_else(gone)?)
    }

    /// Writes one file over what was there. Durable on return.
    ///
    /// # Errors
    /// The path is no path, there is no room, or the disk refuses; nothing is changed then.
    pub fn write(&self, path: &str, bytes: &[u8], label: &Label) -> Result<FileRef, SpaceError> {
        let path = check_path(path)?;
        let entry = self.store(&path, bytes, label.clone())?;
        let file = entry.file.clone();
        let _lock = self.lock();
        let mut manifest = self.manifest()?;
        let versions = manifest.apply(vec![(path, Some(entry))]);
        manifest.check()?;
        if !versions.is_empty() {
            manifest.changes.push_back(versions);
            self.keep(&mut manifest, Vec::new())?;
        }
        Ok(file)
    }

    /// Removes a file; its history stays.
    ///
    /// # Errors
    /// The path is no path, nothing is there, or the disk refuses.
    pub fn remove(&self, path: &str) -> Result<(), SpaceError> {
        let path = check_path(path)?;
        let manifest = self.manifest()?;
        if !manifest.files.contains_key(&path) {
            return Err(manifest.absent(&path));
        }
        let edit = Edit { path, bytes: None, label: Label::default() };
        self.change(vec![edit], Vec::new()).map(drop)
    }

    /// Makes several edits as one change, which is undone as one, together with other changes of documents: all or
    /// none. Edits that change nothing are left out of what it gives; removing what is not there is one.
    ///
    /// # Errors
    /// As [`Space::write`].
    pub fn change(
        &self,
        edits: Vec<Edit>,
        together: Vec<Change>,
    ) -> Result<Vec<Version>, SpaceError> {
        self.change_with(edits, |_| Ok(together))
    }

    /// As [`Space::change`], with other changes that depend on what becomes of the files.
    ///
    /// # Errors
    /// As [`Space::write`].
    pub fn change_with(
        &self,
        edits: Vec<Edit>,
        together: impl FnOnce(&[Version]) -> Result<Vec<Change>, DiskError>,
    ) -> Result<Vec<Version>, SpaceError> {
        let mut stored = Vec::new();
        for edit in edits {
            let path = check_path(&edit.path)?;
            let entry =
                edit.bytes.map(|bytes| self.store(&path, &bytes, edit.label)).transpose()?;
            stored.push((path, entry));
        }
        let _lock = self.lock();
        let mut manifest = self.manifest()?;
        let versions = manifest.apply(stored);
        manifest.check()?;
        if !versions.is_empty() {
            manifest.changes.push_back(versions.clone());
        }
        self.keep(&mut manifest, together(&versions)?)?;
        Ok(versions)
    }

    /// All files, by path.
    ///
    /// # Errors
    /// The disk does not answer.
    pub fn list(&self) -> Result<Vec<Entry>, SpaceError> {
        Ok(self.manifest()?.files.into_values().collect())
    }

    /// What became of a path, newest first, as far as it is remembered.
    ///
    /// # Errors
    /// The path is no path, or the disk does not answer.
    pub fn history(&self, path: &str) -> Result<Vec<Version>, SpaceError> {
        let path = check_path(path)?;
        let changes = self.manifest()?.changes.into_iter().rev();
        Ok(changes.flatten().filter(|version| version.path == path).collect())
    }

    /// Takes the newest change back, and tells what it was. Asked again, the one before.
    ///
    /// # Errors
    /// There is none, what was there does not fit any more, or the disk refuses.
    pub fn undo(&self) -> Result<Vec<Version>, SpaceError> {
        let _lock = self.lock();
        let mut manifest = self.manifest()?;
        let versions = manifest.changes.pop_back().ok_or(SpaceError::NothingToUndo)?;
        for version in versions.iter().rev() {
            match &version.before {
                Some(entry) => drop(manifest.files.insert(version.path.clone(), entry.clone())),
                None => drop(manifest.files.remove(&version.path)),
            }
        }
        manifest.check()?;
        self.keep(&mut manifest, Vec::new())?;
        Ok(versions)
    }

    fn store(&self, path: &str, bytes: &[u8], label: Label) -> Result<Entry, SpaceError> {
        let size = bytes.len() as u64;
        if size > MOST_BYTES {
            let most = MOST_BYTES >> 20;
            let why = format!("{path:?} has {size} bytes; a file may have {most} MiB: split it");
            return Err(SpaceError::Full(why));
        }
        let media_type = media_type(path, bytes).to_string();
        let sha256 = self.disk.put_bytes(bytes)?;
        let file = FileRef { path: path.into(), media_type, size, sha256 };
        Ok(Entry { file, label, time_ms: now() })
    }

    fn manifest(&self) -> Result<Manifest, SpaceError> {
        match self.disk.get(FILES, &self.name)? {
            None => Ok(Manifest::default()),
            Some(document) if document.owner != self.owner => Err(SpaceError::Foreign),
            Some(document) => {
                let damaged = |error| DiskError::Damaged(format!("space {:?}: {error}", self.name));
                Ok(serde_json::from_str(&document.body).map_err(damaged)?)
            }
        }
    }

    /// Older changes are forgotten until the rest fits.
    fn keep(&self, manifest: &mut Manifest, together: Vec<Change>) -> Result<(), SpaceError> {
        while manifest.changes.len() > MOST_CHANGES {
            manifest.changes.pop_front();
        }
        let body = loop {
            let body = serde_json::to_string(&manifest).map_err(failed)?;
            if body.len() <= MOST_DOCUMENT {
                break body;
            }
            let half = manifest.changes.len() / 2;
            if half == 0 {
                let why = "the space has too many files of too many origins; remove some first";
                return Err(SpaceError::Full(why.into()));
            }
            manifest.changes.drain(..half);
        };
        let document = Document {
            kind: FILES.into(),
            key: self.name.clone(),
            owner: self.owner.clone(),
            created_ms: now(),
            body,
        };
        let mut changes = vec![Change::Put(document)];
        changes.extend(together);
        Ok(self.disk.change(&changes)?)
    }

    /// Between reading the document and writing it nobody else in this program does.
    fn lock(&self) -> MutexGuard<'static, ()> {
        static ALL: [Mutex<()>; LOCKS] = [const { Mutex::new(()) }; LOCKS];
        let sum = self
            .name
            .bytes()
            .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        ALL[sum % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpaceError {
    /// Of the files that it names: names may come from anybody.
    pub fn labels(&self) -> Label {
        match self {
            SpaceError::Absent { labels, .. } | SpaceError::Path { labels, .. } => labels.clone(),
            _ => Label::default(),
        }
    }
}

impl Manifest {
    /// Puts what is stored at its paths, and tells what that changed.
    fn apply(&mut self, stored: Vec<(String, Option<Entry>)>) -> Vec<Version> {
        let mut versions = Vec::new();
        for (path, after) in stored {
            let before = match &after {
                Some(entry) => self.files.insert(path.clone(), entry.clone()),
                None => self.files.remove(&path),
            };
            let is_same = match (&before, &after) {
                (Some(before), Some(after)) => {
                    before.file == after.file && before.label == after.label
                }
                (None, None) => true,
                _ => false,
            };
            if !is_same {
                versions.push(Version { path, before, after });
            }
        }
        versions
    }

    /// Whether it is within its bounds, and no file lies where a folder is.
    fn check(&self) -> Result<(), SpaceError> {
        let (count, total) = (self.files.len(), self.files.values().map(|entry| entry.file.size));
        let total: u64 = total.sum();
        if count > MOST_FILES {
            let why = format!("the space would hold {count} files; it may hold {MOST_FILES}");
            return Err(SpaceError::Full(format!(
                "{why}: remove some or put them into an archive"
            )));
        }
        if total > MOST_TOTAL {
            let (total, most) = (total.div_ceil(1 << 20), MOST_TOTAL >> 20);
            let why = format!("the space would hold {total} MiB; it may hold {most} MiB");
            return Err(SpaceError::Full(format!("{why}: remove what is not needed")));
        }
        for (path, entry) in &self.files {
            let mut folders = path.match_indices('/').map(|(at, _)| &path[..at]);
            let found = folders.find_map(|folder| Some((folder, self.files.get(folder)?)));
            if let Some((folder, file)) = found {
                let why = format!("lies in {folder:?}, which is a file and not a folder");
                let labels = entry.label.join(&file.label);
                return Err(SpaceError::Path { path: path.clone(), why, labels });
            }
        }
        Ok(())
    }

    fn absent(&self, path: &str) -> SpaceError {
        const SHOWN: usize = 20;
        let names: Vec<&str> = self.files.keys().map(String::as_str).take(SHOWN).collect();
        let shown = self.files.values().take(SHOWN);
        let labels = shown.fold(Label::default(), |labels, entry| labels.join(&entry.label));
        let near = match (names.len(), self.files.len()) {
            (0, _) => "the space is empty".to_string(),
            (shown, all) if shown < all => {
                format!("the first {shown} of {all} are: {}", names.join(", "))
            }
            _ => format!("there are: {}", names.join(", ")),
        };
        SpaceError::Absent { path: path.into(), near, labels }
    }
}

fn failed(error: impl std::fmt::Display) -> DiskError {
    DiskError::Failed(error.to_string())
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
