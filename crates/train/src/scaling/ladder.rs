//! A ladder: several budgets, several sizes at each, and a run held back to test what they predict.
//!
//! The key decision: a ladder is planned from the total that may be spent and written down as a file that lists
//! every run with all its settings, so that it can be read, changed by hand and run again. Its sizes come from
//! the dial's family, but at any width in sixteens and from two layers on, since depth alone is too coarse for small
//! models, and one layer cannot look back at what a layer has found.
//! It does not know the optimum; it takes a prior for the middle of the sizes and lets the fit correct it.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::plan::dial::{self, Defaults, Overrides};
use crate::plan::sizes::Convention;
use crate::{Error, Result};

/// Times that the same text may be seen before repeating it is worth clearly less (arXiv 2305.16264: four).
pub const EPOCHS: f64 = 4.0;

/// What a ladder is planned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// FLOPs of all runs together, the held-back one too.
    pub total: f64,
    /// Different budgets.
    pub budgets: usize,
    /// Sizes at each budget.
    pub sizes: usize,
    /// Factor from a budget to the next.
    pub spacing: f64,
    /// Factor from a size to the next.
    pub width: f64,
    /// Budget of the held-back run, in largest budgets of the ladder; 0 for none.
    pub held_back: f64,
    /// Prior of the optimum: tokens a parameter (all parameters) in the middle of the sizes. Below 1e15 FLOPs it is near
    /// ten, not twenty: most of a small model is its embedding.
    pub tokens_per_parameter: f64,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Tokens in the corpus; no run reads it more than [`EPOCHS`] times.
    pub corpus_tokens: Option<u64>,
    /// What is set by hand for every run (not dim, heads, tokens).
    pub set: Overrides,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            total: 0.0,
            budgets: 4,
            sizes: 4,
            spacing: 2.0,
            width: 1.6,
            held_back: 4.0,
            tokens_per_parameter: 10.0,
            vocabulary: 4096,
            corpus_tokens: None,
            set: Overrides::default(),
        }
    }
}

/// How fast the machine trains.
#[derive(Clone, Debug, PartialEq)]
pub enum Speed {
    /// FLOPs a second, whatever the size.
    Flops(f64),
    /// Measured (FLOPs a token, tokens a second) of some sizes; between them the FLOP rate is interpolated.
    Measured(Vec<(f64, f64)>),
}

impl Speed {
    /// Tokens a second of a model that takes so many FLOPs a token.
    ///
    /// # Errors
    /// No measurement, or values that are not positive numbers.
    pub fn tokens_per_second(&self, flops_per_token: f64) -> Result<f64> {
        let bad = |what: String| Error::bad("training speed", what);
        let positive = |x: f64| x.is_finite() && x > 0.0;
        match self {
            Speed::Flops(rate) if positive(*rate) => Ok(rate / flops_per_token),
            Speed::Flops(rate) => Err(bad(format!("{rate} FLOP/s; a positive number is needed"))),
            Speed::Measured(measured) => {
                let mut rates: Vec<(f64, f64)> =
                    measured.iter().map(|(f, t)| (f.ln(), f * t)).collect();
                if rates.is_empty() || !measured.iter().all(|(f, t)| positive(*f) && positive(*t)) {
                    return Err(bad(
                        "measure at least one size, in positive tokens a second".into()
                    ));
                }
                rates.sort_by(|a, b| a.0.total_cmp(&b.0));
                let x = flops_per_token.ln();
                let next = rates.partition_point(|r| r.0 < x);
                let rate = match (next.checked_sub(1).map(|i| rates[i]), rates.get(next)) {
                    (Some((low, a)), Some((high, b))) => a + (b - a) * (x - low) / (high - low),
                    (Some((_, rate)), None) | (None, Some(&(_, rate))) => rate,
                    (None, None) => unreachable!("at least one rate"),
                };
                Ok(rate / flops_per_token)
            }
        }
    }
}

