//! A disk that loses power, or is full, after so many operations.
//!
//! Where the power fails, what was not synced may or may not be there afterwards, in parts: contents of files,
//! names in folders, renames, removals. [`Fragile::settle`] decides at random. That is what POSIX allows.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::super::files::{Files, Sink};
use super::{Disk, Random};

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// No operation happens after so many.
    Power,
    /// Nothing can be written or made after so many writes.
    Full,
}

thread_local! {
    /// Whether the last disk had an operation refused.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// A file or folder that was made: where it is now, and what of it is on the disk for sure.
struct Made {
    path: PathBuf,
    name_synced: bool,
    synced: u64,
}

struct Rename {
    from: PathBuf,
    to: PathBuf,
    synced: bool,
}

struct Removal {
    path: PathBuf,
    grave: PathBuf,
    synced: bool,
}

#[derive(Default)]
struct Log {
    made: Vec<Made>,
    renames: Vec<Rename>,
    removals: Vec<Removal>,
}

pub(super) struct Fragile {
    mode: Mode,
    left: Rc<Cell<usize>>,
    log: Rc<RefCell<Log>>,
    /// Where removed folders wait for the end.
    graves: tempfile::TempDir,
    folder: PathBuf,
}

fn spend(mode: Mode, left: &Cell<usize>) -> io::Result<()> {
    if left.get() == 0 {
        REFUSED.set(true);
        return Err(match mode {
            Mode::Power => io::Error::other("no power"),
            Mode::Full => io::Error::from_raw_os_error(28),
        });
    }
    left.set(left.get() - 1);
    Ok(())
}

impl Fragile {
    pub(super) fn new(folder: &Path, mode: Mode, operations: usize) -> Fragile {
        REFUSED.set(false);
        Fragile {
            mode,
            left: Rc::new(Cell::new(operations)),
            log: Rc::default(),
            // On the same disk, so that a rename gets there.
            graves: tempfile::tempdir_in(folder.parent().unwrap()).unwrap(),
            folder: folder.to_path_buf(),
        }
    }

    /// Whether an operation was refused in the last save.
    pub(super) fn refused() -> bool {
        REFUSED.get()
    }

    /// An operation that needs power, but no room.
    fn power(&self) -> io::Result<()> {
        if self.mode == Mode::Power { spend(self.mode, &self.left) } else { Ok(()) }
    }

    fn made(&self, path: &Path) {
        let made = Made { path: path.to_path_buf(), name_synced: false, synced: 0 };
        self.log.borrow_mut().made.push(made);
    }

    /// The power comes back: what was not synced is lost or not, at random.
    pub(super) fn settle(&self, random: &mut Random) {
        let log = self.log.borrow();
        for made in &log.made {
            let lost = !made.name_synced && random.below(2) == 0;
            if made.path.is_dir() && lost {
                fs::remove_dir_all(&made.path).unwrap();
            } else if made.path.is_file() && lost {
                fs::remove_file(&made.path).unwrap();
            } else if let Ok(bytes) = fs::read(&made.path) {
                cut(&made.path, bytes, made.synced as usize, random);
            }
        }
        for rename in log.renames.iter().rev() {
            let back = rename.to.exists() && !rename.from.exists();
            if !rename.synced && back && random.below(2) == 0 {
                fs::rename(&rename.to, &rename.from).unwrap();
            }
        }
        for removal in log.removals.iter().rev() {
            if !removal.synced && !removal.path.exists() && random.below(2) == 0 {
                fs::rename(&removal.grave, &removal.path).unwrap();
                // Removing had come some way.
                for file in fs::read_dir(&removal.path).unwrap() {
                    if random.below(2) == 0 {
                        fs::remove_file(file.unwrap().path()).unwrap();
                    }
                }
            }
        }
    }
}

/// Of what is behind `synced` a part is there, as it was or as zeros.
fn cut(path: &Path, mut bytes: Vec<u8>, synced: usize, random: &mut Random) {
    if bytes.len() <= synced {
        return;
    }
    let from = synced + random.below(bytes.len() - synced);
    match random.below(3) {
        0 => {}
        1 => bytes.truncate(from),
        _ => bytes[from..].fill(0),
    }
    fs::write(path, bytes).unwrap();
}

struct Sinking {
    file: fs::File,
    at: usize,
    mode: Mode,
    left: Rc<Cell<usize>>,
    log: Rc<RefCell<Log>>,
}

impl Write for Sinking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = spend(self.mode, &self.left) {
            // A part of it still went through.
            let _ = self.file.write(&bytes[..bytes.len() / 2]);
            return Err(error);
        }
        // Short writes are allowed, and happen.
        self.file.write(&bytes[..bytes.len().min(1500)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for Sinking {
    fn sync(&mut self) -> io::Result<()> {
        if self.mode == Mode::Power {
            spend(self.mode, &self.left)?;
        }
        self.log.borrow_mut().made[self.at].synced = self.file.metadata()?.len();
        Ok(())
    }
}

impl Files for Fragile {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        spend(self.mode, &self.left)?;
        Disk.make_folder(path)?;
        self.made(path);
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        spend(self.mode, &self.left)?;
        let file = fs::File::create_new(path)?;
        self.made(path);
        let (left, log) = (self.left.clone(), self.log.clone());
        let at = log.borrow().made.len() - 1;
        Ok(Box::new(Sinking { file, at, mode: self.mode, left, log }))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.power()?;
        let mut log = self.log.borrow_mut();
        for made in log.made.iter_mut().filter(|made| made.path.parent() == Some(path)) {
            made.name_synced = true;
        }
        // All renames and removals are in the one folder.
        if path == self.folder {
            log.renames.iter_mut().for_each(|rename| rename.synced = true);
            log.removals.iter_mut().for_each(|removal| removal.synced = true);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.power()?;
        Disk.rename(from, to)?;
        let mut log = self.log.borrow_mut();
        for made in &mut log.made {
            if let Ok(inside) = made.path.strip_prefix(from) {
                made.path = if inside.as_os_str().is_empty() { to.into() } else { to.join(inside) };
            }
        }
        log.renames.push(Rename { from: from.into(), to: to.into(), synced: false });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.power()?;
        let mut log = self.log.borrow_mut();
        let grave = self.graves.path().join(log.removals.len().to_string());
        fs::rename(path, &grave)?;
        for made in log.made.iter_mut().filter(|made| made.path.starts_with(path)) {
            made.path = PathBuf::from("/nowhere");
        }
        log.removals.push(Removal { path: path.into(), grave, synced: false });
        Ok(())
    }
}
