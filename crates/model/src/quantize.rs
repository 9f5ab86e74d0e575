//! Writes a parameters file again with other types of numbers.
//!
//! The key decision: it streams. A worker holds one row of numbers at a time, the file one slab of
//! finished rows, so a model of any size needs some tens of megabytes; rows are shared out to all
//! processors, and the result does not depend on how. The file that llama-quantize makes of the
//! same input is the same file, byte for byte.
//!
//! Not here: what a block looks like (`yushan_tensor::quant`), which tensor gets which type
//! (`mix`), and importance matrices, which nothing here makes.

mod mix;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use yushan_tensor::DType;
use yushan_tensor::quant::{dequantize_row, quantize_row, row_is_finite};

pub use mix::Quantization;
pub(crate) use mix::order;

use crate::directory::TensorView;
use crate::gguf::{FORMAT, Gguf, Header};
use crate::{Error, Result};

/// Finished rows are handed to the file in pieces of about this many bytes.
const SLAB_BYTES: usize = 16 << 20;

/// A worker takes rows in groups of about this many numbers.
const GROUP_NUMBERS: usize = 1 << 16;

/// `general.quantization_version`: the block layouts of today (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// What [`quantize`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors in the file.
    pub tensors: usize,
    /// Tensors whose type changed.
    pub converted: usize,
    /// Tensors whose rows no block of the wanted type fills, with the type they got instead.
    pub fallbacks: Vec<(String, DType)>,
    /// Tensors that were quantized already, with their type: they lose twice.
    pub requantized: Vec<(String, DType)>,
    /// Bytes of tensor data read.
    pub bytes_in: u64,
    /// Bytes of tensor data written.
    pub bytes_out: u64,
}

impl Report {
    /// What a person should know, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some((name, dtype)) = self.requantized.first() {
            warnings.push(format!(
                "{} tensors were quantized already (the first: {name}, {dtype}): the result is \
                 worse than from a file in F32, F16 or BF16",
                self.requantized.len()
            ));
        }
        if let Some((name, dtype)) = self.fallbacks.first() {
            warnings.push(format!(
                "{} tensors have rows that do not fill the blocks of the wanted type and got a \
                 larger one (the first: {name}, {dtype})",
                self.fallbacks.len()
            ));
        }
        warnings
    }
}

/// One tensor's way from the old file to the new.
struct Step<'a> {
    view: TensorView<'a>,
    dtype: DType,
}

/// Writes `input` to `output` with the types of `target`. The file appears under its name when it
/// is complete. `progress` gets the bytes of the input that are done, all of them, and the name
/// of the tensor at work; `Break` ends it, and nothing is left behind.
///
/// # Errors
/// [`Error::Format`] naming the tensor, when it holds a number that is not finite or too large for
/// the target; [`Error::Io`] when the file cannot be written.
pub fn quantize(
    input: &Gguf,
    output: &Path,
    target: Quantization,
    progress: &mut dyn FnMut(u64, u64, &str) -> ControlFlow<()>,
) -> Result<Report> {
    let (steps, mut report) = plan(input, target)?;
    let mut header = Header::new();
    header.copy(input.metadata(), |_| true);
    // Taken out first: set again they stand at the end, where llama.cpp puts them.
    for (key, value) in [
        ("general.quantization_version", QUANTIZATION_VERSION),
        ("general.file_type", target.file_type()),
    ] {
        header.remove(key);
        header.set(key, value);
    }
    for step in &steps {
        header.tensor(step.view.name, step.dtype, step.view.shape)?;
    }
    report.bytes_out = header.data_bytes();
    let mut writer = header.create(output)?;
    let mut done = 0;
    for step in &steps {
        let name = step.view.name;
        convert(&step.view, step.dtype, SLAB_BYTES, &mut |rows, bytes_read| {
            writer.write(rows)?;
            done += bytes_read as u64;
            match progress(done, report.bytes_in, name) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::Stopped),
            }
        })?;
        input.tensors().release();
    }
    writer.finish()?;
    Ok(report)
}

/// Chooses the types.
fn plan(input: &Gguf, target: Quantization) -> Result<(Vec<Step<'_>>, Report)> {
    let mut views: Vec<TensorView<'_>> = input.tensors().iter().collect();
    views.sort_by(|a, b| order(a.name).cmp(&order(b.name)));
    let tensors: Vec<mix::Tensor<'_>> = views
        .iter()
        .map(|view| mix::Tensor { name: view.name, dtype: view.dtype, shape: view.shape })
        .collect();
    let choices = mix::choose(target, model(input)?, &tensors);
    let mut report = Report { tensors: views.len(), ..Report::default() };
    let mut steps = Vec::with_capacity(views.len());
    for (view, choice) in views.into_iter().zip(choices) {
        report.bytes_in += view.data.len() as u64;
        if choice.fallback {
            report.fallbacks.push((view.name.to_string(), choice.dtype));
        }
        if choice.dtype != view.dtype {
            report.converted += 1;
            if view.dtype.block_elements() > 1 {
                report.requantized.push((view.name.to_string(), view.dtype));
            }
        }
        steps.push(Step { view, dtype: choice.dtype });
    }
    Ok((steps, report))
}

