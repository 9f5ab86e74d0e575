//! The executor on the processor: sequences, pages, steps.
//!
//! The key decision: the engine is mechanism alone. It checks a batch, finds pages for it, runs the
//! forward pass, and files what was computed; which rows run is for its caller to say. Everything a
//! step touches is made when the engine is, so a step allocates nothing once its buffers have grown.
//!
//! Not here: text (`tokenizer`), choosing tokens (`sampler`), the arithmetic (`llama`).

use std::collections::BTreeMap;

use yushan_abi::{Admitted, Chunk, Executor, ExecutorError, Logits, SequenceId, StepOutput};
use yushan_abi::{TokenId, Usage};
use yushan_tensor::kv::{KvLayout, KvSlab, KvType};
use yushan_tensor::regions::Plan;
use yushan_tensor::{Matrix, Pool};

use crate::cache::{Cache, Sequence};
use crate::llama::{Llama, Rows, State, heads};
use crate::pooling::{Pooled, Pooling};
use crate::snapshot::{self, Form, Saved};
use crate::{Config, Error, ModelFile, Result};

/// Tokens in a KV page.
const PAGE_TOKENS: usize = 32;

/// Most query heads a key/value head may serve: attention holds them together in registers.
const MOST_GROUP: usize = 64;

/// Longest context an engine takes unless it is asked for more.
const DEFAULT_CONTEXT: usize = 4096;

/// How an engine is built.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads, the caller counted in.
    pub threads: usize,
    /// Most tokens of one sequence.
    pub context: usize,
    /// Sequences of full length that KV memory is reserved for.
    pub sequences: usize,
    /// Most rows of one step.
    pub rows: usize,
    /// How keys and values are stored.
    pub kv: KvType,
    /// Bound on KV memory in bytes, in place of `sequences` full contexts.
    pub kv_bytes: Option<u64>,
}

impl Options {
    /// All processors, one sequence, the context of the file up to 4096 tokens, steps of 512 rows.
    pub fn for_file(file: &ModelFile) -> Options {
        Options {
            threads: std::thread::available_parallelism().map_or(1, |count| count.get()),
            context: file.config().context.min(DEFAULT_CONTEXT),
            sequences: 1,
            rows: 512,
            kv: KvType::F16,
            kv_bytes: None,
        }
    }
}

/// Bytes an engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters: packed matrices, and embeddings that stay in the file's mapping.
    pub weights: u64,
    /// Keys and values.
    pub kv: u64,
    /// Buffers of a step.
    pub scratch: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.scratch)
    }
}

fn kv_layout(config: &Config, kv: KvType) -> KvLayout {
    KvLayout {
        layers: config.layers,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        page_tokens: PAGE_TOKENS,
        dtype: kv,
    }
}

/// Pages for the sequences asked for; each may hold one page more while it is copied.
fn pages(config: &Config, options: &Options) -> u64 {
    let page = kv_layout(config, options.kv).page_bytes().max(1) as u64;
    match options.kv_bytes {
        Some(bytes) => bytes / page,
        None => {
            let each = options.context.div_ceil(PAGE_TOKENS) as u64 + 1;
            each.saturating_mul(options.sequences as u64)
        }
    }
}

/// What an engine for this file would take.
pub fn memory(file: &ModelFile, options: &Options) -> Memory {
    let config = file.config();
    let weights = file.tensors().map(|tensor| match tensor.shape {
        [rows, columns] => Matrix::packed_bytes(tensor.dtype, *rows, *columns) as u64,
        _ => tensor.data.len() as u64,
    });
    let page = kv_layout(config, options.kv).page_bytes() as u64;
    let heads = heads(config);
    let width = config.heads * config.head_dim + 2 * config.kv_heads * config.head_dim;
    // Operands stand twice: as floats, and quantized with their sums.
    let row = 3 * config.dim + 2 * width + 2 * config.ffn + config.rope.dims;
    let attention = Plan::bytes(heads, options.rows, options.context, options.threads);
    Memory {
        weights: weights.sum(),
        kv: page.saturating_mul(pages(config, options)),
        scratch: attention.saturating_add(4 * (options.rows * row + config.vocabulary)) as u64,
    }
}

