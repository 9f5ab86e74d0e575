//! Causal attention for training, forward and backward, with rotary positions, over grouped heads.
//!
//! The key decision: tiles (Dao et al. 2022, arXiv 2205.14135). No row of scores is ever whole: the
//! forward keeps a running maximum and sum for each query, and one number a row and head, the logarithm
//! of the sum (`lse`), is all that the backward needs to make the scores again, tile by tile. A unit is
//! one key/value head of one sequence with all its query heads, on one thread: it alone writes their
//! rows, in one fixed order. Rotation happens where a unit copies its rows, so it costs no pass.
//!
//! Layouts: `qkv` and its gradient `(B T, (H + 2 K) d)`: the query heads, the key heads, the value
//! heads; `out` `(B T, H d)`; `lse` `(B T, H)`.
#![allow(unsafe_code)]

use std::sync::Mutex;

use crate::isa::multiversion;
use crate::ops::{add_lanes, exp};
use crate::ops_backward::{exponentials, peak, turned, turned_backward};
use crate::regions::Shared;
use crate::train_tile::{Tile, multiply};
use crate::{Isa, Pool};

/// Queries of a tile, and keys.
const QUERIES: usize = 64;
const KEYS: usize = 128;

/// Rows of a tile on the diagonal that are cut off together where nobody sees further.
const STEP: usize = 16;

/// Rows that a copy is fetched ahead: a head's rows lie far apart, and nothing else foresees them.
const AHEAD: usize = 12;

/// Floats between rows of scores.
const SCORES: usize = KEYS + 16;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Causal {
    /// Sequences, `B`.
    pub batch: usize,
    /// Tokens of each, `T`.
    pub time: usize,
    /// Query heads, `H`.
    pub heads: usize,
    /// Key and value heads, `K`; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, `d`; even.
    pub head_dim: usize,
}

impl Causal {
    /// Floats of a row of queries, keys and values: `(H + 2 K) d`.
    pub fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Floats between rows of transposed keys: no power of two, so that they spread over the cache.
    fn apart(&self) -> usize {
        self.time.next_multiple_of(16) + 16
    }

    /// Floats that a thread works in.
    fn scratch(&self) -> usize {
        let (t, d) = (self.time, self.head_dim);
        4 * t * d + 2 * d * self.apart() + 3 * QUERIES * d + 2 * QUERIES * SCORES + 2 * QUERIES
    }
}

/// Cosines and sines of all positions, `(T, d / 2)` each.
#[derive(Clone, Copy)]
pub struct Turns<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
}

impl<'a> Turns<'a> {
    fn at(&self, position: usize, pairs: usize) -> (&'a [f32], &'a [f32]) {
        let range = position * pairs..(position + 1) * pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// What the threads of a pool work in; made once.
#[derive(Default)]
pub struct Scratch(Vec<Mutex<Vec<f32>>>);

impl Scratch {
    /// Makes room for `threads` threads.
    pub fn grow(&mut self, threads: usize, shape: &Causal) {
        while self.0.len() < threads {
            self.0.push(Mutex::default());
        }
        for room in &mut self.0 {
            let room = room.get_mut().unwrap_or_else(|e| e.into_inner());
            if room.len() < shape.scratch() {
                room.resize(shape.scratch(), 0.0);
            }
        }
    }

    /// Bytes for `threads` threads.
    pub fn bytes(threads: usize, shape: &Causal) -> u64 {
        4 * threads as u64 * shape.scratch() as u64
    }
}

/// One unit's place in memory: which sequence, which key/value head.
#[derive(Clone, Copy)]
struct Unit<'a> {
    isa: Isa,
    shape: Causal,
    turns: Turns<'a>,
    /// First row of the sequence.
    row: usize,
    kv_head: usize,
}

/// A thread's buffers, cut for one shape.
struct Room<'a> {
    keys: &'a mut [f32],     // (T, d), turned
    values: &'a mut [f32],   // (T, d)
    keys_t: &'a mut [f32],   // (d, apart)
    values_t: &'a mut [f32], // (d, apart)
    dkeys: &'a mut [f32],    // (T, d)
    dvalues: &'a mut [f32],  // (T, d)
    queries: &'a mut [f32],  // (QUERIES, d), turned and scaled
    sums: &'a mut [f32],     // (QUERIES, d): the output, or its gradient
    dqueries: &'a mut [f32], // (QUERIES, d)
    scores: &'a mut [f32],   // (QUERIES, SCORES)
    dscores: &'a mut [f32],  // (QUERIES, SCORES)
    peaks: &'a mut [f32],    // (QUERIES)
    totals: &'a mut [f32],   // (QUERIES)
}

