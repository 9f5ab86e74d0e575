//! Against the goldens of `tests/goldens/make_quant_goldens.py`, and properties.

use proptest::prelude::*;

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

#[test]
fn writing_gives_the_bytes_of_llama_cpp() {
    let inputs: Vec<(&str, Vec<f32>)> =
        goldens("input").map(|line| (line[1], floats(line[2]))).collect();
    let mut checked = 0;
    for line in goldens("write") {
        let (dtype, name, expected) = (dtype(line[1]), line[2], bytes(line[3]));
        let (_, values) = inputs.iter().find(|input| input.0 == name).expect("an input line");
        let mut row = vec![0xAA; expected.len()];
        quantize_row(dtype, values, &mut row);
        let size = dtype.block_bytes();
        for (i, (block, expected)) in row.chunks(size).zip(expected.chunks(size)).enumerate() {
            assert_eq!(block, expected, "{dtype}, input {name}, block {i}");
        }
        checked += 1;
    }
    assert_eq!(checked, 5 * 13);
}

/// A normal number from two of splitmix64 (Box and Muller).
fn normal(state: &mut u64) -> f32 {
    let mut uniform = || {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    };
    let (radius, angle) = ((-2.0 * (1.0 - uniform()).ln()).sqrt(), uniform());
    (radius * (std::f64::consts::TAU * angle).cos()) as f32
}

/// Writes and reads.
fn round_trip(dtype: DType, values: &[f32]) -> Vec<f32> {
    let mut row = vec![0xAA; dtype.bytes(values.len()).expect("whole blocks")];
    let mut back = vec![f32::NAN; values.len()];
    quantize_row(dtype, values, &mut row);
    dequantize_row(dtype, &row, &mut back);
    back
}

#[test]
fn errors_are_no_larger_than_those_of_llama_cpp() {
    let mut seed = 3952;
    let values: Vec<f32> = (0..262_144).map(|_| normal(&mut seed)).collect();
    let power: f64 = values.iter().map(|x| (*x as f64).powi(2)).sum();
    for line in goldens("rmse") {
        let (dtype, expected) = (dtype(line[1]), line[2].parse::<f64>().expect("a number"));
        let back = round_trip(dtype, &values);
        let error: f64 = values.iter().zip(&back).map(|(x, y)| ((x - y) as f64).powi(2)).sum();
        let rmse = (error / power).sqrt();
        assert!(rmse < expected * 1.01, "{dtype}: {rmse:.6} against {expected:.6}");
    }
}

/// Numbers with every exponent, and now and then any bits at all (NaN, infinities, subnormals).
fn any_number() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x87FF_FFFF | 0x3800_0000)),
        1 => any::<u32>().prop_map(f32::from_bits),
        1 => Just(0.0f32),
    ]
}

proptest! {
    /// Whatever the numbers are, nothing panics, and a row that reads back finite is told apart
    /// from one that does not.
    #[test]
    fn no_number_panics(values in proptest::collection::vec(any_number(), 256)) {
        for dtype in DType::all() {
            let mut row = vec![0; dtype.bytes(256).unwrap()];
            let mut back = vec![0.0; 256];
            quantize_row(dtype, &values, &mut row);
            dequantize_row(dtype, &row, &mut back);
            prop_assert_eq!(row_is_finite(dtype, &row), back.iter().all(|x| x.is_finite()), "{}", dtype);
        }
    }

    /// Any bytes are some block.
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 1024)) {
        for dtype in DType::all() {
            let mut back = vec![0.0; 256];
            dequantize_row(dtype, &bytes[..dtype.bytes(256).unwrap()], &mut back);
        }
    }

    /// A block does not depend on its neighbours.
    #[test]
    fn blocks_are_independent(values in proptest::collection::vec(-1f32..1.0, 768), scale in 1e-3f32..1e3) {
        let values: Vec<f32> = values.iter().map(|x| x * scale).collect();
        for dtype in DType::all() {
            let size = dtype.bytes(256).unwrap();
            let mut row = vec![0; 3 * size];
            quantize_row(dtype, &values, &mut row);
            let mut middle = vec![0; size];
            quantize_row(dtype, &values[256..512], &mut middle);
            prop_assert_eq!(&row[size..2 * size], &middle[..], "{}", dtype);
        }
    }

    /// A constant row is off by half a level of the coarsest type at most, a row of zeros not at all.
    #[test]
    fn constant_rows_stay_constant(constant in prop_oneof![Just(0f32), 1e-2f32..1e3, -1e3f32..-1e-2]) {
        for dtype in DType::all() {
            let back = round_trip(dtype, &[constant; 256]);
            for value in back {
                let bound = constant.abs() * if dtype.block_bytes() == 84 { 0.04 } else { 0.02 };
                prop_assert!((value - constant).abs() <= bound, "{}: {} became {}", dtype, constant, value);
            }
        }
    }
}
