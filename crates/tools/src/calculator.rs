//! The calculator: exact numbers, units, percentages, and errors that say where.
//!
//! The key decision: `fend-core` computes, and what it would silently read in another way than whoever wrote it is refused before it
//! is asked: separators of thousands, functions without parentheses, a unit behind a division. A wrong number that looks
//! right is worse than an error. Functions of one's own are refused as well: they could recurse.

use std::ops::Range;
use std::time::{Duration, Instant};

use fend_core::{Context, Interrupt};
use serde::Deserialize;
use serde_json::json;
use yushan_abi::{Cancel, Effect, Invocation, ParamRole, Tool, ToolResult, ToolSpec};

use crate::arguments::{read, spec};

/// Bytes of an expression, and parentheses in each other: fend reads what is in parentheses about three times, and so again inside,
/// and nothing can stop it while it reads.
const MOST_INPUT: usize = 400;
const MOST_DEPTH: usize = 6;
/// Bytes of a result.
const MOST_OUTPUT: usize = 4000;
/// For one call.
const TIME: Duration = Duration::from_secs(2);
/// Of the thread that computes, and how much of it may be used: the rest is for reading, which a short expression bounds.
const STACK: usize = 64 << 20;
const STACK_USED: usize = 40 << 20;
/// Functions that fend would apply to less than what seems to be meant if there are no parentheses: `sin 90°`.
const FUNCTIONS: [&str; 22] = [
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
    "ln", "log", "log2", "log10", "exp", "sqrt", "cbrt", "abs", "floor", "ceil",
];

const DESCRIPTION: &str = "Computes exactly: integers of any size, fractions, decimals, percentages, powers, \
factorials, units of measure, dates. Examples: `(120 - 80) / 80 to %`, `1/3 to 30 dp`, `2^200`, `sqrt(2)`, `100 * (1 + 5%)^10`, \
`60 mph to km/h`, `5 km / (20 min) to km/h`, `20 °C to °F`, `10 choose 3`, `7 mod 3`, `255 to hex`, `rate = 5%; 200 * rate`, \
`@2024-02-03 + 5 days`. Angles are radians unless a unit says otherwise: `sin(90 deg)`. `log` is to base 10, `ln` to base e. `15%` is \
0.15: fifteen per cent more than 80 is `80 * (1 + 15%)`. No separators of thousands, no functions of several \
arguments, no currencies, no random numbers.";

/// The tool `calculator`.
pub struct Calculator {
    spec: ToolSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    expression: String,
}

impl Calculator {
    /// One.
    pub fn new() -> Calculator {
        let properties = json!({"expression": {
            "type": "string", "maxLength": MOST_INPUT, "description": "What to compute, for example `15% of 80`",
        }});
        let roles = [("expression", ParamRole::Opaque)];
        let required = ["expression"];
        let (name, effect) = ("calculator", Effect::Read);
        Calculator { spec: spec(name, DESCRIPTION, effect, properties, &required, &roles) }
    }
}

impl Default for Calculator {
    fn default() -> Calculator {
        Calculator::new()
    }
}

impl Tool for Calculator {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, invocation: &Invocation<'_>) -> ToolResult {
        let arguments: Arguments = match read(invocation.arguments) {
            Ok(arguments) => arguments,
            Err(refused) => return refused,
        };
        let label = invocation.label.clone();
        match compute(&arguments.expression, &invocation.cancel) {
            Ok(text) => ToolResult::new(text, label),
            Err(why) => ToolResult::failed(why, label),
        }
    }
}

/// The value of an expression as a text: with the exact fraction where decimals do not say it.
///
/// # Errors
/// What is wrong, where, and what to write instead.
pub fn compute(expression: &str, cancel: &Cancel) -> Result<String, String> {
    let text: String = expression.chars().map(half_width).collect();
    if let Some((at, why)) = misread(&text) {
        return Err(format!("{why} ({})", place(&text, at)));
    }
    let cancel = cancel.clone();
    // Not this thread's stack: its size is not known.
    let work = move || {
        let limits = Limits::new(cancel);
        solve(&text, &limits)
    };
    let thread = std::thread::Builder::new().name("calculator".into()).stack_size(STACK);
    let thread = thread.spawn(work).map_err(|error| format!("the calculator: {error}"))?;
    let failed =
        |_| Err("the calculator failed on this expression; write it in another way".into());
    thread.join().unwrap_or_else(failed)
}

