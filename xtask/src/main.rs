//! Checks of the house, as `cargo xtask COMMAND`: each prints what is wrong, one line each, and
//! fails if there is anything.
//!
//! The key decision: the rules are data at the top of each file, so that raising a budget or
//! drawing an edge is a change of one line with its reason beside it.

mod arch;
mod budget;
mod source;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND
  arch      the edges between crates, unsafe, async, names of files, count of external crates
  budget    the sizes of files, functions and crates";

fn main() -> ExitCode {
    let root = root();
    let checked = match std::env::args().nth(1).as_deref() {
        Some("arch") => arch::check(&root),
        Some("budget") => budget::check(&root),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match checked {
        Ok(report) => {
            for line in &report.faults {
                eprintln!("{line}");
            }
            println!("{}; {} at fault", report.summary, report.faults.len());
            if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a check found.
struct Report {
    /// What was looked at.
    summary: String,
    /// One line for each fault: where, what, what to do.
    faults: Vec<String>,
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}
