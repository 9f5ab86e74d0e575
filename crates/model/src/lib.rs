//! A Llama from file to next token: formats, tokenizer, template, forward pass, KV pages, sampler,
//! grammar.
//!
//! The key decision: [`config::Config`] is one description of a decoder with switches, and
//! [`file::ModelFile`] hands every format over under one set of names, so that nothing past the
//! loader knows which family or which format it runs.

pub mod config;
pub mod error;
pub mod file;

pub use config::{Config, Rope, RopeScaling, RopeStyle};
pub use error::{Error, Result};
