//! How large a model for a budget: the published answers side by side, with ours.
//!
//! The key decision: no answer without its convention, its interval where one was published, and the largest
//! budget that it was measured at; a budget further than a stated factor from what was measured gets no
//! answer unless it is forced, and then with a warning. The same law also says what is best when the model will
//! be used: a smaller one, trained longer (arXiv 2401.00448).

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::sizes::Convention;
use crate::scaling::report::Report;
use crate::scaling::{Law, bootstrap::Interval};
use crate::{Error, Result};

/// How far beyond what was measured a law is asked, unless set.
pub const FACTOR: f64 = 100.0;

/// A way to the optimum.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Law(Law),
    /// N = factor x (C / unit)^exponent.
    Power {
        factor: f64,
        unit: f64,
        exponent: f64,
    },
}

/// A published law.
struct Source {
    name: &'static str,
    form: Form,
    convention: Convention,
    /// Budgets that it was measured at, FLOPs.
    measured: (f64, f64),
    /// Interval of a, as published.
    exponent: Option<(f64, f64)>,
    why: &'static str,
}

/// FLOPs, least and most, of the points that were recovered from Hoffmann's figure 4: what [`Law::BESIROGLU`] was fitted to.
pub const HOFFMANN: (f64, f64) = (1.4e18, 1.3e22);

fn published() -> Vec<Source> {
    let hoffmann = HOFFMANN;
    vec![
        Source {
            name: "Hoffmann, printed",
            form: Form::Law(Law::HOFFMANN_PRINTED),
            convention: Convention::All,
            measured: hoffmann,
            exponent: Some((0.454, 0.455)),
            why: "arXiv 2203.15556, approach 3 as printed: exponents rounded to two digits, which moves the optimum far; its interval would need 600,000 runs (arXiv 2404.10102)",
        },
        Source {
            name: "Hoffmann, TeX source",
            form: Form::Law(Law::HOFFMANN_TEX),
            convention: Convention::All,
            measured: hoffmann,
            exponent: Some((0.454, 0.455)),
            why: "the same with four digits; the search had stopped before it converged (averaged Huber loss), so it still disagrees with approaches 1 and 2 of its own paper",
        },
        Source {
            name: "Besiroglu",
            form: Form::Law(Law::BESIROGLU),
            convention: Convention::All,
            measured: hoffmann,
            exponent: Some((0.513 - 1.96 * 0.02, 0.513 + 1.96 * 0.02)),
            why: "arXiv 2404.10102: the same points fitted to convergence; agrees with approaches 1 and 2 and with the 20 tokens a parameter of Chinchilla itself",
        },
        Source {
            name: "20 tokens a parameter",
            form: Form::Power { factor: (1.0f64 / 120.0).sqrt(), unit: 1.0, exponent: 0.5 },
            convention: Convention::All,
            measured: (1.4e18, 5.76e23),
            exponent: None,
            why: "the rule of thumb that Chinchilla left; right near 1e23 FLOPs for its data, too few tokens for small models",
        },
        Source {
            name: "Kaplan",
            form: Form::Power { factor: 1.3e9, unit: 8.64e19, exponent: 0.73 },
            convention: Convention::WithoutEmbeddings,
            measured: (1e17, 1e21),
            exponent: None,
            why: "arXiv 2001.08361, N = 1.3e9 (C / PF-day)^0.73: counts without embeddings, small models, one learning-rate schedule for all lengths; these explain most of the difference (arXiv 2406.12907)",
        },
    ]
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Whose.
    pub name: String,
    /// What its N counts.
    pub convention: Convention,
    /// a of N ∝ C^a.
    pub exponent: f64,
    /// 95 % of a, where known.
    pub exponent_interval: Option<(f64, f64)>,
    /// N, or why there is none.
    pub parameters: std::result::Result<f64, String>,
    /// 95 % of N, for our own ladder.
    pub parameters_interval: Option<Interval>,
    /// D = C / 6N.
    pub tokens: f64,
    /// Expected loss, where the law has one. Losses of different laws are of different text and tokenizers.
    pub loss: Option<f64>,
    /// The budget over the largest that was measured (over the smallest, if it is below).
    pub reach: f64,
    /// Why it says what it says.
    pub why: String,
}

/// The answers for a budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optima {
    /// FLOPs.
    pub flops: f64,
    /// The limit of extrapolation.
    pub factor: f64,
    /// The answers.
    pub rows: Vec<Row>,
    /// What was forced.
    pub warnings: Vec<String>,
}

