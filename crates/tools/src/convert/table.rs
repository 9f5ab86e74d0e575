//! A table: names of columns, and rows of typed cells.
//!
//! The key decision: a number keeps the digits it was written with. What neither `i64` nor `f64` gives back as it was is a
//! [`Cell::Decimal`], and the type of a column of text is guessed for the whole column, so that `01234` beside `90210`
//! stays a text.

use chrono::{NaiveDate, NaiveDateTime};

use super::{ConvertError, Limits, within};

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number that prints as it was written.
    Float(f64),
    /// A number by its digits, in JSON's notation.
    Decimal(Box<str>),
    /// Anything.
    Text(Box<str>),
    /// A day or a time of a day, in ISO 8601, without a zone and as it was written: `2026-11-27`, `2026-11-27 21:56`.
    Date(Box<str>),
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<Box<str>>) -> Cell {
        Cell::Text(text.into())
    }

    /// As a person writes it; nothing for [`Cell::Null`].
    pub fn display(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Cell::Null => "".into(),
            Cell::Bool(value) => if *value { "true" } else { "false" }.into(),
            Cell::Integer(value) => value.to_string().into(),
            Cell::Float(value) => value.to_string().into(),
            Cell::Decimal(text) | Cell::Text(text) | Cell::Date(text) => (&**text).into(),
        }
    }

    /// Bytes on the heap.
    fn held(&self) -> usize {
        match self {
            Cell::Decimal(text) | Cell::Text(text) | Cell::Date(text) => text.len(),
            _ => 0,
        }
    }

    /// A number in JSON's notation, with all its digits.
    pub fn number(digits: &str) -> Option<Cell> {
        if !is_json_number(digits) {
            return None;
        }
        if let Ok(value) = digits.parse::<i64>() {
            // `-0` is a number of its own.
            return Some(if digits == "-0" {
                Cell::Decimal(digits.into())
            } else {
                Cell::Integer(value)
            });
        }
        Some(match digits.parse::<f64>() {
            Ok(value) if value.is_finite() && value.to_string() == digits => Cell::Float(value),
            _ => Cell::Decimal(digits.into()),
        })
    }

    /// A day or a time, if the text is one in ISO 8601.
    pub fn date(text: &str) -> Option<Cell> {
        let first = text.as_bytes().first()?;
        if !first.is_ascii_digit() || !(10..=29).contains(&text.len()) {
            return None;
        }
        if text.len() == 10 {
            NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            return Some(Cell::Date(text.into()));
        }
        moment(text)?;
        Some(Cell::Date(text.into()))
    }
}

/// A time of a day in ISO 8601, with `T` or a space.
pub(super) fn moment(text: &str) -> Option<NaiveDateTime> {
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
}

fn is_json_number(text: &str) -> bool {
    let rest = text.strip_prefix('-').unwrap_or(text);
    let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
    if whole == 0 || (whole > 1 && rest.starts_with('0')) {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        return !exponent.is_empty() && exponent.bytes().all(|byte| byte.is_ascii_digit());
    }
    rest.is_empty()
}

/// Columns and rows; every row has a cell for every column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Their names, all different, none empty.
    pub columns: Vec<String>,
    /// `rows[row][column]`.
    pub rows: Vec<Vec<Cell>>,
    /// Bytes of all texts: formats that name a text once and use it often must not fill the memory.
    text: usize,
}

const SPLIT: &str = "keep fewer columns";
const FEWER: &str = "convert a part of it, for example its first rows";

impl Table {
    /// An empty table. Columns without a name get one, and equal names are told apart by a number; a note says so.
    ///
    /// # Errors
    /// More columns than may be.
    pub fn new(
        names: Vec<String>,
        limits: &Limits,
        notes: &mut Vec<String>,
    ) -> Result<Table, ConvertError> {
        within("the number of columns", names.len(), limits.columns, SPLIT)?;
        let mut seen = std::collections::HashSet::new();
        let mut renamed = Vec::new();
        let columns = (1..).zip(names).map(|(place, name)| {
            let name = name.trim().to_string();
            let wanted = if name.is_empty() { format!("column_{place}") } else { name.clone() };
            let mut unique = wanted.clone();
            let mut count = 1;
            while !seen.insert(unique.clone()) {
                count += 1;
                unique = format!("{wanted}_{count}");
            }
            if unique != name {
                renamed.push(unique.clone());
            }
            unique
        });
        let columns = columns.collect();
        if !renamed.is_empty() {
            let shown = renamed.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            notes.push(format!(
                "{} columns had no name of their own and are now called: {shown}",
                renamed.len()
            ));
        }
        Ok(Table { columns, rows: Vec::new(), text: 0 })
    }

    /// Adds a row that has a cell for every column.
    ///
    /// # Errors
    /// More cells than may be.
    pub fn push(&mut self, row: Vec<Cell>, limits: &Limits) -> Result<(), ConvertError> {
        debug_assert_eq!(row.len(), self.columns.len());
        let cells = (self.rows.len() + 1).saturating_mul(self.columns.len());
        within("the number of cells", cells, limits.cells, FEWER)?;
        self.text = row.iter().fold(self.text, |sum, cell| sum.saturating_add(cell.held()));
        within("the text of the cells (bytes)", self.text, limits.unpacked, FEWER)?;
        self.rows.push(row);
        Ok(())
    }

    /// Gives columns that are text alone the type that all their cells have: numbers, dates, truth values. An empty
    /// text is nothing.
    pub(super) fn infer(&mut self) {
        for column in 0..self.columns.len() {
            for row in &mut self.rows {
                if matches!(&row[column], Cell::Text(text) if text.is_empty()) {
                    row[column] = Cell::Null;
                }
            }
            for typed in [Cell::number as fn(&str) -> Option<Cell>, Cell::date, truth] {
                let fits = |row: &Vec<Cell>| match &row[column] {
                    Cell::Null => true,
                    Cell::Text(text) => typed(text).is_some(),
                    _ => false,
                };
                if !self.rows.iter().all(fits) {
                    continue;
                }
                for row in &mut self.rows {
                    if let Cell::Text(text) = &row[column] {
                        row[column] = typed(text).unwrap_or(Cell::Null);
                    }
                }
                break;
            }
        }
    }
}

fn truth(text: &str) -> Option<Cell> {
    match text {
        "true" | "True" | "TRUE" => Some(Cell::Bool(true)),
        "false" | "False" | "FALSE" => Some(Cell::Bool(false)),
        _ => None,
    }
}
