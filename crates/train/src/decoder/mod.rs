//! The decoder that is trained: the one that `model` serves, forward and backward.
//!
//! The key decision: explicit pairs. [`forward`] and [`backward`] name the same steps in opposite
//! order, over one flat buffer of parameters and one of gradients; no graph is recorded. A batch goes
//! through in groups of whole sequences (see [`workspace`]), gradients add up in the order of the groups,
//! and every sum is split by outputs only: the bits depend on the batch and on nothing else.
//!
//! Not here: optimizers, data order, files.

mod backward;
mod forward;
mod layout;
mod products;
mod shape;
mod workspace;

use std::ops::Range;

use yushan_abi::TokenId;
use yushan_tensor::aligned::Floats;
use yushan_tensor::{Isa, Pool};

pub use layout::{Kind, Tensor, layout};
pub use shape::{IGNORE, Shape};
pub use workspace::{Keep, Memory};

use layout::Places;
use products::Products;
use workspace::{Cut, Workspace};

/// Standard deviation of fresh matrices; those that write into the residual stream get it divided by
/// `sqrt(2 L)` (Radford et al. 2019).
const DEVIATION: f64 = 0.02;

/// What a batch cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of the cross-entropies in nats.
    pub sum: f64,
    /// How many targets counted.
    pub count: u64,
}

impl Loss {
    /// Nats a token; NaN without any.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// Gets each range of the flat gradient when it is final.
pub type Ready<'a> = &'a mut dyn FnMut(&mut [f32], Range<usize>);

/// Parameters, their gradients, and the room to compute them.
pub struct Decoder {
    shape: Shape,
    places: Places,
    params: Floats,
    grads: Floats,
    products: Products,
    keep: Keep,
    isa: Isa,
    /// For batches with gradients, and for those without.
    training: Option<Workspace>,
    reading: Option<Workspace>,
}

impl Decoder {
    /// A decoder with fresh parameters; gradients are zero.
    ///
    /// # Panics
    /// When the shape does not pass [`Shape::check`].
    pub fn new(shape: Shape, seed: u64) -> Decoder {
        let mut decoder = Decoder::zeroed(shape);
        let outputs = DEVIATION / (2.0 * decoder.shape.layers as f64).sqrt();
        let mut random = Normal::new(seed);
        for tensor in layout(&decoder.shape) {
            let values = &mut decoder.params[tensor.range];
            let writes =
                tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight");
            let deviation = if writes { outputs } else { DEVIATION };
            match tensor.kind {
                Kind::Norm => values.fill(1.0),
                _ => values.iter_mut().for_each(|v| *v = (random.next() * deviation) as f32),
            }
        }
        decoder
    }

    /// A decoder whose parameters will be read from somewhere.
    ///
    /// # Panics
    /// As [`Decoder::new`].
    pub fn zeroed(shape: Shape) -> Decoder {
        if let Err(error) = shape.check() {
            panic!("{error}");
        }
        let (count, isa) = (shape.parameters(), Isa::best());
        Decoder {
            places: Places::new(&shape),
            params: Floats::zeroed(count),
            grads: Floats::zeroed(count),
            products: Products::new(isa),
            keep: Keep::default(),
            isa,
            training: None,
            reading: None,
            shape,
        }
    }

    /// What the forward keeps for the backward.
    pub fn set_keep(&mut self, keep: Keep) {
        if self.keep != keep {
            (self.keep, self.training) = (keep, None);
        }
    }

    /// The sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// All parameters, in the order of [`layout`].
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// The same, to be changed.
    pub fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    /// The gradients, in the same order.
    pub fn grads(&self) -> &[f32] {
        &self.grads
    }

    /// The same, to be cleared or added up.
    pub fn grads_mut(&mut self) -> &mut [f32] {
        &mut self.grads
    }

    /// Parameters to be changed, and gradients: what an optimizer works on.
    pub fn params_and_grads(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.params, &mut self.grads)
    }

