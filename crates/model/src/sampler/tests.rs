//! Each filter against its plain definition; the draw against its distribution.

use proptest::prelude::*;

use super::*;

/// Everything off: what is left is the softmax.
fn open() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::llama_cpp() }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// The tokens of `logits`, likeliest first.
fn ranked(logits: &[f32], tokens: &[usize]) -> Vec<usize> {
    let mut tokens = tokens.to_vec();
    tokens.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    tokens
}

/// The shortest beginning of `tokens` whose probabilities reach (or, `past`, exceed) `p`.
fn until(tokens: &[usize], probabilities: &[f64], p: f32, past: bool) -> Vec<usize> {
    let mut sum = 0.0;
    let mut kept = Vec::new();
    for &token in tokens {
        kept.push(token);
        sum += probabilities[token];
        if sum > f64::from(p) || (!past && sum >= f64::from(p)) {
            break;
        }
    }
    kept
}

/// The chain by its definitions, on all tokens and with full sorts.
fn naive(sampling: &Sampling, logits: &[f32]) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..logits.len()).filter(|&t| !logits[t].is_nan()).collect();
    let probabilities = |kept: &[usize]| {
        let of = softmax(&kept.iter().map(|&t| logits[t]).collect::<Vec<_>>());
        let mut all = vec![0.0; logits.len()];
        kept.iter().zip(of).for_each(|(&t, p)| all[t] = p);
        all
    };
    if sampling.top_k > 0 {
        kept = ranked(logits, &kept);
        kept.truncate(sampling.top_k);
    }
    if sampling.typical_p < 1.0 {
        let p = probabilities(&kept);
        let entropy: f64 = kept.iter().map(|&t| -p[t] * p[t].ln()).sum();
        let distance = |t: usize| (-p[t].ln() - entropy).abs();
        let mut order = ranked(logits, &kept);
        order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
        kept = until(&order, &p, sampling.typical_p, true);
    }
    if sampling.top_p < 1.0 {
        kept = until(&ranked(logits, &kept), &probabilities(&kept), sampling.top_p, false);
    }
    if sampling.min_p > 0.0 {
        let p = probabilities(&kept);
        let top = kept.iter().map(|&t| p[t]).fold(0.0, f64::max);
        kept.retain(|&t| p[t] >= f64::from(sampling.min_p) * top);
    }
    kept.sort_unstable();
    kept
}

/// What is still in the running after the chain.
fn survivors(sampling: &Sampling, logits: &[f32]) -> Vec<usize> {
    let mut sampler = Sampler::new(sampling.clone(), logits.len()).unwrap();
    let token = sampler.sample(logits, None);
    let mut kept: Vec<usize> = sampler.candidates.iter().map(|c| c.token as usize).collect();
    assert!(kept.contains(&(token as usize)), "what is drawn is in the running");
    kept.sort_unstable();
    kept
}

/// Distinct logits whose probabilities add up without ties at the thresholds.
fn logits(seed: u64, size: usize, spread: f64) -> Vec<f32> {
    let mut random = SplitMix64(seed);
    (0..size).map(|_| (random.unit() * spread) as f32).collect()
}

proptest! {
    #[test]
    fn filters_keep_what_their_definitions_say(
        seed in any::<u64>(),
        size in 1usize..1500,
        spread in prop_oneof![Just(2.0), Just(12.0), Just(60.0)],
        top_k in prop_oneof![Just(0usize), 1usize..80, Just(5000)],
        top_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.01f32..1.0],
        typical_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
    ) {
        let sampling = Sampling { top_k, top_p, min_p, typical_p, ..open() };
        let logits = logits(seed, size, spread);
        prop_assert_eq!(survivors(&sampling, &logits), naive(&sampling, &logits));
    }

    #[test]
    fn argmax_is_the_first_of_the_largest(
        values in prop::collection::vec(prop_oneof![
            (-3i32..3).prop_map(|x| x as f32),
            Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY),
        ], 0..1300),
        mask in prop::collection::vec(any::<u32>(), 41),
    ) {
        let naive = |allowed: &dyn Fn(usize) -> bool| {
            let mut best = None;
            for (at, &value) in values.iter().enumerate() {
                let top = best.map_or(f32::NEG_INFINITY, |at: usize| values[at]);
                if allowed(at) && value > top {
                    best = Some(at);
                }
            }
            best.map(|at| at as TokenId)
        };
        prop_assert_eq!(argmax(&values, None), naive(&|_| true));
        let allowed = |at: usize| mask[at / 32] >> (at % 32) & 1 == 1;
        prop_assert_eq!(argmax(&values, Some(&mask)), naive(&allowed));
        for sampling in [Sampling::greedy(), Sampling::llama_cpp(), open()] {
            let mut sampler = Sampler::new(sampling, values.len()).unwrap();
            let token = sampler.sample(&values, Some(&mask));
            prop_assert!(mask.iter().all(|&m| m == 0) || allowed(token as usize));
            sampler.sample(&values, None);
        }
    }
}

