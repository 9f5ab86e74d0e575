//! One byte for the format, then XLSX, Parquet, PDF or a picture, converted to what people read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_tools::convert::{Format, Limits, Options, convert};

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    let picture = |name| Format::named(name).expect("a picture");
    let ways = [
        (Format::Xlsx, Format::Csv),
        (Format::Parquet, Format::Json),
        (Format::Pdf, Format::Text),
        (picture("png"), picture("bmp")),
        (picture("jpeg"), picture("png")),
        (picture("gif"), picture("png")),
        (picture("webp"), picture("png")),
        (picture("tiff"), picture("png")),
    ];
    let (from, to) = ways[usize::from(kind) % ways.len()];
    let limits = Limits {
        cells: 100_000,
        unpacked: 16 << 20,
        pixels: 1_000_000,
        pages: 100,
        ..Limits::default()
    };
    let _ = convert(bytes, from, to, &Options::default(), &limits);
});
