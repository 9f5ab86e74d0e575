//! Tiny random models of every family against Hugging Face transformers.
//!
//! The key decision: no weights are kept. Both sides draw them from one generator, and
//! `goldens/families.json`, recorded by `goldens/make_family_goldens.py`, holds what transformers made
//! of them: logits of a prompt and 128 greedy tokens. The draws were chosen so that the best token
//! leads by 0.016 at every step, far more than the error allowed here.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::value::RawValue;
use yushan_abi::{Chunk, Executor, Logits, TokenId};
use yushan_model::ModelFile;
use yushan_model::convert::convert;
use yushan_model::engine::{Engine, Options};
use yushan_tensor::KvType;

const GOLDENS: &str = include_str!("goldens/families.json");

/// Any tokenizer: a GGUF file holds one, and these models have none.
const TOKENIZER: &str = r#"{"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}"#;

#[derive(Deserialize)]
struct Family {
    salt: u32,
    config: Box<RawValue>,
    shapes: BTreeMap<String, Vec<usize>>,
    prompt: Vec<TokenId>,
    logits: BTreeMap<usize, Vec<f32>>,
    greedy: Vec<TokenId>,
    logits_f16: BTreeMap<usize, Vec<f32>>,
    greedy_f16: Vec<TokenId>,
    mean: Vec<f32>,
    last: Vec<f32>,
}

/// `count` numbers in [-1, 1): the top 24 bits of a linear congruential generator (Knuth's MMIX)
/// whose first state is the FNV-1a hash of the text.
fn draw(seed_text: &str, count: usize) -> Vec<f32> {
    let mut state = seed_text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32
    };
    (0..count).map(|_| next()).collect()
}

