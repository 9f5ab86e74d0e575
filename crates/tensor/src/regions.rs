//! What a decoder does between its matrix products, spread over the pool: norms, quantization,
//! rotation, storing keys and values, attention.
//!
//! The key decision: a [`Plan`] cuts a step into units once, and all layers use it. A unit writes what
//! no other unit touches (its rows, its page, its heads), so units run on any thread in any order, and
//! what a row gets never depends on how the step was cut.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Mutex;

use crate::activations::{Activations, Kind};
use crate::attention::{self, Past, Query, Scratch};
use crate::kv::{KvLayout, KvSlab};
use crate::layout::Scheme;
use crate::linear::Input;
use crate::{Isa, Pool, ops};

/// Rows below which a region of rows is not worth waking anybody.
const SERIAL_ROWS: usize = 3;

/// Chunks a region of rows is cut into.
const CHUNKS: usize = 16;

/// Most queries of one attention unit: their scores stay in the second-level cache.
const QUERIES: usize = 64;

/// A buffer that threads write in disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    start: *mut T,
    length: usize,
}

// SAFETY: whoever calls `slice` promises that no two threads ask for overlapping ranges.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn of(buffer: &mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), length: buffer.len() }
    }

    /// # Safety
    /// No other thread holds an overlapping range, and the buffer outlives the result.
    pub(crate) unsafe fn slice<'a>(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: in range by the assertion; exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Runs `job` for every row, some rows to a chunk.
fn each_row(pool: &mut Pool, rows: usize, job: &(dyn Fn(usize) + Sync)) {
    if rows < SERIAL_ROWS {
        return (0..rows).for_each(job);
    }
    let chunks = rows.min(CHUNKS);
    pool.run(chunks, &|chunk, _| {
        (rows * chunk / chunks..rows * (chunk + 1) / chunks).for_each(job)
    });
}

/// Rows that matrices read: as floats, and quantized for every kind of weights that wants them so.
pub struct Operand {
    length: usize,
    tokens: usize,
    dense: Vec<f32>,
    quantized: Vec<Activations>,
}

impl Operand {
    /// Room for `rows` rows of `length` elements, read by weights of these kinds.
    pub fn new(length: usize, rows: usize, kinds: &[Kind]) -> Self {
        let mut quantized: Vec<Activations> = Vec::new();
        for &kind in kinds.iter().filter(|kind| kind.scheme != Scheme::Dense) {
            if quantized.iter().all(|have| have.kind() != kind) {
                quantized.push(Activations::new(kind, length, rows));
            }
        }
        Self { length, tokens: 0, dense: vec![0.0; length * rows], quantized }
    }

    /// Takes `tokens` rows.
    pub fn resize(&mut self, tokens: usize) {
        assert!(tokens * self.length <= self.dense.len());
        self.tokens = tokens;
    }

    /// The rows, `(tokens, length)`; quantized rows are out of date after a write.
    pub fn dense(&mut self) -> &mut [f32] {
        &mut self.dense[..self.tokens * self.length]
    }

    /// As matrix products read it.
    pub fn input(&self) -> Input<'_> {
        Input {
            dense: &self.dense[..self.tokens * self.length],
            stride: self.length,
            quantized: &self.quantized,
            tokens: self.tokens,
        }
    }

    /// Fills the rows with the normed rows of `x`, `(tokens, length)`, quantized as `wanted`.
    pub fn normalize(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        x: &[f32],
        (weight, eps): (&[f32], f32),
        wanted: &[Kind],
    ) {
        let length = self.length;
        assert_eq!(x.len(), self.tokens * length);
        self.each(pool, isa, wanted, &|row, out| {
            ops::rms_norm(isa, &x[row * length..][..length], weight, eps, out);
        });
    }

    /// Quantizes the rows as `wanted`.
    pub fn quantize(&mut self, pool: &mut Pool, isa: Isa, wanted: &[Kind]) {
        if wanted.iter().any(|kind| kind.scheme != Scheme::Dense) {
            self.each(pool, isa, wanted, &|_, _| {});
        }
    }

    fn each(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        wanted: &[Kind],
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let (length, tokens) = (self.length, self.tokens);
        let rows = Shared::of(&mut self.dense);
        let mut writers = [None; 4];
        let chosen = self.quantized.iter_mut().filter(|have| wanted.contains(&have.kind()));
        for (activations, place) in chosen.zip(&mut writers) {
            activations.resize(tokens);
            *place = Some(activations.writer());
        }
        each_row(pool, tokens, &|row| {
            // SAFETY: every row is visited once.
            let values = unsafe { rows.slice(row * length..(row + 1) * length) };
            fill(row, values);
            for writer in writers.iter().flatten() {
                // SAFETY: as above: column = row.
                unsafe { writer.set(isa, row, values) };
            }
        });
    }
}

