//! The forward pass of a decoder, from token ids to logits: the definition of the model.
//!
//! The key decision: one [`Llama::forward`] for every family, read from top to bottom. Rows of
//! different sequences and chunks stand one under another; only attention knows to whom a row belongs,
//! and it asks the [`Plan`]. What a family adds (biases, head norms, a tied head) is there when its
//! tensors are.
//!
//! Names: `D` width of the residual stream, `H` query heads, `K` key and value heads, `d` width of a
//! head, `F` width of the MLP, `V` vocabulary.

use yushan_abi::{Chunk, Logits, TokenId};
use yushan_tensor::activations::Kind;
use yushan_tensor::layout::Scheme;
use yushan_tensor::linear::{Product, Store, gated, products};
use yushan_tensor::ops::rms_norm;
use yushan_tensor::regions::{Heads, Operand, Plan, Rotation};
use yushan_tensor::{DType, Isa, KvSlab, Matrix, Pool, dequantize_row};

use crate::config::RopeStyle;
use crate::directory::SharedTensor;
use crate::rope::Rotary;
use crate::snapshot::Checksum;
use crate::{Config, Error, ModelFile, Result};

/// Bytes of a file that are read before its pages are given back.
const RELEASE_BYTES: u64 = 8 << 20;

/// Bytes of a matrix that go into the fingerprint.
const SAMPLE: usize = 64;

/// The parameters of a decoder.
pub(crate) struct Llama {
    pub(crate) config: Config,
    isa: Isa,
    rotary: Rotary,
    /// `(V, D)`, read row by row from the file.
    embedding: SharedTensor,
    layers: Vec<Layer>,
    output_norm: Vec<f32>, // (D)
    output: Matrix,        // (V, D)
    /// Tells one model from another: sizes, and names, types and first bytes of all matrices.
    pub(crate) fingerprint: u64,
}

/// One transformer block.
struct Layer {
    attn_norm: Vec<f32>,                      // (D)
    q: Linear,                                // (H d, D)
    k: Linear,                                // (K d, D)
    v: Linear,                                // (K d, D)
    head_norms: Option<(Vec<f32>, Vec<f32>)>, // (d), (d): Qwen3
    attn_output: Linear,                      // (D, H d)
    ffn_norm: Vec<f32>,                       // (D)
    gate: Matrix,                             // (F, D)
    up: Matrix,                               // (F, D)
    down: Matrix,                             // (D, F)
    /// How the normed rows must be quantized for `q`, `k`, `v`, and for `gate`, `up`.
    attn_kinds: Vec<Kind>,
    ffn_kinds: Vec<Kind>,
}

/// A matrix and, in some families, what is added to its product.
struct Linear {
    matrix: Matrix,
    bias: Option<Vec<f32>>,
}

/// What one step computes with; made once.
pub(crate) struct State {
    x: Vec<f32>,       // (rows, D) the residual stream
    normed: Operand,   // (rows, D)
    q: Vec<f32>,       // (rows, H d)
    k: Vec<f32>,       // (rows, K d)
    v: Vec<f32>,       // (rows, K d)
    attended: Operand, // (rows, H d)
    hidden: Operand,   // (rows, F)
    cos: Vec<f32>,     // (rows, pairs)
    sin: Vec<f32>,     // (rows, pairs)
    logits: Vec<f32>,  // (rows that want them, V)
    finals: Vec<f32>,  // (rows that are pooled, D) after the final norm
    row: Vec<u8>,      // one row of the embeddings as it is stored
}

/// The rows of one step.
pub(crate) struct Rows {
    tokens: Vec<TokenId>,
    /// The position of each in its sequence.
    positions: Vec<usize>,
    /// Rows that go through the final norm, ascending.
    kept: Vec<usize>,
    /// Which of the kept ones need logits, ascending.
    wanted: Vec<usize>,
    /// Which of the kept ones are pooled: the others, ascending.
    pooled: Vec<usize>,
}

impl Rows {
    /// For steps of at most `rows` rows.
    pub(crate) fn new(rows: usize) -> Rows {
        let room = || Vec::with_capacity(rows);
        let tokens = Vec::with_capacity(rows);
        Rows { tokens, positions: room(), kept: room(), wanted: room(), pooled: room() }
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        for list in [&mut self.positions, &mut self.kept, &mut self.wanted, &mut self.pooled] {
            list.clear();
        }
    }

