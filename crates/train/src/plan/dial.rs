//! One dial: from a depth to every size and rate of a run.
//!
//! The key decision: `depth` alone sets width, heads, tokens, batch and learning rates, so that a series of
//! models differs in one number and a scaling law can be fitted along it (the idea is nanochat's). Values that
//! are set by hand take the place of the dial's, and what depends on them follows: fewer tokens give a smaller
//! batch, a smaller batch a lower rate. It reads no file and measures nothing.
//!
//! The laws, and where their constants come from:
//! - width 64 x depth, heads of 64, SwiGLU of 8/3 width in whole blocks of 32: 12 dim² weights a layer.
//! - tokens = 12 x (layers + head): nanochat's ratio under its convention. It is not "20 a parameter": that
//!   is Hoffmann's, with all parameters counted.
//! - batch ∝ tokens^0.383 (Power Lines, arXiv 2505.13738), anchored at 16,384 tokens for a run of 50 M. There
//!   the published laws say 11 k (DeepSeek LLM, arXiv 2401.02954, 0.292 C^0.3271 at C = 1e14), 14 k (Step Law,
//!   arXiv 2503.04715, 0.58 D^0.571), and more for large accelerators, where a larger batch costs no time.
//! - the rate ∝ sqrt(batch) / dim, measured (docs/SPEED.md, "The dial"): held-out loss was lowest near 0.0125 at width
//!   64 and near 0.006 at 128, batches of 4,096. Muon's update is scaled to the size of AdamW's (arXiv 2502.16982), so
//!   one rate serves both.

use serde::{Deserialize, Serialize};

use super::sizes::Convention;
use crate::decoder::Shape;
use crate::{Error, Result};

/// Tokens a parameter (layers and head) unless set by hand.
pub const TOKENS_PER_PARAMETER: f64 = 12.0;

/// The exponent of the batch law.
pub const BATCH_EXPONENT: f64 = 0.383;

/// Deepest dial: width 8,192, some 110 billion parameters.
pub const DEEPEST: usize = 128;

/// Where the batch law is anchored: tokens of a run, tokens of its batch.
const ANCHOR: (f64, f64) = (5e7, 16384.0);

/// All that a run needs beside its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// The dial.
    pub depth: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Inner width of SwiGLU.
    pub ffn: usize,
    /// Tokens in a row.
    pub context: usize,
    /// Whether embedding and head are one matrix.
    pub tied: bool,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Tokens of the whole run, a multiple of `batch_tokens`.
    pub tokens: u64,
    /// Tokens between two updates, a power of two times the context.
    pub batch_tokens: usize,
    /// Updates: tokens / batch_tokens.
    pub steps: u64,
    /// Peak rate.
    pub learning_rate: f64,
    /// Updates of linear warm-up.
    pub warmup: u64,
}

/// What is set by hand; the rest follows the dial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// Width.
    pub dim: Option<usize>,
    /// Query heads.
    pub heads: Option<usize>,
    /// Key and value heads.
    pub kv_heads: Option<usize>,
    /// Width of a head.
    pub head_dim: Option<usize>,
    /// Inner width of SwiGLU.
    pub ffn: Option<usize>,
    /// Tokens in a row.
    pub context: Option<usize>,
    /// One matrix for embedding and head.
    pub tied: Option<bool>,
    /// Tokens of the run.
    pub tokens: Option<u64>,
    /// Tokens between updates.
    pub batch_tokens: Option<usize>,
    /// Peak rate.
    pub learning_rate: Option<f64>,
    /// Updates of warm-up.
    pub warmup: Option<u64>,
}

impl Defaults {
    /// The decoder's shape, with Llama's norm and rotary constants.
    pub fn shape(&self) -> Shape {
        let sizes = (self.vocabulary, self.context, self.dim, self.ffn, self.tied);
        Shape::of(sizes, (self.depth, self.heads, self.kv_heads, self.head_dim))
    }
}

/// A run of a depth (1 and above), nothing set by hand.
///
/// # Errors
/// A depth of 0 or over [`DEEPEST`], or an empty vocabulary.
pub fn from_depth(depth: usize, vocabulary: usize) -> Result<Defaults> {
    with(depth, vocabulary, &Overrides::default())
}

