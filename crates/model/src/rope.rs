//! Rotary positions: from the settings of a file to cosines and sines.
//!
//! The key decision: every kind of stretching ends as one list of frequencies and one factor, made
//! once; a step computes the angles of its own rows, so no table of the whole context is kept.
//!
//! Sources: Su et al. 2021 (arXiv 2104.09864); Peng et al. 2023 (YaRN, arXiv 2309.00071), with the
//! rounding of bounds that Hugging Face transformers uses; Llama 3.1's ramp from its reference code.

use std::f64::consts::TAU;

use crate::config::{Rope, RopeScaling};

/// Frequencies of the pairs of a head.
pub(crate) struct Rotary {
    /// Radians a position, `(dims / 2)`.
    frequencies: Vec<f32>,
    /// Multiplies cosine and sine (YaRN's attention factor).
    magnitude: f32,
}

impl Rotary {
    pub(crate) fn new(rope: &Rope) -> Rotary {
        let base = f64::from(rope.base);
        let pairs = rope.dims / 2;
        let plain = |i: usize| base.powf(-(2.0 * i as f64) / rope.dims as f64);
        let mut magnitude = 1.0;
        let frequency = |i: usize| -> f64 {
            let plain = plain(i);
            match &rope.scaling {
                RopeScaling::None => plain,
                RopeScaling::Linear { factor } => plain / f64::from(*factor),
                RopeScaling::Factors(factors) => {
                    plain / factors.get(i).map_or(1.0, |factor| f64::from(*factor))
                }
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_context,
                } => {
                    let turns = *original_context as f64 * plain / TAU;
                    let (low, high) = (f64::from(*low_freq_factor), f64::from(*high_freq_factor));
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    plain * kept + plain / f64::from(*factor) * (1.0 - kept)
                }
                RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                    // The pair that turns `beta` times within the original context.
                    let pair = |beta: f32| {
                        let wave = *original_context as f64 / (f64::from(beta) * TAU);
                        rope.dims as f64 * wave.ln() / (2.0 * base.ln())
                    };
                    let low = pair(*beta_fast).floor().max(0.0);
                    let high = pair(*beta_slow).ceil().min(rope.dims as f64 - 1.0);
                    let high = if high == low { high + 0.001 } else { high };
                    let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    plain * (1.0 - stretched) + plain / f64::from(*factor) * stretched
                }
            }
        };
        let frequencies = (0..pairs).map(|i| frequency(i) as f32).collect();
        if let RopeScaling::Yarn { attention_factor, .. } = &rope.scaling {
            magnitude = *attention_factor;
        }
        Rotary { frequencies, magnitude }
    }

    /// Pairs of a head that are rotated.
    pub(crate) fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Appends the cosines and sines of one position, `(pairs)` each. The angle is the product in
    /// `f32`, as in the code that models were trained with.
    pub(crate) fn turn(&self, position: usize, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        for frequency in &self.frequencies {
            let angle = f64::from(position as f32 * frequency);
            cos.push(angle.cos() as f32 * self.magnitude);
            sin.push(angle.sin() as f32 * self.magnitude);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeStyle;

    fn rotary(scaling: RopeScaling) -> Rotary {
        Rotary::new(&Rope { base: 10000.0, dims: 64, style: RopeStyle::Halves, scaling })
    }

    #[test]
    fn stretching_keeps_fast_pairs_and_divides_slow_ones() {
        let plain = rotary(RopeScaling::None).frequencies;
        assert_eq!(plain[0], 1.0);
        assert!((plain[16] - 0.01).abs() < 1e-8);
        let linear = rotary(RopeScaling::Linear { factor: 4.0 }).frequencies;
        assert!(linear.iter().zip(&plain).all(|(a, b)| (a * 4.0 / b - 1.0).abs() < 1e-6));
        let llama3 = rotary(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        });
        let yarn = rotary(RopeScaling::Yarn {
            factor: 8.0,
            original_context: 4096,
            attention_factor: 1.2,
            beta_fast: 32.0,
            beta_slow: 1.0,
        });
        for stretched in [&llama3, &yarn] {
            let f = &stretched.frequencies;
            assert_eq!(f[0], plain[0]);
            assert!((f[31] * 8.0 / plain[31] - 1.0).abs() < 1e-5);
            assert!(f.windows(2).all(|pair| pair[0] > pair[1]), "{f:?}");
        }
        assert_eq!(yarn.magnitude, 1.2);
    }
}