/// How many heads there are, and how they are rotated.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads.
    pub kv: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Whether pairs are (i, i + dims / 2) instead of (2i, 2i + 1).
    pub halves: bool,
    /// A token sees this many tokens, itself counted in.
    pub window: Option<usize>,
}

/// Rotations and norms of one layer's queries and keys.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// `(tokens, dims / 2)`.
    pub cos: &'a [f32],
    /// `(tokens, dims / 2)`.
    pub sin: &'a [f32],
    /// Pairs that are rotated, `dims / 2`.
    pub pairs: usize,
    /// `(head_dim)` weights of the norms of queries and keys, and their epsilon (Qwen3).
    pub norms: Option<(&'a [f32], &'a [f32], f32)>,
}

/// Rows that go to one page: `(first row, rows, first slot, page)`.
type StoreUnit = (usize, usize, usize, u32);

/// Queries over one key/value head.
#[derive(Clone, Copy)]
struct AttendUnit {
    /// First row, and rows.
    rows: (usize, usize),
    /// Position of the first row.
    position: usize,
    /// The sequence's table in `Plan::tables`.
    table: (usize, usize),
    kv_head: usize,
    /// Query heads.
    heads: (usize, usize),
}

/// One step cut into units. Buffers are kept from step to step.
pub struct Plan {
    heads: Heads,
    layout: KvLayout,
    tables: Vec<u32>,
    /// Row, rows, position, table.
    spans: Vec<(usize, usize, usize, (usize, usize))>,
    stores: Vec<StoreUnit>,
    units: Vec<AttendUnit>,
    scratch: Vec<Mutex<Scratch>>,
    rows: usize,
}

impl Plan {
    /// A plan for steps of at most `rows` rows over sequences of at most `context` tokens.
    pub fn new(
        heads: Heads,
        layout: KvLayout,
        rows: usize,
        context: usize,
        threads: usize,
    ) -> Self {
        let group = heads.queries / heads.kv;
        let queries = QUERIES.max(group).min(rows * group);
        let per_thread = || Mutex::new(Scratch::new(queries, &layout, context));
        Self {
            heads,
            layout,
            tables: Vec::with_capacity(context.div_ceil(layout.page_tokens) * rows.min(16)),
            spans: Vec::with_capacity(rows),
            stores: Vec::with_capacity(2 * rows),
            units: Vec::with_capacity(rows * heads.queries),
            scratch: (0..threads).map(|_| per_thread()).collect(),
            rows: 0,
        }
    }

    /// Bytes of scratch a plan like this takes.
    pub fn bytes(heads: Heads, rows: usize, context: usize, threads: usize) -> usize {
        let group = heads.queries / heads.kv;
        let positions = context.saturating_add(64 + 2 * heads.dim);
        positions.saturating_mul(4 * threads * QUERIES.max(group).min(rows * group))
    }

    /// Starts over.
    pub fn clear(&mut self) {
        self.tables.clear();
        self.spans.clear();
        self.stores.clear();
        self.units.clear();
        self.rows = 0;
    }

    /// The next `count` rows are consecutive tokens of one sequence from `position` on; `table` reaches
    /// to its last page. No two sequences write the same page.
    pub fn add(&mut self, position: usize, count: usize, table: &[u32]) {
        let tokens = self.layout.page_tokens;
        let start = self.tables.len();
        self.tables.extend_from_slice(&table[..(position + count).div_ceil(tokens)]);
        self.spans.push((self.rows, count, position, (start, self.tables.len())));
        let mut done = 0;
        while done < count {
            let slot = (position + done) % tokens;
            let part = (tokens - slot).min(count - done);
            let page = table[(position + done) / tokens];
            assert!(self.stores.iter().all(|unit| unit.3 != page), "page {page} has two writers");
            self.stores.push((self.rows + done, part, slot, page));
            done += part;
        }
        self.rows += count;
    }

