//! What the running system tells whoever runs it: lines on stderr, for people or for programs.
//!
//! The key decision: quiet unless asked. By default only what went wrong on our side is told; `--log-level info` adds
//! a line for each request. No line holds a key, a prompt or an answer: the server writes none into its events.

use std::io::IsTerminal;

use anyhow::{Result, anyhow};
use tracing_subscriber::filter::LevelFilter;

/// How much is told, and in which form.
#[derive(clap::Args)]
pub(crate) struct Logs {
    /// What is told on stderr; `info` has a line for each request
    #[arg(long, value_enum, value_name = "LEVEL", env = "YUSHAN_LOG", default_value_t = Level::Warn)]
    log_level: Level,
    /// In which form
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Text)]
    log_format: Form,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Level {
    /// Nothing.
    Off,
    /// What failed on our side.
    Error,
    /// What should be looked at, too.
    Warn,
    /// A line for each request, too.
    Info,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Form {
    /// Lines for people.
    Text,
    /// An object of JSON a line.
    Json,
}

impl Logs {
    /// Begins to tell; once in a program's life.
    pub(crate) fn begin(&self) -> Result<()> {
        let level = match self.log_level {
            Level::Off => LevelFilter::OFF,
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
        };
        let lines = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        let begun = match self.log_format {
            Form::Text => lines.try_init(),
            Form::Json => lines.json().flatten_event(true).try_init(),
        };
        begun.map_err(|error| anyhow!("the log: {error}"))
    }
}
