//! The decoder that is trained, against PyTorch, against finite differences, and against the engine
//! that serves it. Goldens: `golden/gradients.py` and `golden/curve.py`.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use yushan_abi::{Chunk, Executor, Logits};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};
use yushan_tensor::{KvType, Pool};
use yushan_train::decoder::{Decoder, IGNORE, Keep, Kind, Loss, Memory, Shape, layout};

/// As `fill` in `golden/fill.py`.
fn fill(count: usize, salt: u64) -> impl Iterator<Item = f32> {
    (0..count as u64).map(move |i| {
        let mut z = (i + (salt << 32) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// As `parameters` there.
fn filled(shape: &Shape, scale: f32) -> Decoder {
    let mut decoder = Decoder::zeroed(*shape);
    for (salt, tensor) in layout(shape).into_iter().enumerate() {
        let values = fill(tensor.range.len(), salt as u64 + 1);
        for (to, u) in decoder.params_mut()[tensor.range].iter_mut().zip(values) {
            *to = if tensor.kind == Kind::Norm { 1.0 + 0.1 * u } else { scale * u };
        }
    }
    decoder
}

/// As `config` in `golden/gradients.py`.
fn odd(tied: bool) -> Shape {
    Shape {
        vocabulary: 53,
        context: 64,
        dim: 20,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        ffn: 28,
        tied,
        norm_eps: 1e-5,
        rope_base: 10_000.0,
    }
}

/// Tokens and targets, `(batch, time)`, of sequences of random ids.
fn random(batch: usize, time: usize, vocabulary: usize, salt: u64) -> (Vec<u32>, Vec<u32>) {
    let id = |u: f32| ((u + 1.0) / 2.0 * vocabulary as f32) as u32;
    let ids: Vec<u32> = fill(batch * (time + 1), salt).map(id).collect();
    let rows = ids.chunks_exact(time + 1);
    let (tokens, targets): (Vec<_>, Vec<_>) = rows.map(|row| (&row[..time], &row[1..])).unzip();
    (tokens.concat(), targets.concat())
}

fn learn(decoder: &mut Decoder, threads: usize, ids: &(Vec<u32>, Vec<u32>), batch: usize) -> Loss {
    let pool = &mut Pool::new(threads);
    decoder.forward_backward(pool, &ids.0, &ids.1, batch, 0.01, &mut |_, _| {})
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// `|a - b| / |b|`.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let apart: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let length: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (apart / length.max(1e-300)).sqrt()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn logits_losses_and_gradients_are_those_of_pytorch() {
    for (tied, name) in [(true, "tied.safetensors"), (false, "untied.safetensors")] {
        let file = std::fs::read(golden(name)).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&file).unwrap();
        let mut decoder = filled(&odd(tied), 0.3);
        let mut ids = random(3, 37, 53, 1000);
        (ids.1[5], ids.1[2 * 37 + 36]) = (IGNORE, IGNORE);
        let logits = decoder.logits(&mut Pool::new(2), &ids.0[37..74]);
        let error = distance(&logits, &floats(&expected.tensor("logits").unwrap()));
        assert!(error < 1e-5, "{name}: logits {error}");
        let loss = learn(&mut decoder, 2, &ids, 3);
        let exact = expected.tensor("loss").unwrap().data().try_into().map(f64::from_le_bytes);
        let exact = exact.unwrap();
        assert_eq!(loss.count, 3 * 37 - 2);
        assert!((loss.sum / exact - 1.0).abs() < 1e-6, "{name}: {loss:?}, not {exact}");
        for tensor in layout(&odd(tied)) {
            let exact = floats(&expected.tensor(&tensor.name).unwrap());
            let error = distance(&decoder.grads()[tensor.range], &exact);
            assert!(error < 1e-5, "{name}: {}: {error}", tensor.name);
        }
        let mut each = Vec::new();
        decoder.losses(&mut Pool::new(1), &ids.0, &ids.1, 3, &mut each);
        let sum: f64 = each.iter().map(|&loss| f64::from(loss)).sum();
        assert_eq!((each.len(), each[5], sum), (3 * 37, 0.0, loss.sum));
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for tied in [false, true] {
        let shape = odd(tied);
        let ids = random(2, 19, 53, 7);
        let mut decoder = filled(&shape, 0.3);
        learn(&mut decoder, 2, &ids, 2);
        let (params, grads) = (decoder.params().to_vec(), decoder.grads().to_vec());
        let mut each = Vec::new();
        for (salt, tensor) in layout(&shape).into_iter().enumerate() {
            // Along one direction: a single parameter would drown in the rounding of f32.
            let direction: Vec<f32> = fill(tensor.range.len(), 90 + salt as u64).collect();
            let mut at = |step: f32| -> f64 {
                decoder.params_mut().copy_from_slice(&params);
                let moved = decoder.params_mut()[tensor.range.clone()].iter_mut();
                moved.zip(&direction).for_each(|(v, d)| *v += step * d);
                decoder.losses(&mut Pool::new(2), &ids.0, &ids.1, 2, &mut each);
                each.iter().map(|&loss| f64::from(loss)).sum::<f64>() * 0.01
            };
            let slope = (at(2e-3) - at(-2e-3)) / 4e-3;
            let got: f64 = grads[tensor.range.clone()]
                .iter()
                .zip(&direction)
                .map(|(g, d)| f64::from(*g) * f64::from(*d))
                .sum();
            let size: f64 = grads[tensor.range.clone()].iter().map(|g| f64::from(g.abs())).sum();
            let error = (got - slope).abs() / size.max(1e-3);
            assert!(error < 2e-3, "{}: {got}, not {slope}", tensor.name);
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_on_what_ran_before() {
    // More rows than a group, and a last group that is smaller.
    let (shape, ids) = (odd(true), random(37, 60, 53, 3));
    let mut decoder = filled(&shape, 0.3);
    let loss = learn(&mut decoder, 1, &ids, 37);
    let expected = bits(decoder.grads());
    for threads in [1, 2, 3] {
        learn(&mut decoder, threads, &random(5, 31, 53, 4), 5);
        decoder.logits(&mut Pool::new(threads), &ids.0[..9]);
        decoder.grads_mut().fill(0.0);
        assert_eq!(learn(&mut decoder, threads, &ids, 37), loss);
        assert_eq!(bits(decoder.grads()), expected, "{threads} threads");
    }
}

#[test]
fn ranges_are_ready_once_and_final() {
    for tied in [false, true] {
        let (shape, ids) = (odd(tied), random(37, 60, 53, 3));
        let mut decoder = filled(&shape, 0.3);
        let mut seen = vec![f32::NAN; shape.parameters()];
        let mut last = usize::MAX;
        decoder.forward_backward(
            &mut Pool::new(2),
            &ids.0,
            &ids.1,
            37,
            0.01,
            &mut |values, range| {
                assert_eq!(values.len(), range.len());
                assert!(seen[range.clone()].iter().all(|v| v.is_nan()), "{range:?} twice");
                assert!(range.end <= last, "{range:?} comes late");
                last = range.start;
                seen[range].copy_from_slice(values);
            },
        );
        assert_eq!(bits(&seen), bits(decoder.grads()));
    }
}

#[test]
fn parts_of_a_batch_add_up() {
    let ids = random(6, 40, 53, 5);
    let (mut whole, mut parts) = (filled(&odd(true), 0.3), filled(&odd(true), 0.3));
    let loss = learn(&mut whole, 2, &ids, 6);
    let (mut sum, mut count) = (0.0, 0);
    for part in 0..3 {
        let range = part * 80..(part + 1) * 80;
        let ids = (ids.0[range.clone()].to_vec(), ids.1[range].to_vec());
        let one = learn(&mut parts, 2, &ids, 2);
        (sum, count) = (sum + one.sum, count + one.count);
    }
    assert!((sum / loss.sum - 1.0).abs() < 1e-6 && count == loss.count);
    assert!(distance(parts.grads(), whole.grads()) < 1e-6);
}

#[test]
fn what_is_kept_changes_memory_and_not_the_gradient() {
    let ids = random(37, 60, 53, 6);
    let run = |keep| {
        let mut decoder = filled(&odd(false), 0.3);
        decoder.set_keep(keep);
        let loss = learn(&mut decoder, 2, &ids, 37);
        (loss, decoder.grads().to_vec())
    };
    let (loss, grads) = run(Keep::Everything);
    let (recomputed, same) = run(Keep::Inputs);
    assert_eq!((recomputed, bits(&same)), (loss, bits(&grads)));
    let (rounded, near) = run(Keep::Halves);
    assert_eq!(rounded, loss);
    let error = distance(&near, &grads);
    assert!((1e-6..1e-2).contains(&error), "{error}");
    let big = Shape { layers: 12, dim: 288, ffn: 768, ..odd(false) };
    let bytes = |keep| Memory::of(&big, (32, 64), keep, 2).activations;
    assert!(bytes(Keep::Halves) * 3 < bytes(Keep::Everything) * 2);
    assert!(bytes(Keep::Inputs) * 4 < bytes(Keep::Everything));
}

#[test]
fn a_fresh_decoder_knows_nothing_and_is_the_same_for_the_same_seed() {
    let shape = odd(false);
    let mut decoder = Decoder::new(shape, 3);
    let ids = random(4, 50, 53, 8);
    let loss = learn(&mut decoder, 2, &ids, 4);
    assert!((loss.mean() - 53f64.ln()).abs() < 0.05, "{loss:?}");
    assert_eq!(bits(decoder.params()), bits(Decoder::new(shape, 3).params()));
    assert_ne!(bits(decoder.params()), bits(Decoder::new(shape, 4).params()));
}

#[test]
#[should_panic(expected = "token 53 is not in the vocabulary of 53")]
fn a_token_outside_the_vocabulary_is_refused() {
    let _ = Decoder::new(odd(true), 0).logits(&mut Pool::new(1), &[1, 53]);
}

#[test]
fn logits_are_those_that_the_engine_serves() {
    for tied in [false, true] {
        // The engine's pages take heads of any size; grouped heads, odd widths.
        let shape = Shape { context: 128, ..odd(tied) };
        let mut decoder = filled(&shape, 0.3);
        let folder = tempfile::tempdir().unwrap();
        save(&decoder, folder.path());
        let file = ModelFile::open(folder.path()).unwrap();
        let options = Options { threads: 2, kv: KvType::F32, rows: 32, ..Options::for_file(&file) };
        let mut engine = Engine::load(&file, &options).unwrap();
        let (tokens, _) = random(1, 90, 53, 9);
        let sequence = engine.admit("", &tokens).unwrap().sequence;
        let mut served = Vec::new();
        for tokens in tokens.chunks(32) {
            let chunk = Chunk { sequence, tokens, logits: Logits::All };
            let out = engine.step(&[chunk]).unwrap();
            (0..out.rows()).for_each(|row| served.extend_from_slice(out.row(row)));
        }
        let trained = decoder.logits(&mut Pool::new(2), &tokens);
        let error = distance(&trained, &served);
        assert!(trained.len() == served.len() && error < 2e-6, "tied {tied}: {error}");
    }
}

/// A Hugging Face folder.
fn save(decoder: &Decoder, folder: &Path) {
    let s = decoder.shape();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
        "vocab_size": s.vocabulary, "max_position_embeddings": s.context, "hidden_size": s.dim,
        "num_hidden_layers": s.layers, "num_attention_heads": s.heads, "hidden_act": "silu",
        "num_key_value_heads": s.kv_heads, "head_dim": s.head_dim, "intermediate_size": s.ffn,
        "tie_word_embeddings": s.tied, "rms_norm_eps": s.norm_eps, "rope_theta": s.rope_base,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let bytes: Vec<u8> = decoder.params().iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensors = layout(s).into_iter().map(|tensor| {
        let data = &bytes[4 * tensor.range.start..4 * tensor.range.end];
        (tensor.name, TensorView::new(Dtype::F32, tensor.shape, data).unwrap())
    });
    let file = folder.join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).unwrap();
}

/// As `text` in `golden/curve.py`.
fn walk(step: usize) -> (Vec<u32>, Vec<u32>) {
    let (batch, time) = (4, 48);
    let u: Vec<f32> = fill(batch * (time + 1), 5000 + step as u64).collect();
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for u in u.chunks_exact(time + 1) {
        let stride = 1 + ((u[0] + 1.0) * 2.5) as u32;
        let mut at = ((u[1] + 1.0) / 2.0 * 96.0) as u32;
        let mut row = Vec::new();
        for jump in u {
            row.push(at);
            at = if *jump > 0.8 { at * 5 + 1 } else { at + stride } % 97;
        }
        tokens.extend_from_slice(&row[..time]);
        targets.extend_from_slice(&row[1..]);
    }
    (tokens, targets)
}

#[test]
fn two_hundred_steps_follow_pytorch() {
    let shape = Shape {
        vocabulary: 97,
        dim: 48,
        layers: 3,
        head_dim: 12,
        ffn: 80,
        tied: true,
        ..odd(true)
    };
    let expected: Vec<f64> =
        serde_json::from_str(&std::fs::read_to_string(golden("curve.json")).unwrap()).unwrap();
    let mut decoder = filled(&shape, 0.08);
    let decayed: Vec<_> =
        layout(&shape).into_iter().filter(|t| t.kind != Kind::Norm).map(|t| t.range).collect();
    let (mut m, mut v) = (vec![0f32; shape.parameters()], vec![0f32; shape.parameters()]);
    let pool = &mut Pool::new(2);
    for (step, expected) in expected.iter().enumerate() {
        let (tokens, targets) = walk(step);
        decoder.grads_mut().fill(0.0);
        let scale = 1.0 / targets.len() as f32;
        let loss =
            decoder.forward_backward(pool, &tokens, &targets, 4, scale, &mut |_, _| {}).mean();
        assert!((loss - expected).abs() < 1e-3, "step {step}: {loss}, not {expected}");
        let done = (step as f64 - 20.0) / 180.0;
        let rate = if step < 20 {
            3e-3 * (step as f64 + 1.0) / 20.0
        } else {
            3e-4 + 2.7e-3 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
        };
        let norm = decoder.grads().iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let clip = (1.0 / (norm + 1e-6)).min(1.0) as f32;
        let (one, two) = (1.0 - 0.9f64.powi(step as i32 + 1), 1.0 - 0.95f64.powi(step as i32 + 1));
        let (params, grads) = decoder.params_and_grads();
        for range in &decayed {
            params[range.clone()].iter_mut().for_each(|p| *p *= (1.0 - rate * 0.1) as f32);
        }
        for i in 0..params.len() {
            let g = grads[i] * clip;
            m[i] += 0.1 * (g - m[i]);
            v[i] = 0.95 * v[i] + 0.05 * g * g;
            let root = (f64::from(v[i]).sqrt() / two.sqrt() + 1e-8) as f32;
            params[i] -= (rate / one) as f32 * m[i] / root;
        }
    }
}
