//! From gradients to parameters: AdamW, and Muon with AdamW for what is no matrix of a block.
//!
//! The key decision: everything works on the flat buffers, and every rank owns one contiguous range of
//! them: it keeps the moments of that range alone, updates it, and the ranks gather the
//! parameters (ZeRO, stage 1: Rajbhandari et al. 2019, arXiv 1910.02054). What is computed for an element
//! or a matrix does not depend on who owns it, so any number of ranks and threads gives the same
//! bits from the same gradients, and a state that was saved by R ranks is restored by any other number.
//!
//! Not here: schedules of the rate (the caller gives it for every step), loss scaling (f32 has no need),
//! averages of parameters.

mod muon;
mod norm;
mod parts;
mod state;

use std::ops::Range;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use yushan_collective::Collective;
use yushan_tensor::{Isa, Pool, update};

pub use state::State;

use crate::decoder::{Kind, Tensor};
use crate::{Error, Result};

/// Which rule moves the matrices of the blocks. All else moves by AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Loshchilov and Hutter 2017, arXiv 1711.05101.
    AdamW,
    /// Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the scale and decay of Liu et al.
    /// 2025, arXiv 2502.16982: one rate serves both rules.
    Muon,
}

/// What does not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The rule for matrices.
    pub algorithm: Algorithm,
    /// How much of the mean of gradients is kept, 0 to 1.
    pub beta1: f64,
    /// How much of the mean of squared gradients is kept, 0 to 1.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled decay: a step shrinks parameters by `rate * weight_decay`.
    pub weight_decay: f64,
    /// Whether embeddings decay too; a tied head is one.
    pub decay_embeddings: bool,
    /// Whether norms decay too.
    pub decay_norms: bool,
    /// Gradients of a greater global norm are scaled down to it; 0: never.
    pub clip: f64,
    /// How much of Muon's momentum is kept, 0 to 1.
    pub momentum: f64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            algorithm: Algorithm::AdamW,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            decay_embeddings: false,
            decay_norms: false,
            clip: 1.0,
            momentum: 0.95,
        }
    }
}

impl Config {
    /// Whether a run can use these values.
    ///
    /// # Errors
    /// Names the value that does not fit, and what would.
    pub fn check(&self) -> Result<()> {
        let from_0_to_1 = |value: f64| (0.0..1.0).contains(&value);
        let at_least_0 = |value: f64| value >= 0.0 && value.is_finite();
        let rules = [
            ("beta1", self.beta1, from_0_to_1(self.beta1), "at least 0 and below 1"),
            ("beta2", self.beta2, from_0_to_1(self.beta2), "at least 0 and below 1"),
            ("momentum", self.momentum, from_0_to_1(self.momentum), "at least 0 and below 1"),
            ("eps", self.eps, self.eps > 0.0 && self.eps.is_finite(), "above 0"),
            ("weight_decay", self.weight_decay, at_least_0(self.weight_decay), "at least 0"),
            ("clip", self.clip, at_least_0(self.clip), "at least 0 (0: never)"),
        ];
        match rules.iter().find(|rule| !rule.2) {
            Some((name, value, _, expected)) => {
                Err(Error::bad("optimizer", format!("{name} is {value}; expected {expected}")))
            }
            None => Ok(()),
        }
    }

    fn decays(&self, kind: Kind) -> bool {
        match kind {
            Kind::Embedding => self.decay_embeddings,
            Kind::Norm => self.decay_norms,
            Kind::Matrix | Kind::Head => true,
        }
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The global norm of the gradients, before clipping.
    pub norm: f64,
    /// Whether parameters moved: not when the norm is NaN or infinite; then nothing changed at all.
    pub applied: bool,
}

/// The optimizer of one rank.
pub struct Optimizer {
    config: Config,
    /// The range of every rank.
    parts: Vec<Range<usize>>,
    rank: usize,
    /// What this rank owns, ascending, without gaps.
    spans: Vec<Span>,
    /// Steps that moved the parameters.
    updates: u64,
    /// Means of gradients, and momenta of matrices under Muon: `(own elements)`.
    first: Vec<f32>,
    /// Means of squared gradients: `(own elements that AdamW moves)`.
    second: Vec<f32>,
    muon: muon::Scratch,
}

/// Neighbours in the flat buffer that move alike.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    range: Range<usize>,
    decays: bool,
    /// `(rows, columns)` of a whole matrix that Muon moves.
    matrix: Option<(usize, usize)>,
}

/// Elements of one chunk of the pass: four arrays of it fit in a second-level cache.
const CHUNK: usize = 1 << 14;

/// Most chunks of a region of the pool.
const MOST_CHUNKS: usize = 1 << 15;

impl Optimizer {
    /// An optimizer for rank `rank` of `ranks` that has seen no gradient. `tensors` cover the flat buffers
    /// from 0 without gaps, in order.
    ///
    /// # Errors
    /// A config that cannot be used, tensors that leave gaps.
    pub fn new(tensors: &[Tensor], config: Config, rank: usize, ranks: usize) -> Result<Optimizer> {
        config.check()?;
        if rank >= ranks {
            return Err(Error::bad("optimizer", format!("rank {rank} of {ranks} ranks")));
        }
        let mut end = 0;
        for tensor in tensors {
            let fits = tensor.range.start == end
                && tensor.range.len() == tensor.shape.iter().product::<usize>();
            if !fits || (tensor.kind == Kind::Matrix && tensor.shape.len() != 2) {
                let Tensor { name, shape, range, .. } = tensor;
                let detail = format!(
                    "tensor {name} of shape {shape:?} at {range:?} does not follow {end}; expected tensors in order, without gaps"
                );
                return Err(Error::bad("optimizer", detail));
            }
            end = tensor.range.end;
        }
        let parts = parts::parts(tensors, config.algorithm, ranks);
        let spans = spans(tensors, &config, &parts[rank]);
        let (first, second) = (parts[rank].len(), adam_elements(&spans));
        let (first, second) = (vec![0.0; first], vec![0.0; second]);
        let muon = muon::Scratch::default();
        Ok(Optimizer { config, parts, rank, spans, updates: 0, first, second, muon })
    }

