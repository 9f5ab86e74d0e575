//! What can go wrong before the command runs.

use std::io;

/// Why a command did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `main` does not begin with [`crate::enter`]: starting this program again would run it, not build walls.
    #[error(
        "this program does not call yushan_sandbox::enter() first, so it cannot build a sandbox"
    )]
    NotEntered,
    /// This machine has not what the tier needs.
    #[error("the sandbox cannot be built here: {0}")]
    Unavailable(String),
    /// Starting failed.
    #[error("the sandbox did not start: {0}")]
    Start(#[from] io::Error),
}
