//! `step CFG parts`: where the time of a step goes.
//! `step CFG [STEPS] [THREADS] [KEEP]`: how fast a training step is. CFG: `T1`, `T2` (the peers' shapes) or
//! `V,D,L,H,K,F,T,B`. KEEP: `everything` (default), `halves`, `inputs`.
//!
//! With `parts` every operation runs alone on one thread, at the sizes it has in a step, and is timed in
//! processor time, so that a busy machine does not show. Otherwise a step is what the peers' script times: forward, backward, clipping, AdamW. Prints one JSON line:
//! median step, processor time a step, tokens a second, operations a second and their share of the peak measured right before

use std::sync::Mutex;
use std::time::Instant;

use yushan_tensor::gemm::{Operand, Store, Target, Workspace, gemm};
use yushan_tensor::train_attention::{self as attention, Causal, Scratch, Turns};
use yushan_tensor::train_rows::{
    Partial, gate, gate_backward, losses, normalize, normalize_backward,
};
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

/// Nanoseconds that this thread has computed.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// Processor seconds of all threads of this process, in ticks of 10 ms.
fn all_processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 0.01
}

/// Processor seconds of a call: the least of several, each long enough for the system's clock.
fn seconds(mut job: impl FnMut()) -> f64 {
    job();
    let mut one = || {
        let (start, mut calls) = (processor_time(), 0.0);
        while processor_time() - start < 5e7 {
            job();
            calls += 1.0;
        }
        (processor_time() - start) * 1e-9 / calls
    };
    (0..5).map(|_| one()).fold(f64::MAX, f64::min)
}

/// Operation, seconds a step, and its work a step in 10^9.
type Row = (String, f64, f64);

/// What of a batch is computed at once, and how often in a step.
struct Sizes {
    rows: usize,
    group: usize,
    head: usize,
    groups: f64,
    layers: f64,
    heads: f64,
}

/// Numbers of no meaning.
fn of(length: usize, scale: f32) -> Vec<f32> {
    (0..length).map(|i| ((i * 37 % 101) as f32 - 50.0) * scale).collect()
}

/// Prints each operation's share of a step.
fn parts(shape: &Shape, time: usize, batch: usize) {
    let group = (2048 / time).clamp(1, batch);
    let (rows, groups) = (group * time, batch as f64 / group as f64);
    let head = ((1 << 22) / shape.vocabulary).max(128).min(rows);
    let heads = (batch * time) as f64 / head as f64;
    let sizes = Sizes { rows, group, head, groups, layers: shape.layers as f64 * groups, heads };
    let peak = limits::peak_f32(1);
    let mut table = matrix_parts(shape, &sizes);
    table.extend(attention_parts(shape, &sizes, time));
    table.extend(row_parts(shape, &sizes));
    let all: f64 = table.iter().map(|row| row.1).sum();
    for (name, seconds, work) in &table {
        let (ms, share, speed) = (seconds * 1e3, 100.0 * seconds / all, work / seconds);
        println!("{name:34} {ms:8.1} ms {share:5.1} % {speed:6.1} GFLOP/s");
    }
    let work: f64 = table.iter().map(|row| row.2).sum();
    println!(
        "all {:.1} ms, {:.1} GFLOP/s; peak by the clock {:.1}",
        all * 1e3,
        work / all,
        peak / 1e9
    );
}