/// Writes `config.json` and `model.safetensors` as a user's folder holds them.
fn write_folder(folder: &Path, name: &str, family: &Family, dtype: Dtype) {
    let tensors: Vec<(&String, Vec<u8>)> = family
        .shapes
        .iter()
        .map(|(tensor, shape)| {
            let norm = if tensor.ends_with("norm.weight") { 1.0 } else { 0.0 };
            let seed = format!("{name}/{}/{tensor}", family.salt);
            let numbers = draw(&seed, shape.iter().product()).into_iter().map(|v| norm + 0.25 * v);
            let bytes = match dtype {
                Dtype::F16 => numbers.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
                _ => numbers.flat_map(f32::to_le_bytes).collect(),
            };
            (tensor, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(tensor, bytes)| {
        (*tensor, TensorView::new(dtype, family.shapes[*tensor].clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), family.config.get()).unwrap();
}

fn best(logits: &[f32]) -> TokenId {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as TokenId
}

/// Runs the prompt and the greedy tokens and compares both; returns the largest error of a logit.
fn compare(
    label: &str,
    engine: &mut Engine,
    prompt: &[TokenId],
    logits: &BTreeMap<usize, Vec<f32>>,
    greedy: &[TokenId],
) -> f32 {
    let sequence = engine.admit("", prompt).unwrap().sequence;
    let output = engine.step(&[Chunk { sequence, tokens: prompt, logits: Logits::All }]).unwrap();
    let mut worst = 0f32;
    for (&position, golden) in logits {
        for (got, golden) in output.row(position).iter().zip(golden) {
            let error = (got - golden).abs();
            worst = if error.is_nan() { f32::INFINITY } else { worst.max(error) };
        }
    }
    let mut token = best(output.row(prompt.len() - 1));
    let mut tokens = Vec::new();
    while tokens.len() < greedy.len() {
        tokens.push(token);
        let row = Chunk { sequence, tokens: &[token], logits: Logits::Last };
        token = best(engine.step(&[row]).unwrap().row(0));
    }
    engine.release(sequence).unwrap();
    let same = tokens.iter().zip(greedy).take_while(|(a, b)| a == b).count();
    println!("{label}: logits within {worst:.1e}, {same} greedy tokens equal");
    assert_eq!(tokens, greedy, "{label}: greedy token {same} differs (logits within {worst:e})");
    worst
}

/// The largest error of an embedding of length 1, made in two chunks.
fn embedding_error(engine: &mut Engine, prompt: &[TokenId], golden: &[f32]) -> f32 {
    let sequence = engine.admit("", &[]).unwrap().sequence;
    for tokens in prompt.chunks(15) {
        engine.step(&[Chunk { sequence, tokens, logits: Logits::Pooled }]).unwrap();
    }
    let ours = engine.pooled(sequence).unwrap();
    engine.release(sequence).unwrap();
    assert_eq!(ours.len(), golden.len());
    let length = |vector: &[f32]| vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    let lengths = (length(&ours), length(golden));
    let pairs = ours.iter().zip(golden);
    pairs.map(|(a, b)| (a / lengths.0 - b / lengths.1).abs()).fold(0.0, f32::max)
}

/// Embeddings by both poolings, from the folder and from what it was converted to.
fn check_embeddings(name: &str, family: &Family) {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), name, family, Dtype::F32);
    std::fs::write(folder.path().join("tokenizer.json"), TOKENIZER).unwrap();
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    for (mode, golden) in [("mean_tokens", &family.mean), ("lasttoken", &family.last)] {
        let pooling = format!("{{\"pooling_mode_{mode}\": true}}");
        std::fs::write(folder.path().join("1_Pooling/config.json"), pooling).unwrap();
        let gguf = folder.path().join(format!("{mode}.gguf"));
        convert(folder.path(), None, &gguf, &mut |_, _, _| std::ops::ControlFlow::Continue(()))
            .unwrap();
        for path in [folder.path(), &gguf] {
            let file = ModelFile::open(path).unwrap();
            let options = Options { threads: 2, kv: KvType::F32, ..Options::for_file(&file) };
            let mut engine = Engine::load(&file, &options).unwrap();
            let worst = embedding_error(&mut engine, &family.prompt, golden);
            println!("{name} {mode} {:?}: embedding within {worst:.1e}", file.format());
            assert!(worst <= 1e-5, "{name} {mode} {:?}: off by {worst}", file.format());
        }
    }
}

fn check(name: &str) {
    let families: BTreeMap<String, Family> = serde_json::from_str(GOLDENS).unwrap();
    let family = &families[name];
    check_embeddings(name, family);
    for (dtype, kv, slack) in [(Dtype::F32, KvType::F32, 2e-4), (Dtype::F16, KvType::F16, 2e-2)] {
        let folder = tempfile::tempdir().unwrap();
        write_folder(folder.path(), name, family, dtype);
        let (logits, greedy) = match dtype {
            Dtype::F16 => (&family.logits_f16, &family.greedy_f16),
            _ => (&family.logits, &family.greedy),
        };
        // As it is, and converted: the same numbers in another order, and frequencies as a tensor.
        std::fs::write(folder.path().join("tokenizer.json"), TOKENIZER).unwrap();
        let gguf = folder.path().join("converted.gguf");
        convert(folder.path(), None, &gguf, &mut |_, _, _| std::ops::ControlFlow::Continue(()))
            .unwrap();
        for path in [folder.path(), &gguf] {
            let file = ModelFile::open(path).unwrap();
            let options = Options { threads: 2, kv, ..Options::for_file(&file) };
            let mut engine = Engine::load(&file, &options).unwrap();
            let label = format!("{name} {dtype:?} {:?}", file.format());
            let worst = compare(&label, &mut engine, &family.prompt, logits, greedy);
            assert!(worst < slack, "{label}: a logit is off by {worst}, more than {slack}");
        }
    }
}

#[test]
fn llama_1_and_2() {
    check("llama2");
}

#[test]
fn llama_3_with_its_rope_scaling() {
    check("llama3");
}

#[test]
fn llama_with_linear_rope_scaling_and_biases() {
    check("llama_linear");
}

#[test]
fn llama_with_yarn() {
    check("llama_yarn");
}

#[test]
fn smollm_and_tinyllama() {
    check("smollm");
}

#[test]
fn mistral_with_a_window_shorter_than_the_text() {
    check("mistral");
}

#[test]
fn qwen2_ignores_a_window_that_is_switched_off() {
    check("qwen2");
}

#[test]
fn qwen2_with_yarn() {
    check("qwen2_yarn");
}

#[test]
fn qwen3_with_query_and_key_norms() {
    check("qwen3");
}

/// Real weights, if the shared data is there: 200 greedy tokens as users get them (keys and values in
/// F16), and at 64 positions the five best logits and the first eight, nothing rounded.
#[test]
fn stories_260k_tells_its_story() {
    #[derive(Deserialize)]
    struct Reference {
        prompt_tokens: Vec<TokenId>,
        greedy_tokens: Vec<TokenId>,
        positions: Vec<Position>,
    }
    #[derive(Deserialize)]
    struct Position {
        pos: usize,
        top5: Vec<(TokenId, f32)>,
        logits_0_8: Vec<f32>,
    }
    let shared = std::env::var_os("YUSHAN_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        std::path::PathBuf::from,
    );
    let folder = shared.join("data/weights/stories260K");
    let Ok(reference) = std::fs::read(folder.join("reference_greedy.json")) else {
        eprintln!("skipped: shared data not found: {}", folder.display());
        return;
    };
    let reference: Reference = serde_json::from_slice(&reference).unwrap();
    let file = ModelFile::open(&folder.join("stories260K.bin")).unwrap();
    let load = |kv| {
        let options = Options { threads: 2, kv, ..Options::for_file(&file) };
        Engine::load(&file, &options).unwrap()
    };
    let prompt = &reference.prompt_tokens;
    let greedy = &reference.greedy_tokens[prompt.len()..];
    compare("stories260K", &mut load(KvType::F16), prompt, &BTreeMap::new(), greedy);

    let mut engine = load(KvType::F32);
    let tokens = &reference.greedy_tokens[..reference.positions.len()];
    let sequence = engine.admit("", tokens).unwrap().sequence;
    let output = engine.step(&[Chunk { sequence, tokens, logits: Logits::All }]).unwrap();
    for position in &reference.positions {
        let row = output.row(position.pos);
        let first = position.logits_0_8.iter().enumerate().map(|(id, logit)| (id, *logit));
        let top = position.top5.iter().map(|&(id, logit)| (id as usize, logit));
        for (id, logit) in top.chain(first) {
            let error = (row[id] - logit).abs();
            assert!(
                error < 5e-4,
                "position {}, token {id}: {}, not {logit}",
                position.pos,
                row[id]
            );
        }
        assert_eq!(best(row), position.top5[0].0, "position {}", position.pos);
    }
}