impl<'a> Room<'a> {
    fn cut(mut rest: &'a mut [f32], shape: &Causal) -> Room<'a> {
        let mut take = |length: usize| {
            let (part, left) = std::mem::take(&mut rest).split_at_mut(length);
            rest = left;
            part
        };
        let (rows, across) = (shape.time * shape.head_dim, shape.head_dim * shape.apart());
        let tile = QUERIES * shape.head_dim;
        Room {
            keys: take(rows),
            values: take(rows),
            keys_t: take(across),
            values_t: take(across),
            dkeys: take(rows),
            dvalues: take(rows),
            queries: take(tile),
            sums: take(tile),
            dqueries: take(tile),
            scores: take(QUERIES * SCORES),
            dscores: take(QUERIES * SCORES),
            peaks: take(QUERIES),
            totals: take(QUERIES),
        }
    }
}

/// Attention of every row of `qkv` over its past in its sequence, scores scaled by `1 / sqrt(d)`.
pub fn forward(
    pool: &mut Pool,
    isa: Isa,
    shape: &Causal,
    (qkv, turns): (&[f32], Turns<'_>),
    (out, lse): (&mut [f32], &mut [f32]),
    scratch: &mut Scratch,
) {
    let rows = shape.batch * shape.time;
    assert_eq!(qkv.len(), rows * shape.width());
    assert_eq!(out.len(), rows * shape.heads * shape.head_dim);
    assert_eq!(lse.len(), rows * shape.heads);
    scratch.grow(pool.threads(), shape);
    let (out, lse, scratch) = (Shared::of(out), Shared::of(lse), &scratch.0);
    pool.run(shape.batch * shape.kv_heads, &|at, thread| {
        let mut room = scratch[thread].lock().unwrap_or_else(|e| e.into_inner());
        let mut room = Room::cut(&mut room, shape);
        let unit = Unit {
            isa,
            shape: *shape,
            turns,
            row: at / shape.kv_heads * shape.time,
            kv_head: at % shape.kv_heads,
        };
        unit.forward(&mut room, qkv, out, lse);
    });
}

/// Gradient of [`forward`]: `dqkv` is set from `dout`, the gradient of `out`.
pub fn backward(
    pool: &mut Pool,
    isa: Isa,
    shape: &Causal,
    (qkv, turns): (&[f32], Turns<'_>),
    (out, lse, dout): (&[f32], &[f32], &[f32]),
    dqkv: &mut [f32],
    scratch: &mut Scratch,
) {
    let rows = shape.batch * shape.time;
    assert_eq!((qkv.len(), dqkv.len()), (rows * shape.width(), rows * shape.width()));
    assert_eq!(out.len(), rows * shape.heads * shape.head_dim);
    assert_eq!((dout.len(), lse.len()), (out.len(), rows * shape.heads));
    scratch.grow(pool.threads(), shape);
    let (dqkv, scratch) = (Shared::of(dqkv), &scratch.0);
    pool.run(shape.batch * shape.kv_heads, &|at, thread| {
        let mut room = scratch[thread].lock().unwrap_or_else(|e| e.into_inner());
        let mut room = Room::cut(&mut room, shape);
        let unit = Unit {
            isa,
            shape: *shape,
            turns,
            row: at / shape.kv_heads * shape.time,
            kv_head: at % shape.kv_heads,
        };
        unit.backward(&mut room, qkv, (out, lse, dout), dqkv);
    });
}

impl Unit<'_> {
    /// Query heads of this unit.
    fn heads(&self) -> std::ops::Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        self.kv_head * group..(self.kv_head + 1) * group
    }

    /// A head of row `t` of `qkv`: query head `h`, key head `H + k`, value head `H + K + k`.
    fn place(&self, t: usize, head: usize) -> std::ops::Range<usize> {
        let at = (self.row + t) * self.shape.width() + head * self.shape.head_dim;
        at..at + self.shape.head_dim
    }

    /// Copies the keys, turned, and the values, and their transposes.
    fn load(&self, room: &mut Room<'_>, qkv: &[f32], backward: bool) {
        let Causal { time, heads, kv_heads, head_dim: d, .. } = self.shape;
        let apart = self.shape.apart();
        for t in 0..time {
            let (cos, sin) = self.turns.at(t, d / 2);
            let ahead = (t + AHEAD).min(time - 1);
            fetch(&qkv[self.place(ahead, heads + self.kv_head)]);
            fetch(&qkv[self.place(ahead, heads + kv_heads + self.kv_head)]);
            let key = &qkv[self.place(t, heads + self.kv_head)];
            turned(self.isa, key, cos, sin, 1.0, &mut room.keys[t * d..][..d]);
            let value = &qkv[self.place(t, heads + kv_heads + self.kv_head)];
            room.values[t * d..][..d].copy_from_slice(value);
        }
        transpose(self.isa, room.keys, d, room.keys_t, apart);
        if backward {
            transpose(self.isa, room.values, d, room.values_t, apart);
            room.dkeys.fill(0.0);
            room.dvalues.fill(0.0);
        }
    }

    /// Copies a tile of queries, turned and scaled.
    fn load_queries(&self, room: &mut Room<'_>, qkv: &[f32], head: usize, tile: (usize, usize)) {
        let d = self.shape.head_dim;
        let scale = 1.0 / (d as f32).sqrt();
        for (t, query) in (tile.0..tile.1).zip(room.queries.chunks_exact_mut(d)) {
            let (cos, sin) = self.turns.at(t, d / 2);
            fetch(&qkv[self.place((t + AHEAD).min(self.shape.time - 1), head)]);
            turned(self.isa, &qkv[self.place(t, head)], cos, sin, scale, query);
        }
    }

    /// `scores = left (queries, d) right (d, keys)` for the keys that anybody sees; on the diagonal
    /// what stands right of a step of rows is left as it was.
    fn products(
        &self,
        left: &[f32],
        right: &[f32],
        scores: &mut [f32],
        tile: (usize, usize),
        first_key: usize,
    ) {
        let d = self.shape.head_dim;
        for_steps(tile, first_key, &mut |rows, keys| {
            let (m, n, apart) = (rows.len(), keys, self.shape.apart());
            let t = Tile { m, n, k: d, a: (d, 1), b: apart, c: SCORES, add: false };
            let scores = &mut scores[rows.start * SCORES..];
            multiply(self.isa, &t, &left[rows.start * d..], &right[first_key..], scores);
        });
    }

    fn forward(&self, room: &mut Room<'_>, qkv: &[f32], out: Shared<f32>, lse: Shared<f32>) {
        let Causal { time, heads, head_dim: d, .. } = self.shape;
        self.load(room, qkv, false);
        for (head, from) in
            self.heads().flat_map(|h| (0..time).step_by(QUERIES).map(move |t| (h, t)))
        {
            let tile = (from, (from + QUERIES).min(time));
            let rows = tile.1 - tile.0;
            self.load_queries(room, qkv, head, tile);
            room.sums[..rows * d].fill(0.0);
            room.peaks.fill(f32::NEG_INFINITY);
            room.totals.fill(0.0);
            for first_key in (0..tile.1).step_by(KEYS) {
                self.products(room.queries, room.keys_t, room.scores, tile, first_key);
                let state = (&mut *room.peaks, &mut *room.totals, &mut *room.sums);
                let steps = Steps { tile, first_key, d };
                accumulate(self.isa, &steps, room.scores, state.0, state.1, state.2);
                for_steps(tile, first_key, &mut |rows, keys| {
                    let (m, at) = (rows.len(), rows.start);
                    let t = Tile { m, n: d, k: keys, a: (SCORES, 1), b: d, c: d, add: true };
                    let values = &room.values[first_key * d..];
                    let sums = &mut room.sums[at * d..];
                    multiply(self.isa, &t, &room.scores[at * SCORES..], values, sums);
                });
            }
            for (r, sums) in room.sums.chunks_exact(d).enumerate().take(rows) {
                let at = (self.row + from + r) * heads + head;
                let ahead = ((self.row + (from + r + AHEAD).min(time - 1)) * heads + head) * d;
                // SAFETY: a row's head belongs to one unit.
                fetch(unsafe { out.slice(ahead..ahead + d) });
                // SAFETY: as above.
                let (out, lse) =
                    unsafe { (out.slice(at * d..(at + 1) * d), lse.slice(at..at + 1)) };
                let inverse = 1.0 / room.totals[r];
                out.iter_mut().zip(sums).for_each(|(out, v)| *out = v * inverse);
                lse[0] = room.peaks[r] + room.totals[r].ln();
            }
        }
    }

    fn backward(
        &self,
        room: &mut Room<'_>,
        qkv: &[f32],
        (out, lse, dout): (&[f32], &[f32], &[f32]),
        dqkv: Shared<f32>,
    ) {
        let Causal { time, heads, kv_heads, head_dim: d, .. } = self.shape;
        let scale = 1.0 / (d as f32).sqrt();
        self.load(room, qkv, true);
        for (head, from) in
            self.heads().flat_map(|h| (0..time).step_by(QUERIES).map(move |t| (h, t)))
        {
            let tile = (from, (from + QUERIES).min(time));
            let rows = tile.1 - tile.0;
            self.load_queries(room, qkv, head, tile);
            for r in 0..rows {
                let at = (self.row + from + r) * heads + head;
                let ahead = ((self.row + (from + r + AHEAD).min(time - 1)) * heads + head) * d;
                fetch(&out[ahead..ahead + d]);
                fetch(&dout[ahead..ahead + d]);
                let (out, dout) = (&out[at * d..][..d], &dout[at * d..][..d]);
                room.sums[r * d..][..d].copy_from_slice(dout);
                // What the softmax takes back from every score of the row: sum(dout * out).
                (room.peaks[r], room.totals[r]) = (lse[at], dot(self.isa, out, dout));
            }
            room.dqueries[..rows * d].fill(0.0);
            for first_key in (0..tile.1).step_by(KEYS) {
                self.tile_backward(room, tile, first_key);
            }
            for (r, dquery) in room.dqueries.chunks_exact(d).enumerate().take(rows) {
                let (cos, sin) = self.turns.at(from + r, d / 2);
                let ahead = self.place((from + r + AHEAD).min(time - 1), head);
                // SAFETY: a query head of a row belongs to one unit.
                fetch(unsafe { dqkv.slice(ahead) });
                // SAFETY: as above.
                let to = unsafe { dqkv.slice(self.place(from + r, head)) };
                turned_backward(self.isa, dquery, cos, sin, scale, to);
            }
        }
        for t in 0..time {
            let (cos, sin) = self.turns.at(t, d / 2);
            let key = self.place(t, heads + self.kv_head);
            let value = self.place(t, heads + kv_heads + self.kv_head);
            for head in [heads + self.kv_head, heads + kv_heads + self.kv_head] {
                let ahead = self.place((t + AHEAD).min(time - 1), head);
                // SAFETY: a key and a value head of a row belong to one unit.
                fetch(unsafe { dqkv.slice(ahead) });
            }
            // SAFETY: as above.
            let (key, value) = unsafe { (dqkv.slice(key), dqkv.slice(value)) };
            turned_backward(self.isa, &room.dkeys[t * d..][..d], cos, sin, 1.0, key);
            value.copy_from_slice(&room.dvalues[t * d..][..d]);
        }
    }

    /// One tile of scores made again, and what it adds to the gradients of its queries, keys and values.
    fn tile_backward(&self, room: &mut Room<'_>, tile: (usize, usize), first_key: usize) {
        let (d, isa, rows) = (self.shape.head_dim, self.isa, tile.1 - tile.0);
        self.products(room.queries, room.keys_t, room.scores, tile, first_key);
        self.products(room.sums, room.values_t, room.dscores, tile, first_key);
        let steps = Steps { tile, first_key, d };
        scores_backward(isa, &steps, room.peaks, room.totals, room.scores, room.dscores);
        for_steps(tile, first_key, &mut |rows, keys| {
            let at = rows.start;
            let t = Tile { m: rows.len(), n: d, k: keys, a: (SCORES, 1), b: d, c: d, add: true };
            let (dscores, keys) = (&room.dscores[at * SCORES..], &room.keys[first_key * d..]);
            multiply(isa, &t, dscores, keys, &mut room.dqueries[at * d..]);
        });
        // Keys by steps too where some queries come before them and do not see them.
        let keys = KEYS.min(tile.1 - first_key);
        let step = if first_key + keys <= tile.0 + 1 { keys } else { STEP };
        for key in (0..keys).step_by(step) {
            let first = (first_key + key).saturating_sub(tile.0) / STEP * STEP;
            let (m, k) = (step.min(keys - key), rows - first);
            let t = Tile { m, n: d, k, a: (1, SCORES), b: d, c: d, add: true };
            let (scores, to) = (first * SCORES + key, (first_key + key) * d);
            let from = first * d;
            multiply(isa, &t, &room.scores[scores..], &room.sums[from..], &mut room.dvalues[to..]);
            let queries = &room.queries[from..];
            multiply(isa, &t, &room.dscores[scores..], queries, &mut room.dkeys[to..]);
        }
    }
}

/// Calls `job(rows, keys)` for steps of rows of a tile and how many keys from `first_key` on any of
/// them sees; all rows at once off the diagonal.
fn for_steps(
    tile: (usize, usize),
    first_key: usize,
    job: &mut dyn FnMut(std::ops::Range<usize>, usize),
) {
    let rows = tile.1 - tile.0;
    if first_key + KEYS <= tile.0 {
        return job(0..rows, KEYS);
    }
    for row in (0..rows).step_by(STEP) {
        let end = (row + STEP).min(rows);
        job(row..end, KEYS.min(tile.0 + end - first_key));
    }
}

/// Has a row brought near.
#[inline(always)]
fn fetch(row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// Which scores of a tile are seen.
struct Steps {
    /// Positions of the queries: first, and one past the last.
    tile: (usize, usize),
    first_key: usize,
    /// Width of a head.
    d: usize,
}

impl Steps {
    /// How many scores row `r` sees, and how many its step of rows holds.
    #[inline(always)]
    fn seen(&self, r: usize) -> (usize, usize) {
        let rows = self.tile.1 - self.tile.0;
        let seen = (self.tile.0 + r + 1 - self.first_key).min(KEYS);
        let end = (r / STEP * STEP + STEP).min(rows);
        (seen, (self.tile.0 + end - self.first_key).min(KEYS))
    }
}

multiversion! {
    /// Scores to weights relative to the largest so far; what was summed before is scaled down to it.
    fn accumulate(
        steps: &Steps, scores: &mut [f32], peaks: &mut [f32], totals: &mut [f32], sums: &mut [f32],
    ) {
        let rows = steps.tile.1 - steps.tile.0;
        for r in 0..rows {
            let (seen, held) = steps.seen(r);
            let (row, unseen) = scores[r * SCORES..][..held].split_at_mut(seen);
            unseen.fill(0.0);
            let old = peaks[r];
            let new = peak(row);
            let new = if new > old { new } else { old };
            let factor = exp(old - new);
            totals[r] = totals[r].mul_add(factor, exponentials(row, new));
            peaks[r] = new;
            if factor != 1.0 {
                sums[r * steps.d..][..steps.d].iter_mut().for_each(|v| *v *= factor);
            }
        }
    }
}

multiversion! {
    /// `scores` becomes the weights `p = e^(score - lse)`, `dscores` (the gradient of the weights)
    /// becomes that of the scores, `p (dp - taken)`.
    fn scores_backward(
        steps: &Steps, lse: &[f32], taken: &[f32], scores: &mut [f32], dscores: &mut [f32],
    ) {
        let rows = steps.tile.1 - steps.tile.0;
        for r in 0..rows {
            let (seen, held) = steps.seen(r);
            let (row, unseen) = scores[r * SCORES..][..held].split_at_mut(seen);
            let (drow, dunseen) = dscores[r * SCORES..][..held].split_at_mut(seen);
            unseen.fill(0.0);
            dunseen.fill(0.0);
            let (lse, taken) = (lse[r], taken[r]);
            for (p, dp) in row.iter_mut().zip(drow) {
                *p = exp(*p - lse);
                *dp = *p * (*dp - taken);
            }
        }
    }
}

multiversion! {
    /// `sum(a * b)` in 16 fixed lanes.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0f32; 16];
        let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
        for (lane, (a, b)) in lanes.iter_mut().zip(a.remainder().iter().zip(b.remainder())) {
            *lane = a * b;
        }
        for (a, b) in a.zip(b) {
            for i in 0..16 {
                lanes[i] = a[i].mul_add(b[i], lanes[i]);
            }
        }
        add_lanes(lanes)
    }
}

multiversion! {
    /// `to (d, apart) = from (T, d)` transposed, 8 rows at a time.
    fn transpose(from: &[f32], d: usize, to: &mut [f32], apart: usize) {
        let time = from.len() / d;
        for t in (0..time).step_by(8) {
            let rows = (time - t).min(8);
            for i in 0..d {
                let to = &mut to[i * apart + t..][..rows];
                for (r, to) in to.iter_mut().enumerate() {
                    *to = from[(t + r) * d + i];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
