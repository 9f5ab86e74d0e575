//! `train`: from shards of tokens to a base model, and a look at a run.
//!
//! The loop is the library's (`yushan_train::pretrain`); here are its flags, its bar, and the end of the program.

pub(crate) mod live;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use yushan_tensor::limits;
use yushan_train::digest::{hex, sha256};
use yushan_train::pretrain::{self, Job};
use yushan_train::recipe::{Recipe, Settings};
use yushan_train::report::{self, Run};

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

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Train {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Pretrain(pretrain) => pretrain.run(),
            What::Watch(watch) => watch.run(),
        }
    }
}

impl Pretrain {
    fn run(self) -> Result<()> {
        let mut ranks = yushan_collective::connect()?;
        let (text, settings) = self.settings()?;
        let folder = self.run.clone().unwrap_or_else(|| Path::new("runs").join(&settings.name));
        let threads = self.threads.unwrap_or_else(processors);
        let interrupt = Interrupt::catch_end()?;
        let job = Job {
            settings: &settings,
            folder: &folder,
            recipe: &text,
            resume: self.resume,
            threads,
            peak: limits::peak_f32(threads),
            commands: vec![command()],
            code: Some(code()),
            started: Some(now()),
            predicted: None,
        };
        let mut bar = live::Bar::new(&interrupt);
        let outcome = pretrain::pretrain(&job, ranks.as_mut(), &mut bar);
        bar.finish();
        let outcome = outcome?;
        let first = ranks.rank() == 0;
        ranks.leave()?;
        if !first {
            return Ok(());
        }
        report::card(&[Run::read(&folder)?])?.write(&folder)?;
        if !outcome.finished {
            eprintln!("stopped after step {}; go on with --resume", outcome.step);
            return Err(Interrupted.into());
        }
        let Some(checkpoint) = &outcome.checkpoint else {
            eprintln!("warning: the last checkpoint could not be saved, so there is no GGUF file");
            return Ok(());
        };
        let file = folder.join(format!("{}.gguf", settings.name));
        if file.exists() {
            std::fs::remove_file(&file).with_context(|| format!("replacing {}", file.display()))?;
        }
        for warning in yushan_train::checkpoint::export_gguf(checkpoint, &file)? {
            eprintln!("warning: {warning}");
        }
        eprintln!("{}", folder.join("report.html").display());
        println!("{}", file.display());
        Ok(())
    }

    /// The recipe's text, and the settings that follow from it.
    fn settings(&self) -> Result<(String, Settings)> {
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

/// The commit that this program was built from, and the hash of the program itself.
pub(crate) fn code() -> String {
    let commit = env!("YUSHAN_COMMIT");
    let program = std::env::current_exe().and_then(std::fs::read);
    match program {
        Ok(bytes) => format!("{commit}, program {}", &hex(&sha256(&bytes))[..16]),
        Err(_) => commit.to_owned(),
    }
}

/// The time in UTC.
pub(crate) fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    yushan_server::rfc3339(since.unwrap_or_default().as_secs())
}
