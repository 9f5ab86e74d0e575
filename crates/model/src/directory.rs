//! Which tensor lies where: names, types, shapes and byte ranges over one or more mapped files.
//!
//! The key decision: a fixed-size record a tensor, and names kept as ranges of bytes that are
//! there anyway, so that what a hostile header can make us allocate is bounded by its own size.
//! Every format fills the same directory; it checks ranges, not what the tensors mean.

use std::sync::Arc;

use yushan_tensor::DType;

use crate::mmap::Mapping;
use crate::{Error, Result};

/// Most dimensions a tensor may have (GGML_MAX_DIMS).
pub const MAX_DIMS: usize = 4;

/// One tensor of a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The GGUF name.
    pub name: &'a str,
    /// How its elements are stored.
    pub dtype: DType,
    /// Outermost first: a matrix is `[rows, columns]`, and columns are contiguous.
    pub shape: &'a [usize],
    /// `dtype.bytes(product of shape)` bytes, little-endian. In a [`crate::ModelFile`] they start
    /// on a multiple of the element's size.
    pub data: &'a [u8],
}

/// A tensor that keeps its file open: rows can be read one by one after everything else of the file
/// was let go.
#[derive(Clone, Debug)]
pub struct SharedTensor {
    /// How its elements are stored.
    pub dtype: DType,
    /// Bytes of one row.
    pub row_bytes: usize,
    part: Arc<Mapping>,
    start: usize,
}

impl SharedTensor {
    /// Reads one row, `row_bytes` long.
    pub fn read(&self, row: usize, into: &mut [u8]) {
        self.part.read(self.start + row * self.row_bytes, into);
    }
}

/// Where the name of a tensor is written: a range of one of the directory's parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameRange {
    pub(crate) part: u16,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// 64 bytes a tensor; together with the index this stays under twice the smallest tensor a file
/// can describe (33 bytes of header and 8 of data in GGUF).
#[derive(Clone, Debug)]
struct Record {
    name_start: usize,
    start: usize,
    shape: [usize; MAX_DIMS],
    name_len: u32,
    name_part: u16,
    part: u16,
    dims: u8,
    dtype: DType,
}

/// The tensors of a model, in the order of the file, found by name in `O(log n)`.
#[derive(Debug, Default)]
pub struct Directory {
    parts: Vec<Arc<Mapping>>,
    records: Vec<Record>,
    /// Indices of `records`, by name; filled by `seal`.
    by_name: Vec<u32>,
}

