//! GBNF, llama.cpp's notation for grammars, as Lark.
//!
//! `name ::= alternatives`; an alternative is a sequence of `"literal"`, `[class]`, `[^class]`, `.`,
//! `name` and `( alternatives )`, each maybe with `*`, `+`, `?`, `{m}`, `{m,}` or `{m,n}`; a rule ends
//! with its line, except inside parentheses and next to `|`; `#` begins a comment (grammars/README.md
//! of llama.cpp).
//!
//! The key decision: GBNF knows characters only, while Lark's lexer takes the longest word it can and
//! does not go back. So a grammar without recursion becomes one word (a regular expression, which
//! is exact and fast), and any other becomes rules over words of one character each, where nothing
//! longer can be taken.

use std::collections::HashMap;
use std::fmt::Write;

use crate::{Error, Result};

/// Most repetitions of one item, as in llama.cpp.
const MOST: u32 = 2000;

/// The Lark text of a GBNF grammar; its `start` is the grammar's `root`.
pub(super) fn to_lark(gbnf: &str) -> Result<String> {
    let mut parser = Parser { rest: gbnf, names: HashMap::new(), rules: Vec::new(), line: 1 };
    parser.space(true);
    while !parser.rest.is_empty() {
        parser.rule()?;
        parser.space(true);
    }
    let Some(&root) = parser.names.get("root") else {
        return Err(Error::Grammar("GBNF: no rule \"root\"; expected root ::= …".to_string()));
    };
    for (name, &rule) in &parser.names {
        if parser.rules[rule].is_none() {
            return Err(Error::Grammar(format!("GBNF: rule {name:?} is used but never defined")));
        }
    }
    let rules: Vec<Alternatives> = parser.rules.into_iter().flatten().collect();
    let writer = Writer { words: !recurses(&rules, root) };
    let mut lark = format!("start: {}\n", writer.name(root));
    for (rule, alternatives) in rules.iter().enumerate() {
        let _ = write!(lark, "{}: ", writer.name(rule));
        writer.alternatives(alternatives, &mut lark);
        lark.push('\n');
    }
    Ok(lark)
}

type Alternatives = Vec<Vec<Item>>;

struct Item {
    what: What,
    /// At least and at most; `None` is no limit.
    times: (u32, Option<u32>),
}

enum What {
    Literal(String),
    Class { negated: bool, ranges: Vec<(char, char)> },
    Any,
    Rule(usize),
    Group(Alternatives),
}

struct Parser<'a> {
    rest: &'a str,
    /// Numbers of the rules, in order of their first appearance.
    names: HashMap<&'a str, usize>,
    rules: Vec<Option<Alternatives>>,
    line: usize,
}

impl<'a> Parser<'a> {
    fn rule(&mut self) -> Result<()> {
        let name = self.name()?;
        let rule = self.number(name);
        self.space(false);
        if !self.eat("::=") {
            return Err(self.error(&format!("expected ::= after {name:?}")));
        }
        self.space(true);
        let alternatives = self.alternatives(0)?;
        if self.rules[rule].replace(alternatives).is_some() {
            return Err(self.error(&format!("rule {name:?} is defined twice")));
        }
        match self.rest.chars().next() {
            None | Some('\n' | '\r') => Ok(()),
            Some(other) => Err(self.error(&format!("{other:?}; expected the end of the rule"))),
        }
    }

