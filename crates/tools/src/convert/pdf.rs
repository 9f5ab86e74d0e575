//! The text of a PDF, by `lopdf`.
//!
//! Pages one after the other, parted by a form feed. How a page looks, its tables and pictures are lost; a page without
//! any text is named in a note, for it is probably a scan.

use lopdf::{Document, LoadOptions};

use super::{ConvertError, Limits, within};

/// Bytes of one PDF: its objects are kept in memory many times over.
const INPUT: usize = 32 << 20;
/// Bytes one stream may unpack to.
const STREAM: usize = 32 << 20;

/// Extracts the text.
pub(super) fn text(
    bytes: &[u8],
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<String, ConvertError> {
    if !bytes[..bytes.len().min(1024)].windows(5).any(|window| window == b"%PDF-") {
        return Err(ConvertError::malformed(
            "the file is not a PDF: %PDF- is not at its beginning; say `from` by what it really is",
        ));
    }
    within("the PDF (bytes)", bytes.len(), INPUT, "split it into parts")?;
    let options = LoadOptions { max_decompressed_size: Some(STREAM), ..LoadOptions::default() };
    let document = Document::load_mem_with_options(bytes, options).map_err(refused)?;
    if document.is_encrypted() && !document.was_encrypted() {
        return Err(ConvertError::Encrypted);
    }
    let pages = document.get_pages();
    within("the number of pages", pages.len(), limits.pages, "split it into parts")?;
    if pages.is_empty() {
        return Err(ConvertError::malformed("the PDF has no pages; it is damaged"));
    }
    let (mut out, mut empty, mut unread) = (String::new(), Vec::new(), Vec::new());
    for &page in pages.keys() {
        let text = match document.extract_text_with_limit(&[page], STREAM) {
            Ok(text) => text,
            Err(_) => {
                unread.push(page.to_string());
                String::new()
            }
        };
        if text.trim().is_empty() {
            empty.push(page.to_string());
        }
        if !out.is_empty() {
            out.push('\u{c}');
        }
        out.push_str(text.trim_end());
        out.push('\n');
        within("the text (bytes)", out.len(), limits.output, "split the PDF into parts")?;
    }
    if unread.len() == pages.len() {
        return Err(ConvertError::malformed(
            "no page of the PDF could be read; it is damaged or uses fonts that are not understood",
        ));
    }
    if empty.len() == pages.len() {
        return Err(ConvertError::malformed(
            "the PDF has no text, only pictures (a scan, probably); its pages would have to be looked at",
        ));
    }
    if !empty.is_empty() {
        let shown = empty.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "{} of {} pages have no text that could be read: {shown}",
            empty.len(),
            pages.len()
        ));
    }
    Ok(out)
}

fn refused(error: lopdf::Error) -> ConvertError {
    match error {
        lopdf::Error::Decryption(_)
        | lopdf::Error::InvalidPassword
        | lopdf::Error::UnsupportedSecurityHandler(_)
        | lopdf::Error::AlreadyEncrypted => ConvertError::Encrypted,
        other => ConvertError::Malformed(format!(
            "the PDF could not be read: {other}; it is damaged, or not complete"
        )),
    }
}