fn matrix_parts(shape: &Shape, sizes: &Sizes) -> Vec<Row> {
    let &Sizes { rows, head, layers, heads, .. } = sizes;
    let Shape { dim, ffn, vocabulary, .. } = *shape;
    let (q, qkv) = (shape.q_width(), shape.q_width() + 2 * shape.kv_width());
    let (pool, isa) = (&mut Pool::new(1), Isa::best());
    let widest = rows * (2 * ffn).max(qkv).max(dim);
    let (a, mut b, mut c) = (of(widest, 1e-3), of(widest, 2e-3), of(widest, 1e-3));
    let w = of(vocabulary.max(2 * ffn).max(qkv) * dim.max(ffn).max(q), 1e-3);
    let mut dw = of(w.len(), 1e-3);
    let (mut space, mut table) = (Workspace::default(), Vec::new());
    for (name, m, out, input, count) in [
        ("qkv", rows, qkv, dim, layers),
        ("output", rows, dim, q, layers),
        ("gate up", rows, 2 * ffn, dim, layers),
        ("down", rows, dim, ffn, layers),
        ("head", head, vocabulary, dim, heads),
    ] {
        let work = 2e-9 * (m * out * input) as f64;
        let (x, y, w) = (&a[..m * input], &mut b[..], &w[..out * input]);
        let mut logits = vec![1e-3; if name == "head" { m * out } else { 0 }];
        let y = if name == "head" { &mut logits[..] } else { y };
        let (wide, narrow) = (Operand::new(w, out, input), Operand::new(x, m, input));
        let t = seconds(|| {
            let c = Target { data: y, stride: out, store: Store::Set };
            gemm(pool, isa, &mut space, narrow, wide.t(), c);
        });
        table.push((format!("{name} forward {m} x {out} x {input}"), t * count, work * count));
        let dy = Operand::new(y, m, out);
        let t = seconds(|| {
            let c = Target { data: &mut c, stride: input, store: Store::Set };
            gemm(pool, isa, &mut space, dy, wide, c);
        });
        table.push((format!("{name} input gradient"), t * count, work * count));
        let t = seconds(|| {
            let c = Target { data: &mut dw, stride: input, store: Store::Add };
            gemm(pool, isa, &mut space, dy.t(), narrow, c);
        });
        table.push((format!("{name} weight gradient"), t * count, work * count));
    }
    table
}

fn attention_parts(shape: &Shape, sizes: &Sizes, time: usize) -> Vec<Row> {
    let &Sizes { rows, group, layers, .. } = sizes;
    let (q, qkv) = (shape.q_width(), shape.q_width() + 2 * shape.kv_width());
    let (pool, isa, mut table) = (&mut Pool::new(1), Isa::best(), Vec::new());
    let causal = Causal {
        batch: group,
        time,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
    };
    let mut scratch = Scratch::default();
    let (cos, sin) = (vec![0.6; time * shape.head_dim], vec![0.8; time * shape.head_dim]);
    let turns = Turns { cos: &cos, sin: &sin };
    let (mut out, mut lse) = (vec![0.0; rows * q], vec![0.0; rows * shape.heads]);
    let x = of(rows * qkv, 1e-3);
    let work = 2e-9 * (rows * time * q) as f64;
    let t = seconds(|| {
        attention::forward(pool, isa, &causal, (&x, turns), (&mut out, &mut lse), &mut scratch);
    });
    table.push(("attention forward".into(), t * layers, work * layers));
    let (dout, mut dx) = (of(rows * q, 1e-3), vec![0.0; rows * qkv]);
    let t = seconds(|| {
        let saved = (&out[..], &lse[..], &dout[..]);
        attention::backward(pool, isa, &causal, (&x, turns), saved, &mut dx, &mut scratch);
    });
    table.push(("attention backward".into(), t * layers, 2.0 * work * layers));
    table
}

fn row_parts(shape: &Shape, sizes: &Sizes) -> Vec<Row> {
    let &Sizes { rows, head, groups, layers, heads, .. } = sizes;
    let Shape { dim, ffn, vocabulary, .. } = *shape;
    let (pool, isa) = (&mut Pool::new(1), Isa::best());
    let widest = rows * (2 * ffn).max(dim);
    let (mut a, mut b, mut c) = (of(widest, 1e-3), of(widest, 2e-3), of(widest, 1e-3));
    let (w, mut dw) = (of(dim, 1e-2), of(dim, 1e-3));
    let mut table: Vec<Row> = Vec::new();
    let norm = (&w[..dim], 1e-5);
    let (x, d) = (&of(rows * dim, 1e-3), &of(rows * dim, 2e-3));
    let t = seconds(|| normalize(pool, isa, x, norm, &mut b[..rows * dim], None));
    table.push(("norm".into(), t * (4.0 * layers + groups), 0.0));
    let mut partial = Partial::default();
    let t = seconds(|| {
        let to = (&mut b[..rows * dim], &mut dw[..dim]);
        normalize_backward(pool, isa, (x, d), norm, to, &mut partial);
    });
    table.push(("norm backward".into(), t * (2.0 * layers + groups), 0.0));
    let t = seconds(|| gate(pool, isa, &a[..2 * rows * ffn], ffn, &mut b[..rows * ffn]));
    table.push(("gate".into(), t * layers, 0.0));
    let t = seconds(|| {
        let both = &mut a[..2 * rows * ffn];
        gate_backward(pool, isa, both, ffn, &b[..rows * ffn], &mut c[..rows * ffn]);
    });
    table.push(("gate backward".into(), t * layers, 0.0));
    let (mut logits, mut each) = (of(head * vocabulary, 1e-3), vec![0.0; head]);
    let targets = vec![7; head];
    let t = seconds(|| {
        losses(pool, isa, (&mut logits, vocabulary), (&targets, u32::MAX), 1.0, &mut each);
    });
    table.push(("losses".into(), t * heads, 0.0));
    table
}

