//! Weighted linear least squares of two or three unknowns, by orthogonal columns.

/// Minimises sum of weight x (target - sum of x_k column_k)² with modified Gram-Schmidt; `None` if the
/// columns are not independent (or hold what is not a number).
pub(super) fn solve<const K: usize>(
    rows: impl Iterator<Item = (f64, [f64; K], f64)>,
) -> Option<[f64; K]> {
    // Weighted columns, the target last.
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); K + 1];
    for (weight, row, target) in rows {
        let root = weight.sqrt();
        for (column, value) in columns.iter_mut().zip(row.iter().chain([&target])) {
            column.push(root * value);
        }
    }
    let mut r = [[0.0; K]; K];
    let mut rhs = [0.0; K];
    for k in 0..K {
        let (head, tail) = columns.split_at_mut(k + 1);
        let pivot = &mut head[k];
        let before = r.iter().map(|row| row[k] * row[k]).sum::<f64>();
        let norm = pivot.iter().map(|x| x * x).sum::<f64>().sqrt();
        let independent = norm > 1e-10 * (before + norm * norm).sqrt();
        if !independent {
            return None;
        }
        r[k][k] = norm;
        pivot.iter_mut().for_each(|x| *x /= norm);
        for (j, column) in tail.iter_mut().enumerate() {
            let share: f64 = pivot.iter().zip(column.iter()).map(|(a, b)| a * b).sum();
            column.iter_mut().zip(pivot.iter()).for_each(|(x, p)| *x -= share * p);
            match k + 1 + j {
                last if last == K => rhs[k] = share,
                next => r[k][next] = share,
            }
        }
    }
    let mut x = [0.0; K];
    for k in (0..K).rev() {
        x[k] = (rhs[k] - (k + 1..K).map(|j| r[k][j] * x[j]).sum::<f64>()) / r[k][k];
    }
    x.iter().all(|x| x.is_finite()).then_some(x)
}

#[cfg(test)]
mod tests {
    use super::solve;

    #[test]
    fn recovers_a_parabola_and_refuses_dependent_columns() {
        let row = |x: f64| [1.0, x, x * x];
        let parabola = |x: f64| 2.0 - 3.0 * x + 0.5 * x * x;
        let found =
            solve((10..20).map(|i| (1.0 + i as f64, row(i as f64), parabola(i as f64)))).unwrap();
        assert!(found.iter().zip([2.0, -3.0, 0.5]).all(|(a, b)| (a - b).abs() < 1e-8), "{found:?}");
        // Weights: a point of weight nothing does not count.
        let found = solve(
            [(1.0, [1.0, 0.0], 1.0), (1.0, [1.0, 1.0], 3.0), (0.0, [1.0, 2.0], 99.0)].into_iter(),
        )
        .unwrap();
        assert!((found[0] - 1.0).abs() < 1e-12 && (found[1] - 2.0).abs() < 1e-12);
        assert!(solve((0..9).map(|_| (1.0, row(3.0), 1.0))).is_none());
        assert!(solve([(1.0, [1.0, f64::NAN], 1.0); 3].into_iter()).is_none());
    }
}
