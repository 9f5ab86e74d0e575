//! What a pass computes in: what the forward keeps for the backward, and the buffers between.
//!
//! The key decision: a batch goes through in groups of whole sequences, each forward and backward at
//! once, so memory holds the activations of one group whatever the batch is, and what a block reads was
//! just written. Norms and gates are computed again in the backward; what is kept of a block is its
//! input, its queries, keys and values, what attention gave, the stream between its halves, and the two
//! inputs of the gate.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use yushan_tensor::aligned::Floats;
use yushan_tensor::train_attention::{Causal, Scratch};
use yushan_tensor::train_rows::Partial;

use super::shape::Shape;

/// Tokens of a group: enough that packing a matrix pays, few enough that a buffer stays in the caches.
const GROUP: usize = 2048;

/// Logits that stand in memory at once, and the fewest rows of them.
const LOGITS: usize = 1 << 22;
const LOGIT_ROWS: usize = 128;

/// What the forward keeps for the backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Activations as they were computed, in f32.
    #[default]
    Everything,
    /// The same in bf16: half the memory; gradients are those of the rounded values.
    Halves,
    /// The input of every block (activation checkpointing): the block runs again in the backward, a
    /// third more arithmetic, same bits.
    Inputs,
}

/// How a batch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Tokens of a sequence.
    pub(crate) time: usize,
    /// Sequences of a group.
    pub(crate) group: usize,
    /// Rows whose logits are made at once.
    pub(crate) logit_rows: usize,
}

impl Cut {
    pub(crate) fn new(shape: &Shape, batch: usize, time: usize) -> Cut {
        let group = (GROUP / time.max(1)).clamp(1, batch.max(1));
        let rows = (LOGITS / shape.vocabulary).max(LOGIT_ROWS);
        Cut { time, group, logit_rows: rows.min(group * time) }
    }

    /// Floats from one row of logits to the next: no power of two, whose rows would collide in the caches.
    pub(crate) fn logit_stride(shape: &Shape) -> usize {
        shape.vocabulary.next_multiple_of(16) + 16
    }

    /// Tokens of a group.
    pub(crate) fn rows(&self) -> usize {
        self.group * self.time
    }
}

/// One block's activations of a group.
#[derive(Default)]
pub(crate) struct Saved {
    pub(crate) x: Floats,        // (R, D)
    pub(crate) qkv: Floats,      // (R, (H + 2 K) d), not turned
    pub(crate) attended: Floats, // (R, H d)
    pub(crate) lse: Floats,      // (R, H)
    pub(crate) middle: Floats,   // (R, D)
    pub(crate) gate_up: Floats,  // (R, 2 F)
}

impl Saved {
    fn new(shape: &Shape, rows: usize) -> Saved {
        let [x, qkv, attended, lse, middle, gate_up] = Saved::widths(shape);
        let of = |width: usize| Floats::zeroed(rows * width);
        Saved {
            x: of(x),
            qkv: of(qkv),
            attended: of(attended),
            lse: of(lse),
            middle: of(middle),
            gate_up: of(gate_up),
        }
    }

    fn widths(shape: &Shape) -> [usize; 6] {
        let (q, kv) = (shape.q_width(), shape.kv_width());
        [shape.dim, q + 2 * kv, q, shape.heads, shape.dim, 2 * shape.ffn]
    }

    /// What is rounded when halves are kept; `lse` is not: it stands in an exponent.
    fn rounded(&mut self) -> [&mut Floats; 5] {
        [&mut self.x, &mut self.qkv, &mut self.attended, &mut self.middle, &mut self.gate_up]
    }
}

/// What is kept of the blocks besides those in [`Workspace::saved`].
pub(crate) enum Kept {
    /// Nothing: every block has its own [`Saved`].
    Everything,
    /// Rounded values, and `lse`, a block.
    Halves(Vec<(Vec<bf16>, Vec<f32>)>),
    /// The input of a block.
    Inputs(Vec<Floats>),
}

/// All buffers of a group.
pub(crate) struct Workspace {
    pub(crate) cut: Cut,
    pub(crate) saved: Vec<Saved>,
    pub(crate) kept: Kept,
    /// What a block gives; after the last one the end of the stream.
    pub(crate) next: Floats, // (R, D)
    pub(crate) normed: Floats,    // (R, D)
    pub(crate) dnormed: Floats,   // (R, D)
    pub(crate) dx: Floats,        // (R, D)
    pub(crate) hidden: Floats,    // (R, F)
    pub(crate) dhidden: Floats,   // (R, F)
    pub(crate) dattended: Floats, // (R, H d)
    pub(crate) dqkv: Floats,      // (R, (H + 2 K) d)
    pub(crate) logits: Floats,    // (logit rows, logit stride)
    pub(crate) losses: Vec<f32>,  // (R)
    pub(crate) cos: Vec<f32>,     // (T, d / 2)
    pub(crate) sin: Vec<f32>,     // (T, d / 2)
    pub(crate) attention: Scratch,
    pub(crate) partial: Partial,
}

