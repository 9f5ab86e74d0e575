//! Bytes of a document to clean text.
//!
//! The key decision: one pass that copies plain runs and looks only at bytes that could be changed. Cleaning takes away what
//! no reader sees and unifies what looks alike: line ends become LF, control characters and byte-order marks
//! go, blanks at the ends of lines go, several blank lines become one, the text is in NFC and begins and ends with
//! something visible. Words are not touched.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Bytes that are copied as they are; that end a line; that need a look; that can only belong to characters above U+02FF,
/// where text may not be in NFC.
const PLAIN: u8 = 0;
const FEED: u8 = 1;
const RETURN: u8 = 2;
const CONTROL: u8 = 3;
/// 0xC2: lead of U+0080 to U+00BF, the first half of which are controls.
const LATIN: u8 = 4;
/// 0xEF: lead of U+F000 to U+FFFF, one of which is the byte-order mark.
const MARK: u8 = 5;
const HIGH: u8 = 6;

const CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'\n' => FEED,
            b'\r' => RETURN,
            b'\t' => PLAIN,
            0..0x20 | 0x7f => CONTROL,
            0xc2 => LATIN,
            0xef => MARK,
            0xcc..=0xf4 => HIGH,
            _ => PLAIN,
        };
        byte += 1;
    }
    class
};

/// Cleans a document of UTF-8.
pub(super) fn clean(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut from, mut is_high) = (0, 0, false);
    while at < bytes.len() {
        let (skipped, is_end) = match CLASS[usize::from(bytes[at])] {
            PLAIN => {
                at += 1;
                continue;
            }
            HIGH => {
                is_high = true;
                at += 1;
                continue;
            }
            FEED => (1, true),
            RETURN => (1 + usize::from(bytes.get(at + 1) == Some(&b'\n')), true),
            LATIN if bytes.get(at + 1).is_some_and(|next| *next < 0xa0) => (2, false),
            MARK if bytes[at..].starts_with("\u{feff}".as_bytes()) => (3, false),
            CONTROL => (1, false),
            class => {
                is_high |= class == MARK;
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&bytes[from..at]);
        if is_end {
            end_line(&mut out);
        }
        at += skipped;
        from = at;
    }
    out.extend_from_slice(&bytes[from..]);
    trim(&mut out);
    // Only whole characters were taken out of UTF-8.
    let text = String::from_utf8(out)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    if is_high && is_nfc_quick(text.chars()) != IsNormalized::Yes {
        text.nfc().collect()
    } else {
        text
    }
}

/// Ends a line: without blanks before, and not as a second blank line.
fn end_line(out: &mut Vec<u8>) {
    while matches!(out.last(), Some(b' ' | b'\t')) {
        out.pop();
    }
    if !out.is_empty() && !out.ends_with(b"\n\n") {
        out.push(b'\n');
    }
}

/// Takes white space off both ends. A document's first line keeps no indentation.
fn trim(out: &mut Vec<u8>) {
    let end = out.trim_ascii_end().len();
    out.truncate(end);
    let start = out.len() - out.trim_ascii_start().len();
    out.drain(..start);
}

/// The bytes as UTF-8, and whether something had to be replaced by U+FFFD.
pub(super) fn decoded(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), false),
        Err(_) => (String::from_utf8_lossy(bytes), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_clean() {
        for (text, expected) in [
            ("", ""),
            ("  a b  ", "a b"),
            ("a\r\nb\rc\nd", "a\nb\nc\nd"),
            ("a \t\r\n\r\n \n\n\nb", "a\n\nb"),
            ("\u{feff}a\u{0}b\u{1b}[0m\u{85}c\u{7f}", "ab[0mc"),
            ("a\tb", "a\tb"),
            ("e\u{301}", "é"),
            ("\u{e9}\u{a0}x", "é\u{a0}x"),
            ("\u{2126}", "\u{3a9}"),
            ("山\u{feff}上\r\n\u{3000}下", "山上\n\u{3000}下"),
            ("\u{ff0c}\u{fffd}", "\u{ff0c}\u{fffd}"),
            ("\u{f900}", "豈"),
            ("\n\n\na", "a"),
            ("\u{200d}👩\u{200d}🔬", "\u{200d}👩\u{200d}🔬"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
        assert_eq!(decoded(b"a\xffb"), (Cow::Owned("a\u{fffd}b".into()), true));
    }

    proptest::proptest! {
        #[test]
        fn clean_text_stays_as_it_is(text in "[a \\t\r\n\u{e9}\u{301}\u{c71f}\u{feff}\u{85}\u{0}\u{1100}\u{1161}\u{ff21}]{0,60}") {
            let once = clean(&text);
            proptest::prop_assert_eq!(clean(&once), once.clone());
            proptest::prop_assert!(unicode_normalization::is_nfc(&once));
            proptest::prop_assert!(!once.contains("\n\n\n") && !once.contains(" \n") && !once.contains('\r'));
        }
    }
}
