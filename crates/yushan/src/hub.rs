//! Where models are kept, and how they get there from a Hugging Face-style hub.
//!
//! The key decision: the folder is the catalogue. `hf:owner/repo:file` lies at
//! `HOME/models/owner/repo/file`, so listing walks the folder and removing deletes the file; there
//! is no index that could disagree with the disk. A name from outside becomes a path only through
//! [`Name`], part by part.
//!
//! Not here: uploading, revisions other than `main`, reading models (`yushan-model`).

mod fetch;
mod name;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use yushan_model::gguf::Gguf;

use crate::exit::{BadFile, BadUsage};
use fetch::Fetcher;
use name::{Name, parts_of_split};

/// What the environment may say, for `--help`.
pub(crate) const VARIABLES: &str = "Environment:
  YUSHAN_HUB   the hub's address (else HF_ENDPOINT, else https://huggingface.co)
  HF_TOKEN     the token for private and gated models
  YUSHAN_HOME  where models are kept (else yushan in the XDG data folder)";

const HUGGING_FACE: &str = "https://huggingface.co";
/// The files of a folder with safetensors that are fetched besides the weights, where they are.
const BESIDE_WEIGHTS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// A model that is kept here.
pub(crate) struct Held {
    /// As `pull` and `run` take it.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// A file, or the folder of a model with safetensors.
    pub(crate) path: PathBuf,
}

impl Held {
    /// The format, and what a GGUF file says of itself.
    pub(crate) fn kind(&self) -> String {
        if self.path.is_dir() { "safetensors".into() } else { kind(&self.path) }
    }
}

