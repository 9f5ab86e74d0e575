//! Which rank owns what: one contiguous range each, balanced by the work of a step.
//!
//! The key decision: AdamW's elements may be cut anywhere (at cache lines); a matrix that Muon moves has
//! one owner, because its rule needs it whole. A rank may own nothing when there are more ranks than work.

use std::ops::Range;

use super::Algorithm;
use crate::decoder::{Kind, Tensor};

/// Work of AdamW for an element, in floating-point operations of a matrix product that take as long: its
/// pass moves 28 bytes.
const PASS: f64 = 100.0;

/// Whether the tensor has one owner.
pub(super) fn whole(tensor: &Tensor, algorithm: Algorithm) -> bool {
    algorithm == Algorithm::Muon && tensor.kind == Kind::Matrix
}

/// Work of a step on the tensor.
fn work(tensor: &Tensor, algorithm: Algorithm) -> f64 {
    let pass = PASS * tensor.range.len() as f64;
    if !whole(tensor, algorithm) {
        return pass;
    }
    let (rows, columns) = (tensor.shape[0] as f64, tensor.shape[1] as f64);
    let (small, large) = (rows.min(columns), rows.max(columns));
    // Newton-Schulz: five times two products with the large side and one without.
    pass + 5.0 * (4.0 * small * small * large + 2.0 * small * small * small)
}

/// The range of each of `ranks` ranks; together they cover the tensors, in order.
pub(super) fn parts(tensors: &[Tensor], algorithm: Algorithm, ranks: usize) -> Vec<Range<usize>> {
    let works: Vec<f64> = tensors.iter().map(|tensor| work(tensor, algorithm)).collect();
    let total: f64 = works.iter().sum();
    let (mut before, mut at) = (0.0, 0);
    let mut bound = |rank: usize| {
        let target = total * rank as f64 / ranks as f64;
        while at < tensors.len() && before + works[at] <= target {
            before += works[at];
            at += 1;
        }
        let Some(tensor) = tensors.get(at) else {
            return tensors.last().map_or(0, |last| last.range.end);
        };
        let Range { start, end } = tensor.range;
        let share = (target - before) / works[at];
        if whole(tensor, algorithm) {
            return if share < 0.5 { start } else { end };
        }
        let cut = start + (share * (end - start) as f64) as usize;
        (cut / 16 * 16).clamp(start, end)
    };
    let mut bounds: Vec<usize> = (0..ranks).map(&mut bound).collect();
    bounds.push(tensors.last().map_or(0, |last| last.range.end));
    bounds.windows(2).map(|pair| pair[0]..pair[1]).collect()
}
