//! The conversations: what the user asks, what the model says in each turn, and what must come of it.

mod computing;
mod files;
mod system;
mod web;

use super::stage::Outcome;

/// A conversation.
pub(crate) struct Conversation {
    /// Unique; names its space too.
    pub(crate) name: &'static str,
    /// Files that the user put in.
    pub(crate) files: &'static [(&'static str, &'static [u8])],
    /// A conversation that was held before, whose last words a client sends along, and nothing else of it. The model's
    /// first turn is that one.
    pub(crate) earlier: Option<&'static str>,
    /// Whose files and running programs are worked with, if there was an earlier one.
    pub(crate) within: Within,
    /// What the user writes; `SITE` is the address of the web server.
    pub(crate) task: &'static str,
    pub(crate) tools: &'static [&'static str],
    /// What the model says in each turn; `{last}` is the answer before.
    pub(crate) turns: &'static [&'static str],
    /// Whether somebody is there, and what they say to whatever is asked.
    pub(crate) says: Option<Said>,
    /// Code in the answer is run, and then these examples.
    pub(crate) check: Option<&'static str>,
    pub(crate) then: fn(&Outcome),
}

/// A space, seen from the conversation that was held before.
#[derive(Clone, Copy)]
pub(crate) enum Within {
    /// A new one.
    Own,
    /// A new one, and nothing that was said is sent along.
    Apart,
    /// A fork of the earlier one's.
    Fork,
    /// The one that the earlier one's was forked from.
    Origin,
}

/// What a user says to whatever is asked.
#[derive(Clone, Copy)]
pub(crate) enum Said {
    Allow(bool),
    Answer(&'static str),
}

const NONE: Conversation = Conversation {
    name: "",
    files: &[],
    earlier: None,
    within: Within::Own,
    task: "",
    tools: &[],
    turns: &[],
    says: None,
    check: None,
    then: |_| {},
};

/// The text holds this.
fn has(text: &str, part: &str) {
    assert!(text.contains(part), "expected {part:?} in {text:?}");
}

/// The first number behind `name`.
fn number(text: &str, name: &str) -> f64 {
    let rest = text.split(name).nth(1).unwrap_or_default();
    let rest = rest.trim_start_matches(|c: char| !c.is_ascii_digit() && c != '-');
    let end = rest.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '-' | 'e'));
    let digits = &rest[..end.unwrap_or(rest.len())];
    digits.parse().unwrap_or_else(|_| panic!("no number behind {name:?} in {text:?}"))
}

fn near(value: f64, expected: f64) {
    assert!(
        (value - expected).abs() <= 1e-3 * expected.abs().max(1.0),
        "{value} is not {expected}"
    );
}

const SALES: &[u8] = b"year,sales\n2019,100\n2020,110\n2021,121\n2022,133.1\n2023,146.41\n";

/// A line through sales.csv, and its value in 2025.
const FIT: &str = r#"|python {"code": "import csv\nr = [(float(x['year']), float(x['sales'])) for x in csv.DictReader(open('sales.csv'))]\nn = len(r)\nmx = sum(a for a, _ in r) / n\nmy = sum(b for _, b in r) / n\ns = sum((a - mx) * (b - my) for a, b in r) / sum((a - mx) ** 2 for a, _ in r)\nprint('slope', s, 'value', my + s * (2025 - mx))"}"#;
/// A plot of sales.csv.
const PLOT: &str = r#"|python {"code": "import csv\ntry:\n    import matplotlib.pyplot as plt\n    r = list(csv.DictReader(open('sales.csv')))\n    fig = plt.figure()\n    ax = fig.add_subplot()\n    ax.plot([int(x['year']) for x in r], [float(x['sales']) for x in r])\n    ax.set_xlabel('year of sale')\n    fig.savefig('plot.png')\nexcept ImportError:\n    print('matplotlib is missing')"}"#;

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Conversation> {
    [computing::ALL, files::ALL, web::ALL, system::ALL].into_iter().flatten()
}
