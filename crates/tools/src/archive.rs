//! Archives: ZIP, tar and tar.gz, listed and unpacked.
//!
//! The key decision: an archive is unpacked in memory, all or nothing, within limits that are counted while bytes come and
//! never believed from headers; only then is any file written. Links, devices, and paths that lead out are refused by
//! name, not left out: half an archive is not given for a whole one. An archive in an archive is a file.

pub mod driver;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::{self, Cursor, Read};

/// What unpacking may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the archive.
    pub input: usize,
    /// Bytes of all files together.
    pub total: usize,
    /// How many times larger the files may be than the archive.
    pub ratio: usize,
    /// Files and folders.
    pub entries: usize,
    /// Parts of a path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { input: 64 << 20, total: 256 << 20, ratio: 100, entries: 10_000, depth: 32 }
    }
}

/// Below this the ratio does not matter: a few empty lines pack a thousandfold.
const SMALL: usize = 1 << 20;
/// Bytes of a path.
const PATH: usize = 1024;

impl Limits {
    /// Bytes that an archive of this size may become.
    fn most(&self, packed: usize) -> usize {
        self.total.min(packed.saturating_mul(self.ratio).max(SMALL))
    }
}

/// Why an archive was refused. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Not an archive of a known kind, or damaged.
    #[error("{0}")]
    Malformed(String),
    /// A limit.
    #[error("refused: {what} more than {limit}; nothing was unpacked")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much may be.
        limit: usize,
    },
    /// A path or a kind of entry that could do harm.
    #[error("refused: the entry {name:?} {why}; nothing was unpacked")]
    Unsafe {
        /// Its name in the archive.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Protected by a password.
    #[error(
        "the archive is encrypted; ask for one without a password, since none can be given here"
    )]
    Encrypted,
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes: relative, with `/`, no `..`.
    pub path: String,
    /// Its bytes; empty if the archive was listed only.
    pub bytes: Vec<u8>,
    /// How many they are, counted.
    pub size: u64,
}

/// Unpacks and counts, but keeps no bytes.
///
/// # Errors
/// As [`unpack`], so that what can be listed can be unpacked.
pub fn list(archive: &[u8], limits: &Limits) -> Result<Vec<Entry>, ArchiveError> {
    Walk { limits, keep: false, most: 0, total: 0, seen: BTreeSet::new(), out: Vec::new() }
        .walk(archive)
}

/// The files of an archive, in their order; folders are left out.
///
/// # Errors
/// An unknown or damaged archive, a limit, an entry that is no plain file or leads elsewhere.
pub fn unpack(archive: &[u8], limits: &Limits) -> Result<Vec<Entry>, ArchiveError> {
    Walk { limits, keep: true, most: 0, total: 0, seen: BTreeSet::new(), out: Vec::new() }
        .walk(archive)
}

struct Walk<'a> {
    limits: &'a Limits,
    keep: bool,
    most: usize,
    total: usize,
    /// Entries of any kind, to count them and to find two of one name.
    seen: BTreeSet<String>,
    out: Vec<Entry>,
}

