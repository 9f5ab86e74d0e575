//! Pre-tokenizers: where byte-level BPE may not merge across. Each is a regular expression in the
//! files of the models; here each is a loop over character classes.
//!
//! The key decision: a pre-tokenizer is a list of [`Rule`]s. A rule finds its next match; what it
//! matches and what lies between matches are the pieces that the next rule cuts further. The
//! three main ones (GPT-2, Llama 3, Qwen2) are a single rule that matches everywhere.
//!
//! Regular expressions that are not in the list of [`Rule::from_regex`] are refused, not guessed.

use std::ops::Range;

use super::unicode::{Classes, LETTER, LOWER, MARK, NUMBER, PUNCTUATION, SPACE, SYMBOL, UPPER};

/// One regular expression of a pre-tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// GPT-2's.
    Gpt2,
    /// Llama 3's and Qwen2's, which differ in how many digits stand together.
    Words {
        /// Longest run of numbers in one word.
        digits: u8,
        /// Whether marks count as letters (Qwen3.5).
        marks: bool,
    },
    /// GPT-4o's and Tekken's: words also end where lower case turns to upper case.
    Cased {
        /// Longest run of numbers in one word.
        digits: u8,
        /// Whether English contractions stay with their word (GPT-4o).
        contractions: bool,
    },
    /// DeepSeek V3's last rule.
    DeepSeek3,
    /// `\p{N}`
    Digit,
    /// `\p{N}+`
    Digits,
    /// `\p{N}{1,3}`
    UpToThreeDigits,
    /// `[0-9][0-9][0-9]`
    ThreeDigits,
    /// `[\r\n]`
    LineBreak,
    /// `\s?\p{L}+`
    Letters,
    /// `\s?\p{P}+`
    Punctuation,
    /// Falcon's `` [\p{P}\$\+<=>\^~\|`]+ `` and Hugging Face's contiguous `Punctuation`.
    Symbols,
    /// DeepSeek's `[一-龥ࠀ-一가-퟿]+`
    Cjk,
    /// DeepSeek V3's `[一-龥぀-ゟ゠-ヿ]+`
    CjkAndKana,
}

const LLAMA3: Rule = Rule::Words { digits: 3, marks: false };
const QWEN2: Rule = Rule::Words { digits: 1, marks: false };

/// The regular expressions by which `tokenizer.json` files name the rules.
const REGEXES: &[(&str, Rule)] = &[
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Rule::Gpt2),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Rule::Gpt2),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        LLAMA3,
    ),
    (
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        LLAMA3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        QWEN2,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Rule::Words { digits: 1, marks: true },
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Rule::Words { digits: 2, marks: false },
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Rule::Cased { digits: 3, contractions: true },
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Rule::Cased { digits: 1, contractions: false },
    ),
    (
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        Rule::DeepSeek3,
    ),
    (r"\p{N}", Rule::Digit),
    (r"\p{N}+", Rule::Digits),
    (r"\p{N}{1,3}", Rule::UpToThreeDigits),
    (r"[0-9][0-9][0-9]", Rule::ThreeDigits),
    (r"[\r\n]", Rule::LineBreak),
    (r"\s?\p{L}+", Rule::Letters),
    (r"\s?\p{P}+", Rule::Punctuation),
    ("[一-龥ࠀ-一가-퟿]+", Rule::Cjk),
    ("[一-龥\u{3040}-ゟ゠-ヿ]+", Rule::CjkAndKana),
];

/// The rules of the pre-tokenizer that GGUF calls `name` (`tokenizer.ggml.pre`), as llama.cpp has
/// them.
pub(super) fn rules_of_gguf(name: &str) -> Option<&'static [Rule]> {
    use Rule::{
        Cjk, CjkAndKana, DeepSeek3, Digit, Digits, Gpt2, Letters, LineBreak, Punctuation, Symbols,
        ThreeDigits, UpToThreeDigits,
    };
    Some(match name {
        "gpt-2" | "gpt2" | "mpt" | "olmo" | "jais" | "phi-2" | "jina-es" | "jina-de"
        | "jina-v2-es" | "jina-v2-de" | "gigachat" | "roberta-bpe" | "exaone4"
        | "granite-docling" => &[Gpt2],
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" | "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => &[LLAMA3],
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" | "kormo" => &[QWEN2],
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum" => &[Digit, Gpt2],
        "falcon" => &[Symbols, Gpt2, ThreeDigits],
        "default" => &[Symbols, Gpt2, Digits, ThreeDigits],
        "deepseek-coder" => &[LineBreak, Letters, Punctuation, Cjk, Digit],
        "deepseek-v3" => &[UpToThreeDigits, CjkAndKana, DeepSeek3],
        "gpt-4o" | "llama4" => &[Rule::Cased { digits: 3, contractions: true }],
        "tekken" => &[Rule::Cased { digits: 1, contractions: false }],
        _ => return None,
    })
}

