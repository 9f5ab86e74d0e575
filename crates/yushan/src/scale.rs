//! `scale`: a ladder of small runs, planned, run, and fitted, so that a large one is known before it starts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use yushan_tensor::limits;
use yushan_train::decoder::{Keep, Shape};
use yushan_train::plan::dial::{self, Defaults, Overrides};
use yushan_train::plan::sizes::Convention;
use yushan_train::pretrain::{self, Job, measure};
use yushan_train::recipe::Recipe;
use yushan_train::report::{self, Log, energy};
use yushan_train::scaling::ladder::{Ladder, Request, Run, Speed};
use yushan_train::scaling::plots;
use yushan_train::scaling::report::{Options, of_records};
use yushan_train::scaling::runner::{self, Outcome, Prediction, Record};
use yushan_train::shard::Documents as _;
use yushan_train::shard::{Check, Shards, TRAIN};

use crate::exit::{BadFile, BadUsage, Interrupted};
use crate::interrupt::Interrupt;
use crate::train::live::Bar;
use crate::{flags, train};

/// Tokens of each hold-out that a run of a ladder is judged by.
const HELD_OUT: u64 = 262_144;

/// Looks at the hold-outs in a run: enough for a curve, and cheap beside a short run.
const LOOKS: u64 = 4;

/// Scaling laws: plan a ladder of small runs, run it, and see what a larger one will reach
#[derive(clap::Args)]
pub(crate) struct Scale {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Plan a ladder: several budgets, several sizes at each, and one larger run that is held back
    Plan(Plan),
    /// Train what is not trained yet, cheapest first; the held-back run is predicted before it starts
    Run(RunLadder),
    /// Fit the runs that are there: the laws side by side, with intervals and plots
    Fit(Fit),
}

#[derive(clap::Args)]
struct Plan {
    /// The folder that `data build` made
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Hours of this machine for all of it
    #[arg(long, value_name = "H", required_unless_present = "flops")]
    hours: Option<f64>,
    /// Floating-point operations for all of it, instead of hours
    #[arg(long, value_name = "F", conflicts_with = "hours")]
    flops: Option<f64>,
    /// Different budgets
    #[arg(long, value_name = "N", default_value_t = Request::default().budgets)]
    budgets: usize,
    /// Sizes at each budget
    #[arg(long, value_name = "N", default_value_t = Request::default().sizes)]
    sizes: usize,
    /// Budget of the held-back run, in largest budgets of the ladder; 0: none
    #[arg(long, value_name = "X", default_value_t = Request::default().held_back)]
    held_back: f64,
    /// Tokens of a row, for all runs
    #[arg(long, value_name = "N", default_value_t = 256)]
    context: usize,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "ladder.toml")]
    out: PathBuf,
    /// Threads to compute with [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    threads: Option<usize>,
}

#[derive(clap::Args)]
struct RunLadder {
    /// The ladder
    ladder: PathBuf,
    /// The folder that `data build` made
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The folder of its runs [default: runs/NAME of the ladder's file]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Threads to compute with [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    threads: Option<usize>,
}

#[derive(clap::Args)]
struct Fit {
    /// The folder of a ladder's runs
    folder: PathBuf,
    /// What counts as a parameter: all, with-head or without-embeddings
    #[arg(long, value_name = "WHAT", default_value = "all", value_parser = convention)]
    convention: Convention,
    /// Resamples for the intervals
    #[arg(long, value_name = "N", default_value_t = Options::default().resamples)]
    resamples: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn convention(name: &str) -> Result<Convention, String> {
    match name {
        "all" => Ok(Convention::All),
        "with-head" => Ok(Convention::WithHead),
        "without-embeddings" => Ok(Convention::WithoutEmbeddings),
        _ => Err("expected all, with-head or without-embeddings".into()),
    }
}

impl Scale {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Plan(plan) => plan.run(),
            What::Run(run) => run.run(),
            What::Fit(fit) => fit.run(),
        }
    }
}

