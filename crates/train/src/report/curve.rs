//! Curves out of a log, made ready to be drawn: thinned, smoothed, cut to a frame.
//!
//! The key decision: a value that is no number is a gap, wherever it is drawn; nothing joins over it. Thinning keeps
//! the smallest and the largest of each stretch, so that a spike of one step is never lost.

/// Points of a curve, x not falling; y may be NaN.
pub(crate) type Points = Vec<(f64, f64)>;

/// What is larger is as good as no number to a plot, whose ticks are found by adding up.
pub(crate) const LARGEST: f64 = 1e30;

/// Ends of an axis that are far enough apart to be divided, whatever the values.
pub(crate) fn apart(low: f64, high: f64) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    match high - low > 1e-6 * size && size > 1e-30 {
        true => (low, high),
        false => (low - 0.05 * size, high + (0.05 * size).max(1e-6)),
    }
}

/// At most about `most` points that look the same.
pub(crate) fn thin(points: &[(f64, f64)], most: usize) -> Points {
    let most = most.max(8);
    if points.len() <= most {
        return points.to_vec();
    }
    let size = points.len().div_ceil(most / 2);
    let mut kept = Vec::with_capacity(most + most / 2);
    for stretch in points.chunks(size) {
        let finite = || stretch.iter().filter(|point| point.1.is_finite());
        let low = finite().min_by(|a, b| a.1.total_cmp(&b.1));
        let high = finite().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut two: Points = low.into_iter().chain(high).copied().collect();
        two.sort_by(|a, b| a.0.total_cmp(&b.0));
        two.dedup();
        kept.extend(two);
        kept.extend(stretch.iter().find(|point| !point.1.is_finite()));
    }
    kept.sort_by(|a, b| a.0.total_cmp(&b.0));
    kept
}

/// A running mean over about a hundredth of the points (less at the beginning, where a curve is steep), each
/// weighted less the older it is; what is no number has no weight and stays a gap.
pub(crate) fn smooth(points: &[(f64, f64)]) -> Points {
    let window = (points.len() as f64 / 100.0).max(1.0);
    let (mut sum, mut weight, mut seen) = (0.0, 0.0, 0.0);
    let next = |&(x, y): &(f64, f64)| {
        if !y.is_finite() {
            return (x, f64::NAN);
        }
        let keep = 1.0 - 1.0 / window.min(1.0 + seen / 8.0);
        (sum, weight, seen) = (sum * keep + y, weight * keep + 1.0, seen + 1.0);
        (x, sum / weight)
    };
    points.iter().map(next).collect()
}

/// The y range to draw: all of it, unless the beginning or a few spikes would press the rest flat.
pub(crate) fn frame(curves: &[&[(f64, f64)]]) -> Option<(f64, f64)> {
    let finite = |points: &&[(f64, f64)]| {
        let late = points.len() / 50;
        let of_late = points[late..].iter().map(|point| point.1).filter(|y| y.abs() < LARGEST);
        of_late.collect::<Vec<f64>>()
    };
    let mut values: Vec<f64> = curves.iter().flat_map(finite).collect();
    values.sort_by(f64::total_cmp);
    let (low, top) = (*values.first()?, *values.last()?);
    let most = values[(values.len() - 1) * 99 / 100];
    let high = if top - low > 3.0 * (most - low) && most > low { most } else { top };
    let (bottom, high) = apart(low, high);
    let room = (high - bottom) * 0.06;
    // What is never negative gets no frame below zero.
    let floor = if low >= 0.0 { (bottom - room).max(0.0) } else { bottom - room };
    Some((floor, high + room))
}

/// The parts of a curve within `low..=high`, ends on the frame included.
pub(crate) fn cut(points: &[(f64, f64)], low: f64, high: f64) -> Vec<Points> {
    let within = |y: f64| (low..=high).contains(&y);
    let mut parts: Vec<Points> = Vec::new();
    let mut part = Points::new();
    let mut last: Option<(f64, f64)> = None;
    for &(x, y) in points {
        if !y.is_finite() {
            parts.push(std::mem::take(&mut part));
            last = None;
            continue;
        }
        if let Some(before) = last
            && within(before.1) != within(y)
        {
            let edge = if before.1.max(y) > high { high } else { low };
            let share = (edge - before.1) / (y - before.1);
            part.push((before.0 + share * (x - before.0), edge));
        }
        match within(y) {
            true => part.push((x, y)),
            false => parts.push(std::mem::take(&mut part)),
        }
        last = Some((x, y));
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

/// The middle of the finite values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_spikes_and_gaps() {
        let mut points: Points = (0..10_000).map(|x| (f64::from(x), 1.0)).collect();
        points[4321].1 = 50.0;
        points[77].1 = -3.0;
        points[6000].1 = f64::NAN;
        let thinned = thin(&points, 400);
        assert!(thinned.len() < 700, "{}", thinned.len());
        assert!(thinned.contains(&(4321.0, 50.0)) && thinned.contains(&(77.0, -3.0)));
        assert_eq!(thinned.iter().filter(|point| point.1.is_nan()).count(), 1);
        assert!(thinned.is_sorted_by(|a, b| a.0 <= b.0));
        assert_eq!(thin(&points[..5], 400).len(), 5);
        assert!(thin(&[], 10).is_empty());
    }

    #[test]
    fn a_curve_is_cut_at_the_frame_and_at_gaps() {
        let points = [
            (0.0, 5.0),
            (1.0, 1.0),
            (2.0, f64::NAN),
            (3.0, 1.0),
            (4.0, 2.0),
            (5.0, -2.0),
            (6.0, 0.0),
        ];
        let parts = cut(&points, 0.0, 3.0);
        assert_eq!(
            parts,
            [
                vec![(0.5, 3.0), (1.0, 1.0)],
                vec![(3.0, 1.0), (4.0, 2.0), (4.5, 0.0)],
                vec![(6.0, 0.0), (6.0, 0.0)],
            ]
        );
        assert!(cut(&[(0.0, f64::NAN)], 0.0, 1.0).is_empty());
    }

    #[test]
    fn a_frame_shows_the_run_and_not_its_first_steps() {
        let mut points: Points =
            (0..1000).map(|x| (f64::from(x), 3.0 + 1e-3 * f64::from(x))).collect();
        points[0].1 = 11.0;
        points[500].1 = 900.0;
        let (low, high) = frame(&[&points]).unwrap();
        assert!(low < 3.1 && low > 2.5 && high > 3.9 && high < 5.0, "{low} {high}");
        assert_eq!(frame(&[&[(0.0, f64::NAN)]]), None);
        assert_eq!(frame(&[]), None);
        let (low, high) = frame(&[&[(0.0, 0.0), (1.0, 0.0)]]).unwrap();
        assert!(low == 0.0 && high > 0.0);
        let values =
            [1e-320, 5e29, -4e29, 1e300, -1e308, f64::MAX, 7.0, 7.0 + 1e-15, f64::MIN_POSITIVE];
        for a in values {
            for b in values {
                let Some((low, high)) = frame(&[&[(0.0, a), (1.0, b)]]) else { continue };
                let size = low.abs().max(high.abs());
                assert!(high - low > 1e-7 * size && high - low > 1e-9, "{a} {b}: {low} {high}");
            }
        }
        assert_eq!(smooth(&[(0.0, 1.0), (1.0, 2.0)]), [(0.0, 1.0), (1.0, 2.0)]);
        let smoothed = smooth(&points);
        assert!(smoothed[990].1 < 20.0 && smoothed[501].1 > 50.0);
    }
}
