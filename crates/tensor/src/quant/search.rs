//! The scale and minimum of a sub-block that lose the least: the searches behind the K-quants.
//!
//! Both searches try a range of step sizes, round every number to its level, solve for the scale
//! (and minimum) that fits these levels best in the weighted least-squares sense, and keep the
//! best try. The key decision: eight sub-blocks are searched side by side, one in each lane of
//! `[f32; 8]`. Every lane adds its numbers up in their order, as a plain loop over one sub-block
//! would, so the result has the bits of ggml's reference (`make_qkx2_quants`, `make_qx_quants`),
//! and the compiler still finds vectors in it.
//!
//! Where a comparison decides, it is written as `if`, not as `f32::min`: one instruction a vector,
//! and NaN takes the same branch everywhere.

/// Sub-blocks searched together.
pub(super) const LANES: usize = 8;

/// One number for each sub-block.
pub(super) type Lanes = [f32; LANES];

/// Below this largest magnitude a sub-block counts as zero (`GROUP_MAX_EPS` of ggml).
pub(super) const NOTHING: f32 = 1e-15;

/// Numbers `start + N * lane ..` of each sub-block, turned so that element `i` of all sub-blocks
/// is together: `(N, LANES)`.
pub(super) fn turn<const N: usize>(values: &[f32]) -> [Lanes; N] {
    std::array::from_fn(|i| std::array::from_fn(|lane| values[N * lane + i]))
}

/// The nearest integer, halves to even, exact up to 2^22: adding 1.5 * 2^23 leaves no bits for the
/// fraction.
pub(super) fn nearest(value: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (value + NO_FRACTION) - NO_FRACTION
}

/// `value` inside `low..=high`; NaN stays.
pub(super) fn clamp(value: f32, low: f32, high: f32) -> f32 {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}

/// How [`fit_affine`] searches.
pub(super) struct AffineSearch {
    /// The highest level: levels are `0..=top`.
    pub(super) top: f32,
    /// What is added to `top` in the first try; 0.1 more in each further try.
    pub(super) first: f32,
    /// How many tries.
    pub(super) tries: usize,
    /// Compare tries by the absolute error, not by its square.
    pub(super) absolute: bool,
}

/// `x ≈ scale * level - min` with `level` in `0..=top` and `min >= 0`.
pub(super) struct AffineFit {
    pub(super) scale: Lanes,
    pub(super) min: Lanes,
    /// Levels a unit, in the best try; 0 where the sub-block is constant.
    steps: Lanes,
    /// What was subtracted before rounding, in the best try.
    base: Lanes,
    /// The highest level.
    pub(super) top: f32,
}

impl AffineFit {
    /// The level that the search gave to a number of sub-block `lane`.
    pub(super) fn level(&self, lane: usize, x: f32) -> u8 {
        clamp(nearest(self.steps[lane] * (x - self.base[lane])), 0.0, self.top) as u8
    }
}

/// Sums of one try.
struct AffineSums {
    levels: Lanes,         // Σ w l
    levels_squared: Lanes, // Σ w l²
    products: Lanes,       // Σ w l x
}

/// Fits every sub-block; `x` and `weights` are `(N, LANES)`.
pub(super) fn fit_affine<const N: usize>(
    x: &[Lanes; N],
    weights: &[Lanes; N],
    search: &AffineSearch,
) -> AffineFit {
    let (lowest, highest, sum_w, sum_x) = moments(x, weights);
    let mut min = lowest.map(|low| if low > 0.0 { 0.0 } else { low });
    let constant: [bool; LANES] = std::array::from_fn(|l| highest[l] == min[l]);
    let mut steps: Lanes = std::array::from_fn(|l| search.top / (highest[l] - min[l]));
    let mut scale = steps.map(|steps| 1.0 / steps);
    let mut base = min;
    let mut levels = [[0.0; LANES]; N];
    round_affine(x, weights, &steps, &min, search.top, &mut levels);
    let mut best = affine_error(x, weights, &levels, &scale, &min, search.absolute);
    for try_index in 0..search.tries {
        let span = search.first + 0.1 * try_index as f32 + search.top;
        let try_steps: Lanes = std::array::from_fn(|l| span / (highest[l] - min[l]));
        let sums = round_affine(x, weights, &try_steps, &min, search.top, &mut levels);
        let (try_scale, try_min, solvable) = solve_affine(&sum_w, &sum_x, &sums);
        let error = affine_error(x, weights, &levels, &try_scale, &try_min, search.absolute);
        for l in 0..LANES {
            if solvable[l] && error[l] < best[l] {
                best[l] = error[l];
                steps[l] = try_steps[l];
                base[l] = min[l];
                scale[l] = try_scale[l];
                // The next tries start from here, as ggml's do.
                min[l] = try_min[l];
            }
        }
    }
    for l in 0..LANES {
        if constant[l] {
            (scale[l], steps[l], min[l]) = (0.0, 0.0, lowest[l].min(0.0));
        }
    }
    AffineFit { scale, min: min.map(|min| -min), steps, base, top: search.top }
}

