//! Checkpoints in other hands: Hugging Face transformers, the engine, and the engine through GGUF.
//!
//! The key decision: one small model, drawn here, is written to `target/tmp/checkpoint`; transformers read it there
//! and `golden/transformers_logits.json` holds what they made of it (`golden/load_in_transformers.py` says how). So
//! the files, not only the numbers in them, are those that were loaded elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use yushan_abi::{Chunk, Executor, Logits, TokenId};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};
use yushan_model::tokenizer::{self, Special};
use yushan_tensor::KvType;
use yushan_train::checkpoint::{
    Ends, Keep, Snapshot, State, Type, export, export_gguf, load_latest, save,
};
use yushan_train::decoder::{Kind, Shape, layout};
use yushan_train::order;

const GOLDEN: &str = include_str!("golden/transformers_logits.json");

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 2, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [2], "tokens": ["<|endoftext|>"]}}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": {"a": 0, "b": 1, "<|endoftext|>": 2, "ab": 3}, "merges": [["a", "b"]]}}"#;

#[derive(Deserialize)]
struct Golden {
    ids: Vec<TokenId>,
    text: String,
    models: Models,
}

#[derive(Deserialize)]
struct Models {
    tied: Model,
    untied: Model,
}

#[derive(Deserialize)]
struct Model {
    f32: Vec<Vec<f32>>,
    bf16: Vec<Vec<f32>>,
    text_ids: Vec<TokenId>,
}

/// Numbers between -1 and 1 (a linear congruential generator, constants of Numerical Recipes).
fn draw(state: &mut u32) -> f32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 8) as f32 / (1 << 23) as f32 - 1.0
}

fn snapshot(tied: bool) -> Snapshot<'static> {
    let shape = Shape {
        vocabulary: 64,
        context: 48,
        dim: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 56,
        tied,
        norm_eps: 1e-5,
        rope_base: 50_000.0,
    };
    let mut params = vec![0.0; shape.parameters()];
    let mut state = 7 + u32::from(tied);
    for tensor in layout(&shape) {
        for value in &mut params[tensor.range] {
            let drawn = draw(&mut state);
            *value = if tensor.kind == Kind::Norm { 1.0 + 0.25 * drawn } else { 0.3 * drawn };
        }
    }
    let options = order::Options { context: 48, seed: 1, bos: Some(2), cut: order::Cut::Carry };
    let cursor = order::Cursor {
        options,
        passages: 1,
        rows: 0,
        epoch: 0,
        drawn: 0,
        waiting: Vec::new(),
        counts: order::Counts::default(),
    };
    Snapshot {
        optimizer: vec![("first_moment".into(), params.clone().into())],
        shape,
        params: params.into(),
        tokenizer: TOKENIZER.as_bytes().into(),
        ends: Ends { bos: 2, eos: 2 },
        state: State {
            step: 3,
            cursor,
            updates: 3,
            rng: Vec::new(),
            schedule: Value::Null,
            spikes: Value::Null,
            recipe: String::new(),
            metadata: Value::Null,
        },
    }
}

/// `(tokens, vocabulary)` logits of the engine, keys and values in F32.
fn logits(path: &Path, ids: &[TokenId]) -> Vec<f32> {
    let file = ModelFile::open(path).unwrap();
    let options = Options { threads: 1, kv: KvType::F32, ..Options::for_file(&file) };
    let mut engine = Engine::load(&file, &options).unwrap();
    let sequence = engine.admit("", ids).unwrap().sequence;
    let chunk = Chunk { sequence, tokens: ids, logits: Logits::All };
    let output = engine.step(&[chunk]).unwrap();
    (0..output.rows()).flat_map(|row| output.row(row).to_vec()).collect()
}

fn text_ids(path: &Path, text: &str) -> Vec<TokenId> {
    let tokenizer = ModelFile::open(path).unwrap().tokenizer(None).unwrap();
    tokenizer.encode(text, Special::Parse, tokenizer::Ends::Declared)
}

/// Largest difference, relative to the largest logit.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max) / largest
}

fn check(name: &str, tied: bool, golden: impl Fn(Models) -> Model) {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("checkpoint");
    let folder = root.join(name);
    let half = root.join(format!("{name}-bf16"));
    let whole = root.join(format!("{name}.gguf"));
    let _ = fs::remove_dir_all(&folder);
    let _ = fs::remove_dir_all(&half);
    let path = save(&folder, &snapshot(tied), Keep::default()).unwrap().path;
    let loaded = load_latest(&folder).unwrap().unwrap();
    assert_eq!(loaded.snapshot, snapshot(tied));
    export(&half, &loaded.snapshot, Type::Bf16).unwrap();
    let warnings = export_gguf(&path, &whole).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");

    let recorded: Golden = serde_json::from_str(GOLDEN).unwrap();
    let (ids, text) = (recorded.ids, recorded.text);
    let Model { f32, bf16, text_ids: expected_ids } = golden(recorded.models);
    let ours = logits(&path, &ids);
    let apart = difference(&ours, &f32.concat());
    assert!(apart < 1e-5, "{name}: {apart} from transformers");
    let apart = difference(&logits(&half, &ids), &bf16.concat());
    assert!(apart < 1e-5, "{name}, bf16: {apart} from transformers");
    // Rows of queries and keys are in another order there, so sums of a head are too.
    let apart = difference(&logits(&whole, &ids), &ours);
    assert!(apart < 1e-6, "{name}: {apart} between GGUF and safetensors");
    for path in [&path, &half, &whole] {
        assert_eq!(text_ids(path, &text), expected_ids, "{}", path.display());
    }
}

#[test]
fn transformers_engine_and_gguf_agree_with_a_tied_head() {
    check("tied", true, |models| models.tied);
}

#[test]
fn transformers_engine_and_gguf_agree_with_a_head_of_its_own() {
    check("untied", false, |models| models.untied);
}
