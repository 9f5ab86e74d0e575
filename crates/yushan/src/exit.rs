//! How a command ends: the exit codes, and the one line on stderr that says why.

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Result;
use yushan_abi::ExecutorError;
use yushan_model::Error;

/// The codes, as `--help` and the manual list them. Code 2 is clap's.
pub(crate) const CODES: &str = "Exit codes:
  0    it worked
  1    the work failed (a full disk, a prompt longer than the context, …)
  2    the command line is wrong
  3    a file is missing, damaged or of a kind that is not supported
  4    not enough memory
  130  interrupted by Ctrl-C";

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;
const BAD_FILE: u8 = 3;
const NO_MEMORY: u8 = 4;
const INTERRUPTED: u8 = 130;

/// Ctrl-C ended the work.
#[derive(Debug)]
pub(crate) struct Interrupted;

/// The file that a command was given is not there, or is no model.
#[derive(Debug)]
pub(crate) struct BadFile(pub(crate) String);

/// What was asked for on the command line makes no sense.
#[derive(Debug)]
pub(crate) struct BadUsage(pub(crate) String);

impl std::fmt::Display for BadUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUsage {}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl std::fmt::Display for BadFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadFile {}

/// Says what went wrong on stderr and gives the code to end with.
pub(crate) fn code(done: Result<()>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    if is_closed_pipe(&error) {
        return ExitCode::SUCCESS; // `yushan inspect … | head`: the reader has what it wanted
    }
    let stopped = matches!(error.downcast_ref(), Some(Error::Stopped));
    if stopped || error.is::<Interrupted>() {
        return ExitCode::from(INTERRUPTED); // whoever pressed Ctrl-C knows
    }
    eprintln!("error: {}", line(&error));
    ExitCode::from(number(&error))
}

fn number(error: &anyhow::Error) -> u8 {
    if error.is::<BadFile>() {
        return BAD_FILE;
    }
    if error.is::<BadUsage>() {
        return BAD_USAGE;
    }
    let of_training = match error.downcast_ref::<yushan_train::Error>() {
        Some(yushan_train::Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return BAD_FILE;
        }
        Some(yushan_train::Error::Model(error)) => Some(error),
        _ => None,
    };
    match error.downcast_ref::<Error>().or(of_training) {
        Some(Error::Format { .. } | Error::Unsupported { .. } | Error::Missing { .. }) => BAD_FILE,
        Some(Error::Template(_) | Error::Grammar(_)) => BAD_FILE,
        Some(Error::Request { .. }) => BAD_USAGE,
        Some(Error::Memory { .. } | Error::Executor(ExecutorError::OutOfPages { .. })) => NO_MEMORY,
        Some(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => BAD_FILE,
        _ => FAILED,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// The chain of causes in one line. Messages often name the file themselves or quote their cause:
/// what the line says already is not said again.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if text.starts_with(&line) {
            line = text;
        } else if !line.contains(&text) {
            let between = if line.is_empty() { "" } else { ": " };
            line = format!("{line}{between}{text}");
        }
    }
    line.lines().map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_become_one_line_and_a_code() {
        let io = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let memory = Error::Memory {
            what: "KV".into(),
            asked: 2 << 20,
            limit: 1 << 20,
            hint: "less".into(),
        };
        let cases: [(anyhow::Error, u8, &str); 9] = [
            (Error::io("model.gguf", io()).into(), 1, "model.gguf: permission denied"),
            (Error::format("GGUF", "version", "9").into(), 3, "GGUF: version: 9"),
            (Error::Grammar("line 1\n  line 2\n".into()).into(), 3, "grammar: line 1; line 2"),
            (memory.into(), 4, "2 MiB needed for KV, but 1 MiB are there: less"),
            (anyhow::anyhow!("inner").context("outer"), 1, "outer: inner"),
            (BadUsage("no name".into()).into(), 2, "no name"),
            (Error::request("top_p", "2").into(), 2, "top_p: 2"),
            (BadFile("no such file".into()).into(), 3, "no such file"),
            (anyhow::anyhow!("a.gguf: damaged").context("a.gguf"), 1, "a.gguf: damaged"),
        ];
        for (error, expected, text) in cases {
            assert_eq!((number(&error), line(&error).as_str()), (expected, text));
        }
        let context = anyhow::Error::from(Error::format("GGUF", "version", "9")).context("draft");
        assert_eq!(number(&context), 3, "context does not hide the kind of error");
    }
}
