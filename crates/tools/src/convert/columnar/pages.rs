//! How much the pages of a Parquet file unpack to, from their headers alone.
//!
//! A page says how large it becomes, and the library makes room for that before it unpacks. So the headers (structs of
//! Thrift's compact protocol) are walked first, as the library will walk them, and their sizes added up.

/// Adds up what the pages of one column chunk unpack to, in bytes; none if the headers do not read.
pub(super) fn unpacked(chunk: &[u8]) -> Option<u64> {
    let (mut rest, mut sum) = (chunk, 0u64);
    while !rest.is_empty() {
        let mut header = Header { bytes: rest, depth: 0 };
        let (unpacked, packed) = header.sizes()?;
        rest = header.bytes.get(usize::try_from(packed).ok()?..)?;
        sum = sum.checked_add(u64::try_from(unpacked).ok()?)?;
    }
    Some(sum)
}

struct Header<'a> {
    bytes: &'a [u8],
    depth: u32,
}

impl Header<'_> {
    /// `(uncompressed_page_size, compressed_page_size)`: fields 2 and 3 of `PageHeader`.
    fn sizes(&mut self) -> Option<(i64, i64)> {
        let (mut field, mut unpacked, mut packed) = (0, None, None);
        while let Some(kind) = self.field(&mut field)? {
            match (field, kind) {
                (2, 5) => unpacked = Some(self.integer()?),
                (3, 5) => packed = Some(self.integer()?),
                _ => self.skip(kind)?,
            }
        }
        Some((unpacked?, packed?))
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
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The type of the next field, whose number goes into `field`; `Some(None)` at the end of the struct.
    fn field(&mut self, field: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *field = match byte >> 4 {
            0 => self.integer()?,
            step => field.checked_add(i64::from(step))?,
        };
        Some(Some(byte & 0xf))
    }

    fn skip(&mut self, kind: u8) -> Option<()> {
        match kind {
            // Truth values lie in the type.
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.pass(8)?,
            8 => {
                let length = self.varint()?;
                self.pass(length)?;
            }
            9 | 10 => {
                let byte = self.byte()?;
                let count = match byte >> 4 {
                    15 => self.varint()?,
                    small => u64::from(small),
                };
                self.nested(|header| {
                    // An element takes at least a byte, so this ends with the bytes.
                    for _ in 0..count {
                        match byte & 0xf {
                            1 | 2 => drop(header.byte()?),
                            kind => header.skip(kind)?,
                        }
                    }
                    Some(())
                })?;
            }
            12 => self.nested(|header| {
                let mut field = 0;
                while let Some(kind) = header.field(&mut field)? {
                    header.skip(kind)?;
                }
                Some(())
            })?,
            _ => return None,
        }
        Some(())
    }

    fn pass(&mut self, length: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(length).ok()?..)?;
        Some(())
    }

    fn nested(&mut self, inside: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        const DEPTH: u32 = 16;
        self.depth += 1;
        if self.depth > DEPTH {
            return None;
        }
        inside(self)?;
        self.depth -= 1;
        Some(())
    }
}