impl Walk<'_> {
    fn walk(mut self, archive: &[u8]) -> Result<Vec<Entry>, ArchiveError> {
        if archive.len() > self.limits.input {
            let limit = self.limits.input;
            return Err(ArchiveError::TooLarge { what: "bytes of the archive:", limit });
        }
        self.most = self.limits.most(archive.len());
        match archive {
            [b'P', b'K', 3 | 5, 4 | 6, ..] => self.zip(archive)?,
            [0x1f, 0x8b, ..] => {
                let most = self.most as u64 + ENDS * self.limits.entries as u64;
                let mut unpacked = flate2::read::MultiGzDecoder::new(archive).take(most);
                self.tar(&mut unpacked)?;
                if unpacked.limit() == 0 {
                    return Err(self.too_large());
                }
            }
            bytes if bytes.get(257..262) == Some(b"ustar") => self.tar(&mut { archive })?,
            _ => {
                return Err(ArchiveError::Malformed(
                    "the file is not an archive that can be opened: zip, tar and tar.gz can".into(),
                ));
            }
        }
        Ok(self.out)
    }

    fn too_large(&self) -> ArchiveError {
        if self.most < self.limits.total {
            let limit = self.limits.ratio;
            return ArchiveError::TooLarge { what: "unpacked bytes per packed byte:", limit };
        }
        ArchiveError::TooLarge { what: "unpacked bytes:", limit: self.limits.total }
    }

    fn zip(&mut self, archive: &[u8]) -> Result<(), ArchiveError> {
        let mut archive = zip::ZipArchive::new(Cursor::new(archive)).map_err(damaged)?;
        if archive.len() > self.limits.entries {
            return Err(self.too_many());
        }
        for place in 0..archive.len() {
            let mut entry = archive.by_index(place).map_err(|error| match error {
                zip::result::ZipError::InvalidPassword => ArchiveError::Encrypted,
                zip::result::ZipError::UnsupportedArchive(text)
                    if text.to_ascii_lowercase().contains("password") =>
                {
                    ArchiveError::Encrypted
                }
                other => damaged(other),
            })?;
            let name = entry.name().map_err(damaged)?.into_owned();
            if entry.encrypted() {
                return Err(ArchiveError::Encrypted);
            }
            let kind = entry.unix_mode().map_or(0, |mode| mode & 0o170_000);
            if entry.is_symlink() || !matches!(kind, 0 | 0o100_000 | 0o040_000) {
                return Err(refused(&name, "is a link or a device"));
            }
            let is_folder = entry.is_dir();
            self.entry(&name, is_folder, &mut entry)?;
        }
        Ok(())
    }

    fn tar(&mut self, reader: &mut dyn Read) -> Result<(), ArchiveError> {
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let kind = entry.header().entry_type();
            match kind {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    self.entry(&name, false, &mut entry)?;
                }
                tar::EntryType::Directory => self.entry(&name, true, &mut io::empty())?,
                // Comments of the whole archive.
                tar::EntryType::XGlobalHeader => {}
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    return Err(refused(&name, "is a link"));
                }
                _ => return Err(refused(&name, "is neither a file nor a folder")),
            }
        }
        Ok(())
    }

    fn too_many(&self) -> ArchiveError {
        ArchiveError::TooLarge { what: "entries:", limit: self.limits.entries }
    }

    fn entry(
        &mut self,
        name: &str,
        is_folder: bool,
        reader: &mut dyn Read,
    ) -> Result<(), ArchiveError> {
        let path = safe(name, self.limits.depth)?;
        if self.seen.len() >= self.limits.entries {
            return Err(self.too_many());
        }
        // `./` of a tar.
        if path.is_empty() && is_folder {
            return Ok(());
        }
        if !self.seen.insert(path.clone()) && !is_folder {
            return Err(refused(name, "is there twice"));
        }
        if is_folder {
            return Ok(());
        }
        // One byte more than may be tells that there is too much.
        let mut reader = reader.take((self.most - self.total) as u64 + 1);
        let mut bytes = Vec::new();
        let size = if self.keep {
            reader.read_to_end(&mut bytes).map_err(damaged)? as u64
        } else {
            io::copy(&mut reader, &mut io::sink()).map_err(damaged)?
        };
        self.total += size as usize;
        if self.total > self.most {
            return Err(self.too_large());
        }
        self.out.push(Entry { path, bytes, size });
        Ok(())
    }
}

/// Headers, padding and long names of an entry of a tar, in bytes.
const ENDS: u64 = 4096;

fn damaged(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Malformed(format!(
        "the archive is damaged or not complete: {error}; nothing was unpacked"
    ))
}

fn refused(name: &str, why: &'static str) -> ArchiveError {
    ArchiveError::Unsafe { name: name.chars().take(200).collect(), why }
}

/// A name as a relative path.
fn safe(name: &str, depth: usize) -> Result<String, ArchiveError> {
    if name.len() > PATH {
        return Err(refused(name, "has a path that is too long"));
    }
    // `C:\`, `\\server`, and what shows otherwise than it is.
    if name.contains('\\') || name.as_bytes().get(1) == Some(&b':') {
        return Err(refused(name, "has a path of Windows"));
    }
    if name.chars().any(|one| one.is_control() || ('\u{202a}'..='\u{202e}').contains(&one)) {
        return Err(refused(name, "has characters in its path that cannot be shown"));
    }
    if name.starts_with('/') {
        return Err(refused(name, "has an absolute path"));
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(refused(name, "leads out of its folder (..)"));
    }
    if parts.len() > depth {
        return Err(refused(name, "lies too deep"));
    }
    if parts.is_empty() && !name.ends_with(['/', '.']) {
        return Err(refused(name, "has no name"));
    }
    Ok(parts.join("/"))
}
