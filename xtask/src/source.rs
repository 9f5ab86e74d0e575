//! Rust source as a check sees it: files, and each file's lines without strings and comments.
//!
//! The key decision: a scanner of a hundred lines instead of a parser; it knows strings, raw
//! strings, characters, lifetimes and nested comments, which is all that counting braces needs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder of a crate: `crates/*` and `xtask`.
pub(crate) struct CrateFolder {
    pub(crate) name: String,
    /// Every `.rs` file below it, sorted.
    pub(crate) files: Vec<PathBuf>,
}

/// The crates of the workspace, by their folders, `xtask` last.
pub(crate) fn crates(root: &Path) -> Result<Vec<CrateFolder>> {
    let mut folders: Vec<PathBuf> = entries(&root.join("crates"))?;
    folders.push(root.join("xtask"));
    folders
        .into_iter()
        .map(|folder| {
            let mut files = Vec::new();
            collect(&folder, &mut files)?;
            files.sort();
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(CrateFolder { name, files })
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let what = || folder.display().to_string();
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(what)? {
        paths.push(entry.with_context(what)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Whether the whole file is there for tests only.
pub(crate) fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|stem| stem == "tests")
}

/// The source with the insides of strings, characters and comments blanked; line breaks stay.
pub(crate) fn blanked(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = token_end(&chars, at);
        if end > at + 1 {
            out.extend(chars[at..end].iter().map(|&char| if char == '\n' { '\n' } else { ' ' }));
        } else {
            out.push(chars[at]);
        }
        at = end;
    }
    out
}

/// The end of the comment, string or character that begins at `at`; `at + 1` if none does.
fn token_end(chars: &[char], at: usize) -> usize {
    let is = |offset: usize, char: char| chars.get(at + offset) == Some(&char);
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if is(1, '/') => (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len()),
        '/' if is(1, '*') => comment_end(chars, at),
        '"' => string_end(chars, at + 1),
        'r' if !in_word || chars[at - 1] == 'b' || chars[at - 1] == 'c' => {
            let hashes = chars[at + 1..].iter().take_while(|&&char| char == '#').count();
            if is(1 + hashes, '"') {
                raw_string_end(chars, at + 2 + hashes, hashes)
            } else {
                at + 1
            }
        }
        // A character, not a lifetime: it is closed, or it begins with a backslash.
        '\'' if is(1, '\\') => {
            (at + 3..chars.len()).find(|&i| chars[i] == '\'').map_or(chars.len(), |i| i + 1)
        }
        '\'' if is(2, '\'') => at + 3,
        _ => at + 1,
    }
}

/// Comments nest.
fn comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => {
                (depth, i) = (depth - 1, i + 2);
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], mut at: usize, hashes: usize) -> usize {
    while at < chars.len() {
        let closing = chars[at + 1..].iter().take_while(|&&char| char == '#').count();
        if chars[at] == '"' && closing >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    chars.len()
}

/// The line on which the block closes whose opening brace is the first at or after `line`; `line`
/// itself if a semicolon comes first.
pub(crate) fn block_end(lines: &[&str], line: usize) -> usize {
    let (mut depth, mut brackets) = (0usize, 0usize);
    for (at, text) in lines.iter().enumerate().skip(line) {
        for char in text.chars() {
            match char {
                '{' => depth += 1,
                '}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return at;
                    }
                }
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                ';' if depth == 0 && brackets == 0 => return at,
                _ => {}
            }
        }
    }
    lines.len().saturating_sub(1)
}

/// For each line of a blanked source, whether it belongs to an item under `#[cfg(test)]`.
pub(crate) fn test_lines(lines: &[&str]) -> Vec<bool> {
    let mut marked = vec![false; lines.len()];
    let mut at = 0;
    while at < lines.len() {
        let end = if lines[at].trim_start().starts_with("#[cfg(test)]") {
            // Other attributes may stand between; they hold brackets, not braces.
            let end = block_end(lines, at);
            marked[at..=end].fill(true);
            end
        } else {
            at
        };
        at = end + 1;
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_characters_and_comments_are_blanked() {
        for (source, expected) in [
            ("a // {\nb", "a ____\nb"),
            ("a /*{/*}*/\n{*/ b", "a ________\n___ b"),
            (r#"f("}\"{") + 1"#, "f(______) + 1"),
            ("f(r#\"}\"\"#) }", "f(_______) }"),
            ("br\"\\\" }", "b____ }"),
            ("'{' '\\'' '\\u{7d}' 'a: loop {", "___ ____ ________ 'a: loop {"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("for r in x {}", "for r in x {}"),
            ("\"never closed {", "_______________"),
        ] {
            assert_eq!(blanked(source), expected.replace('_', " "), "{source}");
        }
    }

    #[test]
    fn tests_are_told_from_the_rest() {
        let source =
            "fn a() {}\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod t {\n fn b() {}\n}\nfn c() {}";
        let lines: Vec<&str> = source.lines().collect();
        let expected = [false, true, true, true, true, true, true, false];
        assert_eq!(test_lines(&lines), expected);
    }
}
