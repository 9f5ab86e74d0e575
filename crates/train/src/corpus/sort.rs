//! Sorting more records than fit in memory: sorted runs on disk, merged.
//!
//! The key decision: records are a few 64-bit numbers, compared as such, so equal records are the same bits
//! and the order is one for any memory. Runs are files without a name: a killed build leaves none.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Runs that are merged at once.
const FAN_IN: usize = 32;
/// Bytes read ahead from each run.
const AHEAD: usize = 32 << 10;

/// Takes records of `N` numbers and gives them back in order.
pub(super) struct Sorter<const N: usize> {
    folder: PathBuf,
    /// Records in memory at most.
    most: usize,
    records: Vec<[u64; N]>,
    runs: Vec<File>,
}

impl<const N: usize> Sorter<N> {
    /// With `memory` bytes (merging takes up to 1 MiB beside), and runs in `folder`.
    pub(super) fn new(folder: &Path, memory: usize) -> Sorter<N> {
        let most = (memory / (8 * N)).max(2);
        Sorter { folder: folder.to_path_buf(), most, records: Vec::new(), runs: Vec::new() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// If a run cannot be written.
    pub(super) fn push(&mut self, record: [u64; N]) -> io::Result<()> {
        if self.records.len() == self.most {
            self.spill()?;
        }
        if self.records.capacity() == self.records.len() {
            // Never above `most`, which doubling would be.
            let more = (self.records.len().max(512)).min(self.most - self.records.len());
            self.records.reserve_exact(more);
        }
        self.records.push(record);
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        self.records.sort_unstable();
        let mut run = BufWriter::with_capacity(AHEAD, tempfile::tempfile_in(&self.folder)?);
        for record in &self.records {
            run.write_all(bytemuck::cast_slice(record))?;
        }
        self.records.clear();
        self.runs.push(rewound(run)?);
        if self.runs.len() == FAN_IN { self.merge() } else { Ok(()) }
    }

    /// All runs become one.
    fn merge(&mut self) -> io::Result<()> {
        let mut merged = Merged::<N>::new(std::mem::take(&mut self.runs))?;
        let mut run = BufWriter::with_capacity(AHEAD, tempfile::tempfile_in(&self.folder)?);
        while let Some(record) = merged.next()? {
            run.write_all(bytemuck::cast_slice(&record))?;
        }
        self.runs.push(rewound(run)?);
        Ok(())
    }

    /// The records in order.
    ///
    /// # Errors
    /// If a run cannot be written or read.
    pub(super) fn sorted(mut self) -> io::Result<Sorted<N>> {
        if self.runs.is_empty() {
            self.records.sort_unstable();
            return Ok(Sorted::InMemory(self.records.into_iter()));
        }
        self.spill()?;
        self.records = Vec::new();
        Merged::new(self.runs).map(Sorted::Merged)
    }
}

fn rewound(run: BufWriter<File>) -> io::Result<File> {
    let mut file = run.into_inner().map_err(|error| error.into_error())?;
    file.rewind()?;
    Ok(file)
}

/// Records in order.
pub(super) enum Sorted<const N: usize> {
    /// All fitted.
    InMemory(std::vec::IntoIter<[u64; N]>),
    /// From runs.
    Merged(Merged<N>),
}

impl<const N: usize> Sorted<N> {
    /// The next one.
    ///
    /// # Errors
    /// If a run cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<[u64; N]>> {
        match self {
            Sorted::InMemory(records) => Ok(records.next()),
            Sorted::Merged(merged) => merged.next(),
        }
    }
}

/// Runs being merged.
pub(super) struct Merged<const N: usize> {
    runs: Vec<BufReader<File>>,
    heads: BinaryHeap<Reverse<([u64; N], usize)>>,
}

impl<const N: usize> Merged<N> {
    fn new(files: Vec<File>) -> io::Result<Merged<N>> {
        let runs = files.into_iter().map(|file| BufReader::with_capacity(AHEAD, file)).collect();
        let mut merged = Merged { runs, heads: BinaryHeap::new() };
        for run in 0..merged.runs.len() {
            merged.advance(run)?;
        }
        Ok(merged)
    }

    fn advance(&mut self, run: usize) -> io::Result<()> {
        if let Some(record) = read_record(&mut self.runs[run])? {
            self.heads.push(Reverse((record, run)));
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<[u64; N]>> {
        let Some(Reverse((record, run))) = self.heads.pop() else { return Ok(None) };
        self.advance(run)?;
        Ok(Some(record))
    }
}

/// One record of a file of them; none at its end.
///
/// # Errors
/// If the file cannot be read or ends within a record.
pub(super) fn read_record<const N: usize>(from: &mut impl Read) -> io::Result<Option<[u64; N]>> {
    let mut record = [0u64; N];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut record);
    // Most reads are whole: a buffered file whose buffer is a multiple of the record.
    let mut filled = 0;
    while filled < bytes.len() {
        match from.read(&mut bytes[filled..])? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_in_order_whatever_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        // Knuth's multiplicative hash: no order, some equal keys.
        let records: Vec<[u64; 2]> = (0..5000u64).map(|i| [(i * 2_654_435_761) % 997, i]).collect();
        let mut expected = records.clone();
        expected.sort();
        // 2 records a run: 2,500 runs, merged many times.
        for memory in [0, 100, 16_000, 1 << 20] {
            let mut sorter = Sorter::new(folder.path(), memory);
            for record in &records {
                sorter.push(*record).unwrap();
            }
            assert!(sorter.records.capacity() <= sorter.most.max(512));
            let mut sorted = sorter.sorted().unwrap();
            let found: Vec<[u64; 2]> = std::iter::from_fn(|| sorted.next().unwrap()).collect();
            assert_eq!(found, expected, "{memory}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "runs have no names");
        assert!(Sorter::<1>::new(folder.path(), 100).sorted().unwrap().next().unwrap().is_none());
    }
}
