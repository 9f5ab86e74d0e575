//! From the name a person typed to an open parameters file and a tokenizer.

use std::path::Path;

use anyhow::{Context, Result};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};
use yushan_model::tokenizer::Tokenizer;

use crate::exit::BadFile;
use crate::{hub, progress};

/// Opens a file by its path, a pulled model's name, or its name on a hub.
pub(crate) fn model(name: &str) -> Result<ModelFile> {
    file(&hub::resolve(name)?)
}

/// Opens a file or folder.
pub(crate) fn file(path: &Path) -> Result<ModelFile> {
    ModelFile::open(path).with_context(|| path.display().to_string())
}

/// The tokenizer of a file, or the one kept apart.
pub(crate) fn tokenizer(file: &ModelFile, apart: Option<&Path>) -> Result<Tokenizer> {
    let from = apart.unwrap_or(file.path());
    file.tokenizer(apart).with_context(|| from.display().to_string())
}

/// Reads the parameters, under a progress bar.
pub(crate) fn engine(file: &ModelFile, options: &Options) -> Result<Engine> {
    let bar = progress::of_bytes(0);
    let engine = Engine::load_with(file, options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(engine?)
}

/// A text file from a flag, or stdin for `-`.
pub(crate) fn text(path: &Path) -> Result<String> {
    let (name, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).context("stdin")?;
        ("stdin".into(), bytes)
    } else {
        let bytes = std::fs::read(path).map_err(|e| BadFile(format!("{}: {e}", path.display())))?;
        (path.display().to_string(), bytes)
    };
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        BadFile(format!("{name}: byte {at} is not UTF-8 text; convert the file to UTF-8")).into()
    })
}