    /// Appends a chunk whose first token stands at position `start`.
    pub(crate) fn add(&mut self, chunk: &Chunk<'_>, start: usize) {
        let (first, count) = (self.tokens.len(), chunk.tokens.len());
        self.tokens.extend_from_slice(chunk.tokens);
        self.positions.extend(start..start + count);
        let kept = self.kept.len();
        match chunk.logits {
            Logits::None => {}
            Logits::Last => self.kept.push(first + count - 1),
            Logits::All | Logits::Pooled => self.kept.extend(first..first + count),
        }
        let list = match chunk.logits {
            Logits::Pooled => &mut self.pooled,
            Logits::None | Logits::Last | Logits::All => &mut self.wanted,
        };
        list.extend(kept..self.kept.len());
    }
}

impl Llama {
    /// Runs the model over the rows of a step and gives `(wanted, V)` logits, and `(pooled, D)` states
    /// after the final norm.
    pub(crate) fn forward<'s>(
        &self,
        pool: &mut Pool,
        slab: &mut KvSlab,
        plan: &Plan,
        rows: &Rows,
        s: &'s mut State,
    ) -> (&'s [f32], &'s [f32]) {
        let (isa, dim, eps) = (self.isa, self.config.dim, self.config.norm_eps);
        let (q_width, kv_width) = self.widths();
        let n = rows.tokens.len();
        let (x, q) = (&mut s.x[..n * dim], &mut s.q[..n * q_width]);
        let (k, v) = (&mut s.k[..n * kv_width], &mut s.v[..n * kv_width]);
        for (&token, x) in rows.tokens.iter().zip(x.chunks_exact_mut(dim)) {
            self.embedding.read(token as usize, &mut s.row);
            dequantize_row(self.embedding.dtype, &s.row, x);
        }
        s.cos.clear();
        s.sin.clear();
        for &position in &rows.positions {
            self.rotary.turn(position, &mut s.cos, &mut s.sin);
        }
        s.normed.resize(n);
        s.attended.resize(n);
        // Rows that go on: in the last block only those that need logits or are pooled.
        let mut left = n;
        for (l, layer) in self.layers.iter().enumerate() {
            let norm = (&layer.attn_norm[..], eps);
            s.normed.normalize(pool, isa, x, norm, &layer.attn_kinds);
            let jobs = &mut [layer.q.set(q), layer.k.set(k), layer.v.set(v)];
            products(pool, isa, s.normed.input(), jobs);

            let norms = layer.head_norms.as_ref().map(|(q, k)| (&q[..], &k[..], eps));
            let pairs = self.rotary.pairs();
            let rotation = Rotation { cos: &s.cos, sin: &s.sin, pairs, norms };
            plan.rotate_and_store(pool, isa, (slab, l), rotation, (q, k, v));
            plan.attend(pool, isa, (slab, l), q, s.attended.dense());

            if l + 1 == self.layers.len() {
                left = rows.kept.len();
                keep_rows(x, dim, &rows.kept);
                keep_rows(s.attended.dense(), q_width, &rows.kept);
                s.attended.resize(left);
                s.normed.resize(left);
            }
            if left == 0 {
                return (&[], &[]);
            }
            let x = &mut x[..left * dim];
            s.hidden.resize(left);
            s.attended.quantize(pool, isa, &[Kind::of(layer.attn_output.matrix.layout())]);
            products(pool, isa, s.attended.input(), &mut [layer.attn_output.add(x)]);

            let norm = (&layer.ffn_norm[..], eps);
            s.normed.normalize(pool, isa, x, norm, &layer.ffn_kinds);
            gated(pool, isa, s.normed.input(), &layer.gate, &layer.up, s.hidden.dense());
            s.hidden.quantize(pool, isa, &[Kind::of(layer.down.layout())]);
            let out = Store::Add(x);
            let down = Product { matrix: &layer.down, bias: None, out };
            products(pool, isa, s.hidden.input(), &mut [down]);
        }
        s.finals.clear();
        if !rows.pooled.is_empty() {
            s.finals.resize(rows.pooled.len() * dim, 0.0);
            for (&row, out) in rows.pooled.iter().zip(s.finals.chunks_exact_mut(dim)) {
                rms_norm(isa, &x[row * dim..][..dim], &self.output_norm, eps, out);
            }
            left = rows.wanted.len();
            keep_rows(x, dim, &rows.wanted);
            s.normed.resize(left);
            if left == 0 {
                return (&[], &s.finals);
            }
        }
        let kind = [Kind::of(self.output.layout())];
        s.normed.normalize(pool, isa, &x[..left * dim], (&self.output_norm, eps), &kind);
        let logits = left * self.config.vocabulary;
        if s.logits.len() < logits {
            s.logits.resize(logits, 0.0);
        }
        let out = Store::Set(&mut s.logits[..logits]);
        let head = Product { matrix: &self.output, bias: None, out };
        products(pool, isa, s.normed.input(), &mut [head]);
        (&s.logits[..logits], &s.finals)
    }

    /// Packs the parameters of a file; `progress` gets bytes done and bytes in all.
    pub(crate) fn load(
        file: &ModelFile,
        pool: &mut Pool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Llama> {
        let config = file.config().clone();
        let total = file.tensors().map(|tensor| tensor.data.len() as u64).sum();
        let mut fingerprint = Checksum::new();
        fingerprint.add(format!("{config:?}").as_bytes());
        let mut loader = Loader { file, pool, fingerprint, done: 0, released: 0, total, progress };
        let (dim, ffn, head) = (config.dim, config.ffn, config.head_dim);
        let (q_rows, kv_rows) = (config.heads * head, config.kv_heads * head);
        let tied = file.tensor("output.weight").is_none();
        let output = if tied { "token_embd.weight" } else { "output.weight" };
        // The largest first: while it is packed nothing else stands in memory.
        let output = loader.matrix(output, config.vocabulary, dim)?;
        let mut layers = Vec::with_capacity(config.layers);
        for l in 0..config.layers {
            let name = |part: &str| format!("blk.{l}.{part}");
            let head_norms = loader.head_norms(l, head)?;
            let q = loader.linear(&name("attn_q"), q_rows, dim)?;
            let k = loader.linear(&name("attn_k"), kv_rows, dim)?;
            let v = loader.linear(&name("attn_v"), kv_rows, dim)?;
            let gate = loader.matrix(&name("ffn_gate.weight"), ffn, dim)?;
            let up = loader.matrix(&name("ffn_up.weight"), ffn, dim)?;
            layers.push(Layer {
                attn_norm: loader.vector(&name("attn_norm.weight"), dim)?,
                attn_kinds: [&q, &k, &v].map(|l| Kind::of(l.matrix.layout())).to_vec(),
                ffn_kinds: [&gate, &up].map(|m| Kind::of(m.layout())).to_vec(),
                q,
                k,
                v,
                head_norms,
                attn_output: loader.linear(&name("attn_output"), dim, q_rows)?,
                ffn_norm: loader.vector(&name("ffn_norm.weight"), dim)?,
                gate,
                up,
                down: loader.matrix(&name("ffn_down.weight"), dim, ffn)?,
            });
        }
        file.expect("token_embd.weight", &[config.vocabulary, dim])?;
        let embedding = file.shared("token_embd.weight").ok_or_else(|| Error::Missing {
            what: "tensor \"token_embd.weight\"".into(),
            hint: "the file has no embeddings, so it cannot run".into(),
        })?;
        let output_norm = loader.vector("output_norm.weight", dim)?;
        Ok(Llama {
            isa: Isa::best(),
            rotary: Rotary::new(&config.rope),
            embedding,
            layers,
            output_norm,
            output,
            fingerprint: loader.fingerprint.value(),
            config,
        })
    }

    /// What the attention regions need to know.
    pub(crate) fn heads(&self) -> Heads {
        heads(&self.config)
    }

    /// Bytes of weights that one token reads.
    pub(crate) fn bytes_per_token(&self) -> usize {
        let layers = self.layers.iter().flat_map(Layer::matrices).map(Matrix::bytes).sum::<usize>();
        layers + self.output.bytes()
    }

    /// Multiplications and additions of weights that one token takes, head left out.
    pub(crate) fn operations_per_token(&self) -> usize {
        let matrices = self.layers.iter().flat_map(Layer::matrices);
        matrices.map(|m| 2 * m.rows() * m.columns()).sum()
    }

    /// Whether weights are multiplied as floats (and not as bytes).
    pub(crate) fn is_dense(&self) -> bool {
        self.layers.iter().flat_map(Layer::matrices).all(|m| m.layout().scheme == Scheme::Dense)
    }

    /// Buffers for steps of at most `rows` rows.
    pub(crate) fn state(&self, rows: usize) -> State {
        let Config { dim, ffn, .. } = self.config;
        let (q_width, kv_width) = self.widths();
        let of = |m: &Matrix| Kind::of(m.layout());
        let all = |pick: &dyn Fn(&Layer) -> Kind| self.layers.iter().map(pick).collect::<Vec<_>>();
        let mut reads_x = vec![of(&self.output)];
        for layer in &self.layers {
            reads_x.extend(layer.attn_kinds.iter().chain(&layer.ffn_kinds));
        }
        let pairs = self.rotary.pairs();
        State {
            x: vec![0.0; rows * dim],
            normed: Operand::new(dim, rows, &reads_x),
            q: vec![0.0; rows * q_width],
            k: vec![0.0; rows * kv_width],
            v: vec![0.0; rows * kv_width],
            attended: Operand::new(q_width, rows, &all(&|l| of(&l.attn_output.matrix))),
            hidden: Operand::new(ffn, rows, &all(&|l| of(&l.down))),
            cos: Vec::with_capacity(rows * pairs),
            sin: Vec::with_capacity(rows * pairs),
            logits: vec![0.0; self.config.vocabulary],
            finals: Vec::new(),
            row: vec![0; self.embedding.row_bytes],
        }
    }

    fn widths(&self) -> (usize, usize) {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        (heads * head_dim, kv_heads * head_dim)
    }
}