/// The data home: `YUSHAN_HOME`, or `yushan` in the XDG data folder.
pub(crate) fn home() -> Result<PathBuf> {
    if let Some(home) = variable("YUSHAN_HOME") {
        return Ok(home.into());
    }
    match (variable("XDG_DATA_HOME"), variable("HOME")) {
        (Some(data), _) => Ok(PathBuf::from(data).join("yushan")),
        (None, Some(home)) => Ok(PathBuf::from(home).join(".local/share/yushan")),
        (None, None) => bail!("there is no home folder: set YUSHAN_HOME"),
    }
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Fetches what `hf:owner/repo:file` or `hf:owner/repo` names, unless it is here unchanged, and
/// gives its path.
pub(crate) fn pull(name: &str) -> Result<PathBuf> {
    Hub::from_environment()?.pull(&Name::parse(name)?)
}

/// The models that are here, by name.
pub(crate) fn list() -> Result<Vec<Held>> {
    Hub::from_environment()?.list()
}

/// Deletes a model and gives how many bytes that freed.
pub(crate) fn remove(name: &str) -> Result<u64> {
    Hub::from_environment()?.remove(name)
}

/// The path a name stands for: that of a file or folder, of a pulled model (by its full name or
/// its file's), or of one on the hub, which is pulled if it is not here.
pub(crate) fn resolve(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    Hub::from_environment()?.resolve(name)
}

/// A hub and the place where its models are kept.
struct Hub {
    base: String,
    token: Option<String>,
    /// `HOME/models`.
    models: PathBuf,
    /// Before a broken download is taken up again.
    pause: Duration,
}

impl Hub {
    fn from_environment() -> Result<Self> {
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        let base = text("YUSHAN_HUB").or_else(|| text("HF_ENDPOINT"));
        Ok(Hub {
            base: base.unwrap_or_else(|| HUGGING_FACE.to_string()),
            token: text("HF_TOKEN"),
            models: home()?.join("models"),
            pause: Duration::from_secs(2),
        })
    }

    fn fetcher(&self) -> Result<Fetcher<'_>> {
        Fetcher::new(&self.base, self.token.as_deref(), self.pause)
    }

    fn pull(&self, name: &Name) -> Result<PathBuf> {
        let fetcher = self.fetcher()?;
        let files = match name.file() {
            Some(file) => parts_of_split(file),
            None => wanted(name, &fetcher.list(name)?)?,
        };
        for file in &files {
            // What the hub lists is as little trusted as what a person types.
            let one = name.with_file(file).map_err(|why| BadFile(why.to_string()))?;
            let to = self.models.join(one.path());
            fetcher.fetch(&one, &to).inspect_err(|_| self.prune(&to))?;
        }
        let folder = self.models.join(name.repository());
        match (name.file(), &files[..]) {
            (None, [first, ..]) if !is_gguf(first) => Ok(folder),
            (_, [first, ..]) => Ok(folder.join(first)),
            _ => bail!("{name}: no file to fetch"),
        }
    }

    fn resolve(&self, name: &str) -> Result<PathBuf> {
        let held = self.list()?;
        if let Some(model) = held.iter().find(|model| model.name == name) {
            return Ok(model.path.clone());
        }
        if name.starts_with(name::SCHEME) {
            let name = Name::parse(name)?;
            return match self.only_inside(&name, &held) {
                Some(only) => Ok(only.path.clone()),
                None => self.pull(&name),
            };
        }
        Ok(self.by_file_name(name, &held)?.path.clone())
    }

    /// A folder's name stands for the only file in it too.
    fn only_inside<'a>(&self, name: &Name, held: &'a [Held]) -> Option<&'a Held> {
        let folder = self.models.join(name.repository());
        let mut inside = held.iter().filter(|model| model.path.parent() == Some(&folder));
        match (name.file(), inside.next(), inside.next()) {
            (None, only, None) => only,
            _ => None,
        }
    }

    fn remove(&self, name: &str) -> Result<u64> {
        let held = self.list()?;
        let model = match held.iter().find(|model| model.name == name) {
            Some(model) => model,
            None if name.starts_with(name::SCHEME) => {
                let missing = || BadFile(format!("{name} is not here; see yushan models"));
                self.only_inside(&Name::parse(name)?, &held).ok_or_else(missing)?
            }
            None if held.iter().any(|model| is_named(model, name)) => {
                self.by_file_name(name, &held)?
            }
            None => {
                let why = format!("no pulled model is called {name:?}; see yushan models");
                return Err(BadFile(why).into());
            }
        };
        if model.path.is_dir() {
            fs::remove_dir_all(&model.path).with_context(|| model.path.display().to_string())?;
        } else {
            for part in parts(&model.path) {
                fs::remove_file(&part).with_context(|| part.display().to_string())?;
            }
        }
        self.prune(&model.path);
        Ok(model.bytes)
    }

    /// Deletes the folders that a file left empty; the first that is not empty ends it.
    fn prune(&self, path: &Path) {
        for folder in path.ancestors().skip(1).take_while(|folder| **folder != self.models) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }

    /// The one model whose file or folder has this name, with or without `.gguf`.
    fn by_file_name<'a>(&self, name: &str, held: &'a [Held]) -> Result<&'a Held> {
        let found: Vec<&Held> = held.iter().filter(|model| is_named(model, name)).collect();
        match found[..] {
            [model] => Ok(model),
            [] => Err(BadFile(format!(
                "there is no file {name:?} and no pulled model of this name: give a path, a name \
                 that yushan models lists, or hf:OWNER/REPO:FILE"
            ))
            .into()),
            _ => {
                let names: Vec<_> = found.iter().map(|model| model.name.as_str()).collect();
                Err(BadFile(format!("{name:?} may be {}: give one of these", names.join(", ")))
                    .into())
            }
        }
    }

    /// Every model file below `models`, and every folder with safetensors, by name.
    fn list(&self) -> Result<Vec<Held>> {
        let mut held = Vec::new();
        for owner in folders(&self.models)? {
            for repository in folders(&owner)? {
                self.list_folder(&repository, &repository, &mut held)?;
            }
        }
        held.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(held)
    }

    fn list_folder(&self, repository: &Path, folder: &Path, held: &mut Vec<Held>) -> Result<()> {
        let entries = entries(folder)?;
        let below = repository.strip_prefix(&self.models).unwrap_or(repository);
        let named = |path: &Path| match path.strip_prefix(repository).ok().and_then(Path::to_str) {
            Some("") | None => format!("{}{}", name::SCHEME, below.display()),
            Some(file) => format!("{}{}:{file}", name::SCHEME, below.display()),
        };
        let weights = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "safetensors");
        if folder == repository && entries.iter().any(weights) {
            let bytes = entries.iter().map(|path| size(path)).sum();
            let (name, path) = (named(folder), folder.to_path_buf());
            held.push(Held { name, bytes, path });
        }
        for path in entries {
            if path.is_dir() {
                self.list_folder(repository, &path, held)?;
                continue;
            }
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Of a split file the first part stands for all.
            let first = parts_of_split(&file)[0] == file;
            if first && (is_gguf(&file) || file.ends_with(".bin")) {
                let bytes = parts(&path).iter().map(|part| size(part)).sum();
                held.push(Held { name: named(&path), bytes, path });
            }
        }
        Ok(())
    }
}

