//! Which documents are there already: exact and near duplicates among any number of documents.
//!
//! The key decision: both are found by sorting on disk. A document that equals one before it, or that shares a band of its signature with
//! one before it and agrees with it in enough of the whole, goes: the first in the order of input stays, and the answer
//! does not depend on memory or threads. Near duplicates are not closed into clusters (A ~ B ~ C): C goes only if it is like one that
//! shares a band, so no chain of small differences takes a corpus away.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::minhash::{MinHash, similarity};
use super::recipe::Dedup;
use super::sort::{Sorted, Sorter, read_record};

/// Documents of a band that later ones are compared with.
const COMPARED: usize = 4;

/// Collects what is known of documents; numbers rise.
pub(super) struct Duplicates {
    dedup: Dedup,
    hash: MinHash,
    folder: PathBuf,
    memory: usize,
    /// The first half of the SHA-256 and the document's number.
    exact: Sorter<3>,
    /// For each document with a signature its number and the signature.
    signatures: BufWriter<File>,
    signed: u64,
}

impl Duplicates {
    /// Its files go to `folder`, and it takes half of `memory` bytes.
    pub(super) fn new(dedup: &Dedup, folder: &Path, memory: usize) -> io::Result<Duplicates> {
        Ok(Duplicates {
            dedup: dedup.clone(),
            hash: MinHash::new(dedup.shingle_words, dedup.bands, dedup.rows),
            folder: folder.to_path_buf(),
            memory,
            exact: Sorter::new(folder, memory / 8),
            signatures: BufWriter::new(tempfile::tempfile_in(folder)?),
            signed: 0,
        })
    }

    /// The next document; its signature may be empty.
    pub(super) fn push(
        &mut self,
        document: u64,
        sha256: &[u8; 32],
        signature: &[u16],
    ) -> io::Result<()> {
        if self.dedup.exact {
            let half =
                |at: usize| u64::from_be_bytes(sha256[at..at + 8].try_into().expect("8 bytes"));
            self.exact.push([half(0), half(8), document])?;
        }
        if self.dedup.near && !signature.is_empty() {
            self.signatures.write_all(&document.to_le_bytes())?;
            self.signatures.write_all(bytemuck::cast_slice(signature))?;
            self.signed += 1;
        }
        Ok(())
    }

    /// Finds what is to be dropped.
    pub(super) fn found(self) -> io::Result<Found> {
        let mut same = exact(self.exact, &self.folder, self.memory / 4)?;
        let mut signatures = self.signatures.into_inner().map_err(|error| error.into_error())?;
        signatures.rewind()?;
        let mut near = Near {
            file: signatures,
            hash: self.hash,
            bands: Sorter::new(&self.folder, self.memory / 4),
            signature: Vec::new(),
        };
        near.collect(self.signed, &mut same)?;
        let near = near.found(self.dedup.similarity, &self.folder, self.memory / 8)?;
        same.rewind()?;
        Found::new(BufReader::new(same), near)
    }
}

/// A file with the numbers of documents that equal an earlier one, rising.
fn exact(hashes: Sorter<3>, folder: &Path, memory: usize) -> io::Result<File> {
    let (mut hashes, mut again) = (hashes.sorted()?, Sorter::<1>::new(folder, memory));
    let mut before = None;
    while let Some([high, low, document]) = hashes.next()? {
        if before == Some((high, low)) {
            again.push([document])?;
        }
        before = Some((high, low));
    }
    let (mut again, mut file) = (again.sorted()?, BufWriter::new(tempfile::tempfile_in(folder)?));
    while let Some(record) = again.next()? {
        file.write_all(bytemuck::cast_slice(&record))?;
    }
    let mut file = file.into_inner().map_err(|error| error.into_error())?;
    file.rewind()?;
    Ok(file)
}

/// Looking for near duplicates.
struct Near {
    /// Document number and signature, by slot.
    file: File,
    hash: MinHash,
    /// Hash of a band and slot.
    bands: Sorter<2>,
    signature: Vec<u16>,
}

impl Near {
    fn slot_bytes(&self) -> u64 {
        8 + 2 * self.hash.places() as u64
    }

    /// Sends the bands of all documents to the sorter but of those that equal an earlier one.
    fn collect(&mut self, slots: u64, same: &mut File) -> io::Result<()> {
        let mut same = BufReader::new(same);
        let mut next = read_record::<1>(&mut same)?;
        let mut reader = BufReader::with_capacity(64 << 10, self.file.try_clone()?);
        self.signature.resize(self.hash.places(), 0);
        for slot in 0..slots {
            let document = read_slot(&mut reader, &mut self.signature)?;
            while next.is_some_and(|[one]| one < document) {
                next = read_record(&mut same)?;
            }
            if next == Some([document]) {
                continue;
            }
            for band in self.hash.bands(&self.signature) {
                self.bands.push([band, slot])?;
            }
        }
        Ok(())
    }

