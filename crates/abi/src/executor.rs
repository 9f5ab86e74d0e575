//! `Executor`: the processor of the operating system, one step for the rows it is handed.
//!
//! The key decision: mechanism without policy. An executor owns parameters and KV pages and runs
//! one forward step over a *mixed batch* (single decode rows of many sequences and chunks of
//! prefill). Which rows run is the scheduler's business; what the ids mean is the tokenizer's.

/// A token id: an index into the model's vocabulary.
pub type TokenId = u32;

/// Names one sequence (one context window) inside an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// What [`Executor::admit`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The new sequence.
    pub sequence: SequenceId,
    /// How many leading tokens of the prompt already have their KV in the cache. Always less than
    /// the prompt's length: the last token is left for a step, so that there are logits to read.
    pub cached: usize,
}

/// Which positions of a chunk need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: prefill that is not finished yet.
    None,
    /// The last position only: a decode row, or the end of a prompt.
    Last,
    /// Every position: scoring, prompt echo, verification of a speculated run.
    All,
    /// None, but the hidden states after the final norm are taken into the sequence's embedding,
    /// which [`Executor::pooled`] gives.
    Pooled,
}

/// Some consecutive tokens of one sequence, to be appended and run in one step.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The sequence that grows.
    pub sequence: SequenceId,
    /// The tokens to append, in order; never empty.
    pub tokens: &'a [TokenId],
    /// Which of them need logits.
    pub logits: Logits,
}

/// The logits of one step, in the order of the chunks and, inside a chunk, of its positions.
#[derive(Clone, Copy, Debug)]
pub struct StepOutput<'a> {
    logits: &'a [f32],
    vocabulary: usize,
}

impl<'a> StepOutput<'a> {
    /// Wraps a `(rows, vocabulary)` buffer.
    pub fn new(logits: &'a [f32], vocabulary: usize) -> Self {
        debug_assert_eq!(logits.len() % vocabulary.max(1), 0);
        Self { logits, vocabulary }
    }

    /// How many rows of logits there are.
    pub fn rows(&self) -> usize {
        self.logits.len() / self.vocabulary
    }

    /// Row `row`: `(vocabulary)` logits.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.logits[row * self.vocabulary..][..self.vocabulary]
    }
}

/// How much of an executor's memory is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Live sequences.
    pub sequences: usize,
    /// KV pages that exist because a live sequence refers to them.
    pub pages_live: usize,
    /// KV pages kept only because their prefix may come again; given up first.
    pub pages_cached: usize,
    /// The bound on both together.
    pub pages_total: usize,
    /// Tokens that fit in one page.
    pub page_tokens: usize,
    /// Bytes of one page.
    pub page_bytes: usize,
}

/// Why an executor refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ExecutorError {
    /// The sequence is not known (released, or never admitted).
    #[error("sequence {0:?} is unknown: it was released or never admitted")]
    UnknownSequence(SequenceId),
    /// A sequence would grow past the context window.
    #[error("the sequence would have {asked} tokens, but the context window holds {limit}")]
    ContextFull {
        /// Tokens the sequence would have.
        asked: usize,
        /// Tokens the window holds.
        limit: usize,
    },
    /// No KV page is free and none can be given up.
    #[error("KV memory is full: {asked} more pages needed, {available} available of {total}")]
    OutOfPages {
        /// Pages needed.
        asked: usize,
        /// Pages free or evictable.
        available: usize,
        /// The bound.
        total: usize,
    },
    /// A step was handed more rows than the executor was built for.
    #[error("the step has {asked} rows, but at most {limit} were configured")]
    TooManyRows {
        /// Rows asked for.
        asked: usize,
        /// Rows configured.
        limit: usize,
    },
    /// An embedding of a sequence of whose tokens only some were pooled.
    #[error("{pooled} of the {length} tokens of {sequence:?} were pooled: run all of them so")]
    NotPooled {
        /// The sequence.
        sequence: SequenceId,
        /// Tokens whose hidden states were taken.
        pooled: usize,
        /// Its tokens.
        length: usize,
    },
    /// A chunk without tokens, a token outside the vocabulary, one sequence twice in a step.
    #[error("bad chunk: {0}")]
    BadChunk(String),
    /// Bytes that [`Executor::restore`] cannot take: damaged, or of another model or layout.
    #[error("the saved sequence cannot be restored: {0}; its tokens must be read again")]
    BadSaved(String),
}

/// Runs a model over sequences of token ids. Implementations: the CPU engine in `yushan-model`,
/// the scripted fake in [`crate::scripted`].
///
/// The contract: the logits of a sequence depend only on its own tokens, bit for bit, never on
/// what else is in the batch, on how its tokens were cut into chunks, on the number of threads, or
/// on whether its prefix came from the cache, a fork or a fresh prefill.
pub trait Executor: Send {
    /// Size of the vocabulary: the width of a row of logits.
    fn vocabulary(&self) -> usize;

    /// Most tokens one sequence can hold.
    fn context(&self) -> usize;

    /// Most rows (tokens, over all chunks) one step can take.
    fn max_rows(&self) -> usize;

    /// Opens a sequence for a prompt. Nothing is computed: pages whose prefix is cached are shared,
    /// and the caller feeds `prompt[cached..]` through [`Executor::step`]. Prefixes are known within a
    /// tenant alone, so that the time an answer takes tells nobody what others have asked.
    fn admit(&mut self, tenant: &str, prompt: &[TokenId]) -> Result<Admitted, ExecutorError>;

    /// A second sequence with the same past, of the same tenant; pages are shared until one of the two
    /// writes.
    fn fork(&mut self, parent: SequenceId) -> Result<SequenceId, ExecutorError>;

    /// Appends the chunks to their sequences and runs the model over them. On an error nothing has
    /// changed. After a panic the sequences of the batch may hold tokens that were never run: truncate
    /// all of them to what they held before anything else is done with one of them.
    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<StepOutput<'_>, ExecutorError>;

    /// The embedding of a sequence whose every token was run with [`Logits::Pooled`], by the model's
    /// own pooling, `(D)`, of whatever length. Tokens from the cache have no hidden states: truncate
    /// such a sequence to nothing first. A fork has nothing of what was pooled, nor has a sequence that
    /// lost a pooled token by truncation.
    fn pooled(&self, sequence: SequenceId) -> Result<Vec<f32>, ExecutorError>;

    /// Forgets everything after the first `length` tokens (rejected speculation, `/undo`).
    fn truncate(&mut self, sequence: SequenceId, length: usize) -> Result<(), ExecutorError>;

    /// How many tokens the sequence holds.
    fn length(&self, sequence: SequenceId) -> Result<usize, ExecutorError>;

    /// Closes a sequence. Its full pages stay as a cached prefix until memory is needed.
    fn release(&mut self, sequence: SequenceId) -> Result<(), ExecutorError>;

    /// What a sequence holds, as bytes for [`Executor::restore`]. The sequence stays as it is.
    fn save(&self, sequence: SequenceId) -> Result<Vec<u8>, ExecutorError>;

    /// Opens a sequence that continues where [`Executor::save`] left it, with the same bits after. Pages
    /// that the tenant's cache holds are shared. On an error nothing has changed.
    fn restore(&mut self, tenant: &str, saved: &[u8]) -> Result<SequenceId, ExecutorError>;

    /// Memory in use.
    fn usage(&self) -> Usage;
}
