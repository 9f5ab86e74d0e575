//! `inspect`: everything a parameters file says about itself, and the memory it will need.
//!
//! The key decision: one description is collected, then written either as text or as JSON, so
//! that the two never say different things.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value, json};
use yushan_model::engine::{Memory, memory};
use yushan_model::gguf;
use yushan_model::tokenizer::Tokenizer;
use yushan_model::{Config, ModelFile, RopeScaling};
use yushan_tensor::DType;

use crate::figures::{bytes, count, exact};
use crate::{flags, open};

/// Longest piece of a metadata string, and most elements of an array, that the text shows.
const SHOWN_CHARACTERS: usize = 100;
const SHOWN_ELEMENTS: usize = 6;

/// Show what a model file holds and the memory it will need
#[derive(clap::Args)]
pub(crate) struct Inspect {
    /// The model: a GGUF file, a folder with safetensors, or a llama2.c file
    file: String,
    /// The tokenizer, where the format keeps it apart
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Contexts at once to compute the memory for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = flags::positive)]
    sequences: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: flags::Engine,
}

/// What is shown.
struct Description {
    file: ModelFile,
    tokenizer: Result<Tokenizer>,
    parameters: u64,
    file_bytes: u64,
    /// Parameters and bytes by type.
    types: BTreeMap<DType, (u64, u64)>,
    context: usize,
    sequences: usize,
    memory: Memory,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<()> {
        let file = open::model(&self.file)?;
        let mut options = self.engine.options(&file);
        options.sequences = self.sequences;
        let mut types = BTreeMap::<DType, (u64, u64)>::new();
        for tensor in file.tensors() {
            let entry = types.entry(tensor.dtype).or_default();
            entry.0 += tensor.shape.iter().map(|&n| n as u64).product::<u64>();
            entry.1 += tensor.data.len() as u64;
        }
        let description = Description {
            tokenizer: open::tokenizer(&file, self.tokenizer.as_deref()),
            parameters: types.values().map(|entry| entry.0).sum(),
            file_bytes: size(file.path()),
            types,
            context: options.context,
            sequences: options.sequences,
            memory: memory(&file, &options),
            file,
        };
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &description.json())?;
            writeln!(out)?;
        } else {
            out.write_all(visible(&description.text()).as_bytes())?;
        }
        Ok(())
    }
}

/// The text without what a terminal would obey or nobody could see.
pub(crate) fn visible(text: &str) -> String {
    yushan_abi::printable(text)
}

/// Bytes of a file, or of the files of a folder.
fn size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return std::fs::metadata(path).map_or(0, |data| data.len());
    };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

impl Description {
    fn text(&self) -> String {
        let mut out = format!("{}\n", self.file.path().display());
        let mut row = |name: &str, value: String| {
            out += &format!("  {name:<14}{value}\n");
        };
        for (name, value) in config_rows(self.file.config()) {
            row(name, value);
        }
        row("parameters", format!("{} ({})", count(self.parameters), exact(self.parameters)));
        for (dtype, (parameters, size)) in &self.types {
            row("", format!("{dtype}: {}, {}", count(*parameters), bytes(*size)));
        }
        row("file", format!("{}, {}", self.file.format().name(), bytes(self.file_bytes)));
        let memory = self.memory;
        let windows = format!("{} × {} tokens", self.sequences, self.context);
        out += &format!("\nmemory for {windows}\n");
        for (name, size) in [
            ("weights", memory.weights),
            ("keys, values", memory.kv),
            ("scratch", memory.scratch),
            ("together", memory.total()),
        ] {
            out += &format!("  {name:<14}{:>8}\n", bytes(size));
        }
        self.tokenizer_text(&mut out);
        if let Some(metadata) = self.file.metadata() {
            out += &format!("\nmetadata: {} entries\n", metadata.len());
            for (key, value) in metadata.iter() {
                out += &format!("  {key} = {}\n", shortened(&value));
            }
        }
        out += &format!(
            "\ntensors: {} (the last dimension is contiguous)\n",
            self.file.tensors().count()
        );
        let width = self.file.tensors().map(|tensor| tensor.name.len()).max().unwrap_or(0);
        for tensor in self.file.tensors() {
            let (name, dtype, shape) = (tensor.name, tensor.dtype.name(), tensor.shape);
            out += &format!("  {name:<width$}  {dtype:<6}  {shape:?}\n");
        }
        out
    }

