//! Writing checkpoints and exports.
//!
//! The key decision: the order of operations is the whole protocol (see [`super`]), so it stands in one function each:
//! [`fill`] writes a folder that has no name yet, [`publish`] gives it one, [`tidy`] removes what is too many.

use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::files::{Disk, Files};
use super::load::{MOST_STATE, MOST_TOKENIZER, StateFile, list};
use super::manifest::{self, Entry, Manifest};
use super::tensors::{self, Hashed, Type};
use super::{
    Ends, MODEL, OPTIMIZER, PARTIAL, REMOVED, REPLACED, STATE, Snapshot, TOKENIZER, folder_name,
    folders, hugging_face, step_of,
};
use crate::decoder::{Shape, layout};
use crate::{Error, Result};

/// Which checkpoints stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many, at least one: two, so that one is whole whatever happens to the other.
    pub newest: usize,
    /// And for ever those whose step this divides; none if 0.
    pub every: u64,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { newest: 2, every: 0 }
    }
}

/// What a save did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Older ones that were removed.
    pub removed: Vec<PathBuf>,
    /// What could not be tidied up; the checkpoint itself is whole.
    pub warnings: Vec<String>,
}

/// Saves a checkpoint as `folder/step-NNNNNN`. When it returns, the checkpoint survives a loss of power. One of the
/// same step is replaced, and those of later steps, which a roll-back has left, are removed.
///
/// # Errors
/// [`Error::Bad`] when the snapshot does not fit together, or a file could not be written, say because the disk is
/// full. The checkpoints before are untouched then, nothing partial is left, and the run may go on.
pub fn save(folder: &Path, snapshot: &Snapshot<'_>, keep: Keep) -> Result<Saved> {
    make_all(folder).map_err(|error| Error::io("making", folder, error))?;
    save_with(&Disk, folder, snapshot, keep)
}

/// Makes a folder and those around it, and returns when their names are on the disk.
fn make_all(folder: &Path) -> io::Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let made: Vec<&Path> = folder.ancestors().take_while(missing).collect();
    std::fs::create_dir_all(folder)?;
    made.into_iter().try_for_each(|path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Disk.sync_folder(parent),
        _ => Disk.sync_folder(Path::new(".")),
    })
}

pub(super) fn save_with(
    files: &dyn Files,
    folder: &Path,
    snapshot: &Snapshot<'_>,
    keep: Keep,
) -> Result<Saved> {
    let step = snapshot.state.step;
    let small = small_files(snapshot)?;
    let mut warnings = Vec::new();
    sweep(files, folder, &mut warnings);
    let name = folder_name(step);
    let partial = folder.join(format!("{PARTIAL}{name}"));
    let path = folder.join(&name);
    let written = fill(files, &partial, snapshot, &small)
        .and_then(|bytes| publish(files, folder, &name).map(|()| bytes));
    let bytes = written.map_err(|(doing, error)| {
        let _ = files.remove(&partial);
        let full = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let needed = (snapshot.params.len() as u64 + optimizer_numbers(snapshot)) * 4;
                format!(" (it takes about {} MB)", needed.div_ceil(1_000_000))
            }
            _ => String::new(),
        };
        let detail = format!(
            "{doing}: {error}{full}; the checkpoints before are untouched and the run can go on: make room, or \
             name another folder, before the next one is due"
        );
        Error::bad(format!("saving {}", path.display()), detail)
    })?;
    let removed = tidy(files, folder, step, keep, &mut warnings);
    Ok(Saved { path, bytes, removed, warnings })
}

fn optimizer_numbers(snapshot: &Snapshot<'_>) -> u64 {
    snapshot.optimizer.iter().map(|(_, vector)| vector.len() as u64).sum()
}

/// An operation that failed, and what it was.
type Failed = (String, io::Error);

/// Files that are made in memory: name and content.
type Small<'a> = Vec<(&'static str, Cow<'a, [u8]>)>;

