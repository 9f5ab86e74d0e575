//! Any parameters file under one set of names.
//!
//! The key decision: every format is presented as GGUF presents it (`token_embd.weight`,
//! `blk.N.attn_q.weight`, …), with the tensor bytes borrowed from the mapped file. What differs
//! (the order of rotary pairs) is a switch in [`Config`], not a copy of the data.
//!
//! Whoever holds a [`ModelFile`] holds the proof that its configuration is sound and that every
//! tensor the decoder needs is there in its shape, and no other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{check_shape, missing};
pub use crate::directory::TensorView;
use crate::directory::{Directory, SharedTensor};
use crate::gguf::{self, Gguf};
use crate::mmap::Mapping;
use crate::tokenizer::Tokenizer;
use crate::{Config, Error, Result, hugging_face, llama2c};

/// Where the parameters came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A GGUF file, or the first of several parts.
    Gguf,
    /// A Hugging Face folder, or one safetensors file beside its `config.json`.
    Safetensors,
    /// A llama2.c `.bin`.
    Llama2c,
}

/// A parameters file of any supported format, mapped, with its configuration read.
#[derive(Debug)]
pub struct ModelFile {
    format: Format,
    path: PathBuf,
    config: Config,
    /// GGUF alone has some.
    metadata: Option<gguf::Metadata>,
    tensors: Directory,
}

impl ModelFile {
    /// Opens a GGUF file (the first part of a split one too), a folder with `config.json` and
    /// safetensors, one `.safetensors` file beside its `config.json`, or a llama2.c `.bin`. The
    /// format is told by content, not by name.
    pub fn open(path: &Path) -> Result<ModelFile> {
        if path.is_dir() {
            return ModelFile::read_hugging_face(path);
        }
        let map = Mapping::open(path)?;
        if Gguf::is_magic(&map) {
            // It opens the file again: a split model needs the path.
            return ModelFile::from_gguf(Gguf::open(path)?, path);
        }
        if path.extension().is_some_and(|kind| kind == "gguf") {
            let found = crate::error::shown(map.get(..4).unwrap_or(&map));
            let detail =
                format!("{found} in place of \"GGUF\": the file is damaged or of another kind");
            return Err(Error::format(gguf::FORMAT, "magic", detail));
        }
        if hugging_face::is_likely(&map) {
            return ModelFile::read_hugging_face(path);
        }
        if map.trim_ascii_start().starts_with(b"{") {
            return Err(Error::Unsupported {
                what: format!("{}: a JSON file in place of parameters", path.display()),
                expected: "give the folder it lies in, or the file with the parameters".into(),
            });
        }
        ModelFile::read_llama2c(map, path)
    }

    /// Reads a GGUF or llama2.c file that is in memory: for tests and fuzzing.
    pub fn parse(bytes: Vec<u8>) -> Result<ModelFile> {
        match Gguf::is_magic(&bytes) {
            true => ModelFile::from_gguf(Gguf::parse(bytes)?, Path::new("")),
            false => ModelFile::read_llama2c(Mapping::from_bytes(bytes), Path::new("")),
        }
    }

    /// Reads a `config.json` and safetensors files that are in memory: for tests and fuzzing.
    pub fn parse_safetensors(config: &[u8], files: Vec<Vec<u8>>) -> Result<ModelFile> {
        let files = files.into_iter().map(|bytes| Arc::new(Mapping::from_bytes(bytes))).collect();
        let (config, tensors) = hugging_face::read(config, files)?;
        Ok(ModelFile {
            format: Format::Safetensors,
            path: PathBuf::new(),
            config,
            metadata: None,
            tensors,
        })
    }

    /// The format it was read from.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The file or folder, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sizes and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The metadata of a GGUF file.
    pub fn metadata(&self) -> Option<&gguf::Metadata> {
        self.metadata.as_ref()
    }

    /// The tensor of this GGUF name, with its file kept open.
    pub(crate) fn shared(&self, name: &str) -> Option<SharedTensor> {
        self.tensors.shared(name)
    }