impl Directory {
    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none (a vocabulary-only file).
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.find(name).map(|record| self.view(record))
    }

    /// The tensor of this name with its file kept open.
    pub fn shared(&self, name: &str) -> Option<SharedTensor> {
        let record = self.find(name)?;
        let columns = record.shape[..usize::from(record.dims)].last().copied()?;
        Some(SharedTensor {
            dtype: record.dtype,
            part: self.parts.get(usize::from(record.part))?.clone(),
            start: record.start,
            row_bytes: record.dtype.bytes(columns)?,
        })
    }

    /// All tensors in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.records.iter().map(|record| self.view(record))
    }

    /// Gives back all pages of all files. The system maps more around each page that is read, so
    /// giving back one tensor after another leaves much behind.
    pub fn release(&self) {
        self.parts.iter().for_each(|part| part.release(0..part.len()));
    }

    /// The mapped parts, in order.
    pub(crate) fn parts(&self) -> &[Arc<Mapping>] {
        &self.parts
    }

    /// Adds a file (or a buffer of names) and returns its number.
    pub(crate) fn add_part(&mut self, format: &'static str, part: Arc<Mapping>) -> Result<u16> {
        let number = u16::try_from(self.parts.len())
            .map_err(|_| Error::format(format, "parts", "more than 65535 files"))?;
        self.parts.push(part);
        Ok(number)
    }

    /// Makes room for exactly `count` more tensors; the caller has checked `count` against the
    /// bytes that are there.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.records.reserve_exact(count);
    }

    /// Adds a tensor. `shape` is outermost first. Checks that the byte range lies inside its part
    /// and returns its length; `format` and the tensor's name go into the error.
    pub(crate) fn push(
        &mut self,
        format: &'static str,
        name: NameRange,
        dtype: DType,
        shape: &[usize],
        part: u16,
        start: usize,
    ) -> Result<usize> {
        let title = self.text(name);
        let bytes = byte_length(format, title, dtype, shape)?;
        let available = self.parts.get(usize::from(part)).map_or(0, |part| part.len());
        if start.checked_add(bytes).is_none_or(|end| end > available) {
            return Err(Error::format(
                format,
                format!("{title}.offset"),
                format!(
                    "{bytes} bytes of {dtype} {shape:?} from byte {start} run past the end of \
                     the file, which has {available} bytes: it is cut off or damaged"
                ),
            ));
        }
        let mut padded = [1; MAX_DIMS];
        padded[..shape.len()].copy_from_slice(shape);
        self.records.push(Record {
            name_start: name.start,
            name_len: name.len as u32,
            name_part: name.part,
            start,
            shape: padded,
            part,
            dims: shape.len() as u8,
            dtype,
        });
        Ok(bytes)
    }

    /// Builds the index after the last `push`; refuses two tensors of one name and tensors that
    /// share bytes.
    pub(crate) fn seal(&mut self, format: &'static str) -> Result<()> {
        let mut order: Vec<u32> = (0..self.records.len() as u32).collect();
        order.sort_unstable_by_key(|&i| {
            let record = &self.records[i as usize];
            (record.part, record.start)
        });
        for pair in order.windows(2) {
            let (a, b) = (&self.records[pair[0] as usize], &self.records[pair[1] as usize]);
            if a.part == b.part && a.start + self.view(a).data.len() > b.start {
                return Err(Error::format(
                    format,
                    format!("{}.offset", self.name(b)),
                    format!(
                        "byte {} lies inside tensor {:?}: tensors must not overlap",
                        b.start,
                        self.name(a)
                    ),
                ));
            }
        }
        // The same buffer becomes the index by name.
        order.sort_unstable_by(|&a, &b| {
            self.name(&self.records[a as usize]).cmp(self.name(&self.records[b as usize]))
        });
        for pair in order.windows(2) {
            let name = self.name(&self.records[pair[0] as usize]);
            if name == self.name(&self.records[pair[1] as usize]) {
                return Err(Error::format(format, name, "two tensors have this name"));
            }
        }
        self.by_name = order;
        Ok(())
    }

    /// Copies every tensor whose bytes do not start on a multiple of its element's size, so that
    /// readers can look at them as numbers. Only safetensors files of old writers need it.
    pub(crate) fn align(&mut self, format: &'static str) -> Result<()> {
        for i in 0..self.records.len() {
            let view = self.view(&self.records[i]);
            let element = if view.dtype == DType::F32 { 4 } else { 2 };
            if (view.data.as_ptr() as usize).is_multiple_of(element) {
                continue;
            }
            let copy = Arc::new(Mapping::aligned_copy(view.data));
            let part = self.add_part(format, copy)?;
            self.records[i].part = part;
            self.records[i].start = 0;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Record> {
        self.by_name
            .binary_search_by(|&i| self.name(&self.records[i as usize]).cmp(name))
            .ok()
            .map(|at| &self.records[self.by_name[at] as usize])
    }

    fn view<'a>(&'a self, record: &'a Record) -> TensorView<'a> {
        let shape = &record.shape[..usize::from(record.dims)];
        // `push` has checked both products, so neither falls back.
        let bytes = record.dtype.bytes(shape.iter().product()).unwrap_or(0);
        let data = self.parts[usize::from(record.part)].get(record.start..record.start + bytes);
        TensorView {
            name: self.name(record),
            dtype: record.dtype,
            shape,
            data: data.unwrap_or(&[]),
        }
    }

    fn name(&self, record: &Record) -> &str {
        self.text(NameRange {
            part: record.name_part,
            start: record.name_start,
            len: record.name_len as usize,
        })
    }

    /// Re-checked on every read: the bytes may be a mapped file.
    fn text(&self, name: NameRange) -> &str {
        self.parts
            .get(usize::from(name.part))
            .and_then(|part| part.get(name.start..name.start.checked_add(name.len)?))
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }
}

/// Bytes of a tensor, with every product checked.
pub(crate) fn byte_length(
    format: &'static str,
    name: &str,
    dtype: DType,
    shape: &[usize],
) -> Result<usize> {
    let fail = |detail: String| Err(Error::format(format, format!("{name}.shape"), detail));
    if shape.is_empty() || shape.len() > MAX_DIMS {
        return fail(format!("{} dimensions, expected 1 to {MAX_DIMS}", shape.len()));
    }
    if shape.contains(&0) {
        return fail(format!("{shape:?} has a dimension of 0"));
    }
    let Some(elements) = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d)) else {
        return fail(format!("{shape:?}: the number of elements overflows"));
    };
    let columns = shape[shape.len() - 1];
    if !columns.is_multiple_of(dtype.block_elements()) {
        return fail(format!(
            "{shape:?}: rows of {dtype} must be a multiple of {} elements",
            dtype.block_elements()
        ));
    }
    match dtype.bytes(elements) {
        Some(bytes) => Ok(bytes),
        None => fail(format!("{shape:?} of {dtype}: the number of bytes overflows")),
    }
}
