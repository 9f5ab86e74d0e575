//! `Keep`: how long a model that nobody uses stays in memory.
//!
//! The key decision: it is read where it is typed, once, and in one way: what an Ollama client sends as
//! `keep_alive` and what the command line takes is the same text.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a model that nobody uses stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// So long; not at all, if that is no time.
    For(Duration),
    /// Until the memory is needed.
    Forever,
}

/// Seconds of a century: what is longer is for ever.
const LONGEST: f64 = 3e9;

/// Nanoseconds of each unit.
const UNITS: [(&str, f64); 8] = [
    // Longer names first: `ms` begins like `m`.
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
    ("d", 86_400e9),
];

impl Keep {
    /// So many seconds; for ever, if the number is negative or more than a century. `None` for what
    /// is no number.
    pub fn seconds(seconds: f64) -> Option<Keep> {
        match seconds {
            _ if seconds.is_nan() => None,
            _ if !(0.0..=LONGEST).contains(&seconds) => Some(Keep::Forever),
            _ => Some(Keep::For(Duration::from_secs_f64(seconds))),
        }
    }
}

impl FromStr for Keep {
    type Err = String;

    /// `5m`, `1h30m`, `1.5h`, `300` (seconds), `0`, `-1` (for ever).
    fn from_str(text: &str) -> Result<Keep, String> {
        let wrong = || {
            format!(
                "{text:?} is no time: expected for example 5m, 1h30m, seconds, 0 or -1 (for ever)"
            )
        };
        if let Ok(seconds) = text.parse::<f64>() {
            return Keep::seconds(seconds).ok_or_else(wrong);
        }
        let (negative, mut rest) =
            text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut nanoseconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            let after = &rest[digits..];
            let unit =
                UNITS.iter().find_map(|(name, size)| Some((after.strip_prefix(name)?, size)));
            let (after, size) = unit.ok_or_else(wrong)?;
            nanoseconds += number * size;
            rest = after;
        }
        let seconds = nanoseconds / 1e9;
        Keep::seconds(if negative { -seconds } else { seconds }).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_ollama_writes_them() {
        let of = |seconds: f64| Some(Keep::For(Duration::from_secs_f64(seconds)));
        for (text, expected) in [
            ("5m", of(300.0)),
            ("1h30m", of(5400.0)),
            ("1.5h", of(5400.0)),
            ("250ms", of(0.25)),
            ("300", of(300.0)),
            ("0", of(0.0)),
            ("0s", of(0.0)),
            ("-1", Some(Keep::Forever)),
            ("-1m", Some(Keep::Forever)),
            ("1e300", Some(Keep::Forever)),
            ("99999999999999h", Some(Keep::Forever)),
            ("", None),
            ("-", None),
            ("m", None),
            ("5 m", None),
            ("5x", None),
            ("5m3", None),
            ("nan", None),
            ("1.2.3s", None),
            ("５m", None),
        ] {
            assert_eq!(text.parse::<Keep>().ok(), expected, "{text:?}");
        }
    }
}
