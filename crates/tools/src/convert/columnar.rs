//! Parquet, by the `parquet` crate without Arrow: rows of one flat schema.
//!
//! Snappy, gzip and zstd are read, Snappy is written. What the pages unpack to is added up from their headers before any
//! is unpacked (`pages`).

mod pages;

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::record::Field;
use parquet::schema::types::{Type, TypePtr};

use super::table::{Cell, Table, moment};
use super::{ConvertError, Limits, within};

const SMALLER: &str = "convert a smaller file, or some of its row groups";

fn refused(error: ParquetError) -> ConvertError {
    ConvertError::Malformed(format!(
        "not readable as Parquet: {error}; the file is damaged, not complete, or another format"
    ))
}

/// Reads all rows.
pub(super) fn read(
    bytes: &[u8],
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Table, ConvertError> {
    let shared = bytes::Bytes::copy_from_slice(bytes);
    let reader = SerializedFileReader::new(shared).map_err(refused)?;
    checked(reader.metadata(), bytes, limits)?;
    let schema = reader.metadata().file_metadata().schema();
    let fields: Vec<TypePtr> = schema.get_fields().to_vec();
    let names = fields.iter().map(|field| field.name().to_string()).collect();
    let mut table = Table::new(names, limits, notes)?;
    let mut lost = Lost::default();
    for row in reader.get_row_iter(None).map_err(refused)? {
        let row = row.map_err(refused)?.into_columns();
        if row.len() != fields.len() {
            return Err(ConvertError::malformed("a row of the Parquet file misses columns"));
        }
        let cells = row.into_iter().zip(&fields);
        let cells = cells.map(|((_, value), field)| cell(value, field, &mut lost)).collect();
        table.push(cells, limits)?;
    }
    lost.note(notes);
    Ok(table)
}

/// Whether the file can be unpacked within the limits.
fn checked(metadata: &ParquetMetaData, bytes: &[u8], limits: &Limits) -> Result<(), ConvertError> {
    let columns = metadata.file_metadata().schema_descr().num_columns();
    within("the number of columns", columns, limits.columns, "keep fewer columns")?;
    let rows = usize::try_from(metadata.file_metadata().num_rows()).unwrap_or(usize::MAX);
    let cells = rows.saturating_mul(columns.max(1));
    within("the number of cells", cells, limits.cells, SMALLER)?;
    let damaged =
        || ConvertError::malformed("the Parquet file is damaged: a page header does not read");
    let mut sum = 0u64;
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let start = usize::try_from(start).map_err(|_| damaged())?;
        let length = usize::try_from(column.compressed_size()).map_err(|_| damaged())?;
        let end = start.checked_add(length).ok_or_else(damaged)?;
        let chunk = bytes.get(start..end).ok_or_else(damaged)?;
        sum = sum.saturating_add(pages::unpacked(chunk).ok_or_else(damaged)?);
        let unpacked = usize::try_from(sum).unwrap_or(usize::MAX);
        within("the unpacked file (bytes)", unpacked, limits.unpacked, SMALLER)?;
    }
    Ok(())
}

/// What a table cannot hold, counted.
#[derive(Default)]
struct Lost {
    nested: usize,
    bytes: usize,
    infinite: usize,
}

impl Lost {
    fn note(&self, notes: &mut Vec<String>) {
        for (count, what) in [
            (self.nested, "lists, maps or structs became texts"),
            (self.bytes, "byte strings became texts of hexadecimal digits"),
            (self.infinite, "numbers that are infinite or not a number became nothing"),
        ] {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        }
    }

    fn float(&mut self, value: f64, text: String) -> Cell {
        if !value.is_finite() {
            self.infinite += 1;
            return Cell::Null;
        }
        Cell::number(&text).unwrap_or(Cell::Float(value))
    }
}

