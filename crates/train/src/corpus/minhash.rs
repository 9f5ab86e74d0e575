//! MinHash signatures of a text's shingles, with one hash a shingle.
//!
//! The key decision: one-permutation hashing (Li, Owen and Zhang 2012) with optimal densification (Shrivastava 2017, arXiv
//! 1703.04664): a shingle's hash picks one place of the signature and the value that competes for it, so that a
//! signature of any length costs one multiplication a shingle; places that got nothing copy another place, chosen by a hash
//! of their number. Values are kept in 16 bits: two different ones agree once in 65,536.

use super::words::{Words, mixed};

/// Makes signatures of `bands * rows` places.
#[derive(Clone, Debug)]
pub(super) struct MinHash {
    shingle_words: usize,
    bands: usize,
    rows: usize,
    minima: Vec<u32>,
}

impl MinHash {
    /// For shingles of `shingle_words` words.
    pub(super) fn new(shingle_words: usize, bands: usize, rows: usize) -> MinHash {
        MinHash { shingle_words, bands, rows, minima: Vec::new() }
    }

    /// Places of a signature.
    pub(super) fn places(&self) -> usize {
        self.bands * self.rows
    }

    /// Appends the signature of a text to `out`: `(bands * rows)`. A text of fewer words than a shingle is one shingle;
    /// without words there is no signature, and false.
    pub(super) fn sign(&mut self, words: &Words, out: &mut Vec<u16>) -> bool {
        let places = self.places();
        if words.count() == 0 {
            return false;
        }
        self.minima.clear();
        self.minima.resize(places, u32::MAX);
        for shingle in words.n_grams(self.shingle_words.min(words.count())) {
            let hash = mixed(shingle);
            let place = (((hash >> 32) * places as u64) >> 32) as usize;
            // `u32::MAX` means that nothing came here.
            let value = (hash as u32).min(u32::MAX - 1);
            self.minima[place] = self.minima[place].min(value);
        }
        out.extend((0..places).map(|place| {
            let value = self.minima[self.filled(place)];
            // The upper bits of minima are mostly zero.
            (value ^ (value >> 16)) as u16
        }));
        true
    }

    /// The place itself if something came there, or another one that depends on its number alone.
    fn filled(&self, place: usize) -> usize {
        let mut at = place;
        let mut attempt = 0u64;
        while self.minima[at] == u32::MAX {
            attempt += 1;
            let hash = mixed((place as u64) << 32 | attempt);
            at = (((hash >> 32) * self.places() as u64) >> 32) as usize;
        }
        at
    }

    /// A hash of each band of a signature: texts that agree in one are candidates.
    pub(super) fn bands<'a>(&self, signature: &'a [u16]) -> impl Iterator<Item = u64> + use<'a> {
        signature.chunks_exact(self.rows).enumerate().map(|(band, rows)| {
            rows.iter().fold(mixed(band as u64 + 1), |hash, &row| mixed(hash ^ u64::from(row)))
        })
    }
}

/// The share of places that agree: an estimate of the Jaccard similarity of the shingles.
pub(super) fn similarity(a: &[u16], b: &[u16]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Words `from..to` of an endless text without repetition.
    fn signature(ranges: &[(u32, u32)]) -> (Vec<u16>, HashSet<u64>) {
        let text: Vec<String> =
            ranges.iter().flat_map(|&(from, to)| from..to).map(|i| format!("w{i}")).collect();
        let mut words = Words::default();
        words.read(&text.join(" "));
        let mut out = Vec::new();
        assert!(MinHash::new(5, 32, 16).sign(&words, &mut out));
        (out, words.n_grams(5).collect())
    }

    #[test]
    fn the_estimate_is_near_the_similarity() {
        for (a, b) in [
            (&[(0, 1000)][..], &[(0, 1000)][..]),
            (&[(0, 1000)][..], &[(100, 1100)][..]),
            (&[(0, 1000)][..], &[(500, 1500)][..]),
            (&[(0, 1000)][..], &[(5000, 6000)][..]),
            (&[(0, 100)][..], &[(10, 110)][..]),
            (&[(0, 30)][..], &[(0, 28)][..]),
            (&[(0, 2000)][..], &[(0, 1000), (3000, 4000)][..]),
        ] {
            let ((sa, ga), (sb, gb)) = (signature(a), signature(b));
            let exact = ga.intersection(&gb).count() as f64 / ga.union(&gb).count() as f64;
            let estimate = similarity(&sa, &sb);
            // Four standard deviations of 512 draws, fewer where shingles are fewer than places.
            let draws = (ga.union(&gb).count() as f64).min(512.0);
            let bound = 4.0 * (exact * (1.0 - exact) / draws).sqrt() + 1e-4;
            assert!((estimate - exact).abs() <= bound, "{a:?} {b:?}: {estimate} for {exact}");
        }
    }

    #[test]
    fn short_texts_have_signatures() {
        let mut hash = MinHash::new(5, 14, 8);
        let mut sign = |text: &str| {
            let (mut words, mut out) = (Words::default(), Vec::new());
            words.read(text);
            hash.sign(&words, &mut out).then_some(out)
        };
        assert_eq!(sign("..."), None);
        assert_eq!(sign("One, two."), sign("one two"));
        assert_ne!(sign("one two"), sign("one three"));
        let two = sign("one two").unwrap();
        assert_eq!(two.len(), 112);
        let hash = MinHash::new(5, 14, 8);
        let bands: HashSet<u64> = hash.bands(&two).collect();
        assert_eq!(bands.len(), 14, "equal rows in two bands are no candidates");
    }
}
