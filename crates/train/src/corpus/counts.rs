//! What happened to the documents of each source, with samples of what was dropped.
//!
//! The key decision: samples are those whose text has the smallest hash, so they are spread over the source and
//! the same in every build.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reason::Reason;

/// Samples kept for each source and reason.
const SAMPLES: usize = 3;
/// Characters of a sample.
const SAMPLE: usize = 300;

/// Documents and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many.
    pub documents: u64,
    /// UTF-8 bytes of their text.
    pub bytes: u64,
}

impl Count {
    /// Adds a document.
    pub fn add(&mut self, bytes: usize) {
        self.documents += 1;
        self.bytes += bytes as u64;
    }
}

/// One source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Its name.
    pub source: String,
    /// Its licence.
    pub licence: String,
    /// Files read, and their bytes as packed.
    pub files: Count,
    /// What was read, before anything was dropped; bytes as unpacked.
    pub read: Count,
    /// Passages that end inside a line, because it is longer than a document may be.
    pub cut_inside_lines: u64,
    /// Documents in which bytes that are not UTF-8 were replaced.
    pub replaced: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<Reason, Count>,
    /// Kept for training.
    pub train: Count,
    /// Kept from training.
    pub holdout: Count,
    /// Kept documents by length: `2ⁿ` to `2ⁿ⁺¹ - 1` bytes.
    pub lengths: BTreeMap<u32, u64>,
    /// Of what was dropped.
    #[serde(skip)]
    pub samples: BTreeMap<Reason, Vec<(u64, String)>>,
}

impl Counts {
    /// A document of `bytes` bytes was dropped; `hash` is of its text.
    pub fn drop(&mut self, reason: Reason, bytes: usize, hash: u64, text: impl FnOnce() -> String) {
        self.dropped.entry(reason).or_default().add(bytes);
        let samples = self.samples.entry(reason).or_default();
        if samples.len() == SAMPLES && samples[SAMPLES - 1].0 <= hash {
            return;
        }
        let at = samples.partition_point(|sample| sample.0 <= hash);
        let mut text = text();
        if let Some((end, _)) = text.char_indices().nth(SAMPLE) {
            text.truncate(end);
            text.push('…');
        }
        samples.insert(at, (hash, text));
        samples.truncate(SAMPLES);
    }

    /// A document was kept.
    pub fn keep(&mut self, bytes: usize, is_holdout: bool) {
        if is_holdout { &mut self.holdout } else { &mut self.train }.add(bytes);
        *self.lengths.entry(bytes.max(1).ilog2()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_do_not_depend_on_the_order() {
        let sampled = |order: &[u64]| {
            let mut counts = Counts::default();
            for &hash in order {
                counts.drop(Reason::Empty, 10, hash, || format!("{hash}"));
            }
            assert_eq!(counts.dropped[&Reason::Empty], Count { documents: 6, bytes: 60 });
            counts.samples.remove(&Reason::Empty).unwrap()
        };
        let expected: Vec<_> = [1, 2, 3].map(|hash| (hash, hash.to_string())).into();
        assert_eq!(sampled(&[6, 5, 4, 3, 2, 1]), expected);
        assert_eq!(sampled(&[2, 5, 1, 4, 6, 3]), expected);
        let mut counts = Counts::default();
        counts.drop(Reason::Empty, 0, 0, || "山".repeat(1000));
        assert_eq!(counts.samples[&Reason::Empty][0].1.chars().count(), SAMPLE + 1);
    }
}
