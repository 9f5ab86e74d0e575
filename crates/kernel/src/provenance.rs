//! Where each argument of a call came from, leaf by leaf.
//!
//! The key decision: what a model wrote has the join of all that it has read, and no reasoning about texts can lower
//! that. What can be said of a value is how it could have been *chosen*: the user wrote it, or it is one of a closed list
//! that a service gave out, or it says no more than a few bits; everything else is free, and is the attacker's as soon as
//! an attacker was read. A payload that is put together of such pieces tells whoever gets it the pieces, and no
//! more bits than it takes to choose them; these are counted.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use yushan_abi::{Label, Listed, ParamRole, Sources, ToolSpec, is_hidden};

use crate::life::{Life, is_of_user};

/// Pieces that a text may be put together of, words of such a text, and the fewest words that a piece has on average,
/// in halves.
const PIECES: usize = 8;
const WORDS: usize = 96;
const HALVES: usize = 3;

/// What choosing one piece of what the user wrote, or of a list, can tell.
const PIECE_BITS: u32 = 16;

/// What a date with its time can tell: minutes of a century.
const TIME_BITS: u32 = 26;

/// Leaves that a call may have: deeper or wider ones are one leaf, and free.
const LEAVES: usize = 256;

/// How a value was chosen, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// By somebody who is trusted: the user wrote it, or a model that had read nothing of others.
    Named,
    /// From a closed list, or of a form that can say little. Which one may be an attacker's choice.
    Listed,
    /// Anyhow.
    Free,
}

/// Where a value came from, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The user wrote it.
    User,
    /// The user has allowed a call with it.
    Allowed,
    /// A list of this kind.
    List(String),
    /// It is one of few that its type allows.
    Type,
    /// So many pieces of what the user wrote and of lists.
    Pieces(usize),
    /// What stands behind this handle.
    Handle(u64),
    /// The model, from all that it has read.
    Context,
}

/// One value of a call's arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Where it stands: `to[0]`.
    pub path: String,
    /// What it decides.
    pub role: ParamRole,
    /// As text.
    pub text: String,
    /// How it was chosen.
    pub choice: Choice,
    /// Where it came from.
    pub from: From,
    /// Of what it tells whoever receives it.
    pub label: Label,
    /// What the choice can tell beyond that.
    pub bits: u32,
    /// Whether there is an address in it that neither the user wrote nor a list has.
    pub strange: bool,
    /// The host, of an address of the web, and whether it carries more than that.
    pub url: Option<(String, bool)>,
}

impl Leaf {
    /// The parameter that it is a part of.
    pub fn parameter(&self) -> &str {
        self.path.split(['[', '.']).next().unwrap_or_default()
    }
}

/// What a life knows, made ready for looking values up.
pub(crate) struct View<'a> {
    life: &'a Life,
    /// All that the user wrote, in small letters.
    user: String,
    /// How what the model writes was chosen at worst: by a trusted model, by one that got a few bits of what others
    /// wrote out of quarantine, or by one that may be an attacker's.
    worst: Choice,
    /// Of what the model writes: of all that was read.
    label: Label,
}

impl<'a> View<'a> {
    pub(crate) fn new(life: &'a Life) -> View<'a> {
        let parts = life
            .messages
            .iter()
            .flat_map(|message| message.parts.iter().filter(move |part| is_of_user(message, part)));
        let user = parts.fold(String::new(), |all, part| all + &part.text.to_lowercase() + "\n");
        let worst = match (life.label.is_trusted(), life.label.capacity) {
            (true, 0) => Choice::Named,
            (true, _) => Choice::Listed,
            (false, _) => Choice::Free,
        };
        let label = life.data.join(&Label::of(Sources::MODEL));
        View { life, user, worst, label }
    }

    /// All leaves of a call's arguments; handles stand for their texts.
    pub(crate) fn leaves(&self, spec: &ToolSpec, arguments: &Value) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        for (name, value) in arguments.as_object().into_iter().flatten() {
            let of = Parameter {
                role: spec.role(name),
                kind: spec.kind(name),
                schema: &spec.schema["properties"][name],
            };
            self.walk(&of, name.clone(), value, &mut leaves);
        }
        leaves
    }

