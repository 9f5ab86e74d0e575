//! f32 products of training beside the limit: medians of GFLOP/s and of the share of the peak.
//!
//!     cargo run --release --example gemm [threads [MxNxK:form ...]]
//!
//! A form is `nt` (Y = X W^T), `nn` (dX = dY W) or `tn` (dW = dY^T X): which operands lie transposed in
//! memory. The peak is measured anew before every product, so that a machine that changes its speed
//! changes both. `bench/gemm-vs-pytorch` puts PyTorch beside it.
use std::time::Instant;
use yushan_tensor::gemm::{Operand, Store, Target, Workspace, gemm};
use yushan_tensor::{Isa, Pool, aligned::AlignedBytes, limits};

const SHAPES: &[&str] = &[
    "8192x288x288:nt",
    "8192x768x288:nt",
    "8192x288x768:nt",
    "8192x4096x288:nt",
    "8192x288x4096:nn",
    "288x288x8192:tn",
    "288x768x8192:tn",
    "4096x288x8192:tn",
    "4096x1376x512:nt",
    "4096x512x1376:nt",
    "1376x512x4096:tn",
    "2048x2048x2048:nn",
];

/// Seconds a shape is repeated for, and times at least.
const SECONDS: f64 = 0.4;
const TIMES: usize = 5;

fn filled(floats: usize) -> AlignedBytes {
    let mut bytes = AlignedBytes::zeroed(4 * floats);
    let values: &mut [f32] = bytemuck::cast_slice_mut(&mut bytes);
    values.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 17) as f32 - 8.0);
    bytes
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(pool: &mut Pool, space: &mut Workspace, shape: &str) -> Option<()> {
    let (sizes, form) = shape.split_once(':')?;
    let mut sizes = sizes.split('x').map_while(|size| size.parse::<usize>().ok());
    let (m, n, k) = (sizes.next()?, sizes.next()?, sizes.next()?);
    let (a, b, mut c) = (filled(m * k), filled(k * n), filled(m * n));
    let (a, b) = (bytemuck::cast_slice(&a), bytemuck::cast_slice(&b));
    let a = if form == "tn" { Operand::new(a, k, m).t() } else { Operand::new(a, m, k) };
    let b = if form == "nt" { Operand::new(b, n, k).t() } else { Operand::new(b, k, n) };
    let operations = 2.0 * (m * n * k) as f64;
    let (mut speeds, mut shares, start) = (Vec::new(), Vec::new(), Instant::now());
    while speeds.len() <= TIMES || start.elapsed().as_secs_f64() < SECONDS {
        let peak = limits::peak_f32_now(pool);
        let c = Target { data: bytemuck::cast_slice_mut(&mut c), stride: n, store: Store::Set };
        let t = Instant::now();
        gemm(pool, Isa::best(), space, a, b, c);
        let speed = operations / t.elapsed().as_secs_f64();
        speeds.push(speed / 1e9);
        shares.push(100.0 * speed / peak);
    }
    speeds.remove(0); // the first one finds cold pages
    shares.remove(0);
    let threads = pool.threads();
    println!(
        "{shape:18} {threads} threads {:6.1} GFLOP/s {:5.1} %",
        median(speeds),
        median(shares)
    );
    Some(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = arguments.first().and_then(|a| a.parse().ok()).map_or(vec![1, 2], |t| vec![t]);
    let shapes = arguments.get(1..).unwrap_or_default().iter().map(String::as_str);
    let shapes: Vec<&str> = if shapes.len() > 0 { shapes.collect() } else { SHAPES.to_vec() };
    for threads in threads {
        let mut pool = Pool::stubborn(threads);
        let mut space = Workspace::default();
        for shape in &shapes {
            if measure(&mut pool, &mut space, shape).is_none() {
                eprintln!("{shape} is no shape; MxNxK:nt, :nn or :tn is one");
                std::process::exit(2);
            }
        }
    }
}
