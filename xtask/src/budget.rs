//! `cargo xtask budget`: no file, function or crate outgrows what one person can hold in mind.
//!
//! The key decision: lines as they stand, comments and blank lines included, tests not; a budget
//! is raised in [`RAISED`] with a reason or not at all.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Report;
use crate::source::{blanked, block_end, crates, is_test_file, test_lines};

/// Lines of a file without its tests.
const FILE: usize = 600;
/// Lines of a function, from `fn` to its closing brace.
const FUNCTION: usize = 60;
/// Lines of a function named `forward`: the definition of a model is read in one piece.
const FORWARD: usize = 150;
/// The largest share of all lines that one crate may hold, in percent.
const CRATE_PERCENT: usize = 25;
/// With fewer crates than this one of them must hold more than its share; the check begins here.
const CRATES_ENOUGH: usize = 14;

/// `(file or file::function, lines, reason)`.
const RAISED: &[(&str, usize, &str)] = &[(
    "crates/tensor/src/matmul/avx512.rs::long",
    64,
    "one loop nest over registers; ten of the lines are its constant parameters",
)];

/// Checks all sources of the workspace.
pub(crate) fn check(root: &Path) -> Result<Report> {
    let mut faults = Vec::new();
    let mut sizes = Vec::new();
    let mut files = 0;
    for folder in crates(root)? {
        let mut size = 0;
        for path in &folder.files {
            let source = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
            size += source.lines().count();
            files += 1;
            faults.extend(file_faults(&name, &source, is_test_file(path), RAISED));
        }
        sizes.push((folder.name, size));
    }
    faults.extend(crate_faults(&sizes));
    let total: usize = sizes.iter().map(|(_, size)| size).sum();
    let summary = format!("budget: {total} lines in {files} files of {} crates", sizes.len());
    Ok(Report { summary, faults })
}

/// The faults of one file. A file of tests may be long; its functions may not be endless either,
/// but tables of cases are data, so they are not counted.
fn file_faults(
    name: &str,
    source: &str,
    only_tests: bool,
    raised: &[(&str, usize, &str)],
) -> Vec<String> {
    if only_tests {
        return Vec::new();
    }
    let mut faults = Vec::new();
    let blank = blanked(source);
    let lines: Vec<&str> = blank.lines().collect();
    let of_tests = test_lines(&lines);
    let allowed = |key: &str, usual: usize| {
        raised.iter().find(|(raised, ..)| *raised == key).map_or(usual, |(_, lines, _)| *lines)
    };
    let size = of_tests.iter().filter(|&&test| !test).count();
    let bound = allowed(name, FILE);
    if size > bound {
        faults.push(format!("{name}: {size} lines without tests; at most {bound}: split it"));
    }
    for (at, line) in lines.iter().enumerate().filter(|(at, _)| !of_tests[*at]) {
        let Some(function) = function_name(line) else { continue };
        let size = block_end(&lines, at) - at + 1;
        let usual = if function == "forward" { FORWARD } else { FUNCTION };
        let bound = allowed(&format!("{name}::{function}"), usual);
        if size > bound {
            let place = at + 1;
            faults.push(format!("{name}:{place}: fn {function} has {size} lines; at most {bound}"));
        }
    }
    faults
}

/// The name of the function that begins on this blanked line.
fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    words.find(|word| !is_qualifier(word)).filter(|word| *word == "fn")?;
    let rest = words.next()?;
    let end = rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len());
    (end > 0).then(|| &rest[..end])
}

fn is_qualifier(word: &str) -> bool {
    matches!(word, "pub" | "const" | "async" | "unsafe" | "extern" | "default" | "path)")
        || word.starts_with("pub(")
        || word.starts_with("#[")
}

/// Crates that hold more than their share. `xtask` counts towards the whole.
fn crate_faults(sizes: &[(String, usize)]) -> Vec<String> {
    if sizes.len() < CRATES_ENOUGH {
        return Vec::new();
    }
    let total: usize = sizes.iter().map(|(_, size)| size).sum();
    sizes
        .iter()
        .filter(|(_, size)| size * 100 > total * CRATE_PERCENT)
        .map(|(name, size)| {
            let share = size * 100 / total;
            format!("crate {name}: {size} of {total} lines ({share} %); at most {CRATE_PERCENT} %")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fn NAME` of so many lines.
    fn function(name: &str, lines: usize) -> String {
        format!("pub fn {name}() {{\n{}}}\n", "    // {\n".repeat(lines - 2))
    }

    #[test]
    fn what_is_too_large_is_named() {
        let check = |source: &str, raised: &[(&str, usize, &str)], expected: &[&str]| {
            let faults = file_faults("a.rs", source, false, raised);
            assert_eq!(faults.len(), expected.len(), "{faults:?}");
            for (fault, part) in faults.iter().zip(expected) {
                assert!(fault.contains(part), "{fault}");
            }
        };
        check(&function("f", 60), &[], &[]);
        check(&function("f", 61), &[], &["a.rs:1: fn f has 61 lines; at most 60"]);
        check(&function("f", 61), &[("a.rs::f", 61, "a table")], &[]);
        check(&function("forward", 150), &[], &[]);
        check(&function("forward", 151), &[], &["at most 150"]);
        check(&"\n".repeat(600), &[], &[]);
        check(&"\n".repeat(601), &[], &["a.rs: 601 lines"]);
        check(&"\n".repeat(601), &[("a.rs", 700, "a table")], &[]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function("f", 700));
        check(&tests, &[], &[]);
        check("trait T {\n    fn f(&self)\n    -> [u8; 3];\n}\n", &[], &[]);
    }

    #[test]
    fn functions_are_found() {
        for (line, name) in [
            ("fn f() {", Some("f")),
            ("    pub(crate) const unsafe fn f_2<T>(", Some("f_2")),
            ("pub(in crate::path) fn f()", None),
            ("#[inline] pub async fn f()", Some("f")),
            ("let f: fn(u8) = g;", None),
            ("x.map(fn_name)", None),
        ] {
            assert_eq!(function_name(line), name, "{line}");
        }
    }

    #[test]
    fn a_crate_may_hold_a_quarter() {
        let sizes = |first: usize, crates: usize| -> Vec<(String, usize)> {
            let rest = (1..crates).map(|at| (format!("c{at}"), 100));
            std::iter::once(("big".to_string(), first)).chain(rest).collect()
        };
        assert!(crate_faults(&sizes(433, 14)).is_empty());
        assert_eq!(crate_faults(&sizes(434, 14)).len(), 1);
        assert!(crate_faults(&sizes(10_000, 13)).is_empty());
    }
}
