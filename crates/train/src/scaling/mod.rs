//! Scaling laws: from many small runs to what a large one will reach.
//!
//! The key decision: every published way of fitting is here and they are printed side by side, since their
//! disagreement is the honest error bar: approach 1 ([`envelope`]), 2 ([`isoflop`]) and 3 ([`parametric`]) of
//! Hoffmann et al. (arXiv 2203.15556), the last also by variable projection ([`projection`]), all with
//! [`bootstrap`] intervals. A ladder of runs is planned ([`ladder`]), run so that it can be killed at any
//! point ([`runner`]), and fitted ([`report`]). It trains nothing itself: the runner is given the trainer.

pub mod bootstrap;
pub mod envelope;
pub mod isoflop;
pub mod ladder;
pub mod law;
pub mod lbfgs;
mod least_squares;
pub mod parametric;
pub mod plots;
pub mod projection;
pub mod report;
pub mod runner;

pub use law::Law;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One finished run, or one moment of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Parameters N, under the convention that the caller states.
    pub parameters: f64,
    /// Training tokens D.
    pub tokens: f64,
    /// FLOPs that were spent, C; about 6ND.
    pub flops: f64,
    /// Loss in nats a token, on held-out text.
    pub loss: f64,
}

impl Point {
    /// A run whose cost is taken as C = 6ND.
    pub fn new(parameters: f64, tokens: f64, loss: f64) -> Point {
        Point { parameters, tokens, flops: 6.0 * parameters * tokens, loss }
    }
}

/// Whether points can carry a fit of five numbers.
///
/// # Errors
/// Fewer than seven points, values that are not positive numbers, fewer than three different sizes or
/// token counts; the message names the first point that is at fault.
pub fn check(points: &[Point]) -> Result<()> {
    const LEAST: usize = 7;
    for (i, p) in points.iter().enumerate() {
        for (name, value) in [
            ("parameters", p.parameters),
            ("tokens", p.tokens),
            ("flops", p.flops),
            ("loss", p.loss),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::bad(
                    "scaling points",
                    format!("{name} of point {} is {value}; leave out runs that diverged", i + 1),
                ));
            }
        }
    }
    if points.len() < LEAST {
        return Err(Error::bad(
            "scaling points",
            format!(
                "{} of them; five numbers are fitted, so at least {LEAST} runs are needed (a ladder has 12 or more)",
                points.len()
            ),
        ));
    }
    for (name, value) in
        [("parameters", (|p: &Point| p.parameters) as fn(&Point) -> f64), ("tokens", |p| p.tokens)]
    {
        let different = distinct(points.iter().map(value));
        if different < 3 {
            return Err(Error::bad(
                "scaling points",
                format!(
                    "only {different} different values of {name}; at least 3 are needed to see how the loss depends on it"
                ),
            ));
        }
    }
    Ok(())
}

/// Values that differ by more than a thousandth.
fn distinct(values: impl Iterator<Item = f64>) -> usize {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup_by(|a, b| (*a / *b - 1.0).abs() < 1e-3);
    values.len()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The 240 points of Besiroglu et al.: their 245 less the five with the fewest tokens a parameter.
    pub(crate) fn chinchilla() -> Option<Vec<Point>> {
        let path = crate::shared_data("scaling/chinchilla_points.csv")?;
        let text = std::fs::read_to_string(path).unwrap();
        let mut points: Vec<Point> = text
            .lines()
            .skip(1)
            .map(|line| {
                let field = |i: usize| line.split(',').nth(i).unwrap().parse::<f64>().unwrap();
                let (parameters, flops) = (field(3), field(4));
                Point { parameters, flops, tokens: flops / (6.0 * parameters), loss: field(6) }
            })
            .collect();
        assert_eq!(points.len(), 245);
        points.sort_by(|a, b| (a.tokens / a.parameters).total_cmp(&(b.tokens / b.parameters)));
        Some(points.split_off(5))
    }

    /// Losses of a law on a grid of budgets and sizes, with seeded noise of a relative size.
    pub(crate) fn synthetic(law: &Law, noise: f64) -> Vec<Point> {
        let mut random = bootstrap::Random::new(7);
        let mut points = Vec::new();
        for budget in [1e14, 3e14, 1e15, 3e15, 1e16] {
            let (best, _) = law.optimum(budget);
            for step in -3..=3 {
                let n = best * 1.6f64.powi(step);
                let d = budget / (6.0 * n);
                points.push(Point::new(n, d, law.loss(n, d) * (1.0 + noise * random.normal())));
            }
        }
        points
    }

    #[test]
    fn points_that_carry_no_fit_are_refused() {
        let good = synthetic(&Law::BESIROGLU, 0.0);
        let change = |f: fn(usize, &mut Point)| {
            let mut points = good.clone();
            points.iter_mut().enumerate().for_each(|(i, p)| f(i, p));
            points
        };
        for (points, expected) in [
            (good[..6].to_vec(), "6 of them; five numbers"),
            (vec![], "0 of them"),
            (
                change(|i, p| {
                    if i == 3 {
                        p.loss = f64::NAN
                    }
                }),
                "loss of point 4 is NaN",
            ),
            (
                change(|i, p| {
                    if i == 0 {
                        p.loss = f64::INFINITY
                    }
                }),
                "loss of point 1 is inf",
            ),
            (
                change(|i, p| {
                    if i == 9 {
                        p.tokens = -1.0
                    }
                }),
                "tokens of point 10 is -1",
            ),
            (change(|_, p| p.parameters = 1e6), "only 1 different values of parameters"),
            (change(|i, p| p.tokens = [1e6, 2e6][i % 2]), "only 2 different values of tokens"),
        ] {
            let error = check(&points).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        check(&good).unwrap();
    }
}