    fn walk(&self, of: &Parameter<'_>, path: String, value: &Value, leaves: &mut Vec<Leaf>) {
        match value {
            Value::Null => {}
            Value::Array(all) if all.len() + leaves.len() <= LEAVES => {
                for (at, one) in all.iter().enumerate() {
                    self.walk(of, format!("{path}[{at}]"), one, leaves);
                }
            }
            Value::Object(all) if all.len() + leaves.len() <= LEAVES => {
                for (name, one) in all {
                    self.walk(of, format!("{path}.{name}"), one, leaves);
                }
            }
            value => leaves.push(self.leaf(of, path, value)),
        }
    }

    fn leaf(&self, of: &Parameter<'_>, path: String, value: &Value) -> Leaf {
        let held = self.life.handle(value);
        let text = held.map_or_else(|| as_text(value), |(_, held)| Cow::Borrowed(&held.text));
        let (choice, from, label, bits) = match held {
            // Whoever chose the handle is trusted, what stands behind it is not.
            Some((id, held)) => (Choice::Free, From::Handle(id), held.label.clone(), 0),
            None => self.choice(of, &text, value),
        };
        let bits = if self.worst == Choice::Free { bits } else { 0 };
        let leads = of.role == ParamRole::Destination && matches!(of.kind, None | Some("url"));
        let url = web_address(&text).filter(|_| leads);
        let free = choice == Choice::Free && of.role == ParamRole::Payload;
        let strange = free && self.has_strange_address(&text);
        let text = text.into_owned();
        Leaf { path, role: of.role, text, choice, from, label, bits, strange, url }
    }

    fn choice(&self, of: &Parameter<'_>, text: &str, value: &Value) -> (Choice, From, Label, u32) {
        let public = || Label::of(Sources::USER);
        let small = text.to_lowercase();
        let worst = self.worst.min(Choice::Listed);
        // A short number stands in many a text: it names no thing.
        let decides =
            !matches!(of.role, ParamRole::Amount | ParamRole::Payload | ParamRole::Opaque);
        let vague = decides && small.len() < 4 && small.bytes().all(|byte| byte.is_ascii_digit());
        if !vague && self.wrote(&small) {
            return (Choice::Named, From::User, public(), PIECE_BITS);
        }
        let allowed = of.kind.map(|kind| (kind.to_string(), text.to_string()));
        let allowed = allowed.is_some_and(|one| self.life.allowed.contains(&one));
        if let Some(listed) = self.listed(of.kind, text) {
            let by_name = listed.name.as_ref().is_some_and(|name| self.wrote(&name.to_lowercase()));
            // What this process made itself is not what the user meant by the name.
            let meant = by_name && !listed.label.sources.contains(Sources::MODEL);
            let label = if meant { public() } else { listed.label.clone() };
            let choice = if allowed { Choice::Named } else { worst };
            return (choice, From::List(listed.kind.clone()), label, PIECE_BITS);
        }
        if allowed {
            return (Choice::Named, From::Allowed, self.label.clone(), PIECE_BITS);
        }
        if let Some(bits) = of.few(text, value) {
            return (worst, From::Type, public(), bits);
        }
        if let Some((pieces, label)) = self.pieces(text, &small) {
            let bits = PIECE_BITS.saturating_mul(pieces as u32);
            return (worst, From::Pieces(pieces), label, bits);
        }
        (self.worst, From::Context, self.label.clone(), 0)
    }

    /// Whether the user wrote this, in words of its own; numbers are compared as numbers.
    fn wrote(&self, small: &str) -> bool {
        stands_in(small, &self.user) || self.wrote_number(small)
    }

    fn wrote_number(&self, text: &str) -> bool {
        let Ok(number) = text.parse::<f64>() else { return false };
        let words = self.user.split(|char: char| !(char.is_ascii_digit() || ".,-".contains(char)));
        let plain = |word: &str| word.trim_matches(['.', ',', '-']).replace(',', "").parse::<f64>();
        words.filter(|word| !word.is_empty()).any(|word| plain(word) == Ok(number))
    }

