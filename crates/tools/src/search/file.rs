//! Files of this machine as pages of the library.

use url::Url;

use crate::convert::{self, Format, convert};
use crate::web::page::{NotAPage, Page, read};

/// Whether files of this name hold text that can be read.
pub fn is_readable(name: &str) -> bool {
    Format::of_path(name).is_some_and(|format| !matches!(format, Format::Picture(_)))
}

/// Reads a file by what its name says it is: text, Markdown, HTML, PDF, and tables of all kinds.
///
/// # Errors
/// What is wrong with it, and what to do next.
pub fn page(name: &str, bytes: &[u8]) -> Result<Page, String> {
    let Some(format) = Format::of_path(name).filter(|_| is_readable(name)) else {
        return Err("expected a file of text, a page, a PDF or a table".into());
    };
    let (limits, options) = (convert::Limits::default(), convert::Options::default());
    let converted = |to| convert(bytes, format, to, &options, &limits).map(|done| done.bytes);
    let (bytes, media_type) = match format {
        Format::Html => (Ok(bytes.to_vec()), Format::Html.media_type()),
        Format::Markdown => (converted(Format::Html), Format::Html.media_type()),
        Format::Pdf => (converted(Format::Text), Format::Text.media_type()),
        Format::Parquet | Format::Xlsx => (converted(Format::Csv), Format::Text.media_type()),
        _ => (Ok(bytes.to_vec()), Format::Text.media_type()),
    };
    let bytes = bytes.map_err(|why| why.to_string())?;
    // Links of a file lead nowhere else: relative ones have no place to start from.
    let place = Url::parse("file:///").map_err(|error| error.to_string())?;
    let page = read(&bytes, media_type, None, &place, true);
    let mut page = page.map_err(|why| match why {
        NotAPage::Binary(size) => format!("these {size} bytes are no text"),
        why => why.to_string(),
    })?;
    if page.title.is_empty() {
        page.title = name.rsplit('/').next().unwrap_or(name).into();
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_pages() {
        for (name, bytes, title, first) in [
            (
                "a/notes.md",
                "# Peaks\n\nYushan is 3952 m high.\n",
                "notes.md",
                "# Peaks\nYushan is 3952 m high.",
            ),
            ("page.html", "<title>Peaks</title><p>Yushan", "Peaks", "Yushan"),
            ("t.csv", "name,height\nYushan,3952\n", "t.csv", "name,height\nYushan,3952"),
            ("n.txt", "plain", "n.txt", "plain"),
        ] {
            let page = page(name, bytes.as_bytes()).unwrap();
            assert_eq!((page.title.as_str(), page.spans[0].as_str()), (title, first), "{name}");
        }
        for (name, bytes, expected) in [
            ("photo.png", &b"x"[..], "expected a file of text"),
            ("unknown", b"x", "expected a file of text"),
            ("empty.txt", b"", "no text"),
            ("broken.pdf", b"%PDF", "PDF"),
            ("broken.xlsx", b"PK", "XLSX"),
            ("binary.txt", b"\0\0\0\0", "are no text"),
        ] {
            let why = page(name, bytes).unwrap_err();
            assert!(why.contains(expected), "{name}: {why}");
        }
    }
}
