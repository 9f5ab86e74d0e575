//! What a save does to a disk, behind a trait, so that tests can cut the power and fill the disk at any step of it.
//!
//! The key decision: the trait has the operations that matter to what survives a crash, and no others. Reading is
//! a second trait: a folder, or files in memory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A file being written.
pub(super) trait Sink: Write {
    /// Returns when the bytes are on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// Folders and files that can be changed.
pub(super) trait Files {
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Returns when the names in a folder are on the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a folder with all in it.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The disk.
pub(super) struct Disk;

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Files for Disk {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(File::create_new(path)?))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // Elsewhere a folder cannot be opened, and a rename is durable by itself.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
}

/// Files that can be read.
pub(super) trait Source {
    /// The length of a file, and its bytes.
    fn open(&self, name: &str) -> io::Result<(u64, Box<dyn Read + '_>)>;
}

/// A folder on the disk.
pub(super) struct Folder<'a>(pub(super) &'a Path);

impl Source for Folder<'_> {
    fn open(&self, name: &str) -> io::Result<(u64, Box<dyn Read + '_>)> {
        let path: PathBuf = self.0.join(name);
        // Opening a pipe would wait for its other end.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        Ok((file.metadata()?.len(), Box::new(file)))
    }
}

/// Files in memory.
pub(super) struct Memory<'a>(pub(super) &'a [(&'a str, &'a [u8])]);

impl Source for Memory<'_> {
    fn open(&self, name: &str) -> io::Result<(u64, Box<dyn Read + '_>)> {
        let (_, bytes) =
            self.0.iter().find(|(other, _)| *other == name).ok_or(io::ErrorKind::NotFound)?;
        Ok((bytes.len() as u64, Box::new(*bytes)))
    }
}
