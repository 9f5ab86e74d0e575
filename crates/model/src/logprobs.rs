//! Log-probabilities: what the model thought of a token, before any sampling option had a say.
//!
//! The key decision: they come from the softmax of the attention, so they are as fast and as
//! reproducible as the logits. Not here: sampling.

use yushan_abi::TokenId;
use yushan_tensor::{Isa, ops};

use crate::sampler::{Candidate, argmax, best};

/// The natural logarithms of some tokens' probabilities at one position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logprobs {
    /// Of the token that stands there.
    pub chosen: f32,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<(TokenId, f32)>,
}

/// Fills a [`Logprobs`] row by row and keeps its buffers.
#[derive(Debug, Default)]
pub struct LogprobReader {
    candidates: Vec<Candidate>,
    probabilities: Vec<f32>,
    row: Logprobs,
}

impl LogprobReader {
    /// Of `chosen` and of the `top` likeliest. A NaN logit counts as negative infinity.
    pub fn read(&mut self, logits: &[f32], chosen: TokenId, top: usize) -> &Logprobs {
        let normalizer = self.log_sum_exp(logits);
        let of = |logit: f32| (f64::from(logit) - normalizer) as f32;
        self.row.chosen = logits.get(chosen as usize).map_or(f32::NEG_INFINITY, |&l| of(l));
        self.row.top.clear();
        if top > 0 {
            best(logits, None, top.min(logits.len()), &mut self.candidates);
            self.row.top.extend(self.candidates.iter().map(|c| (c.token, of(c.logit))));
        }
        &self.row
    }

    /// `ln Σ exp(logit)`: the largest logit less the logarithm of its probability.
    fn log_sum_exp(&mut self, logits: &[f32]) -> f64 {
        let finite = |l: f32| if l.is_nan() { f32::NEG_INFINITY } else { l.min(f32::MAX) };
        self.probabilities.clear();
        self.probabilities.extend(logits.iter().map(|&logit| finite(logit)));
        let Some(top) = argmax(&self.probabilities, None) else { return 0.0 };
        let peak = f64::from(self.probabilities[top as usize]);
        ops::softmax(Isa::best(), &mut self.probabilities, 0);
        peak - f64::from(self.probabilities[top as usize]).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_the_softmax_in_logarithms() {
        // ln(1/8), ln(2/8), ln(5/8), shifted by a constant that must not matter.
        let logits = [1f32.ln() + 30.0, 2f32.ln() + 30.0, 5f32.ln() + 30.0, f32::NAN];
        let mut reader = LogprobReader::default();
        let row = reader.read(&logits, 1, 2);
        assert!((row.chosen - 0.25f32.ln()).abs() < 1e-6, "{row:?}");
        assert_eq!(row.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
        assert!((row.top[0].1 - 0.625f32.ln()).abs() < 1e-6, "{row:?}");
        assert!(reader.read(&[0.0; 4], 3, 0).top.is_empty());
    }

    #[test]
    fn of_extreme_logits_are_finite_or_negative_infinity() {
        let mut reader = LogprobReader::default();
        for logits in [[f32::MAX, -f32::MAX, 0.0], [1e30, 1e30, f32::NEG_INFINITY]] {
            let row = reader.read(&logits, 0, 3);
            assert!(row.chosen <= 0.0 && row.chosen > -1.0, "{row:?}");
        }
    }
}
