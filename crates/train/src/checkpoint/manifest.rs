//! `manifest.json`: the length and SHA-256 of every file of a checkpoint, and of its own content.
//!
//! The key decision: there is one way to write a manifest, and a file that differs from it in a single byte is
//! refused: what was read is written again and compared. So its own hash need not say what it covers.

use std::io::Read;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::Source;
use crate::{Error, Result};

/// Its name.
pub(super) const NAME: &str = "manifest.json";

const FORMAT: &str = "yushan checkpoint";
const VERSION: u32 = 1;

/// No manifest is longer.
const MOST: u64 = 64 << 10;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    version: u32,
    pub(super) step: u64,
    pub(super) files: Vec<Entry>,
    /// Of this manifest as it is written when this is empty.
    sha256: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) fn new(step: u64, files: Vec<Entry>) -> Manifest {
        let format = FORMAT.to_string();
        let mut manifest =
            Manifest { format, version: VERSION, step, files, sha256: String::new() };
        manifest.sha256 = hash(&manifest.text());
        manifest
    }

    /// The file's text.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads and checks the file.
    pub(super) fn read(source: &dyn Source) -> Result<Manifest> {
        let text = read_small(source, NAME, MOST)?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| Error::bad(NAME, error.to_string()))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            let Manifest { format, version, .. } = manifest;
            let detail = format!("{format:?} version {version}, expected {FORMAT:?} {VERSION}");
            return Err(Error::bad(NAME, detail));
        }
        let Manifest { step, files, .. } = manifest.clone();
        if Manifest::new(step, files).text() != text {
            return Err(Error::bad(NAME, "its content does not have the hash that it says"));
        }
        Ok(manifest)
    }

    /// What it says of a file.
    pub(super) fn entry(&self, name: &str) -> Result<&Entry> {
        let found = self.files.iter().find(|entry| entry.name == name);
        found.ok_or_else(|| Error::bad(NAME, format!("does not list {name}")))
    }

    /// Reads a file that fits in memory and has its length and hash.
    pub(super) fn small(&self, source: &dyn Source, name: &str, most: u64) -> Result<Vec<u8>> {
        let entry = self.entry(name)?;
        let bytes = read_small(source, name, most)?;
        entry.check(bytes.len() as u64, &hash(&bytes))?;
        Ok(bytes)
    }
}

impl Entry {
    /// Whether a file is the one that was written.
    pub(super) fn check(&self, bytes: u64, sha256: &str) -> Result<()> {
        let detail = if bytes != self.bytes {
            format!("{bytes} bytes, but {} were written", self.bytes)
        } else if sha256 != self.sha256 {
            "its bytes are not those that were written (SHA-256)".into()
        } else {
            return Ok(());
        };
        Err(Error::bad(&self.name, detail))
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file of at most `most` bytes.
fn read_small(source: &dyn Source, name: &str, most: u64) -> Result<Vec<u8>> {
    let failed = |error| Error::io("reading", name, error);
    let (length, read) = source.open(name).map_err(failed)?;
    if length > most {
        return Err(Error::bad(name, format!("{length} bytes, expected at most {most}")));
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    read.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
