//! Opens GGUF files, also split ones, and checks every count, size and range before it is used.
//!
//! The key decision: whoever holds a [`Gguf`] holds the proof that its header is sound; views of
//! metadata and tensors cannot fail afterwards. It does not look at what the metadata means.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use yushan_tensor::DType;

use super::value::Cursor;
use super::{DEFAULT_ALIGNMENT, FORMAT, MAGIC, Metadata};
use crate::directory::{Directory, MAX_DIMS, NameRange, TensorView};
use crate::error::shown;
use crate::mmap::Mapping;
use crate::{Error, Result};

/// Longest tensor name we read, in bytes. ggml allows 63.
const MAX_NAME: u64 = 1024;

/// The smallest tensor description: name length, a name of one byte, one dimension, type, offset.
const MIN_TENSOR: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// Largest alignment we accept, in bytes; more would only be padding.
const MAX_ALIGNMENT: usize = 1 << 20;

/// A GGUF file, mapped and checked.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    alignment: usize,
    metadata: Metadata,
    tensors: Directory,
}

/// What stands before the tensor data of one file.
struct Preamble {
    version: u32,
    alignment: usize,
    metadata: Metadata,
    tensor_count: usize,
    /// Where the tensor descriptions start.
    start: usize,
}

impl Gguf {
    /// Opens a file. Of a model split into `NAME-00001-of-0000N.gguf` … it takes the first part
    /// and opens the others, which must lie beside it.
    pub fn open(path: &Path) -> Result<Gguf> {
        let map = Arc::new(Mapping::open(path)?);
        let preamble = Preamble::read(map.clone())?;
        let count = preamble.metadata.integer("split.count")?.unwrap_or(1);
        let number = preamble.metadata.integer("split.no")?.unwrap_or(0);
        if number != 0 {
            return Err(Error::Unsupported {
                what: format!("opening part {} of a model in {count} parts", number + 1),
                expected: "open the first part, whose name ends in -00001-of-N.gguf".into(),
            });
        }
        let mut gguf = Gguf::start(preamble, map)?;
        for number in 1..count {
            let path = sibling(path, number, count)?;
            let map = Arc::new(Mapping::open(&path)?);
            gguf.join(Preamble::read(map.clone())?, map, number)?;
        }
        gguf.finish(count)
    }

    /// Parses a file that is in memory already.
    pub fn parse(bytes: Vec<u8>) -> Result<Gguf> {
        let map = Arc::new(Mapping::from_bytes(bytes));
        let preamble = Preamble::read(map.clone())?;
        Gguf::start(preamble, map)?.finish(1)
    }

    /// Whether these are the first bytes of a GGUF file.
    pub fn is_magic(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// The version in the header, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Tensor data starts on multiples of this many bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Keys and values (of the first part).
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors of all parts.
    pub fn tensors(&self) -> &Directory {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get(name)
    }

    /// Bytes of all parts together.
    pub fn file_size(&self) -> u64 {
        self.tensors.parts().iter().map(|part| part.len() as u64).sum()
    }

    /// Splits into what [`crate::ModelFile`] keeps.
    pub(crate) fn into_parts(self) -> (Metadata, Directory) {
        (self.metadata, self.tensors)
    }

    fn start(preamble: Preamble, map: Arc<Mapping>) -> Result<Gguf> {
        let mut tensors = Directory::default();
        read_tensors(&preamble, &map, &mut tensors)?;
        let Preamble { version, alignment, metadata, .. } = preamble;
        Ok(Gguf { version, alignment, metadata, tensors })
    }

    fn join(&mut self, part: Preamble, map: Arc<Mapping>, number: usize) -> Result<()> {
        let found = part.metadata.integer("split.no")?;
        if found != Some(number) {
            return Err(Error::format(
                FORMAT,
                "split.no",
                format!("part {} of the model says {found:?}, expected {number}", number + 1),
            ));
        }
        read_tensors(&part, &map, &mut self.tensors)
    }

    fn finish(mut self, parts: usize) -> Result<Gguf> {
        self.tensors.seal(FORMAT)?;
        let declared = self.metadata.integer("split.tensors.count")?;
        if let Some(declared) = declared.filter(|&n| parts > 1 && n != self.tensors.len()) {
            return Err(Error::format(
                FORMAT,
                "split.tensors.count",
                format!("{declared}, but the {parts} parts hold {} tensors", self.tensors.len()),
            ));
        }
        Ok(self)
    }
}

impl Preamble {
    fn read(map: Arc<Mapping>) -> Result<Preamble> {
        let mut cursor = Cursor { bytes: &map, at: 0 };
        if cursor.take(4) != Some(&MAGIC) {
            return Err(Error::format(FORMAT, "magic", "the file does not begin with GGUF"));
        }
        let short = |field: &str| Error::format(FORMAT, field, "the file ends before it");
        let version = cursor.u32().ok_or_else(|| short("version"))?;
        if !(2..=3).contains(&version) {
            let what = match version.swap_bytes() {
                2 | 3 => "a big-endian GGUF file".into(),
                _ => format!("GGUF version {version}"),
            };
            return Err(Error::Unsupported {
                what,
                expected: "versions 2 and 3, little-endian, can be read".into(),
            });
        }
        let tensor_count = cursor.u64().ok_or_else(|| short("tensor_count"))?;
        let metadata_count = cursor.u64().ok_or_else(|| short("metadata_kv_count"))?;
        let (metadata, start) = Metadata::read(map.clone(), cursor.at, metadata_count)?;
        let most = (map.len() - start) / MIN_TENSOR;
        if tensor_count > most as u64 {
            return Err(Error::format(
                FORMAT,
                "tensor_count",
                format!("{tensor_count} tensors, but the bytes left describe at most {most}"),
            ));
        }
        let alignment = metadata.integer("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
            return Err(Error::format(
                FORMAT,
                "general.alignment",
                format!("{alignment}, expected a power of two from 8 to {MAX_ALIGNMENT}"),
            ));
        }
        Ok(Preamble { version, alignment, metadata, tensor_count: tensor_count as usize, start })
    }
}

/// One description, before it is known where the data begins.
struct Description<'a> {
    name: NameRange,
    title: &'a str,
    dtype: DType,
    /// Outermost first.
    shape: [usize; MAX_DIMS],
    dims: usize,
    /// From the beginning of the data.
    offset: u64,
}