    /// The value of a list that this is, if the kind asks for it.
    fn listed(&self, kind: Option<&str>, text: &str) -> Option<&'a Listed> {
        let kind = kind?;
        let named =
            |one: &Listed| one.name.as_ref().is_some_and(|name| self.wrote(&name.to_lowercase()));
        let mut all = self.life.listed.iter().filter(|one| one.kind == kind && one.value == text);
        all.find(|one| !one.by_name || named(one))
    }

    /// How few pieces of what the user wrote, of lists and of short numbers this text is put together of, and
    /// the label of those.
    fn pieces(&self, text: &str, small: &str) -> Option<(usize, Label)> {
        // Small letters may have another length.
        let text = if small.len() == text.len() { text } else { small };
        let words = words(text)?;
        let (mut at, mut pieces) = (0, 0);
        let mut label = Label::of(Sources::USER);
        while at < words.len() {
            let rest = &text[words[at].0..];
            let end_of = |length: usize| {
                let end = words[at].0 + length;
                words.iter().position(|word| word.1 == end)
            };
            let lists = self.life.listed.iter().filter(|one| !one.by_name);
            let listed = lists
                .filter(|one| !one.value.is_empty() && rest.starts_with(one.value.as_str()))
                .filter_map(|one| Some((end_of(one.value.len())?, one)))
                .max_by_key(|(end, _)| *end);
            let user = (at..words.len())
                .take_while(|&end| stands_in(&small[words[at].0..words[end].1], &self.user))
                .last();
            let short = rest[..words[at].1 - words[at].0].parse::<u16>().is_ok_and(|n| n < 1000);
            match (listed, user) {
                (Some((end, one)), user) if user.is_none_or(|user| end >= user) => {
                    label = label.join(&one.label);
                    at = end + 1;
                }
                (_, Some(end)) => at = end + 1,
                (_, None) if short => at += 1,
                _ => return None,
            }
            pieces += 1;
            if pieces > PIECES {
                return None;
            }
        }
        (pieces > 0 && words.len() * 2 >= pieces * HALVES).then_some((pieces, label))
    }

    fn has_strange_address(&self, text: &str) -> bool {
        let text: String = text.chars().filter(|&char| !is_hidden(char)).collect();
        addresses(&text).any(|address| {
            !self.wrote(&address.to_lowercase())
                && !self.life.listed.iter().any(|one| !one.by_name && one.value == address)
        })
    }
}

/// A parameter of a tool.
struct Parameter<'a> {
    role: ParamRole,
    kind: Option<&'a str>,
    schema: &'a Value,
}

impl Parameter<'_> {
    /// How many bits a value of this type can tell, if they are few.
    fn few(&self, text: &str, value: &Value) -> Option<u32> {
        if self.kind == Some("time") && is_time(text) {
            return Some(TIME_BITS);
        }
        let schema =
            if self.schema["items"].is_object() { &self.schema["items"] } else { self.schema };
        if let Some(values) = schema["enum"].as_array() {
            return values.contains(value).then(|| bits_of(values.len() as u64));
        }
        match (value, schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
            (Value::Bool(_), ..) => Some(1),
            (Value::Number(number), Some(least), Some(most)) => {
                let number = number.as_i64().filter(|number| (least..=most).contains(number));
                number.map(|_| bits_of(most.abs_diff(least).saturating_add(1)))
            }
            _ => None,
        }
    }
}

/// Bits that tell one of so many from the others.
pub(crate) fn bits_of(values: u64) -> u32 {
    u64::BITS - values.saturating_sub(1).leading_zeros()
}

/// A value as text; a number in its shortest form.
pub(crate) fn as_text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        Value::Number(number) => Cow::Owned(match number.as_f64() {
            Some(float) if number.is_f64() => float.to_string(),
            _ => number.to_string(),
        }),
        other => Cow::Owned(other.to_string()),
    }
}

