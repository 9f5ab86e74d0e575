//! Kernel speed beside the limits: medians of GB/s of weights and GOP/s for 1 to 512 columns.
//! `cargo run --release --example kernels [threads [type [rows [columns]]]]`.
use std::time::Instant;
use yushan_tensor::activations::{Activations, Kind};
use yushan_tensor::linear::{Input, Product, Store, products};
use yushan_tensor::{DType, Isa, Matrix, Pool, limits};

fn main() {
    let threads: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(2);
    let only = std::env::args().nth(2);
    let number = |i, other| std::env::args().nth(i).and_then(|a| a.parse().ok()).unwrap_or(other);
    let (rows, k): (usize, usize) = (number(3, 5632), number(4, 2048));
    let mut pool = Pool::new(threads);
    let isa = Isa::best();
    println!("{isa:?} {threads} threads, {rows} x {k}");
    println!(
        "read {:.1} GB/s, int8 {:.0} GOP/s, f32 {:.0} GFLOP/s",
        limits::read_bandwidth(threads) / 1e9,
        limits::peak_int8(threads) / 1e9,
        limits::peak_f32(threads) / 1e9
    );
    for dtype in DType::all() {
        if only.as_deref().is_some_and(|o| o != dtype.name()) {
            continue;
        }
        let mut seed = 1u64;
        let bytes = dtype.bytes(rows * k).unwrap();
        let mut data = vec![0u8; bytes];
        for b in data.iter_mut() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *b = (seed >> 56) as u8 & 0x3b;
        }
        let copies = (1_200_000_000 / bytes).clamp(1, 200);
        let ms: Vec<Matrix> =
            (0..copies).map(|_| Matrix::pack(dtype, rows, k, &data, &mut pool).unwrap()).collect();
        print!("{:7}", dtype.name());
        for tokens in [1usize, 2, 4, 8, 16, 64, 512] {
            let x: Vec<f32> = (0..tokens * k).map(|i| (i % 17) as f32 - 8.0).collect();
            let mut act = Activations::new(Kind::of(ms[0].layout()), k, tokens);
            act.resize(tokens);
            for (c, x) in x.chunks_exact(k).enumerate() {
                act.set(isa, c, x);
            }
            let acts = [act];
            let mut out = vec![0f32; tokens * rows];
            let ms = &ms[..ms.len().min(if tokens > 100 { 2 } else { 200 })];
            let (mut times, start) = (Vec::new(), Instant::now());
            while times.len() < 3 || start.elapsed().as_secs_f64() < 0.2 {
                let t = Instant::now();
                for m in ms {
                    let input = Input { dense: &x, stride: k, quantized: &acts, tokens };
                    let out = Store::Set(&mut out);
                    products(&mut pool, isa, input, &mut [Product { matrix: m, bias: None, out }]);
                }
                times.push(t.elapsed().as_secs_f64() / ms.len() as f64);
            }
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            let gb = ms[0].bytes() as f64 / median / 1e9;
            let gop = 2.0 * (rows * k * tokens) as f64 / median / 1e9;
            print!("  {tokens}: {gb:.1} GB/s {gop:.0} |");
        }
        println!();
    }
}
