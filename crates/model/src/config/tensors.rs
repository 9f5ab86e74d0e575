//! Which tensors a decoder has, and their shapes.
//!
//! The key decision: the list is closed. A tensor that is not on it would be left out of the
//! calculation in silence (a bias of an MLP, an expert), so it is refused by its name.

use super::Config;
use crate::directory::{Directory, TensorView};
use crate::{Error, Result};

/// A size of the configuration.
#[derive(Clone, Copy)]
enum Size {
    Vocabulary,
    Dim,
    Queries,
    Kv,
    Head,
    Ffn,
    RopePairs,
}

use Size::{Dim, Ffn, Head, Kv, Queries, RopePairs, Vocabulary};

/// Name, shape (outermost first), whether every model has it.
type Row = (&'static str, &'static [Size], bool);

/// Tensors that are there once.
const WHOLE: &[Row] = &[
    ("token_embd.weight", &[Vocabulary, Dim], true),
    ("output_norm.weight", &[Dim], true),
    ("output.weight", &[Vocabulary, Dim], false),
    ("rope_freqs.weight", &[RopePairs], false),
];

/// Tensors of each block, after `blk.N.`.
const BLOCK: &[Row] = &[
    ("attn_norm.weight", &[Dim], true),
    ("attn_q.weight", &[Queries, Dim], true),
    ("attn_k.weight", &[Kv, Dim], true),
    ("attn_v.weight", &[Kv, Dim], true),
    ("attn_output.weight", &[Dim, Queries], true),
    ("attn_q.bias", &[Queries], false),
    ("attn_k.bias", &[Kv], false),
    ("attn_v.bias", &[Kv], false),
    ("attn_output.bias", &[Dim], false),
    ("attn_q_norm.weight", &[Head], false),
    ("attn_k_norm.weight", &[Head], false),
    ("ffn_norm.weight", &[Dim], true),
    ("ffn_gate.weight", &[Ffn, Dim], true),
    ("ffn_up.weight", &[Ffn, Dim], true),
    ("ffn_down.weight", &[Dim, Ffn], true),
];

/// Tensors of a block that are there in all blocks or in none, and together.
const TOGETHER: &[&[&str]] = &[
    &["attn_q.bias", "attn_k.bias", "attn_v.bias"],
    &["attn_output.bias"],
    &["attn_q_norm.weight", "attn_k_norm.weight"],
];

/// Tensors that one family cannot do without.
const NEEDED: &[(&str, &str)] =
    &[("qwen2", "blk.0.attn_q.bias"), ("qwen3", "blk.0.attn_q_norm.weight")];

impl Config {
    /// Checks that `tensors` are those of this decoder: all that it needs, of the right shapes, and
    /// no others.
    pub(crate) fn check_tensors(&self, format: &'static str, tensors: &Directory) -> Result<()> {
        for tensor in tensors.iter() {
            let Some((_, sizes, _)) = self.row(tensor.name) else {
                return Err(Error::Unsupported {
                    what: format!("tensor {:?}", tensor.name),
                    expected: format!(
                        "a {} of {} layers has no such tensor, and leaving it out would give \
                         wrong answers",
                        self.architecture, self.layers
                    ),
                });
            };
            let mut shape = [0; 2];
            for (slot, size) in shape.iter_mut().zip(*sizes) {
                *slot = self.size(*size);
            }
            check_shape(format, &tensor, &shape[..sizes.len()])?;
        }
        for (name, _, _) in WHOLE.iter().filter(|row| row.2) {
            tensors.get(name).ok_or_else(|| missing(name))?;
        }
        for (family, name) in NEEDED {
            if self.architecture == *family {
                tensors.get(name).ok_or_else(|| missing(name))?;
            }
        }
        for layer in 0..self.layers {
            for (name, _, _) in BLOCK.iter().filter(|row| row.2) {
                let name = format!("blk.{layer}.{name}");
                tensors.get(&name).ok_or_else(|| missing(&name))?;
            }
            for group in TOGETHER {
                let first = tensors.get(&format!("blk.0.{}", group[0])).is_some();
                for name in *group {
                    let name = format!("blk.{layer}.{name}");
                    if first && tensors.get(&name).is_none() {
                        return Err(missing(&name));
                    }
                    if !first && tensors.get(&name).is_some() {
                        return Err(missing(&format!("blk.0.{}", group[0])));
                    }
                }
            }
        }
        Ok(())
    }

    fn row(&self, name: &str) -> Option<&'static Row> {
        let Some(rest) = name.strip_prefix("blk.") else {
            return WHOLE.iter().find(|row| row.0 == name);
        };
        let (layer, name) = rest.split_once('.')?;
        let plain = layer == "0" || !layer.starts_with(['0', '+']);
        if !plain || layer.parse::<usize>().ok()? >= self.layers {
            return None;
        }
        BLOCK.iter().find(|row| row.0 == name)
    }

    fn size(&self, size: Size) -> usize {
        match size {
            Vocabulary => self.vocabulary,
            Dim => self.dim,
            Queries => self.query_width(),
            Kv => self.kv_width(),
            Head => self.head_dim,
            Ffn => self.ffn,
            RopePairs => self.rope.dims / 2,
        }
    }
}

/// The tensor must have this shape.
pub(crate) fn check_shape(
    format: &'static str,
    tensor: &TensorView<'_>,
    shape: &[usize],
) -> Result<()> {
    if tensor.shape != shape {
        let detail = format!("{:?}, expected {shape:?}", tensor.shape);
        return Err(Error::format(format, format!("{}.shape", tensor.name), detail));
    }
    Ok(())
}

/// A tensor that the model needs is not there.
pub(crate) fn missing(name: &str) -> Error {
    Error::Missing {
        what: format!("tensor {name:?}"),
        hint: "the file holds only a part of the model; download or convert it again".into(),
    }
}
