//! Storage types of tensors: their names, block sizes and GGUF numbers.
//!
//! Source: the GGUF specification (`ggml_type`) and the block structures of ggml. Only types that
//! the engine can run are listed; a reader that meets another number reports it.

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)] // the field writes them so
#[allow(missing_docs)] // the names are the documentation; sizes are in `block`
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
}

/// One row of the table below: type, GGUF number, elements a block, bytes a block, name.
type Row = (DType, u32, usize, usize, &'static str);

const TABLE: &[Row] = &[
    (DType::F32, 0, 1, 4, "F32"),
    (DType::F16, 1, 1, 2, "F16"),
    (DType::Q4_0, 2, 32, 18, "Q4_0"),
    (DType::Q4_1, 3, 32, 20, "Q4_1"),
    (DType::Q5_0, 6, 32, 22, "Q5_0"),
    (DType::Q5_1, 7, 32, 24, "Q5_1"),
    (DType::Q8_0, 8, 32, 34, "Q8_0"),
    (DType::Q2_K, 10, 256, 84, "Q2_K"),
    (DType::Q3_K, 11, 256, 110, "Q3_K"),
    (DType::Q4_K, 12, 256, 144, "Q4_K"),
    (DType::Q5_K, 13, 256, 176, "Q5_K"),
    (DType::Q6_K, 14, 256, 210, "Q6_K"),
    (DType::IQ4_NL, 20, 32, 18, "IQ4_NL"),
    (DType::BF16, 30, 1, 2, "BF16"),
];

impl DType {
    /// Every type, in GGUF order.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.0 == self).expect("every type has a row")
    }

    /// The type with this `ggml_type` number, if the engine knows it.
    pub fn from_gguf(number: u32) -> Option<DType> {
        TABLE.iter().find(|row| row.1 == number).map(|row| row.0)
    }

    /// The `ggml_type` number.
    pub fn gguf(self) -> u32 {
        self.row().1
    }

    /// Elements in a block: 1, 32 or 256.
    pub fn block_elements(self) -> usize {
        self.row().2
    }

    /// Bytes in a block.
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of `elements` elements, or `None` when they are no whole number of blocks or the
    /// product overflows.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The name as GGUF tools print it, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().4
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        for dtype in DType::all() {
            assert_eq!(DType::from_gguf(dtype.gguf()), Some(dtype));
            assert_eq!(DType::all().filter(|other| other.name() == dtype.name()).count(), 1);
        }
        assert_eq!(DType::from_gguf(9999), None);
    }

    #[test]
    fn bytes_refuse_partial_blocks_and_overflow() {
        assert_eq!(DType::Q4_K.bytes(512), Some(288));
        assert_eq!(DType::Q4_K.bytes(500), None);
        assert_eq!(DType::F32.bytes(usize::MAX), None);
    }
}
