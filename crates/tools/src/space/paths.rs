//! Paths in a space, and what lies at them by name and first bytes.

use unicode_normalization::UnicodeNormalization;
use yushan_abi::Label;

use super::SpaceError;

/// Bytes of a path, and of one name in it.
const MOST_PATH: usize = 512;
const MOST_NAME: usize = 200;
/// Names of a path.
const MOST_DEPTH: usize = 16;

/// A path as it is kept: relative, with `/`, in Unicode's composed form (NFC), so that one name has one spelling.
///
/// # Errors
/// It is none, with why.
pub fn check(path: &str) -> Result<String, SpaceError> {
    let normal: String = path.nfc().collect();
    let normal = normal.strip_prefix("./").unwrap_or(&normal).to_string();
    match fault(&normal) {
        None => Ok(normal),
        Some(why) => {
            // What is shown is bounded; what it holds is escaped where it is shown.
            let path = path.chars().take(MOST_NAME).collect();
            Err(SpaceError::Path { path, why: why.into(), labels: Label::default() })
        }
    }
}

fn fault(path: &str) -> Option<&'static str> {
    let names = || path.split('/');
    Some(match path {
        "" => "is empty",
        _ if path.len() > MOST_PATH => "is longer than 512 bytes",
        _ if path.starts_with('/') || path.as_bytes().get(1) == Some(&b':') => "is absolute",
        _ if path.contains('\\') => "has a backslash",
        _ if path.chars().any(|char| char.is_control() || is_invisible(char)) => {
            "has characters that cannot be seen"
        }
        _ if names().any(|name| name == "..") => "leads out of its folder (..)",
        _ if names().any(|name| name.is_empty() || name == ".") => "has an empty name in it",
        _ if names().any(|name| name.len() > MOST_NAME) => "has a name of more than 200 bytes",
        _ if names().any(|name| name != name.trim()) => "has a name with a space at an end",
        _ if names().count() > MOST_DEPTH => "has more than 16 names",
        _ => return None,
    })
}

/// Characters that change how others are shown, or are not shown: a name must be what it seems.
fn is_invisible(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The media type of a file by its first bytes, then by its name; else `text/plain` or `application/octet-stream`.
pub fn media_type(path: &str, bytes: &[u8]) -> &'static str {
    const MAGIC: [(&[u8], &str); 8] = [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"%PDF-", "application/pdf"),
        (b"PAR1", "application/vnd.apache.parquet"),
        (b"\x1f\x8b", "application/gzip"),
        (b"BM", "image/bmp"),
        (b"SQLite format 3\0", "application/vnd.sqlite3"),
    ];
    const NAMES: [(&str, &str); 24] = [
        ("csv", "text/csv"),
        ("tsv", "text/tab-separated-values"),
        ("json", "application/json"),
        ("jsonl", "application/jsonl"),
        ("ndjson", "application/jsonl"),
        ("md", "text/markdown"),
        ("html", "text/html"),
        ("htm", "text/html"),
        ("xml", "application/xml"),
        ("svg", "image/svg+xml"),
        ("css", "text/css"),
        ("js", "text/javascript"),
        ("py", "text/x-python"),
        ("rs", "text/x-rust"),
        ("toml", "application/toml"),
        ("yaml", "application/yaml"),
        ("yml", "application/yaml"),
        ("tex", "text/x-tex"),
        ("txt", "text/plain"),
        ("log", "text/plain"),
        ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("zip", "application/zip"),
        ("tar", "application/x-tar"),
    ];
    if let Some((_, found)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return found;
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return "image/webp";
    }
    let is_archive = bytes.starts_with(b"PK\x03\x04");
    let is_text = !is_archive && std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0);
    let ending = path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let named = NAMES.iter().find(|(name, _)| Some(*name) == ending.as_deref());
    match named.map(|(_, found)| *found) {
        // A name does not make a text of what is none.
        Some(found)
            if is_text != matches!(ending.as_deref(), Some("xlsx" | "docx" | "zip" | "tar")) =>
        {
            found
        }
        _ if is_archive => "application/zip",
        _ if is_text => "text/plain",
        _ => "application/octet-stream",
    }
}
