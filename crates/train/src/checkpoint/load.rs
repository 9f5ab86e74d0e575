//! Reading checkpoints, of which nothing is believed that the manifest does not vouch for.
//!
//! The key decision: one pass. Hashes are taken while the numbers go to their place, and what does not fit is dropped
//! before anybody sees it. Sizes are checked against the files' own before anything is allocated, so that a file
//! of a stranger costs no more memory than it has bytes.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{Folder, Memory, Source};
use super::manifest::{self, Manifest};
use super::{
    Ends, MODEL, OPTIMIZER, REPLACED, STATE, Snapshot, State, TOKENIZER, folders, step_of, tensors,
};
use crate::decoder::{Shape, layout};
use crate::{Error, Result};

/// Bytes of a `state.json` and of a `tokenizer.json`, at most.
pub(super) const MOST_STATE: u64 = 64 << 20;
pub(super) const MOST_TOKENIZER: u64 = 256 << 20;
/// Bytes of another small file.
const MOST_SMALL: u64 = 1 << 20;
/// Vectors of an optimizer, and numbers in one.
const MOST_VECTORS: usize = 64;
const MOST_NUMBERS: u64 = 1 << 40;

/// `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateFile<'a> {
    pub(super) shape: Cow<'a, Shape>,
    pub(super) ends: Ends,
    /// The optimizer's vectors: name and length.
    pub(super) optimizer: Vec<(String, u64)>,
    /// SHA-256 of the recipe.
    pub(super) recipe_sha256: String,
    pub(super) state: Cow<'a, State>,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Loaded {
    /// Its folder.
    pub path: PathBuf,
    /// What it holds.
    pub snapshot: Snapshot<'static>,
    /// Newer ones that are damaged: for the log.
    pub rejected: Vec<Rejected>,
}

/// A checkpoint that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its folder.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// The checkpoints in a folder, newest first; none if the folder is not there.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let paths = folders(folder).map_err(|error| Error::io("reading", folder, error))?;
    let step = |path: PathBuf| {
        // One that was about to be replaced counts only where its successor does not.
        let replaced = step_of(&path, REPLACED).map(|step| (step, false, path.clone()));
        replaced.or_else(|| Some((step_of(&path, "")?, true, path)))
    };
    let mut found: Vec<_> = paths.into_iter().filter_map(step).collect();
    found.sort_by_key(|one| std::cmp::Reverse((one.0, one.1)));
    Ok(found.into_iter().map(|(step, _, path)| (step, path)).collect())
}

/// The newest whole checkpoint in a folder, or `None` if there is no checkpoint at all.
///
/// # Errors
/// [`Error::Bad`] when there are checkpoints, but none is whole; it names each and what is wrong with it.
pub fn load_latest(folder: &Path) -> Result<Option<Loaded>> {
    let mut rejected = Vec::new();
    for (_, path) in list(folder)? {
        match load(&path) {
            Ok(snapshot) => return Ok(Some(Loaded { path, snapshot, rejected })),
            Err(error) => rejected.push(Rejected { path, reason: error.to_string() }),
        }
    }
    if rejected.is_empty() {
        return Ok(None);
    }
    let reason = |one: &Rejected| format!("{}: {}", one.path.display(), one.reason);
    let reasons: Vec<String> = rejected.iter().map(reason).collect();
    let detail = format!(
        "none of {} is whole: {}; restore one from a copy, or remove them to begin anew",
        rejected.len(),
        reasons.join("; ")
    );
    Err(Error::bad(format!("checkpoints in {}", folder.display()), detail))
}

/// Reads one checkpoint.
///
/// # Errors
/// [`Error::Bad`] when it is not what was written, [`Error::Io`] when a file cannot be read.
pub fn load(path: &Path) -> Result<Snapshot<'static>> {
    let (step, snapshot) = read(&Folder(path))?;
    let named = step_of(path, "").or_else(|| step_of(path, REPLACED));
    if named.is_some_and(|named| named != step) {
        let detail = format!("of step {step}, but its folder is named {}", path.display());
        return Err(Error::bad(manifest::NAME, detail));
    }
    Ok(snapshot)
}