fn solve(text: &str, limits: &Limits) -> Result<String, String> {
    let value = match evaluate(text, limits) {
        Ok(value) => value,
        Err(why) if limits.cancel.is_cancelled() => return Err(format!("stopped: {why}")),
        Err(why) if why.contains(INTERRUPTED) => {
            let seconds = TIME.as_secs();
            let why = format!("it takes longer than {seconds} s or is too deep");
            return Err(format!("{why}; make it smaller, for example `to 10 sf` or fewer digits"));
        }
        Err(why) => {
            let place = find(text, &why, limits).map(|at| place(text, at));
            let why = friendly(&why);
            return Err(place.map_or_else(|| why.clone(), |place| format!("{why} ({place})")));
        }
    };
    let size = value.len();
    if size > MOST_OUTPUT {
        let why = format!("the result has {size} characters, and {MOST_OUTPUT} are shown at most");
        return Err(format!("{why}; ask for fewer, for example `({}) to 10 sf`", text.trim()));
    }
    Ok(refine(text, value, limits))
}

/// A result without what would mislead: percentages that nobody asked for, digits that are not known; with the exact fraction
/// where decimals are not all of it.
fn refine(text: &str, value: String, limits: &Limits) -> String {
    let asked = text.contains(" to ");
    let again = |before: &str, after: &str| evaluate(&around(text, before, after), limits).ok();
    if !asked && value.ends_with('%') {
        // 200 * 5% is 10, and not 1000%.
        return again("0 + (", ")").unwrap_or(value);
    }
    if !value.starts_with(APPROXIMATE) {
        return value;
    }
    let base = digits_asked(text).map_or(text, |at| &text[..at]);
    let exact = evaluate(&around(base, "(", ") to fraction"), limits).ok();
    let exact = exact.filter(|exact| !exact.starts_with(APPROXIMATE) && exact.len() < MOST_OUTPUT);
    match exact {
        Some(exact) if !asked => format!("{value} (exactly {exact})"),
        Some(_) => value,
        None if digits(&value) <= KNOWN_DIGITS => value,
        None => {
            let known = around(base, "(", &format!(") to {KNOWN_DIGITS} sf"));
            evaluate(&known, limits).map_or(value, |known| {
                format!("{known} (no more than {KNOWN_DIGITS} digits are known here)")
            })
        }
    }
}

/// The expression with something around it: its last one, where several are separated by `;`.
fn around(text: &str, before: &str, after: &str) -> String {
    let (first, last) = text.rsplit_once(';').map_or(("", text), |(first, last)| (first, last));
    let separator = if first.is_empty() { "" } else { ";" };
    format!("{first}{separator}{before}{last}{after}")
}

/// Where `to 30 dp` begins at the end of a text.
fn digits_asked(text: &str) -> Option<usize> {
    let (before, form) = text.rsplit_once(" to ")?;
    let form = form.trim_start_matches(|char: char| char.is_ascii_digit() || char == ' ').trim();
    let forms = ["dp", "sf", "decimal places", "significant figures"];
    (forms.contains(&form)).then_some(before.len())
}

/// Digits of the longest number in a text, without zeros before and behind.
fn digits(text: &str) -> usize {
    let numbers = text.split(|char: char| !char.is_ascii_digit() && char != '.');
    let count = |number: &str| {
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').len()
    };
    numbers.map(count).max().unwrap_or(0)
}

/// Digits to which fend knows values that are no fractions: it computes functions in double precision.
const KNOWN_DIGITS: usize = 15;
/// What fend's results begin with that are not exact, and what an interrupted one says.
const APPROXIMATE: &str = "approx. ";
const INTERRUPTED: &str = "interrupted";
/// What fend says of everything that cannot be read.
const UNREADABLE: &str = "unexpected input found";

