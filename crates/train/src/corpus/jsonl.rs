//! One JSON object a line: its text field, and nothing else of it.
//!
//! The key decision: other fields are passed over without being kept, so a line costs what its text does. A field may
//! hold a list of lines (poems): they are joined by line ends.

use std::fmt;
use std::io::{self, BufRead};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What a line holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The text.
    Text(String),
    /// No such field, or no text in it.
    NoText,
    /// No JSON object.
    NotJson,
}

/// Reads a line.
pub fn text_of(line: &[u8], field: &str) -> Line {
    let mut from = serde_json::Deserializer::from_slice(line);
    let found = Object(field).deserialize(&mut from).and_then(|found| from.end().map(|()| found));
    match found {
        Ok(Some(text)) => Line::Text(text),
        Ok(None) => Line::NoText,
        Err(_) => Line::NotJson,
    }
}

/// The names of an object's fields, for an error.
pub fn fields_of(line: &[u8]) -> String {
    let object: Result<serde_json::Map<String, serde_json::Value>, _> =
        serde_json::from_slice(line);
    let names: Vec<String> = object.into_iter().flatten().map(|(name, _)| name).take(20).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Reads the next line into `line`, without its end: 0 at the end of the stream, otherwise the line's bytes with its end.
/// What is longer than `most` is passed over, and `line` is then longer than `most` by one.
///
/// # Errors
/// If the stream cannot be read.
pub fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    line.clear();
    let mut bytes = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let end = memchr::memchr(b'\n', buffer);
        let taken = end.map_or(buffer.len(), |at| at + 1);
        let kept = end.unwrap_or(buffer.len()).min(most + 1 - line.len());
        line.extend_from_slice(&buffer[..kept]);
        bytes += taken;
        let is_over = buffer.is_empty();
        reader.consume(taken);
        if end.is_some() || is_over {
            return Ok(bytes);
        }
    }
}

struct Object<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Option<String>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<String>, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Option<String>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Name(self.0))? {
            if is_it {
                found = map.next_value_seed(Text)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is the one that is looked for.
struct Name<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// A string or a list of strings; none for anything else.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<String>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<String>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<String>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
    fn visit_str<E>(self, text: &str) -> Result<Option<String>, E> {
        Ok(Some(text.to_string()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<String>, A::Error> {
        let mut all = String::new();
        let mut is_first = true;
        while let Some(line) = list.next_element::<String>()? {
            if !std::mem::take(&mut is_first) {
                all.push('\n');
            }
            all.push_str(&line);
        }
        Ok(Some(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Option<String>, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Option<String>, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Option<String>, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Option<String>, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_give_their_text() {
        let text = |text: &str| Line::Text(text.to_string());
        for (line, expected) in [
            (r#"{"text": "a"}"#, text("a")),
            (r#"{"id": [1, {"text": "no"}], "text": "a\u5c71\n", "x": null}"#, text("a山\n")),
            (r#"{"text": ["a", "b"]}"#, text("a\nb")),
            (r#"{"text": []}"#, text("")),
            (r#" {"t\u0065xt": "escaped key"} "#, text("escaped key")),
            (r#"{"texts": "a"}"#, Line::NoText),
            (r#"{"text": null}"#, Line::NoText),
            (r#"{"text": 3, "a": 1}"#, Line::NoText),
            (r#"{"text": {"text": "a"}}"#, Line::NoText),
            (r#"{"text": [1]}"#, Line::NotJson),
            (r#"{"text": "a""#, Line::NotJson),
            (r#"{"text": "a"} {"#, Line::NotJson),
            ("[1]", Line::NotJson),
            ("", Line::NotJson),
        ] {
            assert_eq!(text_of(line.as_bytes(), "text"), expected, "{line}");
        }
        assert_eq!(text_of(b"{\"text\": \"a\xff\"}", "text"), Line::NotJson);
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(text_of(deep.as_bytes(), "text"), Line::NoText);
        assert_eq!(fields_of(br#"{"a": 1, "b": 2}"#), "a, b");
    }

    #[test]
    fn long_lines_are_passed_over() {
        let bytes = [b"ab\r\n".to_vec(), vec![b'x'; 100], b"\n\nlast".to_vec()].concat();
        for ahead in [1, 7, 1000] {
            let mut reader = std::io::BufReader::with_capacity(ahead, &bytes[..]);
            let (mut line, mut found) = (Vec::new(), Vec::new());
            loop {
                match next_line(&mut reader, &mut line, 10).unwrap() {
                    0 => break,
                    read => found.push((read, line.len())),
                }
            }
            assert_eq!(found, [(4, 3), (101, 11), (1, 0), (4, 4)]);
        }
    }
}
