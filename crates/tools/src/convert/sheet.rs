//! XLSX: read by `calamine`, written by `rust_xlsxwriter`.
//!
//! A workbook is a ZIP of XML from outside, so it is unpacked once, counting, before `calamine` sees it: ratio and size,
//! and the counts that `calamine` makes room for. Cells are read one by one, since a sheet with two cells in opposite
//! corners would be seventeen billion as a rectangle.

use std::io::{Cursor, Read};

use calamine::{DataRef, Reader, Xlsx};
use chrono::{Datelike, NaiveDate, NaiveDateTime, Timelike};
use rust_xlsxwriter::{DocProperties, ExcelDateTime, Format, Workbook, Worksheet};

use super::columnar::keeps;
use super::table::{Cell, Table, moment};
use super::{ConvertError, Limits, Options, within};

/// Rows and columns of a sheet, and characters of a cell, as Excel has them.
const ROWS: usize = 1_048_576;
const COLUMNS: usize = 16_384;
const CHARACTERS: usize = 32_767;
/// Files in a workbook.
const ENTRIES: usize = 10_000;
/// How much smaller a file in a workbook may be packed; XML of a sheet packs ten- to thirtyfold.
const RATIO: usize = 200;

fn refused(error: impl std::fmt::Display) -> ConvertError {
    ConvertError::Malformed(format!(
        "not readable as XLSX: {error}; open it in a spreadsheet program and save it again, or save it as CSV"
    ))
}

/// Reads one sheet; its first row that is not empty names the columns.
pub(super) fn read(
    bytes: &[u8],
    options: &Options,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Table, ConvertError> {
    if bytes.starts_with(b"\xd0\xcf\x11\xe0") {
        let encrypted: Vec<u8> = "EncryptedPackage".bytes().flat_map(|byte| [byte, 0]).collect();
        if bytes.windows(encrypted.len()).any(|window| window == encrypted) {
            return Err(ConvertError::Encrypted);
        }
        return Err(ConvertError::malformed(
            "the file is an old Office document (.xls), not XLSX; save it as XLSX or CSV first",
        ));
    }
    let has_formulas = unpacked(bytes, limits)?;
    let mut workbook = Xlsx::new(Cursor::new(bytes)).map_err(refused)?;
    let sheets = workbook.sheet_names();
    let name = match &options.sheet {
        Some(name) if sheets.contains(name) => name.clone(),
        Some(name) => {
            let known = sheets.join(", ");
            return Err(ConvertError::Malformed(format!(
                "the workbook has no sheet {name:?}; it has: {known}"
            )));
        }
        None => sheets
            .first()
            .cloned()
            .ok_or_else(|| ConvertError::malformed("the workbook has no sheets"))?,
    };
    if options.sheet.is_none() && sheets.len() > 1 {
        notes.push(format!(
            "the sheet {name:?} was taken; there are also: {} (say `sheet`)",
            sheets[1..].join(", ")
        ));
    }
    if has_formulas {
        notes.push(
            "the workbook has formulas; the values they had when it was saved were taken".into(),
        );
    }
    let cells = cells(&mut workbook, &name, limits)?;
    table(cells, limits, notes)
}

/// Unpacks everything once and counts; whether there are formulas.
fn unpacked(bytes: &[u8], limits: &Limits) -> Result<bool, ConvertError> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(refused)?;
    within("the number of files in the workbook", archive.len(), ENTRIES, "save it again")?;
    let (mut sum, mut has_formulas) = (0usize, false);
    let most = limits.unpacked.min(bytes.len().saturating_mul(RATIO).max(1 << 20));
    let mut content = Vec::new();
    for place in 0..archive.len() {
        let entry = archive.by_index(place).map_err(refused)?;
        if entry.encrypted() {
            return Err(ConvertError::Encrypted);
        }
        let name = entry.name().map_err(refused)?.to_ascii_lowercase();
        content.clear();
        // One byte more than may be tells that there is too much.
        entry.take((most - sum) as u64 + 1).read_to_end(&mut content).map_err(refused)?;
        sum += content.len();
        within(
            "the unpacked workbook (bytes)",
            sum,
            most,
            "convert a smaller one, or save it as CSV",
        )?;
        if name.ends_with(".xml") {
            if content.iter().take(64).any(|&byte| byte == 0) {
                return Err(refused("its XML is not UTF-8"));
            }
            counts_fit(&content)?;
        }
        if name.contains("worksheets/") {
            has_formulas |= content.windows(3).any(|three| matches!(three, b"<f>" | b"<f "));
        }
    }
    Ok(has_formulas)
}

