//! The drivers an assistant can call.
//!
//! Each is an [`abi::Tool`](yushan_abi::Tool) that knows nothing of the others and nothing of the kernel: it says what it
//! does and which role each parameter has, does one call, and labels what it gives back by where that came from. Whether
//! a call may happen is decided before it is made, in the kernel.
//!
//! The key decision: what comes from outside is hostile. Every driver has limits of size and time of its own, and
//! answers what it cannot do with a text that a model can act on; none panics, hangs or gives half an answer as a
//! whole one.

pub mod archive;
pub mod arguments;
pub mod calculator;
pub mod convert;
pub mod draw;
pub mod files;
pub mod mcp;
pub mod python;
pub mod search;
pub mod space;
pub mod web;

#[cfg(test)]
#[path = "../tests/memory/mod.rs"]
mod memory;