/// Lowest, highest, `Σ w`, `Σ w x`.
fn moments<const N: usize>(x: &[Lanes; N], weights: &[Lanes; N]) -> (Lanes, Lanes, Lanes, Lanes) {
    let (mut low, mut high) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = ([0.0; LANES], [0.0; LANES]);
    for (x, w) in x.iter().zip(weights) {
        for l in 0..LANES {
            low[l] = if x[l] < low[l] { x[l] } else { low[l] };
            high[l] = if x[l] > high[l] { x[l] } else { high[l] };
            sum_w[l] += w[l];
            sum_x[l] += w[l] * x[l];
        }
    }
    (low, high, sum_w, sum_x)
}

/// Rounds every number to its level and adds up what [`solve_affine`] needs.
fn round_affine<const N: usize>(
    x: &[Lanes; N],
    weights: &[Lanes; N],
    steps: &Lanes,
    min: &Lanes,
    top: f32,
    levels: &mut [Lanes; N],
) -> AffineSums {
    let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for ((x, w), levels) in x.iter().zip(weights).zip(levels) {
        for l in 0..LANES {
            let level = clamp(nearest(steps[l] * (x[l] - min[l])), 0.0, top);
            levels[l] = level;
            let weighted = w[l] * level;
            sum_l[l] += weighted;
            sum_l2[l] += weighted * level;
            sum_xl[l] += weighted * x[l];
        }
    }
    AffineSums { levels: sum_l, levels_squared: sum_l2, products: sum_xl }
}

/// The scale and minimum with the least squared error for given levels (normal equations of a
/// line), and whether there is one. A positive minimum cannot be stored: it becomes 0 and the line
/// goes through the origin.
fn solve_affine(sum_w: &Lanes, sum_x: &Lanes, sums: &AffineSums) -> (Lanes, Lanes, [bool; LANES]) {
    let (mut scale, mut min, mut solvable) = ([0.0; LANES], [0.0; LANES], [false; LANES]);
    for l in 0..LANES {
        let (sum_l, sum_l2, sum_xl) = (sums.levels[l], sums.levels_squared[l], sums.products[l]);
        let determinant = sum_w[l] * sum_l2 - sum_l * sum_l;
        solvable[l] = determinant > 0.0;
        scale[l] = (sum_w[l] * sum_xl - sum_x[l] * sum_l) / determinant;
        min[l] = (sum_l2 * sum_x[l] - sum_l * sum_xl) / determinant;
        if min[l] > 0.0 {
            min[l] = 0.0;
            scale[l] = sum_xl / sum_l2;
        }
    }
    (scale, min, solvable)
}

/// `Σ w (scale l + min - x)²`, or with the absolute value in place of the square.
fn affine_error<const N: usize>(
    x: &[Lanes; N],
    weights: &[Lanes; N],
    levels: &[Lanes; N],
    scale: &Lanes,
    min: &Lanes,
    absolute: bool,
) -> Lanes {
    let mut error = [0.0; LANES];
    for ((x, w), levels) in x.iter().zip(weights).zip(levels) {
        for l in 0..LANES {
            let difference = scale[l] * levels[l] + min[l] - x[l];
            let size = if absolute { difference.abs() } else { difference * difference };
            error[l] += w[l] * size;
        }
    }
    error
}

/// `x ≈ scale * level` with `level` in `-top..top`.
pub(super) struct CentredFit {
    pub(super) scale: Lanes,
    /// Levels a unit, in the best try; 0 where the sub-block is nothing.
    steps: Lanes,
    top: f32,
}

