//! From text to weights: corpus, tokenizer, pretraining, scaling laws, evaluation.
//!
//! The key decision: the decoder that is trained here is the one that `model` serves, written as explicit
//! pairs of forward and backward over one flat buffer of parameters; there is no graph that finds
//! gradients. One flat buffer is what ranks add up, what the optimizer shards and what a checkpoint is.

pub mod bpe;
pub mod checkpoint;
pub mod corpus;
pub mod decoder;
pub mod digest;
mod error;
pub mod evaluate;
pub mod keys;
pub mod optimizer;
pub mod order;
pub mod plan;
pub mod pretrain;
pub mod recipe;
pub mod report;
pub mod scaling;
pub mod schedule;
pub mod shard;

pub use error::{Error, Result};

/// A folder or file of the shared data, or `None` with a word on stderr.
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
