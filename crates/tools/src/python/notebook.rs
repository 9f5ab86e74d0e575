//! The cells that a space has run: what its interpreter's state is rebuilt from.
//!
//! The key decision: the cells are the state. They are kept together with the files that a cell changed, in one change of the
//! disk, so a cell has happened or has not; a fork is a copy of them, and an interpreter is only their running image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use yushan_abi::{Change, Disk, DiskError, Document, Label, ToolResult};

use super::interpreter::{Ran, fill, hex};
use crate::space::kept::CELLS;
use crate::space::now;

/// Cells, and bytes of the document.
const MOST_CELLS: usize = 1000;
const MOST_DOCUMENT: usize = 8 << 20;

/// What a space has run.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Notebook {
    /// What chance brings: 32 bytes in hexadecimal.
    pub(super) seed: String,
    pub(super) cells: Vec<Cell>,
    /// Of all that the interpreter has seen.
    pub(super) label: Label,
    /// The last call's key and what it was answered: a call that is made again after a crash is not run again.
    pub(super) last: Option<(String, ToolResult)>,
}

/// A cell, and what it found before it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) code: String,
    /// Files that were put there since the cell before, by path, with the hash of their bytes.
    pub(super) put: BTreeMap<String, String>,
    /// Files that were removed since then.
    pub(super) removed: Vec<String>,
    /// A fingerprint of what it said.
    pub(super) said: String,
    pub(super) took_ms: u64,
}

impl Notebook {
    pub(super) fn new() -> Notebook {
        let mut seed = [0; 32];
        fill(&mut seed);
        Notebook { seed: hex(&seed), cells: Vec::new(), label: Label::default(), last: None }
    }

    /// As it is kept; a new one if none is.
    pub(super) fn load(disk: &dyn Disk, owner: &str, space: &str) -> Result<Notebook, String> {
        match disk.get(CELLS, space).map_err(|error| error.to_string())? {
            None => Ok(Notebook::new()),
            Some(document) if document.owner != owner => {
                Err("this interpreter belongs to another user".into())
            }
            Some(document) => serde_json::from_str(&document.body)
                .map_err(|error| format!("the cells that were kept cannot be read: {error}")),
        }
    }

    /// The change that keeps it.
    pub(super) fn keep(&self, owner: &str, space: &str) -> Result<Change, DiskError> {
        let body = serde_json::to_string(self);
        let body = body.map_err(|error| DiskError::Failed(error.to_string()))?;
        let (owner, created_ms) = (owner.into(), now());
        Ok(Change::Put(Document { kind: CELLS.into(), key: space.into(), owner, created_ms, body }))
    }

    /// Whether there is room for a cell.
    pub(super) fn has_room(&self, code: &str) -> bool {
        let size: usize =
            self.cells.iter().map(|cell| cell.code.len() + cell.put.len() * 100).sum();
        self.cells.len() < MOST_CELLS && size + code.len() < MOST_DOCUMENT
    }

    pub(super) fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        for (byte, digits) in seed.iter_mut().zip(self.seed.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
        }
        seed
    }
}

/// What a cell said, as far as it should say the same when it is run again: addresses in memory are left out.
pub(super) fn fingerprint(ran: &Ran) -> String {
    let value = ran.value.as_deref().unwrap_or_default();
    let error = ran.error.as_deref().unwrap_or_default();
    let mut sum = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a: nobody is kept from anything by it
    for text in [ran.printed.as_str(), value, error] {
        let mut rest = text;
        while !rest.is_empty() {
            let (before, behind) = rest.split_once("0x").unwrap_or((rest, ""));
            for byte in before.bytes() {
                sum = (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
            rest = behind.trim_start_matches(|char: char| char.is_ascii_hexdigit());
        }
        sum = (sum ^ 0xff).wrapping_mul(0x100_0000_01b3);
    }
    format!("{sum:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_do_not_count_and_all_else_does() {
        let ran = |value: &str| Ran { value: Some(value.into()), ..Ran::default() };
        let of = |value: &str| fingerprint(&ran(value));
        assert_eq!(of("<f at 0x7fab12>, 1"), of("<f at 0x5>, 1"));
        assert_ne!(of("<f at 0x7fab12>, 1"), of("<f at 0x7fab12>, 2"));
        let printed = Ran { printed: "1".into(), ..Ran::default() };
        assert_ne!(fingerprint(&printed), of("1"));
    }

    #[test]
    fn a_seed_is_read_as_it_was_written() {
        let notebook = Notebook::new();
        assert_eq!(hex(&notebook.seed()), notebook.seed);
        assert_ne!(notebook.seed, Notebook::new().seed);
    }
}
