//! `train`: from shards of tokens to a base model, and a look at a run.
//!
//! The loop is the library's (`yushan_train::pretrain`); here are its flags, its bar, and the end of the program.

pub(crate) mod live;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use yushan_collective::Collective;
use yushan_tensor::limits;
use yushan_train::digest::{hex, sha256};
use yushan_train::pretrain::{self, Job};
use yushan_train::recipe::{Recipe, Settings};
use yushan_train::report::{self, ALL_HOLD_OUTS, Expected, Predicted, Run, energy};
use yushan_train::scaling::runner::Prediction;

use crate::exit::{BadUsage, Interrupted};
use crate::flags;
use crate::interrupt::Interrupt;

/// Train a model, and look at how it goes
#[derive(clap::Args)]
pub(crate) struct Train {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Train a base model from the shards that `data build` wrote
    Pretrain(Box<Pretrain>),
    /// Show the curves of a run, and write its report
    Watch(Watch),
    /// Write the report of a run, or one over several that differ in their seed
    Card(Card),
}

#[derive(clap::Args)]
struct Pretrain {
    /// What differs from the defaults, in TOML
    #[arg(value_name = "RECIPE")]
    recipe: Option<PathBuf>,
    /// The one dial: layers, from which width, batch, learning rate and tokens follow
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// The folder of shards
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The run's folder [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Train once with each of these seeds, as 1,2,3 or 1-3, one after another: each in the folder seed-N of the
    /// run's, with one report over all there; --resume goes on where they were left
    #[arg(long, value_name = "LIST", value_parser = seeds)]
    seeds: Option<Seeds>,
    /// The loss over all hold-outs that is expected, for the report: as 3.21, as 3.21+-0.05, or the file
    /// prediction-NAME.json of `scale run`
    #[arg(long, value_name = "LOSS|FILE")]
    predicted: Option<String>,
    /// Set one key of the recipe, as --set train.tokens=1000000; as often as needed
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Go on after the run's last checkpoint, if it has one
    #[arg(long)]
    resume: bool,
    /// Threads to compute with, of each rank [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    threads: Option<usize>,
}

#[derive(clap::Args)]
struct Watch {
    /// The run's folder
    run: PathBuf,
    /// Show it once instead of until it ends
    #[arg(long)]
    once: bool,
}

#[derive(clap::Args)]
struct Card {
    /// The runs' folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where report.md, report.html and plots/ go [default: the run's folder; of several, the one they lie in]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// An alias, since clap takes a plain `Vec` for a flag that is given several times.
type Seeds = Vec<u64>;

fn seeds(text: &str) -> Result<Seeds, String> {
    Ok(flags::list(text)?.into_iter().map(|seed| seed as u64).collect())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Train {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Pretrain(pretrain) => pretrain.run(),
            What::Watch(watch) => watch.run(),
            What::Card(card) => card.run(),
        }
    }
}

/// A run that is to be trained.
struct Plan {
    /// The recipe as it was written.
    recipe: String,
    settings: Settings,
    folder: PathBuf,
    predicted: Option<Predicted>,
}

impl Plan {
    fn gguf(&self) -> PathBuf {
        self.folder.join(format!("{}.gguf", self.settings.name))
    }

    /// Makes the file that is run from the last checkpoint.
    fn export(&self, checkpoint: Option<&Path>) -> Result<()> {
        let Some(checkpoint) = checkpoint else {
            eprintln!("warning: the last checkpoint could not be saved, so there is no GGUF file");
            return Ok(());
        };
        let file = self.gguf();
        if file.exists() {
            std::fs::remove_file(&file).with_context(|| format!("replacing {}", file.display()))?;
        }
        for warning in yushan_train::checkpoint::export_gguf(checkpoint, &file)? {
            eprintln!("warning: {warning}");
        }
        eprintln!("{}", self.folder.join("report.html").display());
        println!("{}", file.display());
        Ok(())
    }
}

