//! From a text to the terms it is found by, and how well a text fits: the half of the search that
//! [`Memory`](crate::Memory) and [`Sqlite`](crate::Sqlite) share.
//!
//! The key decision: a word where a script puts spaces, pairs of neighbours where it does not.
//! 玉山國家公園 becomes 玉山, 山國, 國家, 家公, 公園 and the six characters alone, so 玉山 finds it without a
//! dictionary, and so does 山. Letters lose case, width and accents: Ｃafé is cafe.
//!
//! A query is plain words: nothing in it is an operator, so nothing in it is an error. It finds what
//! has any of its terms; BM25 puts what has more of them, and rarer ones, first. Only the owner's own
//! texts count for how rare a term is, so nobody learns from a score what others keep.
//!
//! There is no stemming: dog does not find dogs.

use std::collections::BTreeMap;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Characters of a word that count; what follows is cut off, in texts and queries alike.
const LONGEST: usize = 64;
/// Distinct terms of a query that are looked up: the first ones.
const ASKED: usize = 256;

/// The terms of a text with how often each stands there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// By term, made of letters and digits alone.
    pub(crate) counts: BTreeMap<String, u64>,
    /// All of them together.
    pub(crate) total: u64,
}

/// An owner's texts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Corpus {
    /// How many there are.
    pub(crate) items: u64,
    /// Their terms.
    pub(crate) terms: u64,
}

/// What a text is indexed under.
pub(crate) fn terms(text: &str) -> Terms {
    let mut terms = Terms::default();
    for word in split(text) {
        let mut add = |term: String| {
            *terms.counts.entry(term).or_default() += 1;
            terms.total += 1;
        };
        match word {
            Word::Spaced(word) => add(word),
            Word::Dense(run) => {
                run.iter().for_each(|one| add(one.to_string()));
                run.windows(2).for_each(|pair| add(pair.iter().collect()));
            }
        }
    }
    terms
}

/// What a query looks for: distinct, in their order.
pub(crate) fn asked(query: &str) -> Vec<String> {
    let mut asked: Vec<String> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for word in split(query) {
        let terms: Vec<String> = match word {
            Word::Spaced(word) => vec![word],
            Word::Dense(run) if run.len() == 1 => vec![run[0].to_string()],
            Word::Dense(run) => run.windows(2).map(|pair| pair.iter().collect()).collect(),
        };
        for term in terms {
            if asked.len() == ASKED {
                return asked;
            }
            if seen.insert(term.clone()) {
                asked.push(term);
            }
        }
    }
    asked
}

impl Corpus {
    /// BM25's summand (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75) for a term that stands `count`
    /// times in a text of `length` terms and in `found` texts; always above 0.
    pub(crate) fn score(&self, count: u64, length: u64, found: u64) -> f64 {
        const K1: f64 = 1.2;
        const B: f64 = 0.75;
        let (items, count, found) = (self.items as f64, count as f64, found as f64);
        let average = (self.terms as f64 / items).max(1.0);
        let rare = (1.0 + (items - found + 0.5).max(0.0) / (found + 0.5)).ln();
        rare * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length as f64 / average))
    }
}

/// A stretch of a text without a gap.
enum Word {
    /// Of a script that puts spaces between words.
    Spaced(String),
    /// Of one that does not.
    Dense(Vec<char>),
}

/// The words of a text, folded.
fn split(text: &str) -> impl Iterator<Item = Word> {
    let accent = |c: &char| !('\u{300}'..='\u{36f}').contains(c);
    let folded = text.nfkd().flat_map(char::to_lowercase).filter(accent).nfc();
    let mut characters = folded.peekable();
    std::iter::from_fn(move || {
        while characters.next_if(|&c| !is_part(c)).is_some() {}
        let first = characters.next()?;
        let dense = is_dense(first);
        let mut run = vec![first];
        while let Some(c) = characters.next_if(|&c| is_part(c) && is_dense(c) == dense) {
            run.push(c);
        }
        Some(if dense {
            Word::Dense(run)
        } else {
            Word::Spaced(run.iter().take(LONGEST).collect())
        })
    })
}

/// Whether a character belongs to a word.
fn is_part(c: char) -> bool {
    c.is_alphanumeric() || is_combining_mark(c)
}

/// Whether a character is of a script that puts no spaces between words, or endings to them that
/// hide the word: Han, kana, Bopomofo, Hangul.
fn is_dense(c: char) -> bool {
    matches!(c,
        '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3031}'..='\u{3035}'
        | '\u{3038}'..='\u{303c}' | '\u{3041}'..='\u{318f}' | '\u{31a0}'..='\u{31bf}' | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}'
        | '\u{1b000}'..='\u{1b16f}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_cut_and_folded() {
        for (text, indexed, looked_for) in [
            ("", &[][..], &[][..]),
            ("Two  two, TWO!", &["two"], &["two"]),
            ("玉山國", &["國", "山", "山國", "玉", "玉山"], &["玉山", "山國"]),
            ("玉", &["玉"], &["玉"]),
            ("高3952m，遠", &["3952m", "遠", "高"], &["高", "3952m", "遠"]),
            ("Ｃafé\u{301} ﬁn İ", &["cafe", "fin", "i"], &["cafe", "fin", "i"]),
            ("ガ", &["ガ"], &["ガ"]),
            ("カ\u{3099}", &["ガ"], &["ガ"]),
            ("snake_case.rs", &["case", "rs", "snake"], &["snake", "case", "rs"]),
        ] {
            let terms = terms(text);
            assert!(terms.counts.keys().eq(indexed), "{text:?}: {terms:?}");
            assert_eq!(asked(text), looked_for, "{text:?}");
        }
        assert_eq!(terms("two 山 two 山山").counts.into_values().collect::<Vec<_>>(), [2, 3, 1]);
        assert_eq!(terms("two 山 two 山山").total, 6);
        assert_eq!(asked(&"x".repeat(LONGEST + 1)), ["x".repeat(LONGEST)]);
        let many: String = (0..ASKED * 2).map(|number| format!("{number} ")).collect();
        assert_eq!(asked(&many).len(), ASKED);
    }

    proptest! {
        /// What is asked of a text finds it, and FTS5's `ascii` cuts no term again.
        #[test]
        fn a_text_is_found_by_itself(text: String) {
            let terms = terms(&text);
            prop_assert_eq!(terms.total, terms.counts.values().sum::<u64>());
            for term in terms.counts.keys() {
                prop_assert!(term.chars().all(|c| c.is_ascii_alphanumeric() || !c.is_ascii()));
                prop_assert!(!term.is_empty() && term.chars().count() <= LONGEST);
            }
            for term in asked(&text) {
                prop_assert!(terms.counts.contains_key(&term), "{term}");
            }
        }
    }
}
