//! The one error type of this crate. Every message says what happened, what was expected, and,
//! where there is something to do, what to do next.

use std::path::PathBuf;

/// What can go wrong between a file and the next token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file from outside breaks its format.
    #[error("{format}: {field}: {detail}")]
    Format {
        /// `GGUF`, `safetensors`, `llama2.c`, `tokenizer.json`, …
        format: &'static str,
        /// The field at fault, e.g. `tensor_count`, `blk.0.attn_q.weight.offset`.
        field: String,
        /// What stood there and what was expected.
        detail: String,
    },
    /// The file is well formed, but asks for something the engine does not do.
    #[error("{what} is not supported: {expected}")]
    Unsupported {
        /// What was asked for, e.g. `architecture "mamba"`.
        what: String,
        /// What would be.
        expected: String,
    },
    /// Something the model needs is not in the file.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// What is missing, e.g. `tensor "blk.3.ffn_up.weight"`.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A chat template failed or ran past its bounds.
    #[error("chat template: {0}")]
    Template(String),
    /// A grammar or JSON schema was refused.
    #[error("grammar: {0}")]
    Grammar(String),
    /// What was asked of a generation makes no sense.
    #[error("{field}: {detail}")]
    Request {
        /// The part at fault, e.g. `top_p`.
        field: &'static str,
        /// What stood there and what was expected.
        detail: String,
    },
    /// The prompt does not fit.
    #[error(
        "the prompt has {tokens} tokens, but the context window holds {context}: shorten the prompt or ask for a larger context"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens the window holds.
        context: usize,
    },
    /// The memory asked for is not there.
    #[error("{} MiB needed for {what}, but {} MiB are there: {hint}", asked >> 20, limit >> 20)]
    Memory {
        /// For what, e.g. `the KV cache of 4 × 32768 tokens`.
        what: String,
        /// Bytes needed.
        asked: u64,
        /// Bytes allowed.
        limit: u64,
        /// What would fit.
        hint: String,
    },
    /// Whoever was shown the progress said stop.
    #[error("stopped")]
    Stopped,
    /// The executor refused.
    #[error(transparent)]
    Executor(#[from] yushan_abi::ExecutorError),
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an I/O error with its path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// A request that makes no sense: which part, what stood there and what was expected.
    pub fn request(field: &'static str, detail: impl Into<String>) -> Self {
        Error::Request { field, detail: detail.into() }
    }

    /// A broken file: which format, which field, what stood there and what was expected.
    pub fn format(
        format: &'static str,
        field: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Error::Format { format, field: field.into(), detail: detail.into() }
    }
}

/// Bytes from a file as a message shows them: escaped, and only the first ones.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let (first, dots) = match bytes.get(..40) {
        Some(first) if bytes.len() > 40 => (first, "…"),
        _ => (bytes, ""),
    };
    format!("\"{}\"{dots}", first.escape_ascii())
}