    /// Adds `scale` times the gradient of the sum of all losses to the gradients.
    ///
    /// `tokens`, `targets`: `(batch, T)` ids; a target [`IGNORE`] does not count. `ready` gets each
    /// range of the flat gradient, and that range's values, as soon as nothing more is added to it: the
    /// head and last norm first, then the blocks from the last to the first, then the embedding; every
    /// element once.
    ///
    /// # Panics
    /// When the lengths are not `(batch, T)` with `T` within the context, or an id is not in the
    /// vocabulary.
    pub fn forward_backward(
        &mut self,
        pool: &mut Pool,
        tokens: &[TokenId],
        targets: &[TokenId],
        batch: usize,
        scale: f32,
        ready: Ready<'_>,
    ) -> Loss {
        let cut = self.cut(tokens, targets, batch);
        if self.training.as_ref().is_none_or(|work| work.cut != cut) {
            self.training = None;
            self.training = Some(Workspace::new(&self.shape, cut, self.keep, true));
        }
        let Some(mut work) = self.training.take() else { return Loss::default() };
        let mut loss = Loss::default();
        let rows = cut.rows();
        let groups = tokens.len().div_ceil(rows);
        for (g, (tokens, targets)) in tokens.chunks(rows).zip(targets.chunks(rows)).enumerate() {
            self.forward(pool, &mut work, tokens, true);
            let mut last = |range: Range<usize>, grads: &mut [f32]| {
                if g + 1 == groups {
                    ready(&mut grads[range.clone()], range);
                }
            };
            let one = self.backward(pool, &mut work, (tokens, targets), scale, &mut last);
            loss.sum += one.sum;
            loss.count += one.count;
        }
        self.training = Some(work);
        loss
    }

    /// The loss at every position, without gradients; 0 where the target is [`IGNORE`].
    ///
    /// # Panics
    /// As [`Decoder::forward_backward`].
    pub fn losses(
        &mut self,
        pool: &mut Pool,
        tokens: &[TokenId],
        targets: &[TokenId],
        batch: usize,
        out: &mut Vec<f32>,
    ) {
        let cut = self.cut(tokens, targets, batch);
        let mut work = self.reader(cut);
        out.clear();
        for (tokens, targets) in tokens.chunks(cut.rows()).zip(targets.chunks(cut.rows())) {
            self.forward(pool, &mut work, tokens, false);
            self.head_losses(pool, &mut work, targets);
            out.extend_from_slice(&work.losses[..tokens.len()]);
        }
        self.reading = Some(work);
    }

    /// `(T, V)` logits of one sequence.
    ///
    /// # Panics
    /// As [`Decoder::forward_backward`].
    pub fn logits(&mut self, pool: &mut Pool, tokens: &[TokenId]) -> Vec<f32> {
        let cut = self.cut(tokens, tokens, 1);
        let mut work = self.reader(cut);
        self.forward(pool, &mut work, tokens, false);
        let logits = self.head_logits(pool, &mut work, tokens.len());
        self.reading = Some(work);
        logits
    }

    /// How a batch is cut, once it was looked at.
    fn cut(&self, tokens: &[TokenId], targets: &[TokenId], batch: usize) -> Cut {
        let Shape { vocabulary, context, .. } = self.shape;
        let (count, time) = (tokens.len(), tokens.len() / batch.max(1));
        assert!(
            time > 0 && time <= context && time * batch == count && targets.len() == count,
            "{count} tokens and {} targets in {batch} sequences, but the context is {context}",
            targets.len()
        );
        let outside = |&&id: &&TokenId| id as usize >= vocabulary;
        if let Some(id) = tokens.iter().find(outside) {
            panic!("token {id} is not in the vocabulary of {vocabulary}");
        }
        if let Some(id) = targets.iter().find(|id| **id != IGNORE && outside(id)) {
            panic!("target {id} is not in the vocabulary of {vocabulary}");
        }
        Cut::new(&self.shape, batch, time)
    }

    /// The buffers for a batch without gradients.
    fn reader(&mut self, cut: Cut) -> Workspace {
        match self.reading.take() {
            Some(work) if work.cut == cut => work,
            _ => Workspace::new(&self.shape, cut, self.keep, false),
        }
    }
}

/// Normally distributed numbers: SplitMix64 (Steele et al. 2014) and the transform of Box and Muller.
struct Normal {
    state: u64,
    second: Option<f64>,
}

impl Normal {
    fn new(seed: u64) -> Normal {
        Normal { state: seed, second: None }
    }

    /// In (0, 1).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1.0 / (1u64 << 54) as f64
    }

    fn next(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.second = Some(radius * sin);
        radius * cos
    }
}