    /// The tensor of this GGUF name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get(name)
    }

    /// The tensor of this GGUF name, which must have this shape (outermost first).
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let tensor = self.tensors.get(name).ok_or_else(|| missing(name))?;
        check_shape(self.format.name(), &tensor, shape)?;
        Ok(tensor)
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.tensors.iter()
    }

    /// Tells the operating system that what was read of the file is not needed again soon, so that it
    /// stops counting towards the process (after it was repacked).
    pub fn release(&self) {
        self.tensors.release();
    }

    /// The tokenizer: `apart`, a file or folder given by the user, or else the model's own. A
    /// llama2.c file has none of its own; of those beside it `tokenizer.bin` or `tok*.bin` is
    /// taken, if that is one.
    pub fn tokenizer(&self, apart: Option<&Path>) -> Result<Tokenizer> {
        let beside = match (apart, self.format, &self.metadata) {
            (Some(path), _, _) => path.to_path_buf(),
            (None, Format::Gguf, Some(metadata)) => return Tokenizer::from_gguf(metadata),
            (None, Format::Llama2c, _) => self.tokenizer_beside()?,
            (None, _, _) => self.folder().to_path_buf(),
        };
        let tokenizer = Tokenizer::from_file(&beside, self.config.vocabulary)?;
        if apart.is_some() && tokenizer.vocabulary_size() > self.config.vocabulary {
            return Err(Error::Unsupported {
                what: format!(
                    "{}: a tokenizer of {} tokens for a model of {}",
                    beside.display(),
                    tokenizer.vocabulary_size(),
                    self.config.vocabulary
                ),
                expected: "give the tokenizer that belongs to this model".into(),
            });
        }
        Ok(tokenizer)
    }

    fn from_gguf(gguf: Gguf, path: &Path) -> Result<ModelFile> {
        let (metadata, tensors) = gguf.into_parts();
        let config = Config::from_gguf(&metadata, &tensors)?;
        let path = path.to_path_buf();
        Ok(ModelFile { format: Format::Gguf, path, config, metadata: Some(metadata), tensors })
    }

    fn read_hugging_face(path: &Path) -> Result<ModelFile> {
        let (config, tensors) = hugging_face::open(path)?;
        let path = path.to_path_buf();
        Ok(ModelFile { format: Format::Safetensors, path, config, metadata: None, tensors })
    }

    fn read_llama2c(map: Mapping, path: &Path) -> Result<ModelFile> {
        let says_so = llama2c::is_magic(&map);
        let (config, tensors) = llama2c::open(Arc::new(map)).map_err(|error| match error {
            Error::Format { format, field, detail } if !says_so => Error::Format {
                format,
                field,
                detail: format!(
                    "{detail} (the file is neither GGUF nor safetensors, so it was read as a \
                     llama2.c .bin)"
                ),
            },
            error => error,
        })?;
        let path = path.to_path_buf();
        Ok(ModelFile { format: Format::Llama2c, path, config, metadata: None, tensors })
    }

    /// The folder the model lies in.
    pub(crate) fn folder(&self) -> &Path {
        if self.path.is_dir() {
            return &self.path;
        }
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// The llama2.c tokenizer in the same folder, if there is no doubt which.
    fn tokenizer_beside(&self) -> Result<PathBuf> {
        let folder = self.folder();
        for name in ["tokenizer.bin".into(), format!("tok{}.bin", self.config.vocabulary)] {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
        }
        let mut others: Vec<PathBuf> = std::fs::read_dir(folder)
            .map_err(|error| Error::io(folder, error))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.starts_with("tok") && name.ends_with(".bin")
            })
            .collect();
        match (others.pop(), others.len()) {
            (Some(path), 0) => Ok(path),
            _ => Err(Error::Missing {
                what: format!("the tokenizer of {}", self.path.display()),
                hint: "llama2.c keeps it in a file of its own; give it with --tokenizer FILE"
                    .into(),
            }),
        }
    }
}

impl Format {
    /// The name in error messages.
    pub fn name(self) -> &'static str {
        match self {
            Format::Gguf => gguf::FORMAT,
            Format::Safetensors => crate::safetensors::FORMAT,
            Format::Llama2c => llama2c::FORMAT,
        }
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