impl Workspace {
    /// `gradients`: whether there will be a backward.
    pub(crate) fn new(shape: &Shape, cut: Cut, keep: Keep, gradients: bool) -> Workspace {
        let rows = cut.rows();
        let slots = if gradients && keep == Keep::Everything { shape.layers } else { 1 };
        let widths = Saved::widths(shape);
        let rounded = rows * (widths.iter().sum::<usize>() - shape.heads);
        let kept = match keep {
            _ if !gradients => Kept::Everything,
            Keep::Everything => Kept::Everything,
            Keep::Halves => {
                let one = || (vec![bf16::ZERO; rounded], vec![0.0; rows * shape.heads]);
                Kept::Halves((0..shape.layers).map(|_| one()).collect())
            }
            Keep::Inputs => {
                Kept::Inputs((0..shape.layers).map(|_| Floats::zeroed(rows * shape.dim)).collect())
            }
        };
        let (cos, sin) = turns(shape, cut.time);
        let of = |width: usize| Floats::zeroed(rows * width);
        let back = |width: usize| Floats::zeroed(if gradients { rows * width } else { 0 });
        Workspace {
            cut,
            saved: (0..slots).map(|_| Saved::new(shape, rows)).collect(),
            kept,
            next: of(shape.dim),
            normed: of(shape.dim),
            dnormed: back(shape.dim),
            dx: back(shape.dim),
            hidden: of(shape.ffn),
            dhidden: back(shape.ffn),
            dattended: back(shape.q_width()),
            dqkv: back(widths[1]),
            logits: Floats::zeroed(cut.logit_rows * Cut::logit_stride(shape)),
            losses: vec![0.0; rows],
            cos,
            sin,
            attention: Scratch::default(),
            partial: Partial::default(),
        }
    }

    /// Which of `saved` block `l` works in.
    pub(crate) fn slot(&self, l: usize) -> usize {
        if self.saved.len() > 1 { l } else { 0 }
    }

    /// Puts away what block `l`, which has just run, left in its slot.
    pub(crate) fn stash(&mut self, l: usize) {
        let saved = &mut self.saved[0];
        match &mut self.kept {
            Kept::Everything => {}
            Kept::Halves(all) => {
                let (rounded, lse) = &mut all[l];
                let mut rest = &mut rounded[..];
                lse.copy_from_slice(&saved.lse);
                for values in saved.rounded() {
                    let (part, left) = rest.split_at_mut(values.len());
                    part.convert_from_f32_slice(values);
                    rest = left;
                }
            }
            Kept::Inputs(all) => all[l].copy_from_slice(&saved.x),
        }
    }

    /// Brings it back. True when only the block's input is there, and it has to run again.
    pub(crate) fn fetch(&mut self, l: usize) -> bool {
        let saved = &mut self.saved[0];
        match &mut self.kept {
            Kept::Everything => false,
            Kept::Halves(all) => {
                let (mut rest, lse) = (&all[l].0[..], &all[l].1);
                saved.lse.copy_from_slice(lse);
                for values in saved.rounded() {
                    let (part, left) = rest.split_at(values.len());
                    part.convert_to_f32_slice(values);
                    rest = left;
                }
                false
            }
            Kept::Inputs(all) => {
                saved.x.copy_from_slice(&all[l]);
                true
            }
        }
    }
}

/// Cosines and sines of all positions, `(T, d / 2)`: pair `i` turns by `t base^(-2 i / d)`. The angle is
/// a product in f32, as the engine and Hugging Face make it.
fn turns(shape: &Shape, time: usize) -> (Vec<f32>, Vec<f32>) {
    let (d, base) = (shape.head_dim, f64::from(shape.rope_base));
    let frequencies: Vec<f32> =
        (0..d / 2).map(|i| base.powf(-(2.0 * i as f64) / d as f64) as f32).collect();
    let angles = (0..time).flat_map(|t| frequencies.iter().map(move |f| f64::from(t as f32 * f)));
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}

/// Bytes that training takes, the optimizer's left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters, and as much for their gradients.
    pub parameters: u64,
    /// What the forward keeps for the backward.
    pub activations: u64,
    /// Buffers between.
    pub buffers: u64,
}

impl Memory {
    /// Of [`super::Decoder::forward_backward`] over `(batch, time)` tokens on `threads` threads.
    pub fn of(shape: &Shape, (batch, time): (usize, usize), keep: Keep, threads: usize) -> Memory {
        let cut = Cut::new(shape, batch, time);
        let rows = cut.rows() as u64;
        let widths = Saved::widths(shape);
        let block: u64 = widths.iter().sum::<usize>() as u64;
        let (layers, heads) = (shape.layers as u64, shape.heads as u64);
        let activations = match keep {
            Keep::Everything => 4 * layers * block,
            Keep::Halves => 4 * block + layers * (2 * (block - heads) + 4 * heads),
            Keep::Inputs => 4 * (block + layers * shape.dim as u64),
        };
        let between = 4 * shape.dim + 2 * shape.ffn + shape.q_width() + widths[1] + 1;
        let causal = causal(shape, cut.group, time);
        let logits = (cut.logit_rows * Cut::logit_stride(shape)) as u64;
        let turns = (time * shape.head_dim) as u64;
        Memory {
            parameters: 8 * shape.parameters() as u64,
            activations: rows * activations,
            buffers: 4 * (rows * between as u64 + logits + turns)
                + Scratch::bytes(threads, &causal),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parameters + self.activations + self.buffers
    }
}

/// The attention of a group.
pub(crate) fn causal(shape: &Shape, batch: usize, time: usize) -> Causal {
    let Shape { heads, kv_heads, head_dim, .. } = *shape;
    Causal { batch, time, heads, kv_heads, head_dim }
}