fn evaluate(text: &str, limits: &Limits) -> Result<String, String> {
    let mut context = Context::new();
    context.disable_rng();
    let result = fend_core::evaluate_with_interrupt(text, &mut context, limits)?;
    if result.output_is_empty() {
        return Err("there is nothing to compute; end with an expression".into());
    }
    Ok(result.get_main_result().to_string())
}

/// Time, stack, and whether anybody still wants it. Looked at between all steps of a computation.
struct Limits {
    deadline: Instant,
    cancel: Cancel,
    /// An address at the top of the stack.
    top: usize,
}

impl Limits {
    fn new(cancel: Cancel) -> Limits {
        Limits { deadline: Instant::now() + TIME, cancel, top: here() }
    }
}

impl Interrupt for Limits {
    fn should_interrupt(&self) -> bool {
        self.top.abs_diff(here()) > STACK_USED
            || self.cancel.is_cancelled()
            || Instant::now() > self.deadline
    }
}

/// An address on the stack.
#[inline(never)]
fn here() -> usize {
    let local = 0_u8;
    std::hint::black_box(&raw const local).addr()
}

/// Digits and signs as they are typed in Chinese and Japanese.
fn half_width(char: char) -> char {
    match char {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(char) - 0xfee0).unwrap_or(char),
        '\u{3000}' => ' ',
        _ => char,
    }
}

/// What would be refused without a reason, or read in another way than it was meant: the byte, and why.
fn misread(text: &str) -> Option<(usize, String)> {
    let error = |at, why: &str| Some((at, why.to_string()));
    if text.trim().is_empty() {
        return error(0, "the expression is empty; give one such as 2 + 3");
    }
    if text.len() > MOST_INPUT {
        return error(MOST_INPUT, "the expression is longer than 400 bytes; compute it in parts");
    }
    let mut open = Vec::new();
    let bytes = text.as_bytes();
    for (at, char) in text.char_indices() {
        match (char, bytes.get(at + 1)) {
            ('(', _) if open.len() == MOST_DEPTH => {
                let why = "more than 6 parentheses in each other: name parts of it, as in `a = 1 + 2; 3 * a`";
                return error(at, why);
            }
            ('(', _) => open.push(at),
            (')', _) if open.pop().is_none() => {
                return error(at, "this closing parenthesis has no opening one");
            }
            (',', _) => {
                let why = "a comma: write 1234.5 without separators; functions have one argument";
                return error(at, why);
            }
            (':' | '\\' | '#' | '{' | '[', _) | ('=', Some(b'>')) => {
                return error(at, "functions of one's own, comments and lists are not supported");
            }
            ('/', Some(b'/')) => return error(at, "`//` is not supported: write floor(7 / 2)"),
            _ => {}
        }
    }
    if let Some(at) = open.pop() {
        return error(at, "this parenthesis is not closed");
    }
    let words = words(text);
    words.iter().enumerate().find_map(|(number, word)| {
        bare_function(text, word).or_else(|| unit_below(text, &words, number))
    })
}

/// A function whose argument has no parentheses.
fn bare_function(text: &str, word: &Range<usize>) -> Option<(usize, String)> {
    let name = &text[word.clone()];
    let bare = FUNCTIONS.contains(&name) && !text[word.end..].trim_start().starts_with('(');
    bare.then(|| (word.start, format!("write {name}(…) with its argument in parentheses")))
}

