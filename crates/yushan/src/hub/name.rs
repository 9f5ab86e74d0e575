//! The name of a model on a hub: `hf:owner/repo` or `hf:owner/repo:path/to/file`.
//!
//! The key decision: a name is checked part by part before it becomes a path or an address, so
//! that no name, typed or sent by a server, leads out of the models folder.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;

use crate::exit::BadUsage;

/// What names on a hub begin with.
pub(super) const SCHEME: &str = "hf:";
/// Longest part of a name in bytes, and most parts of a file's.
const LONGEST: usize = 200;
const DEEPEST: usize = 8;
/// Most parts of a split file.
const SPLITS: u32 = 999;

/// A checked name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    owner: String,
    repo: String,
    file: Option<String>,
}

impl Name {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return refuse(format!(
                "{text:?} is no name on a hub; expected hf:OWNER/REPO or hf:OWNER/REPO:FILE"
            ));
        };
        let (repository, file) = match rest.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => (rest, None),
        };
        let Some((owner, repo)) = repository.split_once('/') else {
            return refuse(format!(
                "{text:?} names no owner; expected hf:OWNER/REPO or hf:OWNER/REPO:FILE"
            ));
        };
        check(text, owner)?;
        check(text, repo)?;
        let name = Name { owner: owner.into(), repo: repo.into(), file: None };
        match file {
            Some(file) => name.with_file(file),
            None => Ok(name),
        }
    }

    /// The name of a file in the same repository.
    pub(super) fn with_file(&self, file: &str) -> Result<Self> {
        if file.split('/').count() > DEEPEST {
            return refuse(format!("{file:?} lies too deep; at most {DEEPEST} parts"));
        }
        for part in file.split('/') {
            check(file, part)?;
        }
        Ok(Name { file: Some(file.into()), ..self.clone() })
    }

    pub(super) fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// `owner/repo`.
    pub(super) fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.repo)
    }

    /// `owner/repo/file`.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(self.repository()).join(self.file.as_deref().unwrap_or_default())
    }

    /// The file as a part of an address.
    pub(super) fn file_in_address(&self) -> String {
        let mut out = String::new();
        for byte in self.file.as_deref().unwrap_or_default().bytes() {
            match byte {
                b'/' | b'-' | b'_' | b'.' => out.push(byte as char),
                _ if byte.is_ascii_alphanumeric() => out.push(byte as char),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.owner, self.repo)?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

fn refuse<T>(why: String) -> Result<T> {
    Err(BadUsage(why).into())
}

/// One part of a name: nothing that a file system or an address reads as more than a name.
fn check(whole: &str, part: &str) -> Result<()> {
    let plain = |char: char| char.is_alphanumeric() || "-_.+=, ()".contains(char);
    if part.is_empty() || part.len() > LONGEST || part.starts_with('.') || !part.chars().all(plain)
    {
        return refuse(format!(
            "{part:?} in {whole:?} cannot be a part of a name: expected letters, digits, - _ and \
             dots within, at most {LONGEST} bytes"
        ));
    }
    // What a download in progress is called.
    if [".partial", ".version"].iter().any(|end| part.ends_with(end)) {
        return refuse(format!("{whole:?} ends as a download in progress does"));
    }
    Ok(())
}

/// All parts of a split GGUF file by the name of one (`x-00001-of-00003.gguf`), the first part
/// first; any other name stands for itself.
pub(super) fn parts_of_split(file: &str) -> Vec<String> {
    let split = || {
        let stem = file.strip_suffix(".gguf")?;
        let (rest, total) = stem.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five = |digits: &str| {
            (digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| digits.parse::<u32>().ok())?
        };
        let (number, total) = (five(number)?, five(total)?);
        (1..=total).contains(&number).then_some(())?;
        (total <= SPLITS).then_some(())?;
        Some((1..=total).map(|at| format!("{stem}-{at:05}-of-{total:05}.gguf")).collect())
    };
    split().unwrap_or_else(|| vec![file.to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_back() {
        for (text, path) in [
            ("hf:a/b", "a/b/"),
            ("hf:a/b:c.gguf", "a/b/c.gguf"),
            ("hf:Qwen/Qwen2.5-0.5B:sub/x y.gguf", "Qwen/Qwen2.5-0.5B/sub/x y.gguf"),
        ] {
            let name = Name::parse(text).unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(name.path(), PathBuf::from(path));
        }
        let name = Name::parse("hf:a/b:x y/ü.gguf").unwrap();
        assert_eq!(name.file_in_address(), "x%20y/%C3%BC.gguf");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = format!("hf:a/{}", "b".repeat(LONGEST + 1));
        let deep = format!("hf:a/b:{}c", "c/".repeat(DEEPEST));
        for text in [
            "",
            "a/b",
            "hf:",
            "hf:a",
            "hf:a/",
            "hf:/b",
            "hf:../b",
            "hf:a/..",
            "hf:a/b/c",
            "hf:a/b:",
            "hf:a/b:/etc/passwd",
            "hf:a/b:../c",
            "hf:a/b:c/../../d",
            "hf:a/b:c//d",
            "hf:a/b:.git",
            "hf:a/b:c\\d",
            "hf:a/b:C:d",
            "hf:a/b:c?d",
            "hf:a/b:c#d",
            "hf:a/b:c%2e",
            "hf:a/b:c\0",
            "hf:a/b:c\n",
            "hf:a/b:c.partial",
            "hf:a/b:c.version",
            &long,
            &deep,
        ] {
            assert!(Name::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn split_files_are_completed() {
        for (file, expected) in [
            ("x.gguf", &["x.gguf"][..]),
            ("x-00002-of-00002.gguf", &["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]),
            ("x-00003-of-00002.gguf", &["x-00003-of-00002.gguf"]),
            ("x-00001-of-99999.gguf", &["x-00001-of-99999.gguf"]),
            ("x-1-of-2.gguf", &["x-1-of-2.gguf"]),
        ] {
            assert_eq!(parts_of_split(file), expected);
        }
    }
}