impl Plan {
    fn run(self) -> Result<()> {
        let vocabulary = pretrain::tokenizer(&self.data)?.vocabulary_size();
        let shards = Shards::open(&self.data.join(pretrain::SHARDS), TRAIN, Check::Lazily)?;
        let threads = self.threads.unwrap_or_else(train::processors);
        let set = Overrides { context: Some(self.context), ..Overrides::default() };
        let request = |total| Request {
            total,
            budgets: self.budgets,
            sizes: self.sizes,
            held_back: self.held_back,
            vocabulary,
            corpus_tokens: Some(shards.tokens()),
            set: set.clone(),
            ..Request::default()
        };
        let ladder = match (self.flops, self.hours) {
            (Some(flops), _) => Ladder::plan(&request(flops))?,
            (None, Some(hours)) => {
                let depths = [1, 2, 4].map(|depth| dial::with(depth, vocabulary, &set));
                let dials: Vec<_> = depths.into_iter().collect::<yushan_train::Result<_>>()?;
                within(hours, &measured(&dials, threads)?, &request)?
            }
            (None, None) => return Err(BadUsage("give --hours or --flops".into()).into()),
        };
        // What is said of it is measured at its own sizes.
        let mut sizes: Vec<_> = ladder.runs.iter().map(|run| run.settings.clone()).collect();
        sizes.sort_by(|a, b| a.shape().flops_per_token().total_cmp(&b.shape().flops_per_token()));
        let some = [0, sizes.len() / 2, sizes.len() - 1].map(|at| sizes[at].clone());
        let speed = measured(&some, threads)?;
        ladder.save(&self.out)?;
        print!("{}", ladder.table(Some(&speed))?);
        println!("{}", self.out.display());
        Ok(())
    }
}

/// The speed of a few sizes, measured.
pub(crate) fn measured(dials: &[Defaults], threads: usize) -> Result<Speed> {
    let mut speeds = Vec::new();
    for dial in dials {
        let shape: Shape = Recipe::of_dial(dial).settle(dial.vocabulary)?.shape;
        let speed = measure::tokens_per_second(&shape, Keep::Everything, threads);
        eprintln!("{} layers of {}: {speed:.0} tokens a second", dial.depth, dial.dim);
        speeds.push((dial.shape().flops_per_token(), speed));
    }
    Ok(Speed::Measured(speeds))
}

/// The largest ladder that takes no longer.
fn within(hours: f64, speed: &Speed, request: &dyn Fn(f64) -> Request) -> Result<Ladder> {
    if !(hours > 0.0 && hours.is_finite()) {
        return Err(BadUsage(format!("--hours {hours}: expected more than 0")).into());
    }
    let time = |ladder: &Ladder| -> yushan_train::Result<f64> {
        ladder.runs.iter().map(|run| run.hours(speed)).sum()
    };
    // Time grows with the total, but in steps: batches and sizes are whole numbers.
    let (mut low, mut high) = (1e9_f64.ln(), 1e26_f64.ln());
    let mut best = None;
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        match Ladder::plan(&request(middle.exp())) {
            Ok(ladder) if time(&ladder)? <= hours => {
                best = Some(ladder);
                low = middle;
            }
            // Too long, or too small a total for a ladder at all.
            Ok(_) => high = middle,
            Err(_) if best.is_none() && middle.exp() < 1e16 => low = middle,
            Err(_) => high = middle,
        }
    }
    best.ok_or_else(|| {
        BadUsage(format!("no ladder fits {hours} hours; give more, or fewer --budgets and --sizes"))
            .into()
    })
}

