//! Speed of everything that is not a matrix product: quantizing activations, norms, attention, packing.
//! `cargo run --release --example parts [threads]`.
use std::time::Instant;

use yushan_tensor::activations::{Activations, Kind};
use yushan_tensor::attention::{Past, Query, Scratch, attend, store};
use yushan_tensor::layout::Layout;
use yushan_tensor::{DType, Isa, KvLayout, KvSlab, KvType, Matrix, Pool, ops};

/// Seconds of the fastest call in a tenth of a second: other work on the machine only ever adds time.
fn best(mut job: impl FnMut()) -> f64 {
    let (mut best, start) = (f64::MAX, Instant::now());
    while start.elapsed().as_secs_f64() < 0.1 {
        let t = Instant::now();
        job();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let threads: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(2);
    let isa = Isa::best();
    println!("{isa:?}, {threads} threads");
    let x: Vec<f32> = (0..2048).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.1).collect();
    for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4_K, DType::Q6_K, DType::Q2_K] {
        let mut a = Activations::new(Kind::of(&Layout::of(dtype)), 2048, 512);
        a.resize(512);
        let seconds = best(|| (0..100).for_each(|c| a.set(isa, c, &x))) / 100.0;
        println!("quantize 2048 for {dtype}: {:.2} us", seconds * 1e6);
    }
    let (mut out, mut long) = (x.clone(), vec![0.5f32; 5632]);
    let up = long.clone();
    println!("rms_norm 2048: {:.2} us", 1e6 * best(|| ops::rms_norm(isa, &x, &x, 1e-5, &mut out)));
    println!("silu_gate 5632: {:.2} us", 1e6 * best(|| ops::silu_gate(isa, &mut long, &up)));
    println!("softmax 2048: {:.2} us", 1e6 * best(|| ops::softmax(isa, &mut out, 0)));
    println!("add 2048: {:.2} us", 1e6 * best(|| ops::add(isa, &mut out, &x)));
    let (c, s) = (&x[..32], &x[32..64]);
    println!("rope 2048: {:.2} us", 1e6 * best(|| ops::rope_interleaved(isa, &mut out, 64, c, s)));
    println!(
        "rope halves 2048: {:.2} us",
        1e6 * best(|| ops::rope_halves(isa, &mut out, 64, c, s))
    );
    for dtype in [KvType::F16, KvType::Q8_0] {
        attention(isa, dtype);
    }
    packing(threads);
}

/// One key/value head with 8 query heads, as in the 1.1B shape; times are for one layer of 4 such.
fn attention(isa: Isa, dtype: KvType) {
    let (context, dim, group) = (512, 64, 8);
    let layout = KvLayout { layers: 1, kv_heads: 1, head_dim: dim, page_tokens: 32, dtype };
    let mut slab = KvSlab::new(layout, context / 32);
    let table: Vec<u32> = (0..context as u32 / 32).collect();
    let x: Vec<f32> = (0..64).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.1).collect();
    let seconds = best(|| {
        for t in 0..context {
            store(&layout, slab.page_mut(table[t / 32]), (0, 0, t % 32), &x, &x);
        }
    });
    println!("{dtype:?} store a key and a value of 64: {:.3} us", seconds / context as f64 * 1e6);
    let past = Past { slab: &slab, table: &table, layer: 0, kv_head: 0 };
    let q = vec![0.25f32; context * dim * group];
    let mut out = vec![0f32; context * dim * group];
    for rows in [1, 8, 32, 512] {
        let queries: Vec<Query> = (0..rows)
            .flat_map(|row| {
                let sees = (0, context - rows + row + 1);
                (0..group).map(move |head| Query { row, head, sees })
            })
            .collect();
        let mut scratch = Scratch::new(64 * group, &layout, context);
        let seconds = best(|| {
            for queries in queries.chunks(64 * group) {
                let mut put = |query: &Query, d: usize, values: &[f32]| {
                    let at = (query.row * group + query.head) * dim + d;
                    out[at..at + values.len()].copy_from_slice(values);
                };
                attend(isa, past, queries, &q, dim * group, &mut scratch, &mut put);
            }
        });
        let work: usize = queries.iter().map(|query| 4 * dim * query.sees.1).sum();
        println!(
            "{dtype:?} attention, {rows} rows x {group} heads over 512: {:.1} us a layer, {:.1} GFLOP/s",
            4.0 * seconds * 1e6,
            work as f64 / seconds / 1e9
        );
    }
}

fn packing(threads: usize) {
    let mut pool = Pool::new(threads);
    let (rows, columns) = (5632, 2048);
    for dtype in DType::all() {
        let data = vec![0x11u8; dtype.bytes(rows * columns).unwrap_or(0)];
        let seconds = best(|| {
            let _ = Matrix::pack(dtype, rows, columns, &data, &mut pool);
        });
        println!("pack {dtype}: {:.2} GB/s", data.len() as f64 / seconds / 1e9);
    }
}