fn cell(value: Field, field: &Type, lost: &mut Lost) -> Cell {
    let logical = field.get_basic_info().logical_type_ref();
    match value {
        Field::Null => Cell::Null,
        Field::Bool(value) => Cell::Bool(value),
        Field::Byte(value) => Cell::Integer(value.into()),
        Field::Short(value) => Cell::Integer(value.into()),
        Field::Int(value) => Cell::Integer(value.into()),
        Field::Long(value) => match logical {
            Some(LogicalType::Timestamp(kind)) if kind.unit == TimeUnit::NANOS => {
                written(Some(DateTime::from_timestamp_nanos(value).naive_utc()), value)
            }
            _ => Cell::Integer(value),
        },
        Field::UByte(value) => Cell::Integer(value.into()),
        Field::UShort(value) => Cell::Integer(value.into()),
        Field::UInt(value) => Cell::Integer(value.into()),
        Field::ULong(value) => i64::try_from(value)
            .map_or_else(|_| Cell::Decimal(value.to_string().into()), Cell::Integer),
        Field::Float16(value) => lost.float(value.to_f64(), value.to_f64().to_string()),
        // By the digits of its own width: 0.1 stays 0.1.
        Field::Float(value) => lost.float(value.into(), value.to_string()),
        Field::Double(value) => lost.float(value, value.to_string()),
        Field::Decimal(value) => {
            let digits = decimal(value.data(), value.scale());
            Cell::number(&digits).unwrap_or_else(|| Cell::text(digits))
        }
        Field::Str(text) => Cell::text(text),
        Field::Bytes(value) => match std::str::from_utf8(value.data()) {
            // Texts of writers that do not say so.
            Ok(text) => Cell::text(text),
            Err(_) => {
                lost.bytes += 1;
                let digits = value.data().iter().map(|byte| format!("{byte:02x}"));
                Cell::text(digits.collect::<String>())
            }
        },
        Field::Date(days) => EPOCH
            .checked_add_signed(chrono::TimeDelta::days(days.into()))
            .map_or(Cell::Integer(days.into()), |day| Cell::Date(day.to_string().into())),
        Field::TimeMillis(value) => Cell::text(clock(i64::from(value) * 1000)),
        Field::TimeMicros(value) => Cell::text(clock(value)),
        Field::TimestampMillis(value) => {
            written(DateTime::from_timestamp_millis(value).map(|time| time.naive_utc()), value)
        }
        Field::TimestampMicros(value) => {
            written(DateTime::from_timestamp_micros(value).map(|time| time.naive_utc()), value)
        }
        nested @ (Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_)) => {
            lost.nested += 1;
            Cell::text(nested.to_string())
        }
    }
}

const EPOCH: NaiveDate = match NaiveDate::from_ymd_opt(1970, 1, 1) {
    Some(day) => day,
    None => unreachable!(),
};

fn written(time: Option<NaiveDateTime>, raw: i64) -> Cell {
    match time {
        Some(time) => Cell::Date(time.format("%Y-%m-%dT%H:%M:%S%.f").to_string().into()),
        None => Cell::Integer(raw),
    }
}

fn clock(micros: i64) -> String {
    let seconds = u32::try_from(micros.div_euclid(1_000_000)).unwrap_or(u32::MAX);
    let nanos = (micros.rem_euclid(1_000_000) * 1000) as u32;
    chrono::NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos)
        .map_or_else(|| micros.to_string(), |time| time.to_string())
}

/// Big-endian two's complement, `scale` digits behind the point.
fn decimal(data: &[u8], scale: i32) -> String {
    let scale = scale.clamp(0, 100) as usize;
    let negative = data.first().is_some_and(|byte| byte & 0x80 != 0);
    // To sign and magnitude, then to decimal digits by repeated division.
    let mut magnitude = data.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(carry.into());
        }
    }
    // 128 bytes: over 300 digits, more than any writer's precision.
    if magnitude.len() > 128 {
        return format!("0x{}", data.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|&byte| byte != 0) {
        let mut rest = 0u32;
        for byte in &mut magnitude {
            let value = rest * 256 + u32::from(*byte);
            *byte = (value / 10) as u8;
            rest = value % 10;
        }
        digits.push(b'0' + rest as u8);
    }
    while digits.len() <= scale {
        digits.push(b'0');
    }
    if negative {
        digits.push(b'-');
    }
    digits.reverse();
    let mut text = String::from_utf8_lossy(&digits).into_owned();
    if scale > 0 {
        text.insert(text.len() - scale, '.');
    }
    text
}

/// How a column is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Integer,
    Double,
    Date,
    Moment,
    Text,
}

impl Kind {
    fn of(table: &Table, column: usize) -> Kind {
        let mut kind = None;
        for row in &table.rows {
            let one = match &row[column] {
                Cell::Null => continue,
                Cell::Bool(_) => Kind::Bool,
                Cell::Integer(_) => Kind::Integer,
                Cell::Float(_) => Kind::Double,
                Cell::Decimal(digits) if keeps(digits) => Kind::Double,
                Cell::Date(text) if text.len() == 10 => Kind::Date,
                Cell::Date(_) => Kind::Moment,
                Cell::Decimal(_) | Cell::Text(_) => return Kind::Text,
            };
            kind = Some(match kind {
                None => one,
                Some(other) if other == one => one,
                Some(Kind::Integer | Kind::Double)
                    if matches!(one, Kind::Integer | Kind::Double) =>
                {
                    Kind::Double
                }
                _ => return Kind::Text,
            });
        }
        match kind.unwrap_or(Kind::Text) {
            // Whole numbers beside fractions must be doubles exactly.
            Kind::Double if !table.rows.iter().all(|row| small(&row[column])) => Kind::Text,
            kind => kind,
        }
    }

