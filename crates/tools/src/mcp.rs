//! MCP: foreign tools as drivers, and Yushan's own tools for other programs, by `rmcp`.
//!
//! The key decision: what a foreign server says is data, never authority. Its tools are named after the server that the
//! user configured, their effect is the strongest unless the user says otherwise, hints about how harmless they are change
//! nothing, and a description is shown to no model before it was agreed to: it is pinned by its hash ([`pins`]), and a
//! changed one makes the tool refuse until somebody consents. What a server answers is labelled with its name and can be
//! read by the user who asked.
//!
//! Both revisions are spoken, 2025-11-25 (with a handshake) and 2026-07-28 (without), over stdio and streamable HTTP. The
//! async runtime that `rmcp` needs lives in this module alone.
//!
//! Deliberately absent: OAuth (a server gets the token that was configured for it, and no other), sampling, elicitation and
//! roots (a server cannot ask the model or the user anything), resources and prompts.

pub mod bridge;
pub mod client;
pub mod config;
pub mod pins;
mod reply;
pub mod server;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

pub use bridge::Bridge;
pub use config::{Connect, ServerConfig};
pub use server::{HttpService, Offer};

/// Why a server cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// What was configured cannot be.
    #[error("the MCP server {name:?} is not configured well: {why}")]
    Config {
        /// As it is called.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// It does not start, does not answer or ended.
    #[error("the MCP server {name:?} {why}")]
    Connection {
        /// As it is called.
        name: String,
        /// What happened.
        why: String,
    },
    /// The disk refused.
    #[error("the pins of the MCP server {name:?} cannot be kept or read: {why}")]
    Disk {
        /// As it is called.
        name: String,
        /// What the disk said.
        why: String,
    },
}

/// The one async runtime of all connections.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("mcp")
            .enable_all()
            .build()
            // The operating system gives no threads: nothing of this program would work.
            .expect("threads for MCP")
    })
}