/// Under which name llama.cpp knows these rules.
pub(super) fn gguf_name(rules: &[Rule], ignore_merges: bool) -> Option<&'static str> {
    const NAMES: &[&str] = &[
        "gpt-2",
        "qwen2",
        "smollm",
        "falcon",
        "default",
        "deepseek-coder",
        "deepseek-v3",
        "gpt-4o",
    ];
    match (rules, ignore_merges) {
        ([LLAMA3], true) => Some("llama-bpe"),
        ([LLAMA3], false) => Some("dbrx"),
        ([Rule::Cased { digits: 1, contractions: false }], true) => Some("tekken"),
        _ => NAMES.iter().copied().find(|name| rules_of_gguf(name) == Some(rules)),
    }
}

/// Calls `word` with every word of `text` in order; the words together are the text.
pub(super) fn split<'a, F: FnMut(&'a str)>(text: &'a str, rules: &[Rule], word: &mut F) {
    let Some((&rule, rest)) = rules.split_first() else {
        word(text);
        return;
    };
    let classes = Classes::get();
    let mut at = 0;
    while at < text.len() {
        let Some(found) = rule.find(classes, text, at) else { break };
        if found.start > at {
            split(&text[at..found.start], rest, word);
        }
        split(&text[found.clone()], rest, word);
        at = found.end;
    }
    if at < text.len() {
        split(&text[at..], rest, word);
    }
}

impl Rule {
    /// The rule that this regular expression stands for.
    pub(super) fn from_regex(regex: &str) -> Option<Rule> {
        REGEXES.iter().find(|(known, _)| *known == regex).map(|&(_, rule)| rule)
    }

    /// The first of the regular expressions that stand for the rule; empty if there is none.
    pub(super) fn regex(self) -> &'static str {
        REGEXES.iter().find(|(_, rule)| *rule == self).map_or("", |(regex, _)| regex)
    }

    /// Whether the rule leaves nothing between its matches.
    pub(super) fn matches_everywhere(self) -> bool {
        matches!(self, Rule::Gpt2 | Rule::Words { .. } | Rule::Cased { .. })
    }

    /// The first match at or after `at`; never empty.
    #[inline]
    fn find(self, classes: &'static Classes, text: &str, at: usize) -> Option<Range<usize>> {
        let cursor = Cursor { classes, text };
        match self {
            Rule::Gpt2 => Some(at..cursor.gpt2(at)),
            Rule::Words { digits, marks: false } => Some(at..cursor.words(at, digits, LETTER)),
            Rule::Words { digits, marks: true } => {
                Some(at..cursor.words(at, digits, LETTER | MARK))
            }
            Rule::Cased { digits, contractions } => {
                Some(at..cursor.cased(at, digits, contractions))
            }
            Rule::DeepSeek3 => cursor.search(at, |at| cursor.deepseek3(at)),
            Rule::Digit => cursor.search(at, |at| cursor.run(at, NUMBER, 1)),
            Rule::Digits => cursor.search(at, |at| cursor.run(at, NUMBER, usize::MAX)),
            Rule::UpToThreeDigits => cursor.search(at, |at| cursor.run(at, NUMBER, 3)),
            Rule::ThreeDigits => cursor.search(at, |at| {
                let digits = text.as_bytes()[at..].iter().take_while(|b| b.is_ascii_digit());
                if digits.take(3).count() == 3 { at + 3 } else { at }
            }),
            Rule::LineBreak => cursor
                .search(at, |at| at + usize::from(matches!(text.as_bytes()[at], b'\r' | b'\n'))),
            Rule::Letters => cursor.search(at, |at| cursor.after_space(at, LETTER)),
            Rule::Punctuation => cursor.search(at, |at| cursor.after_space(at, PUNCTUATION)),
            Rule::Symbols => cursor.search(at, |at| {
                cursor.run_of(at, |c, class| class & PUNCTUATION != 0 || "$+<=>^~|`".contains(c))
            }),
            Rule::Cjk => cursor.search(at, |at| {
                cursor.run_of(at, |c, _| matches!(c, '\u{800}'..='龥' | '가'..='\u{d7ff}'))
            }),
            Rule::CjkAndKana => cursor.search(at, |at| {
                cursor.run_of(at, |c, _| matches!(c, '一'..='龥' | '\u{3040}'..='ヿ'))
            }),
        }
    }
}

