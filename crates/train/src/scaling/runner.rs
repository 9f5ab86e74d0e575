//! Runs a ladder so that it can be killed at any point.
//!
//! The key decision: one line in an append-only file is a finished run, and nothing else is remembered. A kill
//! loses the run that was under way; a line that was cut short is taken off at the next start. A run that is
//! held back starts only after its predicted loss lies in a file of its own, which is never written again and
//! holds the hash of the results that it was made from. How a run is trained is the caller's.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::bootstrap::{Interval, Random};
use super::envelope::Training;
use super::ladder::{Ladder, Run};
use super::{Law, Point, bootstrap, parametric};
use crate::plan::sizes::Convention;
use crate::report::{ALL_HOLD_OUTS, Expected, Predicted};
use crate::{Error, Result};

/// The file of finished runs, in the ladder's folder.
pub const RESULTS: &str = "results.jsonl";

/// What the trainer says of a finished run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Held-out loss at the end, nats a token.
    pub loss: f64,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// Seconds that it took, of all starts together.
    pub seconds: f64,
    /// (tokens so far, held-out loss) on the way, for approach 1; may be empty.
    #[serde(default)]
    pub curve: Vec<(u64, f64)>,
    /// Anything else worth keeping: seed, bits per byte, hashes.
    #[serde(default)]
    pub more: serde_json::Value,
}

/// A finished run: a line of the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The run as it was planned.
    pub run: Run,
    /// How it went.
    pub outcome: Outcome,
    /// Seconds since 1970 when it ended.
    pub finished: u64,
    /// SHA-256 of its prediction's file, if it was held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
}

impl Record {
    /// The point that it gives, under a convention.
    pub fn point(&self, convention: Convention) -> Point {
        let tokens = self.outcome.tokens as f64;
        let flops = tokens * self.run.settings.shape().flops_per_token();
        Point {
            parameters: self.run.parameters(convention),
            tokens,
            flops,
            loss: self.outcome.loss,
        }
    }

    /// Its curve, if it has one.
    pub fn training(&self, convention: Convention) -> Option<Training> {
        let cost = self.run.settings.shape().flops_per_token();
        let moments: Vec<(f64, f64)> = self
            .outcome
            .curve
            .iter()
            .map(|(tokens, loss)| (*tokens as f64 * cost, *loss))
            .collect();
        (moments.len() >= 2)
            .then(|| Training { parameters: self.run.parameters(convention), moments })
    }
}

/// A loss that was written down before the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// The run, with all its settings.
    pub run: Run,
    /// Predicted loss, nats a token.
    pub loss: f64,
    /// 95 % of bootstrap predictions, each with the error of one of the fitted runs put on it.
    pub interval: Interval,
    /// The law that it comes from.
    pub law: Law,
    /// What that law counts as parameters.
    pub convention: Convention,
    /// Its budget in largest fitted budgets.
    pub factor: f64,
    /// Seconds since 1970.
    pub made: u64,
    /// Runs that were fitted.
    pub fitted: usize,
    /// Length of the results when it was made.
    pub results_bytes: u64,
    /// SHA-256 of the results when it was made.
    pub results_sha256: String,
}