/// Whether a text stands in another as words of its own.
pub(crate) fn stands_in(text: &str, whole: &str) -> bool {
    let apart = |char: Option<char>| char.is_none_or(|char| !char.is_alphanumeric());
    !text.is_empty()
        && whole.match_indices(text).any(|(at, _)| {
            apart(whole[..at].chars().next_back()) && apart(whole[at + text.len()..].chars().next())
        })
}

/// Where the words of a text begin and end; `None` if there are none or too many.
fn words(text: &str) -> Option<Vec<(usize, usize)>> {
    let mut words = Vec::new();
    let mut begun = None;
    for (at, char) in text.char_indices() {
        match (char.is_alphanumeric(), begun) {
            (true, None) => begun = Some(at),
            (false, Some(from)) => {
                words.push((from, at));
                begun = None;
            }
            _ => {}
        }
        if words.len() > WORDS {
            return None;
        }
    }
    words.extend(begun.map(|from| (from, text.len())));
    (!words.is_empty()).then_some(words)
}

/// Whether a text is a date, with or without a time: `2024-05-19`, `2024-05-19 12:00`, `2024-05-19T12:00:00Z`.
pub(crate) fn is_time(text: &str) -> bool {
    let form = |text: &str, form: &str| {
        text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                form => byte == form,
            })
    };
    let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, ""));
    let time = time.strip_suffix('Z').unwrap_or(time);
    form(date, "0000-00-00")
        && (time.is_empty() && date.len() == text.len()
            || form(time, "00:00")
            || form(time, "00:00:00"))
}

/// The host of an address of the web, in small letters, and whether it carries anything beyond that.
pub(crate) fn web_address(text: &str) -> Option<(String, bool)> {
    if text.contains(char::is_whitespace) {
        return None;
    }
    let rest = match text.split_once("://") {
        Some((_, rest)) => rest,
        None if text.starts_with("www.") => text,
        None => return None,
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let carries = !matches!(path, "" | "/") || host.contains('@');
    let host = host.rsplit('@').next().unwrap_or(host);
    let host = host.split(':').next().unwrap_or(host);
    Some((host.trim_end_matches('.').to_lowercase(), carries))
}

/// What looks like an address in a text: of the web, of e-mail, of an account, of a person (`@name`).
pub(crate) fn addresses(text: &str) -> impl Iterator<Item = &str> {
    let apart = |char: char| char.is_whitespace() || "()<>[]{}\"'`,;|".contains(char);
    let words = text.split(apart);
    let words = words.map(|word| word.trim_matches(['.', '!', '?', ':', '*', '_']));
    words.filter(|word| {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        word.contains("://")
            || word.contains("www.")
            || word.split_once('@').is_some_and(|(_, host)| !host.is_empty())
            || plain && digits >= 9
            || plain && is_account(word)
            || has_domain(word)
    })
}

/// Two letters, two digits, and at least eight more.
fn is_account(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() >= 12
        && bytes[..2].iter().all(u8::is_ascii_alphabetic)
        && bytes[2..4].iter().all(u8::is_ascii_digit)
}

/// Whether a word begins with a name of a host, and is no file's name.
fn has_domain(word: &str) -> bool {
    const FILES: [&str; 16] = [
        "csv", "docx", "doc", "gif", "html", "jpg", "jpeg", "json", "md", "pdf", "png", "py", "rs",
        "txt", "xlsx", "xml",
    ];
    let host = word.split(['/', '?', '#', ':']).next().unwrap_or(word);
    let Some((before, last)) = host.rsplit_once('.') else { return false };
    let whole = host.len() == word.len();
    before.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        && before.bytes().any(|byte| byte.is_ascii_alphabetic())
        && (2..=24).contains(&last.len())
        && last.bytes().all(|byte| byte.is_ascii_alphabetic())
        && !(whole && FILES.contains(&last.to_lowercase().as_str()))
}

/// Those whom the destinations of a call name.
pub(crate) fn named(leaves: &[Leaf]) -> BTreeSet<String> {
    let to = leaves.iter().filter(|leaf| leaf.role == ParamRole::Destination);
    to.map(|leaf| leaf.text.clone()).collect()
}
