//! Server-sent events, line by line, within bounds.

use std::io::{BufRead, BufReader, Read};

/// Longest line in bytes.
const LINE: usize = 1 << 20;
/// Bytes of one answer.
const TOTAL: usize = 64 << 20;

/// The lines of an answer.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    total: usize,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(reader: R) -> Lines<R> {
        Lines { reader: BufReader::new(reader), total: 0 }
    }

    /// What stands on the next `data:` line; other lines (comments, names of events) are passed over.
    /// `None` at the end.
    pub(super) fn next_data(&mut self) -> Result<Option<Vec<u8>>, String> {
        while let Some(line) = self.next_line()? {
            if let Some(data) = line.strip_prefix(b"data:") {
                return Ok(Some(data.trim_ascii().to_vec()));
            }
        }
        Ok(None)
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut line = Vec::new();
        loop {
            let buffer = self.reader.fill_buf().map_err(|error| error.to_string())?;
            if buffer.is_empty() {
                return Ok((!line.is_empty()).then_some(line));
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(buffer.len(), |end| end + 1);
            line.extend_from_slice(&buffer[..end.unwrap_or(taken)]);
            self.reader.consume(taken);
            self.total += taken;
            if line.len() > LINE {
                return Err(format!("a line has more than {LINE} bytes"));
            }
            if self.total > TOTAL {
                return Err(format!("it has more than {TOTAL} bytes"));
            }
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }
}
