//! A page of the web: one byte for its type, whether all of it is wanted and its charset, then its bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_tools::web::page::read;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    let url = url::Url::parse("https://example.org/dir/page").unwrap();
    let media_type = ["text/html", "text/plain", "", "application/json"][usize::from(kind & 3)];
    let charset = [None, Some("big5"), Some("utf-16le"), Some("iso-2022-jp")][usize::from(kind >> 2 & 3)];
    if let Ok(page) = read(body, media_type, charset, &url, kind & 16 != 0) {
        assert!(!page.notes.iter().any(|note| note.contains("taken apart")), "a parser panicked");
        for span in &page.spans {
            assert!(!span.trim().is_empty());
            assert!(!span.contains(['\u{202e}', '\u{200b}', '\u{e0041}', '\u{1b}']));
        }
        for link in &page.links {
            assert!(link.url.starts_with("http"));
        }
    }
});
