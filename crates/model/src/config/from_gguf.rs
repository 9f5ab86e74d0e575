//! The configuration in the metadata of a GGUF file (`{architecture}.block_count`, …).
//!
//! Sources: the GGUF specification in ggml's `docs/gguf.md`; defaults are llama.cpp's. The size of
//! the vocabulary is the number of rows of `token_embd.weight`: the metadata often says less.

use yushan_tensor::DType;

use super::tensors::missing;
use super::{Config, Rope, RopeScaling, RopeStyle};
use crate::directory::Directory;
use crate::gguf::{FORMAT, Metadata};
use crate::{Error, Result};

/// Architectures of this decoder, and which elements their files rotate together.
const ARCHITECTURES: &[(&str, RopeStyle)] = &[
    ("llama", RopeStyle::Interleaved),
    ("qwen2", RopeStyle::Halves),
    ("qwen3", RopeStyle::Halves),
];

/// YaRN's β where the file is silent (Peng et al. 2023, section 3.2).
pub(super) const YARN_BETAS: (f32, f32) = (32.0, 1.0);

impl Config {
    /// Reads and checks the configuration of a GGUF file.
    pub(crate) fn from_gguf(metadata: &Metadata, tensors: &Directory) -> Result<Config> {
        let Some(architecture) = metadata.string("general.architecture")? else {
            return Err(Error::Missing {
                what: "general.architecture".into(),
                hint: "the GGUF file does not say what model it holds; convert it again".into(),
            });
        };
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
        let Some(&(_, style)) = known else {
            return Err(unknown_architecture(architecture));
        };
        let keys = Keys { metadata, architecture };
        if keys.integer("expert_count")?.unwrap_or(0) > 0 {
            return Err(Error::Unsupported {
                what: "a mixture of experts".into(),
                expected: "models with one MLP a layer can be run".into(),
            });
        }
        let (dim, heads) = (keys.need("embedding_length")?, keys.need("attention.head_count")?);
        let head_dim = match keys.integer("attention.key_length")? {
            Some(length) => length,
            None => head_length(FORMAT, dim, heads)?,
        };
        let value_length = keys.integer("attention.value_length")?.unwrap_or(head_dim);
        if value_length != head_dim {
            return Err(Error::Unsupported {
                what: format!("values of length {value_length} with keys of length {head_dim}"),
                expected: "both have the same length".into(),
            });
        }
        let embedding = tensors.get("token_embd.weight").ok_or_else(|| no_weights(tensors))?;
        let context = keys.need("context_length")?;
        let config = Config {
            architecture: architecture.into(),
            vocabulary: embedding.shape[0],
            context,
            dim,
            layers: keys.need("block_count")?,
            heads,
            kv_heads: keys.integer("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            ffn: keys.need("feed_forward_length")?,
            norm_eps: keys.float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rope: Rope {
                base: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
                dims: keys.integer("rope.dimension_count")?.unwrap_or(head_dim),
                style,
                scaling: scaling(&keys, tensors, context)?,
            },
            sliding_window: keys.integer("attention.sliding_window")?.filter(|&size| size > 0),
        };
        config.check(FORMAT)?;
        config.check_tensors(FORMAT, tensors)?;
        Ok(config)
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn integer(&self, name: &str) -> Result<Option<usize>> {
        self.metadata.integer(&self.key(name))
    }

    fn float(&self, name: &str) -> Result<Option<f32>> {
        self.metadata.float(&self.key(name))
    }

    fn need(&self, name: &str) -> Result<usize> {
        self.integer(name)?.ok_or_else(|| Error::Missing {
            what: format!("the key {}", self.key(name)),
            hint: "the GGUF file does not describe its model fully; convert it again".into(),
        })
    }
}

fn scaling(keys: &Keys<'_>, tensors: &Directory, context: usize) -> Result<RopeScaling> {
    if let Some(tensor) = tensors.get("rope_freqs.weight") {
        if tensor.dtype != DType::F32 {
            let detail = format!("{}, expected F32", tensor.dtype);
            return Err(Error::format(FORMAT, "rope_freqs.weight", detail));
        }
        let numbers = tensor.data.as_chunks().0;
        return Ok(RopeScaling::Factors(numbers.iter().map(|&n| f32::from_le_bytes(n)).collect()));
    }
    let kind = keys.metadata.string(&keys.key("rope.scaling.type"))?;
    // Before there were types, `scale_linear` stood alone.
    let linear = keys.float("rope.scale_linear")?.filter(|_| kind.is_none());
    let factor = keys.float("rope.scaling.factor")?.or(linear).unwrap_or(1.0);
    match kind.unwrap_or("linear") {
        "none" => Ok(RopeScaling::None),
        "linear" if factor == 1.0 || factor == 0.0 => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor }),
        "yarn" => {
            let (fast, slow) = YARN_BETAS;
            // The file holds what it is multiplied by.
            let extra = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
            Ok(RopeScaling::Yarn {
                factor,
                original_context: keys
                    .integer("rope.scaling.original_context_length")?
                    .unwrap_or(context),
                attention_factor: extra * yarn_attention(factor),
                beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(fast),
                beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(slow),
            })
        }
        other => Err(Error::Unsupported {
            what: format!("rope scaling {other:?} ({})", keys.key("rope.scaling.type")),
            expected: "none, linear and yarn can be run".into(),
        }),
    }
}

/// YaRN's factor of cosine and sine (Peng et al. 2023, equation 22).
pub(crate) fn yarn_attention(factor: f32) -> f32 {
    0.1 * factor.max(1.0).ln() + 1.0
}

/// The length of a head where the file does not say.
pub(super) fn head_length(format: &'static str, dim: usize, heads: usize) -> Result<usize> {
    if heads == 0 || !dim.is_multiple_of(heads) {
        let detail = format!("{heads}, expected a divisor of the embedding length {dim}");
        return Err(Error::format(format, "heads", detail));
    }
    Ok(dim / heads)
}

/// The file is of another family.
pub(super) fn unknown_architecture(name: &str) -> Error {
    Error::Unsupported {
        what: format!("architecture {name:?}"),
        expected: "Llama, Mistral, Qwen2, Qwen3 and models of their form (SmolLM, TinyLlama) can \
                   be run"
            .into(),
    }
}

fn no_weights(tensors: &Directory) -> Error {
    match tensors.is_empty() {
        true => Error::Missing {
            what: "every tensor".into(),
            hint: "this GGUF file holds a vocabulary only; give one with parameters".into(),
        },
        false => missing("token_embd.weight"),
    }
}