/// One run of a ladder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its name: budget and size.
    pub name: String,
    /// FLOPs that the budget allows.
    pub budget: f64,
    /// Whether it is predicted before it may start, and not fitted.
    pub held_back: bool,
    /// Everything that the trainer needs beside its data.
    pub settings: Defaults,
}

impl Run {
    /// Parameters under a convention.
    pub fn parameters(&self, convention: Convention) -> f64 {
        self.settings.shape().counted(convention) as f64
    }

    /// Whether two descriptions are of one run; floats to nine digits, since text may round the last one.
    pub fn same(&self, other: &Run) -> bool {
        let plain = |run: &Run| {
            let mut run = run.clone();
            let Run { budget, settings, .. } = &mut run;
            for x in [budget, &mut settings.learning_rate] {
                *x = format!("{x:.9e}").parse().unwrap_or(*x);
            }
            run
        };
        plain(self) == plain(other)
    }

    /// FLOPs that it takes in fact: its tokens times FLOPs a token, attention and head counted.
    pub fn flops(&self) -> f64 {
        self.settings.shape().flops_per_token() * self.settings.tokens as f64
    }

    /// Hours at a speed.
    ///
    /// # Errors
    /// As [`Speed::tokens_per_second`].
    pub fn hours(&self, speed: &Speed) -> Result<f64> {
        Ok(self.settings.tokens as f64
            / speed.tokens_per_second(self.settings.shape().flops_per_token())?
            / 3600.0)
    }
}

/// A planned ladder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ladder {
    /// What it was planned from.
    pub request: Request,
    /// Its runs, cheapest first, the held-back one last.
    pub runs: Vec<Run>,
}

impl Ladder {
    /// Plans a ladder.
    ///
    /// # Errors
    /// Requests that give no ladder worth fitting: the message says which value and what would do.
    pub fn plan(request: &Request) -> Result<Ladder> {
        check(request)?;
        let weight: f64 = (0..request.budgets).map(|i| request.spacing.powi(-(i as i32))).sum();
        let largest = request.total / (request.sizes as f64 * weight + request.held_back);
        let mut runs = Vec::new();
        for i in (0..request.budgets).rev() {
            let budget = largest * request.spacing.powi(-(i as i32));
            let middle = (budget / 6.0 / request.tokens_per_parameter).sqrt();
            let mut least = 0.0;
            for step in 0..request.sizes {
                let target =
                    middle * request.width.powf(step as f64 - (request.sizes - 1) as f64 / 2.0);
                let run = run(request, budget, target.max(1.15 * least), false)?;
                least = run.parameters(Convention::All);
                runs.push(run);
            }
        }
        if request.held_back > 0.0 {
            let budget = largest * request.held_back;
            runs.push(run(
                request,
                budget,
                (budget / 6.0 / request.tokens_per_parameter).sqrt(),
                true,
            )?);
        }
        let ladder = Ladder { request: request.clone(), runs };
        ladder.check()?;
        Ok(ladder)
    }

