//! From logits to a token.
//!
//! The chain, in llama.cpp's order: mask of the grammar → logit bias → penalties → top-k → locally
//! typical → top-p → min-p → temperature → draw. Each filter sees the probabilities of what the
//! ones before it left. Temperature 0 is greedy: the largest logit after the penalties, the lower id
//! of equals; the filters are not asked, since all but one of them keep it anyway.
//!
//! The key decision: one draw of the generator a token, whatever the logits are, from a stream that
//! only the seed determines. So the tokens are a function of logits and seed, a speculated run that
//! samples position by position gives the same ones, and one that goes on after tokens it knows too.
//!
//! Steady state: nothing is allocated, and nothing but the survivors is sorted; top-k keeps the best
//! in one pass over the vocabulary.
//!
//! Not here: log-probabilities (`logprobs.rs`), which speak of the model and not of the chain.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use yushan_abi::{Sampling, TokenId};

use crate::{Error, Result};

/// Whether every number is one that the chain can work with.
fn check(sampling: &Sampling, vocabulary: usize) -> Result<()> {
    let at_least_zero = |x: f32| x.is_finite() && x >= 0.0;
    for (field, value, holds, expected) in [
        ("temperature", sampling.temperature, at_least_zero(sampling.temperature), "0 or more"),
        ("top_p", sampling.top_p, sampling.top_p > 0.0, "more than 0, and 1 for no limit"),
        ("min_p", sampling.min_p, (0.0..=1.0).contains(&sampling.min_p), "0 to 1"),
        (
            "typical_p",
            sampling.typical_p,
            sampling.typical_p > 0.0,
            "more than 0, and 1 for no limit",
        ),
        (
            "repeat_penalty",
            sampling.repeat_penalty,
            sampling.repeat_penalty.is_finite() && sampling.repeat_penalty > 0.0,
            "more than 0, and 1 for none",
        ),
        (
            "frequency_penalty",
            sampling.frequency_penalty,
            sampling.frequency_penalty.is_finite(),
            "a finite number",
        ),
        (
            "presence_penalty",
            sampling.presence_penalty,
            sampling.presence_penalty.is_finite(),
            "a finite number",
        ),
    ] {
        if !holds {
            return Err(Error::request(field, format!("{value}; expected {expected}")));
        }
    }
    for &(token, bias) in &sampling.logit_bias {
        if token as usize >= vocabulary || bias.is_nan() {
            let detail = format!(
                "{bias} for token {token}; expected a number for a token below {vocabulary}"
            );
            return Err(Error::request("logit_bias", detail));
        }
    }
    Ok(())
}

/// Whether what came before matters.
fn penalizes(sampling: &Sampling) -> bool {
    sampling.repeat_last_n > 0
        && (sampling.repeat_penalty != 1.0
            || sampling.frequency_penalty != 0.0
            || sampling.presence_penalty != 0.0)
}

/// A token that is still in the running.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) token: TokenId,
    pub(crate) logit: f32,
}

impl Candidate {
    /// The likelier first, of equals the lower id: a total order, as no logit here is NaN.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// Chooses tokens by a [`Sampling`], remembering the recent ones.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    recent: VecDeque<TokenId>,
    /// How often each token stands in `recent`.
    counts: HashMap<TokenId, u32>,
    /// The logits after mask, bias and penalties: `(vocabulary)`.
    adjusted: Vec<f32>,
    candidates: Vec<Candidate>,
    /// Of each candidate, not normalized.
    weights: Vec<f64>,
    /// Candidates with the distance that [`Sampler::typical`] sorts by.
    distances: Vec<(f64, f64, Candidate)>,
}

impl Sampler {
    /// A sampler for rows of `vocabulary` logits.
    pub fn new(sampling: Sampling, vocabulary: usize) -> Result<Self> {
        check(&sampling, vocabulary)?;
        Ok(Self {
            random: SplitMix64(sampling.seed),
            recent: VecDeque::new(),
            counts: HashMap::new(),
            adjusted: Vec::new(),
            candidates: Vec::new(),
            weights: Vec::new(),
            distances: Vec::new(),
            sampling,
        })
    }

