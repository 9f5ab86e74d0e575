//! Small models with seeded random weights, written as GGUF files.

use std::path::Path;

use yushan_model::gguf::Header;
use yushan_tensor::{DType, quantize_row};

/// Sizes of a small Llama whose rows fill whole blocks of every type.
pub(crate) const DIM: usize = 256;
pub(crate) const LAYERS: usize = 2;
pub(crate) const HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const FFN: usize = 512;
pub(crate) const VOCABULARY: usize = 320;

/// Numbers between -1 and 1 (a linear congruential generator, constants of Numerical Recipes).
pub(crate) fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Writes a model with matrices of this type; `context` tokens were seen in training.
pub(crate) fn write(path: &Path, dtype: DType, context: usize) {
    let mut header = Header::new();
    header.set("general.architecture", "llama");
    header.set("llama.context_length", context as u32);
    header.set("llama.embedding_length", DIM as u32);
    header.set("llama.block_count", LAYERS as u32);
    header.set("llama.feed_forward_length", FFN as u32);
    header.set("llama.attention.head_count", HEADS as u32);
    header.set("llama.attention.head_count_kv", KV_HEADS as u32);
    header.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    header.set("llama.vocab_size", VOCABULARY as u32);
    let head = DIM / HEADS;
    let mut shapes = vec![("token_embd.weight".to_string(), vec![VOCABULARY, DIM])];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("attn_norm", vec![DIM]),
            ("attn_q", vec![DIM, DIM]),
            ("attn_k", vec![KV_HEADS * head, DIM]),
            ("attn_v", vec![KV_HEADS * head, DIM]),
            ("attn_output", vec![DIM, DIM]),
            ("ffn_norm", vec![DIM]),
            ("ffn_gate", vec![FFN, DIM]),
            ("ffn_up", vec![FFN, DIM]),
            ("ffn_down", vec![DIM, FFN]),
        ] {
            shapes.push((format!("blk.{layer}.{name}.weight"), shape));
        }
    }
    shapes.push(("output_norm.weight".to_string(), vec![DIM]));
    let stored = |shape: &[usize]| if shape.len() == 1 { DType::F32 } else { dtype };
    for (name, shape) in &shapes {
        header.tensor(name, stored(shape), shape).unwrap();
    }
    let mut writer = header.create(path).unwrap();
    for (seed, (name, shape)) in shapes.iter().enumerate() {
        let mut values = numbers(shape.iter().product(), seed as u32);
        for value in &mut values {
            *value = if shape.len() == 1 { 1.0 + 0.2 * *value } else { 0.15 * *value };
        }
        let mut bytes = vec![0; stored(shape).bytes(values.len()).unwrap()];
        quantize_row(stored(shape), &values, &mut bytes);
        writer.tensor(name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}
