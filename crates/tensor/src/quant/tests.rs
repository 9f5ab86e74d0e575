//! Against the goldens of `tests/goldens/make_quant_goldens.py`, and properties.

use super::*;

const GOLDENS: &str = include_str!("../../tests/goldens/quant.txt");

fn dtype(name: &str) -> DType {
    DType::all().find(|dtype| dtype.name() == name).expect(name)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn floats(hex: &str) -> Vec<f32> {
    bytes(hex).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The lines of the golden file that start with `kind`, as words.
fn goldens(kind: &str) -> impl Iterator<Item = Vec<&'static str>> {
    GOLDENS.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(move |w| w[0] == kind)
}

#[test]
fn reading_gives_the_bits_of_an_independent_implementation() {
    let mut types = 0;
    for line in goldens("read") {
        let (dtype, row, expected) = (dtype(line[1]), bytes(line[2]), floats(line[3]));
        let mut values = vec![f32::NAN; expected.len()];
        dequantize_row(dtype, &row, &mut values);
        for (i, (value, expected)) in values.iter().zip(&expected).enumerate() {
            // The sign of a zero is the one thing that numpy's order of operations may change.
            let same = value.to_bits() == expected.to_bits() || *value == 0.0 && *expected == 0.0;
            assert!(same, "{dtype} element {i}: {value:e}, expected {expected:e}");
        }
        types += 1;
    }
    assert_eq!(types, DType::all().filter(|dtype| dtype.block_elements() > 1).count());
}

#[test]
fn floats_are_read_exactly() {
    let check = |dtype: DType, row: &[u8], expected: &[f32]| {
        let mut values = vec![f32::NAN; expected.len()];
        dequantize_row(dtype, row, &mut values);
        assert_eq!(values, expected, "{dtype}");
    };
    check(DType::F32, &[0, 0, 0x80, 0x3f, 1, 0, 0, 0], &[1.0, f32::from_bits(1)]);
    check(DType::F16, &[0, 0x3c, 1, 0, 0, 0xfc], &[1.0, 2f32.powi(-24), f32::NEG_INFINITY]);
    check(DType::BF16, &[0x80, 0x3f, 0x20, 0xc1], &[1.0, -10.0]);
}

#[test]
#[should_panic(expected = "a row of 300 elements as Q4_K")]
fn a_partial_block_is_refused() {
    dequantize_row(DType::Q4_K, &[0; 144], &mut [0.0; 300]);
}
