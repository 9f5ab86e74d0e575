//! Hugging Face folders: `config.json` and one or several safetensors files.
//!
//! The key decision: only names change. Each tensor keeps its bytes where they lie and gets the name
//! that GGUF has for it; the other order of rotary pairs is said in the configuration
//! (`RopeStyle::Halves`), not undone in the data.
//!
//! Source of the names: the modules of transformers' `modeling_llama.py` and its siblings.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::config::from_json;
use crate::directory::{Directory, NameRange};
use crate::json::Object;
use crate::mmap::Mapping;
use crate::safetensors::{self, FORMAT};
use crate::{Config, Error, Result};

const INDEX: &str = "model.safetensors.index.json";

/// Names there and here.
const WHOLE: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Modules of `model.layers.N.` and of `blk.N.`; `.weight` and `.bias` follow.
const BLOCK: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Whether a file may be a safetensors file.
pub(crate) fn is_likely(bytes: &[u8]) -> bool {
    safetensors::is_likely(bytes)
}

/// Opens a folder, or one safetensors file beside its `config.json`.
pub(crate) fn open(path: &Path) -> Result<(Config, Directory)> {
    let (folder, files) = match path.is_dir() {
        true => (path, shards(path)?),
        false => (path.parent().unwrap_or(Path::new("")), vec![path.to_path_buf()]),
    };
    let config = folder.join("config.json");
    let config = match std::fs::metadata(&config) {
        Ok(_) => Mapping::open(&config)?,
        Err(_) => {
            return Err(Error::Missing {
                what: config.display().to_string(),
                hint: "safetensors hold no sizes; put the model's config.json into its folder, or \
                       give a GGUF file"
                    .into(),
            });
        }
    };
    let maps = files.iter().map(|file| Ok(Arc::new(Mapping::open(file)?)));
    read(&config, maps.collect::<Result<_>>()?)
}

/// Reads a model from the bytes of its `config.json` and its safetensors files.
pub(crate) fn read(config: &[u8], files: Vec<Arc<Mapping>>) -> Result<(Config, Directory)> {
    let json = from_json::read(config)?;
    let tensors = list(&files, json.tied)?;
    let config = json.config;
    config.check_tensors(FORMAT, &tensors)?;
    if !json.tied && tensors.get("output.weight").is_none() {
        return Err(Error::Missing {
            what: "tensor \"lm_head.weight\"".into(),
            hint: "config.json says that the head is not tied to the embedding \
                   (tie_word_embeddings); one of the two files is wrong"
                .into(),
        });
    }
    for (name, expected) in [("attn_q.bias", json.qkv_bias), ("attn_output.bias", json.output_bias)]
    {
        let found = tensors.get(&format!("blk.0.{name}")).is_some();
        if found != expected {
            let detail = format!("asks for {name}: {expected}, but the tensors have it: {found}");
            return Err(Error::format(from_json::FORMAT, "attention_bias", detail));
        }
    }
    Ok((config, tensors))
}

/// The files of a folder.
fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let whole = folder.join("model.safetensors");
    if whole.is_file() {
        return Ok(vec![whole]);
    }
    let index = folder.join(INDEX);
    if !index.is_file() {
        return Err(Error::Missing {
            what: format!("model.safetensors or {INDEX} in {}", folder.display()),
            hint: "give a folder with safetensors and config.json, a GGUF file, or a llama2.c .bin"
                .into(),
        });
    }
    let bytes = Mapping::open(&index)?;
    let mut files = Vec::new();
    let Some(map) = Object::parse(INDEX, &bytes)?.object("weight_map")? else {
        return Err(Error::format(INDEX, "weight_map", "missing"));
    };
    map.each(&mut |tensor, file| {
        let name: String = serde_json::from_str(file.get()).unwrap_or_default();
        let mut parts = Path::new(&name).components();
        // A name alone: the files lie in the folder.
        let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
            let detail = format!("{}, expected the name of a file in the folder", file.get());
            return Err(Error::format(INDEX, format!("weight_map.{tensor}"), detail));
        };
        let path = folder.join(name);
        if files.last() != Some(&path) && !files.contains(&path) {
            files.push(path);
        }
        Ok(())
    })?;
    Ok(files)
}

/// Lists the tensors of all files under their GGUF names. Headers are walked twice: first for the
/// names, so that nothing grows while the directory is filled.
fn list(files: &[Arc<Mapping>], tied: bool) -> Result<Directory> {
    let (mut names, mut count) = (String::new(), 0);
    for map in files {
        safetensors::each(map, &mut |name, _| {
            let known = write_name(name, tied, &mut names)?;
            count += usize::from(known);
            Ok(())
        })?;
    }
    let mut tensors = Directory::default();
    for map in files {
        tensors.add_part(FORMAT, map.clone())?;
    }
    let names = Arc::new(Mapping::from_bytes(names.into_bytes()));
    let part = tensors.add_part(FORMAT, names)?;
    tensors.reserve(count);
    let (mut at, mut written) = (0, String::new());
    for (number, map) in files.iter().enumerate() {
        safetensors::each(map, &mut |name, entry| {
            written.clear();
            if !write_name(name, tied, &mut written)? {
                return Ok(());
            }
            let range = NameRange { part, start: at, len: written.len() };
            at += written.len();
            let (dtype, (shape, dims), (start, end)) =
                (entry.dtype()?, entry.shape()?, entry.range()?);
            let bytes = tensors.push(FORMAT, range, dtype, &shape[..dims], number as u16, start)?;
            if bytes != end - start {
                let detail =
                    format!("{} bytes, but {dtype} {:?} has {bytes}", end - start, &shape[..dims]);
                return Err(entry.error("data_offsets", detail));
            }
            Ok(())
        })?;
    }
    tensors.seal(FORMAT)?;
    tensors.align(FORMAT)?;
    Ok(tensors)
}

/// Appends the GGUF name of a tensor. False for those that are not needed: tables of rotary
/// frequencies in old files, and a head that is tied to the embedding.
fn write_name(name: &str, tied: bool, out: &mut String) -> Result<bool> {
    if name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight") {
        return Ok(false);
    }
    if let Some((_, here)) = WHOLE.iter().find(|(there, _)| *there == name) {
        out.push_str(here);
        return Ok(true);
    }
    let split = || {
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (module, kind) = rest.rsplit_once('.')?;
        let (_, here) = BLOCK.iter().find(|(there, _)| *there == module)?;
        let number = layer.bytes().all(|digit| digit.is_ascii_digit());
        (number && matches!(kind, "weight" | "bias")).then_some((layer, here, kind))
    };
    let Some((layer, here, kind)) = split() else {
        return Err(Error::Unsupported {
            what: format!("tensor {name:?}"),
            expected: "a Llama, Mistral, Qwen2 or Qwen3 has no such tensor, and leaving it out \
                       would give wrong answers"
                .into(),
        });
    };
    for text in ["blk.", layer, ".", here, ".", kind] {
        out.push_str(text);
    }
    Ok(true)
}

/// Whether rows of this tensor are in the order of rotary halves.
pub(crate) fn is_rotated(name: &str) -> bool {
    let rotated = ["attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias"];
    name.strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(_, rest)| rotated.contains(&rest))
}
