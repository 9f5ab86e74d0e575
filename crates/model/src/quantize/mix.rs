//! Which tensor of a file gets which type.
//!
//! The key decision: the mixes are llama.cpp's (`llama_tensor_get_type` in `llama-quant.cpp`), so
//! that a name such as Q4_K_M means one thing everywhere. Only matrices change; norms, biases and
//! tables of rotary factors stay as they are. Tensors that lose most get more bits: the output head
//! (the embedding too where it serves as the head), and in the `_M` mixes the value projections and
//! the `ffn_down` of the layers that [`wants_more_bits`] names.

use yushan_tensor::DType;

use crate::{Error, Result};

/// What a file is quantized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)] // the field writes them so
#[allow(missing_docs)] // the names are the documentation
pub enum Quantization {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_K_M,
    Q5_K_M,
    Q6_K,
}

/// Target, its name, `general.file_type` (`llama_ftype` of llama.cpp), the type of most matrices.
type Row = (Quantization, &'static str, u32, DType);

const TABLE: [Row; 8] = [
    (Quantization::F32, "F32", 0, DType::F32),
    (Quantization::F16, "F16", 1, DType::F16),
    (Quantization::BF16, "BF16", 32, DType::BF16),
    (Quantization::Q8_0, "Q8_0", 7, DType::Q8_0),
    (Quantization::Q4_0, "Q4_0", 2, DType::Q4_0),
    (Quantization::Q4_K_M, "Q4_K_M", 15, DType::Q4_K),
    (Quantization::Q5_K_M, "Q5_K_M", 17, DType::Q5_K),
    (Quantization::Q6_K, "Q6_K", 18, DType::Q6_K),
];

impl Quantization {
    /// Every target.
    pub fn all() -> impl Iterator<Item = Quantization> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    /// The name, e.g. `Q4_K_M`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The number under `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.row().2
    }

    /// The type that most matrices get.
    pub fn matrix_type(self) -> DType {
        self.row().3
    }
}

impl std::fmt::Display for Quantization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Quantization {
    type Err = Error;

    /// By name, in any case.
    fn from_str(name: &str) -> Result<Self> {
        let found = TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(name));
        found.map(|row| row.0).ok_or_else(|| Error::Unsupported {
            what: format!("the type \"{name}\""),
            expected: format!("one of {}", TABLE.map(|row| row.1).join(", ")),
        })
    }
}

/// What the choice needs to know of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    /// Outermost first, as everywhere.
    pub(super) shape: &'a [usize],
}

/// What the choice needs to know of the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub(super) layers: usize,
    /// Eight query heads share one head of values, as in Llama 2 70B: values are small and get more.
    pub(super) small_values: bool,
}

/// The type of one tensor, and whether its shape forced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) dtype: DType,
    pub(super) fallback: bool,
}

/// The types of all tensors, which must come in the order of [`order`].
pub(super) fn choose(target: Quantization, model: Model, tensors: &[Tensor<'_>]) -> Vec<Choice> {
    let is_value = |name: &str| name.contains("attn_v.weight");
    let tied = !tensors.iter().any(|tensor| tensor.name == "output.weight");
    let values = tensors.iter().filter(|tensor| is_value(tensor.name)).count();
    let (mut value_index, mut down_index) = (0, 0);
    let choice = |tensor: &Tensor<'_>| {
        let base = target.matrix_type();
        if !is_matrix(tensor) {
            return Choice { dtype: tensor.dtype, fallback: false };
        }
        if base.block_elements() == 1 {
            return Choice { dtype: base, fallback: false };
        }
        let columns = tensor.shape.last().copied().unwrap_or(0);
        let mixed = matches!(target, Quantization::Q4_K_M | Quantization::Q5_K_M);
        let name = tensor.name;
        let mut dtype = base;
        if name == "output.weight" || tied && name == "token_embd.weight" {
            dtype = head_type(base, columns);
        } else if is_value(name) {
            if mixed && wants_more_bits(value_index, values) {
                dtype = DType::Q6_K;
            } else if model.small_values && base == DType::Q4_K {
                dtype = DType::Q5_K;
            }
            value_index += 1;
        } else if name.contains("ffn_down") {
            if mixed && wants_more_bits(down_index, model.layers) {
                dtype = DType::Q6_K;
            }
            down_index += 1;
        }
        fit(dtype, columns)
    };
    tensors.iter().map(choice).collect()
}

/// The order in which llama.cpp writes and counts tensors: those of no layer first, then layer by
/// layer, each by name.
pub(crate) fn order(name: &str) -> (Option<usize>, &str) {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
    (layer.and_then(|number| number.parse().ok()), name)
}

/// Whether this layer is one of those where bits count most: the first eighth, the last eighth, and
/// every third between.
fn wants_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// Weights with at least two dimensions that are not norms or routers of experts.
fn is_matrix(tensor: &Tensor<'_>) -> bool {
    // Leading dimensions of one row do not count.
    let dimensions = tensor.shape.iter().skip_while(|size| **size == 1).count();
    dimensions >= 2
        && tensor.name.ends_with("weight")
        && !tensor.name.contains("_norm.weight")
        && !tensor.name.contains("ffn_gate_inp.weight")
}

/// The type of the output head.
fn head_type(base: DType, columns: usize) -> DType {
    if base == DType::Q8_0 || !columns.is_multiple_of(base.block_elements()) {
        DType::Q8_0
    } else {
        DType::Q6_K
    }
}