/// A run of a depth, with what was set by hand in place of the dial's.
///
/// # Errors
/// As [`from_depth`], and values that do not fit together; the message names them.
pub fn with(depth: usize, vocabulary: usize, set: &Overrides) -> Result<Defaults> {
    if !(1..=DEEPEST).contains(&depth) {
        return Err(Error::bad(
            "depth",
            format!(
                "{depth} layers; 1 to {DEEPEST} are possible (4 trains in minutes on two cores)"
            ),
        ));
    }
    if vocabulary == 0 {
        return Err(Error::bad("vocabulary", "it is empty; train or name a tokenizer first"));
    }
    let shape = shape(depth, vocabulary, set)?;
    let tokens = set
        .tokens
        .unwrap_or((TOKENS_PER_PARAMETER * shape.counted(Convention::WithHead) as f64) as u64);
    let batch_tokens = set.batch_tokens.unwrap_or_else(|| batch(tokens as f64, shape.context));
    if batch_tokens == 0 || !batch_tokens.is_multiple_of(shape.context) {
        return Err(Error::bad(
            "batch_tokens",
            format!(
                "{batch_tokens} tokens are not a whole number of rows of {} tokens",
                shape.context
            ),
        ));
    }
    let steps = (tokens / batch_tokens as u64).max(1);
    let learning_rate = set.learning_rate.unwrap_or_else(|| learning_rate(shape.dim, batch_tokens));
    if !(learning_rate > 0.0 && learning_rate.is_finite()) {
        let detail = format!(
            "{learning_rate}; a positive number is needed (the dial's own are 0.001 to 0.02)"
        );
        return Err(Error::bad("learning_rate", detail));
    }
    let Shape { dim, heads, kv_heads, head_dim, ffn, context, tied, .. } = shape;
    Ok(Defaults {
        depth,
        dim,
        heads,
        kv_heads,
        head_dim,
        ffn,
        context,
        tied,
        vocabulary,
        tokens: steps * batch_tokens as u64,
        batch_tokens,
        steps,
        learning_rate,
        warmup: set.warmup.unwrap_or_else(|| warmup(steps)),
    })
}

/// The batch for a run, in tokens: a power of two of rows, at least one, near [`ANCHOR`] scaled by tokens^0.383.
pub fn batch(tokens: f64, context: usize) -> usize {
    let wanted = ANCHOR.1 * (tokens / ANCHOR.0).powf(BATCH_EXPONENT);
    let rows = (wanted / context as f64).log2().round().clamp(0.0, 24.0);
    context << rows as u32
}

/// The peak rate: 4.2e-3 at width 384 and a batch of 16,384 tokens; at most 0.02.
pub fn learning_rate(dim: usize, batch_tokens: usize) -> f64 {
    (4.2e-3 * 384.0 / dim as f64 * (batch_tokens as f64 / ANCHOR.1).sqrt()).min(0.02)
}

/// Updates of warm-up: a fiftieth of the run, at least 10, at most a tenth and 2,000.
pub fn warmup(steps: u64) -> u64 {
    (steps / 50).max(10).min(steps / 10).min(2000)
}

