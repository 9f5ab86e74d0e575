//! Every kernel against three plain loops, bit for bit, and these against sums in f64.

use proptest::prelude::*;

use super::*;

/// The definition: blocks of fused multiply-adds, added in order.
fn oracle(a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize), c: &mut [f32], store: Store) {
    let length = block_length(k);
    for i in 0..m {
        for j in 0..n {
            let c = &mut c[i * n + j];
            let mut total = (store == Store::Add).then_some(*c);
            for k0 in (0..k.max(1)).step_by(length) {
                let block = k0..k.min(k0 + length);
                let sum = block.fold(0f32, |sum, p| a[i * k + p].mul_add(b[p * n + j], sum));
                total = Some(total.map_or(sum, |total| total + sum));
            }
            *c = total.unwrap_or(0.0);
        }
    }
}

/// Values of both signs and many sizes (xorshift).
fn values(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

/// The same matrix with `gap` more elements from row to row, transposed in memory if so asked.
fn laid_out(dense: &[f32], rows: usize, columns: usize, transposed: bool, gap: usize) -> Vec<f32> {
    let (r, c) = if transposed { (columns, rows) } else { (rows, columns) };
    let mut memory = vec![f32::NAN; r * (c + gap)];
    for i in 0..rows {
        for j in 0..columns {
            let at = if transposed { j * (c + gap) + i } else { i * (c + gap) + j };
            memory[at] = dense[i * columns + j];
        }
    }
    memory
}

fn operand(
    memory: &[f32],
    rows: usize,
    columns: usize,
    transposed: bool,
    gap: usize,
) -> Operand<'_> {
    let (r, c) = if transposed { (columns, rows) } else { (rows, columns) };
    let operand = Operand::new(memory, r, c).stride(c + gap);
    if transposed { operand.t() } else { operand }
}

#[derive(Clone, Debug)]
struct Case {
    shape: (usize, usize, usize),
    transposed: [bool; 2],
    gaps: [usize; 3],
    store: Store,
    seed: u64,
}

fn check(case: &Case) {
    let &Case { shape: (m, n, k), transposed, gaps, store, seed } = case;
    let (a, b) = (values(m * k, seed), values(k * n, seed + 1));
    let before = values(m * n, seed + 2);
    let mut expected = before.clone();
    oracle(&a, &b, (m, n, k), &mut expected, store);
    let a = laid_out(&a, m, k, transposed[0], gaps[0]);
    let b = laid_out(&b, k, n, transposed[1], gaps[1]);
    let a = operand(&a, m, k, transposed[0], gaps[0]);
    let b = operand(&b, k, n, transposed[1], gaps[1]);
    let stride = n + gaps[2];
    let fresh = || {
        let mut c = laid_out(&before, m, n, false, gaps[2]);
        c.iter_mut().filter(|c| c.is_nan()).for_each(|c| *c = 7.5);
        c
    };
    let right = |c: &[f32], how: &str| {
        for (i, row) in c.chunks(stride.max(1)).enumerate().take(m) {
            for (j, c) in row.iter().enumerate() {
                let expected = if j < n { expected[i * n + j] } else { 7.5 };
                assert_eq!(
                    c.to_bits(),
                    expected.to_bits(),
                    "{how} {case:?} ({i}, {j}): {c} {expected}"
                );
            }
        }
    };
    for isa in Isa::available() {
        let mut space = Workspace::default();
        for threads in 1..=4 {
            let mut c = fresh();
            let mut pool = Pool::stubborn(threads);
            gemm(&mut pool, isa, &mut space, a, b, Target { data: &mut c, stride, store });
            right(&c, &format!("{threads} threads {isa:?}"));
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let sides = || prop_oneof![1usize..40, 40usize..150];
    let depths = prop_oneof![0usize..20, 20usize..200, 280usize..300, 570usize..590];
    let gaps = || prop_oneof![Just(0usize), 1usize..20];
    let store = prop_oneof![Just(Store::Set), Just(Store::Add)];
    ((sides(), sides(), depths), any::<[bool; 2]>(), [gaps(), gaps(), gaps()], store, any::<u32>())
        .prop_map(|(shape, transposed, gaps, store, seed)| Case {
            shape,
            transposed,
            gaps,
            store,
            seed: seed.into(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_shape_layout_set_and_number_of_threads_gives_the_oracles_bits(case in cases()) {
        check(&case);
    }
}

#[test]
fn colliding_rows_and_split_columns_give_the_oracles_bits() {
    for (shape, gaps) in [
        ((70, 40, 256), [0, 0, 0]),
        ((30, 1100, 33), [0, 5, 0]),
        ((3, 4100, 9), [0, 0, 1]),
        ((256, 33, 40), [216, 0, 3]),
        ((0, 5, 5), [0, 0, 0]),
        ((5, 0, 5), [0, 0, 0]),
    ] {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            check(&Case { shape, transposed, gaps, store: Store::Add, seed: 3 });
        }
    }
}

#[test]
fn the_oracle_is_close_to_sums_in_f64() {
    let (m, n, k) = (5, 7, 1000);
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let mut c = vec![0.0; m * n];
    oracle(&a, &b, (m, n, k), &mut c, Store::Set);
    for i in 0..m {
        for j in 0..n {
            let exact: f64 =
                (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum();
            assert!((f64::from(c[i * n + j]) - exact).abs() < 1e-4, "({i}, {j})");
        }
    }
}

#[test]
#[should_panic(expected = "(2, 3) times (4, 5)")]
fn shapes_that_do_not_agree_are_named() {
    let (a, b) = ([0.0; 6], [0.0; 20]);
    let (a, b) = (Operand::new(&a, 2, 3), Operand::new(&b, 4, 5));
    let c = Target { data: &mut [0.0; 10], stride: 5, store: Store::Set };
    gemm(&mut Pool::new(1), Isa::SCALAR, &mut Workspace::default(), a, b, c);
}
