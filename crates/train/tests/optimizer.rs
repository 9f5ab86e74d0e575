//! The optimizers: against PyTorch, against themselves on other numbers of ranks and threads.

use serde::Deserialize;
use yushan_collective::{Alone, Collective, Threads};
use yushan_tensor::Pool;
use yushan_train::decoder::{Kind, Shape, Tensor, layout};
use yushan_train::optimizer::{Algorithm, Config, Optimizer, Step};

#[derive(Deserialize)]
struct Golden {
    config: Values,
    tensors: Vec<Described>,
    rates: Vec<f64>,
    after: Vec<u64>,
    params: Vec<f32>,
    grads: Vec<Vec<f32>>,
    adamw: Run,
    muon: Run,
}

#[derive(Deserialize)]
struct Values {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    momentum: f64,
    clip: f64,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    shape: Vec<usize>,
    kind: String,
}

#[derive(Deserialize)]
struct Run {
    norms: Vec<f64>,
    after: Vec<Vec<f32>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/optimizer.json")).expect("the golden is JSON")
}

/// Tensors one after the other.
fn tensors(list: &[(&str, Vec<usize>, Kind)]) -> Vec<Tensor> {
    let mut end = 0;
    let place = |(name, shape, kind): &(&str, Vec<usize>, Kind)| {
        let start = end;
        end += shape.iter().product::<usize>();
        Tensor { name: name.to_string(), shape: shape.clone(), range: start..end, kind: *kind }
    };
    list.iter().map(place).collect()
}

/// The largest difference, as a share of the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |most, v| most.max(v.abs()));
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn both_rules_follow_pytorch() {
    let golden = golden();
    let kind = |name: &str| match name {
        "Embedding" => Kind::Embedding,
        "Norm" => Kind::Norm,
        "Head" => Kind::Head,
        _ => Kind::Matrix,
    };
    let list: Vec<_> =
        golden.tensors.iter().map(|t| (&t.name[..], t.shape.clone(), kind(&t.kind))).collect();
    let Values { beta1, beta2, eps, weight_decay, momentum, clip } = golden.config;
    // Newton-Schulz multiplies rounding errors; AdamW does not.
    for (algorithm, run, most) in
        [(Algorithm::AdamW, &golden.adamw, 2e-6), (Algorithm::Muon, &golden.muon, 2e-5)]
    {
        let (decay_embeddings, decay_norms) = (false, false);
        let config = Config {
            algorithm,
            beta1,
            beta2,
            eps,
            weight_decay,
            decay_embeddings,
            decay_norms,
            clip,
            momentum,
        };
        let mut optimizer = Optimizer::new(&tensors(&list), config, 0, 1).expect("it fits");
        let (mut pool, mut params) = (Pool::new(2), golden.params.clone());
        let mut expected = golden.after.iter().zip(&run.after);
        for ((grads, rate), norm) in golden.grads.iter().zip(&golden.rates).zip(&run.norms) {
            let step = optimizer.step(&mut pool, &mut Alone, &mut params, grads, *rate);
            let Step { norm: got, applied } = step.expect("no rank is lost");
            assert!(applied && (got - norm).abs() <= 1e-6 * norm, "{got} and {norm}");
            let looked_at = golden.after.contains(&optimizer.updates());
            if let Some((at, expected)) = looked_at.then(|| expected.next()).flatten() {
                let off = difference(&params, expected);
                assert!(off < most, "{algorithm:?} is {off} off after {at} steps");
            }
        }
        assert!(expected.next().is_none(), "all was looked at");
    }
}

/// A decoder of some layers, of sizes that fit nothing.
fn decoder() -> Vec<Tensor> {
    let shape = Shape {
        vocabulary: 301,
        context: 16,
        dim: 44,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 12,
        ffn: 108,
        tied: false,
        norm_eps: 1e-5,
        rope_base: 1e4,
    };
    layout(&shape)
}

