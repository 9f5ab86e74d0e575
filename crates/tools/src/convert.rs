//! From one file format to another, by libraries and not by code that a model wrote.
//!
//! The key decision: three families, each with one thing in the middle. Tables (CSV, TSV, JSON, JSON lines, Parquet,
//! XLSX) meet in a [`Table`] with typed cells; documents (Markdown, HTML, plain text, text of a PDF) meet in Markdown;
//! pictures meet in pixels. A table can also be written as a document, and the first table of a document read.
//! [`convert`] is a function of bytes: no files, no clock. What it had to change or leave out stands in
//! [`Converted::notes`]; what it cannot keep whole it refuses.
//!
//! Deliberately absent: charts, styles and formulas of spreadsheets (the last computed values are taken), layout of
//! PDFs, metadata of pictures.

mod columnar;
mod delimited;
pub mod driver;
mod json;
mod markup;
mod pdf;
mod picture;
mod sheet;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

pub use self::table::{Cell, Table};

/// A format of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values; also with `;` or `|`.
    Csv,
    /// Tab-separated values.
    Tsv,
    /// An array of objects.
    Json,
    /// An object on each line.
    JsonLines,
    /// Apache Parquet, flat.
    Parquet,
    /// A sheet of an Excel workbook.
    Xlsx,
    /// CommonMark with tables.
    Markdown,
    /// A page.
    Html,
    /// Plain text.
    Text,
    /// Read only, its text.
    Pdf,
    /// A picture.
    Picture(image::ImageFormat),
}

/// Names, extensions, media type. The first name is the one shown.
const FORMATS: [(Format, &[&str], &str); 20] = [
    (Format::Csv, &["csv"], "text/csv"),
    (Format::Tsv, &["tsv", "tab"], "text/tab-separated-values"),
    (Format::Json, &["json"], "application/json"),
    (Format::JsonLines, &["jsonl", "ndjson"], "application/jsonl"),
    (Format::Parquet, &["parquet"], "application/vnd.apache.parquet"),
    (
        Format::Xlsx,
        &["xlsx", "xlsm"],
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    (Format::Markdown, &["md", "markdown"], "text/markdown"),
    (Format::Html, &["html", "htm", "xhtml"], "text/html"),
    (Format::Text, &["txt", "text"], "text/plain"),
    (Format::Pdf, &["pdf"], "application/pdf"),
    (Format::Picture(image::ImageFormat::Png), &["png"], "image/png"),
    (Format::Picture(image::ImageFormat::Jpeg), &["jpg", "jpeg"], "image/jpeg"),
    (Format::Picture(image::ImageFormat::WebP), &["webp"], "image/webp"),
    (Format::Picture(image::ImageFormat::Gif), &["gif"], "image/gif"),
    (Format::Picture(image::ImageFormat::Bmp), &["bmp"], "image/bmp"),
    (Format::Picture(image::ImageFormat::Tiff), &["tiff", "tif"], "image/tiff"),
    (Format::Picture(image::ImageFormat::Ico), &["ico"], "image/x-icon"),
    (
        Format::Picture(image::ImageFormat::Pnm),
        &["ppm", "pnm", "pgm", "pbm"],
        "image/x-portable-anymap",
    ),
    (Format::Picture(image::ImageFormat::Qoi), &["qoi"], "image/qoi"),
    (Format::Picture(image::ImageFormat::Pnm), &["pam"], "image/x-portable-anymap"),
];

impl Format {
    /// By its name or by a file's extension, in any case.
    pub fn named(name: &str) -> Option<Format> {
        let name = name.trim_start_matches('.').to_ascii_lowercase();
        let found = FORMATS.iter().find(|(_, names, _)| names.contains(&name.as_str()));
        found.map(|(format, ..)| *format)
    }

    /// By the extension of a path.
    pub fn of_path(path: &str) -> Option<Format> {
        let file = path.rsplit('/').next().unwrap_or(path);
        Format::named(file.rsplit_once('.')?.1)
    }

    /// For example `csv`.
    pub fn name(self) -> &'static str {
        self.row().1[0]
    }

    /// For example `text/csv`.
    pub fn media_type(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> &'static (Format, &'static [&'static str], &'static str) {
        FORMATS.iter().find(|(format, ..)| *format == self).unwrap_or(&FORMATS[8])
    }

    fn is_table(self) -> bool {
        use Format::{Csv, Json, JsonLines, Parquet, Tsv, Xlsx};
        matches!(self, Csv | Tsv | Json | JsonLines | Parquet | Xlsx)
    }

    fn is_document(self) -> bool {
        matches!(self, Format::Markdown | Format::Html | Format::Text)
    }

    /// Whether [`convert`] knows a way.
    pub fn becomes(self, to: Format) -> bool {
        match (self, to) {
            (Format::Picture(_), Format::Picture(_)) => true,
            (Format::Pdf | Format::Text, to) => to.is_document(),
            (from, to) if from.is_table() => to.is_table() || to.is_document(),
            (Format::Markdown | Format::Html, to) => to.is_table() || to.is_document(),
            _ => false,
        }
    }

    /// What it can be made into, for messages.
    pub fn targets(self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (to, of, _) in FORMATS {
            if self.becomes(to) && to.name() == of[0] {
                names.push(of[0]);
            }
        }
        names.join(", ")
    }
}

/// What a conversion may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the file that is read.
    pub input: usize,
    /// Bytes of the file that is written.
    pub output: usize,
    /// Columns of a table.
    pub columns: usize,
    /// Rows times columns of a table.
    pub cells: usize,
    /// Bytes that a compressed file may unpack to, all together.
    pub unpacked: usize,
    /// Pixels of a picture.
    pub pixels: u64,
    /// Pages of a PDF.
    pub pages: usize,
    /// How long it may take.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            input: 64 << 20,
            output: 128 << 20,
            columns: 16_384,
            cells: 2_000_000,
            unpacked: 256 << 20,
            pixels: 64_000_000,
            pages: 2_000,
            time: Duration::from_secs(30),
        }
    }
}

