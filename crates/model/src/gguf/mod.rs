//! GGUF, the format of llama.cpp: metadata, tensor descriptions, aligned tensor data.
//!
//! The key decision: reading is zero-copy. A [`Gguf`] keeps the mapped file and the offsets of its
//! entries; keys, strings and arrays are looked at where they lie, so a file cannot make us
//! allocate more than a small multiple of the entries it really contains. Writing streams: first
//! everything that describes the tensors, then their data one by one.
//!
//! This module knows the container, not the model: any GGUF opens here, also one that only holds
//! a vocabulary. [`crate::ModelFile`] is the reader that knows architectures.
//!
//! Source: the GGUF specification in ggml's `docs/gguf.md`, versions 2 and 3.

mod metadata;
mod reader;
mod value;
mod writer;

pub use metadata::Metadata;
pub use reader::Gguf;
pub use value::{Array, Encode, Value, ValueType};
pub use writer::{Header, Writer};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Alignment of tensor data where `general.alignment` does not say otherwise, in bytes.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// The format's name in error messages.
pub(crate) const FORMAT: &str = "GGUF";

#[cfg(test)]
mod tests;