    fn tokenizer_text(&self, out: &mut String) {
        let tokenizer = match &self.tokenizer {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                *out += &format!("\ntokenizer: none ({error})\n");
                return;
            }
        };
        let size = tokenizer.vocabulary_size();
        *out += &format!("\ntokenizer: {}, {size} tokens\n", tokenizer.kind());
        for (role, id) in roles(tokenizer) {
            *out += &format!("  {role:<14}{id} {}\n", quoted(tokenizer, id));
        }
        let ends: Vec<String> =
            tokenizer.ends_of_generation().iter().map(|&id| quoted(tokenizer, id)).collect();
        *out += &format!("  {:<14}{}\n", "ends", ends.join(" "));
        *out += &format!("  {:<14}{}\n", "adds bos", tokenizer.adds_bos());
        let special: Vec<String> =
            special(tokenizer).take(SHOWN_ELEMENTS).map(|id| quoted(tokenizer, id)).collect();
        let more = special_count(tokenizer) - special.len();
        let more = if more > 0 { format!(" … {more} more") } else { String::new() };
        *out += &format!("  {:<14}{}{more}\n", "special", special.join(" "));
        match tokenizer.chat_template() {
            None => *out += "\nchat template: none\n",
            Some(template) => *out += &format!("\nchat template:\n{}\n", template.trim_end()),
        }
    }

    fn json(&self) -> Value {
        let config = self.file.config();
        let tensors: Vec<Value> = self
            .file
            .tensors()
            .map(|t| json!({"name": t.name, "type": t.dtype.name(), "shape": t.shape, "bytes": t.data.len()}))
            .collect();
        let types: Map<String, Value> = self
            .types
            .iter()
            .map(|(t, (n, b))| (t.name().into(), json!({"parameters": n, "bytes": b})))
            .collect();
        let metadata = self.file.metadata().map(|metadata| {
            metadata.iter().map(|(k, v)| (k.into(), value_json(&v))).collect::<Map<String, Value>>()
        });
        json!({
            "file": self.file.path(),
            "format": self.file.format().name(),
            "file_bytes": self.file_bytes,
            "config": config_json(config),
            "parameters": self.parameters,
            "types": types,
            "memory": {
                "context": self.context,
                "sequences": self.sequences,
                "weights": self.memory.weights,
                "kv": self.memory.kv,
                "scratch": self.memory.scratch,
            },
            "tokenizer": self.tokenizer.as_ref().ok().map(tokenizer_json),
            "metadata": metadata,
            "tensors": tensors,
        })
    }
}

fn config_rows(config: &Config) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("architecture", config.architecture.clone()),
        ("vocabulary", config.vocabulary.to_string()),
        ("context", format!("{} tokens in training", config.context)),
        ("width", config.dim.to_string()),
        ("layers", config.layers.to_string()),
        ("heads", format!("{} of {} elements", config.heads, config.head_dim)),
        ("kv heads", config.kv_heads.to_string()),
        ("mlp width", config.ffn.to_string()),
        ("norm epsilon", format!("{:e}", config.norm_eps)),
        ("rope", format!("base {}, {}", config.rope.base, scaling(&config.rope.scaling))),
    ];
    if let Some(window) = config.sliding_window {
        rows.push(("sliding window", format!("{window} tokens")));
    }
    rows
}

fn config_json(config: &Config) -> Value {
    json!({
        "architecture": config.architecture,
        "vocabulary": config.vocabulary,
        "context": config.context,
        "dim": config.dim,
        "layers": config.layers,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "ffn": config.ffn,
        "norm_eps": config.norm_eps,
        "rope_base": config.rope.base,
        "rope_scaling": scaling(&config.rope.scaling),
        "sliding_window": config.sliding_window,
    })
}

