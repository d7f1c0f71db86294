//! Metadata values.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use keeve_codec::Bytes;

use crate::Error;

/// The type of a metadata value, with the ids of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// Unsigned byte.
    U8 = 0,
    /// Signed byte.
    I8 = 1,
    /// Unsigned 16 bits.
    U16 = 2,
    /// Signed 16 bits.
    I16 = 3,
    /// Unsigned 32 bits.
    U32 = 4,
    /// Signed 32 bits.
    I32 = 5,
    /// IEEE binary32.
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// A 64-bit length and that many bytes of UTF-8.
    String = 8,
    /// A type, a 64-bit count and that many values.
    Array = 9,
    /// Unsigned 64 bits.
    U64 = 10,
    /// Signed 64 bits.
    I64 = 11,
    /// IEEE binary64.
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    pub(super) fn of_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of a value, or the fewest it can have where they vary.
    pub(super) fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// A metadata value. Integers and floats of all widths are widened; `kind` keeps the width.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer of the given type.
    Unsigned(ValueType, u64),
    /// A signed integer of the given type.
    Signed(ValueType, i64),
    /// A binary32.
    F32(f32),
    /// A binary64.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    String(String),
    /// Many values of one type.
    Array(Array),
}

impl Value {
    /// A `u32`, the usual type of a count.
    pub fn u32(value: u32) -> Self {
        Self::Unsigned(ValueType::U32, value.into())
    }

    /// Text.
    pub fn string(value: impl Into<String>) -> Self {
        Self::String(value.into())
    }

    /// The value's type.
    pub fn kind(&self) -> ValueType {
        match self {
            Self::Unsigned(kind, _) | Self::Signed(kind, _) => *kind,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
        }
    }

    /// A number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(_, value) => Some(*value),
            Self::Signed(_, value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// Appends the value as it stands in a file, without its type.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            // Little endian, so the low bytes of the wide form are the narrow form.
            Self::Unsigned(kind, value) => {
                out.extend(&value.to_le_bytes()[..kind.least_bytes()]);
            }
            Self::Signed(kind, value) => out.extend(&value.to_le_bytes()[..kind.least_bytes()]),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::F64(value) => out.extend(value.to_le_bytes()),
            Self::Bool(value) => out.push((*value).into()),
            Self::String(text) => encode_string(text.as_bytes(), out),
            Self::Array(array) => {
                out.extend((array.kind as u32).to_le_bytes());
                out.extend((array.len as u64).to_le_bytes());
                out.extend_from_slice(&array.bytes);
            }
        }
    }
}

pub(super) fn encode_string(text: &[u8], out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

/// Many values of one type, kept as they stand in the file, so that a hostile file cannot make
/// them grow in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    kind: ValueType,
    len: usize,
    /// Exactly `len` values: the reader walked over them.
    bytes: Bytes,
}

impl Array {
    pub(super) fn new(kind: ValueType, len: usize, bytes: Bytes) -> Self {
        Self { kind, len, bytes }
    }

    /// An array of strings.
    pub fn of_strings<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Self {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for value in values {
            encode_string(value.as_ref().as_bytes(), &mut bytes);
            len += 1;
        }
        Self::new(ValueType::String, len, bytes.into())
    }

    /// An array of `i32`.
    pub fn of_i32(values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(ValueType::I32, values.len(), bytes.into())
    }

    /// An array of truth values.
    pub fn of_bools(values: &[bool]) -> Self {
        let bytes: Vec<u8> = values.iter().map(|value| u8::from(*value)).collect();
        Self::new(ValueType::Bool, values.len(), bytes.into())
    }

    /// An array of `f32`.
    pub fn of_f32(values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(ValueType::F32, values.len(), bytes.into())
    }

