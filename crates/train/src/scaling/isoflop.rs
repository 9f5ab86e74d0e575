//! Approach 2: for every budget a parabola of loss over ln N, its lowest point, and a line through these.
//!
//! The key decision: budgets are told apart by the FLOPs themselves, and a budget whose lowest point lies
//! outside its sizes is said to be so and left out, instead of being extrapolated. The parabola is only an
//! approximation and its bias grows with the width and the asymmetry of the sizes (arXiv 2603.22339), so the
//! result is for comparison, not for prediction: it gives N and D, no loss.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, Kind, resample};
use super::least_squares::solve;
use super::{Point, distinct};
use crate::{Error, Result};

/// Budgets that differ by less than this factor are one.
const SAME: f64 = 1.25;

/// A power law of the budget: value = factor x C^exponent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// Value at a budget of one FLOP.
    pub factor: f64,
    /// Slope in logarithms.
    pub exponent: f64,
}

impl Power {
    /// The value for a budget.
    pub fn at(&self, flops: f64) -> f64 {
        self.factor * flops.powf(self.exponent)
    }

    /// The line through (C, value, weight) in logarithms; `None` without two different budgets.
    pub fn through(points: impl Iterator<Item = (f64, f64, f64)>) -> Option<Power> {
        let rows: Vec<_> =
            points.map(|(c, value, weight)| (weight, [1.0, c.ln()], value.ln())).collect();
        let [constant, exponent] = solve(rows.into_iter())?;
        Some(Power { factor: constant.exp(), exponent })
    }
}

/// One budget's parabola.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// FLOPs, the geometric mean of its runs.
    pub budget: f64,
    /// (N, loss) of its runs, by size.
    pub runs: Vec<(f64, f64)>,
    /// loss = c0 + c1 x + c2 x² with x = ln(N / geometric mean of N).
    pub coefficients: [f64; 3],
    /// The N that x is relative to.
    pub centre: f64,
    /// N of the lowest point; `None` if the curve opens downwards or its lowest point is outside the runs.
    pub best: Option<f64>,
}

impl Curve {
    /// The parabola at a size.
    pub fn at(&self, parameters: f64) -> f64 {
        let x = (parameters / self.centre).ln();
        self.coefficients[0] + x * (self.coefficients[1] + x * self.coefficients[2])
    }
}

/// The result of approach 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Isoflop {
    /// A parabola a budget, smallest budget first; the ones left out too.
    pub curves: Vec<Curve>,
    /// Best N of a budget.
    pub parameters: Power,
    /// Interval of its exponent, if resamples were asked for.
    pub exponent: Option<Interval>,
}

/// Fits parabolas and the line through their lowest points.
///
/// # Errors
/// Values that are not positive numbers; fewer than two budgets that have three sizes or more and a lowest
/// point among them.
pub fn fit(points: &[Point], resamples: usize, seed: u64) -> Result<Isoflop> {
    if let Some(p) = points
        .iter()
        .find(|p| ![p.parameters, p.flops, p.loss].iter().all(|x| x.is_finite() && *x > 0.0))
    {
        return Err(Error::bad(
            "isoFLOP points",
            format!("{p:?} has values that are not positive numbers; leave out runs that diverged"),
        ));
    }
    let groups = budgets(points);
    let curves: Vec<Curve> = groups.iter().filter_map(|group| curve(points, group, None)).collect();
    let Some(parameters) = line(&curves) else {
        let usable = curves.iter().filter(|c| c.best.is_some()).count();
        return Err(Error::bad(
            "isoFLOP curves",
            format!(
                "{usable} of {} budgets have three sizes or more with the lowest loss among them; at least 2 are needed: add smaller or larger models at each budget",
                groups.len()
            ),
        ));
    };
    // A budget has few runs whatever their number in all: none may be left out.
    let exponents = resample(points.len(), resamples, seed, Kind::Exponential, |weights| {
        let curves: Vec<Curve> =
            groups.iter().filter_map(|group| curve(points, group, Some(weights))).collect();
        line(&curves).map_or(f64::NAN, |power| power.exponent)
    });
    Ok(Isoflop { curves, parameters, exponent: Interval::of(exponents) })
}