    fn alternatives(&mut self, depth: usize) -> Result<Alternatives> {
        let mut alternatives = vec![self.sequence(depth)?];
        while self.eat("|") {
            self.space(true);
            alternatives.push(self.sequence(depth)?);
        }
        Ok(alternatives)
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Item>> {
        super::check_depth(depth)?;
        let mut items = Vec::new();
        loop {
            let what = match self.rest.chars().next() {
                Some('"') => What::Literal(self.literal()?),
                Some('[') => self.class()?,
                Some('.') => {
                    self.eat(".");
                    What::Any
                }
                Some('(') => {
                    self.eat("(");
                    self.space(true);
                    let group = self.alternatives(depth + 1)?;
                    if !self.eat(")") {
                        return Err(self.error("expected )"));
                    }
                    What::Group(group)
                }
                Some(c) if is_name(c) => {
                    let name = self.name()?;
                    What::Rule(self.number(name))
                }
                _ => return Ok(items),
            };
            let times = self.times()?;
            items.push(Item { what, times });
            self.space(depth > 0);
        }
    }

    fn times(&mut self) -> Result<(u32, Option<u32>)> {
        // A space may stand before the mark, but no new line.
        self.space(false);
        for (mark, times) in [("*", (0, None)), ("+", (1, None)), ("?", (0, Some(1)))] {
            if self.eat(mark) {
                return Ok(times);
            }
        }
        if !self.eat("{") {
            return Ok((1, Some(1)));
        }
        let least = self.integer()?.unwrap_or(0);
        let most = match self.eat(",") {
            true => self.integer()?,
            false => Some(least),
        };
        if !self.eat("}") {
            return Err(self.error("expected }"));
        }
        match most {
            Some(most) if most < least => Err(self.error(&format!("{{{least},{most}}} is empty"))),
            _ => Ok((least, most)),
        }
    }

    fn integer(&mut self) -> Result<Option<u32>> {
        self.space(false);
        let digits =
            self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, rest) = self.rest.split_at(digits);
        self.rest = rest;
        self.space(false);
        match digits.parse::<u32>() {
            Ok(number) if number <= MOST => Ok(Some(number)),
            _ if digits.is_empty() => Ok(None),
            _ => Err(self.error(&format!("{digits} repetitions; expected at most {MOST}"))),
        }
    }

    fn literal(&mut self) -> Result<String> {
        self.eat("\"");
        let mut literal = String::new();
        while !self.eat("\"") {
            literal.push(self.character("\"")?);
        }
        Ok(literal)
    }

