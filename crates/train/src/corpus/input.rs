//! Files of a source: found by their patterns, opened and unpacked as they are read.
//!
//! The key decision: what a file is packed with is read from its first bytes, not from its name. What is unpacked
//! never lies in memory as a whole, and an unpacker that wants more than its share of memory is refused.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use super::recipe::Recipe;
use crate::digest::Hashing;
use crate::{Error, Result};

/// Bytes read ahead from a file.
const AHEAD: usize = 64 << 10;

/// A file to read.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// The number of its source.
    pub(super) source: usize,
    /// Where it is.
    pub(super) path: PathBuf,
    /// As packed.
    pub(super) bytes: u64,
}

impl Input {
    /// The name without its folder: what reports say, so that they are the same on every machine.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The files of all sources: sources in the recipe's order, patterns in theirs, what a pattern matches by name.
///
/// # Errors
/// If a variable is not set, a pattern matches nothing, or a file cannot be read.
pub(super) fn inputs(recipe: &Recipe) -> Result<Vec<Input>> {
    let mut found = Vec::new();
    for (source, described) in recipe.sources.iter().enumerate() {
        for pattern in &described.path {
            let bad = |detail: String| Error::bad(format!("source `{}`", described.name), detail);
            let expanded = expanded(pattern).map_err(bad)?;
            let folder = glob::Pattern::escape(&recipe.folder.to_string_lossy());
            let full = Path::new(&folder).join(expanded).to_string_lossy().into_owned();
            let paths = glob::glob(&full)
                .map_err(|error| bad(format!("`{pattern}` is no pattern: {error}")))?;
            let before = found.len();
            for path in paths {
                let path = path.map_err(|error| bad(format!("`{pattern}`: {error}")))?;
                let about = std::fs::metadata(&path)
                    .map_err(|source| Error::io("reading", &path, source))?;
                if about.is_file() {
                    found.push(Input { source, path, bytes: about.len() });
                }
            }
            if found.len() == before {
                return Err(bad(format!("no file matches {full}; correct `path` in the recipe")));
            }
        }
    }
    Ok(found)
}

/// With the variable at the beginning replaced.
fn expanded(pattern: &str) -> std::result::Result<String, String> {
    let Some(rest) = pattern.strip_prefix('$') else { return Ok(pattern.to_string()) };
    let (name, rest) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
    let value = std::env::var(name).map_err(|_| {
        format!("`{pattern}`: the variable {name} is not set; set it to the folder that is meant")
    })?;
    // Brackets of the folder are no pattern.
    Ok(format!("{}{rest}", glob::Pattern::escape(&value)))
}

/// What a file's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    fn of(start: &[u8]) -> Packing {
        match start {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            _ => Packing::None,
        }
    }
}

/// A file's unpacked bytes, and the SHA-256 of its packed ones.
pub(crate) struct Unpacked {
    reader: Box<dyn Packed>,
    packing: Packing,
}

/// A reader around the file that can give the hash at the end.
trait Packed: Read + Send {
    fn file(&mut self) -> &mut Raw;
}

/// The file: first the bytes that were looked at, then the rest.
type Raw = Hashing<io::Chain<Cursor<Vec<u8>>, BufReader<File>>>;

impl Unpacked {
    /// Opens a file; its unpacker may take `memory` bytes.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(path: &Path, memory: u64) -> Result<Unpacked> {
        let failed = |source| Error::io("reading", path, source);
        let mut file = BufReader::with_capacity(AHEAD, File::open(path).map_err(failed)?);
        let mut start = Vec::new();
        file.by_ref().take(6).read_to_end(&mut start).map_err(failed)?;
        let packing = Packing::of(&start);
        let raw = Hashing::new(Cursor::new(start).chain(file));
        let reader: Box<dyn Packed> = match packing {
            Packing::None => Box::new(raw),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(Buffered::new(raw))),
            Packing::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    memory,
                    liblzma::stream::CONCATENATED,
                );
                let stream = stream.map_err(|error| failed(error.into()))?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(Buffered::new(raw), stream))
            }
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(Buffered::new(raw)).map_err(failed)?;
                decoder.window_log_max(memory.max(1 << 17).ilog2().min(31)).map_err(failed)?;
                Box::new(decoder)
            }
        };
        Ok(Unpacked { reader, packing })
    }

    /// Packed bytes that were read so far.
    pub(crate) fn packed(&mut self) -> u64 {
        self.reader.file().length()
    }

    /// The SHA-256 and length of the whole packed file.
    ///
    /// # Errors
    /// If what follows the packed data cannot be read.
    pub(crate) fn finish(mut self) -> io::Result<([u8; 32], u64)> {
        io::copy(self.reader.file(), &mut io::sink())?;
        let raw = std::mem::replace(self.reader.file(), empty()?);
        Ok(raw.done())
    }

    /// What a reader should be told about an error of this file.
    pub(crate) fn explained(&self, error: &io::Error) -> String {
        let packing = match self.packing {
            Packing::None => return error.to_string(),
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
        };
        let text = error.to_string().to_lowercase();
        if error.kind() == io::ErrorKind::OutOfMemory || text.contains("memory") {
            return format!(
                "its {packing} data need more memory to unpack than a quarter of the recipe's `memory`; give more"
            );
        }
        let cut = error.kind() == io::ErrorKind::UnexpectedEof || text.contains("incomplete");
        let what = if cut { "end too early: the file is cut off" } else { "are damaged" };
        format!(
            "its {packing} data {what} ({error}); fetch the file again or take it out of the recipe"
        )
    }
}

/// Reads nothing: what stays in an unpacker whose file was taken.
fn empty() -> io::Result<Raw> {
    let nothing = BufReader::with_capacity(1, tempfile::tempfile()?);
    Ok(Hashing::new(Cursor::new(Vec::new()).chain(nothing)))
}

impl Read for Unpacked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader.read(into)
    }
}

/// A buffer around the hashing reader, as unpackers want one.
struct Buffered(BufReader<Raw>);

impl Buffered {
    fn new(raw: Raw) -> Buffered {
        Buffered(BufReader::with_capacity(AHEAD, raw))
    }
}

impl Read for Buffered {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl BufRead for Buffered {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.0.consume(bytes);
    }
}

impl Packed for Raw {
    fn file(&mut self) -> &mut Raw {
        self
    }
}

impl Packed for flate2::bufread::MultiGzDecoder<Buffered> {
    fn file(&mut self) -> &mut Raw {
        self.get_mut().0.get_mut()
    }
}

impl Packed for liblzma::bufread::XzDecoder<Buffered> {
    fn file(&mut self) -> &mut Raw {
        self.get_mut().0.get_mut()
    }
}

impl Packed for zstd::Decoder<'static, Buffered> {
    fn file(&mut self) -> &mut Raw {
        self.get_mut().0.get_mut()
    }
}
