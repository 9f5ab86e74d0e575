//! The words every part of Yushan speaks: plain data and a handful of traits.
//!
//! The key decision: this crate is the hub that lets the parts stay strangers. An engine and a
//! scheduler meet only here. It does no I/O, knows no async, and a trait enters only when two
//! implementations exist.

pub mod executor;
pub mod scripted;

pub use executor::{
    Admitted, Chunk, Executor, ExecutorError, Logits, SequenceId, StepOutput, TokenId, Usage,
};