impl CentredFit {
    /// The level that the search gave to a number of sub-block `lane`, counted from 0.
    pub(super) fn level(&self, lane: usize, x: f32) -> u8 {
        if self.steps[lane] == 0.0 {
            return 0;
        }
        let level = clamp(nearest(self.steps[lane] * x), -self.top, self.top - 1.0);
        (level + self.top) as u8
    }
}

/// Fits every sub-block of `x`, `(N, LANES)`, each number weighted by its square. The largest
/// number gets the level `-top`, which is one further out than the highest; then nine slightly
/// smaller and nine slightly larger step sizes are tried.
pub(super) fn fit_centred<const N: usize>(x: &[Lanes; N], top: f32) -> CentredFit {
    let (mut size, mut largest) = ([0.0; LANES], [0.0; LANES]);
    for x in x {
        for l in 0..LANES {
            let larger = x[l].abs() > size[l];
            size[l] = if larger { x[l].abs() } else { size[l] };
            largest[l] = if larger { x[l] } else { largest[l] };
        }
    }
    let (mut scale, mut steps, mut best) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for try_index in [0].into_iter().chain(-9..=-1).chain(1..=9) {
        let span = -(top + 0.1 * try_index as f32);
        let try_steps = largest.map(|largest| span / largest);
        let (sum_xl, sum_l2) = round_centred(x, &try_steps, top);
        for l in 0..LANES {
            let better = sum_l2[l] > 0.0 && sum_xl[l] * sum_xl[l] > best[l] * sum_l2[l];
            if better || try_index == 0 {
                scale[l] = if sum_l2[l] == 0.0 { 0.0 } else { sum_xl[l] / sum_l2[l] };
                best[l] = scale[l] * sum_xl[l];
                steps[l] = try_steps[l];
            }
        }
    }
    for l in 0..LANES {
        if size[l] < NOTHING {
            (scale[l], steps[l]) = (0.0, 0.0);
        }
    }
    CentredFit { scale, steps, top }
}

/// `Σ w x l` and `Σ w l²` with `w = x²`.
fn round_centred<const N: usize>(x: &[Lanes; N], steps: &Lanes, top: f32) -> (Lanes, Lanes) {
    let (mut sum_xl, mut sum_l2) = ([0.0; LANES], [0.0; LANES]);
    for x in x {
        for l in 0..LANES {
            let level = clamp(nearest(steps[l] * x[l]), -top, top - 1.0);
            let weight = x[l] * x[l];
            sum_xl[l] += weight * x[l] * level;
            sum_l2[l] += weight * level * level;
        }
    }
    (sum_xl, sum_l2)
}

/// Fits one sub-block of 16 numbers by moving one level at a time (`make_q3_quants` of ggml):
/// starts from plain rounding and, at most five times over the block, gives each number the level
/// that is best with all others held, if that lessens the error. Returns the scale and the levels
/// counted from 0.
pub(super) fn descend_centred(x: &[f32; 16], top: f32) -> (f32, [u8; 16]) {
    let largest = x.iter().fold(0.0f32, |best, x| if x.abs() > best.abs() { *x } else { best });
    if largest.abs() < NOTHING {
        return (0.0, [0; 16]);
    }
    let steps = -top / largest;
    let mut levels = x.map(|x| clamp(nearest(steps * x), -top, top - 1.0));
    let (mut sum_xl, mut sum_l2) = (0.0, 0.0);
    for (x, level) in x.iter().zip(levels) {
        sum_xl += x * x * x * level;
        sum_l2 += x * x * level * level;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (x, level) in x.iter().zip(&mut levels) {
            let weight = x * x;
            // The sums without this number.
            let others_xl = sum_xl - weight * x * *level;
            let others_l2 = sum_l2 - weight * *level * *level;
            if others_xl <= 0.0 {
                continue;
            }
            let moved = clamp(nearest(x * others_l2 / others_xl), -top, top - 1.0);
            let moved_xl = others_xl + weight * x * moved;
            let moved_l2 = others_l2 + weight * moved * moved;
            let better = moved_xl * moved_xl * sum_l2 > sum_xl * sum_xl * moved_l2;
            if moved != *level && moved_l2 > 0.0 && better {
                (*level, sum_xl, sum_l2) = (moved, moved_xl, moved_l2);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if sum_l2 > 0.0 { sum_xl / sum_l2 } else { 0.0 };
    (scale, levels.map(|level| (level + top) as u8))
}
