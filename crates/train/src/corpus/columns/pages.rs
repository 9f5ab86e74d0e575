//! How much each page of a Parquet column unpacks to, from the page headers alone.
//!
//! The key decision: headers are structs of Thrift's compact protocol, of which only fields 2 and 3 (unpacked and packed size)
//! are kept; they are walked as the library will walk them, a small piece of the file at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// A header longer than this is not believed.
const HEADER: u64 = 64 << 10;

/// Whether all pages of a column chunk unpack to at most `most` bytes each.
///
/// # Errors
/// What is wrong, and what to do.
pub(super) fn checked(path: &Path, start: i64, length: i64, most: u64) -> Result<(), String> {
    let damaged = || {
        "a page header of the Parquet file does not read: it is cut off or damaged; fetch it again"
            .to_string()
    };
    let start = u64::try_from(start).map_err(|_| damaged())?;
    let length = u64::try_from(length).map_err(|_| damaged())?;
    let end = start.checked_add(length).ok_or_else(damaged)?;
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let (mut at, mut piece) = (start, Vec::new());
    while at < end {
        piece.clear();
        file.seek(SeekFrom::Start(at)).map_err(|error| error.to_string())?;
        let read = file.by_ref().take(HEADER.min(end - at)).read_to_end(&mut piece);
        read.map_err(|error| error.to_string())?;
        let mut header = Header { bytes: &piece, depth: 0 };
        let (unpacked, packed) = header.sizes().ok_or_else(damaged)?;
        let unpacked = u64::try_from(unpacked).map_err(|_| damaged())?;
        let packed = u64::try_from(packed).map_err(|_| damaged())?;
        if unpacked.max(packed) > most {
            return Err(format!(
                "a page of the Parquet file takes {unpacked} bytes, and a quarter of the recipe's `memory` is {most}; give more"
            ));
        }
        at += (piece.len() - header.bytes.len()) as u64 + packed;
    }
    Ok(())
}

struct Header<'a> {
    bytes: &'a [u8],
    depth: u32,
}

impl Header<'_> {
    /// `(uncompressed_page_size, compressed_page_size)`.
    fn sizes(&mut self) -> Option<(i64, i64)> {
        let (mut field, mut unpacked, mut packed) = (0, None, None);
        while let Some(kind) = self.field(&mut field)? {
            match (field, kind) {
                (2, 5) => unpacked = Some(self.integer()?),
                (3, 5) => packed = Some(self.integer()?),
                _ => self.skip(kind)?,
            }
        }
        unpacked.zip(packed)
    }

    /// The type of the next field, whose number goes into `field`; `Some(None)` at the struct's end.
    fn field(&mut self, field: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *field =
            if byte >> 4 == 0 { self.integer()? } else { field.checked_add((byte >> 4).into())? };
        Some(Some(byte & 15))
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Zigzag: 0, -1, 1, -2, …
    fn integer(&mut self) -> Option<i64> {
        self.varint().map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn pass(&mut self, length: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(length).ok()?..)?;
        Some(())
    }

    fn skip(&mut self, kind: u8) -> Option<()> {
        match kind {
            // Truth values lie in the type.
            1 | 2 => Some(()),
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => self.varint().and_then(|length| self.pass(length)),
            12 if self.depth < 16 => {
                self.depth += 1;
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind)?;
                }
                self.depth -= 1;
                Some(())
            }
            // Page headers hold no lists, maps or sets.
            _ => None,
        }
    }
}