    /// Reads a ladder file.
    ///
    /// # Errors
    /// A file that cannot be read, is no ladder, or holds runs that make no sense.
    pub fn load(path: &Path) -> Result<Ladder> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))?;
        let ladder: Ladder = toml::from_str(&text)
            .map_err(|e| Error::bad(format!("ladder {}", path.display()), e.to_string()))?;
        ladder.check()?;
        Ok(ladder)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).map_err(|e| Error::bad("ladder", e.to_string()))?;
        super::runner::replace(path, text.as_bytes())
    }

    /// Whether its runs can be told apart and run.
    fn check(&self) -> Result<()> {
        for (i, run) in self.runs.iter().enumerate() {
            let bad = |why: String| Err(Error::bad(format!("ladder run {}", run.name), why));
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if run.name.is_empty()
                || run.name.starts_with('.')
                || run.name.len() > 100
                || !run.name.chars().all(plain)
            {
                return bad(
                    "a name is up to 100 letters, digits, - and _, for it becomes a file's name"
                        .into(),
                );
            }
            if self.runs[..i].iter().any(|other| other.name == run.name) {
                return bad("two runs have this name".into());
            }
            let s = &run.settings;
            let limit = |x: usize| (1..=1 << 24).contains(&x);
            if ![
                s.vocabulary,
                s.context,
                s.dim,
                s.depth,
                s.heads,
                s.kv_heads,
                s.head_dim,
                s.ffn,
                s.batch_tokens,
            ]
            .into_iter()
            .all(limit)
            {
                return bad(format!("sizes must be 1 to {}", 1 << 24));
            }
            if s.tokens == 0
                || !(run.budget.is_finite()
                    && run.budget > 0.0
                    && s.learning_rate.is_finite()
                    && s.learning_rate > 0.0)
            {
                return bad("tokens, budget and learning rate must be positive".into());
            }
            if let Some(corpus) = self.request.corpus_tokens
                && s.tokens as f64 > EPOCHS * corpus as f64
            {
                return bad(format!(
                    "it reads {} tokens, {:.1} times the corpus of {corpus}; beyond {EPOCHS} times, repeated text is worth clearly less (arXiv 2305.16264): take a smaller total or larger models (tokens_per_parameter)",
                    s.tokens,
                    s.tokens as f64 / corpus as f64
                ));
            }
        }
        Ok(())
    }

    /// The runs in the order in which they are run: cheapest first, those held back last.
    pub fn in_order(&self) -> Vec<&Run> {
        let mut runs: Vec<&Run> = self.runs.iter().collect();
        runs.sort_by(|a, b| a.held_back.cmp(&b.held_back).then(a.flops().total_cmp(&b.flops())));
        runs
    }

    /// The ladder as text: a line a run, with hours if a speed is given, and the totals.
    ///
    /// # Errors
    /// As [`Speed::tokens_per_second`].
    pub fn table(&self, speed: Option<&Speed>) -> Result<String> {
        let mut text = format!(
            "N is all parameters; FLOPs are 6 x (layers + head) + causal attention a token.\n{:<24} {:>9} {:>6} {:>5} {:>9} {:>10} {:>6} {:>8} {:>7} {:>9} {:>8} {:>7}\n",
            "run",
            "FLOPs",
            "layers",
            "dim",
            "N",
            "tokens",
            "D/N",
            "batch",
            "steps",
            "rate",
            "epochs",
            "hours"
        );
        let mut total = (0.0, 0.0);
        for run in self.in_order() {
            let (s, n) = (&run.settings, run.parameters(Convention::All));
            let hours = speed.map(|speed| run.hours(speed)).transpose()?;
            total = (total.0 + run.flops(), total.1 + hours.unwrap_or(0.0));
            let or_dash = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.2}"));
            let epochs = self.request.corpus_tokens.map(|corpus| s.tokens as f64 / corpus as f64);
            let _ = writeln!(
                text,
                "{:<24} {:>9.2e} {:>6} {:>5} {:>9} {:>10} {:>6.1} {:>8} {:>7} {:>9.2e} {:>8} {:>7}{}",
                run.name,
                run.flops(),
                s.depth,
                s.dim,
                n,
                s.tokens,
                s.tokens as f64 / n,
                s.batch_tokens,
                s.steps,
                s.learning_rate,
                or_dash(epochs),
                or_dash(hours),
                if run.held_back { "  held back" } else { "" }
            );
        }
        let _ = write!(text, "{} runs, {:.2e} FLOPs", self.runs.len(), total.0);
        if speed.is_some() {
            let _ = write!(text, ", {:.1} hours", total.1);
        }
        text.push('\n');
        Ok(text)
    }
}

