//! How long a step of the optimizers takes, beside what memory allows: `optimizer [DIM LAYERS FFN]`.
//!
//! AdamW reads four arrays of parameters' length and writes three: 28 bytes for each. The last column is
//! a pass of the same traffic without arithmetic.

use std::time::Instant;

use yushan_collective::Alone;
use yushan_tensor::Pool;
use yushan_train::decoder::{Shape, layout};
use yushan_train::optimizer::{Algorithm, Config, Optimizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Result<Vec<usize>, _> = std::env::args().skip(1).map(|word| word.parse()).collect();
    let (dim, layers, ffn) = match sizes?[..] {
        [dim, layers, ffn] => (dim, layers, ffn),
        _ => (512, 8, 1376),
    };
    let shape = Shape {
        vocabulary: 4096,
        context: 256,
        dim,
        layers,
        heads: dim / 64,
        kv_heads: dim / 64,
        head_dim: 64,
        ffn,
        tied: true,
        norm_eps: 1e-5,
        rope_base: 1e4,
    };
    shape.check()?;
    let length = shape.parameters();
    let mut params: Vec<f32> =
        (0..length).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
    let grads: Vec<f32> = (0..length).map(|i| ((i * 53 % 97) as f32 - 48.0) / 5000.0).collect();
    println!("{length} parameters; milliseconds of a step, median of 9");
    for threads in [1, 2] {
        let mut pool = Pool::new(threads);
        let plain = median(|| traffic(&mut pool, &mut params, &grads));
        for algorithm in [Algorithm::AdamW, Algorithm::Muon] {
            let config = Config { algorithm, ..Config::default() };
            let mut optimizer = Optimizer::new(&layout(&shape), config, 0, 1)?;
            let took = median(|| {
                let step = optimizer.step(&mut pool, &mut Alone, &mut params, &grads, 1e-4);
                assert!(step.is_ok_and(|step| step.applied));
            });
            let speed = 28e-9 * length as f64 / took;
            println!(
                "{threads} threads, {algorithm:?}: {:.1} ms, {speed:.1} GB/s; traffic alone {:.1} ms",
                1e3 * took,
                1e3 * plain
            );
        }
    }
    Ok(())
}

fn median(mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..10)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Reads four arrays and writes three, chunk by chunk, as the optimizer does after the norm.
fn traffic(pool: &mut Pool, params: &mut [f32], grads: &[f32]) {
    thread_local! {
        static MOMENTS: std::cell::RefCell<[Vec<f32>; 2]> = const { std::cell::RefCell::new([Vec::new(), Vec::new()]) };
    }
    MOMENTS.with_borrow_mut(|[first, second]| {
        first.resize(params.len(), 0.0);
        second.resize(params.len(), 0.0);
        const CHUNK: usize = 1 << 14;
        let parts = params.chunks_mut(CHUNK).zip(grads.chunks(CHUNK));
        let parts = parts.zip(first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK)));
        let chunks: Vec<_> = parts.map(std::sync::Mutex::new).collect();
        pool.run(chunks.len(), &|at, _| {
            let Ok(mut chunk) = chunks[at].lock() else { return };
            let ((param, grad), (first, second)) = &mut *chunk;
            for (i, param) in param.iter_mut().enumerate() {
                let (a, b) = (first[i], second[i]);
                first[i] = a + grad[i];
                second[i] = b + grad[i];
                *param += a + b;
            }
        });
    });
}