/// Room is made for as many shared texts as a workbook says it has: no more than it has bytes.
fn counts_fit(xml: &[u8]) -> Result<(), ConvertError> {
    const NAME: &[u8] = b"uniqueCount";
    let mut rest = xml;
    while let Some(place) = rest.windows(NAME.len()).position(|window| window == NAME) {
        rest = &rest[place + NAME.len()..];
        let digits = rest.iter().skip_while(|byte| b"= \t\r\n\"'".contains(byte));
        let digits: Vec<u8> = digits.take_while(|byte| byte.is_ascii_digit()).copied().collect();
        let digits = String::from_utf8_lossy(&digits).into_owned();
        if !digits.is_empty() && digits.parse::<usize>().map_or(true, |count| count > xml.len()) {
            return Err(refused(format!(
                "it claims {digits} shared texts and is smaller than that"
            )));
        }
    }
    Ok(())
}

/// The cells that are not empty, with their places.
fn cells(
    workbook: &mut Xlsx<Cursor<&[u8]>>,
    sheet: &str,
    limits: &Limits,
) -> Result<Vec<(u32, u32, Cell)>, ConvertError> {
    let mut reader = workbook.worksheet_cells_reader(sheet).map_err(refused)?;
    let (mut cells, mut text) = (Vec::new(), 0usize);
    while let Some(cell) = reader.next_cell().map_err(refused)? {
        let (row, column) = cell.get_position();
        let value = value(cell.get_value());
        if value == Cell::Null {
            continue;
        }
        text = text.saturating_add(value.display().len());
        within("the text of the cells (bytes)", text, limits.unpacked, "convert a smaller sheet")?;
        within("the number of cells", cells.len() + 1, limits.cells, "convert a smaller sheet")?;
        cells.push((row, column, value));
    }
    Ok(cells)
}

fn value(value: &DataRef<'_>) -> Cell {
    match value {
        DataRef::Empty => Cell::Null,
        DataRef::Int(value) => Cell::Integer(*value),
        // Excel knows no other numbers than these.
        DataRef::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
            Cell::Integer(*value as i64)
        }
        DataRef::Float(value) if value.is_finite() => Cell::Float(*value),
        DataRef::Float(_) => Cell::Null,
        DataRef::String(text) => Cell::text(text.as_str()),
        DataRef::SharedString(text) => Cell::text(*text),
        DataRef::Bool(value) => Cell::Bool(*value),
        DataRef::DateTime(time) if time.is_datetime() => {
            let (year, month, day, hour, minute, second, milli) = time.to_ymd_hms_milli();
            let time =
                NaiveDate::from_ymd_opt(year.into(), month.into(), day.into()).and_then(|day| {
                    day.and_hms_milli_opt(hour.into(), minute.into(), second.into(), milli.into())
                });
            match time {
                Some(time) if time.num_seconds_from_midnight() == 0 && time.nanosecond() == 0 => {
                    Cell::Date(time.date().to_string().into())
                }
                Some(time) => Cell::Date(time.format("%Y-%m-%dT%H:%M:%S%.f").to_string().into()),
                None => Cell::Null,
            }
        }
        // A duration, in days.
        DataRef::DateTime(time) => Cell::Float(time.as_f64()),
        DataRef::DateTimeIso(text) => Cell::date(text).unwrap_or_else(|| Cell::text(text.as_str())),
        DataRef::DurationIso(text) => Cell::text(text.as_str()),
        DataRef::Error(error) => Cell::text(error.to_string()),
    }
}