fn scaling(scaling: &RopeScaling) -> String {
    match scaling {
        RopeScaling::None => "not scaled".into(),
        RopeScaling::Linear { factor } => format!("linear scaling by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("Llama 3 scaling by {factor}"),
        RopeScaling::Factors(factors) => format!("scaled by {} factors of the file", factors.len()),
        RopeScaling::Yarn { factor, .. } => format!("YaRN scaling by {factor}"),
    }
}

fn tokenizer_json(tokenizer: &Tokenizer) -> Value {
    let special: Vec<Value> = special(tokenizer)
        .map(|id| json!({"id": id, "text": String::from_utf8_lossy(tokenizer.token_bytes(id))}))
        .collect();
    let roles: Map<String, Value> =
        roles(tokenizer).into_iter().map(|(role, id)| (role.into(), id.into())).collect();
    json!({
        "kind": tokenizer.kind(),
        "size": tokenizer.vocabulary_size(),
        "roles": roles,
        "ends": tokenizer.ends_of_generation(),
        "adds_bos": tokenizer.adds_bos(),
        "special": special,
        "chat_template": tokenizer.chat_template(),
    })
}

fn roles(tokenizer: &Tokenizer) -> Vec<(&'static str, u32)> {
    let roles = tokenizer.roles();
    let all = [
        ("bos", roles.bos),
        ("eos", roles.eos),
        ("eot", roles.eot),
        ("unknown", roles.unknown),
        ("padding", roles.pad),
        ("prefix", roles.infill.prefix),
        ("suffix", roles.infill.suffix),
        ("middle", roles.infill.middle),
    ];
    all.into_iter().filter_map(|(role, id)| Some((role, id?))).collect()
}

fn special(tokenizer: &Tokenizer) -> impl Iterator<Item = u32> {
    (0..tokenizer.vocabulary_size() as u32).filter(|&id| tokenizer.is_special(id))
}

fn special_count(tokenizer: &Tokenizer) -> usize {
    special(tokenizer).count()
}

fn quoted(tokenizer: &Tokenizer, id: u32) -> String {
    format!("{:?}", String::from_utf8_lossy(tokenizer.token_bytes(id)))
}

/// A metadata value in one short line.
fn shortened(value: &gguf::Value<'_>) -> String {
    match value {
        gguf::Value::String(text) => {
            let text = String::from_utf8_lossy(text);
            let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
            let rest = text.len() - shown.len();
            let rest = if rest > 0 { format!(" … {rest} more bytes") } else { String::new() };
            format!("{shown:?}{rest}")
        }
        gguf::Value::Array(array) => {
            let shown: Vec<String> =
                array.iter().take(SHOWN_ELEMENTS).map(|element| shortened(&element)).collect();
            let rest = if array.len() > shown.len() { ", …" } else { "" };
            format!("[{}{rest}] {} × {:?}", shown.join(", "), array.len(), array.element())
        }
        gguf::Value::F32(number) => format!("{number:?}"),
        scalar => value_json(scalar).to_string(),
    }
}

/// A metadata value; of a long array the first elements and the length.
fn value_json(value: &gguf::Value<'_>) -> Value {
    use gguf::Value as V;
    match *value {
        V::U8(v) => v.into(),
        V::I8(v) => v.into(),
        V::U16(v) => v.into(),
        V::I16(v) => v.into(),
        V::U32(v) => v.into(),
        V::I32(v) => v.into(),
        V::F32(v) => v.into(),
        V::U64(v) => v.into(),
        V::I64(v) => v.into(),
        V::F64(v) => v.into(),
        V::Bool(v) => v.into(),
        V::String(v) => String::from_utf8_lossy(v).into(),
        V::Array(array) if array.len() <= SHOWN_CHARACTERS => {
            array.iter().map(|element| value_json(&element)).collect::<Vec<_>>().into()
        }
        V::Array(array) => {
            let first: Vec<Value> =
                array.iter().take(SHOWN_ELEMENTS).map(|element| value_json(&element)).collect();
            json!({"length": array.len(), "first": first})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_text() {
        assert_eq!(
            visible("{{ a }}\n\t玉\u{1b}[2J\u{9b}1m\r"),
            "{{ a }}\n\t玉\\u{1b}[2J\\u{9b}1m\\r"
        );
    }
}