/// What the attention regions need to know of a decoder.
pub(crate) fn heads(config: &Config) -> Heads {
    Heads {
        queries: config.heads,
        kv: config.kv_heads,
        dim: config.head_dim,
        halves: config.rope.style == RopeStyle::Halves,
        window: config.sliding_window,
    }
}

/// Moves the rows named, ascending, to the front.
fn keep_rows(buffer: &mut [f32], width: usize, rows: &[usize]) {
    for (to, &from) in rows.iter().enumerate().filter(|(to, from)| to != *from) {
        buffer.copy_within(from * width..(from + 1) * width, to * width);
    }
}

impl Linear {
    fn set<'a>(&'a self, out: &'a mut [f32]) -> Product<'a> {
        Product { matrix: &self.matrix, bias: self.bias.as_deref(), out: Store::Set(out) }
    }

    fn add<'a>(&'a self, out: &'a mut [f32]) -> Product<'a> {
        Product { matrix: &self.matrix, bias: self.bias.as_deref(), out: Store::Add(out) }
    }
}

impl Layer {
    fn matrices(&self) -> [&Matrix; 7] {
        let Layer { q, k, v, attn_output, gate, up, down, .. } = self;
        [&q.matrix, &k.matrix, &v.matrix, &attn_output.matrix, gate, up, down]
    }
}

