//! Every format opens under the same names with the same numbers; what is wrong is named. The
//! files are built here, safetensors by the reference crate.

use serde_json::{Value, json};
use yushan_tensor::DType;

use super::fixtures::{config, data, folder, tensors, with, write_safetensors};
use super::*;
use crate::gguf::Header;
use crate::{RopeScaling, RopeStyle};

/// The configuration that the changes give.
fn read(changes: Value, biases: bool) -> Result<Config> {
    let config = with(&changes);
    let tied = config["tie_word_embeddings"] == json!(true);
    let folder = folder(&config, &tensors(biases, tied));
    ModelFile::open(folder.path()).map(|file| file.config().clone())
}

fn refused(changes: Value, biases: bool, expected: &[&str]) {
    let message = read(changes.clone(), biases).expect_err("refused").to_string();
    for part in expected {
        assert!(message.contains(part), "{changes}: {message}");
    }
}

#[test]
fn the_story_model_opens_with_its_tokenizer() {
    let Some(path) = crate::shared_data("weights/stories260K/stories260K.bin") else { return };
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.format(), Format::Llama2c);
    let config = file.config();
    assert_eq!((config.dim, config.layers, config.heads, config.kv_heads), (64, 5, 8, 4));
    assert_eq!((config.ffn, config.vocabulary, config.context), (172, 512, 512));
    file.expect("blk.4.ffn_down.weight", &[64, 172]).unwrap();
    assert!(file.tensor("output.weight").is_none());
    assert_eq!(file.tokenizer(None).unwrap().vocabulary_size(), 512);
}

#[test]
fn a_folder_has_gguf_names_over_the_same_bytes() {
    let list = tensors(false, false);
    let folder = folder(&config(), &list);
    let single = folder.path().join("model.safetensors");
    for path in [folder.path(), &single] {
        let file = ModelFile::open(path).unwrap();
        assert_eq!((file.format(), file.path()), (Format::Safetensors, path));
        assert_eq!(file.tensors().len(), list.len());
        let expected = Config {
            architecture: "llama".into(),
            vocabulary: 10,
            context: 64,
            dim: 8,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            ffn: 12,
            norm_eps: 1e-5,
            rope: crate::Rope {
                base: 500_000.0,
                dims: 4,
                style: RopeStyle::Halves,
                scaling: RopeScaling::None,
            },
            sliding_window: None,
        };
        assert_eq!(*file.config(), expected);
        for (there, here) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.layers.1.self_attn.k_proj.weight", "blk.1.attn_k.weight"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("lm_head.weight", "output.weight"),
        ] {
            let number = list.iter().position(|(name, _)| name == there).unwrap();
            let tensor = file.expect(here, &list[number].1).unwrap();
            assert_eq!((tensor.dtype, tensor.data), (DType::F32, &data(number, tensor.shape)[..]));
            assert_eq!(tensor.data.as_ptr() as usize % 4, 0);
        }
        let wrong = file.expect("output.weight", &[8, 10]).unwrap_err().to_string();
        assert!(wrong.contains("output.weight") && wrong.contains("[8, 10]"), "{wrong}");
        let missing = file.expect("blk.2.attn_q.weight", &[8, 8]).unwrap_err().to_string();
        assert!(missing.contains("\"blk.2.attn_q.weight\" is missing"), "{missing}");
        let tokenizer = file.tokenizer(None).err().unwrap().to_string();
        assert!(tokenizer.contains("--tokenizer"), "{tokenizer}");
    }
}