/// Reads the descriptions twice: first to find where they end and the data begins, then into the
/// directory. So nothing is allocated for descriptions that are not there.
fn read_tensors(preamble: &Preamble, map: &Arc<Mapping>, into: &mut Directory) -> Result<()> {
    let part = into.add_part(FORMAT, map.clone())?;
    let alignment = preamble.alignment as u64;
    let mut cursor = Cursor { bytes: map, at: preamble.start };
    let mut needed = 0_u64;
    for number in 0..preamble.tensor_count {
        let tensor = Description::read(&mut cursor, part, number)?;
        let shape = &tensor.shape[..tensor.dims];
        let bytes = crate::directory::byte_length(FORMAT, tensor.title, tensor.dtype, shape)?;
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(Error::format(
                FORMAT,
                format!("{}.offset", tensor.title),
                format!("{} is not a multiple of the alignment {alignment}", tensor.offset),
            ));
        }
        needed =
            needed.saturating_add((bytes as u64).saturating_add(alignment - 1) & !(alignment - 1));
    }
    let data = cursor.at.next_multiple_of(preamble.alignment);
    let available = map.len().saturating_sub(data) as u64;
    // The last tensor need not be padded. This bounds what the directory is made to allocate.
    if needed > available + (alignment - 1) {
        return Err(Error::format(
            FORMAT,
            "tensor data",
            format!("{needed} bytes described, {available} in the file: it is cut off or damaged"),
        ));
    }
    into.reserve(preamble.tensor_count);
    cursor.at = preamble.start;
    for number in 0..preamble.tensor_count {
        let tensor = Description::read(&mut cursor, part, number)?;
        let shape = &tensor.shape[..tensor.dims];
        let offset = usize::try_from(tensor.offset).unwrap_or(usize::MAX);
        let start = data.saturating_add(offset);
        into.push(FORMAT, tensor.name, tensor.dtype, shape, part, start)?;
    }
    Ok(())
}

impl<'a> Description<'a> {
    fn read(cursor: &mut Cursor<'a>, part: u16, number: usize) -> Result<Description<'a>> {
        let fail = |field: String, detail: String| Err(Error::format(FORMAT, field, detail));
        let field = |what: &str| format!("tensor[{number}].{what}");
        let ends = || "the file ends before it".to_string();
        let Some(len) = cursor.u64() else { return fail(field("name"), ends()) };
        if len == 0 || len > MAX_NAME {
            return fail(field("name"), format!("{len} bytes long, expected 1 to {MAX_NAME}"));
        }
        let start = cursor.at;
        let Some(bytes) = cursor.take(len as usize) else { return fail(field("name"), ends()) };
        let Ok(title) = std::str::from_utf8(bytes) else {
            return fail(field("name"), format!("{} is not UTF-8", shown(bytes)));
        };
        let Some(dims) = cursor.u32() else { return fail(format!("{title}.n_dims"), ends()) };
        if dims == 0 || dims as usize > MAX_DIMS {
            return fail(format!("{title}.n_dims"), format!("{dims}, expected 1 to {MAX_DIMS}"));
        }
        let dims = dims as usize;
        let mut shape = [1; MAX_DIMS];
        // The file has the innermost dimension first.
        for size in shape[..dims].iter_mut().rev() {
            let Some(found) = cursor.u64() else { return fail(format!("{title}.shape"), ends()) };
            *size = usize::try_from(found).unwrap_or(usize::MAX);
        }
        let (Some(kind), Some(offset)) = (cursor.u32(), cursor.u64()) else {
            return fail(format!("{title}.type"), ends());
        };
        let Some(dtype) = DType::from_gguf(kind) else {
            let known: Vec<&str> = DType::all().map(DType::name).collect();
            return Err(Error::Unsupported {
                what: format!("ggml type {kind} of tensor {title:?}"),
                expected: format!("known types are {}", known.join(", ")),
            });
        };
        let name = NameRange { part, start, len: bytes.len() };
        Ok(Description { name, title, dtype, shape, dims, offset })
    }
}

/// The path of part `number` (from 0) of `count`, beside the first part at `path`.
fn sibling(path: &Path, number: usize, count: usize) -> Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let suffix = format!("-00001-of-{count:05}.gguf");
    let Some(stem) = name.strip_suffix(&suffix) else {
        return Err(Error::format(
            FORMAT,
            "split.count",
            format!("the model has {count} parts, so this file's name must end in {suffix}"),
        ));
    };
    Ok(path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", number + 1)))
}