/// `5 km / 20 min`, which is `(5 km / 20) min` to fend and a speed to whoever wrote it.
fn unit_below(text: &str, words: &[Range<usize>], number: usize) -> Option<(usize, String)> {
    let is_name = |word: &Range<usize>| text[word.clone()].starts_with(char::is_alphabetic);
    let is_number =
        |word: &Range<usize>| text[word.clone()].starts_with(|c: char| c.is_ascii_digit());
    let between = |a: &Range<usize>, b: &Range<usize>| text[a.end..b.start].trim();
    let [over, below, unit] = words.get(number..number + 3)? else { return None };
    let operators = ["to", "in", "as", "mod", "of", "per", "choose", "permute", "and", "or", "xor"];
    let ambiguous = is_name(over)
        && between(over, below) == "/"
        && is_number(below)
        && between(below, unit).is_empty()
        && is_name(unit)
        && !operators.contains(&&text[unit.clone()]);
    ambiguous.then(|| {
        let (below_text, unit_text) = (&text[below.clone()], &text[unit.clone()]);
        let why = "is the unit divided by as well? Write it with parentheses";
        (below.start, format!("{why}: / ({below_text} {unit_text})"))
    })
}

/// Runs of letters and digits.
fn words(text: &str) -> Vec<Range<usize>> {
    let part =
        |char: char| char.is_alphanumeric() || matches!(char, '_' | '.' | '°' | '%' | '\'' | '"');
    let mut words: Vec<Range<usize>> = Vec::new();
    for (at, char) in text.char_indices().filter(|&(_, char)| part(char)) {
        let end = at + char.len_utf8();
        // A unit may stand at its number: 20min.
        let goes_on = |word: &Range<usize>| {
            let last = text[word.clone()].chars().next_back();
            word.end == at
                && !(last.is_some_and(|c| c.is_ascii_digit())
                    && char.is_alphabetic()
                    && text[word.clone()].starts_with(|c: char| c.is_ascii_digit()))
        };
        match words.last_mut() {
            Some(word) if goes_on(word) => word.end = end,
            _ => words.push(at..end),
        }
    }
    words
}

/// Where the error is: of what cannot be read, behind the longest beginning that can be; of the rest, at the end of the shortest
/// beginning that fails in the same way.
fn find(text: &str, why: &str, limits: &Limits) -> Option<usize> {
    let named = why.split('\'').nth(1).filter(|_| why.starts_with("un"));
    if let Some(at) = named.and_then(|name| text.find(name)) {
        return Some(at);
    }
    let mut ends: Vec<usize> = words(text).into_iter().map(|word| word.end).collect();
    ends.extend(text.match_indices([')', '!']).map(|(at, _)| at + 1));
    ends.sort_unstable();
    // Trying takes time too: if there is none left the place stays unknown.
    let tried = |&&end: &&usize| {
        if limits.should_interrupt() {
            Err(INTERRUPTED.into())
        } else {
            evaluate(&text[..end], limits)
        }
    };
    let end = if why == UNREADABLE {
        let reads = |end: &&usize| !tried(end).is_err_and(|why| why == UNREADABLE);
        let end = *ends.iter().rev().find(reads).unwrap_or(&0);
        if limits.should_interrupt() {
            return None;
        }
        end
    } else {
        let end = *ends.iter().find(|end| tried(end).is_err_and(|other| other == why))?;
        return Some(
            text[..end].trim_end_matches(')').char_indices().next_back().map_or(0, |(at, _)| at),
        );
    };
    Some(end + (text[end..].len() - text[end..].trim_start().len()))
}

/// In words that say what to do.
fn friendly(why: &str) -> String {
    match why {
        UNREADABLE => "this cannot be read".into(),
        "exchange rates are not available" => {
            "currencies are not supported: use plain numbers".into()
        }
        "random numbers are not available" => "random numbers are not supported".into(),
        "unable to get the current date" => "the date of today is not known here".into(),
        why => why.into(),
    }
}

/// For people: the character, counted from 1, and what stands there.
fn place(text: &str, at: usize) -> String {
    const SHOWN: usize = 20;
    let at = text.floor_char_boundary(at);
    let number = text[..at].chars().count() + 1;
    let rest: String = text[at..].trim().chars().take(SHOWN).collect();
    match rest.as_str() {
        "" => format!("at its end, character {number}: something is missing"),
        rest => format!("at character {number}: `{rest}`"),
    }
}

#[cfg(test)]
mod tests;