impl Pretrain {
    fn run(self) -> Result<()> {
        let mut ranks = yushan_collective::connect()?;
        let first = ranks.rank() == 0;
        let plans = self.plans()?;
        let interrupt = Interrupt::catch_end()?;
        let peak = limits::peak_f32(self.threads());
        let mut finished = true;
        for plan in &plans {
            finished = self.train(plan, ranks.as_mut(), &interrupt, peak)?;
            if !finished {
                break;
            }
        }
        ranks.leave()?;
        match (first, finished) {
            (false, _) => Ok(()),
            (true, false) => Err(Interrupted.into()),
            (true, true) if self.seeds.is_some() => {
                let folders: Vec<_> = plans.iter().map(|plan| plan.folder.clone()).collect();
                write_card(&folders, None)
            }
            (true, true) => Ok(()),
        }
    }

    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(processors)
    }

    /// Trains one run, unless that is done, and writes its report and its file; whether it got to its end.
    fn train(
        &self,
        plan: &Plan,
        ranks: &mut dyn Collective,
        interrupt: &Interrupt,
        peak: f64,
    ) -> Result<bool> {
        let first = ranks.rank() == 0;
        let Plan { recipe, settings, folder, predicted } = plan;
        if self.resume && plan.gguf().exists() && pretrain::is_finished(settings, folder) {
            if first {
                println!("{}", plan.gguf().display());
            }
            return Ok(true);
        }
        let job = Job {
            settings,
            folder,
            recipe,
            resume: self.resume,
            threads: self.threads(),
            peak,
            commands: vec![command()],
            code: Some(code()),
            started: Some(now()),
            predicted: predicted.clone(),
            energy: Path::new(energy::ROOT),
        };
        let mut bar = live::Bar::new(interrupt);
        let outcome = pretrain::pretrain(&job, ranks, &mut bar);
        bar.finish();
        let outcome = outcome?;
        if first {
            report::card(&[Run::read(folder)?])?.write(folder)?;
            match outcome.finished {
                true => plan.export(outcome.checkpoint.as_deref())?,
                false => {
                    let (name, step) = (&settings.name, outcome.step);
                    eprintln!("{name} stopped after step {step}; go on with --resume");
                }
            }
        }
        Ok(outcome.finished)
    }

    /// The run, or one for each seed.
    fn plans(&self) -> Result<Vec<Plan>> {
        let plan = |seed: Option<u64>| {
            let (recipe, mut settings) = self.settings(seed)?;
            let usual = || Path::new("runs").join(&settings.name);
            let mut folder = self.run.clone().unwrap_or_else(usual);
            if let Some(seed) = seed {
                folder.push(format!("seed-{seed}"));
                settings.name = format!("{}-seed-{seed}", settings.name);
            }
            let predicted = self.predicted.as_deref().map(|said| predicted(said, &settings));
            Ok(Plan { recipe, settings, folder, predicted: predicted.transpose()? })
        };
        match &self.seeds {
            Some(seeds) => seeds.iter().map(|&seed| plan(Some(seed))).collect(),
            None => Ok(vec![plan(None)?]),
        }
    }

    /// The recipe's text, and the settings that follow from it.
    fn settings(&self, seed: Option<u64>) -> Result<(String, Settings)> {
        let (name, text) = match &self.recipe {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("reading {}", path.display()))?;
                (path.display().to_string(), text)
            }
            None => ("the recipe".to_owned(), String::new()),
        };
        let mut set = self.set.clone();
        if let Some(depth) = self.depth {
            set.push(("depth".into(), depth.to_string()));
        }
        if let Some(seed) = seed {
            set.push(("seed".into(), seed.to_string()));
        }
        let mut recipe = Recipe::parse_with(&text, &name, &set)?;
        if let Some(data) = &self.data {
            recipe.data.folder = Some(data.clone());
        }
        let data = recipe.data.folder.clone().ok_or_else(|| {
            let what = "no data: give --data DIR, or `folder` in the recipe's [data]";
            BadUsage(format!("{what}; `yushan data build RECIPE` makes such a folder"))
        })?;
        let settings = recipe.settle(pretrain::tokenizer(&data)?.vocabulary_size())?;
        Ok((text, settings))
    }
}

