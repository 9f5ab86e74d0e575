//! f32 products of training beside the limit: median GFLOP/s and share of the measured peak.
//! `cargo run --release --example gemm [threads... [--json]]`; `bench/gemm-vs-pytorch` compares.
use std::time::Instant;
use yushan_tensor::gemm::{Operand, Store, Target, Workspace, gemm};
use yushan_tensor::{Isa, Pool, aligned::AlignedBytes, limits};

/// `(m, n, k)` and which operands are transposed in memory.
const SHAPES: &[(usize, usize, usize, bool, bool)] = &[
    (8192, 288, 288, false, true),
    (8192, 768, 288, false, true),
    (8192, 288, 768, false, true),
    (8192, 4096, 288, false, true),
    (8192, 288, 4096, false, false),
    (288, 288, 8192, true, false),
    (288, 768, 8192, true, false),
    (4096, 288, 8192, true, false),
    (4096, 1376, 512, false, true),
    (4096, 512, 1376, false, true),
    (1376, 512, 4096, true, false),
    (2048, 2048, 2048, false, false),
];

fn floats(n: usize) -> AlignedBytes {
    let mut bytes = AlignedBytes::zeroed(4 * n);
    let f: &mut [f32] = bytemuck::cast_slice_mut(&mut bytes);
    f.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 17) as f32 - 8.0);
    bytes
}

fn cpu() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[allow(unsafe_code)]
    unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t)
    };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn main() {
    let threads: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let threads = if threads.is_empty() { vec![1, 2] } else { threads };
    let isa = Isa::best();
    for threads in threads {
        let mut pool = Pool::stubborn(threads);
        let mut space = Workspace::default();
        let mut peak = limits::peak_f32(threads) / 1e9;
        println!("{isa:?} {threads} threads: peak {peak:.0} GFLOP/s");
        for &(m, n, k, ta, tb) in SHAPES {
            if std::env::var("ONLY")
                .is_ok_and(|o| !o.split(',').any(|o| o == format!("{m}x{n}x{k}")))
            {
                continue;
            }
            let (a, b, mut c) = (floats(m * k), floats(k * n), floats(m * n));
            let (a, b) = (bytemuck::cast_slice(&a), bytemuck::cast_slice(&b));
            let a = if ta { Operand::new(a, k, m).t() } else { Operand::new(a, m, k) };
            let b = if tb { Operand::new(b, n, k).t() } else { Operand::new(b, k, n) };
            let (mut times, mut cpus, start) = (Vec::new(), Vec::new(), Instant::now());
            while times.len() < 3 || start.elapsed().as_secs_f64() < 0.3 {
                let c = bytemuck::cast_slice_mut(&mut c);
                let (t, u) = (Instant::now(), cpu());
                gemm(
                    &mut pool,
                    isa,
                    &mut space,
                    a,
                    b,
                    Target { data: c, stride: n, store: Store::Set },
                );
                times.push(t.elapsed().as_secs_f64());
                cpus.push(cpu() - u);
            }
            times.sort_by(f64::total_cmp);
            cpus.sort_by(f64::total_cmp);
            let work = 2.0 * (m * n * k) as f64 / 1e9;
            let peak2 = limits::peak_f32(threads) / 1e9;
            let p = peak.max(peak2);
            peak = peak2;
            let (med, min, cpu) =
                (work / times[times.len() / 2], work / times[0], work / cpus[0] * threads as f64);
            println!(
                "{m:5} x {n:4} x {k:4}  median {med:4.0} ({:3.0}%)  best {min:4.0} ({:3.0}%)  cpu {cpu:4.0} ({:3.0}%)  peak {p:.0}",
                med / p * 100.0,
                min / p * 100.0,
                cpu / p * 100.0
            );
        }
    }
}