/// The compute-optimal size under every convention.
///
/// `factor` (100 is usual) bounds how far a law is asked beyond what it was measured at; `force` asks anyway.
///
/// # Errors
/// A budget that is not a positive number, or one that no law reaches.
pub fn at(flops: f64, ladder: Option<&Report>, factor: f64, force: bool) -> Result<Optima> {
    if !(flops.is_finite() && flops > 0.0) {
        return Err(Error::bad("budget", format!("{flops} FLOPs; a positive number is needed")));
    }
    if !(factor.is_finite() && factor >= 1.0) {
        return Err(Error::bad(
            "extrapolation factor",
            format!("{factor}; 1 or more is needed ({FACTOR} is usual)"),
        ));
    }
    let mut rows: Vec<Row> = published().into_iter().map(|source| row(source, flops)).collect();
    rows.extend(ladder.and_then(|report| ours(report, flops)));
    let mut warnings = Vec::new();
    for row in &mut rows {
        let Some(beyond) = beyond(flops, row.reach, factor) else { continue };
        if force {
            warnings.push(format!("{}: {beyond}: forced", row.name));
        } else {
            (row.parameters, row.loss, row.parameters_interval) = (Err(beyond), None, None);
        }
    }
    if rows.iter().all(|row| row.parameters.is_err()) {
        let nearest = rows
            .iter()
            .min_by(|a, b| a.reach.ln().abs().total_cmp(&b.reach.ln().abs()))
            .expect("published rows");
        let why = nearest.parameters.as_ref().err().cloned().unwrap_or_default();
        return Err(Error::bad(
            "budget",
            format!(
                "no law reaches it; {} is nearest: {why}. Measure a ladder near it, or force the extrapolation",
                nearest.name
            ),
        ));
    }
    Ok(Optima { flops, factor, rows, warnings })
}

fn row(source: Source, flops: f64) -> Row {
    let (exponent, parameters, loss) = match source.form {
        Form::Law(law) => {
            let (n, d) = law.optimum(flops);
            (law.exponent(), n, Some(law.loss(n, d)))
        }
        Form::Power { factor, unit, exponent } => {
            (exponent, factor * (flops / unit).powf(exponent), None)
        }
    };
    let Source { name, convention, exponent: interval, why, measured, .. } = source;
    Row {
        name: name.into(),
        convention,
        exponent,
        exponent_interval: interval,
        parameters: Ok(parameters),
        parameters_interval: None,
        tokens: flops / (6.0 * parameters),
        loss,
        reach: reach(flops, measured),
        why: why.into(),
    }
}

/// Why a law that was measured at budgets from `measured.0` to `measured.1` is not asked for `flops`, if it is not.
pub fn refused(flops: f64, measured: (f64, f64), factor: f64) -> Option<String> {
    beyond(flops, reach(flops, measured), factor)
}

fn beyond(flops: f64, reach: f64, factor: f64) -> Option<String> {
    let (times, side) = if reach > 1.0 { (reach, "largest") } else { (1.0 / reach, "smallest") };
    (times > factor).then(|| {
        format!("{flops:.2e} FLOPs are {times:.3e} times beyond the {side} budget that was measured; the limit is {factor} times")
    })
}

/// Over the largest if above it, over the smallest if below, else one.
fn reach(flops: f64, measured: (f64, f64)) -> f64 {
    if flops > measured.1 { flops / measured.1 } else { (flops / measured.0).min(1.0) }
}

/// FLOPs of a ladder's runs, least and most.
pub fn measured(report: &Report) -> (f64, f64) {
    let budgets = || report.points.iter().map(|p| p.flops);
    (budgets().fold(f64::INFINITY, f64::min), budgets().fold(0.0, f64::max))
}

fn ours(report: &Report, flops: f64) -> Option<Row> {
    let fitted = report.parametric.as_ref().or(report.projection.as_ref()).ok()?;
    let (n, d) = fitted.law.optimum(flops);
    let measured = measured(report);
    Some(Row {
        name: "this ladder".into(),
        convention: report.convention,
        exponent: fitted.law.exponent(),
        exponent_interval: Some((fitted.exponent.low, fitted.exponent.high)),
        parameters: Ok(n),
        parameters_interval: Interval::of(fitted.resamples.iter().map(|law| law.optimum(flops).0)),
        tokens: d,
        loss: Some(fitted.law.loss(n, d)),
        reach: reach(flops, measured),
        why: format!(
            "{} runs of our own, {:.2e} to {:.2e} FLOPs: this text, tokenizer, optimizer and schedule",
            report.points.len(),
            measured.0,
            measured.1
        ),
    })
}

