//! The learning rate over a run: warm-up, then stable and decay, or cosine.
//!
//! The key decision: a schedule is a pure function from step to a factor between 0 and 1, so that a run which is
//! resumed needs no state of it, and matrices and the rest can have peaks of their own.

use serde::{Deserialize, Serialize};

/// The form after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): constant, then linear to the floor. A run can be
    /// made longer from any checkpoint before the decay.
    #[default]
    Wsd,
    /// Half a cosine from the peak to the floor (Loshchilov & Hutter 2016, arXiv 1608.03983).
    Cosine,
}

/// The learning rate as a share of its peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The form after the warm-up.
    pub form: Form,
    /// Steps in all.
    pub steps: u64,
    /// Steps in which the factor rises linearly to 1.
    pub warmup: u64,
    /// Steps of the decay at the end; `Wsd` only.
    pub decay: u64,
    /// The factor at the last step, of the peak.
    pub floor: f64,
}

impl Schedule {
    /// The factor of step `step`, the first being 0: in (0, 1], and 0 only where the floor is 0 and the run is over.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let down_to_floor = |part: f64| self.floor + (1.0 - self.floor) * (1.0 - part.min(1.0));
        match self.form {
            Form::Wsd => {
                let begin = self.steps.saturating_sub(self.decay).max(self.warmup);
                if step < begin {
                    return 1.0;
                }
                let length = self.steps.saturating_sub(begin).max(1);
                down_to_floor((step - begin) as f64 / length as f64)
            }
            Form::Cosine => {
                let length = self.steps.saturating_sub(self.warmup).max(1);
                let part = ((step - self.warmup) as f64 / length as f64).min(1.0);
                down_to_floor((1.0 - (std::f64::consts::PI * part).cos()) / 2.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_pass_through_their_corners() {
        let wsd = Schedule { form: Form::Wsd, steps: 100, warmup: 10, decay: 20, floor: 0.0 };
        let cosine = Schedule { form: Form::Cosine, floor: 0.1, ..wsd };
        for (schedule, step, expected) in [
            (wsd, 0, 0.1),
            (wsd, 9, 1.0),
            (wsd, 79, 1.0),
            (wsd, 80, 1.0),
            (wsd, 90, 0.5),
            (wsd, 99, 0.05),
            (wsd, 500, 0.0),
            (cosine, 0, 0.1),
            (cosine, 10, 1.0),
            (cosine, 55, 0.55),
            (cosine, 100, 0.1),
            (cosine, 500, 0.1),
        ] {
            let factor = schedule.factor(step);
            assert!((factor - expected).abs() < 1e-12, "{schedule:?} at {step}: {factor}");
        }
    }

    #[test]
    fn a_run_shorter_than_its_warmup_does_not_divide_by_nothing() {
        for form in [Form::Wsd, Form::Cosine] {
            let schedule = Schedule { form, steps: 1, warmup: 0, decay: 0, floor: 0.0 };
            assert!(schedule.factor(0).is_finite());
            let schedule = Schedule { form, steps: 3, warmup: 10, decay: 10, floor: 0.0 };
            assert!((0..20).all(|step| schedule.factor(step).is_finite()));
        }
    }
}
