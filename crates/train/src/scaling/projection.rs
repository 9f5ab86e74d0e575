//! Approach 3 by variable projection (arXiv 2603.22339).
//!
//! The key decision: for fixed exponents the law is linear in E, A and B, so these three are solved exactly and
//! without negative values, and only the two exponents are searched: a dense grid, then L-BFGS, whose gradient
//! needs no derivative of the three (they are optimal). It cannot stop early or fall into a local minimum that
//! the grid would not show. Squares of relative errors, so unlike [`super::parametric`] an outlier counts fully:
//! where the two differ, some run is an outlier.

use super::lbfgs::minimise;
use super::least_squares::solve;
use super::{Law, Point, check};
use crate::Result;

/// Fits the law.
///
/// # Errors
/// Points that carry no fit ([`check`]).
pub fn fit(points: &[Point]) -> Result<Law> {
    check(points)?;
    let problem = Problem::new(points, None);
    // 40 x 40 exponents from 0.02 to 3, evenly in their logarithms.
    let exponent = |i: usize| 0.02f64.ln() + (3.0f64 / 0.02).ln() * i as f64 / 39.0;
    let mut starts: Vec<(f64, [f64; 2])> = (0..1600)
        .map(|i| [exponent(i / 40), exponent(i % 40)])
        .map(|at| (problem.objective(&at).0, at))
        .collect();
    starts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ends = starts[..4].iter().map(|(_, at)| minimise(*at, 200, |x| problem.objective(x)));
    let best = ends.min_by(|a, b| a.value.total_cmp(&b.value)).expect("four searches");
    Ok(problem.law(&best.at))
}

/// Fits once more from a law that is near, with a weight for each point: for bootstrap.
pub fn refit(points: &[Point], weights: &[f64], near: &Law) -> Law {
    let problem = Problem::new(points, Some(weights));
    let start = [near.alpha.max(1e-6).ln(), near.beta.max(1e-6).ln()];
    problem.law(&minimise(start, 100, |x| problem.objective(x)).at)
}

/// Unknowns: ln alpha, ln beta. Sizes and tokens are divided by their geometric means.
struct Problem {
    /// (ln N - mean, ln D - mean, 1 / L, weight).
    rows: Vec<(f64, f64, f64, f64)>,
    centre: (f64, f64),
}

impl Problem {
    fn new(points: &[Point], weights: Option<&[f64]>) -> Problem {
        let mean = |f: fn(&Point) -> f64| {
            points.iter().map(|p| f(p).ln()).sum::<f64>() / points.len() as f64
        };
        let centre = (mean(|p| p.parameters), mean(|p| p.tokens));
        let rows = points.iter().enumerate().map(|(i, p)| {
            let weight = weights.map_or(1.0, |w| w[i]);
            (p.parameters.ln() - centre.0, p.tokens.ln() - centre.1, p.loss.recip(), weight)
        });
        Problem { rows: rows.collect(), centre }
    }

    /// Sum of squared relative errors and its gradient, with the best E, A, B for these exponents.
    fn objective(&self, at: &[f64; 2]) -> (f64, [f64; 2]) {
        let (alpha, beta) = (at[0].exp(), at[1].exp());
        let Some([e, a, b]) = self.linear(alpha, beta) else { return (f64::INFINITY, [0.0; 2]) };
        let (mut value, mut gradient) = (0.0, [0.0; 2]);
        for &(n, d, inverse, weight) in &self.rows {
            let (size, data) = (a * (-alpha * n).exp() * inverse, b * (-beta * d).exp() * inverse);
            let residual = 1.0 - (e * inverse + size + data);
            value += weight * residual * residual;
            gradient[0] += 2.0 * weight * residual * size * n * alpha;
            gradient[1] += 2.0 * weight * residual * data * d * beta;
        }
        (value, gradient)
    }

    /// E, A, B of the least squares without negative values: of all ways to leave terms out, the best that has none.
    fn linear(&self, alpha: f64, beta: f64) -> Option<[f64; 3]> {
        let columns = |&(n, d, inverse, weight): &(f64, f64, f64, f64)| {
            (weight, [inverse, (-alpha * n).exp() * inverse, (-beta * d).exp() * inverse])
        };
        let full = solve(self.rows.iter().map(&columns).map(|(weight, c)| (weight, c, 1.0)));
        if let Some(x) = full
            && x.iter().all(|x| *x >= 0.0)
        {
            return full;
        }
        let pairs = [[0, 1], [0, 2], [1, 2]].map(|[i, j]| {
            let x = solve(
                self.rows.iter().map(&columns).map(|(weight, c)| (weight, [c[i], c[j]], 1.0)),
            )?;
            let mut all = [0.0; 3];
            (all[i], all[j]) = (x[0], x[1]);
            Some(all)
        });
        let singles = [0, 1, 2].map(|i| {
            let x = solve(self.rows.iter().map(&columns).map(|(weight, c)| (weight, [c[i]], 1.0)))?;
            let mut all = [0.0; 3];
            all[i] = x[0];
            Some(all)
        });
        let error = |x: &[f64; 3]| {
            self.rows
                .iter()
                .map(&columns)
                .map(|(weight, c)| weight * (1.0 - c[0] * x[0] - c[1] * x[1] - c[2] * x[2]).powi(2))
                .sum::<f64>()
        };
        pairs
            .into_iter()
            .chain(singles)
            .flatten()
            .filter(|x| x.iter().all(|x| *x >= 0.0))
            .min_by(|a, b| error(a).total_cmp(&error(b)))
    }

    fn law(&self, at: &[f64; 2]) -> Law {
        let (alpha, beta) = (at[0].exp(), at[1].exp());
        let [e, a, b] = self.linear(alpha, beta).unwrap_or([f64::NAN; 3]);
        Law {
            e,
            a: a * (alpha * self.centre.0).exp(),
            b: b * (beta * self.centre.1).exp(),
            alpha,
            beta,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::synthetic;
    use super::*;

    #[test]
    fn recovers_a_law_that_is_known() {
        for law in [
            Law::BESIROGLU,
            Law::HOFFMANN_PRINTED,
            Law { e: 0.5, a: 20.0, b: 5000.0, alpha: 0.2, beta: 0.6 },
        ] {
            let found = fit(&synthetic(&law, 0.0)).unwrap();
            for (name, a, b) in [
                ("E", found.e, law.e),
                ("A", found.a, law.a),
                ("B", found.b, law.b),
                ("alpha", found.alpha, law.alpha),
                ("beta", found.beta, law.beta),
            ] {
                assert!((a / b - 1.0).abs() < 1e-3, "{name}: {a} for {b}");
            }
        }
    }

    #[test]
    fn no_term_is_negative() {
        // A law whose floor would have to be negative: losses fall below any power law with a positive one.
        let mut points = synthetic(&Law::BESIROGLU, 0.0);
        points
            .iter_mut()
            .for_each(|p| p.loss = 1e3 * p.parameters.powf(-0.2) * p.tokens.powf(-0.2));
        let found = fit(&points).unwrap();
        assert!(found.e >= 0.0 && found.a >= 0.0 && found.b >= 0.0, "{found:?}");
    }
}
