//! A sequence on disk: its tokens and the pages with their keys and values.
//!
//! The key decision: pages are written as they stand in memory, under a header that names the model,
//! the layout and a checksum of everything; whatever differs is refused, since keys of another model
//! read as nonsense without a sign of it. All numbers are little-endian 64-bit.
//!
//! | header | tokens | pages | checksum |
//! |---|---|---|---|
//! | magic, version, model, page tokens, page bytes, tokens | u32 each | bytes | FNV-1a of all before |

use std::io::{Read, Write};

use yushan_abi::{Executor, SequenceId, TokenId};

use crate::engine::Engine;
use crate::{Error, Result};

const FORMAT: &str = "KV snapshot";
const MAGIC: u64 = u64::from_le_bytes(*b"yushanKV");
const VERSION: u64 = 1;

/// FNV-1a over 64-bit words (Fowler, Noll and Vo; the offset basis and prime of the 64-bit variant).
#[derive(Clone, Copy)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

impl Engine {
    /// Writes what a sequence holds, so that [`Engine::restore`] brings it back without computing.
    pub fn save(&self, sequence: SequenceId, to: &mut dyn Write) -> Result<()> {
        let (tokens, table) = self.contents(sequence)?;
        let mut checksum = Checksum::new();
        let mut put = |bytes: &[u8]| -> Result<()> {
            checksum.add(bytes);
            to.write_all(bytes).map_err(|error| Error::io(FORMAT, error))
        };
        for number in self.header(tokens.len()) {
            put(&number.to_le_bytes())?;
        }
        let ids: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        put(&ids)?;
        for &page in table {
            put(self.page(page))?;
        }
        let sum = checksum.value();
        to.write_all(&sum.to_le_bytes()).map_err(|error| Error::io(FORMAT, error))
    }

    /// Opens a sequence from what [`Engine::save`] wrote. On an error nothing has changed.
    pub fn restore(&mut self, from: &mut dyn Read) -> Result<SequenceId> {
        let mut reader = Reader { from, checksum: Checksum::new() };
        let mut found = [0; 6];
        for (number, name) in found.iter_mut().zip(NAMES) {
            *number = reader.number(name)?;
        }
        let length = found[5];
        let limit = Executor::context(self);
        if length == 0 || length > limit as u64 {
            let detail = format!("{length}; expected 1 to {limit}, the context of this engine");
            return Err(Error::format(FORMAT, "tokens", detail));
        }
        for ((found, expected), name) in
            found.into_iter().zip(self.header(length as usize)).zip(NAMES)
        {
            if found != expected {
                let detail = format!("{found:#x}; this model and engine need {expected:#x}");
                return Err(Error::format(FORMAT, name, detail));
            }
        }
        let mut ids = vec![0; length as usize * 4];
        reader.bytes("tokens", &mut ids)?;
        let tokens: Vec<TokenId> =
            ids.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let sequence = self.reserve(&tokens)?;
        match self.fill(sequence, &mut reader) {
            Ok(()) => Ok(sequence),
            Err(error) => {
                self.discard(sequence);
                Err(error)
            }
        }
    }

    /// Reads the pages of a fresh sequence, then the checksum.
    fn fill(&mut self, sequence: SequenceId, reader: &mut Reader<'_>) -> Result<()> {
        let table = self.contents(sequence)?.1.to_vec();
        for page in table {
            reader.bytes("pages", self.page_mut(page))?;
        }
        let expected = reader.checksum.value();
        let found = reader.number("checksum")?;
        if found != expected {
            let detail = format!("{found:#x}, but the contents give {expected:#x}: it is damaged");
            return Err(Error::format(FORMAT, "checksum", detail));
        }
        self.publish(sequence);
        Ok(())
    }

    fn header(&self, tokens: usize) -> [u64; 6] {
        let usage = Executor::usage(self);
        let (page_tokens, page_bytes) = (usage.page_tokens as u64, usage.page_bytes as u64);
        [MAGIC, VERSION, self.fingerprint(), page_tokens, page_bytes, tokens as u64]
    }
}

const NAMES: [&str; 6] = ["magic", "version", "model", "page tokens", "page bytes", "tokens"];

struct Reader<'a> {
    from: &'a mut dyn Read,
    checksum: Checksum,
}

impl Reader<'_> {
    fn bytes(&mut self, field: &str, into: &mut [u8]) -> Result<()> {
        self.from
            .read_exact(into)
            .map_err(|error| Error::format(FORMAT, field, format!("cannot be read: {error}")))?;
        self.checksum.add(into);
        Ok(())
    }

    fn number(&mut self, field: &str) -> Result<u64> {
        let mut word = [0; 8];
        self.bytes(field, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}
