//! Every kernel against the oracle, bit for bit, and the oracle against first principles.

use crate::activations::{Activations, Kind};
use crate::linear::{Input, Product, Store, products};
use crate::{DType, Isa, Matrix, Pool};

/// A small generator of test data (xorshift); the seed is in the message of a failing test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Random bytes with sane half-precision scales wherever a block has one.
pub(super) fn random_rows(dtype: DType, rows: usize, columns: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut data: Vec<u8> =
        (0..dtype.bytes(rows * columns).unwrap_or(0)).map(|_| random.next() as u8).collect();
    let halves: &[usize] = match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q6_K => &[208],
        DType::Q3_K => &[108],
        DType::Q2_K => &[80, 82],
        _ => &[],
    };
    for block in data.chunks_exact_mut(dtype.block_bytes()) {
        let value = random.unit();
        match dtype {
            DType::F32 => block.copy_from_slice(&value.to_le_bytes()),
            DType::F16 => block.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
            DType::BF16 => block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            _ => {}
        }
        for &at in halves {
            let value = half::f16::from_f32(random.unit() * 0.1);
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    data
}

fn product(isa: Isa, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    let columns = matrix.columns();
    let tokens = x.len() / columns;
    let mut quantized = Activations::new(Kind::of(matrix.layout()), columns, tokens);
    quantized.resize(tokens);
    for (c, x) in x.chunks_exact(columns).enumerate() {
        quantized.set(isa, c, x);
    }
    let mut out = vec![0.0; tokens * matrix.rows()];
    let mut pool = Pool::new(1);
    let input =
        Input { dense: x, stride: columns, quantized: std::slice::from_ref(&quantized), tokens };
    let mut job = [Product { matrix, bias: None, out: Store::Set(&mut out) }];
    products(&mut pool, isa, input, &mut job);
    out
}

fn check(dtype: DType, rows: usize, columns: usize, tokens: usize, seed: u64) {
    let mut pool = Pool::new(2);
    let data = random_rows(dtype, rows, columns, seed);
    let matrix = Matrix::pack(dtype, rows, columns, &data, &mut pool).expect("packs");
    let mut random = Random(seed ^ 0x5eed);
    let x: Vec<f32> = (0..tokens * columns).map(|_| random.unit() * 3.0).collect();
    let oracle = product(Isa::SCALAR, &matrix, &x);
    for isa in Isa::available() {
        let got = product(isa, &matrix, &x);
        for (i, (a, b)) in oracle.iter().zip(&got).enumerate() {
            assert_eq!(
                a.to_bits(),
                b.to_bits(),
                "{dtype} {isa:?} {rows}x{columns}, {tokens} tokens, seed {seed}: output {i} is {b}, not {a}"
            );
        }
    }
    // The oracle against plain arithmetic on the dequantized weights: close, since only the
    // activations were rounded.
    let mut weights = vec![0f32; rows * columns];
    crate::quant::dequantize_row(dtype, &data, &mut weights);
    for t in 0..tokens {
        let x = &x[t * columns..][..columns];
        for r in 0..rows {
            let w = &weights[r * columns..][..columns];
            let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            let size: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
            let got = f64::from(oracle[t * rows + r]);
            let slack = if dtype.block_elements() == 1 { 1e-5 } else { 3.0 / 127.0 };
            assert!(
                (got - exact).abs() <= size * slack + 1e-4,
                "{dtype} seed {seed}: row {r} token {t}: {got}, not {exact}"
            );
        }
    }
}

#[test]
fn every_kernel_gives_the_bits_of_the_oracle() {
    let mut seed = 1;
    for dtype in DType::all() {
        for (rows, columns, tokens) in [
            (16, 256, 1),
            (33, 512, 3),
            (48, 256, 7),
            (16, 1024, 65),
            (20, 768, 130),
            (40, 1280, 191),
        ] {
            seed += 1;
            check(dtype, rows, columns, tokens, seed);
        }
        if dtype.block_elements() <= 32 {
            check(dtype, 40, 96, 9, seed);
        }
    }
}

#[test]
fn extreme_quants_do_not_overflow_the_narrow_sums() {
    // All quants at their extremes, all activations at +-127: the largest sums there can be.
    let mut pool = Pool::new(1);
    for dtype in DType::all().filter(|dtype| dtype.block_elements() > 1) {
        for fill in [0x00u8, 0xff, 0x80, 0x7f] {
            let mut data = random_rows(dtype, 16, 256, 9);
            let sane = data.clone();
            data.fill(fill);
            // Scales stay sane: NaN scales would hide the sums.
            let skip: &[usize] = match dtype {
                DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 1, 2, 3],
                DType::Q6_K => &[208, 209],
                DType::Q3_K => &[108, 109],
                DType::Q2_K => &[80, 81, 82, 83],
                _ => &[0, 1],
            };
            let size = dtype.block_bytes();
            for (block, sane) in data.chunks_exact_mut(size).zip(sane.chunks_exact(size)) {
                skip.iter().for_each(|&at| block[at] = sane[at]);
            }
            let matrix = Matrix::pack(dtype, 16, 256, &data, &mut pool).expect("packs");
            for signs in 0..3 {
                let x: Vec<f32> = (0..256)
                    .map(|k| if signs == 0 || signs == 1 && k % 4 < 2 { 1.0 } else { -1.0 })
                    .collect();
                let oracle = product(Isa::SCALAR, &matrix, &x);
                for isa in Isa::available() {
                    assert_eq!(
                        oracle,
                        product(isa, &matrix, &x),
                        "{dtype} {fill:#x} {signs} {isa:?}"
                    );
                }
            }
        }
    }
}
