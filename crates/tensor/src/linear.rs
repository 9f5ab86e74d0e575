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

/// Most chunks of columns that a strip of weights is multiplied with before the next strip.
const SPAN: usize = 3;

/// Below this many bytes of weights times rows a region is not worth waking anybody: a thread reads
/// them in the microseconds that it takes to meet.
const SERIAL: usize = 96 << 10;

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
        for (panel, acc) in panels.zip(acc.chunks_exact_mut(columns.len() * PANEL)) {
            let first = panel * PANEL;
            let rows = PANEL.min(matrix.rows() - first);
            let stripe = Stripe {
                start: self.start.wrapping_add(columns.start * matrix.rows() + first),
                stride: matrix.rows(),
                rows,
                add: self.add,
            };
            assert!((columns.end - 1) * matrix.rows() + first + rows <= self.length);
            // SAFETY: in range by the assertion; exclusive by contract.
            unsafe { stripe.store(isa, bias.map(|bias| &bias[first..][..rows]), acc) };
        }
    }
}

/// The rows of one panel in an output: `rows` floats, `stride` floats from one column to the next.
#[derive(Clone, Copy)]
struct Stripe {
    start: *mut f32,
    stride: usize,
    rows: usize,
    add: bool,
}

impl Stripe {
    /// Stores `acc (columns, 16)`.
    ///
    /// # Safety
    /// The stripe is valid for as many columns, and nobody else touches it.
    unsafe fn store(self, isa: Isa, bias: Option<&[f32]>, acc: &mut [f32]) {
        if let Some(bias) = bias {
            for values in acc.chunks_exact_mut(PANEL) {
                ops::add(isa, &mut values[..self.rows], bias);
            }
        }
        for (c, values) in acc.as_chunks::<PANEL>().0.iter().enumerate() {
            let at = self.start.wrapping_add(c * self.stride);
            // SAFETY: by contract; a full panel as one array, which compiles to a few moves.
            unsafe {
                if self.rows == PANEL {
                    let out = &mut *at.cast::<[f32; PANEL]>();
                    for (out, value) in out.iter_mut().zip(values) {
                        *out = if self.add { *out + value } else { *value };
                    }
                } else {
                    let out = std::slice::from_raw_parts_mut(at, self.rows);
                    for (out, value) in out.iter_mut().zip(values) {
                        *out = if self.add { *out + value } else { *value };
                    }
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

    /// The spans of columns that are worked on one after the other: all about as long.
    fn spans(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let tokens = self.tokens;
        let chunks = tokens.div_ceil(CHUNK);
        let span = CHUNK * chunks.div_ceil(chunks.div_ceil(SPAN).max(1)).max(1);
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
                for columns in input.spans() {
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
            for columns in input.spans() {
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
