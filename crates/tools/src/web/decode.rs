//! From the bytes of a page to its characters, whatever encoding they are in and whatever the page says of it.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// Bytes at the beginning that may name the encoding.
const PRESCAN: usize = 1024;

/// The text, and the name of the encoding if some of it could not be read.
///
/// Order: a byte order mark, `charset` of the header, what the page says in its head, a guess. What is named and does
/// not fit is guessed too: many pages lie.
pub fn decode(bytes: &[u8], charset: Option<&str>) -> (String, Option<&'static str>) {
    if let Some((encoding, length)) = Encoding::for_bom(bytes) {
        return finish(encoding, &bytes[length..]);
    }
    let named = charset.and_then(|name| Encoding::for_label(name.as_bytes()));
    if let Some(encoding) = named.or_else(|| said(bytes)) {
        let (text, broken) = encoding.decode_without_bom_handling(bytes);
        if !broken {
            return (text.into_owned(), None);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (text.to_string(), None);
    }
    // A text in UTF-8 with one bad byte is still UTF-8.
    let (text, _) = UTF_8.decode_without_bom_handling(bytes);
    let bad = text.matches('\u{fffd}').count();
    if bad * 200 < text.chars().filter(|c| !c.is_ascii()).count() {
        return (text.into_owned(), Some(UTF_8.name()));
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, true);
    finish(detector.guess(None, Utf8Detection::Allow), bytes)
}

fn finish(encoding: &'static Encoding, bytes: &[u8]) -> (String, Option<&'static str>) {
    let (text, broken) = encoding.decode_without_bom_handling(bytes);
    (text.into_owned(), broken.then(|| encoding.name()))
}

/// What `<meta charset>` or its older form says.
fn said(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = bytes[..bytes.len().min(PRESCAN)].to_ascii_lowercase();
    let at = head.windows(7).position(|window| window == b"charset")?;
    let rest = head[at + 7..].trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"").or_else(|| rest.strip_prefix(b"'")).unwrap_or(rest);
    let end = rest.iter().position(|byte| b"\"' ;/>".contains(byte)).unwrap_or(rest.len());
    let encoding = Encoding::for_label(&rest[..end])?;
    // Who can read this in ASCII did not write it in UTF-16 (HTML, "prescan a byte stream").
    Some(if [UTF_16LE, UTF_16BE].contains(&encoding) { UTF_8 } else { encoding })
}

#[cfg(test)]
mod tests {
    use super::*;
    use encoding_rs::{BIG5, EUC_JP, GBK, SHIFT_JIS, WINDOWS_1252};

    #[test]
    fn encodings_are_found_whatever_is_said_of_them() {
        let chinese = "玉山是臺灣最高的山，也是東亞的最高峰。玉山國家公園在一九八五年成立。";
        let japanese = "日本語のページです。これは文字コードの判定を確かめるための文章です。";
        let french = "Élève français à côté du château où l'été dernier il a mangé des crêpes";
        let utf16 = |text: &str| {
            let units = text.encode_utf16().flat_map(u16::to_le_bytes);
            [0xff, 0xfe].into_iter().chain(units).collect::<Vec<u8>>()
        };
        let meta = |label: &str, bytes: &[u8]| {
            [format!("<meta charset=\"{label}\">").as_bytes(), bytes].concat()
        };
        let big5 = BIG5.encode(chinese).0.into_owned();
        for (bytes, charset, expected) in [
            (chinese.as_bytes().to_vec(), None, chinese),
            (chinese.as_bytes().to_vec(), Some("utf-8"), chinese),
            (chinese.as_bytes().to_vec(), Some("no-such-thing"), chinese),
            // Said to be ISO-2022-JP, and is not.
            (chinese.as_bytes().to_vec(), Some("iso-2022-jp"), chinese),
            (big5.clone(), Some("big5"), chinese),
            (big5.clone(), None, chinese),
            (big5.clone(), Some("utf-8"), chinese),
            (meta("Big5", &big5), None, chinese),
            (meta("utf-16", chinese.as_bytes()), None, chinese),
            (utf16(chinese), Some("utf-8"), chinese),
            ([b"\xef\xbb\xbf", chinese.as_bytes()].concat(), Some("big5"), chinese),
            (GBK.encode(chinese).0.into_owned(), Some("gb2312"), chinese),
            (SHIFT_JIS.encode(japanese).0.into_owned(), None, japanese),
            (EUC_JP.encode(japanese).0.into_owned(), None, japanese),
            (WINDOWS_1252.encode(french).0.into_owned(), None, french),
            (WINDOWS_1252.encode(french).0.into_owned(), Some("iso-8859-1"), french),
        ] {
            let (text, broken) = decode(&bytes, charset);
            assert!(text.ends_with(expected), "{charset:?}: {text}");
            assert_eq!(broken, None, "{charset:?}: {text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let text = "山".repeat(300);
        let (read, broken) = decode(&[text.as_bytes(), b"\xff end"].concat(), None);
        assert_eq!((read, broken), (format!("{text}\u{fffd} end"), Some("UTF-8")));
    }
}
