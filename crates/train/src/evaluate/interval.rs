//! Intervals: what a figure from so many questions, or from so few seeds, leaves open.
//!
//! The key decision: shares get Wilson's interval (which stays within 0 and 1 and is right for few
//! questions), means over seeds get Student's, and ratios of sums are bootstrapped over documents. All
//! are 95 %, and all are seeded.

use serde::{Deserialize, Serialize};

/// The 97.5 % point of the normal distribution.
const NORMAL: f64 = 1.959_963_984_540_054;
/// The 97.5 % points of Student's t with 1 to 30 degrees of freedom.
const STUDENT: [f64; 30] = [
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010,
    2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687,
    2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
];
/// Resamples of a bootstrap; the ends of its interval then lie ten from the outermost.
const RESAMPLES: usize = 400;
/// Blocks that are drawn: more documents are put together first.
const BLOCKS: usize = 256;

/// A value with the ends of its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Of a share, `hits` of `count` (Wilson 1927). `None` without a question.
    pub fn of_share(hits: u64, count: u64) -> Option<Interval> {
        if count == 0 {
            return None;
        }
        let (n, z2) = (count as f64, NORMAL * NORMAL);
        let share = hits as f64 / n;
        let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half =
            NORMAL / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
        let (low, high) = ((middle - half).max(0.0), (middle + half).min(1.0));
        Some(Interval { value: share, low: low.min(share), high: high.max(share) })
    }

    /// Of a mean over independent runs (Student's t). `None` for less than two, or for one that is not
    /// finite.
    pub fn of_mean(values: &[f64]) -> Option<Interval> {
        if values.len() < 2 || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let half = student(values.len() - 1) * (squares / (n - 1.0) / n).sqrt();
        Some(Interval { value: mean, low: mean - half, high: mean + half })
    }

    /// Of Σ above / Σ below over documents, bootstrapped (percentiles) with blocks of documents that
    /// follow each other. `None` for less than eight.
    pub fn of_ratio(documents: &[(f64, f64)], seed: u64) -> Option<Interval> {
        if documents.len() < 8 {
            return None;
        }
        let size = documents.len().div_ceil(BLOCKS);
        let sum = |items: &[(f64, f64)]| {
            items.iter().fold((0.0, 0.0), |sum, item| (sum.0 + item.0, sum.1 + item.1))
        };
        let blocks: Vec<_> = documents.chunks(size).map(sum).collect();
        let mut random = Random(seed);
        let mut ratios: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn: Vec<_> =
                    blocks.iter().map(|_| blocks[random.below(blocks.len())]).collect();
                let (above, below) = sum(&drawn);
                above / below
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let (above, below) = sum(documents);
        let value = above / below;
        let edge = RESAMPLES / 40;
        let (low, high) = (ratios[edge], ratios[RESAMPLES - 1 - edge]);
        (value.is_finite() && low.is_finite() && high.is_finite()).then_some(Interval {
            value,
            low: low.min(value),
            high: high.max(value),
        })
    }
}

/// Beyond the table, two terms of the expansion about the normal point (Abramowitz and Stegun 26.7.5): right
/// to 0.0001.
fn student(freedom: usize) -> f64 {
    let (z, n) = (NORMAL, freedom as f64);
    let first = (z.powi(3) + z) / (4.0 * n);
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n);
    STUDENT.get(freedom - 1).copied().unwrap_or(z + first + second)
}

/// SplitMix64: a few numbers that look random and are the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Below `bound`, which is not 0. What a product's upper half leaves uneven is below 2⁻⁴⁰.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(got: Option<Interval>, value: f64, low: f64, high: f64) {
        let got = got.unwrap();
        for (got, expected) in [(got.value, value), (got.low, low), (got.high, high)] {
            assert!((got - expected).abs() < 1e-4, "{got} {expected}");
        }
    }

    #[test]
    fn shares_and_means_are_those_of_the_textbook() {
        // statsmodels 0.14: proportion_confint(hits, count, method="wilson").
        check(Interval::of_share(7, 10), 0.7, 0.39678, 0.89221);
        check(Interval::of_share(0, 10), 0.0, 0.0, 0.27753);
        check(Interval::of_share(300, 300), 1.0, 0.98736, 1.0);
        assert_eq!(Interval::of_share(0, 0), None);
        // Mean 2, standard error 1/√3, t = 4.3027.
        check(Interval::of_mean(&[1.0, 2.0, 3.0]), 2.0, 2.0 - 2.48417, 2.0 + 2.48417);
        check(Interval::of_mean(&[5.0; 40]), 5.0, 5.0, 5.0);
        assert_eq!(Interval::of_mean(&[1.0]), None);
        assert_eq!(Interval::of_mean(&[1.0, f64::NAN]), None);
        assert!((student(31) - 2.0395).abs() < 2e-4 && (student(60) - 2.0003).abs() < 1e-4);
    }

    #[test]
    fn a_bootstrap_covers_the_mean_about_as_often_as_it_says() {
        let mut covered = 0;
        for seed in 0..200 {
            let mut random = Random(seed);
            let documents: Vec<_> = (0..60)
                .map(|_| {
                    let bytes = 50.0 + random.below(100) as f64;
                    (bytes * (1.0 + random.below(1000) as f64 / 1000.0), bytes)
                })
                .collect();
            let got = Interval::of_ratio(&documents, 1).unwrap();
            assert!(got.low <= got.value && got.value <= got.high);
            assert_eq!(Some(got), Interval::of_ratio(&documents, 1));
            covered += usize::from(got.low <= 1.4995 && 1.4995 <= got.high);
        }
        assert!((178..=199).contains(&covered), "{covered} of 200");
        assert_eq!(Interval::of_ratio(&[(1.0, 1.0); 7], 1), None);
        assert_eq!(Interval::of_ratio(&[(f64::NAN, 1.0); 9], 1), None);
        assert_eq!(Interval::of_ratio(&[(0.0, 0.0); 9], 1), None);
        check(Interval::of_ratio(&[(2.0, 1.0); 1000], 1), 2.0, 2.0, 2.0);
    }
}
