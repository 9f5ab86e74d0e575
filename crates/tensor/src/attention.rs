//! Attention over paged keys and values.
//!
//! The key decision: both products are the dense tile of the matrix kernels. Keys of 16 positions stand
//! interleaved (lane = position), values stand row by row (lane = element of the head), so nothing adds
//! across lanes and a row's result is one fixed sequence over positions, whatever page, chunk or
//! batch it is computed in. Scores are kept whole (two passes), not streamed: simpler, and exact.
//!
//! In a page a head's keys are `[page_tokens / 16][head][16]` halves (or floats), its values
//! `[page_tokens][head]`; with 8-bit KV both are `[page_tokens][head / 32]` blocks of a half and 32 signed bytes.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::isa::Isa;
use crate::kv::{KvLayout, KvSlab, KvType};
use crate::layout::PANEL;
use crate::matmul::{Lanes, dense};
use crate::{DType, ops};

/// Floats between rows of scores, so that rows of a power of two do not fall on the same cache sets.
const APART: usize = 16;

/// One query row: the rotated query of one head at one position.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Which row of the step's query matrix.
    pub row: usize,
    /// Which query head.
    pub head: usize,
    /// First position it sees (sliding window), and one past the last.
    pub sees: (usize, usize),
}

/// Scratch of one thread, grown once.
#[derive(Default)]
pub struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    acc: Vec<f32>,
    wide: Vec<f32>,
}

impl Scratch {
    /// Room for `queries` queries of `head_dim` elements over `context` positions.
    pub fn new(queries: usize, layout: &KvLayout, context: usize) -> Self {
        let positions = context.next_multiple_of(layout.page_tokens);
        let wide = if layout.dtype == KvType::Q8_0 {
            layout.page_tokens * layout.padded_head()
        } else {
            0
        };
        Self {
            queries: vec![0.0; queries * layout.head_dim],
            scores: vec![0.0; queries * (positions + APART)],
            acc: vec![0.0; queries * layout.page_tokens.max(layout.padded_head())],
            wide: vec![0.0; wide],
        }
    }
}

/// What a set of queries attends to: one key/value head of one layer of one sequence.
#[derive(Clone, Copy)]
pub struct Past<'a> {
    /// The pages.
    pub slab: &'a KvSlab,
    /// The sequence's page table.
    pub table: &'a [u32],
    /// Which layer.
    pub layer: usize,
    /// Which key/value head.
    pub kv_head: usize,
}

impl<'a> Past<'a> {
    /// 16 lanes of keys from position `16 * panel` of a page.
    fn keys<'s>(&self, page: u32, wide: &'s mut [f32]) -> (DType, &'s [u8])
    where
        'a: 's,
    {
        let layout = self.slab.layout();
        let at = layout.keys_at(self.layer, self.kv_head);
        let bytes = &self.slab.page(page)[at..at + layout.head_bytes()];
        match layout.dtype {
            KvType::F16 => return (DType::F16, bytes),
            KvType::F32 => return (DType::F32, bytes),
            KvType::Q8_0 => {}
        }
        let head = layout.padded_head();
        for (t, token) in bytes.chunks_exact(head / 32 * 34).enumerate() {
            widen(token, |d, value| wide[(t / PANEL * head + d) * PANEL + t % PANEL] = value);
        }
        (DType::F32, bytemuck::cast_slice(wide))
    }

    fn values<'s>(&self, page: u32, wide: &'s mut [f32]) -> (DType, &'s [u8])
    where
        'a: 's,
    {
        let layout = self.slab.layout();
        let at = layout.values_at(self.layer, self.kv_head);
        let bytes = &self.slab.page(page)[at..at + layout.head_bytes()];
        match layout.dtype {
            KvType::F16 => return (DType::F16, bytes),
            KvType::F32 => return (DType::F32, bytes),
            KvType::Q8_0 => {}
        }
        let head = layout.padded_head();
        for (t, token) in bytes.chunks_exact(head / 32 * 34).enumerate() {
            widen(token, |d, value| wide[t * head + d] = value);
        }
        (DType::F32, bytemuck::cast_slice(wide))
    }
}

/// Reads one token's blocks of a half and 32 bytes.
fn widen(token: &[u8], mut put: impl FnMut(usize, f32)) {
    for (b, block) in token.chunks_exact(34).enumerate() {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (i, &q) in block[2..].iter().enumerate() {
            put(b * 32 + i, d * f32::from(q as i8));
        }
    }
}