fn check(request: &Request) -> Result<()> {
    let bad = |why: String| Err(Error::bad("ladder request", why));
    if !(request.total.is_finite() && request.total >= 1e10) {
        return bad(format!(
            "a total of {} FLOPs; at least 1e10 are needed (two CPU cores make some 5e14 an hour)",
            request.total
        ));
    }
    if !(3..=20).contains(&request.budgets) || !(3..=20).contains(&request.sizes) {
        return bad(format!(
            "{} budgets of {} sizes; 3 to 20 of each are needed to fit curves",
            request.budgets, request.sizes
        ));
    }
    if request.budgets * request.sizes < 12 {
        return bad(format!(
            "{} runs; at least 12 are needed (4 budgets of 4 sizes)",
            request.budgets * request.sizes
        ));
    }
    for (name, value, least, most) in [
        ("spacing", request.spacing, 1.5, 100.0),
        ("width", request.width, 1.2, 10.0),
        ("tokens_per_parameter", request.tokens_per_parameter, 0.1, 1e5),
    ] {
        if !(least..=most).contains(&value) {
            return bad(format!("{name} is {value}; {least} to {most} are possible"));
        }
    }
    if request.held_back != 0.0 && !(1.0..=1000.0).contains(&request.held_back) {
        return bad(format!(
            "held_back is {}; 0 for none, or 1 to 1000 times the largest budget (4 is usual)",
            request.held_back
        ));
    }
    Ok(())
}