/// Checks that the snapshot fits together, before the disk is touched.
fn small_files<'a>(snapshot: &'a Snapshot<'_>) -> Result<Small<'a>> {
    let Snapshot { shape, params, optimizer, tokenizer, ends, state } = snapshot;
    let bad =
        |detail: String| Err(Error::bad(format!("checkpoint of step {}", state.step), detail));
    let mut small = model_files(shape, *ends, tokenizer, Type::F32)?;
    if params.len() != shape.parameters() {
        let expected = shape.parameters();
        return bad(format!("{} parameters, but its shape has {expected}", params.len()));
    }
    let names = optimizer.iter().map(|(name, _)| name.as_str());
    if let Some(name) = names.clone().find(|name| names.clone().filter(|n| n == name).count() > 1) {
        return bad(format!("two vectors of the optimizer are called {name:?}"));
    }
    let file = StateFile {
        shape: Cow::Borrowed(shape),
        ends: *ends,
        optimizer: optimizer.iter().map(|(name, v)| (name.clone(), v.len() as u64)).collect(),
        recipe_sha256: manifest::hash(state.recipe.as_bytes()),
        state: Cow::Borrowed(state),
    };
    let mut text =
        serde_json::to_vec_pretty(&file).map_err(|error| Error::bad(STATE, error.to_string()))?;
    text.push(b'\n');
    let most = [(STATE, text.len() as u64, MOST_STATE)];
    let tokenizer = [(TOKENIZER, tokenizer.len() as u64, MOST_TOKENIZER)];
    for (name, bytes, most) in most.into_iter().chain(tokenizer) {
        if bytes > most {
            return bad(format!("{name} would have {bytes} bytes, at most {most} can be read"));
        }
    }
    small.push((STATE, text.into()));
    Ok(small)
}

/// The small files of a model that anybody loads.
fn model_files<'a>(
    shape: &Shape,
    ends: Ends,
    tokenizer: &'a [u8],
    kind: Type,
) -> Result<Small<'a>> {
    shape.check()?;
    for id in [ends.bos, ends.eos] {
        if id as usize >= shape.vocabulary {
            let detail = format!("{id} is none of the {} tokens", shape.vocabulary);
            return Err(Error::bad("token that begins or ends a text", detail));
        }
    }
    Ok(vec![
        ("config.json", hugging_face::config(shape, ends, kind).into()),
        ("generation_config.json", hugging_face::generation_config(ends).into()),
        ("tokenizer_config.json", hugging_face::tokenizer_config(shape, ends, tokenizer)?.into()),
        (TOKENIZER, tokenizer.into()),
    ])
}

/// Writes everything into a new folder and returns when it is on the disk, with its bytes.
fn fill(
    files: &dyn Files,
    folder: &Path,
    snapshot: &Snapshot<'_>,
    small: &Small<'_>,
) -> std::result::Result<u64, Failed> {
    files.make_folder(folder).map_err(|error| ("making its folder".into(), error))?;
    let mut entries = Vec::new();
    for (name, bytes) in small {
        entries.push(write(files, folder, name, &mut |to| to.write_all(bytes))?);
    }
    entries.push(write_model(files, folder, &snapshot.shape, &snapshot.params, Type::F32)?);
    let lengths: Vec<[usize; 1]> = snapshot.optimizer.iter().map(|(_, v)| [v.len()]).collect();
    let names = snapshot.optimizer.iter().map(|(name, _)| name.as_str());
    let items: Vec<tensors::Item<'_>> =
        names.zip(&lengths).map(|(name, length)| (name, length.as_slice())).collect();
    entries.push(write(files, folder, OPTIMIZER, &mut |to| {
        to.write_all(&tensors::header(&items, Type::F32))?;
        snapshot.optimizer.iter().try_for_each(|(_, v)| tensors::write(v, Type::F32, to))
    })?);
    let manifest = Manifest::new(snapshot.state.step, entries);
    let bytes: u64 = manifest.files.iter().map(|entry| entry.bytes).sum();
    let text = manifest.text();
    let own = write(files, folder, manifest::NAME, &mut |to| to.write_all(&text))?;
    files.sync_folder(folder).map_err(|error| ("syncing its folder".into(), error))?;
    Ok(bytes + own.bytes)
}

fn write_model(
    files: &dyn Files,
    folder: &Path,
    shape: &Shape,
    params: &[f32],
    kind: Type,
) -> std::result::Result<Entry, Failed> {
    let list = layout(shape);
    let items: Vec<tensors::Item<'_>> =
        list.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    write(files, folder, MODEL, &mut |to| {
        to.write_all(&tensors::header(&items, kind))?;
        tensors::write(params, kind, to)
    })
}

