//! From Hugging Face folders and llama2.c files to GGUF, such that llama.cpp loads it too.
//!
//! The key decision: types stay as they are, except that vectors become 32-bit floats, which
//! llama.cpp wants; making matrices smaller is `quantize`'s work. Queries and keys of the Llama
//! family change from rotary halves to neighbouring pairs, row by row while they are written, as
//! files of that architecture have them.
//!
//! Sources: the GGUF specification (keys, names); the order of rotary pairs follows from the
//! definitions in [`crate::RopeStyle`].

use std::f64::consts::TAU;
use std::ops::ControlFlow;
use std::path::Path;

use yushan_tensor::DType;
use yushan_tensor::quant::dequantize_row;

use crate::config::yarn_attention;
use crate::directory::TensorView;
use crate::gguf::{Header, Writer};
use crate::hugging_face::is_rotated;
use crate::pooling::Pooling;
use crate::quantize::order;
use crate::{Config, Error, Format, ModelFile, Result, Rope, RopeScaling, RopeStyle};

/// What [`convert`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors in the file.
    pub tensors: usize,
    /// Bytes of tensor data read.
    pub bytes_in: u64,
    /// Bytes of tensor data written.
    pub bytes_out: u64,
    /// What a person should know, one sentence each: properties that GGUF cannot hold.
    pub warnings: Vec<String>,
}

/// Writes the model at `input` (a folder, a safetensors file or a llama2.c `.bin`, with its own
/// tokenizer or the given one) to the GGUF file `output`, which appears when it is complete.
/// `progress` gets the bytes of the input that are done, all of them, and the name of the tensor
/// at work; `Break` ends it, and nothing is left behind.
///
/// # Errors
/// [`Error::Unsupported`] when the input is GGUF already or GGUF cannot hold it; the errors of
/// opening a model and its tokenizer; [`Error::Io`] when the file cannot be written.
pub fn convert(
    input: &Path,
    tokenizer: Option<&Path>,
    output: &Path,
    progress: &mut dyn FnMut(u64, u64, &str) -> ControlFlow<()>,
) -> Result<Report> {
    let file = ModelFile::open(input)?;
    if file.format() == Format::Gguf {
        return Err(Error::Unsupported {
            what: format!("converting {}, which is GGUF already,", input.display()),
            expected: "quantize changes the types of a GGUF file".into(),
        });
    }
    let tokenizer = file.tokenizer(tokenizer)?;
    let mut tensors: Vec<TensorView<'_>> = file.tensors().collect();
    tensors.sort_by(|a, b| order(a.name).cmp(&order(b.name)));
    let mut header = Header::new();
    describe(&file, &tensors, &mut header)?;
    let warnings = tokenizer.write_gguf(file.config().vocabulary, &mut header)?;
    let factors = llama3_factors(&file.config().rope);
    if !factors.is_empty() {
        header.tensor("rope_freqs.weight", DType::F32, &[factors.len()])?;
    }
    for tensor in &tensors {
        header.tensor(tensor.name, written_type(tensor), tensor.shape)?;
    }
    let mut report = Report {
        tensors: tensors.len() + usize::from(!factors.is_empty()),
        bytes_in: tensors.iter().map(|tensor| tensor.data.len() as u64).sum(),
        bytes_out: header.data_bytes(),
        warnings,
    };
    report.warnings.sort();
    let mut writer = header.create(output)?;
    if !factors.is_empty() {
        writer.tensor("rope_freqs.weight", bytemuck::cast_slice(&factors))?;
    }
    let mut done = 0;
    for tensor in &tensors {
        write(tensor, file.config(), &mut writer)?;
        file.release();
        done += tensor.data.len() as u64;
        if progress(done, report.bytes_in, tensor.name).is_break() {
            return Err(Error::Stopped);
        }
    }
    writer.finish()?;
    Ok(report)
}

