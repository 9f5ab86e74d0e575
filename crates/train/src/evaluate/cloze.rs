//! Cloze tests made of any text: which word ends the passage?
//!
//! The key decision: the wrong words are last words of other passages of the same text, with the same kind of first
//! letter; so neither form nor frequency tells the right one, only what stands before it. Texts without
//! spaces between words (Chinese) give none. Seeded; nothing is asked of a model here.

use std::collections::BTreeSet;

use super::interval::Random;
use super::items::Item;
use crate::{Error, Result};

/// Words of a passage.
const FEWEST_WORDS: usize = 12;
const MOST_WORDS: usize = 80;
/// Choices of an item.
const CHOICES: usize = 4;
/// Passages that are looked at for one that is taken.
const POOL: usize = 4;

/// At most `count` items of the passages (paragraphs) of `texts`.
pub fn cloze(texts: &mut dyn Iterator<Item = &str>, count: usize, seed: u64) -> Result<Vec<Item>> {
    let mut random = Random(seed);
    let pool = passages(texts, count.saturating_mul(POOL).max(CHOICES * POOL), &mut random);
    let capital = |word: &str| word.starts_with(char::is_uppercase);
    let of_kind = |large: bool| -> Vec<&str> {
        let words: BTreeSet<&str> = pool.iter().map(|(_, word)| *word).collect();
        words.into_iter().filter(|word| capital(word) == large).collect()
    };
    let (small, large) = (of_kind(false), of_kind(true));
    let mut items = Vec::new();
    for (context, word) in &pool {
        let others = if capital(word) { &large } else { &small };
        if items.len() == count || others.len() < CHOICES * 2 {
            continue;
        }
        let mut choices: Vec<String> = Vec::with_capacity(CHOICES);
        while choices.len() < CHOICES - 1 {
            let other = others[random.below(others.len())];
            // "Cat" and "CAT" would both be right.
            let alike = |taken: &str| taken.to_lowercase() == other.to_lowercase();
            if !alike(word) && !choices.iter().any(|taken| alike(taken)) {
                choices.push(other.to_owned());
            } else if random.below(64) == 0 {
                break;
            }
        }
        if choices.len() < CHOICES - 1 {
            continue;
        }
        let answer = random.below(CHOICES);
        choices.insert(answer, (*word).to_owned());
        items.push(Item { context: (*context).to_owned(), delimiter: " ".into(), choices, answer });
    }
    if items.is_empty() && count > 0 {
        let detail = format!(
            "no cloze items: {} passages of at least {FEWEST_WORDS} words end with a word; expected more \
             text, with spaces between words",
            pool.len()
        );
        return Err(Error::bad("the hold-out", detail));
    }
    Ok(items)
}

/// Passages and their last words, `most` of all, each as likely as any other, in a seeded order.
fn passages<'a>(
    texts: &mut dyn Iterator<Item = &'a str>,
    most: usize,
    random: &mut Random,
) -> Vec<(&'a str, &'a str)> {
    let mut kept = Vec::new();
    let mut seen = 0;
    for passage in texts.flat_map(|text| text.split("\n\n")) {
        let Some(passage) = split(passage) else { continue };
        seen += 1;
        if kept.len() < most {
            kept.push(passage);
        } else if let place = random.below(seen)
            && place < most
        {
            kept[place] = passage;
        }
    }
    for at in (1..kept.len()).rev() {
        kept.swap(at, random.below(at + 1));
    }
    kept
}

/// What stands before the last word, and that word.
fn split(passage: &str) -> Option<(&str, &str)> {
    let passage = passage.trim_end_matches(|c: char| !c.is_alphanumeric());
    let (before, word) = passage.rsplit_once(char::is_whitespace)?;
    let plain = word.chars().count() >= 3 && word.chars().all(char::is_alphabetic);
    let before = before.trim_end();
    // A word after a hyphen or a dash begins elsewhere than at a space.
    if !plain || before.ends_with(['-', '—', '–']) {
        return None;
    }
    let words = before.split_whitespace().rev().take(MOST_WORDS);
    let (mut number, mut start) = (0, before.len());
    for word in words {
        number += 1;
        start = word.as_ptr() as usize - before.as_ptr() as usize;
    }
    (number >= FEWEST_WORDS).then(|| (&before[start..], word))
}
