//! The Ollama face.
//!
//! The key decision: the same requests and events as everywhere, with Ollama's names, defaults and newline-delimited
//! JSON. One difference is kept on purpose: a conversation that is too long is refused unless `truncate` is
//! set, for nothing is dropped silently here.

pub(crate) mod chat;
pub(crate) mod embed;
pub(crate) mod generate;
mod keep;
pub(crate) mod models;
pub(crate) mod options;
pub(crate) mod reply;

use yushan_abi::ModelInfo;

use crate::Server;
use crate::fault::Fault;

/// The model of this name; Ollama's clients may put `:latest` behind it.
pub(crate) async fn model(server: &Server, name: &str) -> Result<ModelInfo, Fault> {
    match (server.model(name).await, name.strip_suffix(":latest")) {
        (Err(Fault::NoModel(_)), Some(plain)) => server.model(plain).await,
        (found, _) => found,
    }
}
