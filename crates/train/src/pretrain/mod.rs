//! The pretraining loop: rows → forward and backward → sum over ranks → clip → update → log, and now and then an
//! evaluation, samples and a checkpoint.
//!
//! The key decision: everything that decides what comes next lies in a checkpoint (weights, optimizer, step, place in
//! the data, the window that spikes are judged by), and nothing else is read: no clock, no number of threads, no log.
//! So a run that is killed anywhere and resumed gives the same bits as one that was not.

mod begin;
mod look;
pub mod measure;
pub mod memory;
mod spikes;
mod step;
mod voice;

use std::path::{Path, PathBuf};

use yushan_collective::Collective;
use yushan_model::tokenizer::Tokenizer;

use crate::recipe::Settings;
use crate::report::{Event, EventKind, Line, Predicted, Run};
use crate::{Error, Result};

pub use begin::Data;
pub use step::Trainer;

/// Where the shards lie in a folder that `yushan data build` made; the tokenizer lies beside them.
pub const SHARDS: &str = "shards";

/// The cleaned documents in a folder of `yushan data build`.
pub const CORPUS: &str = "corpus";

/// A run as it is asked for.
pub struct Job<'a> {
    /// What is trained and how.
    pub settings: &'a Settings,
    /// The run's folder.
    pub folder: &'a Path,
    /// The recipe as it was written, for the record.
    pub recipe: &'a str,
    /// Go on where the last checkpoint is, if there is one.
    pub resume: bool,
    /// Threads of this rank.
    pub threads: usize,
    /// Floating-point operations a second that these threads reach at most, measured.
    pub peak: f64,
    /// The commands that repeat the run.
    pub commands: Vec<String>,
    /// The version of the code.
    pub code: Option<String>,
    /// When the run started, RFC 3339.
    pub started: Option<String>,
    /// What is expected of the run.
    pub predicted: Option<Predicted>,
    /// The folder of the energy counters: [`crate::report::energy::ROOT`] under Linux.
    pub energy: &'a Path,
}

/// Who looks on, on rank 0.
pub trait Watch {
    /// The run stands at `step`; it begins, or goes on.
    fn began(&mut self, settings: &Settings, step: u64);
    /// A step, an event, samples or an evaluation was written to the log.
    fn line(&mut self, line: &Line);
    /// Whether the run is to be saved and left.
    fn stop(&mut self) -> bool;
}

/// Nobody looks on.
pub struct Unwatched;

impl Watch for Unwatched {
    fn began(&mut self, _: &Settings, _: u64) {}
    fn line(&mut self, _: &Line) {}
    fn stop(&mut self) -> bool {
        false
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Whether all are.
    pub finished: bool,
    /// The last line with an evaluation.
    pub evaluation: Option<Line>,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
}

/// Trains from the start or from the last checkpoint until the last step, or until somebody says stop.
///
/// # Errors
/// Data that is damaged or of another tokenizer, a run that is there already, too little memory, ranks that
/// disagree, a loss that does not come back.
pub fn pretrain(
    job: &Job<'_>,
    ranks: &mut dyn Collective,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let mut trainer = Trainer::begin(job, ranks)?;
    watch.began(job.settings, trainer.steps());
    trainer.run(watch)
}

/// Whether a folder holds the run of these settings, done to its end.
pub fn is_finished(settings: &Settings, folder: &Path) -> bool {
    let ended =
        |line: &Line| line.event.as_ref().is_some_and(|event| event.kind == EventKind::Finished);
    Run::read(folder).is_ok_and(|run| {
        run.file.recipe == begin::recipe(settings) && run.log.lines.iter().any(ended)
    })
}

/// The tokenizer that stands in a folder of shards.
///
/// # Errors
/// When it is not there, or is none.
pub fn tokenizer(data: &Path) -> Result<Tokenizer> {
    Ok(Tokenizer::from_hugging_face(data)?)
}

/// `tokenizer.json` of a folder of shards.
fn tokenizer_json(data: &Path) -> Result<Vec<u8>> {
    let path = data.join("tokenizer.json");
    std::fs::read(&path).map_err(|error| Error::io("reading", path, error))
}

/// An event as a line of the log.
fn event(step: u64, event: Event) -> Line {
    Line { step, event: Some(event), ..Line::default() }
}
