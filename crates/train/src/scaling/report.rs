//! All approaches side by side, with intervals, and what was predicted beside what came.
//!
//! The key decision: no approach is chosen for the reader. Each has its row with the exponent of N ∝ C^a and
//! the optimum at one budget; where an approach cannot be fitted its row says why. The convention of counting
//! parameters heads the table, and the same points are fitted under the others too, since the answer changes.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::bootstrap::{self, Interval, Kind};
use super::envelope::{self, Envelope, Training};
use super::isoflop::{self, Isoflop};
use super::runner::{Prediction, Record};
use super::{Law, Point, check, parametric, projection};
use crate::Result;
use crate::plan::sizes::Convention;

/// How to fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What counts as a parameter.
    pub convention: Convention,
    /// Resamples for the intervals.
    pub resamples: usize,
    /// Seed of the resamples.
    pub seed: u64,
    /// Budget whose optimum is shown; the largest fitted one if none is given.
    pub budget: Option<f64>,
}

impl Default for Options {
    fn default() -> Options {
        Options { convention: Convention::All, resamples: 1000, seed: 0, budget: None }
    }
}

/// A fitted law with its intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// The law.
    pub law: Law,
    /// Intervals of E, A, B, alpha, beta in this order.
    pub intervals: [Interval; 5],
    /// Interval of the exponent a.
    pub exponent: Interval,
    /// Interval of the best N at the report's budget.
    pub best: Interval,
    /// Root mean square of the relative errors of the fitted losses.
    pub residual: f64,
    /// The laws of all resamples, for intervals of anything else.
    #[serde(skip)]
    pub resamples: Vec<Law>,
}

/// An approach's result, or why there is none.
pub type Row<T> = std::result::Result<T, String>;

/// Everything that was fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What counts as a parameter.
    pub convention: Convention,
    /// Fitted runs.
    pub points: Vec<Point>,
    /// How intervals were made, and of how many resamples.
    pub resampling: String,
    /// Budget of the optima.
    pub budget: f64,
    /// Approach 1.
    pub envelope: Row<Envelope>,
    /// Approach 2.
    pub isoflop: Row<Isoflop>,
    /// Approach 3.
    pub parametric: Row<Fitted>,
    /// Approach 3 by variable projection.
    pub projection: Row<Fitted>,
    /// Residual and exponent of approach 3 under each convention, where runs have shapes.
    pub conventions: Vec<(Convention, f64, f64)>,
    /// Runs that were predicted.
    pub tested: Vec<Tested>,
}

/// A prediction and what came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// The prediction as its file has it.
    pub prediction: Prediction,
    /// SHA-256 of that file.
    pub sha256: String,
    /// The loss that the run reached, once it has.
    pub actual: Option<f64>,
}

impl Tested {
    /// (predicted - actual) / actual.
    pub fn error(&self) -> Option<f64> {
        self.actual.map(|actual| self.prediction.loss / actual - 1.0)
    }
}

/// Fits the records of a ladder; those held back are tested, not fitted.
///
/// # Errors
/// Points that carry no fit at all ([`check`]).
pub fn of_records(
    records: &[Record],
    predictions: Vec<(Prediction, String)>,
    options: &Options,
) -> Result<Report> {
    let fitted: Vec<&Record> = records.iter().filter(|r| !r.run.held_back).collect();
    let under = |convention| -> Vec<Point> { fitted.iter().map(|r| r.point(convention)).collect() };
    let curves: Vec<Training> =
        fitted.iter().filter_map(|r| r.training(options.convention)).collect();
    let mut report = of_points(&under(options.convention), &curves, options)?;
    for convention in [Convention::All, Convention::WithHead, Convention::WithoutEmbeddings] {
        let points = under(convention);
        if let Ok(law) = parametric::fit(&points) {
            report.conventions.push((convention, residual(&points, &law), law.exponent()));
        }
    }
    report.tested = predictions
        .into_iter()
        .map(|(prediction, sha256)| {
            let actual =
                records.iter().find(|r| r.run.name == prediction.run.name).map(|r| r.outcome.loss);
            Tested { prediction, sha256, actual }
        })
        .collect();
    Ok(report)
}

/// Fits points, and training curves if there are any.
///
/// # Errors
/// Points that carry no fit at all ([`check`]).
pub fn of_points(points: &[Point], curves: &[Training], options: &Options) -> Result<Report> {
    check(points)?;
    let budget =
        options.budget.unwrap_or_else(|| points.iter().map(|p| p.flops).fold(0.0, f64::max));
    let fitted = |law: Result<Law>, refit| {
        law.map(|law| with_intervals(points, law, refit, budget, options))
            .map_err(|e| e.to_string())
    };
    Ok(Report {
        convention: options.convention,
        points: points.to_vec(),
        resampling: format!(
            "{}, {} resamples, seed {}, 95 %",
            Kind::of(points.len()),
            options.resamples,
            options.seed
        ),
        budget,
        envelope: envelope::fit(curves, options.resamples, options.seed).map_err(|e| e.to_string()),
        isoflop: isoflop::fit(points, options.resamples, options.seed).map_err(|e| e.to_string()),
        parametric: fitted(parametric::fit(points), parametric::refit),
        projection: fitted(projection::fit(points), projection::refit),
        conventions: Vec::new(),
        tested: Vec::new(),
    })
}

