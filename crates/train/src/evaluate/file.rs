//! A file that a model is tried on: its text, and the hash that says which file it was.
//!
//! The key decision: the hash is that of the file as it lies there, packed or not, so that `sha256sum` finds it
//! again. A file is read whole; one that unpacks to more than [`MOST`] bytes is refused before it fills the memory.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::corpus::Unpacked;
use crate::digest::hex;
use crate::{Error, Result};

/// Bytes of a file's text.
const MOST: u64 = 1 << 30;
/// Bytes that an unpacker may take.
const UNPACKER: u64 = 256 << 20;
/// Ends of names that say how a file is packed.
const PACKED: [&str; 3] = [".xz", ".gz", ".zst"];

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name without the folder.
    pub name: String,
    /// SHA-256 of its bytes on the disk, hexadecimal.
    pub sha256: String,
    /// What it says.
    pub text: String,
}

impl File {
    /// Reads a file of UTF-8; gzip, xz and zstd are unpacked.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, too large, or no UTF-8.
    pub fn read(path: &Path) -> Result<File> {
        let bad = |detail: String| Error::bad(path.display().to_string(), detail);
        let mut unpacked = Unpacked::open(path, UNPACKER)?;
        let mut bytes = Vec::new();
        let read = unpacked.by_ref().take(MOST + 1).read_to_end(&mut bytes);
        read.map_err(|error| bad(unpacked.explained(&error)))?;
        if bytes.len() as u64 > MOST {
            return Err(bad(format!("more than {MOST} bytes of text; cut the file into parts")));
        }
        let (hash, _) = unpacked.finish().map_err(|error| Error::io("reading", path, error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            bad(format!("byte {at} is not UTF-8 text; convert the file to UTF-8"))
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(File { name, sha256: hex(&hash), text })
    }

    /// The name without how it is packed and what it is: `mmlu_dev` of `mmlu_dev.jsonl.xz`.
    pub fn stem(&self) -> &str {
        let name = self.unpacked_name();
        name.rsplit_once('.').map_or(name, |(stem, _)| stem)
    }

    fn unpacked_name(&self) -> &str {
        PACKED.iter().find_map(|end| self.name.strip_suffix(end)).unwrap_or(&self.name)
    }

    /// Its documents: of a `.jsonl` the field `text` of every row; else what stands between lines that are `between`,
    /// or all of it.
    ///
    /// # Errors
    /// A row of JSON without a text.
    pub fn documents(&self, between: Option<&str>) -> Result<Vec<String>> {
        if self.unpacked_name().ends_with(".jsonl") {
            let lines = self.text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            return lines.map(|(at, line)| self.row(at + 1, line)).collect();
        }
        let Some(between) = between else { return Ok(vec![self.text.clone()]) };
        let mut documents = vec![String::new()];
        for line in self.text.split_inclusive('\n') {
            match (line.trim_end() == between, documents.last_mut()) {
                (false, Some(document)) => document.push_str(line),
                _ => documents.push(String::new()),
            }
        }
        documents.retain(|document| !document.trim().is_empty());
        Ok(documents)
    }

    fn row(&self, number: usize, line: &str) -> Result<String> {
        let bad = |detail: &str| Error::bad(format!("{}, row {number}", self.name), detail);
        let row: Value = serde_json::from_str(line).map_err(|error| bad(&error.to_string()))?;
        row["text"].as_str().map(str::to_owned).ok_or_else(|| bad("no text in a field `text`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> File {
        File { name: name.into(), sha256: String::new(), text: text.into() }
    }

    #[test]
    fn documents_are_rows_or_stand_between_lines() {
        for (name, text, between, expected) in [
            ("a.txt", "one\n--\ntwo\n", None, vec!["one\n--\ntwo\n"]),
            ("a.txt", "one\n--\n\n--\r\ntwo--\n", Some("--"), vec!["one\n", "two--\n"]),
            ("a.jsonl", "{\"text\":\"x\\n\"}\n\n{\"text\":\"y\"}", Some("--"), vec!["x\n", "y"]),
            ("a.jsonl.xz", "{\"text\":\"x\"}\n", None, vec!["x"]),
        ] {
            assert_eq!(file(name, text).documents(between).unwrap(), expected, "{name} {text:?}");
        }
        let error = file("a.jsonl", "{}\n{\"txt\":1}").documents(None).unwrap_err().to_string();
        assert_eq!(error, "a.jsonl, row 1: no text in a field `text`");
        for (name, stem) in [("a.b.jsonl.xz", "a.b"), ("a.txt", "a"), ("a", "a"), ("a.gz", "a")] {
            assert_eq!(file(name, "").stem(), stem);
        }
    }

    #[test]
    fn the_hash_is_that_of_the_file_as_it_lies_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt.zst");
        let packed = zstd::encode_all(&b"what it says"[..], 3).unwrap();
        std::fs::write(&path, &packed).unwrap();
        let read = File::read(&path).unwrap();
        assert_eq!((read.text.as_str(), read.stem()), ("what it says", "a"));
        assert_eq!(read.sha256, hex(&crate::digest::sha256(&packed)));
        for (bytes, expected) in [(&packed[..packed.len() - 4], "zstd"), (b"ab\xff", "byte 2")] {
            std::fs::write(&path, bytes).unwrap();
            let error = File::read(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("a.txt.zst"), "{error}");
        }
        let error = File::read(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }
}