    /// The type of the values.
    pub fn kind(&self) -> ValueType {
        self.kind
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The strings' bytes, which need not be UTF-8; `None` if the values are none.
    pub fn strings(&self) -> Option<impl Iterator<Item = &[u8]>> {
        let mut rest = (self.kind == ValueType::String).then_some(&*self.bytes)?;
        Some(std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (text, tail) = tail.split_at_checked(length)?;
            rest = tail;
            Some(text)
        }))
    }

    /// The values as integers; `None` if they are none, or one of them exceeds `i64`.
    pub fn integers(&self) -> Option<Vec<i64>> {
        fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> i64) -> Vec<i64> {
            bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
        }
        let bytes = &*self.bytes;
        Some(match self.kind {
            ValueType::U8 | ValueType::Bool => each(bytes, |b| u8::from_le_bytes(b).into()),
            ValueType::I8 => each(bytes, |b| i8::from_le_bytes(b).into()),
            ValueType::U16 => each(bytes, |b| u16::from_le_bytes(b).into()),
            ValueType::I16 => each(bytes, |b| i16::from_le_bytes(b).into()),
            ValueType::U32 => each(bytes, |b| u32::from_le_bytes(b).into()),
            ValueType::I32 => each(bytes, |b| i32::from_le_bytes(b).into()),
            ValueType::I64 => each(bytes, i64::from_le_bytes),
            ValueType::U64 => {
                let values = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
                return values.map(|value| i64::try_from(value).ok()).collect();
            }
            _ => return None,
        })
    }

    /// Truth values, if that is what it holds.
    pub fn bools(&self) -> Option<Vec<bool>> {
        (self.kind == ValueType::Bool).then(|| self.bytes.iter().map(|byte| *byte != 0).collect())
    }

    /// The values as `f32`, if they are floats of either width.
    pub fn f32s(&self) -> Option<Vec<f32>> {
        match self.kind {
            ValueType::F32 => {
                let values = self.bytes.as_chunks::<4>().0.iter();
                Some(values.map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            ValueType::F64 => {
                let values = self.bytes.as_chunks::<8>().0.iter();
                Some(values.map(|bytes| f64::from_le_bytes(*bytes) as f32).collect())
            }
            _ => None,
        }
    }
}

/// The metadata of a file: values by key, in file order.
#[derive(Debug, Clone)]
pub struct Metadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into(), entries: Vec::new(), index: HashMap::new() }
    }

    /// Adds a value; `false` if the key is there already.
    pub(super) fn insert(&mut self, key: String, value: Value) -> bool {
        let fresh = self.index.insert(key.clone(), self.entries.len()).is_none();
        self.entries.push((key, value));
        fresh
    }

    /// The file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All values, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|index| &self.entries[*index].1)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || {
            let problem = format!("is {:?}, expected {expected}", value.kind());
            Error::field(&self.path, key, problem)
        };
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A count; `None` if there is no such key.
    ///
    /// # Errors
    /// If it is not an integer or is negative.
    pub fn count(&self, key: &str) -> Result<Option<u64>, Error> {
        self.typed(key, "a count", Value::as_u64)
    }

    /// A real number; `None` if there is no such key. A binary32 becomes the shortest decimal that
    /// reads back to it, which is what its author most likely wrote.
    ///
    /// # Errors
    /// If it is not a finite number.
    pub fn real(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a finite number", |value| match value {
            Value::F32(value) => {
                value.to_string().parse().ok().filter(|wide: &f64| wide.is_finite())
            }
            Value::F64(value) => Some(*value).filter(|value| value.is_finite()),
            Value::Unsigned(_, value) => Some(*value as f64),
            Value::Signed(_, value) => Some(*value as f64),
            _ => None,
        })
    }

    /// A truth value, which some writers store as an integer of 0 or 1; `None` if there is no such key.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a truth value", |value| match (value, value.as_u64()) {
            (Value::Bool(value), _) => Some(*value),
            (_, Some(0)) => Some(false),
            (_, Some(1)) => Some(true),
            _ => None,
        })
    }

    /// Text; `None` if there is no such key.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", |value| match value {
            Value::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    /// Many values; `None` if there is no such key.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn array(&self, key: &str) -> Result<Option<&Array>, Error> {
        self.typed(key, "an array", |value| match value {
            Value::Array(value) => Some(value),
            _ => None,
        })
    }
}
