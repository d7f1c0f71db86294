//! The checked reader.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use keeve_codec::Bytes;

use super::value::{Array, Metadata, Value, ValueType};
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MAX_DIMENSIONS, MAX_KEY, MAX_NAME,
    types,
};
use crate::error::shown;
use crate::stored::{MAX_TENSORS, elements};
use crate::{Error, StoredTensor, StoredType, mapped};

/// More metadata than this is an attack, not a model.
const MAX_METADATA: usize = 1 << 16;

/// How deep arrays may stand in arrays. No known writer nests them at all.
const MAX_DEPTH: usize = 64;

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// The metadata.
    pub metadata: Metadata,
    /// The tensors in the order of their records. Dimensions are turned around with respect to the
    /// file, so that the last runs fastest as everywhere in keeve.
    pub tensors: Vec<StoredTensor>,
}

/// Maps and parses the file at `path`.
///
/// # Errors
/// If it cannot be mapped, or for anything that [`parse`] refuses.
pub fn open(path: &Path) -> Result<Gguf, Error> {
    parse(path, &mapped::open(path)?)
}

/// Parses the bytes of a file; `path` serves only for messages. The tensors share the bytes.
///
/// A tensor of a type that keeve does not know is listed with [`StoredType::Other`] and the bytes
/// from its offset to the end of the file.
///
/// # Errors
/// If the file is not a GGUF of version 2 or 3 in little-endian order, is shorter than a count or
/// length in it says, has a key or tensor name twice, arrays nested deeper than 64, an alignment
/// that is no power of two up to 1 MiB, a tensor of more than four dimensions or whose rows are no
/// whole blocks, or tensors that are misaligned, leave the file or overlap.
pub fn parse(path: &Path, bytes: &Bytes) -> Result<Gguf, Error> {
    let mut cursor = Cursor { path, bytes, at: 0 };
    if !bytes.starts_with(MAGIC) {
        return Err(Error::file(path, "is not a GGUF file: it does not start with 'GGUF'"));
    }
    cursor.at = MAGIC.len();
    let version = cursor.u32("the version")?;
    if matches!(version.swap_bytes(), 1..=3) {
        return Err(Error::file(path, "is a big-endian GGUF file, which keeve does not read"));
    }
    if !matches!(version, 2..=3) {
        let problem = format!("is GGUF version {version}; keeve reads versions 2 and 3");
        return Err(Error::file(path, problem));
    }
    // A record has at least a name's length, a number of dimensions, a type and an offset.
    let tensor_count = cursor.count("tensors", 24, MAX_TENSORS)?;
    // A key's length, a type and a byte.
    let metadata_count = cursor.count("metadata values", 13, MAX_METADATA)?;
    let mut metadata = Metadata::new(path);
    for _ in 0..metadata_count {
        let key = cursor.text("a metadata key", MAX_KEY)?;
        let value = cursor.value(&key)?;
        if !metadata.insert(key.clone(), value) {
            return Err(Error::field(path, &key, "stands twice in the metadata"));
        }
    }
    let alignment = alignment(&metadata)?;
    let mut records = Vec::new();
    for _ in 0..tensor_count {
        records.push(cursor.record()?);
    }
    let start = cursor.at.next_multiple_of(alignment);
    // A file without tensor data may end before the padding.
    let data = bytes.slice(start.min(bytes.len())..bytes.len());
    let data = data.unwrap_or_else(|| Bytes::from(Vec::new()));
    let tensors = place(path, records, &data, alignment)?;
    Ok(Gguf { version, metadata, tensors })
}

fn alignment(metadata: &Metadata) -> Result<usize, Error> {
    let Some(alignment) = metadata.count(ALIGNMENT_KEY)? else { return Ok(DEFAULT_ALIGNMENT) };
    let allowed = |value: &usize| value.is_power_of_two() && *value <= MAX_ALIGNMENT;
    usize::try_from(alignment).ok().filter(allowed).ok_or_else(|| {
        let problem = format!("is {alignment}, expected a power of two up to {MAX_ALIGNMENT}");
        Error::field(metadata.path(), ALIGNMENT_KEY, problem)
    })
}

