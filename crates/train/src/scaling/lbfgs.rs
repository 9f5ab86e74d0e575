//! L-BFGS: the minimum of a smooth function of a few numbers.
//!
//! The key decision: a weak Wolfe line search by bisection (Lewis and Overton, "Nonsmooth optimization via
//! quasi-Newton methods", 2013), which needs no cubic interpolation and bears the kinks of a Huber loss.
//! Arrays of a fixed size: a fit allocates nothing. No bounds: callers choose coordinates that need none.

/// Pairs of steps that the curvature is remembered by.
const MEMORY: usize = 8;

/// Where a search ended.
#[derive(Clone, Copy, Debug)]
pub struct Minimum<const N: usize> {
    /// The point.
    pub at: [f64; N],
    /// The function there.
    pub value: f64,
    /// Steps that were made.
    pub steps: usize,
}

/// Searches from `start`, at most `steps` steps, until the function falls by less than a part in 1e13.
/// `function` gives value and gradient; a value that is not finite counts as infinitely bad.
pub fn minimise<const N: usize>(
    start: [f64; N],
    steps: usize,
    mut function: impl FnMut(&[f64; N]) -> (f64, [f64; N]),
) -> Minimum<N> {
    let (mut at, (mut value, mut gradient)) = (start, function(&start));
    let mut memory: Vec<([f64; N], [f64; N])> = Vec::with_capacity(MEMORY);
    let mut quiet = 0;
    for step in 0..steps {
        let mut direction = descent(&gradient, &memory);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 || !slope.is_finite() {
            memory.clear();
            direction = descent(&gradient, &memory);
            slope = dot(&direction, &gradient);
        }
        let Some((next, next_value, next_gradient)) =
            search(&at, value, slope, &direction, &mut function)
        else {
            return Minimum { at, value, steps: step };
        };
        let (moved, turned) = (minus(&next, &at), minus(&next_gradient, &gradient));
        if dot(&moved, &turned) > 1e-14 * dot(&turned, &turned) {
            if memory.len() == MEMORY {
                memory.remove(0);
            }
            memory.push((moved, turned));
        }
        // Twice in a row, since one step can be short by chance.
        quiet = if value - next_value <= 1e-13 * value.abs().max(1e-300) { quiet + 1 } else { 0 };
        (at, value, gradient) = (next, next_value, next_gradient);
        if quiet == 2 {
            return Minimum { at, value, steps: step + 1 };
        }
    }
    Minimum { at, value, steps }
}

/// The two-loop recursion (Nocedal 1980); steepest descent of unit length when nothing is remembered.
fn descent<const N: usize>(gradient: &[f64; N], memory: &[([f64; N], [f64; N])]) -> [f64; N] {
    let Some((moved, turned)) = memory.last() else {
        let length = dot(gradient, gradient).sqrt().max(1.0);
        return gradient.map(|g| -g / length);
    };
    let mut q = *gradient;
    let mut shares = [0.0; MEMORY];
    for (share, (s, y)) in shares.iter_mut().zip(memory).rev() {
        *share = dot(s, &q) / dot(s, y);
        add(&mut q, -*share, y);
    }
    let scale = dot(moved, turned) / dot(turned, turned);
    q.iter_mut().for_each(|q| *q *= scale);
    for (share, (s, y)) in shares.iter().zip(memory) {
        let back = dot(y, &q) / dot(s, y);
        add(&mut q, share - back, s);
    }
    q.map(|q| -q)
}

/// A step that falls enough (Armijo) and after which the slope is flatter (weak Wolfe).
fn search<const N: usize>(
    at: &[f64; N],
    value: f64,
    slope: f64,
    direction: &[f64; N],
    function: &mut impl FnMut(&[f64; N]) -> (f64, [f64; N]),
) -> Option<([f64; N], f64, [f64; N])> {
    let (mut low, mut high, mut length) = (0.0, f64::INFINITY, 1.0);
    let mut best = None;
    for _ in 0..50 {
        let mut next = *at;
        add(&mut next, length, direction);
        let (next_value, next_gradient) = function(&next);
        // NaN is not low enough either.
        let low_enough = next_value <= value + 1e-4 * length * slope;
        if !low_enough {
            high = length;
        } else {
            best = Some((next, next_value, next_gradient));
            if dot(&next_gradient, direction) >= 0.9 * slope {
                return best;
            }
            low = length;
        }
        length = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    best
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn minus<const N: usize>(a: &[f64; N], b: &[f64; N]) -> [f64; N] {
    std::array::from_fn(|i| a[i] - b[i])
}

fn add<const N: usize>(to: &mut [f64; N], factor: f64, what: &[f64; N]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += factor * what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_known_minima() {
        let rosenbrock = |x: &[f64; 2]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            (a * a + 100.0 * b * b, [-2.0 * a - 400.0 * x[0] * b, 200.0 * b])
        };
        let found = minimise([-1.2, 1.0], 200, rosenbrock);
        assert!(found.at.iter().all(|x| (x - 1.0).abs() < 1e-6) && found.steps < 60, "{found:?}");
        // A quadratic of condition 1e8.
        let found = minimise([3.0; 5], 500, |x: &[f64; 5]| {
            let weight = |i: usize| 10f64.powi(2 * i as i32);
            (
                x.iter().enumerate().map(|(i, x)| 0.5 * weight(i) * (x - i as f64).powi(2)).sum(),
                std::array::from_fn(|i| weight(i) * (x[i] - i as f64)),
            )
        });
        assert!(found.at.iter().enumerate().all(|(i, x)| (x - i as f64).abs() < 1e-5), "{found:?}");
    }

    #[test]
    fn bears_kinks_and_cliffs() {
        let kink =
            minimise([5.0], 200, |x: &[f64; 1]| ((x[0] - 2.0).abs(), [(x[0] - 2.0).signum()]));
        assert!((kink.at[0] - 2.0).abs() < 1e-6, "{kink:?}");
        // Not a number beyond 4: the search steps back.
        let cliff = minimise([0.0], 200, |x: &[f64; 1]| {
            let x = x[0];
            ((x - 3.9).powi(2) + (4.0 - x).ln().min(0.0) * 0.0, [2.0 * (x - 3.9)])
        });
        assert!((cliff.at[0] - 3.9).abs() < 1e-6, "{cliff:?}");
        let lost = minimise([1.0], 200, |_: &[f64; 1]| (f64::NAN, [f64::NAN]));
        assert_eq!(lost.steps, 0);
    }
}
