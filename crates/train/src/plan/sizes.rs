//! How many parameters a decoder has, and what a token costs to train.
//!
//! The key decision: a parameter count is never a bare number. Published scaling laws differ in what they
//! count, and most of their disagreement comes from that (arXiv 2406.12907), so every count here names its
//! [`Convention`], and a shape converts from one to the other exactly. No allocation, no weights: sizes only.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::decoder::Shape;

/// What a parameter count counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// Everything that is stored: embedding, layers, norms, and the head if it is not tied. Hoffmann's and Besiroglu's.
    #[default]
    All,
    /// Layers and norms alone, neither embedding nor head: Kaplan's.
    WithoutEmbeddings,
    /// Layers, norms and the head (tied or not), not the embedding: what multiplies; nanochat's.
    WithHead,
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Convention::All => "all parameters",
            Convention::WithoutEmbeddings => "without embeddings and head",
            Convention::WithHead => "without embeddings, with head",
        })
    }
}

impl Shape {
    /// A shape with Llama 2's norm and rotary constants: (vocabulary, context, dim, ffn, tied), (layers, heads, kv_heads,
    /// head_dim).
    pub(super) fn of(
        (vocabulary, context, dim, ffn, tied): (usize, usize, usize, usize, bool),
        (layers, heads, kv_heads, head_dim): (usize, usize, usize, usize),
    ) -> Shape {
        let (norm_eps, rope_base) = (1e-5, 10_000.0);
        Shape {
            vocabulary,
            context,
            dim,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn,
            tied,
            norm_eps,
            rope_base,
        }
    }

    /// The shape of a Llama of about so many parameters (all), for a plan that names no shape: heads of 128, width 128 x
    /// layers up to 8,192 (as Llama 2), ffn 8/3 of the width, one key and value head for eight from width 8,192.
    ///
    /// # Errors
    /// Fewer than a thousand parameters or more than 1e15.
    pub fn about(parameters: f64, vocabulary: usize, context: usize) -> crate::Result<Shape> {
        if !(1e3..=1e15).contains(&parameters) {
            return Err(crate::Error::bad(
                "parameters",
                format!("{parameters}; 1e3 to 1e15 are possible"),
            ));
        }
        let at = |dim: usize| {
            let head_dim = if dim >= 1024 { 128 } else { 16 };
            let heads = dim / head_dim;
            let kv_heads = if dim >= 8192 { heads / 8 } else { heads };
            let tied = dim < 1024;
            let ffn = (8 * dim).div_ceil(3 * 32) * 32;
            let sizes = (vocabulary, context, dim, ffn, tied);
            Shape::of(sizes, (1, heads, kv_heads, head_dim))
        };
        let away = |s: &Shape| (s.counted(Convention::All) as f64 / parameters).ln().abs();
        let step = |dim: usize| if dim >= 1024 { 128 } else { 16 };
        let mut dim = 16;
        let mut best = at(dim);
        while dim <= 65536 {
            let one = at(dim);
            let embedding = one.counted(Convention::All) as f64 - one.matrices() as f64;
            let layers = ((parameters - embedding) / one.matrices() as f64).round().max(1.0);
            // Widths between 64 and 192 a layer are usual; outside, only if nothing else is near.
            let sizes = Shape { layers: layers.min(1e6) as usize, ..one };
            let shape = |s: &Shape| (s.dim as f64 / s.layers as f64 / 110.0).ln().abs();
            if 10.0 * away(&sizes) + shape(&sizes) < 10.0 * away(&best) + shape(&best) {
                best = sizes;
            }
            dim += step(dim);
        }
        Ok(best)
    }

    /// Parameters under a convention.
    pub fn counted(&self, convention: Convention) -> u64 {
        let embedding = (self.vocabulary * self.dim) as u64;
        let body = self.matrices() + self.norms();
        match convention {
            Convention::All if self.tied => body + embedding,
            Convention::All => body + 2 * embedding,
            Convention::WithoutEmbeddings => body,
            Convention::WithHead => body + embedding,
        }
    }

