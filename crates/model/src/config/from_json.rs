//! The configuration in a Hugging Face `config.json`.
//!
//! The key decision: what is not understood is refused by its name, never passed over: a rope that
//! is stretched in an unknown way gives words, but the wrong ones.
//!
//! Source: the configuration classes and `modeling_rope_utils.py` of transformers 4 and 5.

use super::from_gguf::{YARN_BETAS, head_length, unknown_architecture, yarn_attention};
use super::{Config, Rope, RopeScaling, RopeStyle};
use crate::json::Object;
use crate::{Error, Result};

pub(crate) const FORMAT: &str = "config.json";

/// Families and the class their files name.
const FAMILIES: &[(&str, &str)] = &[
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
];

/// What the file says.
pub(crate) struct Json {
    pub(crate) config: Config,
    /// The embedding is the head too.
    pub(crate) tied: bool,
    /// Queries, keys and values have a bias.
    pub(crate) qkv_bias: bool,
    /// The projection after attention has one.
    pub(crate) output_bias: bool,
}

/// Reads and checks the file.
pub(crate) fn read(bytes: &[u8]) -> Result<Json> {
    let json = Object::parse(FORMAT, bytes)?;
    let family = family(&json)?;
    let need = |name: &str| {
        json.integer(name)?.ok_or_else(|| json.error(name, "missing, expected a whole number"))
    };
    if let Some(activation) = json.text("hidden_act")?.filter(|name| name != "silu") {
        return Err(unsupported("hidden_act", &activation, "silu"));
    }
    let (dim, heads) = (need("hidden_size")?, need("num_attention_heads")?);
    let layers = need("num_hidden_layers")?;
    let head_dim = match json.integer("head_dim")? {
        Some(length) => length,
        // The one family whose default is not the quotient.
        None if family == "qwen3" => 128,
        None => head_length(FORMAT, dim, heads)?,
    };
    let context = need("max_position_embeddings")?;
    let config = Config {
        architecture: family.into(),
        vocabulary: need("vocab_size")?,
        context,
        dim,
        layers,
        heads,
        kv_heads: json.integer("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn: need("intermediate_size")?,
        norm_eps: json.float("rms_norm_eps")?.unwrap_or(1e-6),
        rope: rope(&json, head_dim, context)?,
        sliding_window: sliding_window(&json, family, layers)?,
    };
    config.check(FORMAT)?;
    let bias = json.flag("attention_bias")?;
    let output_bias = bias && matches!(family, "llama" | "qwen3");
    let tied = json.flag("tie_word_embeddings")?;
    Ok(Json { config, tied, qkv_bias: output_bias || family == "qwen2", output_bias })
}

fn family(json: &Object<'_>) -> Result<&'static str> {
    let Some(name) = json.text("model_type")? else {
        return Err(json.error("model_type", "missing, expected llama, mistral, qwen2 or qwen3"));
    };
    let Some((family, class)) = FAMILIES.iter().find(|(family, _)| *family == name) else {
        return Err(unknown_architecture(&name));
    };
    let mut other = None;
    json.strings("architectures", &mut |found| {
        if found != *class && other.is_none() {
            other = Some(found.to_string());
        }
    })?;
    match other {
        Some(other) => Err(unsupported("architectures", &other, class)),
        None => Ok(family),
    }
}

/// One window for all layers, or none; a mixture is refused.
fn sliding_window(json: &Object<'_>, family: &str, layers: usize) -> Result<Option<usize>> {
    let window = json.integer("sliding_window")?;
    match family {
        "llama" => Ok(None),
        "mistral" if !json.has("sliding_window")? => Ok(Some(4096)),
        "mistral" => Ok(window),
        _ if !json.flag("use_sliding_window")? => Ok(None),
        _ => {
            let (mut sliding, mut full) = (0, 0);
            let listed = json.strings("layer_types", &mut |kind| match kind {
                "sliding_attention" => sliding += 1,
                _ => full += 1,
            })?;
            if !listed {
                full = json.integer("max_window_layers")?.unwrap_or(28).min(layers);
                sliding = layers - full;
            }
            if sliding > 0 && full > 0 {
                let what = format!("{sliding} of {layers} layers with a window");
                return Err(unsupported("sliding_window", &what, "one for all or none"));
            }
            Ok(window.filter(|_| sliding > 0))
        }
    }
}

/// `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of those before.
fn rope(json: &Object<'_>, head_dim: usize, context: usize) -> Result<Rope> {
    let (newer, older) = (json.object("rope_parameters")?, json.object("rope_scaling")?);
    let base = match &newer {
        Some(newer) => newer.float("rope_theta")?,
        None => None,
    };
    let scaling = match newer.or(older) {
        Some(rope) => scaling(&rope, context)?,
        None => RopeScaling::None,
    };
    for place in [Some(*json), newer, older].into_iter().flatten() {
        let part = place.float("partial_rotary_factor")?.unwrap_or(1.0);
        if part != 1.0 {
            return Err(unsupported("partial_rotary_factor", &part.to_string(), "1"));
        }
    }
    Ok(Rope {
        base: base.or(json.float("rope_theta")?).unwrap_or(10_000.0),
        dims: head_dim,
        style: RopeStyle::Halves,
        scaling,
    })
}

fn scaling(rope: &Object<'_>, context: usize) -> Result<RopeScaling> {
    for kind in ["full_attention", "sliding_attention"] {
        if rope.has(kind)? {
            return Err(unsupported("rope_parameters", "one for each kind of layer", "one"));
        }
    }
    // "type" until transformers 4.43.
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or("default".into()),
    };
    let need = |name: &str| {
        rope.float(name)?.ok_or_else(|| rope.error(name, "missing, expected a number"))
    };
    let original = "original_max_position_embeddings";
    match kind.as_ref() {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: rope
                .integer(original)?
                .ok_or_else(|| rope.error(original, "missing, expected a whole number"))?,
        }),
        "yarn" => {
            let original_context = rope.integer(original)?.unwrap_or(context);
            let factor = match rope.float("factor")? {
                Some(factor) => factor,
                None => context as f32 / original_context.max(1) as f32,
            };
            if rope.has("truncate")? && !rope.flag("truncate")? {
                return Err(unsupported("truncate", "false", "true"));
            }
            let scales = (rope.float("mscale")?, rope.float("mscale_all_dim")?);
            let suggested = match scales {
                // transformers takes 0 for absent.
                (Some(above), Some(below)) if above != 0.0 && below != 0.0 => {
                    let scale = |by: f32| by * (yarn_attention(factor) - 1.0) + 1.0;
                    scale(above) / scale(below)
                }
                _ => yarn_attention(factor),
            };
            Ok(RopeScaling::Yarn {
                factor,
                original_context,
                attention_factor: rope.float("attention_factor")?.unwrap_or(suggested),
                beta_fast: rope.float("beta_fast")?.unwrap_or(YARN_BETAS.0),
                beta_slow: rope.float("beta_slow")?.unwrap_or(YARN_BETAS.1),
            })
        }
        other => Err(unsupported("rope_type", other, "default, linear, llama3 or yarn")),
    }
}

fn unsupported(name: &str, value: &str, expected: &str) -> Error {
    Error::Unsupported {
        what: format!("{FORMAT}: {name} {value:?}"),
        expected: format!("expected {expected}"),
    }
}
