//! The values of GGUF metadata, read where they lie and written as they are given.
//!
//! The key decision: an array is a type, a count and a slice of the file. Nothing is converted
//! before somebody asks for an element, so an array of a million strings costs nothing to open.

use super::FORMAT;
use crate::{Error, Result};

/// How deep arrays may contain arrays. Files in use have depth 1.
pub(crate) const MAX_DEPTH: usize = 4;

/// Declares the value types once: name, number in the file, Rust type of a scalar.
macro_rules! scalars {
    ($($name:ident = $number:literal : $type:ty),* $(,)?) => {
        /// The type of a metadata value, with its number in the file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        #[allow(missing_docs)] // the names are the documentation
        pub enum ValueType {
            $($name = $number,)*
            Bool = 7,
            String = 8,
            Array = 9,
        }

        /// One metadata value, borrowed from the file.
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[allow(missing_docs)] // the names are the documentation
        pub enum Value<'a> {
            $($name($type),)*
            Bool(bool),
            /// Should be UTF-8, but a vocabulary may hold other bytes; see [`Value::as_str`].
            String(&'a [u8]),
            Array(Array<'a>),
        }

        impl ValueType {
            fn from_number(number: u32) -> Option<ValueType> {
                match number {
                    $($number => Some(ValueType::$name),)*
                    7 => Some(ValueType::Bool),
                    8 => Some(ValueType::String),
                    9 => Some(ValueType::Array),
                    _ => None,
                }
            }

            /// Bytes of one value; 0 for strings and arrays, which say their length themselves.
            fn size(self) -> usize {
                match self {
                    $(ValueType::$name => size_of::<$type>(),)*
                    ValueType::Bool => 1,
                    ValueType::String | ValueType::Array => 0,
                }
            }
        }

        impl Value<'_> {
            /// The type.
            pub fn value_type(&self) -> ValueType {
                match self {
                    $(Value::$name(_) => ValueType::$name,)*
                    Value::Bool(_) => ValueType::Bool,
                    Value::String(_) => ValueType::String,
                    Value::Array(_) => ValueType::Array,
                }
            }
        }

        impl<'a> Cursor<'a> {
            /// Reads a value of a known type; `None` at the end of the bytes.
            fn value(&mut self, kind: ValueType) -> Option<Value<'a>> {
                Some(match kind {
                    $(ValueType::$name => Value::$name(<$type>::from_le_bytes(
                        self.take(size_of::<$type>())?.try_into().ok()?,
                    )),)*
                    ValueType::Bool => Value::Bool(self.take(1)?[0] != 0),
                    ValueType::String => {
                        let len = usize::try_from(self.u64()?).ok()?;
                        Value::String(self.take(len)?)
                    }
                    ValueType::Array => {
                        let element = ValueType::from_number(self.u32()?)?;
                        let len = usize::try_from(self.u64()?).ok()?;
                        let start = self.at;
                        self.skip(element, len, MAX_DEPTH)?;
                        Value::Array(Array { element, len, bytes: &self.bytes[start..self.at] })
                    }
                })
            }
        }

        $(
            impl Encode for $type {
                const TYPE: ValueType = ValueType::$name;
                fn encode(&self, out: &mut Vec<u8>) {
                    out.extend_from_slice(&self.to_le_bytes());
                }
            }
        )*

        impl Value<'_> {
            /// Type number and bytes, as they stand in a file.
            pub(crate) fn encode_tagged(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self.value_type() as u32).to_le_bytes());
                match self {
                    $(Value::$name(value) => value.encode(out),)*
                    Value::Bool(value) => value.encode(out),
                    Value::String(value) => encode_bytes(value, out),
                    Value::Array(array) => {
                        out.extend_from_slice(&(array.element as u32).to_le_bytes());
                        out.extend_from_slice(&(array.len as u64).to_le_bytes());
                        out.extend_from_slice(array.bytes);
                    }
                }
            }
        }
    };
}

scalars! {
    U8 = 0: u8, I8 = 1: i8, U16 = 2: u16, I16 = 3: i16, U32 = 4: u32, I32 = 5: i32, F32 = 6: f32,
    U64 = 10: u64, I64 = 11: i64, F64 = 12: f64,
}

impl<'a> Value<'a> {
    /// A whole number of any width, if it is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            _ => self.as_i64().and_then(|v| v.try_into().ok()),
        }
    }

    /// A whole number of any width, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => v.try_into().ok(),
            Value::I64(v) => Some(v),
            _ => None,
        }
    }

    /// A floating-point number of either width, rounded to `f32`.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(v) = *self { Some(v) } else { None }
    }

    /// A string, if it is UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The bytes of a string.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        if let Value::String(v) = *self { Some(v) } else { None }
    }

    /// An array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        if let Value::Array(v) = *self { Some(v) } else { None }
    }
}

