//! A Llama from file to next token: formats, tokenizer, template, forward pass, KV pages, sampler,
//! grammar.
//!
//! The key decision: [`config::Config`] is one description of a decoder with switches, and
//! [`file::ModelFile`] hands every format over under one set of names, so that nothing past the
//! loader knows which family or which format it runs.

mod cache;
pub mod calls;
pub mod chat;
pub mod config;
pub mod convert;
pub mod directory;
pub mod engine;
pub mod error;
pub mod file;
pub mod generate;
pub mod gguf;
pub mod grammar;
mod hugging_face;
mod json;
pub mod language;
mod llama;
mod llama2c;
pub mod logprobs;
pub mod mmap;
mod pen;
pub mod pooling;
pub mod quantize;
mod rope;
mod safetensors;
pub mod sampler;
pub mod score;
mod snapshot;
pub mod speculate;
mod stops;
pub mod tokenizer;

pub use config::{Config, Rope, RopeScaling, RopeStyle};
pub use error::{Error, Result};
pub use file::{Format, ModelFile, TensorView};

/// A folder or file of the data that lies beside the checkout: under `YUSHAN_SHARED`, or else
/// under `shared/data` next to the workspace. `None`, and a line on stderr, when it is absent.
#[cfg(test)]
pub(crate) fn shared_data(name: &str) -> Option<std::path::PathBuf> {
    let root = std::env::var_os("YUSHAN_SHARED").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        std::path::PathBuf::from,
    );
    let path = root.join("data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: shared data not found: {}", path.display());
    None
}