fn noise(seed: u64, length: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn config(algorithm: Algorithm) -> Config {
    Config { algorithm, ..Config::default() }
}

/// Steps `from..to` on one rank; what it has afterwards.
fn train(
    c: &mut dyn Collective,
    threads: usize,
    optimizer: &mut Optimizer,
    params: &mut [f32],
    steps: std::ops::Range<u64>,
) -> f64 {
    let mut pool = Pool::new(threads);
    let mut norms = 0.0;
    for step in steps {
        let grads = noise(100 + step, params.len());
        let done = optimizer.step(&mut pool, c, params, &grads, 0.01).expect("no rank is lost");
        norms += done.norm;
    }
    norms
}

#[test]
fn any_number_of_ranks_and_threads_gives_the_same_bits_and_takes_over_the_state() {
    let tensors = decoder();
    let length = tensors.last().map_or(0, |last| last.range.end);
    for algorithm in [Algorithm::AdamW, Algorithm::Muon] {
        let start = noise(7, length);
        let mut one = Optimizer::new(&tensors, config(algorithm), 0, 1).expect("it fits");
        let mut params = start.clone();
        train(&mut Alone, 1, &mut one, &mut params, 0..3);
        let (middle, state) = (params.clone(), one.state(&mut Alone).expect("alone"));
        let norms = train(&mut Alone, 2, &mut one, &mut params, 3..5);
        let (expected, last) = (bits(&params), one.state(&mut Alone).expect("alone"));
        assert_eq!(last.updates, 5);
        for ranks in 2..=5 {
            std::thread::scope(|scope| {
                for mut c in Threads::group(ranks) {
                    let (tensors, start, middle) = (&tensors, &start, &middle);
                    let (state, expected, last) = (&state, &expected, &last);
                    scope.spawn(move || {
                        let new = || Optimizer::new(tensors, config(algorithm), c.rank(), ranks);
                        let (mut whole, mut resumed) = (new().expect("fits"), new().expect("fits"));
                        let mut params = start.clone();
                        train(&mut c, 2, &mut whole, &mut params, 0..5);
                        assert!(bits(&params) == *expected, "{algorithm:?}, {ranks} ranks");
                        assert!(whole.state(&mut c).as_ref().is_ok_and(|state| state == last));
                        resumed.restore(&mut c, state).expect("a state of the same model");
                        let mut params = middle.clone();
                        let again = train(&mut c, 1, &mut resumed, &mut params, 3..5);
                        assert!(bits(&params) == *expected, "resumed, {ranks} ranks");
                        assert_eq!(again.to_bits(), norms.to_bits());
                    });
                }
            });
        }
    }
}

#[test]
fn parts_are_balanced_and_leave_matrices_whole() {
    let tensors = decoder();
    for algorithm in [Algorithm::AdamW, Algorithm::Muon] {
        for ranks in [1, 2, 3, 8, 200] {
            let optimizer = Optimizer::new(&tensors, config(algorithm), 0, ranks).expect("it fits");
            let parts = optimizer.parts();
            let covered = parts.iter().fold(0, |end, part| {
                assert!(part.start == end && part.end >= end, "{parts:?}");
                part.end
            });
            assert_eq!(Some(covered), tensors.last().map(|last| last.range.end));
            let matrix = |t: &&Tensor| algorithm == Algorithm::Muon && t.kind == Kind::Matrix;
            for tensor in tensors.iter().filter(matrix) {
                let cut = |part: &std::ops::Range<usize>| {
                    tensor.range.start < part.end && part.end < tensor.range.end
                };
                assert!(!parts.iter().any(cut), "{} is cut: {parts:?}", tensor.name);
            }
            if algorithm == Algorithm::AdamW && ranks <= 8 {
                let even = covered / ranks;
                assert!(parts.iter().all(|part| part.len().abs_diff(even) <= 32), "{parts:?}");
            }
        }
    }
}

#[test]
fn a_gradient_that_is_no_number_changes_nothing() {
    let tensors = decoder();
    let length = tensors.last().map_or(0, |last| last.range.end);
    for algorithm in [Algorithm::AdamW, Algorithm::Muon] {
        let mut optimizer = Optimizer::new(&tensors, config(algorithm), 0, 1).expect("it fits");
        let (mut pool, mut params) = (Pool::new(2), noise(1, length));
        train(&mut Alone, 1, &mut optimizer, &mut params, 0..1);
        let (before, state) = (bits(&params), optimizer.state(&mut Alone).expect("alone"));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut grads = noise(2, length);
            grads[length / 2] = bad;
            let step = optimizer.step(&mut pool, &mut Alone, &mut params, &grads, 0.01);
            assert!(step.is_ok_and(|step| !step.applied && !step.norm.is_finite()));
            assert!(bits(&params) == before);
            assert_eq!(optimizer.state(&mut Alone).expect("alone"), state);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let tensors = decoder();
    let length = tensors.last().map_or(0, |last| last.range.end);
    let said = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        Optimizer::new(&tensors, config, 0, 1).err().map(|error| error.to_string())
    };
    for (change, expected) in [
        ((|c| c.beta1 = 1.0) as fn(&mut Config), "beta1 is 1; expected at least 0 and below 1"),
        (|c| c.eps = 0.0, "eps is 0; expected above 0"),
        (|c| c.weight_decay = f64::NAN, "weight_decay is NaN"),
        (|c| c.clip = -1.0, "clip is -1"),
    ] {
        let said = said(change);
        assert!(said.as_ref().is_some_and(|said| said.contains(expected)), "{said:?}");
    }
    let mut gap = tensors.clone();
    gap.remove(3);
    assert!(Optimizer::new(&gap, Config::default(), 0, 1).is_err());
    let mut optimizer = Optimizer::new(&tensors, Config::default(), 0, 1).expect("it fits");
    let (mut pool, mut params) = (Pool::new(1), noise(1, length));
    let mut step =
        |grads: &[f32], rate| optimizer.step(&mut pool, &mut Alone, &mut params, grads, rate);
    assert!(step(&noise(1, length - 1), 0.1).is_err());
    assert!(step(&noise(1, length), f64::NAN).is_err());
    assert!(step(&noise(1, length), -0.1).is_err());
    let muon = Optimizer::new(&tensors, config(Algorithm::Muon), 0, 1).expect("it fits");
    let state = muon.state(&mut Alone).expect("alone");
    let error = optimizer.restore(&mut Alone, &state).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("second_moment")));
}