fn with_intervals(
    points: &[Point],
    law: Law,
    refit: fn(&[Point], &[f64], &Law) -> Law,
    budget: f64,
    options: &Options,
) -> Fitted {
    let resamples = bootstrap::laws(points, &law, options.resamples.max(1), options.seed, refit);
    let interval = |f: &dyn Fn(&Law) -> f64| {
        Interval::of(resamples.iter().map(f)).expect("at least one resample")
    };
    let intervals = [
        interval(&|l| l.e),
        interval(&|l| l.a),
        interval(&|l| l.b),
        interval(&|l| l.alpha),
        interval(&|l| l.beta),
    ];
    let (exponent, best) = (interval(&Law::exponent), interval(&|l| l.optimum(budget).0));
    Fitted { law, intervals, exponent, best, residual: residual(points, &law), resamples }
}

fn residual(points: &[Point], law: &Law) -> f64 {
    let squares = points.iter().map(|p| (law.loss(p.parameters, p.tokens) / p.loss - 1.0).powi(2));
    (squares.sum::<f64>() / points.len() as f64).sqrt()
}

impl Report {
    /// The report as text.
    pub fn table(&self) -> String {
        let range = |f: fn(&Point) -> f64| {
            let all = || self.points.iter().map(f);
            (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max))
        };
        let ((n0, n1), (d0, d1), (c0, c1)) =
            (range(|p| p.parameters), range(|p| p.tokens), range(|p| p.flops));
        let mut text = format!(
            "N counts: {}.\n{} runs: N {n0:.2e} to {n1:.2e}, D {d0:.2e} to {d1:.2e}, C {c0:.2e} to {c1:.2e} FLOPs.\nIntervals: {}.\n\n",
            self.convention,
            self.points.len(),
            self.resampling
        );
        self.optima_text(&mut text);
        self.laws_text(&mut text);
        self.conventions_text(&mut text);
        self.tested_text(&mut text);
        text
    }

    /// Approach 3 with and without projection: name and result.
    fn laws(&self) -> [(&'static str, &Row<Fitted>); 2] {
        [
            ("3 parametric, Huber", &self.parametric),
            ("3 variable projection, squares", &self.projection),
        ]
    }

    /// A line an approach: exponent and best size.
    fn optima_text(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "{:<34} {:>22} {:>32}",
            "",
            "a in N ∝ C^a",
            format!("best N at {:.2e} FLOPs", self.budget)
        );
        let power = |name: &str, row: Row<(f64, Option<Interval>, f64)>| match row {
            Ok((exponent, interval, best)) => {
                let interval =
                    interval.map_or(String::new(), |i| format!(" ({:.3}, {:.3})", i.low, i.high));
                format!("{name:<34} {:>22} {best:>32.3e}\n", format!("{exponent:.3}{interval}"))
            }
            Err(why) => format!("{name:<34} none: {why}\n"),
        };
        *text += &power(
            "1 envelope of training curves",
            self.envelope
                .as_ref()
                .map(|e| (e.parameters.exponent, e.exponent, e.parameters.at(self.budget)))
                .map_err(String::clone),
        );
        *text += &power(
            "2 isoFLOP parabolas",
            self.isoflop
                .as_ref()
                .map(|e| (e.parameters.exponent, e.exponent, e.parameters.at(self.budget)))
                .map_err(String::clone),
        );
        for (name, row) in self.laws() {
            match row {
                Ok(f) => {
                    let a = format!(
                        "{:.3} ({:.3}, {:.3})",
                        f.law.exponent(),
                        f.exponent.low,
                        f.exponent.high
                    );
                    let best = format!(
                        "{:.3e} ({:.2e}, {:.2e})",
                        f.law.optimum(self.budget).0,
                        f.best.low,
                        f.best.high
                    );
                    let _ = writeln!(text, "{name:<34} {a:>22} {best:>32}");
                }
                Err(why) => {
                    let _ = writeln!(text, "{name:<34} none: {why}");
                }
            }
        }
    }

    /// The numbers of each law with their intervals.
    fn laws_text(&self, text: &mut String) {
        *text += "\nL = E + A / N^alpha + B / D^beta, nats a token\n";
        for (name, row) in self.laws() {
            let Ok(f) = row else { continue };
            let _ = writeln!(
                text,
                "{name}: relative error {:.3} % (root mean square)",
                100.0 * f.residual
            );
            let values = [
                ("E", f.law.e),
                ("A", f.law.a),
                ("B", f.law.b),
                ("alpha", f.law.alpha),
                ("beta", f.law.beta),
            ];
            for ((name, value), interval) in values.iter().zip(&f.intervals) {
                let _ = writeln!(
                    text,
                    "  {name:<6} {:>11}  ({}, {})  error {}",
                    number(*value),
                    number(interval.low),
                    number(interval.high),
                    number(interval.error)
                );
            }
        }
    }

    fn conventions_text(&self, text: &mut String) {
        if self.conventions.is_empty() {
            return;
        }
        *text += "\nThe same runs under each way of counting parameters (approach 3)\n";
        for (convention, residual, exponent) in &self.conventions {
            let _ = writeln!(
                text,
                "  {:<32} a {exponent:.3}, relative error {:.3} %",
                convention.to_string(),
                100.0 * residual
            );
        }
    }

    fn tested_text(&self, text: &mut String) {
        for t in &self.tested {
            let p = &t.prediction;
            let _ = write!(
                text,
                "\nHeld back: {} at {:.2} x the largest fitted budget\n  predicted {:.4} ({:.4}, {:.4}) from {} runs, before it started (file's SHA-256 {})\n",
                p.run.name, p.factor, p.loss, p.interval.low, p.interval.high, p.fitted, t.sha256
            );
            let _ = match (t.actual, t.error()) {
                (Some(actual), Some(error)) => writeln!(
                    text,
                    "  actual    {actual:.4}: the prediction is off by {:+.2} %, {} the interval",
                    100.0 * error,
                    if p.interval.holds(actual) { "inside" } else { "outside" }
                ),
                _ => writeln!(text, "  not run yet"),
            };
        }
    }
}