/// Runs a decoder on this machine's processor. See [`Executor`] for the contract.
pub struct Engine {
    llama: Llama,
    pool: Pool,
    slab: KvSlab,
    cache: Cache,
    plan: Plan,
    state: State,
    context: usize,
    rows: usize,
    sequences: BTreeMap<SequenceId, Sequence>,
    next: u64,
    batch: Rows,
    pooling: Pooling,
    pooled: BTreeMap<SequenceId, Pooled>,
}

impl Engine {
    /// Reads the parameters of a file into memory, in the layout of the kernels.
    pub fn load(file: &ModelFile, options: &Options) -> Result<Engine> {
        Engine::load_with(file, options, &mut |_, _| {})
    }

    /// As [`Engine::load`]; `progress` gets bytes done and bytes in all.
    pub fn load_with(
        file: &ModelFile,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Engine> {
        let config = file.config();
        let group = config.heads / config.kv_heads.max(1);
        if group > MOST_GROUP {
            return Err(Error::Unsupported {
                what: format!("{group} query heads to a key/value head"),
                expected: format!("at most {MOST_GROUP}"),
            });
        }
        check_memory(file, options)?;
        let pooling = Pooling::of(file)?;
        let mut pool = Pool::new(options.threads);
        let llama = Llama::load(file, &mut pool, progress)?;
        let layout = kv_layout(config, options.kv);
        let pages = usize::try_from(pages(config, options)).unwrap_or(usize::MAX);
        let (rows, context) = (options.rows.max(1), options.context);
        file.release();
        Ok(Engine {
            plan: Plan::new(llama.heads(), layout, rows, context, pool.threads()),
            state: llama.state(rows),
            slab: KvSlab::new(layout, pages),
            cache: Cache::new(pages, PAGE_TOKENS),
            llama,
            pool,
            context,
            rows,
            sequences: BTreeMap::new(),
            next: 0,
            batch: Rows::new(rows),
            pooling,
            pooled: BTreeMap::new(),
        })
    }

    /// Sizes and switches of the model.
    pub fn config(&self) -> &Config {
        &self.llama.config
    }

    /// Threads, the caller counted in.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Goes on with another number of threads. Results do not depend on it.
    pub fn set_threads(&mut self, threads: usize) {
        self.pool = Pool::new(threads);
        let layout = self.slab.layout();
        let threads = self.pool.threads();
        self.plan = Plan::new(self.llama.heads(), layout, self.rows, self.context, threads);
    }

    /// Bytes of weights that a decoded token reads.
    pub fn weight_bytes_per_token(&self) -> usize {
        self.llama.bytes_per_token()
    }

    /// Multiplications and additions a prompt token takes in matrix products, the head left out.
    pub fn operations_per_token(&self) -> usize {
        self.llama.operations_per_token()
    }

    /// Whether the weights are multiplied as floats (F32, F16, BF16) and not as bytes.
    pub fn is_dense(&self) -> bool {
        self.llama.is_dense()
    }

    /// Forgets every cached prefix that no live sequence refers to.
    pub fn clear_cache(&mut self) {
        self.cache.clear_idle();
    }

    /// What saved sequences must have in common with this engine.
    fn form(&self) -> Form {
        Form {
            fingerprint: self.llama.fingerprint,
            page_tokens: PAGE_TOKENS,
            page_bytes: self.slab.page_stride(),
        }
    }

    fn sequence(&self, id: SequenceId) -> std::result::Result<&Sequence, ExecutorError> {
        self.sequences.get(&id).ok_or(ExecutorError::UnknownSequence(id))
    }

    fn open(&mut self, sequence: Sequence) -> SequenceId {
        let id = SequenceId(self.next);
        self.next += 1;
        self.sequences.insert(id, sequence);
        id
    }

    /// Refuses a batch that cannot run, before anything is changed.
    fn check(&self, batch: &[Chunk<'_>]) -> std::result::Result<(), ExecutorError> {
        let vocabulary = self.llama.config.vocabulary;
        let (mut rows, mut pages) = (0, 0);
        for (at, chunk) in batch.iter().enumerate() {
            let sequence = self.sequence(chunk.sequence)?;
            let bad = |detail: String| Err(ExecutorError::BadChunk(detail));
            if chunk.tokens.is_empty() {
                return bad(format!("chunk {at} has no tokens"));
            }
            if batch[..at].iter().any(|other| other.sequence == chunk.sequence) {
                return bad(format!("{:?} stands twice in one step", chunk.sequence));
            }
            if let Some(token) = chunk.tokens.iter().find(|&&t| t as usize >= vocabulary) {
                return bad(format!("token {token} is outside the vocabulary of {vocabulary}"));
            }
            let asked = sequence.tokens.len() + chunk.tokens.len();
            if asked > self.context {
                return Err(ExecutorError::ContextFull { asked, limit: self.context });
            }
            rows += chunk.tokens.len();
            pages += self.cache.needed(sequence, chunk.tokens.len());
        }
        if rows > self.rows {
            return Err(ExecutorError::TooManyRows { asked: rows, limit: self.rows });
        }
        let (available, total) = (self.cache.available(), self.cache.capacity());
        if pages > available {
            return Err(ExecutorError::OutOfPages { asked: pages, available, total });
        }
        Ok(())
    }
}

impl Executor for Engine {
    fn vocabulary(&self) -> usize {
        self.llama.config.vocabulary
    }

    fn context(&self) -> usize {
        self.context
    }

    fn max_rows(&self) -> usize {
        self.rows
    }

    fn admit(
        &mut self,
        tenant: &str,
        prompt: &[TokenId],
    ) -> std::result::Result<Admitted, ExecutorError> {
        if prompt.len() > self.context {
            let (asked, limit) = (prompt.len(), self.context);
            return Err(ExecutorError::ContextFull { asked, limit });
        }
        let sequence = self.cache.admit(tenant, prompt, self.context);
        let cached = sequence.tokens.len();
        Ok(Admitted { sequence: self.open(sequence), cached })
    }

    fn fork(&mut self, parent: SequenceId) -> std::result::Result<SequenceId, ExecutorError> {
        let parent = self.sequences.get(&parent).ok_or(ExecutorError::UnknownSequence(parent))?;
        let child = self.cache.fork(parent, self.context);
        Ok(self.open(child))
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> std::result::Result<StepOutput<'_>, ExecutorError> {
        self.check(batch)?;
        self.batch.clear();
        self.plan.clear();
        for chunk in batch {
            let Some(sequence) = self.sequences.get_mut(&chunk.sequence) else { continue };
            let (start, count) = (sequence.tokens.len(), chunk.tokens.len());
            if let Some((from, to)) = self.cache.grow(sequence, chunk.tokens) {
                self.slab.copy(from, to);
            }
            self.batch.add(chunk, start);
            self.plan.add(start, count, &sequence.table);
        }
        self.plan.seal();
        let Engine { llama, pool, slab, plan, state, batch: rows, .. } = self;
        let (logits, finals) = llama.forward(pool, slab, plan, rows, state);
        let dim = llama.config.dim;
        let mut finals = finals.chunks_exact(dim);
        for chunk in batch {
            let Some(sequence) = self.sequences.get_mut(&chunk.sequence) else { continue };
            self.cache.seal(sequence);
            if chunk.logits == Logits::Pooled {
                let pooled = self.pooled.entry(chunk.sequence).or_insert_with(|| Pooled::new(dim));
                // Of the sequence's first tokens, so that it can be told what truncation takes.
                let next = pooled.rows == sequence.tokens.len() - chunk.tokens.len();
                let states = finals.by_ref().take(chunk.tokens.len()).filter(|_| next);
                states.for_each(|row| pooled.take(self.pooling, row));
            }
        }
        Ok(StepOutput::new(logits, self.llama.config.vocabulary))
    }

    fn pooled(&self, sequence: SequenceId) -> std::result::Result<Vec<f32>, ExecutorError> {
        let length = self.sequence(sequence)?.tokens.len();
        match self.pooled.get(&sequence) {
            Some(pooled) if pooled.rows == length => Ok(pooled.vector(self.pooling)),
            pooled => {
                let pooled = pooled.map_or(0, |pooled| pooled.rows);
                Err(ExecutorError::NotPooled { sequence, pooled, length })
            }
        }
    }

    fn truncate(
        &mut self,
        sequence: SequenceId,
        length: usize,
    ) -> std::result::Result<(), ExecutorError> {
        let id = sequence;
        let sequence = self.sequences.get_mut(&id).ok_or(ExecutorError::UnknownSequence(id))?;
        if length < sequence.tokens.len() {
            self.cache.truncate(sequence, length);
            self.pooled.retain(|other, pooled| *other != id || pooled.rows <= length);
        }
        Ok(())
    }

    fn length(&self, sequence: SequenceId) -> std::result::Result<usize, ExecutorError> {
        Ok(self.sequence(sequence)?.tokens.len())
    }

    fn release(&mut self, sequence: SequenceId) -> std::result::Result<(), ExecutorError> {
        self.pooled.remove(&sequence);
        let known = self.sequences.remove(&sequence);
        self.cache.close(known.ok_or(ExecutorError::UnknownSequence(sequence))?);
        Ok(())
    }

    fn save(&self, sequence: SequenceId) -> std::result::Result<Vec<u8>, ExecutorError> {
        let Sequence { tokens, table, .. } = self.sequence(sequence)?;
        let pages = table.iter().map(|&page| self.slab.page(page));
        Ok(snapshot::write(self.form(), tokens, pages))
    }

    fn restore(
        &mut self,
        tenant: &str,
        saved: &[u8],
    ) -> std::result::Result<SequenceId, ExecutorError> {
        let vocabulary = self.llama.config.vocabulary;
        let saved = Saved::read(self.form(), saved, self.context, vocabulary)?;
        let mut sequence = self.cache.admit(tenant, &saved.tokens, self.context);
        // What stands on whole pages is shared, the rest is filled in.
        let whole = sequence.tokens.len() / PAGE_TOKENS;
        self.cache.truncate(&mut sequence, whole * PAGE_TOKENS);
        let rest = &saved.tokens[whole * PAGE_TOKENS..];
        let (asked, available) = (self.cache.needed(&sequence, rest.len()), self.cache.available());
        if asked > available {
            self.cache.discard(sequence);
            let total = self.cache.capacity();
            return Err(ExecutorError::OutOfPages { asked, available, total });
        }
        self.cache.grow(&mut sequence, rest);
        for (at, &page) in sequence.table.iter().enumerate().skip(whole) {
            self.slab.page_mut(page).copy_from_slice(saved.page(at));
        }
        self.cache.seal(&mut sequence);
        Ok(self.open(sequence))
    }

    fn usage(&self) -> Usage {
        Usage {
            sequences: self.sequences.len(),
            pages_live: self.cache.capacity() - self.cache.available(),
            pages_cached: self.cache.idle(),
            pages_total: self.cache.capacity(),
            page_tokens: PAGE_TOKENS,
            page_bytes: self.slab.page_stride(),
        }
    }
}

/// Says before anything is read when the memory is not there, and what would fit.
fn check_memory(file: &ModelFile, options: &Options) -> Result<()> {
    let needed = memory(file, options);
    let Some(limit) = available_memory() else { return Ok(()) };
    if needed.total() <= limit {
        return Ok(());
    }
    // The longest context that fits: buffers grow with it as well as keys and values.
    let fits = |context| memory(file, &Options { context, ..options.clone() }).total() <= limit;
    let (mut fitting, mut too_long) = (0, options.context);
    while too_long - fitting > 1 {
        let middle = fitting + (too_long - fitting) / 2;
        *(if fits(middle) { &mut fitting } else { &mut too_long }) = middle;
    }
    let tokens = fitting / PAGE_TOKENS * PAGE_TOKENS;
    let hint = match tokens {
        0 => "the parameters alone do not fit: quantize the model to a smaller type".to_string(),
        _ => format!("a context of {tokens} tokens would fit (--context {tokens})"),
    };
    Err(Error::Memory {
        what: format!(
            "the parameters ({} MiB) and a KV cache of {} × {} tokens ({} MiB)",
            needed.weights >> 20,
            options.sequences,
            options.context,
            needed.kv >> 20
        ),
        asked: needed.total(),
        limit,
        hint,
    })
}

/// Bytes that can be taken without swapping, where the operating system says so (`MemAvailable`).
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
