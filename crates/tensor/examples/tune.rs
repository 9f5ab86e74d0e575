//! tune
use yushan_tensor::gemm::{Operand, Store, TUNE, Target, Workspace, gemm};
use yushan_tensor::{Isa, Pool, aligned::AlignedBytes, limits};
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
    let args: Vec<String> = std::env::args().collect();
    let threads: usize = args[1].parse().unwrap();
    let rounds: usize = args[2].parse().unwrap();
    let variants: Vec<Vec<usize>> =
        args[4..].iter().map(|v| v.split(',').map(|x| x.parse().unwrap()).collect()).collect();
    let isa = Isa::best();
    let mut pool = Pool::stubborn(threads);
    let mut space = Workspace::default();
    for spec in args[3].split(',') {
        let (s, form) = spec.split_once(':').unwrap();
        let v: Vec<usize> = s.split('x').map(|x| x.parse().unwrap()).collect();
        let (m, n, k) = (v[0], v[1], v[2]);
        let (ta, tb) = (form == "tn", form == "nt");
        let (a, b, mut c) = (floats(m * k), floats(k * n), floats(m * n));
        let (a, b) = (bytemuck::cast_slice(&a), bytemuck::cast_slice(&b));
        let a = if ta { Operand::new(a, k, m).t() } else { Operand::new(a, m, k) };
        let b = if tb { Operand::new(b, n, k).t() } else { Operand::new(b, k, n) };
        let mut cpus = vec![vec![]; variants.len()];
        for _ in 0..rounds {
            for (v, variant) in variants.iter().enumerate() {
                for (t, x) in TUNE.iter().zip(variant) {
                    t.store(*x, std::sync::atomic::Ordering::Relaxed)
                }
                let c = bytemuck::cast_slice_mut(&mut c);
                let u = cpu();
                limits::peak_f32_now(&mut pool);
                let p = 64.0 * threads as f64 * 20000.0 * 192.0 / (cpu() - u) / 1e9
                    * threads as f64
                    * threads as f64;
                let u = cpu();
                gemm(
                    &mut pool,
                    isa,
                    &mut space,
                    a,
                    b,
                    Target { data: c, stride: n, store: Store::Set },
                );
                cpus[v].push((cpu() - u) * p / (threads * threads) as f64);
            }
        }
        print!("{spec:20}");
        let work = 2.0 * (m * n * k) as f64 / 1e9;
        for c in &mut cpus {
            c.sort_by(f64::total_cmp);
            let f = |t: f64| work / t * (threads) as f64 * 100.0;
            print!("  {:5.1} {:5.1} |", f(c[c.len() / 2]), f(c[c.len() / 4]));
        }
        println!();
    }
}
