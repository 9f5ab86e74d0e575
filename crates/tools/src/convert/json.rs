//! JSON and JSON lines.
//!
//! Numbers are taken by their digits, never through `f64`. What lies deeper than one value (an array, an object) becomes
//! a text of JSON, which a note says.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::table::{Cell, Table};
use super::{ConvertError, Limits, within};

/// Rows as they come: columns are found on the way.
#[derive(Default)]
struct Rows {
    names: Vec<String>,
    places: HashMap<String, usize>,
    rows: Vec<Vec<Cell>>,
    nested: usize,
    /// Whether rows are arrays, the first of which has the names.
    arrays: Option<bool>,
    refused: Option<ConvertError>,
}

impl Rows {
    fn add(&mut self, raw: &RawValue, limits: &Limits) -> Result<(), ConvertError> {
        let text = raw.get();
        let is_array = text.starts_with('[');
        if !is_array && !text.starts_with('{') {
            let shown: String = text.chars().take(40).collect();
            return Err(ConvertError::Malformed(format!(
                "row {} is {shown}; a row must be an object ({{\"column\": value}}) or an array of values",
                self.rows.len() + 1
            )));
        }
        if *self.arrays.get_or_insert(is_array) != is_array {
            return Err(ConvertError::malformed(
                "some rows are objects and some are arrays; make them all objects",
            ));
        }
        let row = if is_array { self.array(text, limits)? } else { self.object(text, limits)? };
        let cells = (self.rows.len() + 1).saturating_mul(self.names.len().max(1));
        within("the number of cells", cells, limits.cells, "convert a part of it")?;
        self.rows.extend(row);
        Ok(())
    }

    fn object(&mut self, text: &str, limits: &Limits) -> Result<Option<Vec<Cell>>, ConvertError> {
        let pairs = parsed::<Pairs<'_>>(text)?.0;
        let mut row = vec![Cell::Null; self.names.len()];
        for (name, value) in pairs {
            let place = match self.places.get(&name) {
                Some(&place) => place,
                None => {
                    let place = self.names.len();
                    within(
                        "the number of columns",
                        place + 1,
                        limits.columns,
                        "keep fewer columns",
                    )?;
                    self.places.insert(name.clone(), place);
                    self.names.push(name);
                    row.push(Cell::Null);
                    place
                }
            };
            row[place] = self.cell(value)?;
        }
        Ok(Some(row))
    }

    fn array(&mut self, text: &str, limits: &Limits) -> Result<Option<Vec<Cell>>, ConvertError> {
        let values: Vec<&RawValue> = parsed(text)?;
        within("the number of columns", values.len(), limits.columns, "keep fewer columns")?;
        let mut row = Vec::with_capacity(values.len());
        for value in values {
            row.push(self.cell(value)?);
        }
        if self.names.is_empty() {
            self.names = row.iter().map(|cell| cell.display().into_owned()).collect();
            return Ok(None);
        }
        if row.len() != self.names.len() {
            return Err(ConvertError::Malformed(format!(
                "row {} has {} values and the first, which names the columns, has {}",
                self.rows.len() + 2,
                row.len(),
                self.names.len()
            )));
        }
        Ok(Some(row))
    }

    fn cell(&mut self, value: &RawValue) -> Result<Cell, ConvertError> {
        let text = value.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Cell::Null,
            Some(b't') => Cell::Bool(true),
            Some(b'f') => Cell::Bool(false),
            Some(b'"') => {
                let text: String = parsed(text)?;
                Cell::date(&text).unwrap_or_else(|| Cell::text(text))
            }
            Some(b'[' | b'{') => {
                self.nested += 1;
                Cell::text(text)
            }
            _ => Cell::number(text).unwrap_or_else(|| Cell::text(text)),
        })
    }

    fn into_table(self, limits: &Limits, notes: &mut Vec<String>) -> Result<Table, ConvertError> {
        if self.names.is_empty() {
            return Err(ConvertError::malformed(
                "there are no columns: an array of objects with at least one field is expected",
            ));
        }
        if self.nested > 0 {
            notes.push(format!(
                "{} values are arrays or objects and became texts of JSON",
                self.nested
            ));
        }
        let mut table = Table::new(self.names, limits, notes)?;
        for mut row in self.rows {
            row.resize(table.columns.len(), Cell::Null);
            table.push(row, limits)?;
        }
        Ok(table)
    }
}

fn parsed<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, ConvertError> {
    serde_json::from_str(text)
        .map_err(|error| ConvertError::Malformed(format!("not valid JSON: {error}")))
}

/// The fields of an object, in their order.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Pairs<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Reads an array of objects, an array of arrays, or one object as one row.
pub(super) fn read(
    text: &str,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Table, ConvertError> {
    struct Array<'a>(&'a mut Rows, &'a Limits);
    impl<'de> Visitor<'de> for Array<'_> {
        type Value = ();
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an array of objects")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            while let Some(row) = seq.next_element::<&RawValue>()? {
                if let Err(error) = self.0.add(row, self.1) {
                    self.0.refused = Some(error);
                    return Err(A::Error::custom("refused"));
                }
            }
            Ok(())
        }
    }
    let mut rows = Rows::default();
    let text = text.trim();
    if text.starts_with('{') {
        rows.add(parsed::<&RawValue>(text)?, limits)?;
        return rows.into_table(limits, notes);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read =
        deserializer.deserialize_seq(Array(&mut rows, limits)).and_then(|()| deserializer.end());
    match (rows.refused.take(), read) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(ConvertError::Malformed(format!(
            "not a JSON array of objects: {error} (an object on each line is the format jsonl)"
        ))),
        (None, Ok(())) => rows.into_table(limits, notes),
    }
}

/// Reads an object on each line; empty lines are skipped.
pub(super) fn read_lines(
    text: &str,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Table, ConvertError> {
    let mut rows = Rows::default();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str::<&RawValue>(line.trim()).map_err(|error| {
            ConvertError::Malformed(format!("line {number} is not valid JSON: {error}"))
        })?;
        rows.add(row, limits)?;
    }
    rows.into_table(limits, notes)
}

/// Writes an array of objects, one on each line.
pub(super) fn write(table: &Table, limits: &Limits) -> Result<Vec<u8>, ConvertError> {
    let mut out = String::from("[\n");
    objects(table, ",\n", limits, &mut out)?;
    out.push_str("\n]\n");
    Ok(out.into_bytes())
}

/// Writes an object on each line.
pub(super) fn write_lines(table: &Table, limits: &Limits) -> Result<Vec<u8>, ConvertError> {
    let mut out = String::new();
    objects(table, "\n", limits, &mut out)?;
    out.push('\n');
    Ok(out.into_bytes())
}

fn objects(
    table: &Table,
    between: &str,
    limits: &Limits,
    out: &mut String,
) -> Result<(), ConvertError> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let names: Vec<String> = table.columns.iter().map(|name| quoted(name)).collect();
    for (place, row) in table.rows.iter().enumerate() {
        if place > 0 {
            out.push_str(between);
        }
        for (column, (name, cell)) in names.iter().zip(row).enumerate() {
            out.push(if column == 0 { '{' } else { ',' });
            out.push_str(name);
            out.push(':');
            match cell {
                Cell::Null => out.push_str("null"),
                Cell::Text(text) | Cell::Date(text) => out.push_str(&quoted(text)),
                number => out.push_str(&number.display()),
            }
            within("the result (bytes)", out.len(), limits.output, "convert a part of the file")?;
        }
        out.push('}');
    }
    Ok(())
}
