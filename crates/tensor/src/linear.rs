//! Matrix products over the pool: rows of activations times packed matrices, with what follows
//! (bias, residual, gate) folded into the store.
//!
//! The key decision: threads divide panels, never the inner dimension, and all matrices that read the
//! same activations share one region. So a token costs few regions, and no sum depends on threads.
#![allow(unsafe_code)]

use crate::activations::{Activations, CHUNK};
use crate::isa::Isa;
use crate::layout::{PANEL, Scheme};
use crate::matmul::{Lanes, dense, panel};
use crate::pack::Matrix;
use crate::{Pool, ops};

/// Chunks a region is cut into: enough that a slow thread holds little back.
const CHUNKS: usize = 16;

/// Below this many bytes of weights times rows a region is not worth waking anybody.
const SERIAL: usize = 16 << 10;

/// Rows of activations as matrices want them.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `(tokens, stride)` floats, for dense weights.
    pub dense: &'a [f32],
    /// Floats from one token to the next.
    pub stride: usize,
    /// One for every kind of quantized weights in use.
    pub quantized: &'a [Activations],
    /// Rows.
    pub tokens: usize,
}

/// What is done with a product.
pub enum Store<'a> {
    /// `out = product`.
    Set(&'a mut [f32]),
    /// `out += product`.
    Add(&'a mut [f32]),
}

/// One product: `out (tokens, rows) = x (tokens, columns) * matrix^T (+ bias)`.
pub struct Product<'a> {
    /// The weights.
    pub matrix: &'a Matrix,
    /// `(rows)`, if the layer has one.
    pub bias: Option<&'a [f32]>,
    /// `(tokens, rows)`.
    pub out: Store<'a>,
}

/// A raw view of an output that threads fill in disjoint stripes of rows.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    length: usize,
    add: bool,
}

// SAFETY: every panel's stripe is written by the one chunk that owns the panel.
unsafe impl Sync for Target {}
// SAFETY: as above.
unsafe impl Send for Target {}

impl Target {
    fn of(store: &mut Store<'_>) -> Target {
        let (out, add) = match store {
            Store::Set(out) => (out, false),
            Store::Add(out) => (out, true),
        };
        Target { start: out.as_mut_ptr(), length: out.len(), add }
    }

    /// Stores the first `values.len()` rows of a panel for one token.
    ///
    /// # Safety
    /// No other thread touches these elements.
    unsafe fn store(&self, isa: Isa, at: usize, values: &[f32]) {
        assert!(at + values.len() <= self.length);
        // SAFETY: in range by the assertion; exclusive by contract.
        let out = unsafe { std::slice::from_raw_parts_mut(self.start.add(at), values.len()) };
        if self.add {
            ops::add(isa, out, values);
        } else {
            out.copy_from_slice(values);
        }
    }
}

impl Input<'_> {
    /// `acc (columns, 16) = panel * chunk`; gives the columns.
    fn product(
        &self,
        isa: Isa,
        matrix: &Matrix,
        at: usize,
        chunk: usize,
        acc: &mut [f32],
    ) -> usize {
        let layout = matrix.layout();
        let first = chunk * CHUNK;
        let columns = CHUNK.min(self.tokens - first);
        let acc = &mut acc[..columns * PANEL];
        acc.fill(0.0);
        if layout.scheme == Scheme::Dense {
            let (data, length) = (matrix.panel(at), matrix.columns());
            let lanes = Lanes { dtype: layout.dtype, data, stride: PANEL, length };
            dense(isa, lanes, &self.dense[first * self.stride..], self.stride, acc);
        } else {
            let kind = crate::activations::Kind::of(layout);
            let x = self.quantized.iter().find(|x| x.kind() == kind);
            let x = x.expect("activations were quantized for every kind of weights");
            assert_eq!((x.columns(), x.length()), (self.tokens, matrix.columns()));
            panel(isa, layout, matrix.panel(at), &x.chunk(chunk), acc);
        }
        columns
    }
}

/// How many chunks `panels` panels of `bytes` in all are worth.
fn region(panels: usize, bytes: usize, tokens: usize) -> usize {
    if bytes.saturating_mul(tokens) < SERIAL { 1 } else { panels.min(CHUNKS) }
}

/// Runs all products over the same input in one region.
pub fn products(pool: &mut Pool, isa: Isa, input: Input<'_>, jobs: &mut [Product<'_>]) {
    let total: usize = jobs.iter().map(|job| job.matrix.panels()).sum();
    let bytes = jobs.iter().map(|job| job.matrix.bytes()).sum();
    let chunks = region(total, bytes, input.tokens);
    let mut list = [(None, Target { start: std::ptr::null_mut(), length: 0, add: false }); 4];
    assert!(jobs.len() <= list.len());
    for (job, place) in jobs.iter_mut().zip(&mut list) {
        let target = Target::of(&mut job.out);
        assert_eq!(target.length, input.tokens * job.matrix.rows(), "output of a product");
        *place = (Some((job.matrix, job.bias)), target);
    }
    pool.run(chunks, &|chunk, _| {
        let mut acc = [0f32; CHUNK * PANEL];
        let (from, to) = (total * chunk / chunks, total * (chunk + 1) / chunks);
        let mut first = 0;
        for (job, target) in &list {
            let Some((matrix, bias)) = job else { break };
            let end = first + matrix.panels();
            let mine = from.max(first)..to.min(end).max(from.max(first));
            for x in 0..input.tokens.div_ceil(CHUNK) {
                for at in mine.clone() {
                    let at = at - first;
                    let columns = input.product(isa, matrix, at, x, &mut acc);
                    let rows = PANEL.min(matrix.rows() - at * PANEL);
                    for c in 0..columns {
                        let values = &mut acc[c * PANEL..][..rows];
                        if let Some(bias) = bias {
                            ops::add(isa, values, &bias[at * PANEL..][..rows]);
                        }
                        let to = (x * CHUNK + c) * matrix.rows() + at * PANEL;
                        // SAFETY: this chunk owns the panel.
                        unsafe { target.store(isa, to, values) };
                    }
                }
            }
            first = end;
        }
    });
}

/// `out (tokens, rows) = silu(x * gate^T) * (x * up^T)` in one region.
pub fn gated(
    pool: &mut Pool,
    isa: Isa,
    input: Input<'_>,
    gate: &Matrix,
    up: &Matrix,
    out: &mut [f32],
) {
    assert_eq!(gate.rows(), up.rows());
    let target = Target::of(&mut Store::Set(out));
    assert_eq!(target.length, input.tokens * gate.rows(), "output of the gate");
    let total = gate.panels();
    let chunks = region(total, gate.bytes() + up.bytes(), input.tokens);
    pool.run(chunks, &|chunk, _| {
        let (mut a, mut b) = ([0f32; CHUNK * PANEL], [0f32; CHUNK * PANEL]);
        for x in 0..input.tokens.div_ceil(CHUNK) {
            for at in total * chunk / chunks..total * (chunk + 1) / chunks {
                let columns = input.product(isa, gate, at, x, &mut a);
                input.product(isa, up, at, x, &mut b);
                let values = columns * PANEL;
                ops::silu_gate(isa, &mut a[..values], &b[..values]);
                let rows = PANEL.min(gate.rows() - at * PANEL);
                for c in 0..columns {
                    let to = (x * CHUNK + c) * gate.rows() + at * PANEL;
                    // SAFETY: this chunk owns the panel.
                    unsafe { target.store(isa, to, &a[c * PANEL..][..rows]) };
                }
            }
        }
    });
}
