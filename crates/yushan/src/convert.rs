//! `convert`: a Hugging Face folder or a llama2.c file becomes one GGUF file.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use yushan_model::convert::{Report, convert};

use crate::figures::bytes;
use crate::{hub, progress};

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
        let input = hub::resolve(&self.input)?;
        let report = to_gguf(&input, self.tokenizer.as_deref(), &self.output)?;
        let (output, tensors) = (self.output.display(), report.tensors);
        let (before, after) = (bytes(report.bytes_in), bytes(report.bytes_out));
        writeln!(std::io::stdout(), "{output}: {tensors} tensors, {before} to {after}")?;
        Ok(())
    }
}

/// Converts under a progress bar, and says what GGUF could not hold.
pub(crate) fn to_gguf(input: &Path, tokenizer: Option<&Path>, output: &Path) -> Result<Report> {
    let report = progress::of_writing(|progress| convert(input, tokenizer, output, progress))?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(report)
}