    /// Rows of the step.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Cuts attention into units; after the last [`Plan::add`].
    pub fn seal(&mut self) {
        let Heads { queries, kv, .. } = self.heads;
        let group = queries / kv;
        let block = (QUERIES / group).max(1);
        let units: usize = self.spans.iter().map(|span| span.1.div_ceil(block) * kv).sum();
        // Too few to keep every thread busy: a unit for every query head.
        let split = if units < 4 * self.scratch.len() { 1 } else { group };
        for &(first, count, position, table) in &self.spans {
            for done in (0..count).step_by(block) {
                let rows = (first + done, block.min(count - done));
                for head in (0..queries).step_by(split) {
                    let (kv_head, heads) = (head / group, (head, head + split));
                    let position = position + done;
                    self.units.push(AttendUnit { rows, position, table, kv_head, heads });
                }
            }
        }
    }

    /// Norms and rotates queries and keys, and stores keys and values in their pages.
    ///
    /// `q`: `(rows, heads.queries * dim)`; `k`, `v`: `(rows, heads.kv * dim)`.
    pub fn rotate_and_store(
        &self,
        pool: &mut Pool,
        isa: Isa,
        (slab, layer): (&mut KvSlab, usize),
        rotation: Rotation<'_>,
        (q, k, v): (&mut [f32], &mut [f32], &[f32]),
    ) {
        let Heads { queries, kv, dim, halves, .. } = self.heads;
        let (q_width, kv_width) = (queries * dim, kv * dim);
        let (q, k) = (Shared::of(q), Shared::of(k));
        let (layout, stride) = (slab.layout(), slab.page_stride());
        let pages = Shared::of(slab.bytes_mut());
        let unit = |&(first, count, slot, page): &StoreUnit| {
            let at = page as usize * stride;
            // SAFETY: a page has one unit (`add` asserts it), and so has a row.
            let page = unsafe { pages.slice(at..at + stride) };
            for row in first..first + count {
                // SAFETY: as above.
                let (q, k) = unsafe {
                    let q = q.slice(row * q_width..(row + 1) * q_width);
                    (q, k.slice(row * kv_width..(row + 1) * kv_width))
                };
                let turn = row * rotation.pairs..(row + 1) * rotation.pairs;
                let (cos, sin) = (&rotation.cos[turn.clone()], &rotation.sin[turn]);
                for (x, second) in [(&mut *q, false), (&mut *k, true)] {
                    if let Some((q_norm, k_norm, eps)) = rotation.norms {
                        let weight = if second { k_norm } else { q_norm };
                        ops::norm_heads(isa, x, weight, eps);
                    }
                    if halves {
                        ops::rope_halves(isa, x, dim, cos, sin);
                    } else {
                        ops::rope_interleaved(isa, x, dim, cos, sin);
                    }
                }
                let v = &v[row * kv_width..][..kv_width];
                for (head, (k, v)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
                    let place = (layer, head, slot + row - first);
                    attention::store(&layout, page, place, k, v);
                }
            }
        };
        if self.rows < SERIAL_ROWS {
            self.stores.iter().for_each(unit);
        } else {
            pool.run(self.stores.len(), &|at, _| unit(&self.stores[at]));
        }
    }

    /// Attention of all rows over their pasts. `q`, `out`: `(rows, heads.queries * dim)`.
    pub fn attend(
        &self,
        pool: &mut Pool,
        isa: Isa,
        (slab, layer): (&KvSlab, usize),
        q: &[f32],
        out: &mut [f32],
    ) {
        let Heads { queries: heads, dim, window, .. } = self.heads;
        let width = heads * dim;
        let out = Shared::of(out);
        pool.run(self.units.len(), &|at, thread| {
            let unit = &self.units[at];
            let none = Query { row: 0, head: 0, sees: (0, 0) };
            let mut queries = [none; QUERIES];
            let per_row = unit.heads.1 - unit.heads.0;
            let count = unit.rows.1 * per_row;
            for (i, query) in queries[..count].iter_mut().enumerate() {
                let to = unit.position + i / per_row + 1;
                let from = window.map_or(0, |window| to.saturating_sub(window));
                let row = unit.rows.0 + i / per_row;
                *query = Query { row, head: unit.heads.0 + i % per_row, sees: (from, to) };
            }
            let table = &self.tables[unit.table.0..unit.table.1];
            let past = Past { slab, table, layer, kv_head: unit.kv_head };
            let mut scratch = self.scratch[thread].lock().unwrap_or_else(|e| e.into_inner());
            let queries = &queries[..count];
            attention::attend(
                isa,
                past,
                queries,
                q,
                width,
                &mut scratch,
                &mut |query, d, values| {
                    let to = query.row * width + query.head * dim + d;
                    // SAFETY: a row's head belongs to one unit.
                    unsafe { out.slice(to..to + values.len()) }.copy_from_slice(values);
                },
            );
        });
    }
}