#[test]
fn shards_are_joined_and_cannot_lie_elsewhere() {
    let list = tensors(false, false);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("config.json"), config().to_string()).unwrap();
    write_safetensors(&at("a.safetensors"), &list[..7], false);
    write_safetensors(&at("b.safetensors"), &list[7..], false);
    let index = |file: &str| {
        let map: serde_json::Map<_, _> = list
            .iter()
            .enumerate()
            .map(|(i, (name, _))| (name.clone(), if i < 7 { "a.safetensors" } else { file }.into()))
            .collect();
        let json = json!({"metadata": {}, "weight_map": map});
        std::fs::write(at("model.safetensors.index.json"), json.to_string()).unwrap();
        ModelFile::open(folder.path()).map_err(|error| error.to_string())
    };
    assert_eq!(index("b.safetensors").unwrap().tensors().len(), list.len());
    for outside in ["../b.safetensors", "/b.safetensors", "", "x/b.safetensors", ".."] {
        let message = index(outside).unwrap_err();
        assert!(message.contains("weight_map."), "{message}");
    }
    assert!(index("a.safetensors").unwrap_err().contains("is missing"));
    assert!(index("c.safetensors").unwrap_err().contains("c.safetensors"));
}

#[test]
fn rope_is_read_in_the_old_and_the_new_form() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 7.0});
    let parsed = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 32,
    };
    let yarn = |attention_factor, original_context| RopeScaling::Yarn {
        factor: 4.0,
        original_context,
        attention_factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    let suggested = 0.1 * 4_f32.ln() + 1.0;
    for (changes, base, scaling) in [
        (json!({"rope_theta": null}), 10_000.0, RopeScaling::None),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2}}),
            5e5,
            RopeScaling::Linear { factor: 2.0 },
        ),
        (json!({"rope_scaling": llama3}), 5e5, parsed.clone()),
        (json!({"rope_parameters": llama3, "rope_theta": null}), 7.0, parsed),
        (
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 9}}),
            9.0,
            RopeScaling::None,
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 16}}),
            5e5,
            yarn(suggested, 16),
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}}),
            5e5,
            yarn(1.5, 64),
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0,
            "mscale_all_dim": 1.0}}),
            5e5,
            yarn(1.0, 64),
        ),
    ] {
        let rope = read(changes, false).unwrap().rope;
        assert_eq!((rope.base, rope.scaling), (base, scaling));
    }
    for kind in ["dynamic", "longrope"] {
        refused(json!({"rope_scaling": {"type": kind, "factor": 2}}), false, &["rope_type", kind]);
    }
    refused(json!({"rope_scaling": {"type": "linear"}}), false, &["factor", "missing"]);
    refused(json!({"rope_parameters": {"full_attention": {}}}), false, &["rope_parameters"]);
    refused(json!({"partial_rotary_factor": 0.5}), false, &["partial_rotary_factor", "0.5"]);
}

#[test]
fn families_differ_in_biases_and_windows() {
    let family = |name: &str, class: &str, more: Value| {
        let mut changes = json!({"model_type": name, "architectures": [class]});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        changes
    };
    let mistral = |more| family("mistral", "MistralForCausalLM", more);
    assert_eq!(read(mistral(json!({})), false).unwrap().sliding_window, Some(4096));
    let window = read(mistral(json!({"sliding_window": 16})), false).unwrap().sliding_window;
    assert_eq!(window, Some(16));
    let qwen2 = |more| family("qwen2", "Qwen2ForCausalLM", more);
    assert_eq!(read(qwen2(json!({"sliding_window": 16})), true).unwrap().sliding_window, None);
    let on = json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 0});
    assert_eq!(read(qwen2(on), true).unwrap().sliding_window, Some(16));
    let some = json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 1});
    refused(qwen2(some), true, &["sliding_window", "1 of 2"]);
    refused(qwen2(json!({})), false, &["blk.0.attn_q.bias", "missing"]);
    refused(json!({}), true, &["attention_bias"]);
    refused(json!({"attention_bias": true}), false, &["attention_bias"]);
    let qwen3 = family("qwen3", "Qwen3ForCausalLM", json!({"head_dim": 4}));
    refused(qwen3, false, &["blk.0.attn_q_norm.weight"]);
}

