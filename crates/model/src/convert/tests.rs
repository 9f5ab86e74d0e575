//! Round trips: what is converted opens with the same numbers in the order of the architecture, and
//! reads the same token ids.

use serde_json::{Value, json};

use super::*;
use crate::file::fixtures::{folder, tensors, with, write_safetensors};
use crate::tokenizer::{Ends, Special, Tokenizer};

/// Byte-level BPE of ten tokens: nothing but `a`, `b`, `c`, a space, and what merges.
fn byte_level_json() -> Value {
    json!({
        "added_tokens": [
            {"id": 7, "content": "<|im_start|>", "special": true},
            {"id": 8, "content": "<|im_end|>", "special": true},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "abc": 5, "Ġab": 6},
            "merges": [["a", "b"], ["ab", "c"], ["Ġ", "ab"]],
        },
    })
}

/// SentencePiece BPE as Llama 2 has it, of ten tokens.
fn pieces_json(merges: Value) -> Value {
    json!({
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": true},
            {"id": 1, "content": "<s>", "special": true},
            {"id": 2, "content": "</s>", "special": true},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true,
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "▁a": 3, "ab": 4, "▁ab": 5, "▁": 6,
                "a": 7, "b": 8},
            "merges": merges,
        },
    })
}

fn add(folder: &Path, name: &str, value: &Value) {
    std::fs::write(folder.join(name), value.to_string()).unwrap();
}

/// Converts and opens again.
fn round_trip(folder: &Path) -> Result<(ModelFile, Report)> {
    let out = folder.join("out.gguf");
    let (mut last, mut all) = (0, 0);
    let report = convert(folder, None, &out, &mut |done, total, _| (last, all) = (done, total))?;
    assert!(last == all && all == report.bytes_in, "{last} of {all}");
    Ok((ModelFile::open(&out)?, report))
}

fn same_ids(before: &Tokenizer, after: &Tokenizer, texts: &[&str]) {
    for text in texts {
        for special in [Special::AsText, Special::Parse] {
            let ids = before.encode(text, special, Ends::Declared);
            assert_eq!(after.encode(text, special, Ends::Declared), ids, "{text:?}");
            assert_eq!(after.decode(&ids, special), before.decode(&ids, special));
        }
    }
    assert_eq!(before.roles(), after.roles());
    assert_eq!(before.ends_of_generation(), after.ends_of_generation());
    assert_eq!(before.adds_bos(), after.adds_bos());
    assert_eq!(before.chat_template(), after.chat_template());
}

fn floats(tensor: TensorView<'_>) -> Vec<f32> {
    let mut numbers = vec![0.0; tensor.shape.iter().product()];
    dequantize_row(tensor.dtype, tensor.data, &mut numbers);
    numbers
}

#[test]
fn a_llama_gets_neighbouring_pairs_and_keeps_its_types() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    let folder = folder(&with(&json!({"rope_scaling": scaling})), &[]);
    write_safetensors(&folder.path().join("model.safetensors"), &tensors(false, false), true);
    add(folder.path(), "tokenizer.json", &byte_level_json());
    let texts = json!({"eos_token": "<|im_end|>", "chat_template": "{{ messages }}"});
    add(folder.path(), "tokenizer_config.json", &texts);
    let before = ModelFile::open(folder.path()).unwrap();
    let (after, report) = round_trip(folder.path()).unwrap();
    assert_eq!(report.tensors, before.tensors().len() + 1);
    let mut expected = before.config().clone();
    expected.rope.style = RopeStyle::Interleaved;
    // Base 500000: the first pair turns 32 / τ = 5.1 times, the second almost not.
    expected.rope.scaling = RopeScaling::Factors(vec![1.0, 8.0]);
    assert_eq!(*after.config(), expected);
    let metadata = after.metadata().unwrap();
    assert_eq!(metadata.integer("general.file_type").unwrap(), Some(32));
    assert_eq!(metadata.string("tokenizer.ggml.pre").unwrap(), Some("gpt-2"));
    for tensor in before.tensors() {
        let (old, new) = (floats(tensor), after.expect(tensor.name, tensor.shape).unwrap());
        let dtype = if tensor.shape.len() == 1 { DType::F32 } else { DType::BF16 };
        assert_eq!(new.dtype, dtype, "{}", tensor.name);
        let new = floats(new);
        if !is_rotated(tensor.name) {
            assert_eq!(new, old, "{}", tensor.name);
            continue;
        }
        for row in 0..tensor.shape[0] {
            // Heads of 4: rows 0 1 2 3 come from 0 2 1 3.
            let from = row / 4 * 4 + [0, 2, 1, 3][row % 4];
            assert_eq!(new[row * 8..][..8], old[from * 8..][..8], "{} row {row}", tensor.name);
        }
    }
    let (old, new) = (before.tokenizer(None).unwrap(), after.tokenizer(None).unwrap());
    assert_eq!(new.vocabulary_size(), 10);
    same_ids(&old, &new, &["abc ab abab", "<|im_start|>ab<|im_end|>", "", " c", "xaby"]);
}