/// A type whose blocks fill the rows: a K-quant gives way to a type of 32 with one bit more or two,
/// and anything to F16 where the columns are no multiple of 32 either.
fn fit(dtype: DType, columns: usize) -> Choice {
    if columns.is_multiple_of(dtype.block_elements()) {
        return Choice { dtype, fallback: false };
    }
    let smaller = match dtype {
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        other => other,
    };
    let fits = columns.is_multiple_of(smaller.block_elements());
    Choice { dtype: if fits { smaller } else { DType::F16 }, fallback: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the types of some tensors of a model with `layers` layers and `width` columns.
    fn check(
        target: Quantization,
        layers: usize,
        width: usize,
        tied: bool,
        expected: &[(&str, DType)],
    ) {
        let mut tensors = vec![("token_embd.weight".to_string(), vec![1000, width])];
        if !tied {
            tensors.push(("output.weight".to_string(), vec![1000, width]));
        }
        tensors.push(("output_norm.weight".to_string(), vec![width]));
        for layer in 0..layers {
            for (name, shape) in [
                ("attn_norm.weight", vec![width]),
                ("attn_q.weight", vec![width, width]),
                ("attn_q.bias", vec![width]),
                ("attn_v.weight", vec![width, width]),
                ("ffn_down.weight", vec![width, 1536]),
            ] {
                tensors.push((format!("blk.{layer}.{name}"), shape));
            }
        }
        tensors.sort_by(|a, b| order(&a.0).cmp(&order(&b.0)));
        let tensors: Vec<Tensor<'_>> = tensors
            .iter()
            .map(|(name, shape)| {
                let dtype = if shape.len() == 1 { DType::F32 } else { DType::F16 };
                Tensor { name, dtype, shape }
            })
            .collect();
        let choices = choose(target, Model { layers, small_values: false }, &tensors);
        for (name, dtype) in expected {
            let at = tensors.iter().position(|tensor| tensor.name == *name).expect(name);
            assert_eq!(choices[at].dtype, *dtype, "{target} {name}");
        }
    }

    #[test]
    fn mixes_are_those_of_llama_cpp() {
        use DType::*;
        let norms = [
            ("output_norm.weight", F32),
            ("blk.3.attn_norm.weight", F32),
            ("blk.3.attn_q.bias", F32),
        ];
        for target in Quantization::all() {
            check(target, 16, 2048, false, &norms);
        }
        // 16 layers: an eighth is 2, so 0, 1, 4, 7, 10, 13, 14, 15 get more bits.
        check(
            Quantization::Q4_K_M,
            16,
            2048,
            false,
            &[
                ("output.weight", Q6_K),
                ("token_embd.weight", Q4_K),
                ("blk.5.attn_q.weight", Q4_K),
                ("blk.0.attn_v.weight", Q6_K),
                ("blk.2.attn_v.weight", Q4_K),
                ("blk.4.attn_v.weight", Q6_K),
                ("blk.10.ffn_down.weight", Q6_K),
                ("blk.11.ffn_down.weight", Q4_K),
                ("blk.15.ffn_down.weight", Q6_K),
            ],
        );
        check(
            Quantization::Q5_K_M,
            16,
            2048,
            true,
            &[
                ("token_embd.weight", Q6_K),
                ("blk.1.attn_v.weight", Q6_K),
                ("blk.3.attn_v.weight", Q5_K),
            ],
        );
        check(
            Quantization::Q4_0,
            16,
            2048,
            false,
            &[("output.weight", Q6_K), ("token_embd.weight", Q4_0), ("blk.0.attn_v.weight", Q4_0)],
        );
        check(
            Quantization::Q8_0,
            16,
            2048,
            false,
            &[("output.weight", Q8_0), ("blk.0.ffn_down.weight", Q8_0)],
        );
        check(
            Quantization::BF16,
            16,
            2048,
            false,
            &[("output.weight", BF16), ("token_embd.weight", BF16)],
        );
    }

    #[test]
    fn rows_that_no_block_fills_get_another_type() {
        use DType::*;
        // SmolLM 135M: 576 columns are a multiple of 32, not of 256.
        check(
            Quantization::Q4_K_M,
            30,
            576,
            true,
            &[
                ("token_embd.weight", Q8_0),
                ("blk.0.attn_q.weight", Q5_0),
                ("blk.0.attn_v.weight", Q8_0),
                ("blk.0.ffn_down.weight", Q6_K),
                ("blk.4.ffn_down.weight", Q4_K),
            ],
        );
        check(Quantization::Q5_K_M, 30, 576, true, &[("blk.0.attn_q.weight", Q5_1)]);
        check(Quantization::Q6_K, 30, 576, true, &[("blk.0.attn_q.weight", Q8_0)]);
        check(
            Quantization::Q4_0,
            30,
            576,
            true,
            &[("token_embd.weight", Q8_0), ("blk.0.attn_q.weight", Q4_0)],
        );
        // No multiple of 32 at all.
        check(
            Quantization::Q4_0,
            5,
            72,
            true,
            &[("token_embd.weight", F16), ("blk.0.attn_q.weight", F16)],
        );
    }

    #[test]
    fn names_round_trip_and_unknown_ones_list_the_known() {
        for target in Quantization::all() {
            assert_eq!(target.name().to_lowercase().parse::<Quantization>().ok(), Some(target));
        }
        let error = "Q3_K_M".parse::<Quantization>().unwrap_err().to_string();
        assert!(error.contains("Q3_K_M") && error.contains("Q4_K_M"), "{error}");
    }
}