/// A tensor's record.
struct Record {
    name: String,
    /// Slowest dimension first.
    shape: Vec<usize>,
    type_id: u32,
    offset: u64,
}

/// Gives each record its bytes of the data section.
fn place(
    path: &Path,
    records: Vec<Record>,
    data: &Bytes,
    alignment: usize,
) -> Result<Vec<StoredTensor>, Error> {
    let file: Arc<Path> = path.into();
    let mut names = HashSet::new();
    let mut ranges = Vec::with_capacity(records.len());
    let mut tensors = Vec::with_capacity(records.len());
    for record in records {
        let Record { name, shape, type_id, offset } = record;
        let wrong = |problem: String| Error::tensor(path, &name, problem);
        if !names.insert(name.clone()) {
            return Err(wrong("stands twice in the file".into()));
        }
        let (kind, block) = types::of_id(type_id);
        let length = match block {
            Some(block) => Some(length(&kind, &shape, block).map_err(wrong)?),
            None => None,
        };
        let start = usize::try_from(offset).ok().filter(|start| *start <= data.len());
        let end = match (start, length) {
            (Some(start), Some(length)) => start.checked_add(length),
            _ => Some(data.len()),
        };
        let window = start.zip(end).and_then(|(start, end)| data.slice(start..end));
        let (Some(start), Some(window)) = (start, window) else {
            let takes = length.map_or(String::new(), |length| format!(" and takes {length} bytes"));
            let section = data.len();
            let problem = format!(
                "starts at byte {offset}{takes}, outside the data section of {section} bytes"
            );
            return Err(wrong(problem));
        };
        if !start.is_multiple_of(alignment) {
            let problem = format!(
                "starts at byte {offset}, which is no multiple of the alignment {alignment}"
            );
            return Err(wrong(problem));
        }
        // Where an unknown type ends is not known either; it is never read.
        ranges.push((start, start + length.unwrap_or(0), tensors.len()));
        tensors.push(StoredTensor { name, file: file.clone(), kind, shape, data: window });
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let ((_, end, before), (start, _, index)) = (pair[0], pair[1]);
        if start < end {
            let before = shown(&tensors[before].name);
            let problem = format!(
                "overlaps '{before}': it starts at byte {start} of the data, that one ends at {end}"
            );
            return Err(Error::tensor(path, &tensors[index].name, problem));
        }
    }
    Ok(tensors)
}

/// Bytes of a tensor of blocks of `(weights, bytes)`.
fn length(
    kind: &StoredType,
    shape: &[usize],
    (block, block_bytes): (usize, usize),
) -> Result<usize, String> {
    let cols = shape.last().copied().unwrap_or(1);
    if !cols.is_multiple_of(block) {
        return Err(format!("has rows of {cols}, which blocks of {block} ({kind}) do not divide"));
    }
    elements(shape)
        .and_then(|elements| (elements / block).checked_mul(block_bytes))
        .ok_or_else(|| format!("has a shape too large to address: {shape:?}"))
}

