//! Approach 1: the lower envelope of the training curves of all sizes.
//!
//! The key decision: whole curves, not ends: at every budget the size with the lowest loss so far counts, and a
//! line goes through these sizes. Where the smallest or the largest model wins, the winner is only the edge of
//! what was tried, and such budgets are left out. A curve's middle has a learning rate that is still high, so
//! its loss is higher than that of a run that ended there: read it as a check of the others.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, Kind, resample};
use super::isoflop::Power;
use crate::{Error, Result};

/// Budgets at which the curves are compared, evenly in logarithm (Hoffmann et al. use 1,500).
const BUDGETS: usize = 1500;

/// The loss of a run as it trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Parameters.
    pub parameters: f64,
    /// (FLOPs so far, held-out loss), in order.
    pub moments: Vec<(f64, f64)>,
}

/// The result of approach 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// (budget, lowest loss, its N) for budgets where a size in the middle wins.
    pub best: Vec<(f64, f64, f64)>,
    /// Best N of a budget.
    pub parameters: Power,
    /// Interval of its exponent, from curves drawn anew.
    pub exponent: Option<Interval>,
}

/// Fits the line through the winners.
///
/// # Errors
/// Fewer than three sizes, curves that are not in order or hold what is not a number, or no size in the
/// middle that wins anywhere.
pub fn fit(curves: &[Training], resamples: usize, seed: u64) -> Result<Envelope> {
    for curve in curves {
        let ordered = curve.moments.is_sorted_by(|a, b| a.0 < b.0);
        let positive =
            curve.moments.iter().all(|(c, l)| [*c, *l].iter().all(|x| x.is_finite() && *x > 0.0));
        if !(ordered && positive && curve.parameters.is_finite() && curve.parameters > 0.0) {
            let detail = format!(
                "the curve of the run with {:.3e} parameters is not in order of FLOPs or holds what is not a positive number",
                curve.parameters
            );
            return Err(Error::bad("training curves", detail));
        }
    }
    let sizes = super::distinct(curves.iter().map(|c| c.parameters));
    if sizes < 3 {
        return Err(Error::bad(
            "training curves",
            format!("of {sizes} sizes; an envelope needs at least 3"),
        ));
    }
    let best = winners(curves, |_| true);
    let line =
        |best: &[(f64, f64, f64)]| Power::through(best.iter().map(|(c, _, n)| (*c, *n, 1.0)));
    let Some(parameters) = line(&best).filter(|_| super::distinct(best.iter().map(|b| b.2)) >= 2)
    else {
        return Err(Error::bad(
            "training curves",
            "no two sizes in the middle have the lowest loss at some budget; add smaller or larger models",
        ));
    };
    let exponents = resample(curves.len(), resamples, seed, Kind::Drawn, |weights| {
        let best = winners(curves, |i| weights[i] > 0.0);
        line(&best).map_or(f64::NAN, |power| power.exponent)
    });
    let exponents: Vec<f64> = exponents.into_iter().filter(|x| x.is_finite()).collect();
    Ok(Envelope { best, parameters, exponent: Interval::of(exponents) })
}

/// The winner at each budget, where it is neither the smallest nor the largest size that has got so far.
fn winners(curves: &[Training], used: impl Fn(usize) -> bool) -> Vec<(f64, f64, f64)> {
    let all = || {
        curves.iter().enumerate().filter(|(i, c)| used(*i) && !c.moments.is_empty()).map(|(_, c)| c)
    };
    let low = all().map(|c| c.moments[0].0).fold(f64::INFINITY, f64::min);
    let high = all().map(|c| c.moments[c.moments.len() - 1].0).fold(0.0, f64::max);
    let budgets = (0..BUDGETS).map(|i| low * (high / low).powf(i as f64 / (BUDGETS - 1) as f64));
    let mut best = Vec::new();
    for budget in budgets {
        let there: Vec<(f64, f64)> =
            all().filter_map(|c| Some((loss_at(&c.moments, budget)?, c.parameters))).collect();
        let Some(&(loss, n)) = there.iter().min_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
        if there.iter().any(|t| t.1 < n) && there.iter().any(|t| t.1 > n) {
            best.push((budget, loss, n));
        }
    }
    best
}

/// The loss between two moments, straight in logarithms; `None` outside the curve.
fn loss_at(moments: &[(f64, f64)], budget: f64) -> Option<f64> {
    let next = moments.partition_point(|m| m.0 < budget);
    let after = moments.get(next)?;
    if after.0 == budget {
        return Some(after.1);
    }
    let before = moments.get(next.checked_sub(1)?)?;
    let share = (budget / before.0).ln() / (after.0 / before.0).ln();
    Some((before.1.ln() + share * (after.1 / before.1).ln()).exp())
}

#[cfg(test)]
mod tests {
    use super::super::Law;
    use super::*;

    fn curves(law: &Law, sizes: usize) -> Vec<Training> {
        let curve = |n: f64| Training {
            parameters: n,
            moments: (0..60)
                .map(|i| 1e13 * 1.2f64.powi(i))
                .map(|c| (c, law.loss(n, c / (6.0 * n))))
                .collect(),
        };
        (0..sizes as i32).map(|i| curve(2e5 * 1.3f64.powi(i))).collect()
    }

    #[test]
    fn finds_the_exponent_of_a_law_that_is_known() {
        let law = Law::BESIROGLU;
        let found = fit(&curves(&law, 25), 100, 1).unwrap();
        assert!(
            (found.parameters.exponent - law.exponent()).abs() < 0.02,
            "{:?}",
            found.parameters
        );
        assert!((found.parameters.at(1e15) / law.optimum(1e15).0 - 1.0).abs() < 0.1);
        let interval = found.exponent.unwrap();
        assert!(interval.error > 0.0 && interval.error < 0.1, "{interval:?}");
    }

    #[test]
    fn between_moments_the_curve_is_straight_in_logarithms() {
        let moments = [(1.0, 8.0), (4.0, 2.0)];
        assert_eq!(loss_at(&moments, 1.0), Some(8.0));
        assert!((loss_at(&moments, 2.0).unwrap() - 4.0).abs() < 1e-12);
        assert_eq!(loss_at(&moments, 5.0), None);
        assert_eq!(loss_at(&moments, 0.5), None);
    }

    #[test]
    fn curves_that_say_nothing_are_refused() {
        let good = curves(&Law::BESIROGLU, 9);
        let mut backwards = good.clone();
        backwards[2].moments.reverse();
        let mut lost = good.clone();
        lost[1].moments[3].1 = f64::NAN;
        let flat: Vec<Training> = good
            .iter()
            .map(|c| Training {
                parameters: c.parameters,
                moments: vec![
                    (1e13, 9.0 - c.parameters.ln() / 10.0),
                    (1e14, 8.0 - c.parameters.ln() / 10.0),
                ],
            })
            .collect();
        for (curves, expected) in [
            (backwards, "not in order"),
            (lost, "not a positive number"),
            (good[..2].to_vec(), "of 2 sizes"),
            (vec![], "of 0 sizes"),
            (flat, "no two sizes in the middle"),
        ] {
            let error = fit(&curves, 0, 0).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