/// What the choice of types needs to know of the model.
fn model(input: &Gguf) -> Result<mix::Model> {
    let metadata = input.metadata();
    let Some(architecture) = metadata.string("general.architecture")? else {
        return Err(Error::Missing {
            what: "the key general.architecture".into(),
            hint: "a file without it is no model".into(),
        });
    };
    let number =
        |key: &str| metadata.get(&format!("{architecture}.{key}")).and_then(|value| value.as_u64());
    let Some(layers) = number("block_count") else {
        return Err(Error::Missing {
            what: format!("the key {architecture}.block_count"),
            hint: "the number of layers decides which of them get more bits".into(),
        });
    };
    let heads = number("attention.head_count");
    let grouped = number("attention.head_count_kv").is_some_and(|kv| Some(kv) != heads);
    let small_values = layers == 80 && (architecture == "qwen2" || grouped);
    Ok(mix::Model { layers: usize::try_from(layers).unwrap_or(usize::MAX), small_values })
}

/// Hands the rows of a tensor, stored as `dtype`, to `sink` in order, with the number of bytes
/// they were made from.
fn convert(
    view: &TensorView<'_>,
    dtype: DType,
    slab_bytes: usize,
    sink: &mut dyn FnMut(&[u8], usize) -> Result<()>,
) -> Result<()> {
    if dtype == view.dtype {
        return view.data.chunks(slab_bytes).try_for_each(|piece| sink(piece, piece.len()));
    }
    let columns = view.shape.last().copied().unwrap_or(1);
    let sizes = view.dtype.bytes(columns).zip(dtype.bytes(columns));
    let Some((row_in, row_out)) = sizes.filter(|(row_in, _)| *row_in > 0) else {
        let detail = format!("rows of {columns} numbers cannot go from {} to {dtype}", view.dtype);
        return Err(Error::format(FORMAT, view.name, detail));
    };
    let rows = (slab_bytes / row_out).max(1);
    let mut slab = vec![0; row_out * rows.min(view.data.len() / row_in)];
    for (number, data) in view.data.chunks(row_in * rows).enumerate() {
        let slab = &mut slab[..data.len() / row_in * row_out];
        let job = Rows { columns, from: view.dtype, row_in, to: dtype, row_out };
        if let Some(row) = job.convert(data, slab) {
            let detail = format!(
                "row {} holds a number that is not finite or too large for {dtype}",
                number * rows + row
            );
            return Err(Error::format(FORMAT, view.name, detail));
        }
        sink(slab, data.len())?;
    }
    Ok(())
}

/// Rows of one tensor, before and after.
#[derive(Clone, Copy)]
struct Rows {
    columns: usize,
    from: DType,
    /// Bytes of a row before.
    row_in: usize,
    to: DType,
    /// Bytes of a row after.
    row_out: usize,
}

impl Rows {
    /// Converts all rows on all processors. Returns the first row that cannot be stored.
    fn convert(&self, data: &[u8], out: &mut [u8]) -> Option<usize> {
        let group = (GROUP_NUMBERS / self.columns).max(1);
        let groups = data.chunks(self.row_in * group).zip(out.chunks_mut(self.row_out * group));
        let groups = Mutex::new(groups.enumerate());
        let first_bad = AtomicUsize::new(usize::MAX);
        let work = || {
            let mut numbers = vec![0.0; self.columns];
            loop {
                let next = groups.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                let Some((index, (data, out))) = next else { break };
                if let Some(row) = self.convert_group(data, out, &mut numbers) {
                    first_bad.fetch_min(index * group + row, Ordering::Relaxed);
                }
            }
        };
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        std::thread::scope(|scope| {
            for _ in 1..processors {
                scope.spawn(work);
            }
            work();
        });
        Some(first_bad.into_inner()).filter(|row| *row != usize::MAX)
    }

    fn convert_group(&self, data: &[u8], out: &mut [u8], numbers: &mut [f32]) -> Option<usize> {
        let rows = data.chunks_exact(self.row_in).zip(out.chunks_exact_mut(self.row_out));
        for (index, (row, out)) in rows.enumerate() {
            dequantize_row(self.from, row, numbers);
            quantize_row(self.to, numbers, out);
            let finite = numbers.iter().fold(true, |all, number| all & number.is_finite());
            if !finite || !row_is_finite(self.to, out) {
                return Some(index);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
