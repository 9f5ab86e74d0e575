//! Parquet: one column of strings, by the `parquet` crate without Arrow.
//!
//! The key decision: pages are read one after the other, and a page that would unpack to more than its share of memory is
//! refused by its header, before the library makes room for it.

mod pages;

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::Type as Physical;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::{Error, Result};

/// Rows read at once: small, as each is a document.
const ROWS: usize = 16;

/// The texts of a column, row by row.
pub(super) struct Column {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    column: usize,
    memory: u64,
    /// The row group to open next.
    group: usize,
    open: Option<ColumnReaderImpl<ByteArrayType>>,
    optional: bool,
}

impl Column {
    /// Opens a file; a page of it may take `memory` bytes.
    ///
    /// # Errors
    /// If it is no Parquet file, or has no such column of strings.
    pub(super) fn open(path: &Path, field: &str, memory: u64) -> Result<Column> {
        let file = File::open(path).map_err(|source| Error::io("reading", path, source))?;
        let reader = SerializedFileReader::new(file).map_err(|error| refused(path, &error))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let bad = |detail: String| Error::bad(path.display().to_string(), detail);
        let names: Vec<String> =
            schema.columns().iter().map(|column| column.path().string()).collect();
        let Some(column) = names.iter().position(|name| name == field) else {
            let known = names.join(", ");
            return Err(bad(format!(
                "no column `{field}`; there are: {known}. Correct `text_field` in the recipe"
            )));
        };
        let about = schema.column(column);
        if about.physical_type() != Physical::BYTE_ARRAY || about.max_rep_level() > 0 {
            return Err(bad(format!(
                "column `{field}` holds no strings; name another as `text_field`"
            )));
        }
        let optional = about.max_def_level() > 0;
        let path = path.to_path_buf();
        Ok(Column { path, reader, column, memory, group: 0, open: None, optional })
    }

    /// Appends the texts of the next rows to `out`, none for a row without one; false at the end.
    ///
    /// # Errors
    /// If the file is damaged, cut off, or a page is too large.
    pub(super) fn next(&mut self, out: &mut Vec<Option<ByteArray>>) -> Result<bool> {
        loop {
            let Some(column) = &mut self.open else {
                if self.group == self.reader.num_row_groups() {
                    return Ok(false);
                }
                self.open = Some(self.next_group()?);
                continue;
            };
            let (mut values, mut levels) = (Vec::new(), Vec::new());
            let read =
                column.read_records(ROWS, self.optional.then_some(&mut levels), None, &mut values);
            let (records, ..) = read.map_err(|error| refused(&self.path, &error))?;
            if records == 0 {
                self.open = None;
                continue;
            }
            if self.optional {
                let deepest = levels.iter().copied().max().unwrap_or(0).max(1);
                let mut values = values.into_iter();
                out.extend(
                    levels.iter().map(|&level| if level == deepest { values.next() } else { None }),
                );
            } else {
                out.extend(values.into_iter().map(Some));
            }
            return Ok(true);
        }
    }

    fn next_group(&mut self) -> Result<ColumnReaderImpl<ByteArrayType>> {
        let group = self.group;
        self.group += 1;
        let about = self.reader.metadata().row_group(group).column(self.column);
        let start = about.dictionary_page_offset().unwrap_or(about.data_page_offset());
        let damaged = |detail: String| Error::bad(self.path.display().to_string(), detail);
        pages::checked(&self.path, start, about.compressed_size(), self.memory).map_err(damaged)?;
        let reader =
            self.reader.get_row_group(group).and_then(|group| group.get_column_reader(self.column));
        match reader.map_err(|error| refused(&self.path, &error))? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(reader),
            _ => Err(damaged("a row group holds other values than the schema says".into())),
        }
    }
}

fn refused(path: &Path, error: &ParquetError) -> Error {
    let advice = "the file is cut off, damaged or another format: fetch it again or take it out of the recipe";
    Error::bad(path.display().to_string(), format!("not readable as Parquet ({error}); {advice}"))
}
