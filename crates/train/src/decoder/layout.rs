//! Where each tensor lies in the one flat buffer of parameters.
//!
//! The key decision: names and shapes are Hugging Face's (`LlamaForCausalLM`), so a checkpoint is the
//! buffer cut into pieces; matrices are `(out, in)`, row-major, rotary pairs in the order of halves.
//! Queries, keys and values lie behind one another, gate and up too: each is one matrix to the products.

use std::ops::Range;

use super::shape::Shape;

/// What a tensor is to an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `(V, D)`, looked up; the head as well when tied.
    Embedding,
    /// A matrix of a block, `(out, in)`.
    Matrix,
    /// Weights of a norm, `(D)`.
    Norm,
    /// `(V, D)`, the head when it is not tied.
    Head,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// As in a Hugging Face checkpoint: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `(out, in)`, or `(D)`.
    pub shape: Vec<usize>,
    /// Its place in the flat buffer.
    pub range: Range<usize>,
    /// What it is.
    pub kind: Kind,
}

/// All tensors in order; their ranges cover `0..shape.parameters()` without a gap.
pub fn layout(shape: &Shape) -> Vec<Tensor> {
    let mut list = Vec::new();
    let mut at = 0;
    let mut add = |name: String, sizes: &[usize], kind| {
        let length: usize = sizes.iter().product();
        list.push(Tensor { name, shape: sizes.to_vec(), range: at..at + length, kind });
        at += length;
    };
    let (d, f, v) = (shape.dim, shape.ffn, shape.vocabulary);
    let (q, kv) = (shape.q_width(), shape.kv_width());
    add("model.embed_tokens.weight".into(), &[v, d], Kind::Embedding);
    for l in 0..shape.layers {
        let name = |part: &str| format!("model.layers.{l}.{part}.weight");
        add(name("input_layernorm"), &[d], Kind::Norm);
        add(name("self_attn.q_proj"), &[q, d], Kind::Matrix);
        add(name("self_attn.k_proj"), &[kv, d], Kind::Matrix);
        add(name("self_attn.v_proj"), &[kv, d], Kind::Matrix);
        add(name("self_attn.o_proj"), &[d, q], Kind::Matrix);
        add(name("post_attention_layernorm"), &[d], Kind::Norm);
        add(name("mlp.gate_proj"), &[f, d], Kind::Matrix);
        add(name("mlp.up_proj"), &[f, d], Kind::Matrix);
        add(name("mlp.down_proj"), &[d, f], Kind::Matrix);
    }
    add("model.norm.weight".into(), &[d], Kind::Norm);
    if !shape.tied {
        add("lm_head.weight".into(), &[v, d], Kind::Head);
    }
    list
}

/// The matrices and norms of one block, as ranges of the flat buffer.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) attn_norm: Range<usize>, // (D)
    pub(crate) qkv: Range<usize>,       // (H d + 2 K d, D)
    pub(crate) output: Range<usize>,    // (D, H d)
    pub(crate) ffn_norm: Range<usize>,  // (D)
    pub(crate) gate_up: Range<usize>,   // (2 F, D)
    pub(crate) down: Range<usize>,      // (D, F)
}

impl Block {
    /// All of it.
    pub(crate) fn range(&self) -> Range<usize> {
        self.attn_norm.start..self.down.end
    }
}

/// Where the parts of a decoder lie.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) embedding: Range<usize>, // (V, D)
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Range<usize>, // (D)
    pub(crate) head: Range<usize>, // (V, D), the embedding when tied
}

impl Places {
    pub(crate) fn new(shape: &Shape) -> Places {
        let mut at = 0;
        let mut take = |length: usize| {
            at += length;
            at - length..at
        };
        let Shape { vocabulary, dim, ffn, .. } = *shape;
        let (q, kv) = (shape.q_width(), shape.kv_width());
        let embedding = take(vocabulary * dim);
        let blocks = (0..shape.layers).map(|_| Block {
            attn_norm: take(dim),
            qkv: take((q + 2 * kv) * dim),
            output: take(dim * q),
            ffn_norm: take(dim),
            gate_up: take(2 * ffn * dim),
            down: take(dim * ffn),
        });
        let blocks = blocks.collect();
        let norm = take(dim);
        let head = if shape.tied { embedding.clone() } else { take(vocabulary * dim) };
        Places { embedding, blocks, norm, head }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::shape::tests::odd;

    #[test]
    fn tensors_cover_the_buffer_and_agree_with_the_places() {
        for tied in [false, true] {
            let shape = odd(tied);
            let (list, places) = (layout(&shape), Places::new(&shape));
            let mut at = 0;
            for tensor in &list {
                assert_eq!(tensor.range.start, at, "{}", tensor.name);
                assert_eq!(tensor.range.len(), tensor.shape.iter().product::<usize>());
                at = tensor.range.end;
            }
            assert_eq!(at, shape.parameters());
            let range = |name: &str| {
                list.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.range.clone())
            };
            let block = &places.blocks[1];
            let of = |part: &str| range(&format!("model.layers.1.{part}.weight")).unwrap();
            assert_eq!(block.qkv, of("self_attn.q_proj").start..of("self_attn.v_proj").end);
            assert_eq!(block.gate_up, of("mlp.gate_proj").start..of("mlp.up_proj").end);
            assert_eq!(block.down, of("mlp.down_proj"));
            assert_eq!(block.output, of("self_attn.o_proj"));
            assert_eq!(Some(places.norm), range("model.norm.weight"));
            assert_eq!(range("lm_head.weight").unwrap_or(places.embedding), places.head);
        }
    }
}
