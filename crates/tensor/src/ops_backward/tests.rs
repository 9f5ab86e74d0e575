use super::*;
use crate::Isa;
use crate::ops::rms_norm;

/// Seeded values in -1..1.
fn values(count: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Whether `gradient` is the slope of `loss` at `x`, by central differences of an f64 oracle.
fn check(name: &str, x: &[f32], gradient: &[f32], loss: &dyn Fn(&[f64]) -> f64) {
    let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    for i in 0..x.len() {
        let at = |step: f64| {
            let mut moved = x.clone();
            moved[i] += step;
            loss(&moved)
        };
        let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
        let got = f64::from(gradient[i]);
        assert!((got - slope).abs() < 2e-5 * (1.0 + slope.abs()), "{name} {i}: {got}, not {slope}");
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn norms_agree_with_finite_differences() {
    for n in [1, 7, 16, 37, 64] {
        let (x, w, dy) = (values(n, 1), values(n, 2), values(n, 3));
        let oracle = |x: &[f64], w: &[f64]| {
            let r = 1.0 / (dot(x, x) / n as f64 + 1e-5).sqrt();
            x.iter().zip(w).zip(&dy).map(|((x, w), dy)| x * r * w * f64::from(*dy)).sum()
        };
        for isa in Isa::available() {
            let (mut dx, mut dw) = (vec![0.5; n], vec![0.25; n]);
            rms_norm_backward(isa, &x, &w, 1e-5, &dy, &mut dx, &mut dw);
            dx.iter_mut().for_each(|v| *v -= 0.5);
            dw.iter_mut().for_each(|v| *v -= 0.25);
            check("dx", &x, &dx, &|x| oracle(x, &wide(&w)));
            check("dweight", &w, &dw, &|w| oracle(&wide(&x), w));
            let mut y = vec![0.0; n];
            rms_norm(isa, &x, &w, 1e-5, &mut y);
            let got = dot(&wide(&y), &wide(&dy));
            assert!((got - oracle(&wide(&x), &wide(&w))).abs() < 1e-5, "forward");
        }
    }
}

#[test]
fn the_gate_agrees_with_finite_differences() {
    let n = 37;
    let (gate, up, dout) =
        (values(n, 4).iter().map(|v| v * 6.0).collect::<Vec<_>>(), values(n, 5), values(n, 6));
    let oracle = |g: &[f64], u: &[f64]| {
        let one = |i: usize| g[i] / (1.0 + (-g[i]).exp()) * u[i] * f64::from(dout[i]);
        (0..n).map(one).sum::<f64>()
    };
    for isa in Isa::available() {
        let mut out = vec![0.0; n];
        gated(isa, &gate, &up, &mut out);
        let got = dot(&wide(&out), &wide(&dout));
        assert!((got - oracle(&wide(&gate), &wide(&up))).abs() < 1e-4, "forward");
        let (mut dg, mut du, mut again) = (gate.clone(), up.clone(), vec![0.0; n]);
        gated_backward(isa, &mut dg, &mut du, &dout, &mut again);
        check("dgate", &gate, &dg, &|g| oracle(g, &wide(&up)));
        check("dup", &up, &du, &|u| oracle(&wide(&gate), u));
        assert!(again.iter().zip(&out).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

#[test]
fn turning_agrees_with_rope_and_turns_back() {
    let angles: Vec<f32> = values(5, 7).iter().map(|v| v * 3.0).collect();
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let (x, dy) = (values(10, 8), values(10, 9));
    let oracle = |x: &[f64]| -> f64 {
        (0..5)
            .map(|i| {
                let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                let low = x[i] * c - x[i + 5] * s;
                let high = x[i] * s + x[i + 5] * c;
                0.5 * (low * f64::from(dy[i]) + high * f64::from(dy[i + 5]))
            })
            .sum()
    };
    for isa in Isa::available() {
        let mut dx = vec![0.0; 10];
        turned_backward(isa, &dy, &cos, &sin, 0.5, &mut dx);
        check("dx", &x, &dx, &oracle);
        let (mut once, mut rope) = (vec![0.0; 10], x.clone());
        turned(isa, &x, &cos, &sin, 1.0, &mut once);
        crate::ops::rope_halves(isa, &mut rope, 10, &cos, &sin);
        assert_eq!(once, rope);
    }
}

#[test]
fn the_loss_agrees_with_finite_differences() {
    for n in [1, 3, 16, 53] {
        let logits: Vec<f32> = values(n, 10).iter().map(|v| v * 9.0).collect();
        let target = n / 2;
        let oracle = |x: &[f64]| x.iter().map(|v| v.exp()).sum::<f64>().ln() - x[target];
        for isa in Isa::available() {
            let mut gradient = logits.clone();
            let loss = cross_entropy(isa, &mut gradient, target, 0.5);
            assert!((f64::from(loss) - oracle(&wide(&logits))).abs() < 2e-6, "{loss}");
            check("dlogits", &logits, &gradient, &|x| 0.5 * oracle(x));
        }
    }
    // Far apart, and not a number: no overflow, and no silence.
    let mut far = [1e30, -1e30, 0.0];
    assert_eq!(cross_entropy(Isa::best(), &mut far, 0, 1.0), 0.0);
    let mut poisoned = [0.0, f32::NAN, 1.0];
    assert!(cross_entropy(Isa::best(), &mut poisoned, 0, 1.0).is_nan());
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let (a, b, c) = (values(83, 11), values(83, 12), values(83, 13));
    let run = |isa| {
        let (mut dx, mut dw, mut loss) = (a.clone(), b.clone(), c.clone());
        rms_norm_backward(isa, &a, &b, 1e-5, &c, &mut dx, &mut dw);
        let (mut g, mut u, mut out) = (a.clone(), b.clone(), vec![0.0; 83]);
        gated_backward(isa, &mut g, &mut u, &c, &mut out);
        let l = cross_entropy(isa, &mut loss, 7, 0.1);
        [dx, dw, loss, g, u, out, vec![l]].concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    for isa in Isa::available() {
        assert_eq!(run(isa), run(Isa::SCALAR), "{isa:?}");
    }
}
