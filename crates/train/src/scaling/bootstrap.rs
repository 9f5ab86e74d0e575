//! Intervals by bootstrap: the fit again and again on points drawn anew.
//!
//! The key decision: a resample is a weight for each point, so that one code serves two kinds. From 50 points
//! on it draws points with replacement (as Besiroglu et al.). Fewer points would often leave a budget with
//! none, so they get weights drawn from an exponential distribution (the Bayesian bootstrap, Rubin 1981), which
//! leaves none out. Every resample has its own seed: the same numbers on any number of threads.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Law, Point};

/// Points from which on they are drawn with replacement.
const MANY: usize = 50;

/// An estimate and the interval around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end: 2.5 % of resamples lie below.
    pub low: f64,
    /// Its upper end: 2.5 % lie above.
    pub high: f64,
    /// Standard deviation of the resamples.
    pub error: f64,
}

impl Interval {
    /// The middle 95 % of values; `None` without values. What is not finite counts as very large.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Interval> {
        let mut values: Vec<f64> =
            values.into_iter().map(|x| if x.is_finite() { x } else { f64::MAX }).collect();
        if values.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
        let (low, high) = (at(0.025), at(0.975));
        let kept: Vec<f64> = values.iter().copied().filter(|x| *x < f64::MAX).collect();
        let mean = kept.iter().sum::<f64>() / kept.len().max(1) as f64;
        let error = (kept.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
            / (kept.len().max(2) - 1) as f64)
            .sqrt();
        Some(Interval { low, high, error })
    }

    /// Whether a value lies in it.
    pub fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// How weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// How often each point is drawn, with replacement.
    Drawn,
    /// Exponential weights: no point is left out.
    Exponential,
}

impl Kind {
    /// The kind for a fit to so many points at once.
    pub fn of(points: usize) -> Kind {
        if points < MANY { Kind::Exponential } else { Kind::Drawn }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Drawn => "bootstrap (points drawn with replacement)",
            Kind::Exponential => "Bayesian bootstrap (exponential weights)",
        })
    }
}

/// The law of every resample, by a `refit` that takes points, weights and a law to start from. In order, the
/// same for any number of threads.
pub fn laws(
    points: &[Point],
    law: &Law,
    resamples: usize,
    seed: u64,
    refit: fn(&[Point], &[f64], &Law) -> Law,
) -> Vec<Law> {
    resample(points.len(), resamples, seed, Kind::of(points.len()), |weights| {
        refit(points, weights, law)
    })
}

/// `job` on the weights of every resample.
pub fn resample<T: Send>(
    points: usize,
    resamples: usize,
    seed: u64,
    kind: Kind,
    job: impl Fn(&[f64]) -> T + Sync,
) -> Vec<T> {
    // Seeds of neighbours must be far apart in the generator's one cycle, so they are drawn from it themselves.
    let mut seeds = Random::new(seed);
    let seeds: Vec<u64> = (0..resamples).map(|_| seeds.next()).collect();
    seeds.into_par_iter().map(|seed| job(&weights(points, seed, kind))).collect()
}

fn weights(points: usize, seed: u64, kind: Kind) -> Vec<f64> {
    let mut random = Random::new(seed);
    let mut weights = vec![0.0; points];
    match kind {
        Kind::Exponential => weights.iter_mut().for_each(|w| *w = -(1.0 - random.uniform()).ln()),
        Kind::Drawn => {
            (0..points).for_each(|_| weights[(random.uniform() * points as f64) as usize] += 1.0)
        }
    }
    weights
}

/// SplitMix64 (Steele, Lea and Flood 2014): a seed, a stream.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal of mean 0 and deviation 1 (Box and Muller).
    #[cfg(test)]
    pub(crate) fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chinchilla, synthetic};
    use super::super::{parametric, projection};
    use super::*;

    #[test]
    fn intervals_hold_what_made_the_points() {
        let law = Law::BESIROGLU;
        let points = synthetic(&law, 0.002);
        for (name, found, refit) in [
            (
                "parametric",
                parametric::fit(&points).unwrap(),
                parametric::refit as fn(&[Point], &[f64], &Law) -> Law,
            ),
            ("projection", projection::fit(&points).unwrap(), projection::refit),
        ] {
            let all = laws(&points, &found, 200, 1, refit);
            let interval = |f: fn(&Law) -> f64| Interval::of(all.iter().map(f)).unwrap();
            for (what, interval, value) in [
                ("alpha", interval(|l| l.alpha), law.alpha),
                ("beta", interval(|l| l.beta), law.beta),
                ("E", interval(|l| l.e), law.e),
                (
                    "loss at 4 x",
                    interval(|l| {
                        let (n, d) = Law::BESIROGLU.optimum(4e16);
                        l.loss(n, d)
                    }),
                    {
                        let (n, d) = law.optimum(4e16);
                        law.loss(n, d)
                    },
                ),
            ] {
                assert!(
                    interval.holds(value) && interval.error > 0.0,
                    "{name} {what}: {interval:?} for {value}"
                );
            }
        }
    }

    #[test]
    fn the_same_on_any_number_of_threads() {
        let points = synthetic(&Law::BESIROGLU, 0.01);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let law = parametric::fit(&points).unwrap();
                (law, laws(&points, &law, 20, 3, parametric::refit))
            })
        };
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn published_standard_errors_are_found_again() {
        let Some(points) = chinchilla() else { return };
        let law = parametric::fit(&points).unwrap();
        let all = laws(&points, &law, 400, 0, parametric::refit);
        // arXiv 2404.10102, table 1, from 4,000 resamples; E and alpha with the digits of their repository.
        for (name, f, published) in [
            ("E", (|l| l.e) as fn(&Law) -> f64, 0.0257),
            ("A", |l| l.a, 124.58),
            ("alpha", |l| l.alpha, 0.0154),
            ("beta", |l| l.beta, 0.02),
            ("a", |l| l.exponent(), 0.02),
        ] {
            let found = Interval::of(all.iter().map(f)).unwrap();
            eprintln!("{name}: {found:?}, published error {published}");
            assert!(
                (0.5..2.0).contains(&(found.error / published)),
                "{name}: {} for {published}",
                found.error
            );
        }
    }

    #[test]
    fn a_warm_start_ends_where_the_whole_grid_does() {
        let points = synthetic(&Law::BESIROGLU, 0.01);
        let law = parametric::fit(&points).unwrap();
        for seed in 0..3 {
            let weights = weights(points.len(), seed, Kind::Drawn);
            let drawn: Vec<Point> = points
                .iter()
                .zip(&weights)
                .flat_map(|(p, w)| std::iter::repeat_n(*p, *w as usize))
                .collect();
            let (warm, whole) =
                (parametric::refit(&points, &weights, &law), parametric::fit(&drawn).unwrap());
            let (warm, whole) =
                (parametric::objective(&drawn, &warm), parametric::objective(&drawn, &whole));
            assert!((warm / whole - 1.0).abs() < 1e-3, "seed {seed}: {warm} for {whole}");
        }
    }

    #[test]
    fn weights_are_those_of_their_kind() {
        let few = weights(12, 5, Kind::of(12));
        assert!(few.iter().all(|w| *w > 0.0));
        let many = weights(60, 5, Kind::of(60));
        assert_eq!(many.iter().sum::<f64>(), 60.0);
        assert!(many.contains(&0.0));
        assert_eq!(Interval::of([]), None);
        assert_eq!(Interval::of([1.0, f64::NAN]).unwrap().high, f64::MAX);
    }
}
