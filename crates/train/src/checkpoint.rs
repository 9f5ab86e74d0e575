//! Checkpoints: a folder for each saved step, in Hugging Face's layout, that survives a crash at any point.
//!
//! `step-000123/` holds `model.safetensors`, `config.json`, `generation_config.json`, `tokenizer.json` and
//! `tokenizer_config.json`, which any program that reads a Llama loads as they are, and `optimizer.safetensors`,
//! `state.json` and `manifest.json`, which this one needs to go on as if it had never stopped.
//!
//! The key decision: a name is given last. Everything is written to a folder of another name in the same place, each
//! file synced, then the manifest with all hashes, then the folder; one rename makes it a checkpoint, and the parent
//! is synced before anything older is removed. Loading trusts nothing: a checkpoint that differs from its
//! manifest in one bit is passed over, for a reason that is told, and the one before is taken.
//!
//! It does not lock: one process saves to a folder at a time. It knows neither ranks nor what the states mean.

mod files;
mod hugging_face;
mod load;
mod manifest;
mod save;
mod tensors;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decoder::Shape;
use crate::order;

pub use load::{Loaded, Rejected, list, load, load_latest, parse};
pub use save::{Keep, Saved, export, export_gguf, save};
pub use tensors::Type;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const TOKENIZER: &str = "tokenizer.json";

/// Before the number of a checkpoint's step.
const PREFIX: &str = "step-";
/// A folder that is being written.
const PARTIAL: &str = ".partial-";
/// One that another of the same step is about to replace: still a checkpoint.
const REPLACED: &str = ".replaced-";
/// One that is being removed.
const REMOVED: &str = ".removed-";

/// All that a run is at one step. Borrowed when saved, owned when loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<'a> {
    /// The sizes of the decoder.
    pub shape: Shape,
    /// The flat buffer of parameters, in the order of [`crate::decoder::layout`].
    pub params: Cow<'a, [f32]>,
    /// What the optimizer remembers, by name.
    pub optimizer: Vec<(String, Cow<'a, [f32]>)>,
    /// `tokenizer.json`, as it is.
    pub tokenizer: Cow<'a, [u8]>,
    /// The tokens that begin and end a text.
    pub ends: Ends,
    /// Everything small.
    pub state: State,
}

/// The tokens that begin and end a text; often the same one. Both must be among the tokenizer's `added_tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// Before every text (`bos_token_id`).
    pub bos: u32,
    /// Where generation stops (`eos_token_id`).
    pub eos: u32,
}

/// What a run remembers besides its vectors. Floating-point numbers come back with the same bits; numbers that are
/// not finite cannot stand in JSON, keep them out of the values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Steps that are done.
    pub step: u64,
    /// Where the data order stands.
    pub cursor: order::Cursor,
    /// Updates that the optimizer made.
    pub updates: u64,
    /// States of random number generators.
    pub rng: Vec<u64>,
    /// What the learning-rate schedule remembers.
    pub schedule: Value,
    /// What the detection of loss spikes remembers.
    pub spikes: Value,
    /// The recipe, as text.
    pub recipe: String,
    /// Anything else.
    pub metadata: Value,
}

/// The name of a checkpoint's folder.
pub fn folder_name(step: u64) -> String {
    format!("{PREFIX}{step:06}")
}

/// The step in a folder's name, with `before` in front of it.
fn step_of(path: &Path, before: &str) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix(before)?.strip_prefix(PREFIX)?;
    let step = name.parse().ok()?;
    (name == format!("{step:06}")).then_some(step)
}

/// The folders inside one; none if it is not there.
fn folders(parent: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