#[test]
fn what_a_config_must_not_say_is_named() {
    for (changes, expected) in [
        (json!({"model_type": "mamba"}), &["architecture \"mamba\"", "Qwen3"][..]),
        (json!({"model_type": null}), &["model_type", "missing"]),
        (json!({"architectures": ["LlamaForSequenceClassification"]}), &["SequenceClass"]),
        (json!({"num_attention_heads": 0}), &["heads", "0"]),
        (json!({"num_attention_heads": 3}), &["heads", "3"]),
        (json!({"num_key_value_heads": 3}), &["KV heads", "3"]),
        (json!({"num_key_value_heads": 0}), &["KV heads", "0"]),
        (json!({"head_dim": 3}), &["head length", "3"]),
        (json!({"hidden_size": -8}), &["hidden_size", "-8"]),
        (json!({"hidden_size": "8"}), &["hidden_size", "\"8\""]),
        (json!({"hidden_size": null}), &["hidden_size", "missing"]),
        (json!({"hidden_size": 16}), &["shape", "[10, 8]"]),
        (json!({"vocab_size": 11}), &["weight.shape", "[11, 8]"]),
        (json!({"num_hidden_layers": 3}), &["blk.2.attn_norm.weight", "missing"]),
        (json!({"num_hidden_layers": 1}), &["blk.1."]),
        (json!({"num_hidden_layers": u64::MAX}), &["layers"]),
        (
            json!({"num_attention_heads": 1u64 << 62, "head_dim": 4096, "num_key_value_heads": 1}),
            &["heads"],
        ),
        (json!({"max_position_embeddings": 1u64 << 60}), &["context length"]),
        (json!({"rms_norm_eps": -1.0}), &["norm epsilon", "-1"]),
        (json!({"rope_theta": 0.0}), &["rope base", "0"]),
        (json!({"rope_theta": "x"}), &["rope_theta", "\"x\""]),
        (json!({"hidden_act": "gelu"}), &["hidden_act", "gelu"]),
        (json!({"rope_scaling": 7}), &["rope_scaling", "7"]),
    ] {
        refused(changes, false, expected);
    }
    let message = read(json!({"tie_word_embeddings": true}), false).map(|config| config.dim);
    assert_eq!(message.unwrap(), 8);
    let untied = folder(&config(), &tensors(false, true));
    let message = ModelFile::open(untied.path()).unwrap_err().to_string();
    assert!(message.contains("lm_head.weight"), "{message}");
}

#[test]
fn a_member_of_the_config_that_stands_twice_is_refused() {
    let folder = folder(&config(), &tensors(false, false));
    let text = config().to_string().replacen('{', "{\"hidden_size\":16,", 1);
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    let message = ModelFile::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("config.json: hidden_size: the member stands twice"), "{message}");
}

#[test]
fn unknown_tensors_are_refused_and_a_tied_head_is_not_read() {
    let mut list = tensors(false, false);
    let tied = with(&json!({"tie_word_embeddings": true}));
    let file = ModelFile::open(folder(&tied, &list).path()).unwrap();
    assert!(file.tensor("output.weight").is_none());
    list.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![2]));
    assert!(ModelFile::open(folder(&config(), &list).path()).is_ok());
    for name in
        ["model.layers.0.mlp.gate_proj.scale", "score.weight", "model.layers.x.mlp.up_proj.weight"]
    {
        list.push((name.into(), vec![2]));
        let message = ModelFile::open(folder(&config(), &list).path()).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
        list.pop();
    }
    for name in ["model.layers.2.mlp.up_proj.weight", "model.layers.01.mlp.up_proj.weight"] {
        list.push((name.into(), vec![12, 8]));
        let message = ModelFile::open(folder(&config(), &list).path()).unwrap_err().to_string();
        assert!(message.contains("ffn_up"), "{message}");
        list.pop();
    }
}

/// Opens a safetensors file with this header and 16 bytes of data.
fn header_refused(header: &str, expected: &[&str]) {
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 16]].concat();
    let map = Arc::new(Mapping::from_bytes(bytes));
    let config = config().to_string();
    let message = hugging_face::read(config.as_bytes(), vec![map]).unwrap_err().to_string();
    for part in expected {
        assert!(message.contains(part), "{header}: {message}");
    }
}