impl Watch {
    fn run(self) -> Result<()> {
        live::watch(&self.run, self.once)
    }
}

impl Card {
    fn run(self) -> Result<()> {
        write_card(&self.runs, self.out.as_deref())
    }
}

/// Writes one report of these runs; without a place, where the only one or all of them lie.
fn write_card(folders: &[PathBuf], out: Option<&Path>) -> Result<()> {
    let runs = folders.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>, _>>()?;
    let within = |folder: &PathBuf| match folder.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let out = match (out, folders) {
        (Some(out), _) => out.to_path_buf(),
        (None, [one]) => one.clone(),
        (None, all) => {
            let parent = all.first().map(within).unwrap_or_default();
            if all.iter().any(|folder| within(folder) != parent) {
                let what =
                    "the runs lie in different folders: say where the report goes with --out DIR";
                return Err(BadUsage(what.into()).into());
            }
            parent
        }
    };
    report::card(&runs)?.write(&out)?;
    println!("{}", out.join("report.html").display());
    Ok(())
}

/// What `--predicted` says.
fn predicted(said: &str, settings: &Settings) -> Result<Predicted> {
    if Path::new(said).is_file() {
        let prediction = Prediction::read(Path::new(said))?;
        prediction.is_of(settings.shape.parameters() as u64, settings.tokens())?;
        return Ok(prediction.expected());
    }
    let loss = expected(said).ok_or_else(|| {
        let what = "expected a loss, as 3.21 or 3.21+-0.05, or a prediction's file that is there";
        BadUsage(format!("--predicted {said}: {what}"))
    })?;
    let hold_out = Some(ALL_HOLD_OUTS.into());
    let by = "--predicted on the command line".into();
    Ok(Predicted { loss: Some(loss), hold_out, by, ..Predicted::default() })
}

/// `3.21`, `3.21+-0.05`, `3.21±0.05`.
fn expected(said: &str) -> Option<Expected> {
    let number = |text: &str| text.trim().parse().ok().filter(|&x: &f64| x.is_finite() && x > 0.0);
    match said.split_once('±').or_else(|| said.split_once("+-")) {
        Some((value, width)) => {
            let (value, width) = (number(value)?, number(width)?);
            Some(Expected { value, low: Some(value - width), high: Some(value + width) })
        }
        None => Some(Expected { value: number(said)?, low: None, high: None }),
    }
}

/// Processors that this process may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// This command, as it was typed.
pub(crate) fn command() -> String {
    let quoted = |word: String| match word.contains([' ', '"', '\'']) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => word,
    };
    let words = std::env::args().skip(1).map(quoted);
    std::iter::once("yushan".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The commit that this program was built from, and the hash of the program itself, which is read once.
pub(crate) fn code() -> String {
    static CODE: LazyLock<String> = LazyLock::new(|| {
        let commit = env!("YUSHAN_COMMIT");
        let program = std::env::current_exe().and_then(std::fs::read);
        match program {
            Ok(bytes) => format!("{commit}, program {}", &hex(&sha256(&bytes))[..16]),
            Err(_) => commit.to_owned(),
        }
    });
    CODE.clone()
}

/// The time in UTC.
pub(crate) fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    yushan_server::rfc3339(since.unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::expected;

    #[test]
    fn a_loss_is_said_with_or_without_its_width() {
        for (said, value) in [
            ("3.21", Some((3.21, None, None))),
            (" 3+-0.5", Some((3.0, Some(2.5), Some(3.5)))),
            ("3 ± 1", Some((3.0, Some(2.0), Some(4.0)))),
            ("-3", None),
            ("3+-", None),
            ("nan", None),
            ("prediction.json", None),
            ("", None),
        ] {
            let got = expected(said).map(|loss| (loss.value, loss.low, loss.high));
            assert_eq!(got, value, "{said:?}");
        }
    }
}
