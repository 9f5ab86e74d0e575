//! From a model's name to what the kernel runs: the file, its text side, its engine.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use sha2::{Digest, Sha256};
use yushan_abi::{Executor, ModelInfo};
use yushan_kernel::Loaded;
use yushan_model::ModelFile;
use yushan_model::engine::{self, Options};
use yushan_model::language::ModelLanguage;

use crate::{flags, open};

/// Bytes of the first and the last tensor that name a file's contents, together with names and sizes.
const NAMED_BY: usize = 1 << 20;

/// Loads a model, under the name that clients give, for `slots` conversations at once.
pub(crate) fn load(name: &str, path: &Path, flags: &flags::Engine, slots: usize) -> Result<Loaded> {
    let file = open::file(path)?;
    let tokenizer = Arc::new(open::tokenizer(&file, None)?);
    let options = options(&file, flags, slots);
    let language = Arc::new(ModelLanguage::new(&file, tokenizer.clone())?);
    let engine = open::engine(&file, &options)?;
    let info = ModelInfo {
        context: engine.context(),
        template: tokenizer.chat_template().map(str::to_string),
        memory: engine::memory(&file, &options).total(),
        ..about(name, &file, &options)
    };
    Ok(Loaded { info, language, executor: Box::new(engine) })
}

/// What there is to say of a model without loading it.
pub(crate) fn describe(name: &str, path: &Path, flags: &flags::Engine) -> Result<ModelInfo> {
    let file = open::file(path)?;
    let template = file.metadata().and_then(|data| data.string("tokenizer.chat_template").ok()?);
    let template = template.map(str::to_string);
    Ok(ModelInfo { template, ..about(name, &file, &flags.options(&file)) })
}

/// Bytes that a model would take.
pub(crate) fn bytes(path: &Path, flags: &flags::Engine, slots: usize) -> Result<u64> {
    let file = open::file(path)?;
    Ok(engine::memory(&file, &options(&file, flags, slots)).total())
}

fn options(file: &ModelFile, flags: &flags::Engine, slots: usize) -> Options {
    Options { sequences: slots, ..flags.options(file) }
}

/// The name that clients give: a hub's name as it is, a file's without folder and `.gguf`.
pub(crate) fn short_name(name: &str) -> String {
    if name.starts_with("hf:") {
        return name.to_string();
    }
    let file = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".gguf").unwrap_or(file).to_string()
}

fn about(name: &str, file: &ModelFile, options: &Options) -> ModelInfo {
    let mut digest = Sha256::new();
    let (mut bytes, mut parameters) = (0_u64, 0_u64);
    let mut types = std::collections::BTreeMap::<_, u64>::new();
    for tensor in file.tensors() {
        bytes += tensor.data.len() as u64;
        parameters += tensor.shape.iter().map(|&n| n as u64).product::<u64>();
        *types.entry(tensor.dtype.name()).or_default() += tensor.data.len() as u64;
        digest.update(tensor.name.as_bytes());
    }
    digest.update(bytes.to_le_bytes());
    // Models made from one another may begin alike.
    for tensor in file.tensors().next().into_iter().chain(file.tensors().last()) {
        digest.update(&tensor.data[..tensor.data.len().min(NAMED_BY)]);
    }
    let modified = std::fs::metadata(file.path()).and_then(|data| data.modified()).ok();
    let created = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let most = types.into_iter().max_by_key(|(_, bytes)| *bytes);
    ModelInfo {
        name: name.to_string(),
        context: options.context,
        created: created.map_or(0, |time| time.as_secs()),
        bytes,
        parameters,
        architecture: file.config().architecture.clone(),
        quantization: most.map_or_else(String::new, |(name, _)| name.to_string()),
        digest: digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        ..ModelInfo::default()
    }
}
