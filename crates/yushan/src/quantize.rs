//! `quantize`: the same model with smaller numbers.
//!
//! What is not GGUF is converted first, into a file beside the output that goes away afterwards.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use yushan_model::file::Format;
use yushan_model::gguf::Gguf;
use yushan_model::quantize::{Quantization, quantize};

use crate::exit::BadUsage;
use crate::figures::bytes;
use crate::{convert, open, progress};

/// Write a model again with smaller numbers
#[derive(clap::Args)]
pub(crate) struct Quantize {
    /// The model, in any format `run` reads
    #[arg(value_name = "IN")]
    input: String,
    /// The GGUF file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// F32, F16, BF16, Q8_0, Q4_0, Q4_K_M, Q5_K_M or Q6_K
    #[arg(long = "type", value_name = "T", value_parser = target)]
    target: Quantization,
    /// The tokenizer, where the format keeps it apart
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

fn target(name: &str) -> Result<Quantization, String> {
    name.parse().map_err(|error: yushan_model::Error| error.to_string())
}

impl Quantize {
    pub(crate) fn run(self) -> Result<()> {
        let file = open::model(&self.input)?;
        let same = |path: &Path| path.canonicalize().ok();
        if same(&self.output).is_some_and(|output| Some(output) == same(file.path())) {
            let why = format!("{} is the input: give another output", self.output.display());
            return Err(BadUsage(why).into());
        }
        if file.format() == Format::Gguf {
            return self.quantize(file.path());
        }
        let folder = match self.output.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let between =
            tempfile::Builder::new().prefix(".yushan-").suffix(".gguf").tempfile_in(folder)?;
        convert::to_gguf(file.path(), self.tokenizer.as_deref(), between.path())?;
        self.quantize(between.path())
    }

    fn quantize(&self, input: &Path) -> Result<()> {
        let input = Gguf::open(input)?;
        let report =
            progress::of_writing(|progress| quantize(&input, &self.output, self.target, progress))?;
        for warning in report.warnings() {
            eprintln!("warning: {warning}");
        }
        let parameters: u64 = input
            .tensors()
            .iter()
            .map(|tensor| tensor.shape.iter().map(|&n| n as u64).product::<u64>())
            .sum();
        let bits = |bytes: u64| 8.0 * bytes as f64 / parameters.max(1) as f64;
        writeln!(
            std::io::stdout(),
            "{}: {} of {} tensors changed, {} ({:.2} bits a weight) to {} ({:.2})",
            self.output.display(),
            report.converted,
            report.tensors,
            bytes(report.bytes_in),
            bits(report.bytes_in),
            bytes(report.bytes_out),
            bits(report.bytes_out),
        )?;
        Ok(())
    }
}