/// Four digits, as an exponent where it is very large.
fn number(x: f64) -> String {
    if x.abs() >= 1e5 {
        format!("{x:.3e}")
    } else if x.abs() >= 100.0 {
        format!("{x:.2}")
    } else {
        format!("{x:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::ladder::{Ladder, Request};
    use super::super::runner::{self, Outcome};
    use super::super::tests::chinchilla;
    use super::*;

    /// A ladder over a made-up truth, run to its end.
    pub(crate) fn finished(folder: &std::path::Path) -> (Vec<Record>, Vec<(Prediction, String)>) {
        let law = Law { e: 1.2, a: 80.0, b: 900.0, alpha: 0.3, beta: 0.4 };
        // Sizes around the optimum of this law, which is at more tokens than real small models have theirs.
        let request = Request { total: 3e15, tokens_per_parameter: 25.0, ..Request::default() };
        let ladder = Ladder::plan(&request).unwrap();
        let mut random = bootstrap::Random::new(3);
        let records = runner::run(&ladder, folder, Convention::All, &mut |run, _| {
            let n = run.parameters(Convention::All);
            let noise = 1.0 + 0.001 * random.normal();
            let curve = (1..=40)
                .map(|i| run.settings.tokens * i / 40)
                .map(|t| (t, law.loss(n, t as f64)))
                .collect();
            Ok(Outcome {
                loss: noise * law.loss(n, run.settings.tokens as f64),
                tokens: run.settings.tokens,
                seconds: 1.0,
                curve,
                more: serde_json::Value::Null,
            })
        })
        .unwrap();
        let held = &records.last().unwrap().run;
        let prediction = runner::predicted(held, folder, Convention::All, &records).unwrap();
        (records, vec![prediction])
    }

    #[test]
    fn a_ladder_is_reported_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (records, predictions) = finished(folder.path());
        let report =
            of_records(&records, predictions, &Options { resamples: 100, ..Options::default() })
                .unwrap();
        assert_eq!(
            (report.points.len(), report.conventions.len(), report.tested.len()),
            (16, 3, 1)
        );
        assert!(report.tested[0].error().unwrap().abs() < 0.02);
        let text = report.table();
        for part in [
            "N counts: all parameters",
            "1 envelope",
            "2 isoFLOP",
            "3 parametric",
            "3 variable projection",
            "without embeddings and head",
            "predicted",
            "actual",
            "Bayesian bootstrap",
            "100 resamples",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("none:"), "{text}");
        let json = serde_json::to_string(&report).unwrap();
        let back: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(back.points.len(), 16);
        eprintln!("{text}");
    }

    #[test]
    fn an_approach_that_cannot_be_fitted_says_why() {
        let points = super::super::tests::synthetic(&Law::BESIROGLU, 0.001);
        let report =
            of_points(&points, &[], &Options { resamples: 10, ..Options::default() }).unwrap();
        assert!(report.table().contains("none: training curves: of 0 sizes"), "{}", report.table());
        assert!(of_points(&points[..3], &[], &Options::default()).is_err());
    }

    #[test]
    fn the_published_points_are_reported() {
        let Some(points) = chinchilla() else { return };
        let report = of_points(
            &points,
            &[],
            &Options { resamples: 100, budget: Some(5.76e23), ..Options::default() },
        )
        .unwrap();
        let fitted = report.parametric.as_ref().unwrap();
        assert!(fitted.best.holds(7.2e10), "{:?}", fitted.best);
        eprintln!("{}", report.table());
    }
}