/// What else is to be known of a conversion.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The character encoding of a text file, by its WHATWG label; none: found out.
    pub encoding: Option<String>,
    /// The sheet of a workbook; none: the first.
    pub sheet: Option<String>,
}

/// A file, converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The new file.
    pub bytes: Vec<u8>,
    /// What was changed or left out, each a sentence.
    pub notes: Vec<String>,
}

/// Why a file was not converted. Each says what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// There is no way from the one to the other.
    #[error("{from} cannot be converted to {to}; it can become: {possible}")]
    NoWay {
        /// The format of the file.
        from: &'static str,
        /// The one asked for.
        to: &'static str,
        /// What is possible instead.
        possible: String,
    },
    /// The file is not what it is said to be, or damaged.
    #[error("{0}")]
    Malformed(String),
    /// A limit.
    #[error("too large: {what} is {size}, at most {limit} is allowed; {next}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How much there was (or had been read when it was given up).
        size: u64,
        /// How much may be.
        limit: u64,
        /// What to do.
        next: &'static str,
    },
    /// Protected by a password.
    #[error(
        "the file is encrypted; ask for a copy without a password, since none can be given here"
    )]
    Encrypted,
    /// It took too long.
    #[error("the conversion took longer than {0:?} and was given up; convert a part of the file")]
    TooSlow(Duration),
    /// Whoever asked does not wait any more.
    #[error("cancelled; nothing was written")]
    Cancelled,
    /// So many others were under way for as long as this one might have taken.
    #[error("{0} conversions are under way, and none came to an end; try again later")]
    Busy(usize),
}

impl ConvertError {
    fn malformed(text: impl Into<String>) -> ConvertError {
        ConvertError::Malformed(text.into())
    }
}

/// Gives an error if there is more than may be.
fn within(
    what: &'static str,
    size: usize,
    limit: usize,
    next: &'static str,
) -> Result<(), ConvertError> {
    if size <= limit {
        return Ok(());
    }
    Err(ConvertError::TooLarge { what, size: size as u64, limit: limit as u64, next })
}

/// Converts a file.
///
/// # Errors
/// Where there is no way, the file is damaged, not what it is said to be, encrypted, or over a limit.
pub fn convert(
    bytes: &[u8],
    from: Format,
    to: Format,
    options: &Options,
    limits: &Limits,
) -> Result<Converted, ConvertError> {
    convert_unless(&|| false, bytes, from, to, options, limits)
}

/// Converts a file, and gives it up as soon as it `is_cancelled`.
///
/// # Errors
/// As [`convert`].
pub fn convert_unless(
    is_cancelled: &dyn Fn() -> bool,
    bytes: &[u8],
    from: Format,
    to: Format,
    options: &Options,
    limits: &Limits,
) -> Result<Converted, ConvertError> {
    if !from.becomes(to) {
        let (from_name, to_name) = (from.name(), to.name());
        return Err(ConvertError::NoWay { from: from_name, to: to_name, possible: from.targets() });
    }
    within("the file (bytes)", bytes.len(), limits.input, "convert a part of it")?;
    if bytes.is_empty() {
        return Err(ConvertError::malformed("the file is empty; there is nothing to convert"));
    }
    let (bytes, options, all) = (bytes.to_vec(), options.clone(), *limits);
    let (bytes, notes) = guarded(from, limits.time, is_cancelled, move || {
        let mut notes = Vec::new();
        let bytes = through(&bytes, from, to, &options, &all, &mut notes)?;
        Ok((bytes, notes))
    })?;
    within("the result (bytes)", bytes.len(), limits.output, "convert a part of the file")?;
    Ok(Converted { bytes, notes })
}

