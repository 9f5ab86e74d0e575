//! The metadata of a GGUF file: keys to values, with getters that say which key is wrong.
//!
//! The key decision: an entry is kept as the offset where it starts, and read again when asked
//! for. Checking happens once, on opening; the getters cannot fail for reasons of format.

use std::sync::Arc;

use super::FORMAT;
use super::value::{Array, Cursor, Value};
use crate::error::shown;
use crate::mmap::Mapping;
use crate::{Error, Result};

/// Longest key of the specification, in bytes.
const MAX_KEY: usize = 65535;

/// The smallest entry: the length of a key, a key of one byte, a type, one byte.
const MIN_ENTRY: usize = 8 + 1 + 4 + 1;

/// The metadata of a file, in the order of the file and by key.
#[derive(Clone, Debug)]
pub struct Metadata {
    map: Arc<Mapping>,
    /// Where each entry starts in `map`.
    entries: Vec<usize>,
    /// Indices of `entries`, by key.
    by_key: Vec<u32>,
}

impl Metadata {
    /// Checks `count` entries from `start` and returns where they end.
    pub(crate) fn read(map: Arc<Mapping>, start: usize, count: u64) -> Result<(Metadata, usize)> {
        let mut cursor = Cursor { bytes: &map, at: start };
        let most = cursor.left() / MIN_ENTRY;
        if count > most as u64 {
            return Err(Error::format(
                FORMAT,
                "metadata_kv_count",
                format!("{count} entries, but the bytes left hold at most {most}"),
            ));
        }
        let mut entries = Vec::with_capacity(count as usize);
        for number in 0..count {
            entries.push(cursor.at);
            let key = read_key(&mut cursor, number)?;
            cursor.check_value(key)?;
        }
        let end = cursor.at;
        let mut metadata = Metadata { map: map.clone(), entries, by_key: Vec::new() };
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_unstable_by(|&a, &b| metadata.key(a).cmp(metadata.key(b)));
        for pair in order.windows(2) {
            let key = metadata.key(pair[0]);
            if key == metadata.key(pair[1]) {
                return Err(Error::format(FORMAT, key, "the key stands twice in the metadata"));
            }
        }
        metadata.by_key = order;
        Ok((metadata, end))
    }

    /// How many entries there are.
    #[allow(clippy::len_without_is_empty)] // never asked for
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// All entries in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        (0..self.entries.len() as u32).filter_map(|i| self.entry(i))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let at = self.by_key.binary_search_by(|&i| self.key(i).cmp(key)).ok()?;
        self.entry(self.by_key[at]).map(|(_, value)| value)
    }

    /// The value of a key as text; an error if it is something else.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "UTF-8 text", |value| value.as_str())
    }

    /// The value of a key as a whole number that is not negative, whatever its width.
    pub fn integer(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number that is not negative", |value| {
            value.as_u64().and_then(|v| v.try_into().ok())
        })
    }

    /// The value of a key as a floating-point number.
    pub fn float(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a floating-point number", |value| value.as_f32())
    }

    /// The value of a key as a truth value.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |value| value.as_bool())
    }

    /// The value of a key as an array.
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>> {
        self.typed(key, "an array", |value| value.as_array())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            let kind = value.value_type();
            Error::format(FORMAT, key, format!("the value is a {kind:?}, expected {expected}"))
        })
    }

    fn entry(&self, number: u32) -> Option<(&str, Value<'_>)> {
        let mut cursor = Cursor { bytes: &self.map, at: self.entries[number as usize] };
        let key = read_key(&mut cursor, number.into()).ok()?;
        Some((key, cursor.tagged()?))
    }

    fn key(&self, number: u32) -> &str {
        let mut cursor = Cursor { bytes: &self.map, at: self.entries[number as usize] };
        read_key(&mut cursor, number.into()).unwrap_or("")
    }
}

fn read_key<'a>(cursor: &mut Cursor<'a>, number: u64) -> Result<&'a str> {
    let fail =
        |detail: String| Err(Error::format(FORMAT, format!("metadata[{number}].key"), detail));
    let Some(len) = cursor.u64() else { return fail("the file ends before it".into()) };
    if len == 0 || len > MAX_KEY as u64 {
        return fail(format!("{len} bytes long, expected 1 to {MAX_KEY}"));
    }
    let Some(bytes) = cursor.take(len as usize) else {
        return fail(format!("{len} bytes long, but the file ends before"));
    };
    match std::str::from_utf8(bytes) {
        Ok(key) => Ok(key),
        Err(_) => fail(format!("{} is not UTF-8", shown(bytes))),
    }
}
