//! Rules of quality: which texts are no running text, or repeat themselves.
//!
//! The key decision: the rules and limits of Gopher (Rae et al. 2021, appendix A.1.1 and table A1), tried in a fixed order; the
//! first that is broken names the drop. Shares of repeated n-grams count characters of words, and only what comes again:
//! the first time is no repetition.

use super::language;
use super::reason::Reason;
use super::recipe::Filter;
use super::words::{Words, mixed};

/// A table of hashes that is used again and again.
#[derive(Default)]
pub(super) struct Seen {
    /// `(2ⁿ)` Half of a hash, the round in which it was added, and how often.
    slots: Vec<(u32, u16, u16)>,
    size: usize,
    round: u16,
}

impl Seen {
    /// Empties it, with room for `most` hashes. Slots of other rounds are open, so that nothing need be cleared.
    fn clear(&mut self, most: usize) {
        self.size = (2 * most).next_power_of_two().max(16);
        if self.slots.len() < self.size {
            self.slots.resize(self.size, (0, 0, 0));
        }
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.slots.fill((0, 0, 0));
            self.round = 1;
        }
    }

    /// Adds a hash; how often it is there now. Half of a hash tells apart what a document has: two of a thousand
    /// words are taken for one in one document of 8,000.
    fn add(&mut self, hash: u64) -> u32 {
        // The upper bits of a polynomial hash are its better ones.
        let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (tag, mut at) = ((hash >> 32) as u32, (hash >> 16) as usize & (self.size - 1));
        while self.slots[at].1 == self.round && self.slots[at].0 != tag {
            at = (at + 1) & (self.size - 1);
        }
        let slot = &mut self.slots[at];
        let count = if slot.1 == self.round { slot.2.saturating_add(1) } else { 1 };
        *slot = (tag, self.round, count);
        count.into()
    }
}

/// The first rule that a cleaned text breaks.
pub(super) fn broken(
    text: &str,
    words: &Words,
    language: &str,
    filter: &Filter,
    seen: &mut Seen,
) -> Option<Reason> {
    if words.count() < filter.min_words {
        return Some(Reason::TooShort);
    }
    if words.count() > filter.max_words {
        return Some(Reason::TooLong);
    }
    if !language::is_among(language, &filter.languages) {
        return Some(Reason::Language);
    }
    of_words(words, language, filter)
        .or_else(|| of_lines(text, filter, seen))
        .or_else(|| of_paragraphs(text, filter, seen))
        .or_else(|| of_n_grams(words, filter, seen))
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn of_words(words: &Words, language: &str, filter: &Filter) -> Option<Reason> {
    use language::Script;
    // Words of one character say nothing about the others.
    let single = words.scripts[Script::Han as usize] + words.scripts[Script::Kana as usize];
    let count = words.count() - (single as usize).min(words.count());
    if count * 2 > words.count() {
        let mean = share(words.in_words.saturating_sub(single as usize), count);
        if mean < filter.min_mean_word || mean > filter.max_mean_word {
            return Some(Reason::MeanWord);
        }
    }
    if share(words.marks, words.count()) > filter.max_symbols_per_word {
        return Some(Reason::SymbolsPerWord);
    }
    if share(words.symbols, words.characters) > filter.max_symbol_share {
        return Some(Reason::SymbolShare);
    }
    if share(words.alphabetic, words.count()) < filter.min_alphabetic_words {
        return Some(Reason::AlphabeticWords);
    }
    if language == "en" && words.stop_words.count_ones() < filter.min_stop_words {
        return Some(Reason::StopWords);
    }
    None
}

/// A hash of a line or paragraph.
fn hash_of(text: &str) -> u64 {
    let mut pieces = text.as_bytes().chunks_exact(8);
    let mut hash = text.len() as u64;
    for piece in &mut pieces {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(piece.try_into().expect("8 bytes")))
            .wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    mixed(
        pieces
            .remainder()
            .iter()
            .fold(hash, |hash, &byte| hash << 8 ^ hash >> 56 ^ u64::from(byte)),
    )
}

/// How many pieces, how many of them came again, and the bytes of both.
#[derive(Default)]
struct Repeated {
    count: usize,
    again: usize,
    bytes: usize,
    bytes_again: usize,
}

impl Repeated {
    fn add(&mut self, piece: &str, seen: &mut Seen) {
        self.count += 1;
        self.bytes += piece.len();
        if seen.add(hash_of(piece)) > 1 {
            self.again += 1;
            self.bytes_again += piece.len();
        }
    }
}

fn of_lines(text: &str, filter: &Filter, seen: &mut Seen) -> Option<Reason> {
    let count = memchr::memchr_iter(b'\n', text.as_bytes()).count() + 1;
    seen.clear(count);
    let (mut lines, mut bullets, mut ellipses) = (Repeated::default(), 0, 0);
    for line in text.split('\n').map(str::trim).filter(|line| !line.is_empty()) {
        lines.add(line, seen);
        bullets += usize::from(line.starts_with(['•', '‣', '●', '▪', '*', '-']));
        ellipses += usize::from(line.ends_with("...") || line.ends_with('…'));
    }
    if share(bullets, lines.count) > filter.max_bullet_lines {
        Some(Reason::BulletLines)
    } else if share(ellipses, lines.count) > filter.max_ellipsis_lines {
        Some(Reason::EllipsisLines)
    } else if share(lines.again, lines.count) > filter.max_duplicate_lines {
        Some(Reason::DuplicateLines)
    } else if share(lines.bytes_again, lines.bytes) > filter.max_duplicate_line_bytes {
        Some(Reason::DuplicateLineBytes)
    } else {
        None
    }
}

fn of_paragraphs(text: &str, filter: &Filter, seen: &mut Seen) -> Option<Reason> {
    seen.clear(memchr::memmem::find_iter(text.as_bytes(), b"\n\n").count() + 1);
    let mut paragraphs = Repeated::default();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        paragraphs.add(paragraph, seen);
    }
    if share(paragraphs.again, paragraphs.count) > filter.max_duplicate_paragraphs {
        Some(Reason::DuplicateParagraphs)
    } else if share(paragraphs.bytes_again, paragraphs.bytes) > filter.max_duplicate_paragraph_bytes
    {
        Some(Reason::DuplicateParagraphBytes)
    } else {
        None
    }
}