#[test]
fn a_qwen_keeps_halves_and_its_window_and_yarn() {
    let changes = json!({"model_type": "qwen2", "architectures": null, "sliding_window": 16,
        "use_sliding_window": true, "max_window_layers": 0, "tie_word_embeddings": true,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 1.5}});
    let folder = folder(&with(&changes), &tensors(true, true));
    add(folder.path(), "tokenizer.json", &byte_level_json());
    let before = ModelFile::open(folder.path()).unwrap();
    let (after, _) = round_trip(folder.path()).unwrap();
    let (mut old, mut new) = (before.config().clone(), after.config().clone());
    let factor = |config: &mut Config| match &mut config.rope.scaling {
        RopeScaling::Yarn { attention_factor, .. } => std::mem::take(attention_factor),
        other => panic!("{other:?}"),
    };
    assert!((factor(&mut old) - factor(&mut new)).abs() < 1e-6);
    assert_eq!(new, old);
    for tensor in before.tensors() {
        assert_eq!(after.tensor(tensor.name).unwrap().data, tensor.data, "{}", tensor.name);
    }
    assert_eq!(after.tensors().len(), before.tensors().len());
}

#[test]
fn a_mistral_becomes_a_llama_and_merges_become_scores() {
    let changes = json!({"model_type": "mistral", "architectures": null, "sliding_window": 16});
    let folder = folder(&with(&changes), &tensors(false, false));
    let merges = json!([["▁", "a"], ["a", "b"], ["▁", "ab"], ["▁a", "b"]]);
    add(folder.path(), "tokenizer.json", &pieces_json(merges));
    let before = ModelFile::open(folder.path()).unwrap();
    let (after, report) = round_trip(folder.path()).unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
    assert_eq!(
        (after.config().architecture.as_str(), after.config().sliding_window),
        ("llama", Some(16))
    );
    let (old, new) = (before.tokenizer(None).unwrap(), after.tokenizer(None).unwrap());
    assert_eq!(old.encode("ab", Special::AsText, Ends::Bare), [5]);
    same_ids(&old, &new, &["ab", "a b ab  aab", "<s>ab", "", "cc a", "bbb"]);

    // Not by scores: a merge of the same two is missing, and one token's merges lie apart.
    for merges in [
        json!([["▁", "a"], ["a", "b"], ["▁", "ab"]]),
        json!([["▁", "ab"], ["▁", "a"], ["a", "b"], ["▁a", "b"]]),
    ] {
        add(folder.path(), "tokenizer.json", &pieces_json(merges));
        let message = round_trip(folder.path()).err().unwrap().to_string();
        assert!(message.contains("scores"), "{message}");
    }
}

#[test]
fn what_cannot_be_converted_is_named() {
    let folder = folder(&with(&json!({})), &tensors(false, false));
    let message = round_trip(folder.path()).err().unwrap().to_string();
    assert!(message.contains("tokenizer.json"), "{message}");
    let mut json = byte_level_json();
    json["model"]["vocab"]["ba"] = 10.into();
    add(folder.path(), "tokenizer.json", &json);
    let message = round_trip(folder.path()).err().unwrap().to_string();
    assert!(message.contains("11 tokens for a model of 10"), "{message}");
    add(folder.path(), "tokenizer.json", &byte_level_json());
    let (_, _) = round_trip(folder.path()).unwrap();
    let gguf = folder.path().join("out.gguf");
    let again = convert(&gguf, None, &folder.path().join("b.gguf"), &mut |_, _, _| {
        ControlFlow::Continue(())
    })
    .unwrap_err();
    assert!(again.to_string().contains("GGUF already"), "{again}");
}

#[test]
fn the_story_model_is_the_same_model_as_gguf() {
    let Some(path) = crate::shared_data("weights/stories260K/stories260K.bin") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("stories.gguf");
    let report = convert(&path, None, &out, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
    let (before, after) = (ModelFile::open(&path).unwrap(), ModelFile::open(&out).unwrap());
    assert_eq!(before.config(), after.config());
    assert_eq!(before.tensors().len(), after.tensors().len());
    for tensor in before.tensors() {
        assert_eq!(after.tensor(tensor.name).unwrap().data, tensor.data, "{}", tensor.name);
    }
    let (old, new) = (before.tokenizer(None).unwrap(), after.tokenizer(None).unwrap());
    same_ids(&old, &new, &["Once upon a time", "  玉山\n🦙 </s>x", "", "a\tb\r\n"]);
}