    /// Numbers of documents like an earlier one, rising, some more than once.
    fn found(self, least: f64, folder: &Path, memory: usize) -> io::Result<Sorted<1>> {
        let (slot_bytes, mut file, mut found) =
            (self.slot_bytes(), self.file, Sorter::<1>::new(folder, memory));
        let mut bands = self.bands.sorted()?;
        let mut read = |slot: u64, signature: &mut Vec<u16>| {
            signature.resize(self.hash.places(), 0);
            file.seek(SeekFrom::Start(slot * slot_bytes))?;
            read_slot(&mut file, signature)
        };
        let mut firsts: Vec<Vec<u16>> = vec![Vec::new(); COMPARED];
        // How many of `firsts` are of this band; its first slot is read when a second one comes.
        let (mut band, mut first, mut compared, mut signature) = (None, 0, 0, Vec::new());
        while let Some([hash, slot]) = bands.next()? {
            if band != Some(hash) {
                (band, first, compared) = (Some(hash), slot, 0);
                continue;
            }
            if compared == 0 {
                read(first, &mut firsts[0])?;
                compared = 1;
            }
            let document = read(slot, &mut signature)?;
            if firsts[..compared].iter().any(|one| similarity(one, &signature) >= least) {
                found.push([document])?;
            } else if compared < COMPARED {
                firsts[compared].clone_from(&signature);
                compared += 1;
            }
        }
        found.sorted()
    }
}

fn read_slot(from: &mut impl Read, signature: &mut [u16]) -> io::Result<u64> {
    let mut document = [0; 8];
    from.read_exact(&mut document)?;
    from.read_exact(bytemuck::cast_slice_mut(signature))?;
    Ok(u64::from_le_bytes(document))
}

/// Why a document is a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The same text.
    Exact,
    /// Nearly the same words.
    Near,
}

/// The numbers of duplicates, asked for in rising order.
pub(super) struct Found {
    same: BufReader<File>,
    near: Sorted<1>,
    next_same: Option<u64>,
    next_near: Option<u64>,
}

impl Found {
    fn new(same: BufReader<File>, near: Sorted<1>) -> io::Result<Found> {
        let mut found = Found { same, near, next_same: None, next_near: None };
        (found.next_same, found.next_near) = (found.read_same()?, found.read_near()?);
        Ok(found)
    }

    fn read_same(&mut self) -> io::Result<Option<u64>> {
        Ok(read_record::<1>(&mut self.same)?.map(|[document]| document))
    }

    fn read_near(&mut self) -> io::Result<Option<u64>> {
        Ok(self.near.next()?.map(|[document]| document))
    }

    fn advance(&mut self, document: u64) -> io::Result<()> {
        while self.next_same.is_some_and(|next| next < document) {
            self.next_same = self.read_same()?;
        }
        while self.next_near.is_some_and(|next| next < document) {
            self.next_near = self.read_near()?;
        }
        Ok(())
    }

    /// Whether this document goes. Numbers must rise from call to call.
    pub(super) fn is_duplicate(&mut self, document: u64) -> io::Result<Option<Kind>> {
        self.advance(document)?;
        Ok(if self.next_same == Some(document) {
            Some(Kind::Exact)
        } else if self.next_near == Some(document) {
            Some(Kind::Near)
        } else {
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::words::Words;
    use crate::digest::sha256;

    /// Which of the texts go.
    fn dropped(texts: &[String], memory: usize) -> Vec<(usize, Kind)> {
        let folder = tempfile::tempdir().unwrap();
        let dedup = Dedup::default();
        let mut hash = MinHash::new(dedup.shingle_words, dedup.bands, dedup.rows);
        let mut duplicates = Duplicates::new(&dedup, folder.path(), memory).unwrap();
        for (number, text) in texts.iter().enumerate() {
            let (mut words, mut signature) = (Words::default(), Vec::new());
            words.read(text);
            hash.sign(&words, &mut signature);
            duplicates.push(number as u64, &sha256(text.as_bytes()), &signature).unwrap();
        }
        let mut found = duplicates.found().unwrap();
        let kind =
            |number: usize| found.is_duplicate(number as u64).unwrap().map(|kind| (number, kind));
        (0..texts.len()).filter_map(kind).collect()
    }

    #[test]
    fn the_first_stays_whatever_the_memory() {
        let text = |from: u32, to: u32| {
            (from..to).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ")
        };
        let mut texts = vec![
            text(0, 300),           // 0 stays
            text(1000, 1300),       // 1 stays
            text(0, 300),           // 2 equals 0
            text(0, 300) + ", end", // 3 is like 0
            text(100, 400),         // 4 shares half of the words with 0 and stays
            text(1000, 1295),       // 5 is like 1
            text(0, 300) + ", end", // 6 equals 3, which goes as well
            String::new(),          // 7 has no words and stays
            String::new(),          // 8 equals 7
            text(0, 310),           // 9 is like 0
        ];
        texts.extend((0..500).map(|i| text(10_000 + 400 * i, 10_050 + 400 * i)));
        let expected = [
            (2, Kind::Exact),
            (3, Kind::Near),
            (5, Kind::Near),
            (6, Kind::Exact),
            (8, Kind::Exact),
            (9, Kind::Near),
        ];
        for memory in [0, 10_000, 1 << 24] {
            assert_eq!(dropped(&texts, memory), expected, "{memory}");
        }
    }
}