impl Optima {
    /// The answers as text, and what makes them differ.
    pub fn table(&self) -> String {
        let mut text = format!(
            "Compute-optimal size for {:.3e} FLOPs (C = 6 N D), asked at most {} x beyond what was measured\n",
            self.flops, self.factor
        );
        let _ = writeln!(
            text,
            "{:<22} {:>10} {:>10} {:>8} {:>7} {:>22}  N counts",
            "", "N", "D", "D/N", "loss", "a in N ∝ C^a"
        );
        for row in &self.rows {
            match &row.parameters {
                Ok(n) => {
                    let interval = row
                        .exponent_interval
                        .map_or(String::new(), |(low, high)| format!(" ({low:.3}, {high:.3})"));
                    let loss = row.loss.map_or("-".into(), |loss| format!("{loss:.3}"));
                    let _ = writeln!(
                        text,
                        "{:<22} {n:>10.2e} {:>10.2e} {:>8.1} {loss:>7} {:>22}  {}",
                        row.name,
                        row.tokens,
                        row.tokens / n,
                        format!("{:.3}{interval}", row.exponent),
                        row.convention
                    );
                    if let Some(i) = row.parameters_interval {
                        let _ = writeln!(
                            text,
                            "{:<22} {:.2e} to {:.2e} parameters (95 %)",
                            "", i.low, i.high
                        );
                    }
                }
                Err(why) => {
                    let _ = writeln!(text, "{:<22} refused: {why}", row.name);
                }
            }
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "WARNING {warning}");
        }
        self.why_text(&mut text);
        text
    }

    fn why_text(&self, text: &mut String) {
        *text += "why they differ\n";
        for row in &self.rows {
            let _ = writeln!(text, "  - {}: {}", row.name, row.why);
        }
        let sizes = || {
            self.rows
                .iter()
                .filter_map(|row| Some((row.name.as_str(), *row.parameters.as_ref().ok()?)))
        };
        let (low, high) = (
            sizes().min_by(|a, b| a.1.total_cmp(&b.1)),
            sizes().max_by(|a, b| a.1.total_cmp(&b.1)),
        );
        if let (Some(low), Some(high)) = (low, high) {
            let _ = writeln!(
                text,
                "  - from {} to {} the size differs by a factor of {:.1}; loss is flat near the optimum, so a factor of 2 costs little",
                low.0,
                high.0,
                high.1 / low.1
            );
        }
    }
}

/// The best model when it will also be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Loss that both reach.
    pub loss: f64,
    /// N and D of the optimum of training alone.
    pub plain: (f64, f64),
    /// N and D with use counted.
    pub best: (f64, f64),
    /// FLOPs of training and use, in training FLOPs, of `plain`.
    pub plain_flops: f64,
    /// The same of `best`.
    pub best_flops: f64,
    /// Tokens that it will serve.
    pub served: f64,
    /// Cost of a FLOP of use in FLOPs of training: utilisation in training over that in use.
    pub weight: f64,
}

/// Of all models that are as good as the compute-optimal one for `flops`, the one that is cheapest to train
/// (6 N D) and to use (2 N a token) together. `weight` is what a FLOP of use costs in FLOPs of training:
/// 2 when use reaches half the utilisation.
///
/// # Errors
/// Values that are not positive numbers.
pub fn served(law: &Law, flops: f64, served: f64, weight: f64) -> Result<Served> {
    for (name, value, least) in [
        ("budget", flops, 1.0),
        ("served tokens", served, 0.0),
        ("cost of a served FLOP", weight, 0.0),
    ] {
        if !(value.is_finite() && value >= least) {
            return Err(Error::bad(
                name,
                format!("{value}; a number of at least {least} is needed"),
            ));
        }
    }
    let plain = law.optimum(flops);
    let loss = law.loss(plain.0, plain.1);
    let total = |n: f64| {
        law.tokens_for(n, loss).map_or(f64::INFINITY, |d| 6.0 * n * d + 2.0 * n * served * weight)
    };
    // The cost has one minimum in ln N, at or below the plain optimum: golden section.
    let (mut low, mut high) = ((plain.0 * 1e-4).ln(), plain.0.ln());
    let golden = 0.5 * (5f64.sqrt() - 1.0);
    for _ in 0..100 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        // Where the loss is out of reach both are infinite: go up.
        if total(a.exp()) < total(b.exp()) { high = b } else { low = a }
    }
    let n = (0.5 * (low + high)).exp();
    let d = law.tokens_for(n, loss).unwrap_or(plain.1);
    Ok(Served {
        loss,
        plain,
        best: (n, d),
        plain_flops: total(plain.0),
        best_flops: total(n),
        served,
        weight,
    })
}