/// The most memory this process has held, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn random(count: usize, vocabulary: usize) -> Vec<u32> {
    let id = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..count).map(|i| (id(i) % vocabulary as u64) as u32).collect()
}

fn keep(name: &str) -> Option<Keep> {
    match name {
        "everything" => Some(Keep::Everything),
        "halves" => Some(Keep::Halves),
        "inputs" => Some(Keep::Inputs),
        _ => None,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize, default: &str| arguments.get(at).map_or(default, |a| a).to_owned();
    let usage = "usage: step T1|T2|V,D,L,H,K,F,T,B [STEPS] [THREADS] [everything|halves|inputs]";
    let (shape, time, batch) = shape(&word(0, "T1")).ok_or(usage)?;
    if word(1, "") == "parts" {
        parts(&shape, time, batch);
        return Ok(());
    }
    let (steps, threads) = (word(1, "5").parse::<usize>()?, word(2, "2").parse::<usize>()?);
    let keep = keep(&word(3, "everything")).ok_or(usage)?;
    let mut pool = Pool::new(threads);
    let count = batch * time;
    let ids = random(count + 1, shape.vocabulary);
    let (tokens, targets) = (&ids[..count], &ids[1..]);
    let mut decoder = Decoder::new(shape, 0);
    decoder.set_keep(keep);
    let mut optimizer = AdamW::new(&shape);
    let (mut times, mut loss, mut update) = (Vec::new(), 0.0, 0.0);
    let (mut peak, mut computed) = (0.0, 0.0);
    for step in 0..steps + 1 {
        if step == 1 {
            peak = limits::peak_f32(threads);
            computed = all_processor_time();
        }
        let start = Instant::now();
        let (scale, ready) = (1.0 / count as f32, &mut |_: &mut [f32], _| {});
        let sum = decoder.forward_backward(&mut pool, tokens, targets, batch, scale, ready);
        let half = Instant::now();
        optimizer.step(&mut pool, decoder.params_and_grads(), 1e-3);
        loss = sum.mean();
        if step > 0 {
            times.push(start.elapsed().as_secs_f64());
            update += half.elapsed().as_secs_f64() / steps as f64;
        }
    }
    computed = (all_processor_time() - computed) / steps as f64;
    peak = f64::midpoint(peak, limits::peak_f32(threads));
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let speed = count as f64 / median;
    let operations = speed * Shape { context: time, ..shape }.flops_per_token();
    println!(
        "{{\"cfg\": {:?}, \"isa\": {:?}, \"threads\": {threads}, \"parameters\": {}, \"step_ms\": {:.1}, \"min_ms\": {:.1}, \
         \"update_ms\": {:.1}, \"processor_ms\": {:.0}, \"tokens_per_s\": {speed:.0}, \"gflops\": {:.1}, \"peak_gflops\": {:.1}, \"peak_share\": {:.3}, \
         \"memory_mb\": {:.0}, \"loss\": {loss:.4}}}",
        word(0, "T1"),
        Isa::best().name(),
        shape.parameters(),
        1e3 * median,
        1e3 * times[0],
        1e3 * update,
        1e3 * computed,
        operations / 1e9,
        peak / 1e9,
        operations / peak,
        peak_memory() as f64 / 1e6,
    );
    Ok(())
}
