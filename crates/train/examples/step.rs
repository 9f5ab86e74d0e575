//! `step CFG [STEPS] [THREADS] [KEEP]`: how fast a training step is. CFG: `T1`, `T2` (the peers' shapes) or
//! `V,D,L,H,K,F,T,B`. KEEP: `everything` (default), `halves`, `inputs`.
//!
//! A step is what the peers' script times: forward, backward, clipping, AdamW. Prints one JSON line:
//! median step, tokens a second, operations a second and their share of the peak measured right before

use std::sync::Mutex;
use std::time::Instant;

use yushan_tensor::{Isa, Pool, limits};
use yushan_train::decoder::{Decoder, Keep, Kind, Shape, layout};

/// Parameters that a thread updates at once.
const PIECE: usize = 1 << 16;

fn shape(name: &str) -> Option<(Shape, usize, usize)> {
    let sizes: Vec<usize> = match name {
        "T1" => vec![4096, 288, 6, 6, 6, 768, 256, 32],
        "T2" => vec![4096, 512, 8, 8, 8, 1376, 512, 8],
        other => other.split(',').map(str::parse).collect::<Result<_, _>>().ok()?,
    };
    let &[vocabulary, dim, layers, heads, kv_heads, ffn, time, batch] = sizes.as_slice() else {
        return None;
    };
    let shape = Shape {
        vocabulary,
        context: time,
        dim,
        layers,
        heads,
        kv_heads,
        head_dim: dim / heads,
        ffn,
        tied: true,
        norm_eps: 1e-5,
        rope_base: 10_000.0,
    };
    Some((shape, time, batch))
}

/// AdamW (Loshchilov and Hutter 2019) with clipping at 1, as the peers' script sets it.
struct AdamW {
    m: Vec<f32>,
    v: Vec<f32>,
    decay: Vec<f32>,
    step: i32,
}

impl AdamW {
    fn new(shape: &Shape) -> AdamW {
        let mut decay = vec![0.1; shape.parameters()];
        for tensor in layout(shape).iter().filter(|tensor| tensor.kind == Kind::Norm) {
            decay[tensor.range.clone()].fill(0.0);
        }
        AdamW { m: vec![0.0; decay.len()], v: vec![0.0; decay.len()], decay, step: 0 }
    }

    fn step(&mut self, pool: &mut Pool, (params, grads): (&mut [f32], &mut [f32]), rate: f32) {
        self.step += 1;
        let squares: Vec<Mutex<f64>> = grads.chunks(PIECE).map(|_| Mutex::new(0.0)).collect();
        pool.run(squares.len(), &|at, _| {
            let part = &grads[at * PIECE..grads.len().min((at + 1) * PIECE)];
            let mut lanes = [0f64; 8];
            for part in part.chunks(8) {
                lanes.iter_mut().zip(part).for_each(|(lane, g)| *lane += f64::from(g * g));
            }
            *squares[at].lock().unwrap() = lanes.iter().sum();
        });
        let norm = squares.iter().map(|sum| *sum.lock().unwrap()).sum::<f64>().sqrt();
        let clip = (1.0 / (norm + 1e-6)).min(1.0) as f32;
        let (one, two) = (1.0 - 0.9f32.powi(self.step), 1.0 - 0.95f32.powi(self.step));
        let pieces: Vec<_> = params
            .chunks_mut(PIECE)
            .zip(grads.chunks_mut(PIECE))
            .zip(self.m.chunks_mut(PIECE).zip(self.v.chunks_mut(PIECE)))
            .zip(self.decay.chunks(PIECE))
            .map(Mutex::new)
            .collect();
        pool.run(pieces.len(), &|at, _| {
            let mut piece = pieces[at].lock().unwrap();
            let (((params, grads), (m, v)), decay) = &mut *piece;
            for i in 0..params.len() {
                let g = grads[i] * clip;
                grads[i] = 0.0;
                m[i] += 0.1 * (g - m[i]);
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let root = (v[i] / two).sqrt() + 1e-8;
                params[i] = params[i] * (1.0 - rate * decay[i]) - rate / one * m[i] / root;
            }
        });
    }
}

/// The most memory this process has held, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize, default: &str| arguments.get(at).map_or(default, |a| a).to_owned();
    let usage = "usage: step T1|T2|V,D,L,H,K,F,T,B [STEPS] [THREADS] [everything|halves|inputs]";
    let (shape, time, batch) = shape(&word(0, "T1")).ok_or(usage)?;
    let (steps, threads) = (word(1, "5").parse::<usize>()?, word(2, "2").parse::<usize>()?);
    let keep = match word(3, "everything").as_str() {
        "everything" => Keep::Everything,
        "halves" => Keep::Halves,
        "inputs" => Keep::Inputs,
        _ => return Err(usage.into()),
    };
    let mut pool = Pool::new(threads);
    let count = batch * time;
    let id = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let ids: Vec<u32> = (0..=count).map(|i| (id(i) % shape.vocabulary as u64) as u32).collect();
    let (tokens, targets) = (&ids[..count], &ids[1..]);
    let mut decoder = Decoder::new(shape.clone(), 0);
    decoder.set_keep(keep);
    let mut optimizer = AdamW::new(&shape);
    let mut times = Vec::new();
    let (mut loss, mut update) = (0.0, 0.0);
    let mut peak = 0.0;
    for step in 0..steps + 1 {
        if step == 1 {
            peak = limits::peak_f32(threads);
        }
        let start = Instant::now();
        let scale = 1.0 / count as f32;
        let sum =
            decoder.forward_backward(&mut pool, tokens, targets, batch, scale, &mut |_, _| {});
        let half = Instant::now();
        optimizer.step(&mut pool, decoder.params_and_grads(), 1e-3);
        loss = sum.mean();
        if step > 0 {
            times.push(start.elapsed().as_secs_f64());
            update += half.elapsed().as_secs_f64() / steps as f64;
        }
    }
    let memory = peak_memory();
    peak = f64::midpoint(peak, limits::peak_f32(threads));
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let speed = count as f64 / median;
    let operations = speed * shape.operations_per_token(time);
    println!(
        "{{\"cfg\": {:?}, \"isa\": {:?}, \"threads\": {threads}, \"parameters\": {}, \"step_ms\": {:.1}, \"min_ms\": {:.1}, \
         \"update_ms\": {:.1}, \"tokens_per_s\": {speed:.0}, \"gflops\": {:.1}, \"peak_gflops\": {:.1}, \"peak_share\": {:.3}, \
         \"memory_mb\": {:.0}, \"loss\": {loss:.4}}}",
        word(0, "T1"),
        Isa::best(),
        shape.parameters(),
        1e3 * median,
        1e3 * times[0],
        1e3 * update,
        operations / 1e9,
        peak / 1e9,
        operations / peak,
        memory as f64 / 1e6,
    );
    Ok(())
}
