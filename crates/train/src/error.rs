//! The one error type of the crate.

use std::path::PathBuf;

/// What went wrong: what happened, what was expected, what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// `reading`, `writing`, …
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Something that was given does not fit: a recipe, a corpus, a shard, a checkpoint.
    #[error("{what}: {detail}")]
    Bad {
        /// The thing that does not fit.
        what: String,
        /// Why, what was expected, and what to do next.
        detail: String,
    },
    /// The engine's own errors: files, tokenizers.
    #[error(transparent)]
    Model(#[from] yushan_model::Error),
    /// Other ranks: lost, out of step, unreachable.
    #[error(transparent)]
    Ranks(#[from] yushan_collective::Error),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Something that was given does not fit.
    pub fn bad(what: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Bad { what: what.into(), detail: detail.into() }
    }

    /// The operating system refused `doing` something with `path`.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Error {
        Error::Io { doing, path: path.into(), source }
    }
}