    fn stored(self, name: &str) -> Result<Type, ParquetError> {
        let (physical, logical) = match self {
            Kind::Bool => (Physical::BOOLEAN, None),
            Kind::Integer => (Physical::INT64, None),
            Kind::Double => (Physical::DOUBLE, None),
            Kind::Date => (Physical::INT32, Some(LogicalType::Date)),
            Kind::Moment => {
                (Physical::INT64, Some(LogicalType::timestamp(false, TimeUnit::MICROS)))
            }
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical)
            .build()
    }
}

fn small(cell: &Cell) -> bool {
    !matches!(cell, Cell::Integer(value) if value.unsigned_abs() > 1 << 53)
}

/// Whether a double keeps all digits.
pub(super) fn keeps(digits: &str) -> bool {
    let mantissa = digits.split(['e', 'E']).next().unwrap_or(digits);
    let significant: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    significant.trim_start_matches('0').len() <= 15
        && digits.parse::<f64>().is_ok_and(|value| {
            value.is_finite() && (value != 0.0 || significant.bytes().all(|digit| digit == b'0'))
        })
}

/// Writes one row group.
pub(super) fn write(table: &Table, notes: &mut Vec<String>) -> Result<Vec<u8>, ConvertError> {
    let failed = |error: ParquetError| ConvertError::Malformed(format!("not written: {error}"));
    let kinds: Vec<Kind> = (0..table.columns.len()).map(|column| Kind::of(table, column)).collect();
    let fields = table.columns.iter().zip(&kinds);
    let fields = fields
        .map(|(name, kind)| kind.stored(name).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let schema = Type::group_type_builder("table").with_fields(fields).build().map_err(failed)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by("yushan".into())
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))
        .map_err(failed)?;
    let mut group = writer.next_row_group().map_err(failed)?;
    for (column, kind) in kinds.iter().enumerate() {
        let Some(mut stored) = group.next_column().map_err(failed)? else { break };
        column_written(&mut stored, table, column, *kind).map_err(failed)?;
        stored.close().map_err(failed)?;
    }
    group.close().map_err(failed)?;
    let texts = kinds.iter().enumerate().filter(|&(column, &kind)| {
        let number = |row: &Vec<Cell>| {
            matches!(row[column], Cell::Decimal(_) | Cell::Integer(_) | Cell::Float(_))
        };
        kind == Kind::Text && table.rows.iter().any(number)
    });
    let texts: Vec<&str> = texts.map(|(column, _)| table.columns[column].as_str()).collect();
    if !texts.is_empty() {
        let shown = texts.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "columns with numbers that no number type holds with all digits, or with mixed values, are texts: {shown}"
        ));
    }
    writer.into_inner().map_err(failed)
}

fn column_written(
    writer: &mut SerializedColumnWriter<'_>,
    table: &Table,
    column: usize,
    kind: Kind,
) -> Result<(), ParquetError> {
    let cells = || table.rows.iter().map(|row| &row[column]);
    let levels: Vec<i16> = cells().map(|cell| i16::from(*cell != Cell::Null)).collect();
    let some = || cells().filter(|cell| **cell != Cell::Null);
    let levels = Some(levels.as_slice());
    match kind {
        Kind::Bool => {
            let values: Vec<bool> = some().map(|cell| *cell == Cell::Bool(true)).collect();
            writer.typed::<BoolType>().write_batch(&values, levels, None)?;
        }
        Kind::Integer => {
            let integer = |cell: &Cell| if let Cell::Integer(value) = cell { *value } else { 0 };
            let values: Vec<i64> = some().map(integer).collect();
            writer.typed::<Int64Type>().write_batch(&values, levels, None)?;
        }
        Kind::Double => {
            let values: Vec<f64> =
                some().map(|cell| cell.display().parse().unwrap_or(f64::NAN)).collect();
            writer.typed::<DoubleType>().write_batch(&values, levels, None)?;
        }
        Kind::Date => {
            let values: Vec<i32> = some().map(|cell| days(&cell.display())).collect();
            writer.typed::<Int32Type>().write_batch(&values, levels, None)?;
        }
        Kind::Moment => {
            let micros = |cell: &Cell| {
                moment(&cell.display()).map_or(0, |time| time.and_utc().timestamp_micros())
            };
            let values: Vec<i64> = some().map(micros).collect();
            writer.typed::<Int64Type>().write_batch(&values, levels, None)?;
        }
        Kind::Text => {
            let values: Vec<ByteArray> =
                some().map(|cell| ByteArray::from(&*cell.display())).collect();
            writer.typed::<ByteArrayType>().write_batch(&values, levels, None)?;
        }
    }
    Ok(())
}

/// Since 1970.
fn days(text: &str) -> i32 {
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .and_then(|day| i32::try_from((day - EPOCH).num_days()).ok())
        .unwrap_or(0)
}