fn table(
    cells: Vec<(u32, u32, Cell)>,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Table, ConvertError> {
    let range = |place: fn(&(u32, u32, Cell)) -> u32| {
        let places = cells.iter().map(place);
        places.clone().min().zip(places.max())
    };
    let (Some((top, bottom)), Some((left, right))) = (range(|cell| cell.0), range(|cell| cell.1))
    else {
        return Err(ConvertError::malformed("the sheet is empty; say another `sheet`"));
    };
    let (height, width) = ((bottom - top) as usize + 1, (right - left) as usize + 1);
    within("the number of columns", width, limits.columns, "keep fewer columns")?;
    let size = height.saturating_mul(width);
    within("the number of cells", size, limits.cells, "convert a smaller sheet")?;
    let mut rows = vec![vec![Cell::Null; width]; height];
    for (row, column, cell) in cells {
        rows[(row - top) as usize][(column - left) as usize] = cell;
    }
    let mut rows = rows.into_iter();
    let names = rows.next().unwrap_or_default();
    let names = names.iter().map(|cell| cell.display().into_owned()).collect();
    let mut table = Table::new(names, limits, notes)?;
    for row in rows {
        table.push(row, limits)?;
    }
    Ok(table)
}

/// Writes a workbook with one sheet. Texts are texts, never formulas.
pub(super) fn write(table: &Table, notes: &mut Vec<String>) -> Result<Vec<u8>, ConvertError> {
    within("the number of rows", table.rows.len() + 1, ROWS, "use csv or parquet, or fewer rows")?;
    within("the number of columns", table.columns.len(), COLUMNS, "use csv or parquet, or fewer")?;
    let mut workbook = Workbook::new();
    // The same table gives the same bytes: no time of writing.
    let birth = ExcelDateTime::from_ymd(2000, 1, 1).map_err(refused)?;
    workbook.set_properties(&DocProperties::new().set_creation_datetime(&birth));
    let sheet = workbook.add_worksheet();
    let bold = Format::new().set_bold();
    for (column, name) in (0u16..).zip(&table.columns) {
        fits(name, 1)?;
        sheet.write_string_with_format(0, column, name, &bold).map_err(refused)?;
    }
    let forms = [
        Format::new().set_num_format("yyyy-mm-dd"),
        Format::new().set_num_format("yyyy-mm-dd hh:mm:ss"),
    ];
    let mut as_text = 0;
    for (row, cells) in (1u32..).zip(&table.rows) {
        for (column, cell) in (0u16..).zip(cells) {
            as_text += usize::from(!cell_written(sheet, row, column, cell, &forms)?);
        }
    }
    if as_text > 0 {
        notes.push(format!(
            "{as_text} numbers or dates are texts in the sheet: Excel keeps 15 digits, and days from 1900-03-01 to 9999"
        ));
    }
    workbook.save_to_buffer().map_err(refused)
}

fn fits(text: &str, row: u32) -> Result<(), ConvertError> {
    if text.chars().count() <= CHARACTERS {
        return Ok(());
    }
    Err(ConvertError::Malformed(format!(
        "row {row} has a text longer than {CHARACTERS} characters, which XLSX cannot hold; use csv, json or parquet"
    )))
}

/// Whether the cell has kept its type.
fn cell_written(
    sheet: &mut Worksheet,
    row: u32,
    column: u16,
    cell: &Cell,
    forms: &[Format; 2],
) -> Result<bool, ConvertError> {
    const EXACT: u64 = 999_999_999_999_999;
    let number = match cell {
        Cell::Null => return Ok(true),
        Cell::Bool(value) => {
            return sheet.write_boolean(row, column, *value).map(|_| true).map_err(refused);
        }
        Cell::Integer(value) if value.unsigned_abs() <= EXACT => Some(*value as f64),
        Cell::Float(value) => Some(*value),
        Cell::Decimal(digits) if keeps(digits) => digits.parse().ok(),
        _ => None,
    };
    if let Some(number) = number {
        return sheet.write_number(row, column, number).map(|_| true).map_err(refused);
    }
    if let Cell::Date(text) = cell
        && let Some((time, form)) = excel_time(text, forms)
    {
        return sheet
            .write_datetime_with_format(row, column, &time, form)
            .map(|_| true)
            .map_err(refused);
    }
    let text = cell.display();
    fits(&text, row + 1)?;
    sheet.write_string(row, column, &*text).map_err(refused)?;
    Ok(matches!(cell, Cell::Text(_)))
}

fn excel_time<'a>(text: &str, forms: &'a [Format; 2]) -> Option<(ExcelDateTime, &'a Format)> {
    let (time, form): (NaiveDateTime, _) = match moment(text) {
        Some(time) => (time, &forms[1]),
        None => {
            let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            (day.and_hms_opt(0, 0, 0)?, &forms[0])
        }
    };
    // Excel has a 29th of February in 1900.
    let first = NaiveDate::from_ymd_opt(1900, 3, 1)?;
    if time.date() < first || time.year() > 9999 || !time.nanosecond().is_multiple_of(1_000_000) {
        return None;
    }
    let day = ExcelDateTime::from_ymd(
        u16::try_from(time.year()).ok()?,
        u8::try_from(time.month()).ok()?,
        u8::try_from(time.day()).ok()?,
    );
    let milli = u16::try_from(time.nanosecond() / 1_000_000).ok()?;
    let (hour, minute) = (u16::try_from(time.hour()).ok()?, u8::try_from(time.minute()).ok()?);
    let second = u8::try_from(time.second()).ok()?;
    Some((day.ok()?.and_hms_milli(hour, minute, second, milli).ok()?, form))
}