/// Softmax attention of `queries` (rows of `q`, `(rows, heads * head_dim)`) over `past`, scores
/// scaled by `1 / sqrt(head_dim)`; `store(query, first element, values)` gets the results 16 elements
/// at a time.
pub fn attend(
    isa: Isa,
    past: Past<'_>,
    queries: &[Query],
    q: &[f32],
    q_stride: usize,
    scratch: &mut Scratch,
    store: &mut dyn FnMut(&Query, usize, &[f32]),
) {
    let layout = past.slab.layout();
    let (dim, tokens) = (layout.head_dim, layout.page_tokens);
    let from = queries.iter().map(|query| query.sees.0).min().unwrap_or(0);
    let to = queries.iter().map(|query| query.sees.1).max().unwrap_or(0);
    let pages = from / tokens..to.div_ceil(tokens);
    let base = pages.start * tokens;
    let stride = pages.len() * tokens + APART;
    let scale = 1.0 / (dim as f32).sqrt();
    for (query, out) in queries.iter().zip(scratch.queries.chunks_exact_mut(dim)) {
        let row = &q[query.row * q_stride + query.head * dim..][..dim];
        out.iter_mut().zip(row).for_each(|(out, v)| *out = v * scale);
    }
    let head = layout.padded_head();
    for (p, &page) in past.table[pages.clone()].iter().enumerate() {
        let (dtype, data) = past.keys(page, &mut scratch.wide);
        let at = p * tokens;
        // Only as many panels of 16 positions as anybody sees.
        let panels = tokens.min(to - base - at).div_ceil(PANEL);
        let lanes = Lanes { dtype, data, stride: PANEL, length: dim, panel: head * PANEL, panels };
        let acc = &mut scratch.acc[..panels * queries.len() * PANEL];
        acc.fill(0.0);
        dense(isa, lanes, &scratch.queries, dim, acc);
        for (panel, acc) in acc.chunks_exact(queries.len() * PANEL).enumerate() {
            let rows = scratch.scores.chunks_exact_mut(stride);
            for (acc, row) in acc.as_chunks::<PANEL>().0.iter().zip(rows) {
                row[at + panel * PANEL..][..PANEL].copy_from_slice(acc);
            }
        }
    }
    for (query, row) in queries.iter().zip(scratch.scores.chunks_exact_mut(stride)) {
        let (seen, unseen) = row.split_at_mut(query.sees.1 - base);
        ops::softmax(isa, seen, query.sees.0 - base);
        unseen.fill(0.0);
    }
    let panels = dim.div_ceil(PANEL);
    let acc = &mut scratch.acc[..panels * queries.len() * PANEL];
    acc.fill(0.0);
    for (p, &page) in past.table[pages].iter().enumerate() {
        let (dtype, data) = past.values(page, &mut scratch.wide);
        let length = tokens.min(to - base - p * tokens);
        let lanes = Lanes { dtype, data, stride: head, length, panel: PANEL, panels };
        dense(isa, lanes, &scratch.scores[p * tokens..], stride, acc);
    }
    for (panel, acc) in acc.chunks_exact(queries.len() * PANEL).enumerate() {
        let d = panel * PANEL;
        for (query, acc) in queries.iter().zip(acc.chunks_exact(PANEL)) {
            store(query, d, &acc[..PANEL.min(dim - d)]);
        }
    }
}

/// Stores the key and the value of one head at one position of a page.
///
/// `key`, `value`: `(head_dim)`; `slot`: the position inside the page.
pub fn store(
    layout: &KvLayout,
    page: &mut [u8],
    (layer, head, slot): (usize, usize, usize),
    key: &[f32],
    value: &[f32],
) {
    let padded = layout.padded_head();
    let keys = &mut page[layout.keys_at(layer, head)..][..layout.head_bytes()];
    match layout.dtype {
        KvType::F16 => {
            let first = (slot / PANEL * padded * PANEL + slot % PANEL) * 2;
            let lanes = keys[first..].chunks_mut(PANEL * 2);
            for (to, key) in lanes.zip(key) {
                to[..2].copy_from_slice(&f16::from_f32(*key).to_le_bytes());
            }
        }
        KvType::F32 => {
            let first = (slot / PANEL * padded * PANEL + slot % PANEL) * 4;
            for (to, key) in keys[first..].chunks_mut(PANEL * 4).zip(key) {
                to[..4].copy_from_slice(&key.to_le_bytes());
            }
        }
        KvType::Q8_0 => narrow(key, &mut keys[slot * (padded / 32 * 34)..]),
    }
    let values = &mut page[layout.values_at(layer, head)..][..layout.head_bytes()];
    match layout.dtype {
        KvType::F16 => {
            let mut halves = [f16::ZERO; 64];
            let row = &mut values[slot * padded * 2..][..padded * 2];
            for (value, to) in value.chunks(64).zip(row.chunks_mut(128)) {
                let halves = &mut halves[..value.len()];
                halves.convert_from_f32_slice(value);
                for (to, half) in to.chunks_exact_mut(2).zip(halves.iter()) {
                    to.copy_from_slice(&half.to_le_bytes());
                }
            }
        }
        KvType::F32 => {
            let row = &mut values[slot * padded * 4..][..padded * 4];
            for (to, value) in row.chunks_exact_mut(4).zip(value) {
                to.copy_from_slice(&value.to_le_bytes());
            }
        }
        KvType::Q8_0 => narrow(value, &mut values[slot * (padded / 32 * 34)..]),
    }
}

