//! One byte for the border of documents and one for their length, then text or JSON lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_train::corpus::jsonl::{fields_of, next_line, text_of};
use yushan_train::corpus::split::{Border, Splitter, passages};

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (border, most, bytes) = input;
    let border = [None, Some("blank lines"), Some("<|endoftext|>")][usize::from(border) % 3];
    let most = usize::from(most) + 8;
    let mut splitter = Splitter::new(std::io::BufReader::with_capacity(7, bytes), Border::of(border), most);
    let (mut document, mut all) = (Vec::new(), Vec::new());
    while splitter.next(&mut document).expect("memory reads") {
        assert!(document.len() <= most);
        all.append(&mut document);
    }
    if border.is_none() {
        assert_eq!(all, bytes);
    }
    let mut again = Vec::new();
    passages(bytes, most, |passage, _| {
        assert!(passage.len() <= most);
        again.extend_from_slice(passage);
    });
    assert_eq!(again, bytes);
    let (mut reader, mut line) = (bytes, Vec::new());
    while next_line(&mut reader, &mut line, most).expect("memory reads") > 0 {
        assert!(line.len() <= most + 1);
        let _ = text_of(&line, "text");
        let _ = fields_of(&line);
    }
});