fn shape(depth: usize, vocabulary: usize, set: &Overrides) -> Result<Shape> {
    let head_dim = set.head_dim.unwrap_or(64);
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(Error::bad(
            "head_dim",
            format!("{head_dim}; rotary positions need a positive even width"),
        ));
    }
    let dim = set.dim.unwrap_or((64 * depth).div_ceil(head_dim) * head_dim);
    let heads = set.heads.unwrap_or((dim / head_dim).max(1));
    let kv_heads = set.kv_heads.unwrap_or(heads);
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Error::bad(
            "kv_heads",
            format!("{kv_heads} do not divide {heads} query heads"),
        ));
    }
    let ffn = set.ffn.unwrap_or((8 * dim).div_ceil(3 * 32) * 32);
    let context = set.context.unwrap_or(match depth {
        0..=4 => 256,
        5..=8 => 512,
        9..=15 => 1024,
        _ => 2048,
    });
    for (name, value) in [("dim", dim), ("ffn", ffn), ("context", context)] {
        if !(1..=1 << 20).contains(&value) {
            return Err(Error::bad(name, format!("{value}; 1 to {} are possible", 1 << 20)));
        }
    }
    // Below some 100 M parameters the head would be a large part of a small model: one matrix serves both.
    let tied = set.tied.unwrap_or(depth < 12);
    Ok(Shape::of((vocabulary, context, dim, ffn, tied), (depth, heads, kv_heads, head_dim)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_depth() {
        for (depth, dim, heads, ffn, context) in [
            (1, 64, 1, 192, 256),
            (4, 256, 4, 704, 256),
            (6, 384, 6, 1024, 512),
            (8, 512, 8, 1376, 512),
            (12, 768, 12, 2048, 1024),
            (20, 1280, 20, 3424, 2048),
        ] {
            let d = from_depth(depth, 4096).unwrap();
            assert_eq!(
                (d.dim, d.heads, d.kv_heads, d.head_dim, d.ffn, d.context),
                (dim, heads, heads, 64, ffn, context),
                "depth {depth}"
            );
        }
    }

    #[test]
    fn every_depth_is_sensible() {
        let mut last: Option<Defaults> = None;
        for depth in 1..=DEEPEST {
            let d = from_depth(depth, 8192).unwrap();
            assert_eq!(d.tokens, d.steps * d.batch_tokens as u64);
            assert_eq!(d.batch_tokens % d.context, 0);
            assert!(d.steps >= 100, "depth {depth}: {} steps", d.steps);
            assert!(d.warmup < d.steps / 2);
            assert!((2e-4..=2e-2).contains(&d.learning_rate), "depth {depth}: {}", d.learning_rate);
            if let Some(last) = last {
                assert!(
                    d.tokens > last.tokens && d.batch_tokens >= last.batch_tokens,
                    "depth {depth}"
                );
            }
            last = Some(d);
        }
    }

    #[test]
    fn what_is_set_by_hand_is_kept_and_the_rest_follows() {
        let plain = from_depth(4, 4096).unwrap();
        let set = Overrides { tokens: Some(2_000_000), ..Overrides::default() };
        let short = with(4, 4096, &set).unwrap();
        assert!(
            short.batch_tokens < plain.batch_tokens && short.learning_rate < plain.learning_rate
        );
        assert!(short.tokens <= 2_000_000 && short.tokens > 2_000_000 - short.batch_tokens as u64);
        let all = Overrides {
            dim: Some(288),
            heads: Some(6),
            kv_heads: Some(3),
            head_dim: Some(48),
            ffn: Some(768),
            context: Some(256),
            tied: Some(false),
            tokens: Some(8192 * 7),
            batch_tokens: Some(8192),
            learning_rate: Some(5e-4),
            warmup: Some(3),
        };
        let d = with(6, 4096, &all).unwrap();
        assert_eq!(
            (d.dim, d.heads, d.kv_heads, d.head_dim, d.ffn, d.tied, d.steps, d.warmup),
            (288, 6, 3, 48, 768, false, 7, 3)
        );
        assert_eq!((d.learning_rate, d.tokens), (5e-4, 57344));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let set = Overrides::default;
        for (depth, vocabulary, set, expected) in [
            (0, 10, set(), "depth: 0 layers"),
            (129, 10, set(), "depth: 129"),
            (4, 0, set(), "vocabulary: it is empty"),
            (4, 10, Overrides { kv_heads: Some(3), ..set() }, "kv_heads: 3 do not divide 4"),
            (4, 10, Overrides { kv_heads: Some(0), ..set() }, "kv_heads: 0 do not divide"),
            (4, 10, Overrides { head_dim: Some(0), ..set() }, "head_dim: 0"),
            (4, 10, Overrides { context: Some(0), ..set() }, "context: 0"),
            (4, 10, Overrides { batch_tokens: Some(100), ..set() }, "batch_tokens: 100"),
            (4, 10, Overrides { learning_rate: Some(f64::NAN), ..set() }, "learning_rate: NaN"),
        ] {
            let error = with(depth, vocabulary, &set).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
