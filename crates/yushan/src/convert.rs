//! `convert`: a Hugging Face folder or a llama2.c file becomes one GGUF file.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use yushan_model::ModelFile;
use yushan_model::convert::convert;

use crate::figures::bytes;
use crate::{open, progress};

/// Write a Hugging Face folder or a llama2.c file as GGUF
#[derive(clap::Args)]
#[command(after_help = "The numbers keep their types; `yushan quantize` makes them smaller.")]
pub(crate) struct Convert {
    /// A folder with config.json, tokenizer.json and safetensors, or a llama2.c .bin
    #[arg(value_name = "IN")]
    input: String,
    /// The file to write
    #[arg(value_name = "OUT.gguf")]
    output: PathBuf,
    /// The tokenizer, where it is not beside the model
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

impl Convert {
    pub(crate) fn run(self) -> Result<()> {
        let file = open::model(&self.input)?;
        to_gguf(&file, self.tokenizer.as_deref(), &self.output)?;
        let size = std::fs::metadata(&self.output).map_or(0, |data| data.len());
        let tensors = file.tensors().count();
        let output = self.output.display();
        writeln!(std::io::stdout(), "{output}: {tensors} tensors, {}", bytes(size))?;
        Ok(())
    }
}

/// Converts under a progress bar.
pub(crate) fn to_gguf(file: &ModelFile, tokenizer: Option<&Path>, output: &Path) -> Result<()> {
    let bar = progress::of_bytes(0);
    let converted = convert(file, tokenizer, output, &mut |done, total, tensor| {
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(tensor.to_string());
    });
    bar.finish_and_clear();
    Ok(converted?)
}
