//! The parameters file of llama2.c: a header of seven numbers, then every matrix of every layer in
//! a fixed order, as 32-bit floats.
//!
//! The key decision: the header alone says where everything lies, so its numbers are proven against
//! the length of the file, to the byte, before a tensor is listed. Layers are stored matrix by
//! matrix (all queries, then all keys, …); each becomes one GGUF name over the same bytes.
//!
//! Source: karpathy/llama2.c, `export.py` (versions 0 and 1) and `run.c`. Not here: version 2
//! (int8), which `convert` of the original checkpoint replaces.

use std::sync::Arc;

use yushan_tensor::DType;

use crate::directory::{Directory, NameRange};
use crate::mmap::Mapping;
use crate::{Config, Error, Result, Rope, RopeScaling, RopeStyle};

pub(crate) const FORMAT: &str = "llama2.c";

/// `ak42`, before the header of versions 1 and later.
const MAGIC: u32 = 0x616b_3432;

/// The header of version 0, and what version 1 pads its own to, in bytes.
const HEADERS: [usize; 2] = [28, 256];

/// A group of tensors, in the order of the file.
enum Group {
    /// One tensor.
    Whole(&'static str, Shape),
    /// One tensor a layer: `blk.N.` and this name.
    Layers(&'static str, Shape),
    /// So many floats that nobody needs (tables of cosines and sines).
    Skip(usize),
}

/// A vector, or a matrix of rows and columns.
#[derive(Clone, Copy)]
enum Shape {
    Vector(usize),
    Matrix(usize, usize),
}

use Group::{Layers, Skip, Whole};
use Shape::{Matrix, Vector};

/// What the header says.
struct Header {
    version: usize,
    config: Config,
    tied: bool,
}

/// Whether the file says itself that it is of this format. Files of version 0 do not.
pub(crate) fn is_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// Reads a parameters file.
pub(crate) fn open(map: Arc<Mapping>) -> Result<(Config, Directory)> {
    let header = Header::read(&map)?;
    let groups = header.groups();
    header.check_length(&groups, map.len())?;
    let layers = header.config.layers;
    // All names, in one buffer.
    let mut names = String::with_capacity(groups.len() * layers * 26);
    let mut ends = Vec::with_capacity(groups.len() * layers);
    each(&groups, layers, &mut |name, _, _| {
        names.push_str(name);
        ends.push(names.len());
        Ok(())
    })?;
    let mut tensors = Directory::default();
    let data = tensors.add_part(FORMAT, map)?;
    let part = tensors.add_part(FORMAT, Arc::new(Mapping::from_bytes(names.into_bytes())))?;
    tensors.reserve(ends.len());
    let (mut start, mut number) = (0, 0);
    each(&groups, layers, &mut |_, shape, offset| {
        let name = NameRange { part, start, len: ends[number] - start };
        start = ends[number];
        number += 1;
        let at = HEADERS[header.version] + 4 * offset;
        match shape {
            Vector(size) => tensors.push(FORMAT, name, DType::F32, &[size], data, at)?,
            Matrix(rows, columns) => {
                tensors.push(FORMAT, name, DType::F32, &[rows, columns], data, at)?
            }
        };
        Ok(())
    })?;
    tensors.seal(FORMAT)?;
    tensors.align(FORMAT)?;
    header.config.check_tensors(FORMAT, &tensors)?;
    Ok((header.config, tensors))
}

/// Calls `tensor` with the name, shape and offset (in floats) of every tensor.
fn each(
    groups: &[Group],
    layers: usize,
    tensor: &mut dyn FnMut(&str, Shape, usize) -> Result<()>,
) -> Result<()> {
    let mut offset = 0;
    for group in groups {
        match *group {
            Skip(floats) => offset += floats,
            Whole(name, shape) => {
                tensor(name, shape, offset)?;
                offset += shape.floats();
            }
            Layers(name, shape) => {
                for layer in 0..layers {
                    tensor(&format!("blk.{layer}.{name}"), shape, offset)?;
                    offset += shape.floats();
                }
            }
        }
    }
    Ok(())
}

impl Shape {
    /// Sizes are checked to be small enough for the product.
    fn floats(self) -> usize {
        match self {
            Vector(size) => size,
            Matrix(rows, columns) => rows * columns,
        }
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header> {
        let word = |at: usize, field: &str| {
            let word = bytes.get(4 * at..).and_then(|rest| rest.first_chunk());
            word.map(|word| i32::from_le_bytes(*word))
                .ok_or_else(|| Error::format(FORMAT, field, "the file ends before it"))
        };
        let version = match is_magic(bytes) {
            false => 0,
            true => match word(1, "version")? {
                1 => 1,
                other => {
                    return Err(Error::Unsupported {
                        what: format!("version {other} of a llama2.c file"),
                        expected: "export it with --version 0 or 1 (32-bit floats)".into(),
                    });
                }
            },
        };
        let first = 2 * version;
        let size = |at: usize, field: &str| {
            let value = word(first + at, field)?;
            usize::try_from(value).map_err(|_| {
                Error::format(FORMAT, field, format!("{value}, expected a positive number"))
            })
        };
        let (dim, heads) = (size(0, "embedding length")?, size(3, "heads")?);
        let rows = word(first + 5, "vocabulary size")?;
        let head_dim = dim.checked_div(heads).unwrap_or(0);
        let config = Config {
            architecture: "llama".into(),
            vocabulary: rows.unsigned_abs() as usize,
            context: size(6, "context length")?,
            dim,
            layers: size(2, "layers")?,
            heads,
            kv_heads: size(4, "KV heads")?,
            head_dim,
            ffn: size(1, "feed-forward length")?,
            norm_eps: 1e-5,
            rope: Rope {
                base: 10_000.0,
                dims: head_dim,
                style: RopeStyle::Interleaved,
                scaling: RopeScaling::None,
            },
            sliding_window: None,
        };
        config.check(FORMAT)?;
        if heads * head_dim != dim {
            let detail = format!("{heads}, expected a divisor of the embedding length {dim}");
            return Err(Error::format(FORMAT, "heads", detail));
        }
        let tied = is_tied(version, rows, bytes.get(4 * (first + 7)).copied())?;
        Ok(Header { version, config, tied })
    }

    /// What stands behind the header, in order.
    fn groups(&self) -> Vec<Group> {
        let Config { dim, ffn, vocabulary, context, head_dim, .. } = self.config;
        let kv = self.config.kv_width();
        let embedding = Whole("token_embd.weight", Matrix(vocabulary, dim));
        let attention = [
            Layers("attn_q.weight", Matrix(dim, dim)),
            Layers("attn_k.weight", Matrix(kv, dim)),
            Layers("attn_v.weight", Matrix(kv, dim)),
            Layers("attn_output.weight", Matrix(dim, dim)),
        ];
        let mlp = [
            Layers("ffn_gate.weight", Matrix(ffn, dim)),
            Layers("ffn_down.weight", Matrix(dim, ffn)),
            Layers("ffn_up.weight", Matrix(ffn, dim)),
        ];
        let norms = [
            Layers("attn_norm.weight", Vector(dim)),
            Layers("ffn_norm.weight", Vector(dim)),
            Whole("output_norm.weight", Vector(dim)),
        ];
        let mut groups = Vec::with_capacity(13);
        if self.version == 0 {
            let [attention_norm, mlp_norm, output_norm] = norms;
            groups.extend([embedding, attention_norm]);
            groups.extend(attention);
            groups.push(mlp_norm);
            groups.extend(mlp);
            groups.extend([output_norm, Skip(2 * context * (head_dim / 2))]);
        } else {
            groups.extend(norms);
            groups.push(embedding);
            groups.extend(attention);
            groups.extend(mlp);
        }
        if !self.tied {
            groups.push(Whole("output.weight", Matrix(vocabulary, dim)));
        }
        groups
    }

    fn check_length(&self, groups: &[Group], length: usize) -> Result<()> {
        let layers = self.config.layers as u128;
        let floats: u128 = groups
            .iter()
            .map(|group| match *group {
                Skip(floats) => floats as u128,
                Whole(_, shape) => shape.floats() as u128,
                Layers(_, shape) => shape.floats() as u128 * layers,
            })
            .sum();
        let expected = HEADERS[self.version] as u128 + 4 * floats;
        if expected != length as u128 {
            let Config { dim, ffn, layers, heads, kv_heads, vocabulary, .. } = self.config;
            let detail = format!(
                "{length} bytes, expected {expected} for an embedding length of {dim}, feed-forward \
                 {ffn}, {layers} layers, {heads} heads, {kv_heads} KV heads, {vocabulary} tokens: \
                 the file is cut off, damaged or of another format"
            );
            return Err(Error::format(FORMAT, "file length", detail));
        }
        Ok(())
    }
}

/// Whether the head is the embedding. Version 0 marks a head of its own by a negative number of
/// tokens, version 1 by a byte.
fn is_tied(version: usize, rows: i32, byte: Option<u8>) -> Result<bool> {
    match (version, byte) {
        (0, _) => Ok(rows > 0),
        _ if rows < 0 => {
            let detail = format!("{rows}, expected a positive number");
            Err(Error::format(FORMAT, "vocabulary size", detail))
        }
        (_, Some(byte @ (0 | 1))) => Ok(byte == 1),
        (_, other) => {
            let detail = format!("{other:?}, expected 0 or 1");
            Err(Error::format(FORMAT, "shared classifier", detail))
        }
    }
}