fn through(
    bytes: &[u8],
    from: Format,
    to: Format,
    options: &Options,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Vec<u8>, ConvertError> {
    if let (Format::Picture(from), Format::Picture(to)) = (from, to) {
        return picture::convert(bytes, from, to, limits, notes);
    }
    if from.is_table() || to.is_table() {
        let table = match from {
            Format::Csv => delimited::read(bytes, None, options, limits, notes)?,
            Format::Tsv => delimited::read(bytes, Some(b'\t'), options, limits, notes)?,
            Format::Json => json::read(&text::decode(bytes, options, notes)?, limits, notes)?,
            Format::JsonLines => {
                json::read_lines(&text::decode(bytes, options, notes)?, limits, notes)?
            }
            Format::Parquet => columnar::read(bytes, limits, notes)?,
            Format::Xlsx => sheet::read(bytes, options, limits, notes)?,
            _ => markup::table_of(&document(bytes, from, options, limits, notes)?, limits, notes)?,
        };
        if table.rows.is_empty() && matches!(to, Format::Json | Format::JsonLines) {
            notes.push("there are no rows, so the names of the columns are not kept".into());
        }
        return match to {
            Format::Csv => delimited::write(&table, b',', notes),
            Format::Tsv => delimited::write(&table, b'\t', notes),
            Format::Json => json::write(&table, limits),
            Format::JsonLines => json::write_lines(&table, limits),
            Format::Parquet => columnar::write(&table, notes),
            Format::Xlsx => sheet::write(&table, notes),
            _ => written(markup::of_table(&table), to, notes),
        };
    }
    if from == to && from != Format::Text {
        // The same document, in UTF-8.
        return Ok(text::decode(bytes, options, notes)?.into_bytes());
    }
    written(document(bytes, from, options, limits, notes)?, to, notes)
}

/// A document as Markdown.
fn document(
    bytes: &[u8],
    from: Format,
    options: &Options,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<markup::Document, ConvertError> {
    Ok(match from {
        Format::Pdf => markup::Document::Plain(pdf::text(bytes, limits, notes)?),
        Format::Html => {
            let html = text::decode(bytes, options, notes)?;
            markup::Document::Markdown(markup::from_html(&html, notes)?)
        }
        Format::Markdown => markup::Document::Markdown(text::decode(bytes, options, notes)?),
        _ => markup::Document::Plain(text::decode(bytes, options, notes)?),
    })
}

fn written(
    document: markup::Document,
    to: Format,
    notes: &mut Vec<String>,
) -> Result<Vec<u8>, ConvertError> {
    Ok(match to {
        Format::Html => document.into_html(notes),
        Format::Markdown => document.into_markdown(),
        _ => document.into_text(),
    }
    .into_bytes())
}

/// Conversions that may be under way, those that were given up among them; others wait.
const UNDER_WAY: usize = 16;

/// The second line behind the checks: a library that panics on a file has refused it, and one that does not come to an end
/// is left alone with it. On a stack with room to spare: what exhausts one ends the program.
fn guarded<T: Send + 'static>(
    from: Format,
    time: Duration,
    is_cancelled: &dyn Fn() -> bool,
    work: impl FnOnce() -> Result<T, ConvertError> + Send + 'static,
) -> Result<T, ConvertError> {
    const STACK: usize = 512 << 20;
    /// How long a cancelled one may go unnoticed.
    const LOOK: Duration = Duration::from_millis(50);
    let broken = move || {
        ConvertError::Malformed(format!(
            "the file could not be read as {}: its contents are damaged; check it with the program that wrote it",
            from.name()
        ))
    };
    let begun = Instant::now();
    let place = loop {
        if is_cancelled() {
            return Err(ConvertError::Cancelled);
        }
        match Place::take() {
            Some(place) => break place,
            None if begun.elapsed() >= time => return Err(ConvertError::Busy(UNDER_WAY)),
            None => std::thread::sleep(LOOK),
        }
    };
    let (sender, receiver) = sync_channel(1);
    let worker = std::thread::Builder::new().name("convert".into()).stack_size(STACK);
    let worker = worker.spawn(move || {
        let _place = place;
        // What the closure owns is dropped with the error.
        let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(broken()));
        // Whoever asked may not wait any more.
        let _ = sender.send(done);
    });
    if let Err(error) = worker {
        return Err(ConvertError::Malformed(format!(
            "no thread could be started for the conversion: {error}; try again"
        )));
    }
    loop {
        match receiver.recv_timeout(LOOK.min(time.saturating_sub(begun.elapsed()))) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => return Err(broken()),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() >= time => {
                return Err(ConvertError::TooSlow(time));
            }
            Err(RecvTimeoutError::Timeout) if is_cancelled() => {
                return Err(ConvertError::Cancelled);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// One of the conversions that are under way.
struct Place;

/// How many there are.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Place {
    fn take() -> Option<Place> {
        // From here on the place gives itself back.
        let place = Place;
        (TAKEN.fetch_add(1, Ordering::Relaxed) < UNDER_WAY).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}
