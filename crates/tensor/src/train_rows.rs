//! What training does row by row between its products, spread over the pool: embeddings, norms, gates,
//! the loss.
//!
//! The key decision: chunks have a fixed number of rows, whatever the number of threads. Where a sum
//! runs over all rows (the weights of a norm) every chunk has a partial sum and they are added in order;
//! where rows meet in one place (the embedding of a token) threads share out columns, not rows. So the
//! bits never depend on who computed what.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::ops::{add, rms_norm};
use crate::ops_backward::{cross_entropy, gated, gated_backward, rms_norm_backward};
use crate::regions::Shared;
use crate::{Isa, Pool};

/// Rows of a chunk.
const ROWS: usize = 32;

/// Columns of the embedding that a thread adds to at once.
const COLUMNS: usize = 64;

/// Runs `job(chunk, rows)` for every chunk of rows.
fn chunks(pool: &mut Pool, rows: usize, job: &(dyn Fn(usize, Range<usize>) + Sync)) {
    // A region has at most 65,535 chunks.
    let each = ROWS.max(rows.div_ceil(usize::from(u16::MAX)));
    pool.run(rows.div_ceil(each), &|chunk, _| {
        job(chunk, chunk * each..((chunk + 1) * each).min(rows))
    });
}

/// `out (N, D)`: the rows of `table (V, D)` that the tokens name.
///
/// # Panics
/// When a token is not in the table.
pub fn embed(pool: &mut Pool, tokens: &[u32], table: &[f32], dim: usize, out: &mut [f32]) {
    assert_eq!(out.len(), tokens.len() * dim);
    let out = Shared::of(out);
    chunks(pool, tokens.len(), &|_, rows| {
        for row in rows {
            // SAFETY: a row belongs to one chunk.
            let out = unsafe { out.slice(row * dim..(row + 1) * dim) };
            out.copy_from_slice(&table[tokens[row] as usize * dim..][..dim]);
        }
    });
}

/// Of [`embed`]: adds each row of `dy (N, D)` to its token's row of `dtable (V, D)`, in the order of
/// the rows.
pub fn embed_backward(
    pool: &mut Pool,
    isa: Isa,
    tokens: &[u32],
    dy: &[f32],
    dim: usize,
    dtable: &mut [f32],
) {
    assert_eq!(dy.len(), tokens.len() * dim);
    let each = COLUMNS.max(dim.div_ceil(usize::from(u16::MAX)));
    let dtable = Shared::of(dtable);
    pool.run(dim.div_ceil(each), &|chunk, _| {
        let columns = chunk * each..((chunk + 1) * each).min(dim);
        for (&token, dy) in tokens.iter().zip(dy.chunks_exact(dim)) {
            let at = token as usize * dim;
            // SAFETY: a column belongs to one chunk.
            let to = unsafe { dtable.slice(at + columns.start..at + columns.end) };
            add(isa, to, &dy[columns.clone()]);
        }
    });
}

/// `out (N, D)`: the rows of `x` normed; `weight`: `(D)`. `copy` gets `x` as it is, for the residual
/// that the block's result is added to.
pub fn normalize(
    pool: &mut Pool,
    isa: Isa,
    x: &[f32],
    (weight, eps): (&[f32], f32),
    out: &mut [f32],
    copy: Option<&mut [f32]>,
) {
    let dim = weight.len();
    assert_eq!(x.len(), out.len());
    let (out, copy) = (Shared::of(out), copy.map(Shared::of));
    chunks(pool, x.len() / dim, &|_, rows| {
        for row in rows {
            let range = row * dim..(row + 1) * dim;
            let x = &x[range.clone()];
            // SAFETY: a row belongs to one chunk.
            rms_norm(isa, x, weight, eps, unsafe { out.slice(range.clone()) });
            if let Some(copy) = copy {
                // SAFETY: as above.
                unsafe { copy.slice(range) }.copy_from_slice(x);
            }
        }
    });
}

/// Partial sums of [`normalize_backward`]; made once.
#[derive(Default)]
pub struct Partial(Vec<f32>);

/// Of [`normalize`]: adds to `dx (N, D)` and to `dweight (D)`.
pub fn normalize_backward(
    pool: &mut Pool,
    isa: Isa,
    (x, dy): (&[f32], &[f32]),
    (weight, eps): (&[f32], f32),
    (dx, dweight): (&mut [f32], &mut [f32]),
    partial: &mut Partial,
) {
    let dim = weight.len();
    assert_eq!((x.len(), dy.len()), (dx.len(), dx.len()));
    let rows = x.len() / dim;
    let room = rows.div_ceil(ROWS) * dim;
    if partial.0.len() < room {
        partial.0.resize(room, 0.0);
    }
    let sums = &mut partial.0[..room];
    sums.fill(0.0);
    let (dx, shared) = (Shared::of(dx), Shared::of(sums));
    chunks(pool, rows, &|chunk, rows| {
        // SAFETY: a partial sum belongs to one chunk.
        let sum = unsafe { shared.slice(chunk * dim..(chunk + 1) * dim) };
        for row in rows {
            let range = row * dim..(row + 1) * dim;
            // SAFETY: so does a row.
            let dx = unsafe { dx.slice(range.clone()) };
            rms_norm_backward(isa, &x[range.clone()], weight, eps, &dy[range], dx, sum);
        }
    });
    sums.chunks_exact(dim).for_each(|sum| add(isa, dweight, sum));
}

