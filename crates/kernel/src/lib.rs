//! Language models as processes: a process table, a fair scheduler, mailboxes, budgets, labels and the
//! call gate, and the one thread that runs an engine under them.
//!
//! The key decision: the core is a pure state machine. [`core::Core`] is told what happened and when,
//! and answers with what to do; it reads no clock, does no I/O and starts no thread, so that a journal of
//! what it was told replays to the same state, and thousands of random lives are simulated in a second.
//! Everything that touches the world stands in `runtime/`.

pub mod billing;
pub mod card;
pub mod check;
pub mod context;
pub mod core;
pub mod gate;
mod job;
pub mod journal;
pub mod life;
pub mod plan;
pub mod process;
mod program;
pub mod provenance;
pub mod quarantine;
pub mod runtime;

pub mod scheduler;
#[cfg(test)]
mod simulation;
mod summary;
pub mod syscall;

pub use billing::{Billing, Payer};
pub use card::Card;
pub use core::{Action, Core, Event};
pub use life::{Bounds, Entry, Life, Next, Program};
pub use process::{Budget, Exit, Pid, Price, Process, Signal, Spawn, Spent, State};

pub use runtime::replay::Replay;
pub use runtime::{Kernel, Loaded, Options, Says, Seats, Shelf, Stock, SwapFile, Swapped, World};
pub use scheduler::{Limits, Order, Scheduler};