fn of_n_grams(words: &Words, filter: &Filter, seen: &mut Seen) -> Option<Reason> {
    let longest = words.lengths.iter().copied().max().unwrap_or(0) as usize;
    let mut often = words.count();
    for (n, most) in (2..).zip(filter.max_top_n_grams) {
        // No run comes more often than the most frequent shorter one, nor is it longer than its words can be.
        if share(often * n * longest, words.in_words) <= most {
            continue;
        }
        let (count, length) = top(words, n, seen);
        if share(count * length, words.in_words) > most {
            return Some(Reason::TopNGram);
        }
        often = count.max(1);
    }
    // A longer run that comes again is made of shorter ones that do.
    let strictest = filter.max_duplicate_n_grams.into_iter().fold(f64::INFINITY, f64::min);
    for (n, most) in (5..).zip(filter.max_duplicate_n_grams) {
        let share = again(words, n, seen);
        if share > most {
            return Some(Reason::DuplicateNGrams);
        }
        if share <= strictest {
            return None;
        }
    }
    None
}

/// How often the most frequent run of `n` words comes, and its characters; those are 0 if none comes twice.
fn top(words: &Words, n: usize, seen: &mut Seen) -> (usize, usize) {
    seen.clear(words.count());
    let (mut most, mut longest) = (1, 0);
    for (at, gram) in words.n_grams(n).enumerate() {
        let count = seen.add(gram);
        if count > 1 && count >= most {
            let length = words.length_of(at..at + n);
            longest = if count > most { length } else { longest.max(length) };
            most = count;
        }
    }
    (most as usize, longest)
}

