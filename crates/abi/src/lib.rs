//! The words every part of Yushan speaks: plain data and a handful of traits.
//!
//! The key decision: this crate is the hub that lets the parts stay strangers. An engine and a
//! scheduler meet only here. It does no I/O, knows no async, and a trait enters only when two
//! implementations exist.

pub mod complete;
pub mod disk;
pub mod executor;
pub mod keep;
pub mod label;
pub mod language;
pub mod message;
pub mod policy;
pub mod scripted;
pub mod senses;
pub mod text;
pub mod tool;

pub use complete::{
    Class, Complete, Counts, Event, Finish, Flow, Form, Logprob, ModelInfo, Nobody, Overflow,
    Prompt, Refusal, Request, Sampling, Sink, ToolChoice, Verified,
};
pub use disk::{Change, Disk, DiskError, Document, Hit, Index, Item, NewRecord, Record};
pub use executor::{
    Admitted, Chunk, Executor, ExecutorError, Logits, SequenceId, StepOutput, TokenId, Usage,
};
pub use keep::Keep;
pub use label::{Integrity, Label, Readers, Sources};
pub use language::{End, Language, Piece, Writer, Written};
pub use message::{Call, Message, Part, Role};
pub use policy::{AllowAll, Direction, Policy, Verdict};
pub use senses::{Absent, Picture, Senses, SensesError, Wish};
pub use text::{is_hidden, printable};
pub use tool::{
    Cancel, Effect, FileRef, Invocation, Listed, ParamRole, Tool, ToolResult, ToolSpec,
};