impl Prediction {
    /// Reads a prediction's file.
    ///
    /// # Errors
    /// If it cannot be read, or is no prediction.
    pub fn read(path: &Path) -> Result<Prediction> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("reading", path, e))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            let detail =
                format!("{e}; expected what `yushan scale run` writes before the held-back run");
            Error::bad(path.display().to_string(), detail)
        })
    }

    /// What it says of a run, for the run's card.
    pub fn expected(&self) -> Predicted {
        let Law { e, a, b, alpha, beta } = self.law;
        let Interval { low, high, .. } = self.interval;
        Predicted {
            loss: Some(Expected { value: self.loss, low: Some(low), high: Some(high) }),
            hold_out: Some(ALL_HOLD_OUTS.into()),
            by: format!(
                "yushan scale, L = {e:.4} + {a:.4}/N^{alpha:.4} + {b:.4}/D^{beta:.4}, N {}, of {} runs up to a \
                 budget {:.1} times smaller (results with SHA-256 {})",
                self.convention, self.fitted, self.factor, self.results_sha256
            ),
            ..Predicted::default()
        }
    }

    /// Whether it is of a run with so many parameters (all of them) and tokens.
    ///
    /// # Errors
    /// With both numbers of both, if it is not.
    pub fn is_of(&self, parameters: u64, tokens: u64) -> Result<()> {
        let (of, until) = (self.run.settings.shape(), self.run.settings.tokens);
        let of = of.counted(Convention::All);
        if (of, until) == (parameters, tokens) {
            return Ok(());
        }
        let detail = format!(
            "made for {of} parameters and {until} tokens, not for {parameters} and {tokens} as in this run"
        );
        Err(Error::bad(format!("the prediction of {}", self.run.name), detail))
    }
}

/// Runs what is not finished, cheapest first. `train` is called once a run, with what is predicted of it if it is held back; its error ends the ladder, which
/// goes on there when called again. Gives all records, in the ladder's order of running.
///
/// # Errors
/// What `train` says; results of another ladder or that were changed; a loss that is no number; a prediction
/// that cannot be made; another process at work in the folder.
pub fn run(
    ladder: &Ladder,
    folder: &Path,
    convention: Convention,
    train: &mut dyn FnMut(&Run, Option<&Prediction>) -> Result<Outcome>,
) -> Result<Vec<Record>> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("creating", folder, e))?;
    let lock = folder.join("ladder.lock");
    let file = File::create(&lock).map_err(|e| Error::io("creating", &lock, e))?;
    file.try_lock().map_err(|_| {
        Error::bad(
            "ladder",
            format!("another process runs it in {}; wait for it or end it", folder.display()),
        )
    })?;
    let path = folder.join(RESULTS);
    cut_torn_line(&path)?;
    let mut records = load(folder)?;
    for record in &records {
        match ladder.runs.iter().find(|run| run.name == record.run.name) {
            Some(run) if run.same(&record.run) => {}
            Some(_) => {
                return Err(other(
                    folder,
                    &record.run.name,
                    "has other settings than the ladder's",
                ));
            }
            None => return Err(other(folder, &record.run.name, "is not in this ladder")),
        }
    }
    for run in ladder.in_order() {
        if records.iter().any(|record| record.run.name == run.name) {
            continue;
        }
        let prediction =
            if run.held_back { Some(predicted(run, folder, convention, &records)?) } else { None };
        let outcome = train(run, prediction.as_ref().map(|(prediction, _)| prediction))?;
        if !(outcome.loss.is_finite() && outcome.loss > 0.0 && outcome.tokens > 0) {
            return Err(Error::bad(
                format!("ladder run {}", run.name),
                format!(
                    "it ended with loss {} after {} tokens; it diverged: lower its learning_rate in the ladder file",
                    outcome.loss, outcome.tokens
                ),
            ));
        }
        let prediction = prediction.map(|(_, hash)| hash);
        let record = Record { run: run.clone(), outcome, finished: now(), prediction };
        records.push(append(&path, &record)?);
    }
    Ok(records)
}

/// The finished runs of a folder; none if there is no such file. A last line without end does not count.
///
/// # Errors
/// A line that is no record, or two records of one run.
pub fn load(folder: &Path) -> Result<Vec<Record>> {
    let path = folder.join(RESULTS);
    let text = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("reading", path, e)),
    };
    let mut records: Vec<Record> = Vec::new();
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    for (i, line) in
        text[..whole].split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty())
    {
        let record: Record = serde_json::from_slice(line).map_err(|e| {
            Error::bad(
                format!("{} line {}", path.display(), i + 1),
                format!(
                    "is no finished run ({e}); restore the file, or remove the line to run it again"
                ),
            )
        })?;
        if records.iter().any(|other| other.run.name == record.run.name) {
            return Err(other(folder, &record.run.name, "is there twice"));
        }
        records.push(record);
    }
    Ok(records)
}