/// Indexes of the points of each budget, smallest first.
fn budgets(points: &[Point]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| points[*a].flops.total_cmp(&points[*b].flops));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match groups.last_mut() {
            Some(group) if points[i].flops < SAME * points[group[0]].flops => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    groups
}

fn curve(points: &[Point], group: &[usize], weights: Option<&[f64]>) -> Option<Curve> {
    let weight = |i: usize| weights.map_or(1.0, |w| w[i]);
    let used: Vec<usize> = group.iter().copied().filter(|i| weight(*i) > 0.0).collect();
    if distinct(used.iter().map(|i| points[*i].parameters)) < 3 {
        return None;
    }
    let mean = |f: fn(&Point) -> f64| {
        (used.iter().map(|i| f(&points[*i]).ln()).sum::<f64>() / used.len() as f64).exp()
    };
    let (budget, centre) = (mean(|p| p.flops), mean(|p| p.parameters));
    let coefficients = solve(used.iter().map(|i| {
        let x = (points[*i].parameters / centre).ln();
        (weight(*i), [1.0, x, x * x], points[*i].loss)
    }))?;
    let mut runs: Vec<(f64, f64)> =
        used.iter().map(|i| (points[*i].parameters, points[*i].loss)).collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let lowest = centre * (-coefficients[1] / (2.0 * coefficients[2])).exp();
    let inside = coefficients[2] > 0.0 && lowest >= runs[0].0 && lowest <= runs[runs.len() - 1].0;
    Some(Curve { budget, runs, coefficients, centre, best: inside.then_some(lowest) })
}

fn line(curves: &[Curve]) -> Option<Power> {
    Power::through(curves.iter().filter_map(|c| Some((c.budget, c.best?, 1.0))))
}

#[cfg(test)]
mod tests {
    use super::super::Law;
    use super::super::tests::{chinchilla, synthetic};
    use super::*;

    #[test]
    fn finds_the_optimum_of_a_law_that_is_known() {
        let law = Law::BESIROGLU;
        let found = fit(&synthetic(&law, 0.0), 100, 1).unwrap();
        assert_eq!(found.curves.len(), 5);
        // The bias of the parabola: a few per cent on a grid this wide.
        assert!(
            (found.parameters.exponent - law.exponent()).abs() < 0.01,
            "{:?}",
            found.parameters
        );
        for curve in &found.curves {
            let best = curve.best.unwrap();
            assert!((best / law.optimum(curve.budget).0 - 1.0).abs() < 0.05, "{best:e}");
            assert!((curve.at(curve.runs[3].0) - curve.runs[3].1).abs() < 0.01);
        }
        assert!(found.exponent.unwrap().error < 0.05);
    }

    #[test]
    fn agrees_with_the_published_exponent_on_the_published_points() {
        let Some(points) = chinchilla() else { return };
        let found = fit(&points, 200, 1).unwrap();
        eprintln!("{:?} {:?}, {} budgets", found.parameters, found.exponent, found.curves.len());
        // Hoffmann et al., table 2: 0.49 (0.462, 0.534) by approach 2.
        assert!((0.462..0.534).contains(&found.parameters.exponent), "{:?}", found.parameters);
        assert!(found.exponent.unwrap().holds(found.parameters.exponent), "{:?}", found.exponent);
    }

    #[test]
    fn budgets_without_a_lowest_point_are_refused() {
        let mut points = synthetic(&Law::BESIROGLU, 0.0);
        points.iter_mut().for_each(|p| p.loss = 10.0 - p.parameters.ln() * 0.1);
        let error = fit(&points, 0, 0).unwrap_err().to_string();
        assert!(error.contains("0 of 5 budgets"), "{error}");
        points[0].loss = f64::NAN;
        assert!(fit(&points, 0, 0).unwrap_err().to_string().contains("not positive"));
        assert!(fit(&[], 0, 0).is_err());
        let same: Vec<Point> =
            (0..20).map(|i| Point::new(1e6, 1e7 * f64::from(i + 1), 3.0)).collect();
        assert!(fit(&same, 0, 0).is_err());
    }
}
