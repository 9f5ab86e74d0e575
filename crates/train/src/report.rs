//! What a run did: its log while it goes on, curves in the terminal, and the report card afterwards.
//!
//! The key decision: the trainer only ever appends to `log.jsonl` and writes `run.json` once; all that is
//! drawn is made from these two files alone, at any time, on any machine, by anyone.

mod block;
mod card;
mod curve;
pub mod energy;
pub mod environment;
pub mod log;
pub(crate) mod number;
mod plot;
mod plots;
mod run;
pub mod run_file;
pub mod terminal;
pub mod watch;

pub use card::{Card, card};
pub use energy::Energy;
pub use environment::{Environment, environment};
pub use log::{Event, EventKind, Kept, LOG, Line, Log, Sample, Writer};
pub use run::Run;
pub use run_file::{ALL_HOLD_OUTS, DataFile, Expected, Predicted, Price, RUN_FILE, RunFile};

#[cfg(test)]
mod tests;
