//! Streams of bytes to documents, and long documents to passages.
//!
//! The key decision: a document in the making is never longer than the recipe's `max_document`. What would be longer is cut
//! at the last end of a paragraph, or else of a line, a sentence, a word, a character; so one giant line is a row of
//! passages, and is counted.

use std::io::{self, BufRead};

/// What stands between documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Border {
    /// Nothing: the whole stream is one document.
    None,
    /// A line that is this text.
    Line(Vec<u8>),
    /// An empty line.
    BlankLine,
}

impl Border {
    /// As recipes write it under `split_documents`.
    pub fn of(written: Option<&str>) -> Border {
        match written {
            None => Border::None,
            Some("blank lines") => Border::BlankLine,
            Some(line) => Border::Line(line.trim().as_bytes().to_vec()),
        }
    }

    fn is(&self, line: &[u8]) -> bool {
        match self {
            Border::None => false,
            Border::Line(border) => line.trim_ascii() == border,
            Border::BlankLine => line.trim_ascii().is_empty(),
        }
    }
}

/// Takes a stream of text apart.
pub struct Splitter<R> {
    reader: R,
    border: Border,
    most: usize,
    /// The document so far, and what was read of the line after it.
    held: Vec<u8>,
    /// Where the line that is being read begins in `held`.
    line: usize,
    /// Whether the line before ended with CR, so that LF belongs to it.
    after_return: bool,
    is_over: bool,
    /// Cuts that were not at the end of a line.
    pub inside_lines: u64,
}

impl<R: BufRead> Splitter<R> {
    /// `most` bytes make the longest document.
    pub fn new(reader: R, border: Border, most: usize) -> Splitter<R> {
        let (held, most) = (Vec::new(), most.max(8));
        Splitter {
            reader,
            border,
            most,
            held,
            line: 0,
            after_return: false,
            is_over: false,
            inside_lines: 0,
        }
    }

    /// Appends the next document to `out`; false at the end of the stream. Documents may be empty.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub fn next(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        while !self.is_over {
            if self.held.len() >= self.most {
                let cut = cut(&self.held, self.most);
                self.inside_lines += u64::from(!cut.is_line);
                out.extend_from_slice(&self.held[..cut.at]);
                self.held.drain(..cut.at);
                self.line = self.line.saturating_sub(cut.at);
                return Ok(true);
            }
            if self.read_some()? && self.border.is(&self.held[self.line..]) && !self.is_lone_feed()
            {
                out.extend_from_slice(&self.held[..self.line]);
                self.begin();
                return Ok(true);
            }
        }
        let last = std::mem::take(&mut self.held);
        out.extend_from_slice(&last);
        Ok(!last.is_empty())
    }

    /// What is read from.
    pub fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Gives the reader back.
    pub fn into_reader(self) -> R {
        self.reader
    }

    fn begin(&mut self) {
        self.after_return = self.held.last() == Some(&b'\r');
        self.held.clear();
        self.line = 0;
    }

    /// LF of a CR LF whose CR ended a border.
    fn is_lone_feed(&self) -> bool {
        self.after_return && self.held[self.line..] == *b"\n"
    }

    /// Reads up to the end of the line or the longest document; whether the line is whole.
    fn read_some(&mut self) -> io::Result<bool> {
        if self.held.last().is_some_and(|last| b"\r\n".contains(last))
            && self.line < self.held.len()
        {
            self.after_return = self.held.last() == Some(&b'\r');
            self.line = self.held.len();
        }
        let most = self.most - self.held.len();
        let buffer = self.reader.fill_buf()?;
        if buffer.is_empty() {
            self.is_over = true;
            // The last line may have no end, and still be a border.
            if self.border != Border::BlankLine
                && self.line < self.held.len()
                && self.border.is(&self.held[self.line..])
            {
                self.held.truncate(self.line);
            }
            return Ok(false);
        }
        let buffer = &buffer[..buffer.len().min(most)];
        let end = memchr::memchr2(b'\n', b'\r', buffer).map(|at| at + 1);
        let taken = end.unwrap_or(buffer.len());
        self.held.extend_from_slice(&buffer[..taken]);
        self.reader.consume(taken);
        Ok(end.is_some())
    }
}

/// Where a document is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of the passage, 1 to the most that were allowed.
    pub at: usize,
    /// Whether a line ends there.
    pub is_line: bool,
}

/// Cuts a document that is longer than `most` bytes: behind the last paragraph, line, sentence, word or character, the
/// first of these that ends in its second half.
pub fn cut(text: &[u8], most: usize) -> Cut {
    let most = most.clamp(1, text.len().max(1));
    let piece = &text[..most];
    let half = most / 2;
    let within = |at: Option<usize>| at.filter(|&at| at >= half && at > 0);
    if let Some(at) = within(after_paragraph(piece)) {
        return Cut { at, is_line: true };
    }
    if let Some(at) = within(memchr::memrchr2(b'\n', b'\r', piece).map(|at| at + 1)) {
        return Cut { at, is_line: true };
    }
    let sentence = memchr::memmem::rfind(piece, b". ").map(|at| at + 2);
    let stop = memchr::memmem::rfind(piece, "。".as_bytes()).map(|at| at + "。".len());
    if let Some(at) = within(sentence.max(stop)) {
        return Cut { at, is_line: false };
    }
    if let Some(at) = within(memchr::memrchr(b' ', piece).map(|at| at + 1)) {
        return Cut { at, is_line: false };
    }
    Cut { at: whole_characters(piece), is_line: false }
}