/// Quantizes a head to blocks of a half and 32 bytes.
fn narrow(values: &[f32], to: &mut [u8]) {
    for (values, block) in values.chunks(32).zip(to.chunks_exact_mut(34)) {
        let peak = values.iter().fold(0f32, |peak, v| peak.max(v.abs()));
        let d = f16::from_f32(peak / 127.0);
        let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
        block[..2].copy_from_slice(&d.to_le_bytes());
        block[2..].fill(0);
        for (q, v) in block[2..].iter_mut().zip(values) {
            *q = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attention as it stands in the paper, in f64.
    fn naive(
        q: &[f32],
        keys: &[Vec<f32>],
        values: &[Vec<f32>],
        from: usize,
        to: usize,
    ) -> Vec<f64> {
        let scale = 1.0 / (q.len() as f64).sqrt();
        let dot = |k: &[f32]| -> f64 {
            q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * scale
        };
        let weights: Vec<f64> = (from..to).map(|p| dot(&keys[p]).exp()).collect();
        let sum: f64 = weights.iter().sum();
        (0..q.len())
            .map(|d| (from..to).map(|p| weights[p - from] / sum * f64::from(values[p][d])).sum())
            .collect()
    }

    fn check(dtype: KvType, head_dim: usize, context: usize, slack: f64) {
        let layout = KvLayout { layers: 2, kv_heads: 2, head_dim, page_tokens: 32, dtype };
        let mut slab = KvSlab::new(layout, context.div_ceil(32) + 3);
        // Pages out of order, as a table has them.
        let table: Vec<u32> = (0..context.div_ceil(32) as u32).map(|p| p ^ 1).collect();
        let value = |p: usize, d: usize, salt: usize| {
            (((p * 31 + d * 17 + salt * 7) % 97) as f32 - 48.0) * 0.02
        };
        let row = |p, salt| (0..head_dim).map(|d| value(p, d, salt)).collect::<Vec<_>>();
        let keys: Vec<_> = (0..context).map(|p| row(p, 1)).collect();
        let values: Vec<_> = (0..context).map(|p| row(p, 2)).collect();
        for p in 0..context {
            let page = slab.page_mut(table[p / 32]);
            store(&layout, page, (1, 1, p % 32), &keys[p], &values[p]);
        }
        let q: Vec<f32> = (0..5).flat_map(|r| row(r + 50, 3)).collect();
        let queries: Vec<Query> = [(0, 1), (0, context), (3, context), (0, 17), (16, context - 1)]
            .into_iter()
            .enumerate()
            .filter(|(_, sees)| sees.0 < sees.1)
            .map(|(row, sees)| Query { row, head: 0, sees })
            .collect();
        let past = Past { slab: &slab, table: &table, layer: 1, kv_head: 1 };
        let run = |isa, queries: &[Query]| {
            let mut scratch = Scratch::new(queries.len(), &layout, context);
            let mut out = vec![0f32; 5 * head_dim];
            attend(isa, past, queries, &q, head_dim, &mut scratch, &mut |query, d, values| {
                out[query.row * head_dim + d..][..values.len()].copy_from_slice(values);
            });
            out
        };
        let together = run(Isa::SCALAR, &queries);
        for query in &queries {
            let exact = naive(
                &q[query.row * head_dim..][..head_dim],
                &keys,
                &values,
                query.sees.0,
                query.sees.1,
            );
            for (d, exact) in exact.iter().enumerate() {
                let got = f64::from(together[query.row * head_dim + d]);
                assert!(
                    (got - exact).abs() < slack,
                    "{dtype:?} {head_dim} {context} {query:?} {d}: {got}, not {exact}"
                );
            }
            for isa in Isa::available() {
                let alone = run(isa, std::slice::from_ref(query));
                let range = query.row * head_dim..(query.row + 1) * head_dim;
                assert_eq!(
                    alone[range.clone()],
                    together[range],
                    "{isa:?} {query:?}: alone and together differ"
                );
            }
        }
    }

    #[test]
    fn agrees_with_the_definition_alone_and_together() {
        for (head_dim, context) in [(64, 77), (64, 32), (128, 33), (8, 40), (80, 100)] {
            check(KvType::F32, head_dim, context, 1e-5);
            check(KvType::F16, head_dim, context, 2e-3);
            check(KvType::Q8_0, head_dim, context, 2e-2);
        }
    }
}
