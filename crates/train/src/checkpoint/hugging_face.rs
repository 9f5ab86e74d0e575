//! The small files beside the parameters that let others load them: `config.json`, `generation_config.json`,
//! `tokenizer_config.json`.
//!
//! The key decision: every value that transformers would otherwise guess is written, so that another version of it
//! guesses nothing else.
//!
//! Source: `LlamaConfig`, `GenerationConfig` and `PreTrainedTokenizerFast` of transformers 4 and 5.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Ends;
use super::tensors::Type;
use crate::decoder::Shape;
use crate::{Error, Result};

/// `config.json`.
#[derive(Serialize)]
struct Config<'a> {
    architectures: [&'a str; 1],
    model_type: &'a str,
    attention_bias: bool,
    attention_dropout: f32,
    bos_token_id: u32,
    eos_token_id: u32,
    head_dim: usize,
    hidden_act: &'a str,
    hidden_size: usize,
    initializer_range: f32,
    intermediate_size: usize,
    max_position_embeddings: usize,
    mlp_bias: bool,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    pretraining_tp: usize,
    rms_norm_eps: f32,
    rope_scaling: Option<()>,
    rope_theta: f32,
    tie_word_embeddings: bool,
    torch_dtype: &'a str,
    use_cache: bool,
    vocab_size: usize,
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    // Plain data: it cannot fail.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

pub(super) fn config(shape: &Shape, ends: Ends, kind: Type) -> Vec<u8> {
    pretty(&Config {
        architectures: ["LlamaForCausalLM"],
        model_type: "llama",
        attention_bias: false,
        attention_dropout: 0.0,
        bos_token_id: ends.bos,
        eos_token_id: ends.eos,
        head_dim: shape.head_dim,
        hidden_act: "silu",
        hidden_size: shape.dim,
        initializer_range: 0.02,
        intermediate_size: shape.ffn,
        max_position_embeddings: shape.context,
        mlp_bias: false,
        num_attention_heads: shape.heads,
        num_hidden_layers: shape.layers,
        num_key_value_heads: shape.kv_heads,
        pretraining_tp: 1,
        rms_norm_eps: shape.norm_eps,
        rope_scaling: None,
        rope_theta: shape.rope_base,
        tie_word_embeddings: shape.tied,
        torch_dtype: kind.torch_name(),
        use_cache: true,
        vocab_size: shape.vocabulary,
    })
}

pub(super) fn generation_config(ends: Ends) -> Vec<u8> {
    pretty(&json!({"bos_token_id": ends.bos, "eos_token_id": ends.eos}))
}

/// The part of `tokenizer.json` that names special tokens.
#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// The special tokens by their text, which stands in `tokenizer.json`.
pub(super) fn tokenizer_config(shape: &Shape, ends: Ends, tokenizer: &[u8]) -> Result<Vec<u8>> {
    let bad = |detail: String| Error::bad("tokenizer.json", detail);
    let tokenizer: Tokenizer =
        serde_json::from_slice(tokenizer).map_err(|error| bad(error.to_string()))?;
    let text = |id: u32| {
        let found = tokenizer.added_tokens.iter().find(|token| token.id == id);
        found.map(|token| token.content.as_str()).ok_or_else(|| {
            bad(format!("token {id}, which begins or ends a text, is not among its added_tokens"))
        })
    };
    Ok(pretty(&json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text(ends.bos)?,
        "eos_token": text(ends.eos)?,
        "clean_up_tokenization_spaces": false,
        "model_max_length": shape.context,
    })))
}
