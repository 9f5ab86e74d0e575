//! safetensors files, written from and read into flat buffers.
//!
//! The key decision: a file is a function of the list of its tensors, so there is no parser: what is read is compared
//! with the header that would have been written, and a file of another length is refused before anything is
//! allocated. Bytes pass through one buffer of [`PIECE`] numbers, hashed on the way; a second copy of the model
//! never exists.
//!
//! Source: the format's description in huggingface/safetensors, `README.md`.

use std::io::{self, Read, Write};

use half::bf16;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::manifest::{Entry, hex};
use crate::{Error, Result};

/// Numbers at a time.
const PIECE: usize = 1 << 18;

/// Type of the numbers in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// 32 bits, as they are trained.
    #[default]
    F32,
    /// The upper 16 bits of these, rounded to nearest even.
    Bf16,
}

impl Type {
    /// Bytes of a number.
    fn bytes(self) -> usize {
        match self {
            Type::F32 => 4,
            Type::Bf16 => 2,
        }
    }

    /// As safetensors call it.
    fn name(self) -> &'static str {
        match self {
            Type::F32 => "F32",
            Type::Bf16 => "BF16",
        }
    }

    /// As PyTorch calls it.
    pub(super) fn torch_name(self) -> &'static str {
        match self {
            Type::F32 => "float32",
            Type::Bf16 => "bfloat16",
        }
    }
}

/// Name and shape of a tensor.
pub(super) type Item<'a> = (&'a str, &'a [usize]);

/// Counts and hashes what is written or read.
pub(super) struct Hashed<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashed<T> {
    pub(super) fn new(inner: T) -> Hashed<T> {
        Hashed { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// What passed, and what it passed through.
    pub(super) fn finish(self, name: &str) -> (Entry, T) {
        let sha256 = hex(self.hash.finalize().as_ref());
        (Entry { name: name.into(), bytes: self.bytes, sha256 }, self.inner)
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.hash.update(&bytes[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Everything before the numbers: the length of the header, and the header, filled to a multiple of eight.
pub(super) fn header(items: &[Item<'_>], kind: Type) -> Vec<u8> {
    let mut map = Map::new();
    // Without it transformers refuses the file.
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut start = 0;
    for (name, shape) in items {
        let end = start + shape.iter().product::<usize>() * kind.bytes();
        let entry = json!({"dtype": kind.name(), "shape": shape, "data_offsets": [start, end]});
        map.insert((*name).into(), entry);
        start = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}

/// Writes numbers.
pub(super) fn write(numbers: &[f32], kind: Type, to: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(PIECE.min(numbers.len()) * kind.bytes());
    for piece in numbers.chunks(PIECE) {
        bytes.clear();
        match kind {
            Type::F32 => bytes.extend(piece.iter().flat_map(|number| number.to_le_bytes())),
            Type::Bf16 => {
                let half = |number: &f32| bf16::from_f32(*number).to_le_bytes();
                bytes.extend(piece.iter().flat_map(half));
            }
        }
        to.write_all(&bytes)?;
    }
    Ok(())
}

/// Reads the F32 vectors of a file, of these lengths, one behind another in the order of `items`. `entry` is what the
/// manifest says of the file: it is checked to the last bit before anything is returned.
pub(super) fn read(
    (length, source): (u64, Box<dyn Read + '_>),
    items: &[Item<'_>],
    lengths: &[usize],
    entry: &Entry,
) -> Result<Vec<Vec<f32>>> {
    let name = entry.name.as_str();
    let header = header(items, Type::F32);
    let numbers: u64 = lengths.iter().map(|&length| length as u64).sum();
    if header.len() as u64 + numbers * 4 != length {
        let expected = header.len() as u64 + numbers * 4;
        return Err(Error::bad(name, format!("{length} bytes, expected {expected}")));
    }
    let mut from = Hashed::new(source);
    let failed = |error| Error::io("reading", name, error);
    let mut found = vec![0; header.len()];
    from.read_exact(&mut found).map_err(failed)?;
    if found != header {
        return Err(Error::bad(name, "its header is not the one of this model"));
    }
    let mut bytes = vec![0; PIECE.min(numbers as usize) * 4];
    let mut vectors = Vec::new();
    for &length in lengths {
        let mut vector: Vec<f32> = Vec::new();
        vector.try_reserve_exact(length).map_err(|_| {
            Error::bad(name, format!("no memory for {length} numbers; use a larger machine"))
        })?;
        while vector.len() < length {
            let piece = &mut bytes[..(length - vector.len()).min(PIECE) * 4];
            from.read_exact(piece).map_err(failed)?;
            let number = |bytes: &[u8]| bytes.try_into().map_or(0.0, f32::from_le_bytes);
            vector.extend(piece.chunks_exact(4).map(number));
        }
        vectors.push(vector);
    }
    let (found, _) = from.finish(name);
    entry.check(found.bytes, &found.sha256)?;
    Ok(vectors)
}
