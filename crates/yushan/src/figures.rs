//! How figures are written for people. Powers of 1000 throughout, as disks and bandwidths count.

/// `1.17 GB`.
pub(crate) fn bytes(bytes: u64) -> String {
    match scaled(bytes as f64) {
        (number, "") => format!("{number} B"),
        (number, prefix) => format!("{number} {prefix}B"),
    }
}

/// `1.10 G`, or `512` when it is short enough already.
pub(crate) fn count(count: u64) -> String {
    match scaled(count as f64) {
        (number, "") => number,
        (number, prefix) => format!("{number} {prefix}"),
    }
}

/// Shorter times than this, in seconds, are not measured well enough for a speed.
const INSTANT: f64 = 1e-3;

/// Tokens a second, `38.2`; `-` where there were none or it took no time.
pub(crate) fn speed(tokens: u64, seconds: f64) -> String {
    match tokens > 0 && seconds >= INSTANT {
        true => format!("{:.1}", tokens as f64 / seconds),
        false => "-".into(),
    }
}

/// `1,100,048,384`.
pub(crate) fn exact(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The middle of some measurements; the mean of the middle two when their number is even.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => f64::NAN,
        _ if values.len().is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// Three figures and a prefix.
fn scaled(number: f64) -> (String, &'static str) {
    let prefixes = ["", "k", "M", "G", "T", "P", "E"];
    let mut rest = number;
    let mut step = 0;
    // 999.5 would be written as 1000.
    while rest >= 999.5 && step + 1 < prefixes.len() {
        rest /= 1000.0;
        step += 1;
    }
    let decimals = match (step, rest) {
        (0, _) => 0,
        (_, rest) if rest < 9.995 => 2,
        (_, rest) if rest < 99.95 => 1,
        _ => 0,
    };
    (format!("{rest:.decimals$}"), prefixes[step])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.00 k"),
            (9_994, "9.99 k"),
            (9_996, "10.0 k"),
            (260_032, "260 k"),
            (999_499, "999 k"),
            (999_500, "1.00 M"),
            (1_100_048_384, "1.10 G"),
            (u64::MAX, "18.4 E"),
        ] {
            assert_eq!(count(number), expected);
        }
        assert_eq!((bytes(512).as_str(), bytes(1 << 20).as_str()), ("512 B", "1.05 MB"));
        assert_eq!((exact(7).as_str(), exact(1_234_567).as_str()), ("7", "1,234,567"));
    }

    #[test]
    fn no_speed_where_nothing_was_measured() {
        for (tokens, seconds, expected) in [
            (10, 2.0, "5.0"),
            (0, 2.0, "-"),
            (1, 0.0, "-"),
            (7, 4e-8, "-"),
            (0, 0.0, "-"),
            (1, 1e-3, "1000.0"),
        ] {
            assert_eq!(speed(tokens, seconds), expected, "{tokens} in {seconds} s");
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
