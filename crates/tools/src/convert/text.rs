//! Bytes to text: which characters a file is written in.
//!
//! What is said wins, then a byte order mark, then UTF-8, then a guess by `chardetng` (which a note names). Bytes that
//! are no text at all are refused, with the format they seem to have.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8};

use super::{ConvertError, Options};

/// Decodes a text file. Line ends stay as they are.
pub(super) fn decode(
    bytes: &[u8],
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<String, ConvertError> {
    if let Some(label) = &options.encoding {
        let encoding = Encoding::for_label(label.as_bytes()).ok_or_else(|| {
            ConvertError::Malformed(format!(
                "no character encoding is called {label:?}; use utf-8, utf-16le, big5, gb18030, shift_jis, \
                 windows-1252 or another label of the WHATWG list, or leave it out"
            ))
        })?;
        return decoded(bytes, encoding);
    }
    if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        return decoded(&bytes[mark..], encoding);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !is_binary(bytes) => return Ok(text.to_string()),
        _ if is_binary(bytes) => return Err(binary(bytes)),
        _ => {}
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    notes.push(format!(
        "the file is not UTF-8; it was read as {}, which is a guess (say `encoding` if it is another)",
        encoding.name()
    ));
    decoded(bytes, encoding)
}

fn decoded(bytes: &[u8], encoding: &'static Encoding) -> Result<String, ConvertError> {
    let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
    if had_errors {
        let hint = if encoding == UTF_8 { "say its `encoding`" } else { "say another `encoding`" };
        return Err(ConvertError::Malformed(format!(
            "the file is not valid {}: {hint}, for example windows-1252 or big5",
            encoding.name()
        )));
    }
    Ok(text.into_owned())
}

/// Whether these are no characters: zeros, or many control characters.
fn is_binary(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(64 << 10)];
    let control =
        |&&byte: &&u8| byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b);
    head.contains(&0) || head.iter().filter(control).count() * 50 > head.len()
}

fn binary(bytes: &[u8]) -> ConvertError {
    const KINDS: [(&[u8], &str); 12] = [
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"GIF8", "a GIF picture"),
        (b"PK\x03\x04", "a ZIP archive, perhaps XLSX"),
        (b"%PDF", "a PDF"),
        (b"PAR1", "a Parquet file"),
        (b"\x1f\x8b", "a gzip file"),
        (b"\x7fELF", "a program"),
        (b"\xd0\xcf\x11\xe0", "an old or encrypted Office file"),
        (b"SQLite format 3", "a SQLite database"),
        (b"RIFF", "a WebP picture or a sound"),
        (b"GGUF", "a model"),
    ];
    let kind = KINDS.iter().find(|(magic, _)| bytes.starts_with(magic));
    let kind = kind.map_or("binary data", |(_, kind)| kind);
    ConvertError::Malformed(format!(
        "the file is not text: it looks like {kind}; say `from` by what it really is (UTF-16 without a mark needs \
         `encoding`: utf-16le or utf-16be)"
    ))
}