/// Draws often; every token must come as often as its probability says (χ² far below what chance
/// gives once in 10⁶ for so many degrees of freedom).
fn check_distribution(sampling: Sampling, logits: &[f32], expected: &[f64]) {
    const DRAWS: usize = 40_000;
    let mut sampler = Sampler::new(sampling, logits.len()).unwrap();
    let mut seen = vec![0usize; logits.len()];
    for _ in 0..DRAWS {
        seen[sampler.sample(logits, None) as usize] += 1;
    }
    let mut chi = 0.0;
    for (&seen, &p) in seen.iter().zip(expected) {
        if p == 0.0 {
            assert_eq!(seen, 0);
            continue;
        }
        let mean = p * DRAWS as f64;
        chi += (seen as f64 - mean).powi(2) / mean;
    }
    assert!(chi < 40.0, "χ² {chi}: {seen:?} {expected:?}");
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = [0.0, 1.0, 2.0, 0.5, -1.0, 1.5];
    for seed in [0, 1, 3952, u64::MAX] {
        check_distribution(Sampling { seed, ..open() }, &logits, &softmax(&logits));
        for temperature in [0.5, 2.0] {
            let scaled: Vec<f32> = logits.iter().map(|l| l / temperature).collect();
            check_distribution(
                Sampling { seed, temperature, ..open() },
                &logits,
                &softmax(&scaled),
            );
        }
        let mut kept = logits.map(|_| f32::NEG_INFINITY);
        kept[1..3].copy_from_slice(&logits[1..3]);
        kept[5] = logits[5];
        check_distribution(Sampling { seed, top_k: 3, ..open() }, &logits, &softmax(&kept));
    }
}

#[test]
fn seed_and_logits_determine_the_tokens() {
    let rows: Vec<Vec<f32>> = (0..50).map(|seed| logits(seed, 300, 3.0)).collect();
    let run = |seed| {
        let sampling =
            Sampling { seed, repeat_penalty: 1.2, presence_penalty: 0.1, ..Sampling::llama_cpp() };
        let mut sampler = Sampler::new(sampling, 300).unwrap();
        let choose = |row: &Vec<f32>| {
            let token = sampler.sample(row, None);
            sampler.accept(token);
            token
        };
        rows.iter().map(choose).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn the_generator_is_splitmix64() {
    // The first values for seed 1234567, as the Java class and the Rosetta Code task give them.
    let mut random = SplitMix64(1_234_567);
    let expected =
        [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
    assert_eq!([random.next(), random.next(), random.next()], expected);
}

#[test]
fn penalties_and_biases_change_the_logits() {
    let logits = [2.0f32, -2.0, 1.0, 0.0];
    for (change, accepted, expected) in [
        (
            Sampling { repeat_penalty: 2.0, ..Sampling::greedy() },
            &[0, 1, 0][..],
            [1.0, -4.0, 1.0, 0.0],
        ),
        (
            Sampling { frequency_penalty: 0.5, ..Sampling::greedy() },
            &[0, 1, 0],
            [1.0, -2.5, 1.0, 0.0],
        ),
        (
            Sampling { presence_penalty: 0.5, ..Sampling::greedy() },
            &[0, 1, 0],
            [1.5, -2.5, 1.0, 0.0],
        ),
        // Only the last two count.
        (
            Sampling { repeat_penalty: 2.0, repeat_last_n: 2, ..Sampling::greedy() },
            &[0, 0, 2, 1],
            [2.0, -4.0, 0.5, 0.0],
        ),
        (
            Sampling { repeat_penalty: 2.0, repeat_last_n: 0, ..Sampling::greedy() },
            &[0, 1],
            [2.0, -2.0, 1.0, 0.0],
        ),
        // The bias comes first.
        (
            Sampling {
                repeat_penalty: 2.0,
                logit_bias: vec![(1, 4.0), (3, f32::NEG_INFINITY)],
                ..Sampling::greedy()
            },
            &[1],
            [2.0, 1.0, 1.0, f32::NEG_INFINITY],
        ),
    ] {
        let mut sampler = Sampler::new(change, 4).unwrap();
        accepted.iter().for_each(|&token| sampler.accept(token));
        let mut adjusted = logits;
        sampler.adjust(&mut adjusted);
        assert_eq!(adjusted, expected, "{accepted:?}");
    }
}

#[test]
fn masks_and_broken_logits_leave_an_allowed_token() {
    let mask = [0u32, 1 << 3];
    for sampling in [Sampling::greedy(), Sampling::llama_cpp(), open()] {
        let mut sampler = Sampler::new(sampling, 64).unwrap();
        for value in [0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(sampler.sample(&[value; 64], Some(&mask)), 35);
            assert!(sampler.sample(&[value; 64], None) < 64);
        }
        let mut one = [f32::NAN; 64];
        one[7] = f32::INFINITY;
        assert_eq!(sampler.sample(&one, None), 7);
    }
}
