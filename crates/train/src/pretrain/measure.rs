//! How fast this machine trains a model of some shape.

use std::time::{Duration, Instant};

use yushan_tensor::Pool;

use crate::decoder::{Decoder, Keep, Shape};

/// Tokens that are timed at once, at least.
const TOKENS: usize = 2048;

/// Times that they are timed, unless it takes longer than [`PATIENCE`].
const TIMES: usize = 3;

/// No pass begins after this, but for the first that counts.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tokens a second of forward and backward passes over a model of this shape, the median of up to three after one that
/// warms up. The optimizer is not counted: it is some hundredths of a step.
pub fn tokens_per_second(shape: &Shape, keep: Keep, threads: usize) -> f64 {
    let mut pool = Pool::new(threads);
    let mut decoder = Decoder::new(*shape, 0);
    decoder.set_keep(keep);
    let batch = TOKENS.div_ceil(shape.context);
    let count = batch * shape.context;
    let ids: Vec<u32> = (0..count).map(|at| (at * 7919 % shape.vocabulary) as u32).collect();
    let (mut speeds, start) = (Vec::new(), Instant::now());
    for time in 0..=TIMES {
        if time > 1 && start.elapsed() > PATIENCE {
            break;
        }
        let began = Instant::now();
        decoder.forward_backward(&mut pool, &ids, &ids, batch, 1.0, &mut |_, _| {});
        if time > 0 {
            speeds.push(count as f64 / began.elapsed().as_secs_f64());
        }
    }
    speeds.sort_by(f64::total_cmp);
    speeds[speeds.len() / 2]
}