/// A text and the classes of its characters. Every method takes a character boundary and returns
/// where its match ends, which is where it began if there is none.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    classes: &'static Classes,
    text: &'a str,
}

impl Cursor<'_> {
    /// The first place from `at` on where `matcher` matches.
    fn search(&self, mut at: usize, matcher: impl Fn(usize) -> usize) -> Option<Range<usize>> {
        while at < self.text.len() {
            let end = matcher(at);
            if end > at {
                return Some(at..end);
            }
            at += self.class(at).1;
        }
        None
    }

    #[inline]
    fn class(&self, at: usize) -> (u8, usize) {
        self.classes.at(self.text, at)
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    /// At most `most` characters with one of these classes.
    #[inline]
    fn run(&self, mut at: usize, wanted: u8, most: usize) -> usize {
        let mut count = 0;
        loop {
            let (class, length) = self.class(at);
            if class & wanted == 0 || count == most {
                return at;
            }
            at += length;
            count += 1;
        }
    }

    /// Characters with none of these classes.
    #[inline]
    fn run_without(&self, mut at: usize, unwanted: u8) -> usize {
        loop {
            let (class, length) = self.class(at);
            if length == 0 || class & unwanted != 0 {
                return at;
            }
            at += length;
        }
    }

    fn run_of(&self, at: usize, wanted: impl Fn(char, u8) -> bool) -> usize {
        let rest = &self.text[at..];
        let length: usize =
            rest.chars().take_while(|&c| wanted(c, self.classes.of(c))).map(char::len_utf8).sum();
        at + length
    }

    /// `\s?` and a run of `wanted`.
    fn after_space(&self, at: usize, wanted: u8) -> usize {
        let (class, length) = self.class(at);
        let start = if class & SPACE != 0 { at + length } else { at };
        let end = self.run(start, wanted, usize::MAX);
        if end > start { end } else { at }
    }

    /// `[\r\n]*`
    fn line_breaks(&self, mut at: usize, slash: bool) -> usize {
        while matches!(self.byte(at), b'\r' | b'\n') || (slash && self.byte(at) == b'/') {
            at += 1;
        }
        at
    }

    /// `\s+(?!\S)|\s+`: all white space, but the last character of it belongs to what follows.
    fn spaces(&self, at: usize) -> usize {
        let mut end = at;
        let mut last = at;
        loop {
            let (class, length) = self.class(end);
            if class & SPACE == 0 {
                break;
            }
            last = end;
            end += length;
        }
        if end < self.text.len() && last > at { last } else { end }
    }

    /// `\s*[\r\n]+`, else as [`Cursor::spaces`].
    fn spaces_or_lines(&self, at: usize) -> usize {
        let end = self.run(at, SPACE, usize::MAX);
        match self.text.as_bytes()[at..end].iter().rposition(|&b| b == b'\r' || b == b'\n') {
            Some(last) => at + last + 1,
            None => self.spaces(at),
        }
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d`
    #[inline]
    fn contraction(&self, at: usize) -> usize {
        if self.byte(at) != b'\'' {
            return at;
        }
        match (self.byte(at + 1), self.byte(at + 2)) {
            (b's' | b't' | b'm' | b'd', _) => at + 2,
            (b'r' | b'v', b'e') | (b'l', b'l') => at + 3,
            _ => at,
        }
    }

    /// The same in either case. The long s is a letter s of another case.
    #[inline]
    fn any_case_contraction(&self, at: usize) -> usize {
        if self.byte(at) != b'\'' {
            return at;
        }
        match (self.byte(at + 1) | 0x20, self.byte(at + 2) | 0x20) {
            (b's' | b't' | b'm' | b'd', _) => at + 2,
            (b'r' | b'v', b'e') | (b'l', b'l') => at + 3,
            _ if self.text[at + 1..].starts_with('ſ') => at + 3,
            _ => at,
        }
    }

    fn gpt2(&self, at: usize) -> usize {
        let end = self.contraction(at);
        if end > at {
            return end;
        }
        let start = at + usize::from(self.byte(at) == b' ');
        let (class, length) = self.class(start);
        if class & LETTER != 0 {
            self.run(start + length, LETTER, usize::MAX)
        } else if class & NUMBER != 0 {
            self.run(start + length, NUMBER, usize::MAX)
        } else if length != 0 && class & SPACE == 0 {
            self.run_without(start + length, SPACE | LETTER | NUMBER)
        } else {
            self.spaces(at)
        }
    }

    /// `letters` is what counts as a letter.
    fn words(&self, at: usize, digits: u8, letters: u8) -> usize {
        let end = self.any_case_contraction(at);
        if end > at {
            return end;
        }
        let (class, length) = self.class(at);
        if class & letters != 0 {
            return self.run(at + length, letters, usize::MAX);
        }
        if class & NUMBER != 0 {
            return self.run(at, NUMBER, usize::from(digits));
        }
        if !matches!(self.byte(at), b'\r' | b'\n') {
            let end = self.run(at + length, letters, usize::MAX);
            if end > at + length {
                return end;
            }
        }
        self.rest(at, SPACE | letters | NUMBER, false)
    }

    /// ` ?[^…]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`, where `…` are the classes in `not`.
    fn rest(&self, at: usize, not: u8, slash: bool) -> usize {
        let start = at + usize::from(self.byte(at) == b' ');
        let end = self.run_without(start, not);
        if end > start { self.line_breaks(end, slash) } else { self.spaces_or_lines(at) }
    }

    /// `[^\r\n\p{L}\p{N}]?` and UPPER* LOWER+ or UPPER+, where letters without case and marks are
    /// both.
    fn cased(&self, at: usize, digits: u8, contractions: bool) -> usize {
        let (class, length) = self.class(at);
        let prefix = class & (LETTER | NUMBER) == 0 && !matches!(self.byte(at), b'\r' | b'\n');
        // The order of the regular expression: lower case after the optional prefix, lower case
        // without it (a mark may be prefix or word), then capitals alone in the same way.
        let starts = [if prefix { at + length } else { at }, at];
        let word = (starts.iter().find_map(|&start| self.lower_ending(start)))
            .or_else(|| starts.iter().find_map(|&start| self.capitals(start)));
        if let Some(end) = word {
            return if contractions { self.any_case_contraction(end) } else { end };
        }
        if class & NUMBER != 0 {
            return self.run(at, NUMBER, usize::from(digits));
        }
        self.rest(at, SPACE | LETTER | NUMBER, true)
    }

    /// UPPER* LOWER+
    fn lower_ending(&self, start: usize) -> Option<usize> {
        let capitals = self.capitals(start).unwrap_or(start);
        let mut end = capitals;
        loop {
            let (class, length) = self.class(end);
            if class & (LETTER | MARK) == 0 || class & UPPER != 0 {
                break;
            }
            end += length;
        }
        if end > capitals {
            return Some(end);
        }
        // No lower case follows: the capitals are given back up to a character without case.
        let run = &self.text[start..capitals];
        run.char_indices()
            .rev()
            .find(|&(_, c)| self.classes.of(c) & UPPER == 0)
            .map(|(offset, c)| start + offset + c.len_utf8())
    }

    /// UPPER+
    fn capitals(&self, start: usize) -> Option<usize> {
        let mut end = start;
        loop {
            let (class, length) = self.class(end);
            if class & (LETTER | MARK) == 0 || class & LOWER != 0 {
                break;
            }
            end += length;
        }
        (end > start).then_some(end)
    }

    fn deepseek3(&self, at: usize) -> usize {
        let letter = |at: usize| self.byte(at).is_ascii_alphabetic();
        if self.byte(at).is_ascii_punctuation() && letter(at + 1) {
            let mut end = at + 1;
            while letter(end) {
                end += 1;
            }
            return end;
        }
        let (class, length) = self.class(at);
        let prefix =
            class & (LETTER | PUNCTUATION | SYMBOL) == 0 && !matches!(self.byte(at), b'\r' | b'\n');
        if prefix {
            let end = self.run(at + length, LETTER | MARK, usize::MAX);
            if end > at + length {
                return end;
            }
        }
        let end = self.run(at, LETTER | MARK, usize::MAX);
        if end > at {
            return end;
        }
        let start = at + usize::from(self.byte(at) == b' ');
        let end = self.run(start, PUNCTUATION | SYMBOL, usize::MAX);
        if end > start {
            return self.line_breaks(end, false);
        }
        if class & SPACE != 0 { self.spaces_or_lines(at) } else { at }
    }
}