/// Takes tensors out of a file, one after another.
struct Loader<'a> {
    file: &'a ModelFile,
    pool: &'a mut Pool,
    fingerprint: Checksum,
    done: u64,
    /// What `done` was when the file's pages were last given back.
    released: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Loader<'_> {
    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let view = self.file.expect(name, &[rows, columns])?;
        let matrix = Matrix::pack(view.dtype, rows, columns, view.data, self.pool)
            .map_err(|error| Error::format("tensor", name, error.to_string()))?;
        for bytes in [
            name.as_bytes(),
            view.dtype.name().as_bytes(),
            &view.data[..SAMPLE.min(view.data.len())],
        ] {
            self.fingerprint.add(bytes);
        }
        self.done += view.data.len() as u64;
        // Packed: the file's pages need not count twice.
        if self.done - self.released >= RELEASE_BYTES {
            self.file.release();
            self.released = self.done;
        }
        (self.progress)(self.done, self.total);
        Ok(matrix)
    }

    fn linear(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear> {
        let matrix = self.matrix(&format!("{name}.weight"), rows, columns)?;
        let bias = format!("{name}.bias");
        let bias = match self.file.tensor(&bias) {
            Some(_) => Some(self.vector(&bias, rows)?),
            None => None,
        };
        Ok(Linear { matrix, bias })
    }

    /// Qwen3's norms of queries and keys, where the file has them.
    fn head_norms(&mut self, layer: usize, head: usize) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
        let [q, k] = ["q", "k"].map(|part| format!("blk.{layer}.attn_{part}_norm.weight"));
        match self.file.tensor(&q) {
            None => Ok(None),
            Some(_) => Ok(Some((self.vector(&q, head)?, self.vector(&k, head)?))),
        }
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>> {
        let view = self.file.expect(name, &[length])?;
        if !matches!(view.dtype, DType::F32 | DType::F16 | DType::BF16) {
            let detail = format!("stored as {}; expected F32, F16 or BF16", view.dtype);
            return Err(Error::format("tensor", name, detail));
        }
        let mut values = vec![0.0; length];
        dequantize_row(view.dtype, view.data, &mut values);
        Ok(values)
    }
}
