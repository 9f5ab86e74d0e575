//! From what a tool gave to labelled records.
//!
//! The key decision: a label comes from fields that the service itself fills in (who sent it, who owns it, whose
//! account it is), never from what a record says. Of a record that others wrote, the fields that the service fills in
//! are a part of their own.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};
use yushan_abi::{Label, Listed, Part, Readers, Sources, ToolResult};

/// How records of one kind are read.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape {
    /// Who wrote what is in them.
    from: Source,
    /// A field and a value: with it, the user wrote it.
    own: Option<(String, String)>,
    /// Who may read them: fields with names, or all. Without it, the user alone.
    #[serde(default)]
    readers: Audience,
    /// Fields that the service fills in.
    #[serde(default)]
    service: Vec<String>,
    /// Fields that are values of closed lists, and of which kind; `*` is a record that is one value.
    #[serde(default)]
    lists: BTreeMap<String, String>,
    /// Fields that are lists of values which may be chosen if the user named the record.
    #[serde(default)]
    by_name: BTreeMap<String, String>,
    /// The field with the record's name.
    name: Option<String>,
    /// A field and a value: without it, its name counts for nothing.
    accepted: Option<(String, String)>,
    /// Of which kind the addresses in its texts are, where members of a closed group post them.
    links: Option<String>,
    /// The records are the values of an object.
    #[serde(default)]
    map: bool,
    /// The records are lines behind a heading.
    #[serde(default)]
    lines: bool,
}

#[derive(Clone, Copy, Deserialize)]
enum Source {
    #[serde(rename = "own data")]
    OwnData,
    #[serde(rename = "operator")]
    Operator,
    #[serde(rename = "other user")]
    OtherUser,
    #[serde(rename = "file")]
    File,
    #[serde(rename = "web")]
    Web,
}

#[derive(Clone, Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    #[default]
    User,
    /// `public`, or the name of a closed group.
    All(String),
    Fields(Vec<String>),
}

impl Source {
    fn label(self) -> Label {
        Label::of(match self {
            Source::OwnData => Sources::OWN_DATA,
            Source::Operator => Sources::OPERATOR,
            Source::OtherUser => Sources::OTHER_USER,
            Source::File => Sources::FILE,
            Source::Web => Sources::WEB,
        })
    }
}

/// What a call gave, labelled. `user` is whom the assistant works for.
pub(super) fn labelled(shape: &Shape, output: &str, user: &str) -> ToolResult {
    let mut result = ToolResult::default();
    for record in shape.records(output) {
        shape.add(&record, user, &mut result);
    }
    if result.parts.is_empty() {
        result.parts.push(Part { text: output.into(), label: Label::of(Sources::SYSTEM) });
    }
    result
}

impl Shape {
    fn records(&self, output: &str) -> Vec<Value> {
        if self.lines {
            let lines = output.split_once(": ").map_or(output, |(_, lines)| lines).lines();
            return lines.filter(|line| !line.is_empty()).map(Value::from).collect();
        }
        match serde_json::from_str(output) {
            Ok(Value::Array(records)) => records,
            Ok(Value::Object(all)) if self.map => all.into_values().collect(),
            Ok(record @ Value::Object(_)) => vec![record],
            _ => vec![Value::from(output)],
        }
    }

    fn add(&self, record: &Value, user: &str, result: &mut ToolResult) {
        let user_wrote = |(field, value): &(String, String)| {
            record[field].as_str() == Some(if value == "$user" { user } else { value })
        };
        let source = match &self.own {
            Some(own) if user_wrote(own) => Source::OwnData,
            _ => self.from,
        };
        let readers = self.readers(record, user);
        let label = Label { readers: readers.clone(), ..source.label() };
        let service = Label { readers, ..Source::OwnData.label() };
        let fields = record.as_object();
        let (ours, theirs): (Map<String, Value>, Map<String, Value>) = fields
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .partition(|(name, _)| self.service.contains(name));
        if !ours.is_empty() {
            result
                .parts
                .push(Part { text: Value::Object(ours).to_string(), label: service.clone() });
        }
        let text = if fields.is_some() { Value::Object(theirs).to_string() } else { plain(record) };
        result.parts.push(Part { text, label: label.clone() });
        self.list(record, &label, result);
    }

    fn list(&self, record: &Value, label: &Label, result: &mut ToolResult) {
        let accepted = self.accepted.as_ref().is_none_or(|(field, value)| record[field] == **value);
        let name = self.name.as_ref().filter(|_| accepted);
        let name = name.and_then(|name| record[name].as_str()).map(String::from);
        let mut list = |kind: &str, value: &Value, by_name: bool| {
            let (kind, value, label) = (kind.to_string(), plain(value), label.clone());
            result.listed.push(Listed { kind, value, name: name.clone(), by_name, label });
        };
        for (field, kind) in &self.lists {
            let value = if field == "*" { record } else { &record[field] };
            if !value.is_null() {
                list(kind, value, false);
            }
        }
        for (field, kind) in self.by_name.iter().filter(|_| accepted) {
            let values = record[field].as_array();
            values.into_iter().flatten().for_each(|value| list(kind, value, true));
        }
        if let Some(kind) = &self.links {
            let body = record["body"].as_str().unwrap_or_default();
            let words = body.split(|char: char| char.is_whitespace() || "()<>\"'".contains(char));
            for word in words.filter(|word| word.starts_with("www.") || word.contains("://")) {
                list(kind, &Value::from(word.trim_end_matches(['.', '!', ',', '?'])), false);
            }
        }
    }

    fn readers(&self, record: &Value, user: &str) -> Readers {
        let fields = match &self.readers {
            Audience::User => return Readers::one(user),
            Audience::All(all) if all == "public" => return Readers::Public,
            Audience::All(group) => return Readers::one(group.as_str()),
            Audience::Fields(fields) => fields,
        };
        let mut readers = BTreeSet::from([user.to_string()]);
        for field in fields {
            match &record[field] {
                Value::String(one) => drop(readers.insert(one.clone())),
                Value::Array(all) => readers.extend(all.iter().map(plain)),
                Value::Object(all) => readers.extend(all.keys().cloned()),
                _ => {}
            }
        }
        Readers::Only(readers)
    }
}

/// A value as it is written in an argument.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            number.as_f64().map_or_else(|| number.to_string(), |n| n.to_string())
        }
        other => other.to_string(),
    }
}
