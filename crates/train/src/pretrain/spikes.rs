//! Loss spikes: what is one, and what is done about it.
//!
//! The key decision: one batch above the bound is noise, and clipping takes care of it; several in a row mean that
//! the weights went wrong. Then the run goes back to a checkpoint from before and leaves out the batches that led
//! there (as PaLM did, Chowdhery et al. 2022, arXiv 2204.02311, section 5.1). A loss or gradient that is no number
//! leaves weights and optimizer as they are: that step is skipped.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Losses that the bound is made from.
const WINDOW: usize = 64;

/// A spike lies this many robust standard deviations above the median of the window…
const DEVIATIONS: f32 = 8.0;

/// … and at least this many nats.
const LEAST: f32 = 0.3;

/// Steps in a row above the bound, or without a number, after which the run goes back.
const PATIENCE: u32 = 4;

/// What the last losses were, and how many in a row were too high. Saved with a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spikes {
    recent: VecDeque<f32>,
    high: u32,
    not_a_number: u32,
    /// The step at which the present row of high losses began.
    began: Option<u64>,
}

/// What is to be done after a step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Update the weights.
    Update,
    /// Leave the weights as they are; why.
    Skip(String),
    /// Go back to a checkpoint at or before this step; why.
    RollBack {
        /// The last step that was still well.
        before: u64,
        /// What was seen.
        why: String,
    },
}

impl Spikes {
    /// Judges the loss (nats a token) and the norm of the gradient of `step`, before the weights are updated.
    pub(super) fn judge(&mut self, step: u64, loss: f32, grad_norm: f32) -> Verdict {
        if !loss.is_finite() || !grad_norm.is_finite() {
            self.not_a_number += 1;
            let why = format!("loss {loss}, gradient norm {grad_norm}");
            if self.not_a_number < PATIENCE {
                return Verdict::Skip(why);
            }
            let before = step + 1 - u64::from(self.not_a_number);
            return Verdict::RollBack {
                before,
                why: format!("{PATIENCE} steps in a row without a number: {why}"),
            };
        }
        self.not_a_number = 0;
        if let Some(bound) = self.bound()
            && loss > bound
        {
            self.high += 1;
            let began = *self.began.get_or_insert(step);
            if self.high < PATIENCE {
                return Verdict::Update;
            }
            let why = format!("{PATIENCE} losses in a row above {bound:.3}, the last {loss:.3}");
            return Verdict::RollBack { before: began, why };
        }
        (self.high, self.began) = (0, None);
        self.recent.push_back(loss);
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        Verdict::Update
    }

    /// Above this a loss is too high; none while there are too few to say.
    fn bound(&self) -> Option<f32> {
        if self.recent.len() < WINDOW {
            return None;
        }
        let mut losses: Vec<f32> = self.recent.iter().copied().collect();
        let median = median(&mut losses);
        let mut distances: Vec<f32> = losses.iter().map(|loss| (loss - median).abs()).collect();
        // The median distance of a normal distribution is 0.6745 standard deviations.
        let deviation = self::median(&mut distances) / 0.6745;
        Some(median + (DEVIATIONS * deviation).max(LEAST))
    }
}

fn median(values: &mut [f32]) -> f32 {
    values.sort_by(f32::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calm() -> (Spikes, u64) {
        let mut spikes = Spikes::default();
        for step in 0..100 {
            let loss = 3.0 + 0.02 * (step as f32).sin();
            assert_eq!(spikes.judge(step, loss, 1.0), Verdict::Update);
        }
        (spikes, 100)
    }

    #[test]
    fn one_high_loss_is_noise_and_four_go_back() {
        let (mut spikes, step) = calm();
        assert_eq!(spikes.judge(step, 9.0, 1.0), Verdict::Update);
        assert_eq!(spikes.judge(step + 1, 3.0, 1.0), Verdict::Update);
        for after in 2..5 {
            assert_eq!(spikes.judge(step + after, 5.0, 1.0), Verdict::Update);
        }
        let Verdict::RollBack { before, why } = spikes.judge(step + 5, 5.0, 1.0) else {
            panic!("a spike went unseen");
        };
        assert_eq!(before, step + 2);
        assert!(why.contains("5.000"), "{why}");
    }

    #[test]
    fn what_is_no_number_is_skipped_and_then_goes_back() {
        for (loss, norm) in [(f32::NAN, 1.0), (3.0, f32::INFINITY)] {
            let (mut spikes, step) = calm();
            for after in 0..3 {
                assert!(matches!(spikes.judge(step + after, loss, norm), Verdict::Skip(_)));
            }
            let verdict = spikes.judge(step + 3, loss, norm);
            assert!(matches!(verdict, Verdict::RollBack { before, .. } if before == step));
        }
    }

    #[test]
    fn a_loss_that_falls_fast_at_the_start_is_no_spike() {
        let mut spikes = Spikes::default();
        for step in 0..200 {
            let loss = 8.0 * (-(step as f32) / 30.0).exp() + 3.0;
            assert_eq!(spikes.judge(step, loss, 1.0), Verdict::Update);
        }
    }
}