/// Up to where a piece of UTF-8 holds whole characters; what is none is cut anywhere.
fn whole_characters(piece: &[u8]) -> usize {
    let last = piece.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80);
    let Some(after) = last else { return piece.len() };
    let start = piece.len() - 1 - after;
    let length = match piece[start] {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    if start > 0 && after + 1 < length { start } else { piece.len() }
}

/// Behind the last blank line.
fn after_paragraph(piece: &[u8]) -> Option<usize> {
    let mut ends = memchr::memrchr_iter(b'\n', piece);
    ends.find(|&at| {
        let before = &piece[..at];
        let before = before.strip_suffix(b"\r").unwrap_or(before);
        before.ends_with(b"\n") || (before.ends_with(b"\r") && before.len() + 1 < at)
    })
    .map(|at| at + 1)
}

/// A document in passages of at most `most` bytes each; says for each whether it ends inside a line.
pub fn passages(mut text: &[u8], most: usize, mut each: impl FnMut(&[u8], bool)) {
    while text.len() > most {
        let cut = cut(text, most);
        each(&text[..cut.at], !cut.is_line);
        text = &text[cut.at..];
    }
    each(text, false);
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn split(text: &[u8], border: &str, most: usize, ahead: usize) -> (Vec<String>, u64) {
        let border = Border::of((!border.is_empty()).then_some(border));
        let mut splitter = Splitter::new(BufReader::with_capacity(ahead, text), border, most);
        let (mut found, mut one) = (Vec::new(), Vec::new());
        while splitter.next(&mut one).unwrap() {
            assert!(one.len() <= most, "{} bytes", one.len());
            found.push(String::from_utf8_lossy(&one).into_owned());
            one.clear();
        }
        (found, splitter.inside_lines)
    }

    #[test]
    fn documents_and_passages() {
        let end = "<|endoftext|>";
        for (text, border, most, expected) in [
            ("a\nb\n", "", 100, &["a\nb\n"][..]),
            ("", "", 100, &[]),
            ("a\n<|endoftext|>\nb", end, 100, &["a\n", "b"]),
            ("a\r\n<|endoftext|>\r\nb", end, 100, &["a\r\n", "\nb"]),
            ("a\r<|endoftext|>\rb", end, 100, &["a\r", "b"]),
            ("a\n<|endoftext|>", end, 100, &["a\n"]),
            ("a <|endoftext|>\nb", end, 100, &["a <|endoftext|>\nb"]),
            ("a\nb\n\nc\n\n\nd", "blank lines", 100, &["a\nb\n", "c\n", "", "d"]),
            ("a\r\nb\r\n\r\nc", "blank lines", 100, &["a\r\nb\r\n", "\nc"]),
            ("aaa bbb\n\nccc ddd\neee", "", 12, &["aaa bbb\n\n", "ccc ddd\neee"]),
            ("aaa\nbbbbbb\ncc\nddd", "", 12, &["aaa\nbbbbbb\n", "cc\nddd"]),
            ("aaa. bbb. ccc. ddd", "", 12, &["aaa. bbb. ", "ccc. ddd"]),
            ("aaa bbb ccc ddd", "", 12, &["aaa bbb ccc ", "ddd"]),
            ("aaaaaaaaaaaaaaa", "", 12, &["aaaaaaaaaaaa", "aaa"]),
            ("山山山山山", "", 8, &["山山", "山山", "山"]),
            ("山山。山山。", "", 16, &["山山。", "山山。"]),
        ] {
            for ahead in [1, 2, 3, 5, 64] {
                assert_eq!(
                    split(text.as_bytes(), border, most, ahead).0,
                    expected,
                    "{text:?} by {ahead}"
                );
            }
        }
    }

    #[test]
    fn a_giant_line_is_cut_and_counted() {
        let (found, inside) = split(&vec![b'x'; 1_000_000], "", 1000, 4096);
        assert_eq!((found.len(), inside), (1000, 1000));
        let mut cuts = 0;
        passages(&[b'y'; 2500], 1000, |piece, inside| {
            assert!(piece.len() <= 1000);
            cuts += u64::from(inside);
        });
        assert_eq!(cuts, 2);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(text in "[a\u{5c71} .\r\n\u{fc}]{0,200}", most in 8usize..40, ahead in 1usize..20) {
            let (found, _) = split(text.as_bytes(), "", most, ahead);
            proptest::prop_assert_eq!(found.concat(), text);
        }
    }
}
