//! One byte for the format, then CSV, TSV, JSON, JSON lines, Markdown or HTML, converted to JSON and back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_tools::convert::{Format, Limits, Options, convert};

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    let formats = [
        Format::Csv,
        Format::Tsv,
        Format::Json,
        Format::JsonLines,
        Format::Markdown,
        Format::Html,
    ];
    let from = formats[usize::from(kind) % formats.len()];
    let (options, limits) = (Options::default(), Limits { cells: 100_000, ..Limits::default() });
    // Without rows JSON has no columns, and is no table.
    let is_empty = |json: &[u8]| json.iter().all(|byte| b"[] \n".contains(byte));
    let json = convert(bytes, from, Format::Json, &options, &limits);
    if let Some(json) = json.ok().filter(|json| !is_empty(&json.bytes)) {
        let again = convert(&json.bytes, Format::Json, Format::Json, &options, &limits);
        assert_eq!(again.map(|again| again.bytes), Ok(json.bytes));
    }
    let _ = convert(bytes, from, Format::Text, &options, &limits);
});