/// An array of metadata values, all of one type, borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of the elements.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// How many elements there are.
    #[allow(clippy::len_without_is_empty)] // never asked for
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor { bytes: self.bytes, at: 0 };
        let element = self.element;
        (0..self.len).map_while(move |_| cursor.value(element))
    }

    /// The bytes of the strings in order; `None` if the elements are not strings.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        (self.element == ValueType::String)
            .then(|| self.iter().map(|value| value.as_bytes().unwrap_or_default()))
    }

    /// The numbers as `f32`; `None` if the elements are not floating-point numbers.
    pub fn floats(&self) -> Option<impl Iterator<Item = f32> + use<'a>> {
        matches!(self.element, ValueType::F32 | ValueType::F64)
            .then(|| self.iter().map(|value| value.as_f32().unwrap_or_default()))
    }

    /// The numbers as `i64` (a `u64` that does not fit becomes `i64::MAX`); `None` if the
    /// elements are not whole numbers.
    pub fn integers(&self) -> Option<impl Iterator<Item = i64> + use<'a>> {
        use ValueType::{F32, F64};
        (self.element.size() > 0 && !matches!(self.element, F32 | F64 | ValueType::Bool))
            .then(|| self.iter().map(|value| value.as_i64().unwrap_or(i64::MAX)))
    }
}

/// What can be written as a metadata value: numbers, `bool`, text, slices of these, and any
/// [`Value`] read from another file.
pub trait Encode {
    /// The type in the file.
    const TYPE: ValueType;

    /// Appends the bytes of the value, without its type.
    fn encode(&self, out: &mut Vec<u8>);
}

impl Encode for bool {
    const TYPE: ValueType = ValueType::Bool;
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Encode for &str {
    const TYPE: ValueType = ValueType::String;
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), out);
    }
}

impl Encode for String {
    const TYPE: ValueType = ValueType::String;
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), out);
    }
}

impl<T: Encode> Encode for &[T] {
    const TYPE: ValueType = ValueType::Array;
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(T::TYPE as u32).to_le_bytes());
        out.extend_from_slice(&(self.len() as u64).to_le_bytes());
        for element in *self {
            element.encode(out);
        }
    }
}

pub(crate) fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A position in bytes from outside; every read checks what is left.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    /// Bytes not read yet.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes, or `None` when there are not so many.
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// A value with its type before it; `None` if it does not fit or its type is unknown. Only
    /// for entries that [`Cursor::check_value`] has accepted.
    pub(crate) fn tagged(&mut self) -> Option<Value<'a>> {
        let kind = ValueType::from_number(self.u32()?)?;
        self.value(kind)
    }

    /// Steps over a value with its type before it; says what is wrong with it.
    pub(crate) fn check_value(&mut self, field: &str) -> Result<()> {
        let fail = |detail: String| Err(Error::format(FORMAT, field, detail));
        let Some(number) = self.u32() else { return fail("the file ends before it".into()) };
        let Some(kind) = ValueType::from_number(number) else {
            return fail(format!("value type {number} is unknown, expected 0 to 12"));
        };
        if kind != ValueType::Array {
            return match self.skip(kind, 1, 0) {
                Some(()) => Ok(()),
                None => fail(format!("the file ends inside this {kind:?}")),
            };
        }
        let (Some(number), Some(len)) = (self.u32(), self.u64()) else {
            return fail("the file ends inside this array".into());
        };
        let Some(element) = ValueType::from_number(number) else {
            return fail(format!("element type {number} is unknown, expected 0 to 12"));
        };
        match usize::try_from(len).ok().and_then(|len| self.skip(element, len, MAX_DEPTH)) {
            Some(()) => Ok(()),
            None => fail(format!(
                "an array of {len} × {element:?} does not fit in the {} bytes left, or holds \
                 arrays more than {MAX_DEPTH} deep or of an unknown type",
                self.left()
            )),
        }
    }

    /// Steps over `len` values of one type; `depth` more levels of arrays are allowed. Takes time
    /// in proportion to the bytes stepped over, whatever `len` says: every string and array is at
    /// least 8 bytes long.
    fn skip(&mut self, kind: ValueType, len: usize, depth: usize) -> Option<()> {
        match kind {
            ValueType::String => {
                for _ in 0..len {
                    let bytes = usize::try_from(self.u64()?).ok()?;
                    self.take(bytes)?;
                }
            }
            ValueType::Array => {
                let deeper = depth.checked_sub(1)?;
                for _ in 0..len {
                    let element = ValueType::from_number(self.u32()?)?;
                    let inner = usize::try_from(self.u64()?).ok()?;
                    self.skip(element, inner, deeper)?;
                }
            }
            _ => {
                self.take(kind.size().checked_mul(len)?)?;
            }
        }
        Some(())
    }
}