    /// Parameters of the layers' matrices: q, k, v, o, gate, up, down.
    pub fn matrices(&self) -> u64 {
        let attention = 2 * self.dim * self.head_dim * (self.heads + self.kv_heads);
        (self.layers * (attention + 3 * self.dim * self.ffn)) as u64
    }

    /// Parameters of the norms: two a layer and the last one.
    pub fn norms(&self) -> u64 {
        ((2 * self.layers + 1) * self.dim) as u64
    }

    /// FLOPs that training on one token takes: 6 a weight that multiplies (2 forward, 4 backward; the embedding
    /// is looked up) and causal attention, [`Shape::attention_flops`].
    pub fn flops_per_token(&self) -> f64 {
        6.0 * (self.matrices() + (self.vocabulary * self.dim) as u64) as f64
            + self.attention_flops()
    }

    /// FLOPs a token of scores and weighted values in training: 3 x 2 x 2 x L x (heads x head_dim) x T/2, a causal row's mean.
    pub fn attention_flops(&self) -> f64 {
        6.0 * (self.layers * self.heads * self.head_dim * self.context) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_published_models() {
        // Llama 2 7B and 70B: 6,738,415,616 and 68,976,648,192 parameters (their safetensors indexes).
        let seven = Shape::of((32000, 4096, 4096, 11008, false), (32, 32, 32, 128));
        let seventy = Shape { dim: 8192, layers: 80, heads: 64, kv_heads: 8, ffn: 28672, ..seven };
        for (sizes, convention, expected) in [
            (seven, Convention::All, 6_738_415_616),
            (seventy, Convention::All, 68_976_648_192),
            (seven, Convention::WithoutEmbeddings, 6_738_415_616 - 2 * 32000 * 4096),
            (seven, Convention::WithHead, 6_738_415_616 - 32000 * 4096),
            (Shape { tied: true, ..seven }, Convention::All, 6_738_415_616 - 32000 * 4096),
            (Shape { tied: true, ..seven }, Convention::WithHead, 6_738_415_616 - 32000 * 4096),
        ] {
            assert_eq!(sizes.counted(convention), expected, "{convention}");
        }
    }

    #[test]
    fn a_number_of_parameters_gives_a_usual_shape() {
        for (wanted, vocabulary) in [
            (7e9, 32000),
            (70e9, 32000),
            (1e9, 50257),
            (124e6, 50257),
            (7e6, 4096),
            (3e5, 256),
            (4e11, 128_256),
        ] {
            let s = Shape::about(wanted, vocabulary, 2048).unwrap();
            let found = s.counted(Convention::All) as f64;
            assert!((0.9..1.1).contains(&(found / wanted)), "{wanted:e}: {found:e} {s:?}");
            assert!((30..400).contains(&(s.dim / s.layers)), "{s:?}");
        }
        for wanted in [0.0, f64::NAN, 1e16] {
            assert!(Shape::about(wanted, 100, 100).is_err());
        }
    }

    #[test]
    fn a_shape_counts_as_the_decoder_does() {
        let shape = super::super::dial::from_depth(6, 4096).unwrap().shape();
        shape.check().unwrap();
        assert_eq!(shape.counted(Convention::All), shape.parameters() as u64);
        // Two for every weight and token forward, four backward, and attention.
        let six = 6.0 * (shape.parameters() as u64 - shape.norms()) as f64;
        assert_eq!(shape.flops_per_token(), six + shape.attention_flops());
    }

    #[test]
    fn attention_is_a_small_part_of_a_large_model() {
        let seven = Shape::of((32000, 4096, 4096, 11008, false), (32, 32, 32, 128));
        let share = seven.attention_flops() / seven.flops_per_token();
        assert!((0.05..0.1).contains(&share), "{share}");
    }
}