/// The prediction of a run and the hash of its file: the one that is there, or a new one.
///
/// # Errors
/// Too few results to fit, a file that is no prediction of this run, or results that were changed since.
pub fn predicted(
    run: &Run,
    folder: &Path,
    convention: Convention,
    records: &[Record],
) -> Result<(Prediction, String)> {
    let path = folder.join(format!("prediction-{}.json", run.name));
    let results = folder.join(RESULTS);
    let bytes = std::fs::read(&results).map_err(|e| Error::io("reading", &results, e))?;
    if let Ok(old) = std::fs::read(&path) {
        let bad = |why: String| Error::bad(format!("prediction {}", path.display()), why);
        let prediction: Prediction =
            serde_json::from_slice(&old).map_err(|e| bad(format!("is not readable ({e})")))?;
        if !prediction.run.same(run) {
            return Err(bad("was made for other settings of this run; plan the held-back run under another name".into()));
        }
        let then = bytes.get(..prediction.results_bytes as usize);
        if then.map(hash).as_deref() != Some(prediction.results_sha256.as_str()) {
            return Err(bad(
                "was made from results that have since been changed; restore them".into()
            ));
        }
        return Ok((prediction, hash(&old)));
    }
    let prediction = predict(run, convention, records, &bytes)?;
    let text = serde_json::to_vec_pretty(&prediction)
        .map_err(|e| Error::bad("prediction", e.to_string()))?;
    replace(&path, &text)?;
    Ok((prediction, hash(&text)))
}

fn predict(
    run: &Run,
    convention: Convention,
    records: &[Record],
    results: &[u8],
) -> Result<Prediction> {
    let points: Vec<Point> =
        records.iter().filter(|r| !r.run.held_back).map(|r| r.point(convention)).collect();
    let law = parametric::fit(&points)?;
    let (n, d) = (run.parameters(convention), run.settings.tokens as f64);
    let residuals: Vec<f64> =
        points.iter().map(|p| p.loss / law.loss(p.parameters, p.tokens)).collect();
    let mut random = Random::new(1);
    let laws = bootstrap::laws(&points, &law, 1000, 0, parametric::refit);
    let losses = laws.iter().map(|law| {
        law.loss(n, d) * residuals[(random.uniform() * residuals.len() as f64) as usize]
    });
    let interval = Interval::of(losses).expect("a thousand resamples");
    let largest = points.iter().map(|p| p.flops).fold(0.0, f64::max);
    Ok(Prediction {
        run: run.clone(),
        loss: law.loss(n, d),
        interval,
        law,
        convention,
        factor: run.flops() / largest,
        made: now(),
        fitted: points.len(),
        results_bytes: results.len() as u64,
        results_sha256: hash(results),
    })
}

fn other(folder: &Path, name: &str, why: &str) -> Error {
    Error::bad(
        format!("results in {}", folder.display()),
        format!("run {name} {why}; use a new folder for a new ladder"),
    )
}

/// Takes off what a kill left behind the last whole line.
fn cut_torn_line(path: &Path) -> Result<()> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("reading", path, e)),
    };
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() {
        let file =
            OpenOptions::new().write(true).open(path).map_err(|e| Error::io("opening", path, e))?;
        file.set_len(whole as u64)
            .and_then(|()| file.sync_all())
            .map_err(|e| Error::io("repairing", path, e))?;
    }
    Ok(())
}

/// Writes a record and gives it as it will be read again: decimal text may round a float's last bit.
fn append(path: &Path, record: &Record) -> Result<Record> {
    let mut line = serde_json::to_vec(record).map_err(|e| Error::bad("record", e.to_string()))?;
    line.push(b'\n');
    let write = || {
        let new = !path.exists();
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(&line)?;
        file.sync_data()?;
        if new { sync_folder(path) } else { Ok(()) }
    };
    write().map_err(|e| Error::io("writing", path, e))?;
    serde_json::from_slice(&line).map_err(|e| Error::bad("record", e.to_string()))
}

