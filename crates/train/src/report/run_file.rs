//! `RUN/run.json`: what a run is, written once before its first step.
//!
//! The key decision: everything that is needed to repeat the run stands here and nothing that changes
//! while it goes on; that is the log's. Every field but the name may be missing, so that a report can
//! be made of older runs and of runs of others.

use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::environment::Environment;
use crate::{Error, Result};

/// The file's name in a run's folder.
pub const RUN_FILE: &str = "run.json";
/// Bytes of a run file; recipes are small.
const LARGEST: u64 = 16 << 20;

/// What is known of a run before it starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFile {
    /// For people: the folder's name, unless the recipe gives one.
    pub name: String,
    /// The recipe as it ran, TOML, with every value that one dial set.
    pub recipe: String,
    /// The commands that repeat the run, in order, as one would type them.
    pub commands: Vec<String>,
    /// The decoder's shape, in the names of the recipe.
    pub shape: serde_json::Value,
    /// Parameters, all of them; the report says that embeddings are included.
    pub parameters: Option<u64>,
    /// Of these, embeddings (and the head, if it is not tied).
    pub embedding_parameters: Option<u64>,
    /// Steps to do.
    pub steps: Option<u64>,
    /// Tokens of one step, over all ranks.
    pub batch_tokens: Option<u64>,
    /// The seed of parameters, data order and samples.
    pub seed: Option<u64>,
    /// Ranks that share the work.
    pub ranks: Option<u64>,
    /// The machine (of rank 0).
    pub environment: Environment,
    /// What it was trained and tested on.
    pub data: Vec<DataFile>,
    /// Hash of the code: a commit, with `-dirty` if the tree was not clean.
    pub code: Option<String>,
    /// When it started, RFC 3339, UTC.
    pub started: Option<String>,
    /// What an hour of the machine costs, as the recipe says.
    pub price: Option<Price>,
    /// What was expected of it, before its first step.
    pub predicted: Option<Predicted>,
}

/// A file or a set of files that went in, and how to know that it is the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataFile {
    /// Its name: a path from the recipe's folder, or a source's name.
    pub name: String,
    /// `train`, `hold-out`, `tokenizer`.
    pub role: String,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// Its tokens, where it is tokenized.
    pub tokens: Option<u64>,
    /// UTF-8 bytes of its text.
    pub bytes: Option<u64>,
    /// Its licence, as its source says.
    pub licence: Option<String>,
}

/// The price of an hour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Price {
    /// Of all ranks together.
    pub per_hour: f64,
    /// `USD`, `TWD`, …
    pub currency: String,
}

/// What was expected of a run. A value with an interval says how wide in its `low` and `high`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Predicted {
    /// Final loss, nats a token.
    pub loss: Option<Expected>,
    /// The hold-out whose loss that is, or [`ALL_HOLD_OUTS`]; the training loss if there is none.
    pub hold_out: Option<String>,
    /// Wall-clock seconds.
    pub seconds: Option<Expected>,
    /// Money, in the recipe's currency.
    pub cost: Option<Expected>,
    /// Loss after so many steps, if the prediction is a curve.
    pub curve: Vec<(u64, f64)>,
    /// How it was made: the law, the fit, its file.
    pub by: String,
}

/// In place of a hold-out's name: the mean over the tokens of all of them.
pub const ALL_HOLD_OUTS: &str = "*";

/// A predicted value, and the interval it should lie in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The value.
    pub value: f64,
    /// The interval's lower end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The interval's upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

impl RunFile {
    /// Of the folder `run`. A folder without one is a run without a name: its folder's is taken.
    pub fn read(run: &Path) -> Result<RunFile> {
        let path = run.join(RUN_FILE);
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file.take(LARGEST),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(RunFile { name: folder_name(run), ..RunFile::default() });
            }
            Err(e) => return Err(Error::io("opening", path, e)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| Error::io("reading", &path, e))?;
        let mut this: RunFile = serde_json::from_slice(&bytes).map_err(|e| {
            let detail = format!("{e}; expected what `yushan train pretrain` writes there");
            Error::bad(path.display().to_string(), detail)
        })?;
        if this.name.is_empty() {
            this.name = folder_name(run);
        }
        Ok(this)
    }

    /// Writes it into the folder `run`, all or nothing.
    pub fn write(&self, run: &Path) -> Result<()> {
        let path = run.join(RUN_FILE);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::bad(path.display().to_string(), e.to_string()))?;
        text.push(b'\n');
        replace(&path, &text)
    }
}

fn folder_name(run: &Path) -> String {
    let whole = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
    whole.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned())
}

/// Writes a file beside its place and moves it there, so that a reader sees the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| Error::io("writing", path, e);
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = std::path::PathBuf::from(beside);
    let written = std::fs::File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_data()))
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // What is left of it is of no use; that it was not written is what counts.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(failed)
}
