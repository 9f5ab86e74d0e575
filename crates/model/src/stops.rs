//! Stop strings: the answer ends where one of them begins.
//!
//! The key decision: text that could be the beginning of a stop string is held back until it is
//! known to be none, so that what was shown is never taken back. Which stop string is found does not
//! depend on how the text came in pieces: the one that is complete first, of several the longest.

use crate::{Error, Result};

/// Lets text through up to the first stop string.
#[derive(Clone, Debug)]
pub(crate) struct Stops {
    stops: Vec<String>,
    /// What could begin a stop string; shorter than the longest of them.
    held: String,
}

impl Stops {
    pub(crate) fn new(stops: Vec<String>) -> Result<Self> {
        if stops.iter().any(String::is_empty) {
            return Err(Error::request("stop", "an empty string; expected at least one character"));
        }
        Ok(Self { stops, held: String::new() })
    }

    /// Appends to `out` the part of the text so far that can be shown. Returns which stop string
    /// stands in it, if one does; it and what follows are dropped.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.stops.is_empty() {
            out.push_str(text);
            return None;
        }
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .enumerate()
            .filter_map(|(which, stop)| self.held.find(stop).map(|at| (at + stop.len(), at, which)))
            .min();
        if let Some((_, at, which)) = found {
            out.push_str(&self.held[..at]);
            self.held.clear();
            return Some(which);
        }
        let shown = self.held.len() - self.begun();
        out.push_str(&self.held[..shown]);
        self.held.drain(..shown);
        None
    }

    /// As [`Stops::push`], with what was held back: no more text comes.
    pub(crate) fn last(&mut self, text: &str, out: &mut String) -> Option<usize> {
        let found = self.push(text, out);
        out.push_str(&self.held);
        self.held.clear();
        found
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn begun(&self) -> usize {
        let held = self.held.as_bytes();
        self.stops
            .iter()
            .filter_map(|stop| {
                let longest = held.len().min(stop.len() - 1);
                (1..=longest).rev().find(|&n| held.ends_with(&stop.as_bytes()[..n]))
            })
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut filter = Stops::new(stops.iter().map(ToString::to_string).collect()).unwrap();
        let mut out = String::new();
        for piece in pieces {
            if let Some(which) = filter.push(piece, &mut out) {
                return (out, Some(which));
            }
        }
        let found = filter.last("", &mut out);
        (out, found)
    }

    #[test]
    fn end_the_text_where_they_begin() {
        for (stops, pieces, text, which) in [
            (&["\n\n"][..], &["a\n", "b\n", "\nc"][..], "a\nb", Some(0)),
            (&["\n\n"], &["a\n"], "a\n", None),
            (&["abcd", "c"], &["xabcd"], "xab", Some(1)),
            (&["c", "bc", "abc"], &["xabc"], "x", Some(2)),
            (&["山水"], &["玉山", "高山", "水"], "玉山高", Some(0)),
            (&["aab"], &["a", "a", "a", "b"], "a", Some(0)),
            (&[], &["a", "b"], "ab", None),
        ] {
            assert_eq!(run(stops, pieces), (text.to_string(), which), "{stops:?} {pieces:?}");
        }
        assert!(Stops::new(vec![String::new()]).is_err());
    }

    proptest! {
        #[test]
        fn do_not_depend_on_how_the_text_comes(
            stops in prop::collection::vec("[ab]{1,4}", 1..4),
            text in "[abc]{0,24}",
            cuts in prop::collection::vec(0usize..24, 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            // The plain definition: character by character, the longest stop that just ended.
            let naive = (1..=text.len()).find_map(|end| {
                let ended = stops.iter().enumerate().filter(|(_, s)| text[..end].ends_with(**s));
                ended.max_by(|a, b| a.1.len().cmp(&b.1.len()).then(b.0.cmp(&a.0)))
                    .map(|(which, stop)| (text[..end - stop.len()].to_string(), Some(which)))
            }).unwrap_or((text.clone(), None));
            prop_assert_eq!(run(&stops, &pieces), naive);
        }
    }
}