/// Writes a file whole or not at all: temporary, fsync, rename, fsync of the folder.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        sync_folder(path)
    };
    write().map_err(|e| Error::io("writing", path, e))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
        .sync_all()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::ladder::Request;
    use super::*;

    fn ladder() -> Ladder {
        Ladder::plan(&Request { total: 3e15, ..Request::default() }).unwrap()
    }

    /// A trainer that knows the truth.
    fn truth(run: &Run) -> Outcome {
        let law = Law { e: 1.2, a: 60.0, b: 900.0, alpha: 0.3, beta: 0.4 };
        let (n, d) = (run.parameters(Convention::All), run.settings.tokens as f64);
        let curve = (1..=5)
            .map(|i| run.settings.tokens * i / 5)
            .map(|t| (t, law.loss(n, t as f64)))
            .collect();
        Outcome {
            loss: law.loss(n, d),
            tokens: run.settings.tokens,
            seconds: 1.0,
            curve,
            more: serde_json::Value::Null,
        }
    }

    #[test]
    fn predicts_a_held_back_run_before_it_starts() {
        let (folder, ladder) = (tempfile::tempdir().unwrap(), ladder());
        let mut order = Vec::new();
        let records = run(&ladder, folder.path(), Convention::All, &mut |run, prediction| {
            let file = folder.path().join(format!("prediction-{}.json", run.name));
            assert_eq!(file.exists(), run.held_back, "{}", run.name);
            assert_eq!(prediction.is_some(), run.held_back, "{}", run.name);
            if let Some(prediction) = prediction {
                let read = Prediction::read(&file).unwrap();
                assert_eq!((&read.results_sha256, read.fitted), (&prediction.results_sha256, 16));
                let expected = prediction.expected().loss.unwrap();
                assert!((read.loss / expected.value - 1.0).abs() < 1e-12);
                assert_eq!(
                    (expected.value, expected.low),
                    (prediction.loss, Some(prediction.interval.low))
                );
                let size = run.settings.shape().counted(Convention::All);
                prediction.is_of(size, run.settings.tokens).unwrap();
                let other =
                    prediction.is_of(size + 1, run.settings.tokens).unwrap_err().to_string();
                assert!(other.contains(&(size + 1).to_string()), "{other}");
            }
            order.push(run.name.clone());
            Ok(truth(run))
        })
        .unwrap();
        assert_eq!(order, ladder.in_order().iter().map(|run| run.name.clone()).collect::<Vec<_>>());
        let held = records.last().unwrap();
        let (prediction, hash) =
            predicted(&held.run, folder.path(), Convention::All, &records).unwrap();
        assert_eq!(held.prediction.as_deref(), Some(hash.as_str()));
        assert!(
            (prediction.loss / held.outcome.loss - 1.0).abs() < 1e-3,
            "{prediction:?} {}",
            held.outcome.loss
        );
        assert!(
            prediction.interval.low <= prediction.loss * 1.001
                && prediction.factor > 3.5
                && prediction.fitted == 16
        );
        // Again: nothing is left to do.
        let again = run(&ladder, folder.path(), Convention::All, &mut |run, _| {
            panic!("{} again", run.name)
        })
        .unwrap();
        assert_eq!(again, records);
    }

    #[test]
    fn a_kill_at_any_byte_loses_at_most_the_running_one() {
        let (folder, ladder) = (tempfile::tempdir().unwrap(), ladder());
        let stop = |left: usize| {
            let mut left = left;
            move |run: &Run, _: Option<&Prediction>| {
                left = left.checked_sub(1).ok_or_else(|| Error::bad("test", "stopped"))?;
                Ok(truth(run))
            }
        };
        assert!(run(&ladder, folder.path(), Convention::All, &mut stop(3)).is_err());
        let path = folder.path().join(RESULTS);
        let three = std::fs::read(&path).unwrap();
        let lines: Vec<usize> =
            three.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        assert_eq!(lines.len(), 3);
        for cut in (lines[1]..=lines[2]).step_by(7).chain([0, 1, lines[0], lines[2] - 1, lines[2]])
        {
            std::fs::write(&path, &three[..cut]).unwrap();
            let whole = lines.iter().filter(|end| **end <= cut).count();
            assert_eq!(load(folder.path()).unwrap().len(), whole, "cut at {cut}");
            let mut names = Vec::new();
            let result = run(&ladder, folder.path(), Convention::All, &mut |run, _| {
                names.push(run.name.clone());
                if names.len() > 1 { Err(Error::bad("test", "stopped")) } else { Ok(truth(run)) }
            });
            assert!(result.unwrap_err().to_string().contains("stopped"));
            assert_eq!(names[0], ladder.in_order()[whole].name, "cut at {cut}");
            assert_eq!(load(folder.path()).unwrap().len(), whole + 1);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (folder, ladder) = (tempfile::tempdir().unwrap(), ladder());
        let go = |ladder: &Ladder, loss: f64| {
            run(ladder, folder.path(), Convention::All, &mut |run, _| {
                Ok(Outcome { loss, ..truth(run) })
            })
            .unwrap_err()
            .to_string()
        };
        let diverged = go(&ladder, f64::NAN);
        assert!(
            diverged.contains("it diverged") && diverged.contains(&ladder.in_order()[0].name),
            "{diverged}"
        );
        assert!(load(folder.path()).unwrap().is_empty());
        // Every run with the same loss: no law can be fitted, so the held-back run may not start.
        let flat = go(&ladder, 3.0);
        assert!(flat.contains("scaling fit"), "{flat}");
        assert_eq!(load(folder.path()).unwrap().len(), 16);
        let mut changed = ladder.clone();
        changed.runs[0].settings.learning_rate *= 2.0;
        assert!(go(&changed, 3.0).contains("has other settings"));
        changed.runs = ladder.runs[1..].to_vec();
        assert!(go(&changed, 3.0).contains("is not in this ladder"));
        let path = folder.path().join(RESULTS);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{{}}\n{good}")).unwrap();
        assert!(go(&ladder, 3.0).contains("line 1"), "{}", go(&ladder, 3.0));
        std::fs::write(&path, format!("{good}{good}")).unwrap();
        assert!(go(&ladder, 3.0).contains("is there twice"));
        let _held = File::create(folder.path().join("ladder.lock"))
            .map(|f| f.lock().map(|()| f))
            .unwrap()
            .unwrap();
        assert!(go(&ladder, 3.0).contains("another process"));
    }

    #[test]
    fn results_cannot_change_behind_a_prediction() {
        let (folder, ladder) = (tempfile::tempdir().unwrap(), ladder());
        // The trainer fails in the held-back run: its prediction is made, its result is not.
        let fail = run(&ladder, folder.path(), Convention::All, &mut |run, _| {
            if run.held_back { Err(Error::bad("test", "stopped")) } else { Ok(truth(run)) }
        });
        assert!(fail.is_err());
        let held = ladder.in_order().last().unwrap().name.clone();
        let file = folder.path().join(format!("prediction-{held}.json"));
        let before = std::fs::read(&file).unwrap();
        let path = folder.path().join(RESULTS);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, good.replacen("\"loss\":", "\"loss\":1", 1)).unwrap();
        let error = run(&ladder, folder.path(), Convention::All, &mut |run, _| Ok(truth(run)))
            .unwrap_err()
            .to_string();
        assert!(error.contains("have since been changed"), "{error}");
        std::fs::write(&path, &good).unwrap();
        run(&ladder, folder.path(), Convention::All, &mut |run, _| Ok(truth(run))).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
}
