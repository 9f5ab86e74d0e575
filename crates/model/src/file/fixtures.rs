//! Small Hugging Face folders, built for the tests; safetensors by the reference crate.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// Names and shapes of a decoder of two layers, as Hugging Face has them.
pub(crate) fn tensors(biases: bool, tied: bool) -> Vec<(String, Vec<usize>)> {
    let mut list = vec![("model.embed_tokens.weight".into(), vec![10, 8])];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            list.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[8]);
        add("self_attn.q_proj.weight", &[8, 8]);
        add("self_attn.k_proj.weight", &[4, 8]);
        add("self_attn.v_proj.weight", &[4, 8]);
        add("self_attn.o_proj.weight", &[8, 8]);
        add("post_attention_layernorm.weight", &[8]);
        add("mlp.gate_proj.weight", &[12, 8]);
        add("mlp.up_proj.weight", &[12, 8]);
        add("mlp.down_proj.weight", &[8, 12]);
        if biases {
            add("self_attn.q_proj.bias", &[8]);
            add("self_attn.k_proj.bias", &[4]);
            add("self_attn.v_proj.bias", &[4]);
        }
    }
    list.push(("model.norm.weight".into(), vec![8]));
    if !tied {
        list.push(("lm_head.weight".into(), vec![10, 8]));
    }
    list
}

/// Numbers that tell every element of every tensor apart.
pub(crate) fn data(number: usize, shape: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    (0..count).flat_map(|i| ((number * 1000 + i) as f32).to_le_bytes()).collect()
}

/// Writes [`data`], in F32 or cut down to BF16.
pub(crate) fn write_safetensors(path: &Path, tensors: &[(String, Vec<usize>)], bf16: bool) {
    let dtype = if bf16 { Dtype::BF16 } else { Dtype::F32 };
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .enumerate()
        .map(|(number, (_, shape))| match bf16 {
            true => data(number, shape).chunks(4).flat_map(|bytes| [bytes[2], bytes[3]]).collect(),
            false => data(number, shape),
        })
        .collect();
    let views: HashMap<_, _> = tensors
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| {
            (name.clone(), TensorView::new(dtype, shape.clone(), data).unwrap())
        })
        .collect();
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A `config.json` for [`tensors`].
pub(crate) fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 10, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "max_position_embeddings": 64, "tie_word_embeddings": false, "hidden_act": "silu",
    })
}

/// `config` with other members; null takes one out.
pub(crate) fn with(changes: &Value) -> Value {
    let mut config = config();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(name)),
            value => config[name] = value.clone(),
        }
    }
    config
}

pub(crate) fn folder(config: &Value, tensors: &[(String, Vec<usize>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    write_safetensors(&folder.path().join("model.safetensors"), tensors, false);
    folder
}