impl Served {
    /// The answer as text.
    pub fn table(&self) -> String {
        format!(
            "With {:.2e} tokens served (a FLOP of use costs {} of training), at the same loss {:.4}\n  optimum of training alone  N {:.2e}  D {:.2e}  D/N {:>7.1}  {:.3e} FLOPs in all\n  optimum with use           N {:.2e}  D {:.2e}  D/N {:>7.1}  {:.3e} FLOPs in all, {:.1} % less\n",
            self.served,
            self.weight,
            self.loss,
            self.plain.0,
            self.plain.1,
            self.plain.1 / self.plain.0,
            self.plain_flops,
            self.best.0,
            self.best.1,
            self.best.1 / self.best.0,
            self.best_flops,
            100.0 * (1.0 - self.best_flops / self.plain_flops)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::report::{Options, of_points};
    use crate::scaling::tests::synthetic;

    #[test]
    fn published_answers_for_chinchillas_budget() {
        let optima = at(5.76e23, None, FACTOR, false).unwrap();
        let ratio = |name: &str| {
            let row = optima.rows.iter().find(|row| row.name.contains(name)).unwrap();
            row.tokens / row.parameters.as_ref().unwrap()
        };
        assert!((ratio("printed") / 92.6 - 1.0).abs() < 0.01);
        assert!((ratio("TeX") / 59.1 - 1.0).abs() < 0.01);
        assert!((ratio("Besiroglu") / 18.3 - 1.0).abs() < 0.01);
        assert!((ratio("20 tokens") / 20.0 - 1.0).abs() < 1e-9);
        // Kaplan's line is 576 times beyond its measurements.
        let kaplan = &optima.rows[4];
        assert!(
            kaplan.parameters.as_ref().unwrap_err().contains("the limit is 100 times"),
            "{kaplan:?}"
        );
        let table = optima.table();
        for part in
            ["Hoffmann, printed", "refused", "why they differ", "N counts", "(0.474, 0.552)"]
        {
            assert!(table.contains(part), "{part} in\n{table}");
        }
        eprintln!("{table}");
    }

    #[test]
    fn far_budgets_are_refused_unless_forced() {
        for flops in [1e27, 1e12] {
            let error = at(flops, None, FACTOR, false).unwrap_err().to_string();
            assert!(error.contains("no law reaches it") && error.contains("force"), "{error}");
            let forced = at(flops, None, FACTOR, true).unwrap();
            assert_eq!(forced.warnings.len(), 5);
            assert!(
                forced.table().contains("WARNING")
                    && forced.rows.iter().all(|row| row.parameters.is_ok())
            );
        }
        assert!(
            at(f64::NAN, None, FACTOR, true).is_err()
                && at(-1.0, None, FACTOR, true).is_err()
                && at(1e20, None, 0.5, true).is_err()
        );
    }

    #[test]
    fn a_ladder_of_our_own_answers_near_itself_with_an_interval() {
        let points = synthetic(&Law::BESIROGLU, 0.002);
        let report =
            of_points(&points, &[], &Options { resamples: 50, ..Options::default() }).unwrap();
        let optima = at(1e17, Some(&report), FACTOR, false).unwrap();
        let row = optima.rows.last().unwrap();
        assert_eq!(row.name, "this ladder");
        let interval = row.parameters_interval.unwrap();
        assert!(interval.holds(*row.parameters.as_ref().unwrap()) && interval.low < interval.high);
        assert!((row.reach - 10.0).abs() < 1e-6);
        assert!(at(5e15, Some(&report), FACTOR, false).unwrap().rows.last().unwrap().reach == 1.0);
        let far = at(2e18, Some(&report), FACTOR, false).unwrap();
        assert!(far.rows.last().unwrap().parameters.is_err() && far.rows[2].parameters.is_ok());
    }

    #[test]
    fn a_model_that_is_used_much_is_smaller() {
        let law = Law::BESIROGLU;
        let mut last = law.optimum(1e23).0 * 1.001;
        for tokens in [0.0, 1e12, 1e13, 1e14] {
            let s = served(&law, 1e23, tokens, 1.0).unwrap();
            assert!(s.best.0 < last && s.best_flops <= s.plain_flops * (1.0 + 1e-9), "{s:?}");
            assert!((law.loss(s.best.0, s.best.1) - s.loss).abs() < 1e-6);
            last = s.best.0;
        }
        // Nothing served: the optimum of training alone.
        let none = served(&law, 1e23, 0.0, 1.0).unwrap();
        assert!((none.best.0 / none.plain.0 - 1.0).abs() < 0.01, "{none:?}");
        assert!(served(&law, 1e23, f64::NAN, 1.0).is_err() && served(&law, 0.0, 1.0, 1.0).is_err());
        eprintln!("{}", served(&law, 1e23, 1e13, 2.0).unwrap().table());
    }
}
