//! From a model's name to what the kernel runs: the file, its text side, its engine.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use sha2::{Digest, Sha256};
use yushan_abi::{Executor, ModelInfo};
use yushan_kernel::Loaded;
use yushan_model::ModelFile;
use yushan_model::language::ModelLanguage;

use crate::{flags, open};

/// Bytes of a file's beginning that name its contents, together with its size.
const NAMED_BY: usize = 1 << 20;

/// Loads a model for `slots` conversations at once.
pub(crate) fn load(name: &str, flags: &flags::Engine, slots: usize) -> Result<Loaded> {
    let file = open::model(name)?;
    let tokenizer = Arc::new(open::tokenizer(&file, None)?);
    let mut options = flags.options(&file);
    options.sequences = slots;
    let language = Arc::new(ModelLanguage::new(&file, tokenizer.clone())?);
    let engine = open::engine(&file, &options)?;
    let info = ModelInfo {
        name: short_name(name),
        context: engine.context(),
        template: tokenizer.chat_template().map(str::to_string),
        loaded: Some(u64::MAX),
        ..about(&file)
    };
    Ok(Loaded { info, language, executor: Box::new(engine) })
}

/// The name that clients give: a hub's name as it is, a file's without folder and `.gguf`.
fn short_name(name: &str) -> String {
    if name.starts_with("hf:") {
        return name.to_string();
    }
    let file = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".gguf").unwrap_or(file).to_string()
}

fn about(file: &ModelFile) -> ModelInfo {
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
    if let Some(first) = file.tensors().next() {
        digest.update(&first.data[..first.data.len().min(NAMED_BY)]);
    }
    let modified = std::fs::metadata(file.path()).and_then(|data| data.modified()).ok();
    let created = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let most = types.into_iter().max_by_key(|(_, bytes)| *bytes);
    ModelInfo {
        created: created.map_or(0, |time| time.as_secs()),
        bytes,
        parameters,
        architecture: file.config().architecture.clone(),
        quantization: most.map_or_else(String::new, |(name, _)| name.to_string()),
        digest: digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        ..ModelInfo::default()
    }
}