/// Whether a model's file or folder has this name, with or without `.gguf`.
fn is_named(model: &Held, name: &str) -> bool {
    let file = model.path.file_name().unwrap_or_default().to_string_lossy();
    file == name || file.strip_suffix(".gguf") == Some(name)
}

/// Which files of a repository make the model: the only GGUF file, or the weights in safetensors
/// with what lies beside them.
fn wanted(name: &Name, listed: &[String]) -> Result<Vec<String>> {
    let mut weights: Vec<&String> = listed
        .iter()
        .filter(|file| file.ends_with(".safetensors") && !file.contains('/'))
        .collect();
    if weights.iter().any(|file| file.starts_with("model")) {
        // Some repositories hold the weights a second time, as their maker wrote them.
        weights.retain(|file| file.starts_with("model"));
    }
    if !weights.is_empty() && listed.iter().any(|file| file == "config.json") {
        let beside = listed.iter().filter(|file| {
            BESIDE_WEIGHTS.contains(&file.as_str())
                || (file.ends_with(".safetensors.index.json") && !file.contains('/'))
        });
        return Ok(beside.chain(weights).cloned().collect());
    }
    let first = |file: &&String| is_gguf(file) && parts_of_split(file)[0] == **file;
    let files: Vec<&String> = listed.iter().filter(first).collect();
    match files[..] {
        [file] => Ok(parts_of_split(file)),
        [] => {
            let expected = "expected a .gguf file, or config.json and .safetensors";
            Err(BadFile(format!("{name} holds no model: {expected}")).into())
        }
        _ => {
            let names: Vec<_> =
                files.iter().take(40).map(|file| format!("{name}:{file}")).collect();
            let (count, names) = (files.len(), names.join(", "));
            Err(BadUsage(format!("{name} holds {count} models; name one: {names}")).into())
        }
    }
}

fn is_gguf(file: &str) -> bool {
    file.ends_with(".gguf")
}

/// The files of a model by the path of its first one.
fn parts(path: &Path) -> Vec<PathBuf> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let parts = parts_of_split(&file).into_iter().map(|part| path.with_file_name(part));
    parts.filter(|part| part == path || part.exists()).collect()
}

/// The type in a word or three: `GGUF llama Q4_K`.
fn kind(path: &Path) -> String {
    let Ok(file) = Gguf::open(path) else {
        let known = !is_gguf(&path.to_string_lossy());
        return if known { "llama2.c".into() } else { "GGUF, unreadable".into() };
    };
    let architecture = file.metadata().string("general.architecture").ok().flatten();
    // The type that holds the most bytes.
    let mut types = std::collections::BTreeMap::new();
    for tensor in file.tensors().iter() {
        *types.entry(tensor.dtype.name()).or_insert(0) += tensor.data.len();
    }
    let most = types.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(name, _)| name);
    ["GGUF"].into_iter().chain(architecture).chain(most).collect::<Vec<_>>().join(" ")
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |about| if about.is_file() { about.len() } else { 0 })
}

/// What lies in a folder, sorted, without links; nothing if there is no folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| folder.display().to_string()),
    };
    let mut paths = Vec::new();
    for entry in read {
        let entry = entry.with_context(|| folder.display().to_string())?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_file()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

/// The files of a repository as the hub's API lists them.
fn siblings(answer: &Value) -> Option<Vec<String>> {
    let files = answer.get("siblings")?.as_array()?;
    files.iter().map(|file| Some(file.get("rfilename")?.as_str()?.to_string())).collect()
}