/// Reads a checkpoint whose files are in memory, the manifest made for them here: for tests and fuzzing.
///
/// # Errors
/// As [`load`].
pub fn parse(step: u64, files: &[(&str, &[u8])]) -> Result<Snapshot<'static>> {
    let entry = |(name, bytes): &(&str, &[u8])| manifest::Entry {
        name: (*name).into(),
        bytes: bytes.len() as u64,
        sha256: manifest::hash(bytes),
    };
    let text = Manifest::new(step, files.iter().map(entry).collect()).text();
    let given = files.iter().find(|(name, _)| *name == manifest::NAME);
    let mut all = files.to_vec();
    if given.is_none() {
        all.push((manifest::NAME, &text));
    }
    read(&Memory(&all)).map(|(_, snapshot)| snapshot)
}

fn read(source: &dyn Source) -> Result<(u64, Snapshot<'static>)> {
    let manifest = Manifest::read(source)?;
    let text = manifest.small(source, STATE, MOST_STATE)?;
    let file: StateFile<'static> =
        serde_json::from_slice(&text).map_err(|error| Error::bad(STATE, error.to_string()))?;
    let StateFile { shape, ends, optimizer, recipe_sha256, state } = file;
    let (shape, state) = (shape.into_owned(), state.into_owned());
    shape.check()?;
    if state.step != manifest.step {
        let detail = format!("of step {}, but its manifest is of {}", state.step, manifest.step);
        return Err(Error::bad(STATE, detail));
    }
    if manifest::hash(state.recipe.as_bytes()) != recipe_sha256 {
        return Err(Error::bad(STATE, "the recipe does not have the hash that stands there"));
    }
    let tokenizer = manifest.small(source, TOKENIZER, MOST_TOKENIZER)?;
    for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        manifest.small(source, name, MOST_SMALL)?;
    }
    let params = params(source, &manifest, &shape)?;
    let optimizer = vectors(source, &manifest, optimizer)?;
    let snapshot = Snapshot {
        shape,
        params: params.into(),
        optimizer,
        tokenizer: tokenizer.into(),
        ends,
        state,
    };
    Ok((manifest.step, snapshot))
}

/// The flat buffer of parameters.
fn params(source: &dyn Source, manifest: &Manifest, shape: &Shape) -> Result<Vec<f32>> {
    let entry = manifest.entry(MODEL)?;
    let file = source.open(MODEL).map_err(|error| Error::io("reading", MODEL, error))?;
    // Before the list of tensors is made: every layer has more than 64 bytes of header.
    let least = (shape.parameters() as u64 * 4).max(shape.layers as u64 * 64);
    if file.0 < least {
        let detail = format!("{} bytes, expected at least {least}", file.0);
        return Err(Error::bad(MODEL, detail));
    }
    let list = layout(shape);
    let items: Vec<tensors::Item<'_>> =
        list.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    let mut vectors = tensors::read(file, &items, &[shape.parameters()], entry)?;
    Ok(vectors.pop().unwrap_or_default())
}

/// The vectors of the optimizer.
fn vectors(
    source: &dyn Source,
    manifest: &Manifest,
    listed: Vec<(String, u64)>,
) -> Result<Vec<(String, Cow<'static, [f32]>)>> {
    let small = |(_, length): &(String, u64)| *length <= MOST_NUMBERS;
    if listed.len() > MOST_VECTORS || !listed.iter().all(small) {
        let detail = format!("{} vectors of an optimizer, or one too long", listed.len());
        return Err(Error::bad(STATE, detail));
    }
    let entry = manifest.entry(OPTIMIZER)?;
    let file = source.open(OPTIMIZER).map_err(|error| Error::io("reading", OPTIMIZER, error))?;
    let lengths: Vec<usize> = listed.iter().map(|(_, length)| *length as usize).collect();
    let items: Vec<tensors::Item<'_>> = listed
        .iter()
        .zip(&lengths)
        .map(|((name, _), length)| (name.as_str(), std::slice::from_ref(length)))
        .collect();
    let vectors = tensors::read(file, &items, &lengths, entry)?;
    Ok(listed.into_iter().map(|(name, _)| name).zip(vectors.into_iter().map(Cow::from)).collect())
}