    /// The next token. Bit `t % 32` of `mask[t / 32]` says whether token `t` is allowed; without a
    /// mask all are. Logits that are NaN never win; if no allowed logit is above negative infinity,
    /// the first allowed token does.
    pub fn sample(&mut self, logits: &[f32], mask: Option<&[u32]>) -> TokenId {
        let random = self.random.unit();
        let mut adjusted = std::mem::take(&mut self.adjusted);
        let token = if penalizes(&self.sampling) || !self.sampling.logit_bias.is_empty() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(&mut adjusted);
            self.choose(&adjusted, mask, random)
        } else {
            self.choose(logits, mask, random)
        };
        self.adjusted = adjusted;
        token.unwrap_or_else(|| first_allowed(mask))
    }

    /// Leaves out one draw: a token that was chosen before stands here.
    pub fn skip(&mut self) {
        self.random.next();
    }

    /// Tells the penalties what was chosen, or stands in the prompt.
    pub fn accept(&mut self, token: TokenId) {
        if !penalizes(&self.sampling) {
            return;
        }
        if self.recent.len() == self.sampling.repeat_last_n
            && let Some(old) = self.recent.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
        self.recent.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    fn adjust(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        if !penalizes(&self.sampling) {
            return;
        }
        // Each token once: the order does not matter.
        for (&token, &count) in &self.counts {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            let factor = self.sampling.repeat_penalty;
            *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
            *logit -= count as f32 * self.sampling.frequency_penalty;
            *logit -= self.sampling.presence_penalty;
        }
    }

    /// `random` is uniform in [0, 1).
    fn choose(&mut self, logits: &[f32], mask: Option<&[u32]>, random: f64) -> Option<TokenId> {
        if self.sampling.temperature == 0.0 {
            return argmax(logits, mask);
        }
        let keep = if self.sampling.top_k == 0 { usize::MAX } else { self.sampling.top_k };
        best(logits, mask, keep, &mut self.candidates);
        if self.candidates.is_empty() {
            return None;
        }
        if self.sampling.typical_p < 1.0 {
            self.typical();
        }
        if self.sampling.top_p < 1.0 {
            self.top_p();
        }
        if self.sampling.min_p > 0.0 {
            self.min_p();
        }
        Some(self.draw(random))
    }

    /// The largest logit still in the running.
    fn top(&self) -> f32 {
        self.candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max)
    }

    /// Fills `weights` with `exp((logit - top) / temperature)` and returns their sum.
    fn weigh(&mut self, temperature: f32) -> f64 {
        let top = self.top();
        let scale = 1.0 / f64::from(temperature);
        self.weights.clear();
        self.weights.extend(
            self.candidates.iter().map(|c| ((f64::from(c.logit) - f64::from(top)) * scale).exp()),
        );
        self.weights.iter().sum()
    }

    fn typical(&mut self) {
        let total = self.weigh(1.0);
        let entropy: f64 = self
            .weights
            .iter()
            .map(|w| w / total)
            .map(|p| if p > 0.0 { -p * p.ln() } else { 0.0 })
            .sum();
        self.distances.clear();
        self.distances.extend(self.candidates.iter().zip(&self.weights).map(|(c, w)| {
            let p = w / total;
            ((-p.ln() - entropy).abs(), p, *c)
        }));
        self.distances.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.2.rank(&b.2)));
        let (mut sum, mut keep) = (0.0, 0);
        for (_, p, _) in &self.distances {
            sum += p;
            keep += 1;
            if sum > f64::from(self.sampling.typical_p) {
                break;
            }
        }
        self.candidates.clear();
        self.candidates.extend(self.distances[..keep].iter().map(|(_, _, c)| *c));
    }

    /// Sorts only as far as it must: the best 256, then four times as many, and so on.
    fn top_p(&mut self) {
        let total = self.weigh(1.0);
        let top = self.top();
        let goal = f64::from(self.sampling.top_p) * total;
        let (mut sum, mut sorted) = (0.0, 0);
        while sorted < self.candidates.len() {
            let rest = &mut self.candidates[sorted..];
            let step = (3 * sorted).max(256).min(rest.len());
            if step < rest.len() {
                rest.select_nth_unstable_by(step - 1, Candidate::rank);
            }
            rest[..step].sort_unstable_by(Candidate::rank);
            for at in sorted..sorted + step {
                sum += (f64::from(self.candidates[at].logit) - f64::from(top)).exp();
                if sum >= goal {
                    self.candidates.truncate(at + 1);
                    return;
                }
            }
            sorted += step;
        }
    }

    fn min_p(&mut self) {
        let top = self.top();
        // p ≥ min_p · p_top, in logits.
        let least = top + self.sampling.min_p.ln();
        self.candidates.retain(|c| c.logit >= least || c.logit == top);
    }

    fn draw(&mut self, random: f64) -> TokenId {
        let total = self.weigh(self.sampling.temperature);
        let mut left = random * total;
        for (candidate, weight) in self.candidates.iter().zip(&self.weights) {
            left -= weight;
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Rounding let a little remain: the last one that has any weight.
        let last = self.weights.iter().rposition(|&w| w > 0.0).unwrap_or(0);
        self.candidates[last].token
    }
}

