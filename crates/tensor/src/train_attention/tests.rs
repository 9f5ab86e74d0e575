use super::*;

/// Seeded values in -1..1.
fn values(count: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tables(time: usize, d: usize) -> (Vec<f32>, Vec<f32>) {
    let angle = |t: usize, i: usize| t as f64 * 10_000f64.powf(-2.0 * i as f64 / d as f64);
    let all = (0..time).flat_map(|t| (0..d / 2).map(move |i| angle(t, i)));
    all.map(|a| (a.cos() as f32, a.sin() as f32)).unzip()
}

/// Turns a head as position `t`, or back.
fn turn(x: &[f64], (cos, sin): (&[f32], &[f32]), back: bool) -> Vec<f64> {
    let half = x.len() / 2;
    let sign = if back { -1.0 } else { 1.0 };
    let mut out = vec![0.0; x.len()];
    for i in 0..half {
        let (c, s) = (f64::from(cos[i]), sign * f64::from(sin[i]));
        out[i] = x[i] * c - x[i + half] * s;
        out[i + half] = x[i] * s + x[i + half] * c;
    }
    out
}

fn dot64(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Attention and its gradient as they stand in the paper, in f64, one row after another.
fn oracle(s: &Causal, qkv: &[f64], turns: Turns<'_>, dout: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let d = s.head_dim;
    let (scale, group) = (1.0 / (d as f64).sqrt(), s.heads / s.kv_heads);
    let mut out = vec![0.0; s.batch * s.time * s.heads * d];
    let mut dqkv = vec![0.0; qkv.len()];
    for (b, h) in (0..s.batch).flat_map(|b| (0..s.heads).map(move |h| (b, h))) {
        let place = |t: usize, head: usize| {
            let at = (b * s.time + t) * s.width() + head * d;
            at..at + d
        };
        let at = |t| turns.at(t, d / 2);
        let (kh, vh) = (s.heads + h / group, s.heads + s.kv_heads + h / group);
        for t in 0..s.time {
            let q = turn(&qkv[place(t, h)], at(t), false);
            let keys: Vec<_> = (0..=t).map(|u| turn(&qkv[place(u, kh)], at(u), false)).collect();
            let weights: Vec<f64> = keys.iter().map(|k| (dot64(&q, k) * scale).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let row = ((b * s.time + t) * s.heads + h) * d;
            let dout = &dout[row..row + d];
            let dp: Vec<f64> = (0..=t).map(|u| dot64(dout, &qkv[place(u, vh)])).collect();
            let taken: f64 = dp.iter().zip(&weights).map(|(dp, w)| dp * w / sum).sum();
            let mut dq = vec![0.0; d];
            for u in 0..=t {
                let p = weights[u] / sum;
                let ds = p * (dp[u] - taken) * scale;
                let mut dk = vec![0.0; d];
                for i in 0..d {
                    out[row + i] += p * qkv[place(u, vh)][i];
                    dqkv[place(u, vh)][i] += p * dout[i];
                    dq[i] += ds * keys[u][i];
                    dk[i] = ds * q[i];
                }
                let dk = turn(&dk, at(u), true);
                dqkv[place(u, kh)].iter_mut().zip(&dk).for_each(|(to, v)| *to += v);
            }
            let dq = turn(&dq, at(t), true);
            dqkv[place(t, h)].iter_mut().zip(&dq).for_each(|(to, v)| *to += v);
        }
    }
    (out, dqkv)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

fn sizes(batch: usize, time: usize, heads: usize, kv_heads: usize, head_dim: usize) -> Causal {
    Causal { batch, time, heads, kv_heads, head_dim }
}

#[test]
fn the_oracle_agrees_with_finite_differences() {
    let s = sizes(2, 5, 4, 2, 6);
    let (cos, sin) = tables(s.time, s.head_dim);
    let turns = Turns { cos: &cos, sin: &sin };
    let (qkv, dout) = (wide(&values(10 * s.width(), 1)), wide(&values(10 * 24, 2)));
    let (_, dqkv) = oracle(&s, &qkv, turns, &dout);
    for i in 0..qkv.len() {
        let at = |step: f64| {
            let mut moved = qkv.clone();
            moved[i] += step;
            dot64(&oracle(&s, &moved, turns, &dout).0, &dout)
        };
        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!((dqkv[i] - slope).abs() < 1e-7, "{i}: {}, not {slope}", dqkv[i]);
    }
}

fn run(isa: Isa, threads: usize, s: &Causal) -> [Vec<f32>; 3] {
    let mut pool = Pool::new(threads);
    let (cos, sin) = tables(s.time, s.head_dim);
    let turns = Turns { cos: &cos, sin: &sin };
    let rows = s.batch * s.time;
    let qkv: Vec<f32> = values(rows * s.width(), 3).iter().map(|v| v * 3.0).collect();
    let dout = values(rows * s.heads * s.head_dim, 4);
    let (mut out, mut lse) = (vec![9.0; dout.len()], vec![9.0; rows * s.heads]);
    let mut dqkv = vec![9.0; qkv.len()];
    let mut scratch = Scratch::default();
    forward(&mut pool, isa, s, (&qkv, turns), (&mut out, &mut lse), &mut scratch);
    let saved = (&out[..], &lse[..], &dout[..]);
    backward(&mut pool, isa, s, (&qkv, turns), saved, &mut dqkv, &mut scratch);
    [out, lse, dqkv]
}

#[test]
fn tiles_agree_with_the_oracle() {
    for s in [
        sizes(1, 1, 1, 1, 2),
        sizes(2, 17, 4, 2, 6),
        sizes(1, 64, 2, 1, 16),
        sizes(2, 65, 3, 3, 48),
        sizes(1, 200, 4, 1, 20),
    ] {
        let (cos, sin) = tables(s.time, s.head_dim);
        let rows = s.batch * s.time;
        let qkv: Vec<f32> = values(rows * s.width(), 3).iter().map(|v| v * 3.0).collect();
        let dout = wide(&values(rows * s.heads * s.head_dim, 4));
        let (out, dqkv) = oracle(&s, &wide(&qkv), Turns { cos: &cos, sin: &sin }, &dout);
        for isa in Isa::available() {
            let [got, _, dgot] = run(isa, 2, &s);
            for (name, got, exact) in [("out", got, &out), ("dqkv", dgot, &dqkv)] {
                let norm = dot64(exact, exact).sqrt();
                let apart: Vec<f64> = wide(&got).iter().zip(exact).map(|(a, b)| a - b).collect();
                let error = dot64(&apart, &apart).sqrt() / (norm + 1e-9);
                assert!(error < 3e-6, "{isa:?} {s:?} {name}: {error}");
            }
        }
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_instruction_set() {
    let s = sizes(3, 70, 4, 2, 12);
    let bits = |isa, threads| {
        run(isa, threads, &s).map(|x| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
    };
    let expected = bits(Isa::SCALAR, 1);
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            assert_eq!(bits(isa, threads), expected, "{isa:?}, {threads} threads");
        }
    }
}