#[test]
fn hostile_safetensors_headers_are_named() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(
            r#"{{"model.norm.weight":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#
        )
    };
    let f32 = r#""F32""#;
    for (header, expected) in [
        (
            one(f32, "[4294967296,4294967296]", "[0,16]"),
            &["output_norm.weight.shape", "overflow"][..],
        ),
        (one(f32, "[4611686018427387904]", "[0,16]"), &["output_norm.weight.shape", "overflow"]),
        (one(f32, "[1,2,3,4,5]", "[0,16]"), &["shape", "at most 4"]),
        (one(f32, "[]", "[0,16]"), &["output_norm.weight.shape", "0 dimensions"]),
        (one(f32, "[0]", "[0,0]"), &["output_norm.weight.shape", "dimension of 0"]),
        (one(f32, "[8]", "[0,32]"), &["output_norm.weight.offset", "past the end"]),
        (one(f32, "[2]", "[0,16]"), &["data_offsets", "16 bytes"]),
        (one(f32, "[2]", "[8,0]"), &["data_offsets", "no range"]),
        (one(f32, "[2]", "[18446744073709551615,18446744073709551615]"), &["data_offsets"]),
        (one(f32, "[2]", "[0]"), &["data_offsets", "two numbers"]),
        (one(f32, "[2]", "[0,-8]"), &["data_offsets"]),
        (one(f32, "[2.5]", "[0,8]"), &["shape", "2.5"]),
        (one(r#""F8_E4M3""#, "[8]", "[0,8]"), &["F8_E4M3", "model.norm.weight"]),
        (one("7", "[8]", "[0,8]"), &["dtype", "7"]),
        (r#"{"model.norm.weight":{}}"#.into(), &["model.norm.weight.dtype", "missing"]),
        (r#"{"model.norm.weight":[]}"#.into(), &["model.norm.weight", "an object"]),
        (r#"{"model.norm.weight""#.into(), &["JSON"]),
        ("[".repeat(100_000), &["JSON"]),
        (
            format!(
                "{}{}",
                one(f32, "[2]", "[0,8]").trim_end_matches("}}"),
                r#"},"model.norm.weight":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#
            ),
            &["output_norm.weight", "two tensors"],
        ),
        (
            format!(
                "{}{}",
                one(f32, "[2]", "[0,8]").trim_end_matches("}}"),
                r#"},"lm_head.weight":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#
            ),
            &["output.weight.offset", "overlap"],
        ),
    ] {
        header_refused(&header, expected);
    }
    let map = |bytes: &[u8]| vec![Arc::new(Mapping::from_bytes(bytes.to_vec()))];
    let config = config().to_string();
    for bytes in [&[][..], &[0; 7], &[255; 8], &[9, 0, 0, 0, 0, 0, 0, 0, b'{']] {
        let message = hugging_face::read(config.as_bytes(), map(bytes)).unwrap_err().to_string();
        assert!(message.contains("header length"), "{message}");
    }
}

/// Writes a GGUF of [`tensors`] with this metadata.
fn gguf(architecture: &str, edit: impl FnOnce(&mut Header)) -> Result<ModelFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut header = Header::new();
    header.set("general.architecture", architecture);
    for (name, value) in [
        ("context_length", 64_u32),
        ("embedding_length", 8),
        ("block_count", 2),
        ("feed_forward_length", 12),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        header.set(&format!("{architecture}.{name}"), value);
    }
    edit(&mut header);
    let qwen2 = architecture == "qwen2";
    let folder_in = fixtures::folder(
        &with(&match qwen2 {
            true => json!({"model_type": "qwen2", "architectures": null}),
            false => json!({}),
        }),
        &tensors(qwen2, false),
    );
    let source = ModelFile::open(folder_in.path()).unwrap();
    for tensor in source.tensors() {
        header.tensor(tensor.name, tensor.dtype, tensor.shape).unwrap();
    }
    let mut writer = header.create(&path).unwrap();
    for tensor in source.tensors() {
        writer.tensor(tensor.name, tensor.data).unwrap();
    }
    writer.finish().unwrap();
    ModelFile::open(&path)
}

#[test]
fn gguf_metadata_becomes_the_same_configuration() {
    let file = gguf("llama", |_| {}).unwrap();
    let config = file.config();
    assert_eq!((config.dim, config.vocabulary, config.kv_heads, config.head_dim), (8, 10, 1, 4));
    assert_eq!((config.rope.style, config.rope.base), (RopeStyle::Interleaved, 10_000.0));
    assert!(file.metadata().is_some());
    assert_eq!(gguf("qwen2", |_| {}).unwrap().config().rope.style, RopeStyle::Halves);
    let file = gguf("llama", |header| {
        header.set("llama.rope.scaling.type", "yarn");
        header.set("llama.rope.scaling.factor", 4_f32);
        header.set("llama.rope.scaling.original_context_length", 16_u32);
        header.set("llama.attention.sliding_window", 32_u32);
    })
    .unwrap();
    assert_eq!(file.config().sliding_window, Some(32));
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 16,
        attention_factor: 0.1 * 4_f32.ln() + 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    assert_eq!(file.config().rope.scaling, yarn);
    let linear = gguf("llama", |header| header.set("llama.rope.scale_linear", 2_f32)).unwrap();
    assert_eq!(linear.config().rope.scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn what_gguf_metadata_must_not_say_is_named() {
    let refused = |edit: &dyn Fn(&mut Header), expected: &[&str]| {
        let message = gguf("llama", edit).unwrap_err().to_string();
        for part in expected {
            assert!(message.contains(part), "{message}");
        }
    };
    refused(&|h| h.set("general.architecture", "gpt2"), &["architecture \"gpt2\"", "Llama"]);
    refused(&|h| h.set("llama.expert_count", 8_u32), &["mixture of experts"]);
    refused(&|h| h.set("llama.attention.head_count", 0_u32), &["heads", "0"]);
    refused(&|h| h.set("llama.attention.head_count_kv", 4_u32), &["KV heads", "4"]);
    refused(&|h| h.set("llama.attention.key_length", u64::MAX), &["4096"]);
    refused(&|h| h.set("llama.attention.value_length", 2_u32), &["length 2"]);
    refused(&|h| h.set("llama.rope.dimension_count", 3_u32), &["rope dimensions", "3"]);
    refused(&|h| h.set("llama.rope.dimension_count", 6_u32), &["rope dimensions", "6"]);
    refused(&|h| h.set("llama.rope.freq_base", f32::NAN), &["rope base", "NaN"]);
    refused(&|h| h.set("llama.rope.scaling.type", "longrope"), &["longrope", "yarn"]);
    refused(&|h| h.set("llama.block_count", 1_u64 << 40), &["layers"]);
    refused(&|h| h.set("llama.block_count", "two"), &["llama.block_count", "String"]);
    refused(&|h| assert!(h.remove("llama.block_count")), &["llama.block_count", "missing"]);
    refused(&|h| h.set("llama.embedding_length", 16_u32), &["weight.shape", "16"]);
    let gguf = |edit: fn(&mut Header)| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.gguf");
        let mut header = Header::new();
        edit(&mut header);
        header.create(&path).unwrap().finish().unwrap();
        ModelFile::open(&path).unwrap_err().to_string()
    };
    let none = gguf(|_| {});
    assert!(none.contains("general.architecture"), "{none}");
}

#[test]
fn llama2c_files_are_read_in_both_versions() {
    // dim, ffn, layers, heads, kv heads, vocabulary, context
    let sizes = [8, 12, 2, 2, 1, 10, 16];
    let layer = 8 + 64 + 32 + 32 + 64 + 8 + 3 * 96;
    for (version, tied) in [(0, true), (0, false), (1, true), (1, false)] {
        let mut sizes = sizes;
        if version == 0 && !tied {
            sizes[5] = -10;
        }
        let words: Vec<u8> = sizes.iter().flat_map(|size: &i32| size.to_le_bytes()).collect();
        let mut bytes = match version {
            0 => words,
            _ => [&0x616b_3432_u32.to_le_bytes()[..], &1_u32.to_le_bytes(), &words, &[tied as u8]]
                .concat(),
        };
        bytes.resize(if version == 0 { 28 } else { 256 }, 0);
        let tables = if version == 0 { 16 * 4 } else { 0 };
        let floats = 80 + 2 * layer + 8 + tables + if tied { 0 } else { 80 };
        bytes.extend((0..floats).flat_map(|i| (i as f32).to_le_bytes()));
        let first = |name: &str| {
            let (config, tensors) =
                llama2c::open(Arc::new(Mapping::from_bytes(bytes.clone()))).unwrap();
            assert_eq!((config.vocabulary, config.kv_heads, config.context), (10, 1, 16));
            let tensor = tensors.get(name)?;
            Some(f32::from_le_bytes(*tensor.data.first_chunk().unwrap()) as usize)
        };
        let norms = 2 * 8 + 2 * 8 + 8;
        let (embedding, q1) = match version {
            0 => (0, 80 + 16 + 64),
            _ => (norms, norms + 80 + 64),
        };
        assert_eq!(first("token_embd.weight"), Some(embedding));
        assert_eq!(first("blk.1.attn_q.weight"), Some(q1));
        assert_eq!(first("output.weight"), (!tied).then(|| floats - 80));
        let cut = bytes[..bytes.len() - 4].to_vec();
        let message = llama2c::open(Arc::new(Mapping::from_bytes(cut))).unwrap_err().to_string();
        assert!(message.contains("file length"), "{message}");
    }
}

#[test]
fn hostile_llama2c_headers_are_named() {
    let max = i32::MAX;
    for (sizes, expected) in [
        ([0, 12, 2, 2, 1, 10, 16], "embedding length"),
        ([-8, 12, 2, 2, 1, 10, 16], "embedding length"),
        ([8, 12, 2, 3, 1, 10, 16], "head"),
        ([8, 12, 2, 0, 1, 10, 16], "heads"),
        ([8, 12, 2, 2, 0, 10, 16], "KV heads"),
        ([8, 12, 2, 2, 3, 10, 16], "KV heads"),
        ([8, 12, 2, 8, 1, 10, 16], "head length"),
        ([8, 12, max, 2, 1, 10, 16], "layers"),
        ([8, 12, 2, 2, 1, i32::MIN, 16], "vocabulary size"),
        ([1 << 24, 1 << 24, 1024, 1 << 20, 1 << 20, 1 << 24, 1 << 30], "file length"),
        ([8, 12, 1024, 2, 1, 10, 16], "file length"),
    ] {
        let mut bytes: Vec<u8> = sizes.iter().flat_map(|size: &i32| size.to_le_bytes()).collect();
        bytes.resize(4096, 0);
        let message = llama2c::open(Arc::new(Mapping::from_bytes(bytes))).unwrap_err().to_string();
        assert!(message.contains(expected), "{sizes:?}: {message}");
    }
}

#[test]
fn what_is_no_model_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        ModelFile::open(&path).unwrap_err().to_string()
    };
    assert!(at("config.json", b"{}").contains("give the folder"));
    assert!(at("empty", b"").contains("llama2.c"));
    assert!(at("text", b"Once upon a time there was a text").contains("neither GGUF"));
    let nothing = ModelFile::open(Path::new("no/such/file")).unwrap_err().to_string();
    assert!(nothing.contains("no/such/file"), "{nothing}");
    let empty = tempfile::tempdir().unwrap();
    let message = ModelFile::open(empty.path()).unwrap_err().to_string();
    assert!(message.contains("model.safetensors"), "{message}");
}
