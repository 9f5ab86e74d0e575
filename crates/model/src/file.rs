//! Any parameters file under one set of names.
//!
//! The key decision: every format is presented as GGUF presents it (`token_embd.weight`,
//! `blk.N.attn_q.weight`, …), with the tensor bytes borrowed from the mapped file. What differs
//! (the order of rotary pairs) is a switch in [`Config`], not a copy of the data.

use std::path::Path;

pub use crate::directory::TensorView;
use crate::{Config, Result};

/// A parameters file of any supported format, mapped, with its configuration read.
pub struct ModelFile {
    config: Config,
}

impl ModelFile {
    /// Opens a GGUF file (the first part of a split one too), a folder with `config.json` and
    /// safetensors, one `.safetensors` file beside its `config.json`, or a llama2.c `.bin`. The
    /// format is told by content, not by name.
    pub fn open(_path: &Path) -> Result<ModelFile> {
        unimplemented!("formats")
    }

    /// Sizes and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tensor of this GGUF name.
    pub fn tensor(&self, _name: &str) -> Option<TensorView<'_>> {
        None
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        std::iter::empty()
    }

    /// Tells the operating system that the tensor's pages will not be read again, so that they
    /// stop counting towards the process (after it was repacked).
    pub fn release(&self, _name: &str) {}
}
