//! Matrix products over the pool: rows of activations times packed matrices, with what follows
//! (bias, residual, gate) folded into the store.
//!
//! The key decision: threads divide panels, never the inner dimension, and all matrices that read the
//! same activations share one region. So a token costs few regions, and no sum depends on threads.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use crate::activations::{Activations, CHUNK};
use crate::isa::Isa;
use crate::layout::{PANEL, Scheme};
use crate::matmul::{Lanes, STRIP, Strip, dense, strip};
use crate::pack::Matrix;
use crate::{Pool, ops};

/// Chunks a region is cut into: enough that a slow thread holds little back.
const CHUNKS: usize = 16;

/// Bytes of quantized activations that stay in the second-level cache beside two unpacked panels.
const SPAN: usize = 448 << 10;

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

    /// Stores `acc (panels, columns, 16)`.
    ///
    /// # Safety
    /// No other thread touches these rows.
    unsafe fn store(
        &self,
        isa: Isa,
        matrix: &Matrix,
        bias: Option<&[f32]>,
        (panels, columns): (Range<usize>, Range<usize>),
        acc: &mut [f32],
    ) {
        let each = columns.len() * PANEL;
        for (panel, acc) in panels.zip(acc.chunks_exact_mut(each)) {
            let first = panel * PANEL;
            let rows = PANEL.min(matrix.rows() - first);
            for (column, values) in columns.clone().zip(acc.chunks_exact_mut(PANEL)) {
                let values = &mut values[..rows];
                if let Some(bias) = bias {
                    ops::add(isa, values, &bias[first..][..rows]);
                }
                let at = column * matrix.rows() + first;
                assert!(at + rows <= self.length);
                // SAFETY: in range by the assertion; exclusive by contract.
                let out = unsafe { std::slice::from_raw_parts_mut(self.start.add(at), rows) };
                if self.add {
                    ops::add(isa, out, values);
                } else {
                    out.copy_from_slice(values);
                }
            }
        }
    }
}

/// A thread's room, grown once: sums before they are stored.
#[derive(Default)]
struct Room {
    acc: Vec<f32>,
    other: Vec<f32>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

impl Input<'_> {
    /// `acc (panels, columns, 16) = panels * columns`; a span of columns starts at a chunk.
    fn product(
        &self,
        isa: Isa,
        matrix: &Matrix,
        panels: Range<usize>,
        columns: Range<usize>,
        acc: &mut Vec<f32>,
    ) {
        let layout = matrix.layout();
        acc.clear();
        acc.resize(panels.len() * columns.len() * PANEL, 0.0);
        let weights = matrix.panels_at(panels.clone());
        let panels = panels.len();
        if layout.scheme == Scheme::Dense {
            let (data, length) = (weights, matrix.columns());
            let panel = length * PANEL;
            let lanes = Lanes { dtype: layout.dtype, data, stride: PANEL, length, panel, panels };
            dense(isa, lanes, &self.dense[columns.start * self.stride..], self.stride, acc);
            return;
        }
        let kind = crate::activations::Kind::of(layout);
        let x = self.quantized.iter().find(|x| x.kind() == kind);
        let x = x.expect("activations were quantized for every kind of weights");
        assert_eq!((x.columns(), x.length()), (self.tokens, matrix.columns()));
        let chunks = columns.start / CHUNK..columns.end.div_ceil(CHUNK);
        strip(isa, Strip { layout, panels, weights }, x, chunks, acc);
    }

    /// The spans of columns that are worked on one after the other.
    fn spans(&self, matrix: &Matrix) -> impl Iterator<Item = Range<usize>> {
        let (tokens, span) = (self.tokens, CHUNK * (SPAN / (CHUNK * matrix.columns())).clamp(1, 4));
        (0..tokens.div_ceil(span)).map(move |i| i * span..tokens.min((i + 1) * span))
    }
}

/// How many chunks `units` units of `bytes` in all are worth.
fn region(units: usize, bytes: usize, tokens: usize) -> usize {
    if bytes.saturating_mul(tokens) < SERIAL { 1 } else { units.min(CHUNKS) }
}

/// The part of `0..total` that chunk `chunk` of `chunks` owns.
fn share(total: usize, chunk: usize, chunks: usize) -> Range<usize> {
    total * chunk / chunks..total * (chunk + 1) / chunks
}

/// Strips of a matrix: what is handed out.
fn strips(matrix: &Matrix) -> usize {
    matrix.panels().div_ceil(STRIP)
}

/// The panels of a strip.
fn panels(matrix: &Matrix, strip: usize) -> Range<usize> {
    strip * STRIP..matrix.panels().min((strip + 1) * STRIP)
}

/// Runs all products over the same input in one region.
pub fn products(pool: &mut Pool, isa: Isa, input: Input<'_>, jobs: &mut [Product<'_>]) {
    let total: usize = jobs.iter().map(|job| strips(job.matrix)).sum();
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
        ROOM.with_borrow_mut(|Room { acc, .. }| {
            let share = share(total, chunk, chunks);
            let mut first = 0;
            for (job, target) in &list {
                let Some((matrix, bias)) = job else { break };
                let end = first + strips(matrix);
                let mine =
                    share.start.clamp(first, end) - first..share.end.clamp(first, end) - first;
                first = end;
                for columns in input.spans(matrix) {
                    for strip in mine.clone() {
                        let panels = panels(matrix, strip);
                        let span = columns.clone();
                        input.product(isa, matrix, panels.clone(), span.clone(), acc);
                        // SAFETY: this chunk owns the strip.
                        unsafe { target.store(isa, matrix, *bias, (panels, span), acc) };
                    }
                }
            }
        });
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
    let total = strips(gate);
    let chunks = region(total, gate.bytes() + up.bytes(), input.tokens);
    pool.run(chunks, &|chunk, _| {
        ROOM.with_borrow_mut(|Room { acc, other }| {
            for columns in input.spans(gate) {
                for strip in share(total, chunk, chunks) {
                    let panels = panels(gate, strip);
                    let span = columns.clone();
                    input.product(isa, gate, panels.clone(), span.clone(), acc);
                    input.product(isa, up, panels.clone(), span.clone(), other);
                    ops::silu_gate(isa, acc, other);
                    // SAFETY: this chunk owns the strip.
                    unsafe { target.store(isa, gate, None, (panels, span), acc) };
                }
            }
        });
    });
}
