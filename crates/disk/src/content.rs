//! Bytes as files named by their SHA-256, in one folder.
//!
//! The key decision: a content is written in `new/`, synced, renamed into place, and the folder is
//! synced; so a name either leads to all of its bytes or to nothing. They are hashed again when they
//! are read, and a content that was damaged is healed by storing it again.
//!
//! What a killed process left in `new/` is swept by the next one that is alone: whoever has the folder
//! open holds a shared lock. Nothing here deletes a content.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use yushan_abi::DiskError;

use crate::digest::{check_name, hex, sha256};

/// What contents need of a file system: the machine's, or one that fails when a test wants it to.
pub(crate) trait Files: Send + Sync {
    /// A file's bytes, if there is one.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Writes a file that does not exist yet, and syncs it.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Renames, over what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The machine's file system.
pub(crate) struct Machine;

impl Files for Machine {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// A folder of contents.
pub(crate) struct Contents<F = Machine> {
    folder: PathBuf,
    files: F,
    /// Locked, shared, for as long as the folder is open.
    _lock: File,
}

impl<F: Files> Contents<F> {
    /// Opens the folder, made if it is not there.
    pub(crate) fn open(folder: &Path, files: F) -> Result<Self, DiskError> {
        let new = folder.join("new");
        make_folder(&new)?;
        let path = folder.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| refused("opening", &path, &error))?;
        if lock.try_lock().is_ok() {
            sweep(&new).map_err(|error| refused("sweeping", &new, &error))?;
            lock.unlock().map_err(|error| refused("unlocking", &path, &error))?;
        }
        lock.lock_shared().map_err(|error| refused("locking", &path, &error))?;
        files.sync_folder(folder).map_err(|error| refused("syncing", folder, &error))?;
        Ok(Contents { folder: folder.to_path_buf(), files, _lock: lock })
    }

    /// Stores bytes, once, and gives their name.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<String, DiskError> {
        let name = hex(&sha256(&[bytes]));
        let path = self.folder.join(&name);
        let stored = self.files.read(&path).map_err(|error| refused("reading", &path, &error))?;
        if stored.is_none_or(|stored| stored != bytes) {
            self.place(bytes, &path)?;
        }
        // Also where the bytes were there: whoever put them may not have come to this yet.
        let synced = self.files.sync_folder(&self.folder);
        synced.map_err(|error| refused("syncing", &self.folder, &error))?;
        Ok(name)
    }

    /// Reads bytes by their name, and checks them.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        check_name(name)?;
        let path = self.folder.join(name);
        let stored = self.files.read(&path).map_err(|error| refused("reading", &path, &error))?;
        match stored {
            Some(bytes) if hex(&sha256(&[&bytes])) != name => Err(DiskError::Damaged(format!(
                "{}: its {} bytes are not those that were stored; store the content again to heal it",
                path.display(),
                bytes.len()
            ))),
            stored => Ok(stored),
        }
    }

    /// Writes and renames; what fails leaves nothing.
    fn place(&self, bytes: &[u8], path: &Path) -> Result<(), DiskError> {
        // Others may write here too, in this process and in others, on other machines.
        let name = format!("{:016x}", RandomState::new().hash_one(path));
        let new = self.folder.join("new").join(name);
        let placed = self
            .files
            .write(&new, bytes)
            .map_err(|error| refused("writing", &new, &error))
            .and_then(|()| {
                self.files.rename(&new, path).map_err(|error| refused("renaming", &new, &error))
            });
        if placed.is_err() {
            // If it stays, the next sweep takes it.
            let _ = fs::remove_file(&new);
        }
        placed
    }
}

/// Makes a folder and those above it, durable.
pub(crate) fn make_folder(folder: &Path) -> Result<(), DiskError> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    if above != folder {
        make_folder(above)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(refused("making the folder", folder, &error))
        }
        Err(error) if !folder.is_dir() => Err(refused("making the folder", folder, &error)),
        _ => Machine.sync_folder(above).map_err(|error| refused("syncing", above, &error)),
    }
}

/// Says what the operating system refused.
pub(crate) fn refused(doing: &str, path: &Path, error: &io::Error) -> DiskError {
    let said = format!("{doing} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            DiskError::Full(format!("{said}; free some room and try again"))
        }
        _ => DiskError::Failed(said),
    }
}

/// Deletes what is in a folder.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
