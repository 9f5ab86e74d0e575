//! From text to weights: corpus, tokenizer, pretraining, scaling laws, evaluation.
//!
//! The key decision: the decoder that is trained here is the one that `model` serves, written as explicit
//! pairs of forward and backward over one flat buffer of parameters; there is no graph that finds
//! gradients. One flat buffer is what ranks add up, what the optimizer shards and what a checkpoint is.

pub mod corpus;
pub mod digest;
mod error;
pub mod keys;
pub mod shard;

pub use error::{Error, Result};
