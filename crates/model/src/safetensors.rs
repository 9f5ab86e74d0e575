//! safetensors: the length of a JSON header, the header, the data.
//!
//! The key decision: the header is walked, not built. Its entries go straight to the caller, so a
//! header costs what the caller keeps of it. This module knows the container, not the names.
//!
//! Source: the format's description in huggingface/safetensors, `README.md`.

use yushan_tensor::DType;

use crate::json::Object;
use crate::{Error, Result};

pub(crate) const FORMAT: &str = "safetensors";

/// Bytes before the header: its length.
const PREFIX: usize = 8;

/// One entry of the header.
pub(crate) struct Entry<'a> {
    object: Object<'a>,
    name: &'a str,
    /// Where the data of the file begins.
    data: usize,
}

/// Whether these can be the first bytes of a safetensors file: a length below 4 GiB and `{`.
pub(crate) fn is_likely(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, _, _, 0, 0, 0, 0, b'{', ..])
}

/// Calls `entry` with the name and description of every tensor.
pub(crate) fn each(
    bytes: &[u8],
    entry: &mut dyn FnMut(&str, Entry<'_>) -> Result<()>,
) -> Result<()> {
    let fail = |detail: String| Err(Error::format(FORMAT, "header length", detail));
    let Some(prefix) = bytes.first_chunk() else {
        return fail(format!("the file has only {} bytes", bytes.len()));
    };
    let length = u64::from_le_bytes(*prefix);
    let left = bytes.len() - PREFIX;
    let Some(header) = usize::try_from(length).ok().and_then(|n| bytes[PREFIX..].get(..n)) else {
        return fail(format!("{length}, but {left} bytes follow: the file is cut off or damaged"));
    };
    let data = PREFIX + header.len();
    let object = Object::parse(FORMAT, header)?;
    object.each(&mut |name, raw| match name {
        "__metadata__" => Ok(()),
        _ => entry(name, Entry { object: object.inside(name, raw)?, name, data }),
    })
}

impl Entry<'_> {
    /// The type of the elements, if the engine can run it.
    pub(crate) fn dtype(&self) -> Result<DType> {
        let Some(dtype) = self.object.text("dtype")? else {
            return Err(self.error("dtype", "missing"));
        };
        match dtype.as_ref() {
            "F32" => Ok(DType::F32),
            "F16" => Ok(DType::F16),
            "BF16" => Ok(DType::BF16),
            other => Err(Error::Unsupported {
                what: format!("type {other:?} of tensor {:?}", self.name),
                expected: "F32, F16 and BF16 can be read from safetensors".into(),
            }),
        }
    }

    /// The dimensions, outermost first, and how many there are.
    pub(crate) fn shape(&self) -> Result<([usize; crate::directory::MAX_DIMS], usize)> {
        self.object
            .integers("shape")
            .and_then(|shape| shape.ok_or_else(|| self.error("shape", "missing")))
    }

    /// Where the data starts and ends in the file.
    pub(crate) fn range(&self) -> Result<(usize, usize)> {
        let Some(([start, end], 2)) = self.object.integers::<2>("data_offsets")? else {
            return Err(self.error("data_offsets", "expected two numbers"));
        };
        match start.checked_add(self.data).zip(end.checked_add(self.data)) {
            Some((start, end)) if start <= end => Ok((start, end)),
            _ => Err(self.error("data_offsets", format!("[{start}, {end}] is no range"))),
        }
    }

    /// An error about a field of this entry.
    pub(crate) fn error(&self, field: &str, detail: impl Into<String>) -> Error {
        Error::format(FORMAT, format!("{}.{field}", self.name), detail)
    }
}
