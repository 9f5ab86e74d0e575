//! The sizes of a decoder: everything a Llama has, and nothing that training alone needs.
//!
//! The key decision: one small struct that is checked once; widths and the number of parameters follow from it
//! here, counts under published conventions and FLOPs in `plan::sizes`.

use serde::{Deserialize, Serialize};
use yushan_abi::TokenId;

use crate::{Error, Result};

/// A target that does not count.
pub const IGNORE: TokenId = u32::MAX;

/// The sizes of a decoder; in brackets what Hugging Face's `config.json` calls them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Token ids, `V` (`vocab_size`).
    pub vocabulary: usize,
    /// Longest sequence in tokens (`max_position_embeddings`).
    pub context: usize,
    /// Width of the residual stream, `D` (`hidden_size`).
    pub dim: usize,
    /// Transformer blocks, `L` (`num_hidden_layers`).
    pub layers: usize,
    /// Query heads, `H` (`num_attention_heads`).
    pub heads: usize,
    /// Key and value heads, `K`; divides `heads` (`num_key_value_heads`).
    pub kv_heads: usize,
    /// Width of a head, `d`; even (`head_dim`).
    pub head_dim: usize,
    /// Width of the MLP, `F` (`intermediate_size`).
    pub ffn: usize,
    /// Whether the head is the embedding (`tie_word_embeddings`).
    pub tied: bool,
    /// Added to the mean square in RMSNorm (`rms_norm_eps`).
    pub norm_eps: f32,
    /// The base of the rotary frequencies (`rope_theta`).
    pub rope_base: f32,
}

/// Largest size of anything, so that no product overflows.
const MOST: usize = 1 << 24;

impl Shape {
    /// Whether a decoder of this shape can be.
    ///
    /// # Errors
    /// Names the size that does not fit, and what would.
    pub fn check(&self) -> Result<()> {
        let bad = |detail: String| Err(Error::bad("the model's shape", detail));
        let sizes = [
            ("vocabulary", self.vocabulary),
            ("context", self.context),
            ("dim", self.dim),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn", self.ffn),
        ];
        for (name, size) in sizes {
            if size == 0 || size > MOST {
                return bad(format!("{name} is {size}; expected 1 to {MOST}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let Shape { heads, kv_heads, .. } = self;
            return bad(format!(
                "{heads} heads cannot share {kv_heads} kv_heads evenly; make kv_heads a divisor of heads"
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad(format!(
                "head_dim is {}; rotary positions turn pairs, so make it even",
                self.head_dim
            ));
        }
        for (name, value) in [("norm_eps", self.norm_eps), ("rope_base", self.rope_base)] {
            if !(value.is_finite() && value > 0.0) {
                return bad(format!("{name} is {value}; expected a finite number above 0"));
            }
        }
        let total = self.parameters_wide();
        if total > u128::from(u32::MAX) * 64 {
            return bad(format!("{total} parameters; one process holds at most 2^38"));
        }
        Ok(())
    }

    /// `H d`, the width of all queries.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// `K d`, the width of all keys and of all values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// All parameters; a tied head counts once, with the embedding.
    pub fn parameters(&self) -> usize {
        self.parameters_wide() as usize
    }

    fn parameters_wide(&self) -> u128 {
        let [v, d, f, layers] =
            [self.vocabulary, self.dim, self.ffn, self.layers].map(|size| size as u128);
        let (q, kv) = (
            self.heads as u128 * self.head_dim as u128,
            self.kv_heads as u128 * self.head_dim as u128,
        );
        let block = 2 * d + d * (q + 2 * kv) + d * q + 3 * d * f;
        (if self.tied { 1 } else { 2 }) * v * d + layers * block + d
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small shape for tests: grouped heads and sizes that fit no register.
    pub(crate) fn odd(tied: bool) -> Shape {
        Shape {
            vocabulary: 53,
            context: 64,
            dim: 20,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 6,
            ffn: 28,
            tied,
            norm_eps: 1e-5,
            rope_base: 10_000.0,
        }
    }

    #[test]
    fn the_peers_shapes_have_the_peers_sizes() {
        let t1 = Shape {
            vocabulary: 4096,
            context: 256,
            dim: 288,
            layers: 6,
            heads: 6,
            kv_heads: 6,
            head_dim: 48,
            ffn: 768,
            tied: true,
            norm_eps: 1e-5,
            rope_base: 10_000.0,
        };
        assert_eq!(t1.parameters(), 7_155_360);
        let t2 =
            Shape { dim: 512, layers: 8, heads: 8, kv_heads: 8, head_dim: 64, ffn: 1376, ..t1 };
        assert_eq!(t2.parameters(), 27_402_752);
    }

    #[test]
    fn a_shape_that_cannot_be_is_refused_by_name() {
        let check = |change: fn(&mut Shape), expected: &str| {
            let mut shape = odd(true);
            change(&mut shape);
            let error = shape.check().expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        assert!(odd(false).check().is_ok());
        check(|s| s.layers = 0, "layers is 0");
        check(|s| s.ffn = usize::MAX, "ffn is");
        check(|s| s.kv_heads = 3, "kv_heads");
        check(|s| s.head_dim = 7, "head_dim is 7");
        check(|s| s.norm_eps = f32::NAN, "norm_eps is NaN");
        check(|s| (s.dim, s.ffn, s.layers) = (1 << 20, 1 << 20, 1 << 20), "parameters");
    }
}