/// Writes one file and returns when it is on the disk.
fn write(
    files: &dyn Files,
    folder: &Path,
    name: &str,
    content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> std::result::Result<Entry, Failed> {
    let result = files.create(&folder.join(name)).and_then(|sink| {
        let mut hashed = Hashed::new(sink);
        content(&mut hashed)?;
        let (entry, mut sink) = hashed.finish(name);
        sink.sync()?;
        Ok(entry)
    });
    result.map_err(|error| (format!("writing {name}"), error))
}

/// Gives a folder that is on the disk its name, and returns when that is on the disk too. At every moment one of the
/// two of the same step can be found.
fn publish(files: &dyn Files, folder: &Path, name: &str) -> std::result::Result<(), Failed> {
    let (partial, path) = (folder.join(format!("{PARTIAL}{name}")), folder.join(name));
    let replaced = folder.join(format!("{REPLACED}{name}"));
    let failed = |error| ("giving it its name".to_string(), error);
    let replaces = path.symlink_metadata().is_ok();
    if replaces {
        files.rename(&path, &replaced).map_err(failed)?;
    }
    if let Err(error) = files.rename(&partial, &path) {
        if replaces {
            let _ = files.rename(&replaced, &path);
        }
        return Err(failed(error));
    }
    files.sync_folder(folder).map_err(|error| ("syncing the folder around it".into(), error))
}

/// Removes what crashes have left: folders that were being written, replaced or removed.
fn sweep(files: &dyn Files, folder: &Path, warnings: &mut Vec<String>) {
    let found = folders(folder).unwrap_or_default();
    for path in found {
        let name = path.file_name().unwrap_or_default();
        let whole = |step| folder.join(folder_name(step)).exists();
        let stale = [PARTIAL, REMOVED].iter().any(|before| step_of(&path, before).is_some())
            // The only one of its step is no left-over.
            || step_of(&path, REPLACED).is_some_and(whole);
        if stale && let Err(error) = files.remove(&path) {
            warnings.push(format!("{}: left by a crash, not removed: {error}", name.display()));
        }
    }
}

/// Removes what is too many after a save, and what a roll-back has left: first its name, then its files, so that
/// nothing half removed passes for a checkpoint.
fn tidy(
    files: &dyn Files,
    folder: &Path,
    step: u64,
    keep: Keep,
    warnings: &mut Vec<String>,
) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    let found = match list(folder) {
        Ok(found) => found,
        Err(error) => {
            warnings.push(error.to_string());
            return removed;
        }
    };
    let (mut newest, mut before) = (0, None);
    for (other, path) in found {
        // Of two of one step the first is the successor.
        let replaced = before.replace(other) == Some(other);
        newest += usize::from(other <= step && !replaced);
        let milestone = keep.every > 0 && other.is_multiple_of(keep.every);
        let kept = other <= step && !replaced && (newest <= keep.newest.max(1) || milestone);
        if kept {
            continue;
        }
        let aside = folder.join(format!("{REMOVED}{}", folder_name(other)));
        let gone = files
            .rename(&path, &aside)
            .and_then(|()| files.sync_folder(folder))
            .and_then(|()| files.remove(&aside));
        match gone {
            Ok(()) => removed.push(path),
            Err(error) => warnings.push(format!("{}: not removed: {error}", path.display())),
        }
    }
    removed
}

/// Writes the model alone to a new folder `to`: what serving needs, in a type of choice.
///
/// # Errors
/// [`Error::Bad`] when `to` is there already or the snapshot does not fit together; [`Error::Io`] when it cannot be
/// written, and nothing is left then.
pub fn export(to: &Path, snapshot: &Snapshot<'_>, kind: Type) -> Result<()> {
    let small = model_files(&snapshot.shape, snapshot.ends, &snapshot.tokenizer, kind)?;
    if snapshot.params.len() != snapshot.shape.parameters() {
        return Err(Error::bad("model to export", "its parameters are not those of its shape"));
    }
    let name = to.file_name().unwrap_or_default();
    if to.symlink_metadata().is_ok() || name.is_empty() {
        let detail = "is there already; name a folder that is not";
        return Err(Error::bad(to.display().to_string(), detail));
    }
    let parent = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(|error| Error::io("making", parent, error))?;
    let partial = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(parent);
    let partial = partial.map_err(|error| Error::io("making a folder in", parent, error))?;
    let inside = partial.path().join(name);
    let written = Disk.make_folder(&inside).map_err(|error| ("making it".into(), error));
    let written = written.and_then(|()| {
        for (name, bytes) in &small {
            write(&Disk, &inside, name, &mut |to| to.write_all(bytes))?;
        }
        write_model(&Disk, &inside, &snapshot.shape, &snapshot.params, kind)?;
        let sync = Disk.sync_folder(&inside).and_then(|()| Disk.rename(&inside, to));
        sync.and_then(|()| Disk.sync_folder(parent)).map_err(|error| ("naming it".into(), error))
    });
    written.map_err(|(doing, error): Failed| {
        Error::bad(format!("exporting to {}", to.display()), format!("{doing}: {error}"))
    })
}

/// Writes the model in a checkpoint's or an export's folder as one GGUF file. Returns what a person should know of
/// it, one sentence each.
///
/// # Errors
/// Those of [`yushan_model::convert::convert`].
pub fn export_gguf(folder: &Path, output: &Path) -> Result<Vec<String>> {
    let go_on = &mut |_, _, _: &str| ControlFlow::Continue(());
    Ok(yushan_model::convert::convert(folder, None, output, go_on)?.warnings)
}