/// The token of the largest logit, the lowest id of equals; `None` if all are NaN, negative
/// infinity or masked.
pub fn argmax(logits: &[f32], mask: Option<&[u32]>) -> Option<TokenId> {
    if let Some(mask) = mask {
        let (mut best, mut top) = (None, f32::NEG_INFINITY);
        for_each_allowed(logits, mask, |token, logit| {
            if logit > top {
                (best, top) = (Some(token), logit);
            }
        });
        return best;
    }
    // The first block with the largest logit, then its place there.
    let (mut best, mut top) = (0, f32::NEG_INFINITY);
    for (at, block) in logits.chunks(BLOCK).enumerate() {
        let most = largest(block);
        if most > top {
            (best, top) = (at, most);
        }
    }
    let block = logits[best * BLOCK..].iter();
    let place = block.take(BLOCK).position(|&logit| logit > f32::NEG_INFINITY && logit == top);
    place.map(|place| (best * BLOCK + place) as TokenId)
}

/// Logits that are looked through together: few to search again for the largest one's place.
const BLOCK: usize = 512;

/// The largest, NaN aside, in independent lanes that fit the smallest registers.
fn largest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |top, &logit| if logit > top { logit } else { top })
}

/// Puts into `out` the `keep` likeliest allowed tokens, likeliest first; all of them, in order of
/// their ids, if `keep` is `usize::MAX`. NaN and negative infinity are left out, positive infinity
/// counts as the largest finite number.
pub(crate) fn best(logits: &[f32], mask: Option<&[u32]>, keep: usize, out: &mut Vec<Candidate>) {
    out.clear();
    // Room for as many again before the worse half is thrown away.
    let room = keep.saturating_mul(2).max(64);
    // Ids ascend, so an equal logit that comes later never displaces one of `keep` earlier ones.
    let mut threshold = f32::NEG_INFINITY;
    let mut take = |token: TokenId, logit: f32| {
        if logit > threshold {
            out.push(Candidate { token, logit: logit.min(f32::MAX) });
            if out.len() >= room {
                let (_, worst, _) = out.select_nth_unstable_by(keep - 1, Candidate::rank);
                threshold = worst.logit;
                out.truncate(keep);
            }
        }
    };
    match mask {
        Some(mask) => for_each_allowed(logits, mask, &mut take),
        None => {
            for (token, &logit) in logits.iter().enumerate() {
                take(token as TokenId, logit);
            }
        }
    }
    if keep < usize::MAX {
        out.sort_unstable_by(Candidate::rank);
        out.truncate(keep);
    }
}

fn for_each_allowed(logits: &[f32], mask: &[u32], mut visit: impl FnMut(TokenId, f32)) {
    for (at, (&word, logits)) in mask.iter().zip(logits.chunks(32)).enumerate() {
        let mut bits = word;
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if let Some(&logit) = logits.get(bit) {
                visit((at * 32 + bit) as TokenId, logit);
            }
        }
    }
}

fn first_allowed(mask: Option<&[u32]>) -> TokenId {
    let Some(mask) = mask else { return 0 };
    let word = mask.iter().position(|&word| word != 0).unwrap_or(0);
    (word * 32) as TokenId + mask.get(word).map_or(0, |word| word.trailing_zeros() % 32)
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014; the
/// constants of java.util.SplittableRandom): one word of state, every seed as good as another.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1): the upper 53 bits, as many as an f64 holds.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