/// Name, type and sizes of the model, as metadata.
fn describe(file: &ModelFile, tensors: &[TensorView<'_>], header: &mut Header) -> Result<()> {
    let config = file.config();
    // llama.cpp has one architecture for both.
    let architecture = match config.architecture.as_str() {
        "mistral" => "llama",
        other => other,
    };
    header.set("general.architecture", architecture);
    header.set("general.type", "model");
    let name = file.path().canonicalize().ok();
    let name = name.as_deref().unwrap_or(file.path()).file_stem().unwrap_or_default();
    header.set("general.name", name.to_string_lossy().as_ref());
    header.set("general.file_type", file_type(tensors));
    let mut number = |name: &str, value: usize| {
        // `Config::check` keeps every size below 2^30.
        header.set(&format!("{architecture}.{name}"), value as u32);
    };
    number("vocab_size", config.vocabulary);
    number("context_length", config.context);
    number("embedding_length", config.dim);
    number("block_count", config.layers);
    number("feed_forward_length", config.ffn);
    number("attention.head_count", config.heads);
    number("attention.head_count_kv", config.kv_heads);
    number("attention.key_length", config.head_dim);
    number("attention.value_length", config.head_dim);
    number("rope.dimension_count", config.rope.dims);
    if let Some(window) = config.sliding_window {
        number("attention.sliding_window", window);
    }
    // The usual one is not said: llama.cpp makes a server of embeddings alone of a file that says it.
    let pooling = Pooling::of(file)?;
    if pooling != Pooling::default() {
        number("pooling_type", pooling.number());
    }
    header.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), config.norm_eps);
    header.set(&format!("{architecture}.rope.freq_base"), config.rope.base);
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    match &config.rope.scaling {
        // Llama 3's stretching is the tensor `rope_freqs.weight`.
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => {}
        RopeScaling::Linear { factor } => {
            header.set(&key("type"), "linear");
            header.set(&key("factor"), *factor);
        }
        RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow } => {
            header.set(&key("type"), "yarn");
            header.set(&key("factor"), *factor);
            header.set(&key("original_context_length"), *original_context as u32);
            // The file holds what the suggested one is multiplied by.
            header.set(&key("attn_factor"), attention_factor / yarn_attention(*factor));
            header.set(&key("yarn_beta_fast"), *beta_fast);
            header.set(&key("yarn_beta_slow"), *beta_slow);
        }
    }
    Ok(())
}

/// `general.file_type`: the type of most bytes (`llama_ftype`).
fn file_type(tensors: &[TensorView<'_>]) -> u32 {
    let bytes = |dtype: DType| -> usize {
        tensors.iter().filter(|t| t.dtype == dtype).map(|t| t.data.len()).sum()
    };
    let (f32, f16, bf16) = (bytes(DType::F32), bytes(DType::F16), bytes(DType::BF16));
    match f32.max(f16).max(bf16) {
        most if most == f16 => 1,
        most if most == bf16 => 32,
        _ => 0,
    }
}

/// The type a tensor is written in.
fn written_type(tensor: &TensorView<'_>) -> DType {
    if tensor.shape.len() < 2 { DType::F32 } else { tensor.dtype }
}

/// Writes the data of one tensor.
fn write(tensor: &TensorView<'_>, config: &Config, writer: &mut Writer) -> Result<()> {
    let mut numbers = Vec::new();
    let mut data = tensor.data;
    if written_type(tensor) != tensor.dtype {
        numbers.resize(tensor.shape.iter().product(), 0.0);
        dequantize_row(tensor.dtype, tensor.data, &mut numbers);
        data = bytemuck::cast_slice(&numbers);
    }
    let llama = matches!(config.architecture.as_str(), "llama" | "mistral");
    let permuted = llama && config.rope.style == RopeStyle::Halves && is_rotated(tensor.name);
    if !permuted {
        return writer.tensor(tensor.name, data);
    }
    // Of each head, row j of the first half and row j of the second become rows 2j and 2j + 1.
    let row = data.len() / tensor.shape[0];
    let half = config.head_dim / 2;
    for head in data.chunks_exact(row * config.head_dim) {
        for pair in 0..half {
            for at in [pair, pair + half] {
                writer.write(&head[at * row..][..row])?;
            }
        }
    }
    Ok(())
}

/// The divisors of the frequencies for Llama 3's stretching, one a pair; none for other models.
fn llama3_factors(rope: &Rope) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } =
        rope.scaling
    else {
        return Vec::new();
    };
    let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
    let divisor = |pair: usize| {
        let frequency = f64::from(rope.base).powf(-2.0 * pair as f64 / rope.dims as f64);
        // How often the pair turns within the original context.
        let turns = original_context as f64 * frequency / TAU;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / (kept + (1.0 - kept) / f64::from(factor))) as f32
    };
    (0..rope.dims / 2).map(divisor).collect()
}

#[cfg(test)]
mod tests;
