//! CSV and TSV, by the `csv` crate.
//!
//! Rows of another length than the header's are refused with their line: to guess which cell is missing would move
//! values into wrong columns.

use super::table::{Cell, Table};
use super::{ConvertError, Limits, Options, text, within};

/// Characters that may stand between values, the likeliest first.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Reads a table; its first record names the columns.
pub(super) fn read(
    bytes: &[u8],
    delimiter: Option<u8>,
    options: &Options,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Table, ConvertError> {
    let text = text::decode(bytes, options, notes)?;
    let delimiter = delimiter.unwrap_or_else(|| sniffed(&text));
    if delimiter != b',' && delimiter != b'\t' {
        notes.push(format!("values are separated by {:?}", char::from(delimiter)));
    }
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    let mut table: Option<Table> = None;
    while reader.read_record(&mut record).map_err(|error| refused(&error))? {
        let Some(table) = &mut table else {
            within("the number of columns", record.len(), limits.columns, "keep fewer columns")?;
            let names = record.iter().map(str::to_string).collect();
            table = Some(Table::new(names, limits, notes)?);
            continue;
        };
        if record.len() != table.columns.len() {
            let line = record.position().map_or(0, csv::Position::line);
            return Err(ConvertError::Malformed(format!(
                "line {line} has {} values and the header has {}: quote values that contain {:?}, or make the lines \
                 equally long, then convert again",
                record.len(),
                table.columns.len(),
                char::from(delimiter)
            )));
        }
        table.push(record.iter().map(Cell::text).collect(), limits)?;
    }
    let mut table = table
        .ok_or_else(|| ConvertError::malformed("the file holds no line; a header is expected"))?;
    table.infer();
    Ok(table)
}

fn refused(error: &csv::Error) -> ConvertError {
    ConvertError::Malformed(format!("not readable as separated values: {error}"))
}

/// The delimiter that splits the first lines into the same number of values, more than one.
fn sniffed(text: &str) -> u8 {
    let head = match text.char_indices().nth(64 << 10) {
        // Whole lines alone.
        Some((end, _)) => text[..end].rsplit_once('\n').map_or("", |(lines, _)| lines),
        None => text,
    };
    let widths = |delimiter| {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(head.as_bytes());
        let widths: Vec<usize> =
            reader.byte_records().take(20).flatten().map(|record| record.len()).collect();
        let first = *widths.first()?;
        (first > 1 && widths.iter().all(|&width| width == first)).then_some(first)
    };
    DELIMITERS.into_iter().find(|&delimiter| widths(delimiter).is_some()).unwrap_or(b',')
}

/// Writes a table.
pub(super) fn write(
    table: &Table,
    delimiter: u8,
    notes: &mut Vec<String>,
) -> Result<Vec<u8>, ConvertError> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    let failed = |error: csv::Error| ConvertError::Malformed(format!("not written: {error}"));
    writer.write_record(&table.columns).map_err(failed)?;
    let mut formulas = 0;
    for row in &table.rows {
        for cell in row {
            let text = cell.display();
            if matches!(cell, Cell::Text(_)) && text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
                formulas += 1;
            }
            writer.write_field(text.as_bytes()).map_err(failed)?;
        }
        writer.write_record(None::<&[u8]>).map_err(failed)?;
    }
    if formulas > 0 {
        notes.push(format!(
            "{formulas} texts begin with =, +, - or @: a spreadsheet that opens this file may run them as formulas"
        ));
    }
    writer.into_inner().map_err(|error| ConvertError::Malformed(format!("not written: {error}")))
}