/// A position in the file. Every read is checked against what is left.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Moves over `length` bytes and gives where they started.
    fn skip(&mut self, length: u64, what: &str) -> Result<usize, Error> {
        let at = self.at;
        match usize::try_from(length).ok().filter(|length| *length <= self.left()) {
            Some(length) => {
                self.at += length;
                Ok(at)
            }
            None => {
                let problem = format!(
                    "ends early: {what} at byte {at} takes {length} bytes, {} are left",
                    self.left()
                );
                Err(Error::file(self.path, problem))
            }
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let at = self.skip(N as u64, what)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, what: &str, least: usize, limit: usize) -> Result<usize, Error> {
        let count = self.u64(what)?;
        let room = self.left() / least;
        usize::try_from(count).ok().filter(|count| *count <= room.min(limit)).ok_or_else(|| {
            let left = self.left();
            let problem = format!("claims {count} {what}, but has only {left} bytes left for them");
            let limited = format!("claims {count} {what}; the limit is {limit}");
            Error::file(self.path, if room < limit { problem } else { limited })
        })
    }

    fn text(&mut self, what: &str, limit: usize) -> Result<String, Error> {
        let length = self.u64(what)?;
        let at = self.skip(length, what)?;
        if self.at - at > limit {
            let problem = format!("has {what} of {length} bytes; the limit is {limit}");
            return Err(Error::file(self.path, problem));
        }
        let text = std::str::from_utf8(&self.bytes[at..self.at]);
        text.map(str::to_owned).map_err(|_| {
            Error::file(self.path, format!("has {what} at byte {at} that is not UTF-8"))
        })
    }

    fn value(&mut self, key: &str) -> Result<Value, Error> {
        let kind = self.kind(key)?;
        Ok(match kind {
            ValueType::U8 | ValueType::U16 | ValueType::U32 | ValueType::U64 => {
                Value::Unsigned(kind, u64::from_le_bytes(self.scalar(kind, key)?))
            }
            ValueType::I8 => Value::Signed(kind, i8::from_le_bytes(self.array(key)?).into()),
            ValueType::I16 => Value::Signed(kind, i16::from_le_bytes(self.array(key)?).into()),
            ValueType::I32 => Value::Signed(kind, i32::from_le_bytes(self.array(key)?).into()),
            ValueType::I64 => Value::Signed(kind, i64::from_le_bytes(self.array(key)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array(key)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array(key)?)),
            // As ggml reads it (`src/gguf.cpp`): whatever is not zero is true.
            ValueType::Bool => Value::Bool(self.array(key)? != [0]),
            ValueType::String => Value::String(self.text(key, usize::MAX)?),
            ValueType::Array => {
                let (kind, len, start) = self.array_body(key, 1)?;
                let window = self.bytes.slice(start..self.at);
                let window = window.unwrap_or_else(|| Bytes::from(Vec::new()));
                Value::Array(Array::new(kind, len, window))
            }
        })
    }

    fn kind(&mut self, key: &str) -> Result<ValueType, Error> {
        let id = self.u32(key)?;
        ValueType::of_id(id).ok_or_else(|| {
            let problem = format!("has value type {id}, expected 0 to 12");
            Error::field(self.path, key, problem)
        })
    }

    /// A little-endian scalar, extended with zeros.
    fn scalar(&mut self, kind: ValueType, key: &str) -> Result<[u8; 8], Error> {
        let width = kind.least_bytes();
        let at = self.skip(width as u64, key)?;
        let mut out = [0; 8];
        out[..width].copy_from_slice(&self.bytes[at..at + width]);
        Ok(out)
    }

    /// Walks over an array and gives its values' type, their number and where they start.
    fn array_body(&mut self, key: &str, depth: usize) -> Result<(ValueType, usize, usize), Error> {
        if depth > MAX_DEPTH {
            let problem = format!("nests arrays more than {MAX_DEPTH} deep");
            return Err(Error::field(self.path, key, problem));
        }
        let kind = self.kind(key)?;
        let count = self.u64(key)?;
        let least = kind.least_bytes();
        let left = self.left();
        let Some(len) = usize::try_from(count).ok().filter(|count| *count <= left / least) else {
            let problem = format!("claims {count} values of type {kind:?}, {left} bytes are left");
            return Err(Error::field(self.path, key, problem));
        };
        let start = self.at;
        match kind {
            ValueType::String => {
                for _ in 0..len {
                    let length = self.u64(key)?;
                    self.skip(length, key)?;
                }
            }
            ValueType::Array => {
                for _ in 0..len {
                    self.array_body(key, depth + 1)?;
                }
            }
            _ => {
                self.skip((len * least) as u64, key)?;
            }
        }
        Ok((kind, len, start))
    }

    fn record(&mut self) -> Result<Record, Error> {
        let name = self.text("a tensor name", MAX_NAME)?;
        let dimensions = self.u32(&name)? as usize;
        if dimensions > MAX_DIMENSIONS {
            let problem = format!("has {dimensions} dimensions; the limit is {MAX_DIMENSIONS}");
            return Err(Error::tensor(self.path, &name, problem));
        }
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            let length = self.u64(&name)?;
            shape.push(usize::try_from(length).map_err(|_| {
                let problem = format!("has a dimension too large to address: {length}");
                Error::tensor(self.path, &name, problem)
            })?);
        }
        shape.reverse();
        let type_id = self.u32(&name)?;
        let offset = self.u64(&name)?;
        Ok(Record { name, shape, type_id, offset })
    }
}