/// The share of words in runs of `n` that were there before.
fn again(words: &Words, n: usize, seen: &mut Seen) -> f64 {
    seen.clear(words.count());
    let (mut covered, mut length) = (0, 0);
    for (at, gram) in words.n_grams(n).enumerate() {
        if seen.add(gram) > 1 {
            length += words.length_of(covered.max(at)..at + n);
            covered = at + n;
        }
    }
    share(length, words.in_words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORY: &str = "Once upon a time there was a little boy named Ben, who loved to explore the world around him.\n\
        He saw many amazing things, and one day he walked through a store with a very special vase in it.\n\
        \"That is a really amazing vase,\" he said to the shopkeeper, \"and I have never been so happy to see one!\"";

    fn reason(text: &str) -> Option<Reason> {
        let (mut words, mut seen) = (Words::default(), Seen::default());
        words.read(text);
        let filter = Filter { languages: vec!["en".into()], ..Filter::default() };
        broken(text, &words, language::of(&words), &filter, &mut seen)
    }

    #[test]
    fn each_rule_drops_what_breaks_it() {
        let lines = |line: &str, count: usize| vec![line; count].join("\n");
        let distinct = |n: usize| {
            (0..n)
                .map(|i| {
                    format!(
                        "word{}x the",
                        ('a'..='z').cycle().skip(i * 7 % 26).take(1 + i % 5).collect::<String>()
                    )
                })
                .collect::<Vec<_>>()
        };
        let bullets: Vec<String> = STORY.split(' ').map(|word| format!("- {word}")).collect();
        let dotted: Vec<String> = distinct(30).iter().map(|word| format!("{word} to...")).collect();
        let numbers: Vec<String> = (1000..1060).map(|n| format!("{n} is {} the", n * 7)).collect();
        for (text, expected) in [
            (STORY.to_string(), None),
            ("The boy and the cat.".into(), Some(Reason::TooShort)),
            ("der Hund und die Katze sind nicht im Haus, sie ist bei dem Baum und er auch noch mit einer alten Frau".into(), Some(Reason::Language)),
            (lines("a b c the of", 10), Some(Reason::MeanWord)),
            ("the incomprehensibilities of interdisciplinarians ".repeat(10), Some(Reason::MeanWord)),
            (format!("{STORY} {}", "# the ".repeat(20)), Some(Reason::SymbolsPerWord)),
            (format!("{STORY} {}", "{}[] ".repeat(20)), Some(Reason::SymbolShare)),
            (bullets.join("\n"), Some(Reason::BulletLines)),
            (numbers.join(" "), Some(Reason::AlphabeticWords)),
            ("This is not a good story for her because it was all in his own little head, said he, or she, or they.".into(), Some(Reason::StopWords)),
            (lines(STORY, 2), Some(Reason::DuplicateLines)),
            (format!("{STORY}\nTo the end\n{STORY}", STORY = STORY.replace('\n', " ")), Some(Reason::DuplicateLines)),
            (format!("the {STORY}. And then to the story of old: the {STORY}", STORY = STORY.replace('\n', " ")), Some(Reason::DuplicateNGrams)),
            (format!("{} {}", STORY.replace('\n', " "), "very amazing ".repeat(20)), Some(Reason::TopNGram)),
            (dotted.join("\n"), Some(Reason::SymbolsPerWord)),
        ] {
            assert_eq!(reason(&text), expected, "{text}");
        }
    }

    #[test]
    fn shares_count_what_comes_again() {
        let mut words = Words::default();
        let mut seen = Seen::default();
        // 6 + 6 words of one letter; the second six come again.
        words.read("a b c d e f a b c d e f");
        assert_eq!(again(&words, 5, &mut seen), 0.5);
        assert_eq!(again(&words, 7, &mut seen), 0.0);
        assert_eq!(top(&words, 2, &mut seen), (2, 2));
        words.read("aa bb cc dd");
        assert_eq!((top(&words, 2, &mut seen), again(&words, 5, &mut seen)), ((1, 0), 0.0));
        let mut lines = Repeated::default();
        seen.clear(3);
        for line in ["abc", "abc", "abcdefghijklmnop"] {
            lines.add(line, &mut seen);
        }
        assert_eq!((lines.count, lines.again, lines.bytes, lines.bytes_again), (3, 1, 22, 3));
    }
}
