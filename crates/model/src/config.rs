//! One description of a decoder, with switches: Llama 1/2/3.x, Mistral, Qwen2/2.5, Qwen3, SmolLM
//! and TinyLlama are settings of it, not copies of it.
//!
//! Biases, tied heads and QK norms are not switches here: they are there when their tensors are
//! (`blk.N.attn_q.bias`, `output.weight`, `blk.N.attn_q_norm.weight`).

mod from_gguf;
pub(crate) mod from_json;
mod tensors;

pub(crate) use from_gguf::yarn_attention;
pub(crate) use tensors::{check_shape, missing};

use crate::{Error, Result};

/// Most blocks. Known models have up to 126.
const MAX_LAYERS: usize = 1024;

/// Widest residual stream, MLP or vocabulary, and the widest head; longest context.
const MAX_WIDTH: usize = 1 << 24;
const MAX_HEAD: usize = 1 << 12;
const MAX_CONTEXT: usize = 1 << 30;

/// The sizes and switches of a decoder. From [`crate::ModelFile::config`] they are proven: within
/// bounds, consistent with each other, and equal to the shapes of the tensors in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family as GGUF writes it: `llama`, `qwen2`, `qwen3`, `mistral`.
    pub architecture: String,
    /// Token ids, `V`.
    pub vocabulary: usize,
    /// Longest context the model was trained for, in tokens.
    pub context: usize,
    /// Width of the residual stream, `D`.
    pub dim: usize,
    /// Transformer blocks, `L`.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Rotary positions.
    pub rope: Rope,
    /// Mistral: a token sees itself and this many tokens minus one before it.
    pub sliding_window: Option<usize>,
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies, 10000 in the paper.
    pub base: f32,
    /// How many leading elements of a head are rotated; even.
    pub dims: usize,
    /// Which elements form a pair.
    pub style: RopeStyle,
    /// Stretching of the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `(0,1), (2,3), …`: the paper, llama2.c, and GGUF files of the Llama family.
    Interleaved,
    /// `(0,d/2), (1,d/2+1), …`: Hugging Face, and GGUF files of Qwen.
    Halves,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every position divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// The context before stretching.
        original_context: usize,
    },
    /// One divisor a pair, `(dims / 2)`: the GGUF tensor `rope_freqs.weight`.
    Factors(Vec<f32>),
    /// YaRN (Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        /// The stretch.
        factor: f32,
        /// The context before stretching.
        original_context: usize,
        /// Multiplies cosine and sine; `0.1 ln(factor) + 1` where the file is silent.
        attention_factor: f32,
        /// Rotations above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which a frequency is fully interpolated.
        beta_slow: f32,
    },
}

impl Config {
    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together; the values have the same.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Refuses numbers that no decoder has; `format` goes into the error. After it no product of
    /// two sizes overflows.
    pub(crate) fn check(&self, format: &'static str) -> Result<()> {
        let fail = |field: &str, detail: String| Err(Error::format(format, field, detail));
        for (field, value, most) in [
            ("vocabulary size", self.vocabulary, MAX_WIDTH),
            ("context length", self.context, MAX_CONTEXT),
            ("embedding length", self.dim, MAX_WIDTH),
            ("layers", self.layers, MAX_LAYERS),
            ("heads", self.heads, MAX_WIDTH),
            ("KV heads", self.kv_heads, MAX_WIDTH),
            ("head length", self.head_dim, MAX_HEAD),
            ("feed-forward length", self.ffn, MAX_WIDTH),
            ("sliding window", self.sliding_window.unwrap_or(1), MAX_CONTEXT),
        ] {
            if value == 0 || value > most {
                return fail(field, format!("{value}, expected 1 to {most}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let detail =
                format!("{}, expected a divisor of the {} heads", self.kv_heads, self.heads);
            return fail("KV heads", detail);
        }
        if !self.head_dim.is_multiple_of(2) {
            let detail = format!("{}, expected an even number: it rotates in pairs", self.head_dim);
            return fail("head length", detail);
        }
        if self.query_width() > MAX_WIDTH {
            let detail = format!("{} of {} elements are too wide", self.heads, self.head_dim);
            return fail("heads", detail);
        }
        if !(self.norm_eps >= 0.0 && self.norm_eps < 1.0) {
            return fail("norm epsilon", format!("{}, expected 0 to 1", self.norm_eps));
        }
        self.rope.check(self.head_dim).or_else(|(field, detail)| fail(field, detail))
    }
}

impl Rope {
    fn check(&self, head_dim: usize) -> std::result::Result<(), (&'static str, String)> {
        let positive = |field, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err((field, format!("{value}, expected a positive number"))),
        };
        positive("rope base", self.base)?;
        if self.dims == 0 || self.dims > head_dim || !self.dims.is_multiple_of(2) {
            let detail = format!("{}, expected an even number up to {head_dim}", self.dims);
            return Err(("rope dimensions", detail));
        }
        let context = |value: usize| match value {
            1..=MAX_CONTEXT => Ok(()),
            _ => Err(("rope original context", format!("{value}, expected 1 to {MAX_CONTEXT}"))),
        };
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope factor", *factor)?;
                positive("rope low_freq_factor", *low_freq_factor)?;
                positive("rope high_freq_factor", *high_freq_factor)?;
                if low_freq_factor >= high_freq_factor {
                    let detail = format!("{high_freq_factor}, expected above {low_freq_factor}");
                    return Err(("rope high_freq_factor", detail));
                }
                context(*original_context)
            }
            RopeScaling::Factors(factors) => {
                if factors.len() != self.dims / 2 {
                    let detail = format!("{}, expected {}", factors.len(), self.dims / 2);
                    return Err(("rope factors", detail));
                }
                factors.iter().try_for_each(|&factor| positive("rope factors", factor))
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                attention_factor,
                beta_fast,
                beta_slow,
            } => {
                positive("rope factor", *factor)?;
                positive("rope attention factor", *attention_factor)?;
                positive("rope beta_fast", *beta_fast)?;
                positive("rope beta_slow", *beta_slow)?;
                context(*original_context)
            }
        }
    }
}
