//! A JSON object, read where it lies.
//!
//! The key decision: nothing is built from the text. A member is found by walking over the others
//! each time it is asked for, so a hostile file makes us allocate nothing, and every error names
//! the member. For small objects that are asked a few times (`config.json`, one entry of a
//! safetensors header), and for large ones that are walked once.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::{Error, Result};

/// What is called with the name and the text of a member.
type EachMember<'f, 'a> = &'f mut dyn FnMut(Cow<'a, str>, &'a RawValue) -> Result<()>;

/// An object whose syntax has been checked.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    format: &'static str,
    text: &'a str,
}

impl<'a> Object<'a> {
    /// Checks the syntax of a whole file.
    pub(crate) fn parse(format: &'static str, bytes: &'a [u8]) -> Result<Object<'a>> {
        let broken = |detail: String| Error::format(format, "JSON", detail);
        let text = std::str::from_utf8(bytes).map_err(|error| broken(error.to_string()))?;
        let object = Object { format, text };
        object.each(&mut |_, _| Ok(())).map(|()| object)
    }

    /// The object that is the member `name` of this one; `None` for an absent or null member.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Object<'a>>> {
        let Some(raw) = self.raw(name)? else { return Ok(None) };
        let object = Object { format: self.format, text: raw.get() };
        match raw.get().starts_with('{') {
            true => Ok(Some(object)),
            false => Err(self.wrong(name, raw, "an object")),
        }
    }

    /// The object in the text of a member of this one.
    pub(crate) fn inside(&self, name: &str, raw: &'a RawValue) -> Result<Object<'a>> {
        match raw.get().starts_with('{') {
            true => Ok(Object { format: self.format, text: raw.get() }),
            false => Err(self.wrong(name, raw, "an object")),
        }
    }

    /// Whether there is such a member, be it null.
    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.member(name)?.is_some())
    }

    /// A whole number that is not negative.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<usize>> {
        self.read(name, "a whole number that is not negative")
    }

    /// A number.
    pub(crate) fn float(&self, name: &str) -> Result<Option<f32>> {
        Ok(self.read::<f64>(name, "a number")?.map(|number| number as f32))
    }

    /// A truth value; an absent one is false.
    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.read(name, "true or false")?.unwrap_or(false))
    }

    /// A string.
    pub(crate) fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>> {
        Ok(self.read::<Text<'a>>(name, "a string")?.map(|text| text.0))
    }

    /// Up to `N` whole numbers, and how many there are.
    pub(crate) fn integers<const N: usize>(
        &self,
        name: &str,
    ) -> Result<Option<([usize; N], usize)>> {
        let Some(raw) = self.raw(name)? else { return Ok(None) };
        let (mut numbers, mut count) = ([0; N], 0);
        elements(self.format, name, raw, &mut |element| {
            let number = serde_json::from_str(element.get()).ok();
            let (Some(slot), Some(number)) = (numbers.get_mut(count), number) else {
                return Err(self.wrong(name, raw, &format!("at most {N} whole numbers")));
            };
            *slot = number;
            count += 1;
            Ok(())
        })?;
        Ok(Some((numbers, count)))
    }

    /// The strings of a list, one by one; says whether the list is there.
    pub(crate) fn strings(&self, name: &str, each: &mut dyn FnMut(&str)) -> Result<bool> {
        let Some(raw) = self.raw(name)? else { return Ok(false) };
        elements(self.format, name, raw, &mut |element| {
            match serde_json::from_str::<Text<'_>>(element.get()) {
                Ok(text) => each(&text.0),
                Err(_) => return Err(self.wrong(name, raw, "a list of strings")),
            }
            Ok(())
        })?;
        Ok(true)
    }

    /// Calls `member` for each.
    pub(crate) fn each(
        &self,
        member: &mut dyn FnMut(&str, &'a RawValue) -> Result<()>,
    ) -> Result<()> {
        members(self.format, self.text, &mut |name, raw| member(&name, raw))
    }

    /// An error about a member.
    pub(crate) fn error(&self, name: &str, detail: impl Into<String>) -> Error {
        Error::format(self.format, name, detail)
    }

    fn read<T: Deserialize<'a>>(&self, name: &str, expected: &str) -> Result<Option<T>> {
        let Some(raw) = self.raw(name)? else { return Ok(None) };
        match serde_json::from_str(raw.get()) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(self.wrong(name, raw, expected)),
        }
    }

    fn raw(&self, name: &str) -> Result<Option<&'a RawValue>> {
        Ok(self.member(name)?.filter(|raw| raw.get() != "null"))
    }

    fn member(&self, name: &str) -> Result<Option<&'a RawValue>> {
        let mut found = None;
        self.each(&mut |key, raw| {
            if key == name && found.replace(raw).is_some() {
                return Err(self.error(name, "the member stands twice"));
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn wrong(&self, name: &str, raw: &RawValue, expected: &str) -> Error {
        wrong(self.format, name, raw, expected)
    }
}

/// Calls `member` for each member of the object that `text` is.
pub(crate) fn members<'a>(
    format: &'static str,
    text: &'a str,
    member: EachMember<'_, 'a>,
) -> Result<()> {
    let mut failed = None;
    let walk = Walk { member, failed: &mut failed };
    let mut json = serde_json::Deserializer::from_str(text);
    let done = json.deserialize_map(walk).and_then(|()| json.end());
    match (failed, done) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(Error::format(format, "JSON", error.to_string())),
        (None, Ok(())) => Ok(()),
    }
}

/// Calls `element` for each element of the list that is the member `name`.
pub(crate) fn elements<'a>(
    format: &'static str,
    name: &str,
    raw: &'a RawValue,
    element: &mut dyn FnMut(&'a RawValue) -> Result<()>,
) -> Result<()> {
    let mut failed = None;
    let walk = Elements { element, failed: &mut failed };
    let done = serde_json::Deserializer::from_str(raw.get()).deserialize_seq(walk);
    match (failed, done) {
        (Some(error), _) => Err(error),
        (None, Err(_)) => Err(wrong(format, name, raw, "a list")),
        (None, Ok(())) => Ok(()),
    }
}

fn wrong(format: &'static str, name: &str, raw: &RawValue, expected: &str) -> Error {
    let text = raw.get();
    let shown = &text[..text.floor_char_boundary(60)];
    let dots = if shown.len() < text.len() { "…" } else { "" };
    Error::format(format, name, format!("{shown}{dots}, expected {expected}"))
}

/// A string, borrowed where it holds no escapes.
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_str(Key).map(Text)
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_string()))
    }
}

/// Walks over an object; the error of the callee goes around serde, which would make it text.
struct Walk<'f, 'a> {
    member: EachMember<'f, 'a>,
    failed: &'f mut Option<Error>,
}

impl<'a> Visitor<'a> for Walk<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key)? {
            let raw = map.next_value()?;
            if self.failed.is_none()
                && let Err(error) = (self.member)(key, raw)
            {
                *self.failed = Some(error);
            }
        }
        Ok(())
    }
}

/// Walks over a list.
struct Elements<'f, 'a> {
    element: &'f mut dyn FnMut(&'a RawValue) -> Result<()>,
    failed: &'f mut Option<Error>,
}

impl<'a> Visitor<'a> for Elements<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        while let Some(raw) = list.next_element()? {
            if let Err(error) = (self.element)(raw) {
                *self.failed = Some(error);
                break;
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
