//! A file as a slice of bytes, read by the operating system when a page is first touched.
//!
//! The key decision: parameters are never read into memory of our own; every parser works on the
//! mapped bytes, and what it keeps are offsets into them. This is the only file of the crate that
//! may use `unsafe`. It knows no format.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use crate::{Error, Result};

/// Read-only bytes: a mapped file, or a buffer (tests, fuzzing, realigned tensors).
#[derive(Debug)]
pub struct Mapping(Kind);

#[derive(Debug)]
enum Kind {
    /// The file stays open for [`Mapping::read`].
    File(Mmap, File),
    Bytes(Vec<u8>),
    /// Bytes that start on an 8-byte boundary, and how many of them count.
    Aligned(Vec<u64>, usize),
}

impl Mapping {
    /// Maps a file. The bytes change if another process writes to the file; a file that is made
    /// shorter while it is mapped ends the process (`SIGBUS`), as with every program that maps.
    /// So files are replaced by renaming, never in place.
    pub fn open(path: &Path) -> Result<Mapping> {
        let failed = |source| Error::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the mapping is private and read-only. That nobody shortens or rewrites the file
        // meanwhile cannot be enforced; it is the documented condition of this function. Parsers
        // check every access against the length of the slice and re-check text as UTF-8 each time
        // they read it, so a file that changes yields other data, not an invalid value.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Mapping(Kind::File(map, file)))
    }

    /// Takes bytes that are already in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Mapping {
        Mapping(Kind::Bytes(bytes))
    }

    /// A copy that starts on an 8-byte boundary, for data that a file put at an odd offset.
    pub fn aligned_copy(bytes: &[u8]) -> Mapping {
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Mapping(Kind::Aligned(words, bytes.len()))
    }

    /// Says that the pages of `range` will not be read again soon, so that they stop counting
    /// towards the process. Reading them later is allowed and brings them back.
    pub fn release(&self, range: Range<usize>) {
        let Some(range) = self.checked(range) else { return };
        if let Kind::File(map, _) = &self.0 {
            // SAFETY: DONTNEED loses data only in anonymous or written pages. This mapping is a
            // private, read-only mapping of a file: the next access reads the same bytes again
            // from the page cache or the file, so slices borrowed meanwhile keep their contents.
            let _ = unsafe {
                map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }

    /// Copies bytes out without mapping their pages, which would count towards the process with all
    /// that the system maps around them.
    ///
    /// # Panics
    /// If they run past the end.
    pub fn read(&self, start: usize, into: &mut [u8]) {
        #[cfg(unix)]
        if let Kind::File(_, file) = &self.0 {
            use std::os::unix::fs::FileExt;
            if file.read_exact_at(into, start as u64).is_ok() {
                return;
            }
        }
        into.copy_from_slice(&self[start..start + into.len()]);
    }

    fn checked(&self, range: Range<usize>) -> Option<Range<usize>> {
        (range.start < range.end && range.end <= self.len()).then_some(range)
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::File(map, _) => map,
            Kind::Bytes(bytes) => bytes,
            Kind::Aligned(words, len) => &bytemuck::cast_slice(words)[..*len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_read_the_same_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = Mapping::open(&path).unwrap();
        assert_eq!(&map[..], &bytes[..]);
        map.release(100..40_000);
        map.release(40_000..usize::MAX); // past the end: ignored
        let mut copy = [0; 100];
        map.read(40_050, &mut copy);
        assert_eq!(copy[..], bytes[40_050..40_150]);
        assert_eq!(&map[..], &bytes[..]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Mapping::open(Path::new("no/such/file.gguf")).unwrap_err().to_string();
        assert!(error.contains("no/such/file.gguf"), "{error}");
    }

    #[test]
    fn aligned_copies_are_equal_and_aligned() {
        for len in [0, 1, 7, 8, 9, 100] {
            let bytes: Vec<u8> = (0..len as u8).collect();
            let copy = Mapping::aligned_copy(&bytes);
            assert_eq!(&copy[..], &bytes[..]);
            assert_eq!(copy.as_ptr() as usize % 8, 0);
        }
    }
}