/// The run of a budget with the size of the family that is nearest to, and not below, a number of parameters.
fn run(request: &Request, budget: f64, target: f64, held_back: bool) -> Result<Run> {
    let mut best: Option<(f64, Defaults)> = None;
    for depth in 2..=64 {
        let widths = (2..=512).map(|i| 16 * i);
        for dim in widths.filter(|dim| (16..=160).contains(&(dim / depth))) {
            let head_dim = [64, 32, 16].into_iter().find(|head| dim % head == 0 && 2 * head <= dim);
            let set = Overrides {
                dim: Some(dim),
                head_dim: request.set.head_dim.or(head_dim),
                tokens: Some(1 << 40),
                ..request.set.clone()
            };
            let settings = dial::with(depth, request.vocabulary, &set)?;
            let n = settings.shape().counted(Convention::All) as f64;
            // Near in size first, then near the dial's 64 of width a layer.
            let away =
                4.0 * (n / target).ln().abs() + (dim as f64 / (64 * depth) as f64).ln().abs();
            if n >= 0.93 * target && best.as_ref().is_none_or(|(least, _)| away < *least) {
                best = Some((away, settings));
            }
        }
    }
    let Some((_, shape)) = best else {
        return Err(Error::bad(
            "ladder",
            format!("no model of {target:.2e} parameters in the family; take a smaller total"),
        ));
    };
    let tokens = (budget / shape.shape().flops_per_token()) as u64;
    let set = Overrides {
        dim: Some(shape.dim),
        head_dim: Some(shape.head_dim),
        context: Some(shape.context),
        tied: Some(shape.tied),
        tokens: Some(tokens),
        ..request.set.clone()
    };
    let settings = dial::with(shape.depth, request.vocabulary, &set)?;
    if settings.steps < 20 {
        return Err(Error::bad(
            "ladder",
            format!(
                "a budget of {budget:.2e} FLOPs gives {} updates of a model of {target:.2e} parameters; take a larger total, fewer budgets or a smaller batch",
                settings.steps
            ),
        ));
    }
    let name = format!(
        "{}{budget:.1e}-l{}d{}",
        if held_back { "held-" } else { "c" },
        settings.depth,
        settings.dim
    );
    Ok(Run { name, budget, held_back, settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn request() -> Request {
        // Its made-up losses have their optimum at more tokens than real small models.
        Request { total: 3e15, tokens_per_parameter: 25.0, ..Request::default() }
    }

    #[test]
    fn a_ladder_spends_what_it_may() {
        for (total, vocabulary, budgets, sizes) in
            [(3e15, 4096, 4, 4), (2e14, 1024, 3, 4), (1e20, 32768, 5, 5)]
        {
            let ladder =
                Ladder::plan(&Request { total, vocabulary, budgets, sizes, ..request() }).unwrap();
            assert_eq!(ladder.runs.len(), budgets * sizes + 1);
            let spent: f64 = ladder.runs.iter().map(Run::flops).sum();
            assert!((0.9..=1.001).contains(&(spent / total)), "{total:e}: {}", spent / total);
            for group in ladder.runs[..budgets * sizes].chunks(sizes) {
                assert!(
                    group
                        .is_sorted_by(|a, b| b.parameters(Convention::All)
                            > 1.1 * a.parameters(Convention::All)),
                    "{}",
                    ladder.table(None).unwrap()
                );
                assert!(group.iter().all(|run| (run.flops() / run.budget - 1.0).abs() < 0.06));
            }
            let held = ladder.runs.last().unwrap();
            assert!(
                held.held_back && held.flops() > 3.7 * ladder.runs[budgets * sizes - 1].flops()
            );
        }
    }

    #[test]
    fn cheapest_first_and_held_back_last() {
        let ladder = Ladder::plan(&request()).unwrap();
        let order = ladder.in_order();
        assert!(order.last().unwrap().held_back);
        assert!(order.is_sorted_by(|a, b| a.flops() <= b.flops()));
    }

    #[test]
    fn a_file_gives_the_same_ladder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ladder.toml");
        let ladder = Ladder::plan(&request()).unwrap();
        ladder.save(&path).unwrap();
        assert_eq!(Ladder::load(&path).unwrap(), ladder);
        let good = std::fs::read_to_string(&path).unwrap();
        let first = &ladder.runs[0].name;
        for (from, to, expected) in [
            ("held_back = false", "held_bakc = false", "unknown field `held_bakc`"),
            (first.as_str(), "../escape", "a name is up to"),
            (first.as_str(), ladder.runs[1].name.as_str(), "two runs have this name"),
            ("tokens = ", "tokens = -", "invalid value"),
            ("vocabulary = 4096\ntokens", "vocabulary = 0\ntokens", "sizes must be"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            std::fs::write(&path, text).unwrap();
            let error = Ladder::load(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn hours_come_from_a_rate_or_from_measurements() {
        let ladder = Ladder::plan(&request()).unwrap();
        let by_rate: f64 =
            ladder.runs.iter().map(|run| run.hours(&Speed::Flops(1.5e11)).unwrap()).sum();
        assert!((by_rate - 3e15 / 1.5e11 / 3600.0).abs() < 0.3, "{by_rate}");
        let measured = Speed::Measured(vec![(4e7, 2500.0), (1e6, 50_000.0)]);
        assert!((measured.tokens_per_second(4e7).unwrap() - 2500.0).abs() < 1e-6);
        assert!((measured.tokens_per_second(1e5).unwrap() - 500_000.0).abs() < 1e-6);
        let between = measured.tokens_per_second(6e6).unwrap();
        assert!((5e10..1e11).contains(&(between * 6e6)), "{between}");
        for speed in [
            Speed::Flops(0.0),
            Speed::Flops(f64::NAN),
            Speed::Measured(vec![]),
            Speed::Measured(vec![(1.0, -1.0)]),
        ] {
            assert!(ladder.table(Some(&speed)).is_err());
        }
        assert!(ladder.table(Some(&measured)).unwrap().contains("held back"));
    }

    #[test]
    fn requests_that_give_no_ladder_are_refused() {
        for (request, expected) in [
            (Request { total: 0.0, ..request() }, "a total of 0"),
            (Request { total: f64::NAN, ..request() }, "a total of NaN"),
            (Request { budgets: 2, ..request() }, "2 budgets"),
            (Request { budgets: 3, sizes: 3, ..request() }, "9 runs; at least 12"),
            (Request { spacing: 1.1, ..request() }, "spacing is 1.1"),
            (Request { held_back: 0.5, ..request() }, "held_back is 0.5"),
            (
                Request { corpus_tokens: Some(1_000_000), ..request() },
                "times the corpus of 1000000",
            ),
            (Request { total: 1e11, ..request() }, "updates of a model"),
            (Request { vocabulary: 0, ..request() }, "vocabulary"),
        ] {
            let error = Ladder::plan(&request).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
