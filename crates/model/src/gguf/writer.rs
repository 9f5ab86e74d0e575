//! Writes GGUF version 3: everything that describes the tensors first, then their data, streamed.
//!
//! The key decision: two types for two moments. A [`Header`] is collected in memory, [`Writer`]
//! takes the data in the promised order and size; the file appears under its name only when all
//! of it is on disk, so a reader never meets half a model.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use yushan_tensor::DType;

use super::value::encode_bytes;
use super::{DEFAULT_ALIGNMENT, Encode, FORMAT, MAGIC, Metadata, Value};
use crate::directory::byte_length;
use crate::{Error, Result};

/// What will stand before the tensor data.
#[derive(Debug, Default)]
pub struct Header {
    /// Key, and the value with its type as it stands in the file.
    metadata: Vec<(String, Vec<u8>)>,
    tensors: Vec<Planned>,
}

/// A tensor whose data is still to come.
#[derive(Debug)]
struct Planned {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: usize,
}

impl Header {
    /// An empty header.
    pub fn new() -> Header {
        Header::default()
    }

    /// Sets a key, replacing what stood there. Slices are written as arrays.
    pub fn set<T: Encode>(&mut self, key: &str, value: T) {
        let mut bytes = (T::TYPE as u32).to_le_bytes().to_vec();
        value.encode(&mut bytes);
        self.set_encoded(key, bytes);
    }

    /// Sets a key to a value read from another file.
    pub fn set_value(&mut self, key: &str, value: Value<'_>) {
        let mut bytes = Vec::new();
        value.encode_tagged(&mut bytes);
        self.set_encoded(key, bytes);
    }

    /// Copies the entries whose key `keep` accepts. The alignment and the split of the other file
    /// are not copied: this writer has its own.
    pub fn copy(&mut self, from: &Metadata, keep: impl Fn(&str) -> bool) {
        for (key, value) in from.iter() {
            if key != "general.alignment" && !key.starts_with("split.") && keep(key) {
                self.set_value(key, value);
            }
        }
    }

    /// Takes a key out; says whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.metadata.len();
        self.metadata.retain(|(present, _)| present != key);
        self.metadata.len() != before
    }

    /// Announces a tensor. `shape` is outermost first. Data follows in the order of these calls.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<()> {
        let bytes = byte_length(FORMAT, name, dtype, shape)?;
        if self.tensors.iter().any(|tensor| tensor.name == name) {
            return Err(Error::format(FORMAT, name, "two tensors have this name"));
        }
        self.tensors.push(Planned { name: name.into(), dtype, shape: shape.to_vec(), bytes });
        Ok(())
    }

    /// Bytes of the tensor data, padding included.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| padded(tensor.bytes) as u64).sum()
    }

    /// Starts the file: writes everything up to the tensor data into a temporary file beside
    /// `path`.
    pub fn create(self, path: &Path) -> Result<Writer> {
        // The rename at the end would put the file in the place of a device or a pipe.
        if std::fs::metadata(path).is_ok_and(|about| !about.is_file()) {
            let what = "is no regular file; give the path of a file to write";
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
            return Err(Error::io(path, source));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let file = File::create(&partial).map_err(|source| Error::io(path, source))?;
        let mut writer = Writer {
            target: path.to_path_buf(),
            partial: partial.clone(),
            file: Some(BufWriter::with_capacity(1 << 20, file)),
            tensors: self.tensors,
            current: 0,
            written: 0,
        };
        let head = encode(&self.metadata, &writer.tensors);
        writer.raw(&head)?;
        Ok(writer)
    }

    fn set_encoded(&mut self, key: &str, bytes: Vec<u8>) {
        match self.metadata.iter_mut().find(|(present, _)| present == key) {
            Some(entry) => entry.1 = bytes,
            None => self.metadata.push((key.into(), bytes)),
        }
    }
}

/// A file that waits for its tensor data. Dropped before [`Writer::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    target: PathBuf,
    partial: PathBuf,
    /// `None` after `finish`.
    file: Option<BufWriter<File>>,
    tensors: Vec<Planned>,
    /// The tensor that is being written.
    current: usize,
    /// Bytes of it that are there.
    written: usize,
}

impl Writer {
    /// The name of the tensor whose data comes next; `None` when all are there.
    pub fn next_tensor(&self) -> Option<&str> {
        self.tensors.get(self.current).map(|tensor| tensor.name.as_str())
    }

    /// Writes all data of a tensor. It must be the next one, and of its size.
    pub fn tensor(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let expected =
            self.tensors.get(self.current).filter(|t| t.name == name && self.written == 0);
        let Some(expected) = expected else {
            let next = self.next_tensor().unwrap_or("the end of the file");
            return Err(Error::format(
                FORMAT,
                name,
                format!("written out of order, expected {next}"),
            ));
        };
        if expected.bytes != data.len() {
            let detail = format!("{} bytes written, {} announced", data.len(), expected.bytes);
            return Err(Error::format(FORMAT, name, detail));
        }
        self.write(data)
    }

    /// Writes some more bytes of the current tensor; moves on to the next when it is complete.
    /// For tensors that are made piece by piece.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        let left = self.tensors.get(self.current).map_or(0, |tensor| tensor.bytes - self.written);
        if data.len() > left {
            let name = self.next_tensor().unwrap_or("the end of the file").to_string();
            let detail = format!("{} bytes written, but only {left} are left", data.len());
            return Err(Error::format(FORMAT, name, detail));
        }
        self.raw(data)?;
        self.written += data.len();
        if data.len() == left && left > 0 {
            let bytes = self.written;
            self.raw(&[0; DEFAULT_ALIGNMENT][..padded(bytes) - bytes])?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Puts the file on disk under its name. Fails if data is missing.
    pub fn finish(mut self) -> Result<()> {
        if let Some(name) = self.next_tensor() {
            let detail = format!("only {} bytes of its data were written", self.written);
            return Err(Error::format(FORMAT, name, detail));
        }
        let Some(file) = self.file.take() else { return Ok(()) };
        let done = file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&self.partial, &self.target));
        done.map_err(|source| {
            let _ = std::fs::remove_file(&self.partial);
            Error::Io { path: self.target.clone(), source }
        })?;
        sync_folder(&self.target);
        Ok(())
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(|source| Error::Io { path: self.partial.clone(), source })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nothing sensible can be done about a failure here.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Makes the rename itself durable, where the platform lets a folder be opened for it.
fn sync_folder(path: &Path) {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(DEFAULT_ALIGNMENT)
}

fn encode(metadata: &[(String, Vec<u8>)], tensors: &[Planned]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&3_u32.to_le_bytes());
    out.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    out.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        encode_bytes(key.as_bytes(), &mut out);
        out.extend_from_slice(value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        encode_bytes(tensor.name.as_bytes(), &mut out);
        out.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
        // The file has the innermost dimension first.
        for &size in tensor.shape.iter().rev() {
            out.extend_from_slice(&(size as u64).to_le_bytes());
        }
        out.extend_from_slice(&tensor.dtype.gguf().to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        offset += padded(tensor.bytes) as u64;
    }
    out.resize(padded(out.len()), 0);
    out
}
