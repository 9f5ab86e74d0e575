//! One description of a decoder, with switches: Llama 1/2/3.x, Mistral, Qwen2/2.5, Qwen3, SmolLM
//! and TinyLlama are settings of it, not copies of it.
//!
//! Biases, tied heads and QK norms are not switches here: they are there when their tensors are
//! (`blk.N.attn_q.bias`, `output.weight`, `blk.N.attn_q_norm.weight`).

/// The sizes and switches of a decoder.
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