impl RunLadder {
    fn run(self) -> Result<()> {
        let ladder = Ladder::load(&self.ladder)?;
        let name = self.ladder.file_stem().unwrap_or_default();
        let out = self.out.clone().unwrap_or_else(|| Path::new("runs").join(name));
        let threads = self.threads.unwrap_or_else(train::processors);
        let interrupt = Interrupt::catch_end()?;
        let peak = limits::peak_f32(threads);
        let mut stopped = false;
        let mut one = |run: &Run, prediction: Option<&Prediction>| {
            let outcome = self.train(run, prediction, &out, (threads, peak), &interrupt);
            stopped = interrupt.is_pressed();
            outcome
        };
        let records = runner::run(&ladder, &out, Convention::All, &mut one);
        if stopped {
            eprintln!("stopped; the same command goes on");
            return Err(Interrupted.into());
        }
        eprintln!("{} runs are done; yushan scale fit {}", records?.len(), out.display());
        println!("{}", out.display());
        Ok(())
    }

    fn train(
        &self,
        run: &Run,
        prediction: Option<&Prediction>,
        out: &Path,
        (threads, peak): (usize, f64),
        interrupt: &Interrupt,
    ) -> yushan_train::Result<Outcome> {
        let mut recipe = Recipe::of_dial(&run.settings);
        recipe.name = Some(run.name.clone());
        recipe.data.folder = Some(self.data.clone());
        recipe.evaluate.tokens = Some(HELD_OUT);
        recipe.evaluate.every = Some(run.settings.steps.div_ceil(LOOKS));
        recipe.sample.every = Some(0);
        let settings = recipe.settle(run.settings.vocabulary)?;
        let folder = out.join(&run.name);
        let job = Job {
            settings: &settings,
            folder: &folder,
            recipe: "",
            resume: true,
            threads,
            peak,
            commands: vec![train::command()],
            code: Some(train::code()),
            started: Some(train::now()),
            predicted: prediction.map(Prediction::expected),
            energy: Path::new(energy::ROOT),
        };
        let mut bar = Bar::new(interrupt);
        let done = pretrain::pretrain(&job, &mut yushan_collective::Alone, &mut bar);
        bar.finish();
        if !done?.finished {
            let detail = "it is saved, and goes on when the ladder does";
            return Err(yushan_train::Error::bad(format!("{} was stopped", run.name), detail));
        }
        let run = report::Run::read(&folder)?;
        let outcome = outcome(&run.log, settings.tokens());
        report::card(&[run])?.write(&folder)?;
        outcome.ok_or_else(|| {
            yushan_train::Error::bad(folder.display().to_string(), "no evaluation in its log")
        })
    }
}

fn outcome(log: &Log, tokens: u64) -> Option<Outcome> {
    let last_step = log.lines.iter().rev().find(|line| line.loss.is_some())?;
    let per_step = tokens as f64 / last_step.step.max(1) as f64;
    let moments = log
        .lines
        .iter()
        .filter_map(|line| Some(((line.step as f64 * per_step) as u64, line.held_out()?)));
    let curve: Vec<(u64, f64)> = moments.collect();
    let loss = curve.last()?.1;
    let seconds = last_step.seconds.unwrap_or_default();
    Some(Outcome { loss, tokens, seconds, curve, more: serde_json::Value::Null })
}

impl Fit {
    fn run(self) -> Result<()> {
        let records = runner::load(&self.folder)?;
        if records.is_empty() {
            let what = format!("{}: no finished runs", self.folder.display());
            return Err(BadFile(format!("{what}; yushan scale run LADDER makes them")).into());
        }
        let held_back = records.iter().filter(|record| record.run.held_back);
        let predicted = |record: &Record| {
            runner::predicted(&record.run, &self.folder, Convention::All, &records)
        };
        let predictions = held_back.map(predicted).collect::<yushan_train::Result<_>>()?;
        let options = Options {
            convention: self.convention,
            resamples: self.resamples,
            ..Options::default()
        };
        let report = of_records(&records, predictions, &options)?;
        let curves: Vec<_> =
            records.iter().filter_map(|record| record.training(self.convention)).collect();
        for (name, svg) in plots::all(&report, &curves)? {
            let path = self.folder.join(name);
            std::fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
            eprintln!("{}", path.display());
        }
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => print!("{}", report.table()),
        }
        Ok(())
    }
}
