//! SHA-256 of what is written and read, and its hexadecimal form.
//!
//! The key decision: what goes through a file is hashed on the way, so that no file is read a second time
//! to know what is in it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// 64 hexadecimal digits for 32 bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// The SHA-256 of bytes in memory.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The SHA-256 of a file and its length, read in pieces.
///
/// # Errors
/// If it cannot be read.
pub fn of_file(path: &Path) -> Result<([u8; 32], u64)> {
    let failed = |source| Error::io("reading", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let mut through = Hashing::new(io::sink());
    let mut piece = vec![0; 1 << 18];
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => return Ok(through.done()),
            read => through.write_all(&piece[..read]).map_err(failed)?,
        }
    }
}

/// A reader or writer that hashes and counts what passes.
pub struct Hashing<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    /// Around a reader or writer.
    pub fn new(inner: T) -> Hashing<T> {
        Hashing { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.bytes
    }

    /// What is inside.
    pub fn inner(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The SHA-256 and the number of bytes that passed.
    pub fn done(self) -> ([u8; 32], u64) {
        (self.hash.finalize().into(), self.bytes)
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.passed(&into[..read]);
        Ok(read)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.passed(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn bytes_files_and_streams_hash_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        let mut writer = Hashing::new(File::create(&path).unwrap());
        writer.write_all(b"a").unwrap();
        writer.write_all(b"bc").unwrap();
        let (hash, bytes) = writer.done();
        assert_eq!((hex(&hash).as_str(), bytes), (ABC, 3));
        assert_eq!(of_file(&path).unwrap(), (hash, 3));
        assert_eq!(sha256(b"abc"), hash);
        assert!(of_file(&folder.path().join("no")).unwrap_err().to_string().contains("no"));
    }
}