/// `out (N, F) = silu(gate) * up`; a row of `gate_up`, `(N, 2 F)`, is the gate and then up.
pub fn gate(pool: &mut Pool, isa: Isa, gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(gate_up.len(), 2 * out.len());
    let out = Shared::of(out);
    chunks(pool, gate_up.len() / (2 * width), &|_, rows| {
        for row in rows {
            let (gate, up) = gate_up[2 * row * width..][..2 * width].split_at(width);
            // SAFETY: a row belongs to one chunk.
            gated(isa, gate, up, unsafe { out.slice(row * width..(row + 1) * width) });
        }
    });
}

/// Of [`gate`]: `gate_up` becomes its own gradient; `dout`, the output's gradient, becomes the output,
/// which the gradient of the next matrix needs.
pub fn gate_backward(
    pool: &mut Pool,
    isa: Isa,
    gate_up: &mut [f32],
    width: usize,
    dout: &[f32],
    out: &mut [f32],
) {
    assert_eq!((gate_up.len(), dout.len()), (2 * out.len(), out.len()));
    let (gate_up, out) = (Shared::of(gate_up), Shared::of(out));
    chunks(pool, dout.len() / width, &|_, rows| {
        for row in rows {
            let range = row * width..(row + 1) * width;
            // SAFETY: a row belongs to one chunk.
            let both = unsafe { gate_up.slice(2 * range.start..2 * range.end) };
            let (gate, up) = both.split_at_mut(width);
            // SAFETY: as above.
            let out = unsafe { out.slice(range.clone()) };
            gated_backward(isa, gate, up, &dout[range], out);
        }
    });
}

/// Losses of rows of logits, `(N, V)`, which become `scale` times their gradients; see
/// [`cross_entropy`]. `width`: `V`; the rows may stand further apart. A row whose target is `ignore` has
/// loss 0 and no gradient.
///
/// # Panics
/// When a target is neither `ignore` nor in the vocabulary.
pub fn losses(
    pool: &mut Pool,
    isa: Isa,
    (logits, width): (&mut [f32], usize),
    (targets, ignore): (&[u32], u32),
    scale: f32,
    losses: &mut [f32],
) {
    assert_eq!(targets.len(), losses.len());
    let stride = logits.len() / targets.len().max(1);
    assert!(width <= stride || targets.is_empty());
    let (logits, losses) = (Shared::of(logits), Shared::of(losses));
    pool.run(targets.len().div_ceil(4), &|chunk, _| {
        for row in chunk * 4..((chunk + 1) * 4).min(targets.len()) {
            // SAFETY: a row belongs to one chunk.
            let (logits, loss) = unsafe {
                (logits.slice(row * stride..row * stride + width), losses.slice(row..row + 1))
            };
            if targets[row] == ignore {
                logits.fill(0.0);
                loss[0] = 0.0;
            } else {
                loss[0] = cross_entropy(isa, logits, targets[row] as usize, scale);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_meet_in_one_order_whatever_the_threads() {
        let (dim, rows) = (70, 131);
        let x: Vec<f32> = (0..rows * dim).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect();
        let dy: Vec<f32> = (0..rows * dim).map(|i| ((i * 53 % 97) as f32 - 48.0) * 0.017).collect();
        let weight: Vec<f32> = (0..dim).map(|i| 1.0 + (i % 7) as f32 * 0.1).collect();
        let tokens: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 5).collect();
        let run = |threads| {
            let mut pool = Pool::new(threads);
            let (mut dx, mut dweight, mut dtable) =
                (vec![0.0; x.len()], vec![0.0; dim], vec![0.0; 5 * dim]);
            let mut partial = Partial::default();
            let to = (&mut dx[..], &mut dweight[..]);
            let isa = Isa::best();
            normalize_backward(&mut pool, isa, (&x, &dy), (&weight, 1e-5), to, &mut partial);
            embed_backward(&mut pool, isa, &tokens, &dy, dim, &mut dtable);
            [dx, dweight, dtable].concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let expected = run(1);
        assert_eq!(run(2), expected);
        assert_eq!(run(3), expected);
    }

    #[test]
    fn embeddings_are_copied_and_their_gradients_added() {
        let mut pool = Pool::new(2);
        let table: Vec<f32> = (0..4 * 3).map(|i| i as f32).collect();
        let tokens = [2, 0, 2];
        let mut out = vec![0.0; 9];
        embed(&mut pool, &tokens, &table, 3, &mut out);
        assert_eq!(out, [6.0, 7.0, 8.0, 0.0, 1.0, 2.0, 6.0, 7.0, 8.0]);
        let mut dtable = vec![1.0; 12];
        embed_backward(&mut pool, Isa::best(), &tokens, &out, 3, &mut dtable);
        assert_eq!(dtable, [1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 13.0, 15.0, 17.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn ignored_targets_have_no_loss_and_no_gradient() {
        // Rows of 3 that stand 4 apart.
        let mut logits = vec![1.0, 2.0, 3.0, 7.0, 1.0, 1.0, 1.0, 7.0];
        let mut out = [9.0; 2];
        let targets = (&[u32::MAX, 1][..], u32::MAX);
        losses(&mut Pool::new(2), Isa::best(), (&mut logits, 3), targets, 1.0, &mut out);
        assert_eq!((logits[..3].to_vec(), out[0]), (vec![0.0; 3], 0.0));
        assert!((out[1] - 3f32.ln()).abs() < 1e-6 && (logits[5] + 2.0 / 3.0).abs() < 1e-6);
        assert_eq!((logits[3], logits[7]), (7.0, 7.0));
    }
}