    /// The range that each rank owns.
    pub fn parts(&self) -> &[Range<usize>] {
        &self.parts
    }

    /// Steps that moved the parameters.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Moves `params` against `grads` at the learning rate `rate`; both are flat, whole, and the same
    /// on every rank (gradients: after they were added up).
    ///
    /// # Errors
    /// Buffers of another length; ranks that are lost.
    pub fn step(
        &mut self,
        pool: &mut Pool,
        ranks: &mut dyn Collective,
        params: &mut [f32],
        grads: &[f32],
        rate: f64,
    ) -> Result<Step> {
        self.check_step(ranks, params.len(), grads.len(), rate)?;
        let norm = norm::global_norm(pool, ranks, &self.parts, grads)?;
        if !norm.is_finite() {
            return Ok(Step { norm, applied: false });
        }
        self.updates += 1;
        // As PyTorch's clip_grad_norm_ does it.
        let clip = self.config.clip;
        let scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.adamw(pool, params, grads, rate, scale as f32);
        self.muon(pool, params, grads, rate, scale as f32);
        ranks.all_gather(params, &self.parts)?;
        Ok(Step { norm, applied: true })
    }

    fn check_step(
        &self,
        ranks: &dyn Collective,
        params: usize,
        grads: usize,
        rate: f64,
    ) -> Result<()> {
        let expected = self.elements();
        if params != expected || grads != expected {
            let detail = format!(
                "{params} parameters and {grads} gradients were given; expected {expected} of each"
            );
            return Err(Error::bad("optimizer", detail));
        }
        if (ranks.rank(), ranks.ranks()) != (self.rank, self.parts.len()) {
            let (rank, of) = (self.rank, self.parts.len());
            let detail = format!("made for rank {rank} of {of}, used by another");
            return Err(Error::bad("optimizer", detail));
        }
        if !rate.is_finite() || rate < 0.0 {
            let detail =
                format!("the learning rate is {rate}; expected a finite number, at least 0");
            return Err(Error::bad("optimizer", detail));
        }
        Ok(())
    }

    /// Elements of the flat buffers.
    fn elements(&self) -> usize {
        self.parts.last().map_or(0, |part| part.end)
    }

    fn adamw(&mut self, pool: &mut Pool, params: &mut [f32], grads: &[f32], rate: f64, scale: f32) {
        let Config { beta1, beta2, eps, weight_decay, .. } = self.config;
        let updates = self.updates as f64;
        let by = |decays: bool| update::AdamW {
            scale,
            fresh1: (1.0 - beta1) as f32,
            keep2: beta2 as f32,
            fresh2: (1.0 - beta2) as f32,
            shrink: if decays { (1.0 - rate * weight_decay) as f32 } else { 1.0 },
            step: (rate / (1.0 - beta1.powf(updates))) as f32,
            root2: (1.0 - beta2.powf(updates)).sqrt() as f32,
            eps: eps as f32,
        };
        let own = &self.parts[self.rank];
        let (mut params, mut grads) = (&mut params[own.clone()], &grads[own.clone()]);
        let (mut first, mut second) = (&mut self.first[..], &mut self.second[..]);
        let most = (own.len() / MOST_CHUNKS).max(CHUNK);
        let mut chunks = Vec::with_capacity(own.len() / most + self.spans.len());
        for span in &self.spans {
            let mut left = span.range.len();
            while left > 0 {
                let length = if span.matrix.is_some() { left } else { left.min(most) };
                let param = params.split_off_mut(..length).unwrap_or_default();
                let grad = grads.split_off(..length).unwrap_or_default();
                let mean = first.split_off_mut(..length).unwrap_or_default();
                if span.matrix.is_none() {
                    let square = second.split_off_mut(..length).unwrap_or_default();
                    chunks.push(Mutex::new((by(span.decays), param, grad, mean, square)));
                }
                left -= length;
            }
        }
        let isa = Isa::best();
        pool.run(chunks.len(), &|at, _| {
            // Each chunk is locked once, by whoever runs it: the lock only hands it over.
            let mut chunk = chunks[at].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (by, param, grad, first, second) = &mut *chunk;
            update::adamw(isa, *by, param, grad, first, second);
        });
    }
}

/// What of the flat buffer a rank with this part moves how.
fn spans(tensors: &[Tensor], config: &Config, part: &Range<usize>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for tensor in tensors {
        let range = tensor.range.start.max(part.start)..tensor.range.end.min(part.end);
        if range.is_empty() {
            continue;
        }
        let decays = config.decays(tensor.kind);
        let by_muon = parts::whole(tensor, config.algorithm);
        let matrix = by_muon.then(|| (tensor.shape[0], tensor.shape[1]));
        match spans.last_mut() {
            Some(last) if last.matrix.is_none() && !by_muon && last.decays == decays => {
                last.range.end = range.end;
            }
            _ => spans.push(Span { range, decays, matrix }),
        }
    }
    spans
}

/// Elements of the spans that AdamW moves.
fn adam_elements(spans: &[Span]) -> usize {
    spans.iter().filter(|span| span.matrix.is_none()).map(|span| span.range.len()).sum()
}