    fn class(&mut self) -> Result<What> {
        self.eat("[");
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            let first = self.character("]")?;
            let last = match self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                true => {
                    self.eat("-");
                    self.character("]")?
                }
                false => first,
            };
            if last < first {
                return Err(self.error(&format!("the range {first:?}-{last:?} is empty")));
            }
            ranges.push((first, last));
        }
        if ranges.is_empty() && !negated {
            return Err(self.error("[] allows nothing; expected characters"));
        }
        match ranges.is_empty() {
            true => Ok(What::Any),
            false => Ok(What::Class { negated, ranges }),
        }
    }

    /// One character of a literal or class, which `end` closes.
    fn character(&mut self, end: &str) -> Result<char> {
        let mut chars = self.rest.chars();
        let first = chars.next();
        self.rest = chars.as_str();
        match first {
            None | Some('\n') => Err(self.error(&format!("expected {end}"))),
            Some('\\') => self.escape(),
            Some(c) => Ok(c),
        }
    }

    fn escape(&mut self) -> Result<char> {
        let mut chars = self.rest.chars();
        let kind = chars.next();
        self.rest = chars.as_str();
        let digits = match kind {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err(self.error("unknown escape; expected one of \\n \\r \\t \\\\ \\\" \\[ \\] \\xHH \\uHHHH \\UHHHHHHHH")),
        };
        let code = self.rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match code.and_then(char::from_u32) {
            Some(c) => {
                self.rest = &self.rest[digits..];
                Ok(c)
            }
            None => {
                Err(self.error(&format!("expected {digits} hexadecimal digits of a character")))
            }
        }
    }

    fn name(&mut self) -> Result<&'a str> {
        let (name, rest) =
            self.rest.split_at(self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len()));
        if name.is_empty() {
            return Err(self.error("expected the name of a rule"));
        }
        self.rest = rest;
        Ok(name)
    }

    fn number(&mut self, name: &'a str) -> usize {
        *self.names.entry(name).or_insert_with(|| {
            self.rules.push(None);
            self.rules.len() - 1
        })
    }

    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Skips blanks and comments, and new lines if `lines`.
    fn space(&mut self, lines: bool) {
        loop {
            match self.rest.as_bytes().first() {
                Some(b' ' | b'\t') => self.rest = &self.rest[1..],
                Some(b'\n' | b'\r') if lines => {
                    self.line += usize::from(self.rest.starts_with('\n'));
                    self.rest = &self.rest[1..];
                }
                Some(b'#') => {
                    self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
                }
                _ => return,
            }
        }
    }

    fn error(&self, what: &str) -> Error {
        Error::Grammar(format!("GBNF, line {}: {what}", self.line))
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// Whether a rule that `root` reaches reaches itself. (A depth-first walk without recursion.)
fn recurses(rules: &[Alternatives], root: usize) -> bool {
    let children: Vec<Vec<usize>> = rules
        .iter()
        .map(|rule| {
            let mut found = Vec::new();
            let mut groups = vec![rule];
            while let Some(group) = groups.pop() {
                for item in group.iter().flatten() {
                    match &item.what {
                        What::Rule(rule) => found.push(*rule),
                        What::Group(group) => groups.push(group),
                        _ => {}
                    }
                }
            }
            found
        })
        .collect();
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut states = vec![State::New; rules.len()];
    let mut path = vec![(root, 0)];
    states[root] = State::Open;
    while let Some((rule, at)) = path.last_mut() {
        let Some(&child) = children[*rule].get(*at) else {
            states[*rule] = State::Done;
            path.pop();
            continue;
        };
        *at += 1;
        match states[child] {
            State::Open => return true,
            State::New => {
                states[child] = State::Open;
                path.push((child, 0));
            }
            State::Done => {}
        }
    }
    false
}

struct Writer {
    /// Whether every rule is a word of Lark's lexer.
    words: bool,
}

impl Writer {
    fn name(&self, rule: usize) -> String {
        if self.words { format!("R{rule}") } else { format!("r{rule}") }
    }

    fn alternatives(&self, alternatives: &Alternatives, out: &mut String) {
        for (at, sequence) in alternatives.iter().enumerate() {
            out.push_str(if at > 0 { " | " } else { "" });
            if sequence.is_empty() {
                out.push_str("\"\"");
            }
            for (at, item) in sequence.iter().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                self.item(item, out);
            }
        }
    }

    fn item(&self, item: &Item, out: &mut String) {
        match &item.what {
            What::Literal(text) => self.literal(text, out),
            What::Class { negated, ranges } => {
                out.push_str(if *negated { "/[^" } else { "/[" });
                for &(first, last) in ranges {
                    let _ = write!(out, "\\u{{{:x}}}-\\u{{{:x}}}", first as u32, last as u32);
                }
                out.push_str("]/");
            }
            What::Any => out.push_str("/(?s:.)/"),
            What::Rule(rule) => out.push_str(&self.name(*rule)),
            What::Group(group) => {
                out.push('(');
                self.alternatives(group, out);
                out.push(')');
            }
        }
        let _ = match item.times {
            (1, Some(1)) => Ok(()),
            (0, None) => write!(out, "*"),
            (1, None) => write!(out, "+"),
            (0, Some(1)) => write!(out, "?"),
            (least, None) => write!(out, "{{{least},}}"),
            (least, Some(most)) => write!(out, "{{{least},{most}}}"),
        };
    }

    fn literal(&self, text: &str, out: &mut String) {
        if self.words || text.is_empty() {
            return quote(text, out);
        }
        out.push('(');
        for (at, c) in text.chars().enumerate() {
            out.push_str(if at > 0 { " " } else { "" });
            quote(c.encode_utf8(&mut [0; 4]), out);
        }
        out.push(')');
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}
