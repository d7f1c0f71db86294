//! The safetensors container: an eight-byte header length, a JSON header, then the tensors' bytes.
//!
//! Format: huggingface/safetensors `README.md`. As its reference reader does, this one asks the
//! tensors to cover the data exactly, without holes, overlaps or a rest.
//!
//! The header is read with our own JSON visitor rather than the `safetensors` crate's because that
//! one keeps the last of two tensors of the same name, and names no tensor in its errors.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use keeve_codec::{Bytes, Codec};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::error::shown;
use crate::stored::{MAX_TENSORS, elements};
use crate::stream::TensorStream;
use crate::{Error, StoredTensor, StoredType, mapped};

/// The limit that the format sets on its header.
const MAX_HEADER: usize = 100_000_000;

/// The data section starts at a multiple of this when this crate writes it.
const ALIGNMENT: usize = 64;

/// The types of the format with their size in bits.
const TYPES: [(&str, usize); 21] = [
    ("F64", 64),
    ("F32", 32),
    ("F16", 16),
    ("BF16", 16),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E5M2FNUZ", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E8M0", 8),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F4", 4),
    ("C64", 64),
    ("I64", 64),
    ("I32", 32),
    ("I16", 16),
    ("I8", 8),
    ("U64", 64),
    ("U16", 16),
    ("U32", 32),
    ("U8", 8),
];

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Safetensors {
    /// The `__metadata__` of the header, in file order.
    pub metadata: Vec<(String, String)>,
    /// The tensors, in the order of the header.
    pub tensors: Vec<StoredTensor>,
}

/// Maps and parses the file at `path`.
///
/// # Errors
/// If it cannot be mapped, or for anything that [`parse`] refuses.
pub fn open(path: &Path) -> Result<Safetensors, Error> {
    parse(path, &mapped::open(path)?)
}

/// Parses the bytes of a file; `path` serves only for messages. The tensors share the bytes.
///
/// # Errors
/// If the header is longer than 100 MB or than the file, is no valid JSON of the format's schema,
/// names a tensor twice, or if the tensors do not lie end to end over exactly the data section with
/// the length that their shape and type ask for.
pub fn parse(path: &Path, bytes: &Bytes) -> Result<Safetensors, Error> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let problem = format!("is {} bytes long, too short for a safetensors header", bytes.len());
        return Err(Error::file(path, problem));
    };
    let length = u64::from_le_bytes(*length);
    let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_HEADER.min(rest.len()));
    let Some(length) = fits else {
        let problem = format!(
            "has a header of {length} bytes by its own account; {} bytes follow and {MAX_HEADER} is the limit",
            rest.len()
        );
        return Err(Error::file(path, problem));
    };
    let header: Header = serde_json::from_slice(&rest[..length])
        .map_err(|error| Error::file(path, format!("has a bad safetensors header: {error}")))?;
    let data = bytes.slice(8 + length..bytes.len()).unwrap_or_else(|| Bytes::from(Vec::new()));
    let file: Arc<Path> = path.into();
    let mut names = HashSet::new();
    let mut ranges = Vec::with_capacity(header.tensors.len());
    let mut tensors = Vec::with_capacity(header.tensors.len());
    for (name, entry) in header.tensors {
        let wrong = |problem: String| Error::tensor(path, &name, problem);
        if !names.insert(name.clone()) {
            return Err(wrong("stands twice in the header".into()));
        }
        let (start, end) = entry.data_offsets;
        let window = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let window = window.and_then(|(start, end)| data.slice(start..end));
        let Some(window) = window else {
            let problem =
                format!("lies at bytes {start} to {end} of a data section of {} bytes", data.len());
            return Err(wrong(problem));
        };
        let shape = checked_shape(&entry.shape).ok_or_else(|| {
            wrong(format!("has a shape too large to address: {}", shown_shape(&entry.shape)))
        })?;
        if let Some(expected) = byte_length(&entry.dtype, &shape)
            && expected != Some(window.len())
        {
            let expected =
                expected.map_or("no whole number of bytes".into(), |n| format!("{n} bytes"));
            let problem = format!(
                "has {} bytes, but {} of shape {} takes {expected}",
                window.len(),
                shown(&entry.dtype),
                shown_shape(&entry.shape)
            );
            return Err(wrong(problem));
        }
        ranges.push((start, end, tensors.len()));
        tensors.push(StoredTensor {
            kind: kind(entry.dtype),
            name,
            file: file.clone(),
            shape,
            data: window,
        });
    }
    check_cover(path, &tensors, ranges, data.len() as u64)?;
    Ok(Safetensors { metadata: header.metadata, tensors })
}

/// Checks that the ranges `(start, end, tensor)` lie end to end and cover `0..total`.
fn check_cover(
    path: &Path,
    tensors: &[StoredTensor],
    mut ranges: Vec<(u64, u64, usize)>,
    total: u64,
) -> Result<(), Error> {
    ranges.sort_unstable();
    let mut covered = 0;
    for (start, end, index) in ranges {
        if start != covered {
            let what = if start < covered { "overlaps the one before" } else { "follows a hole" };
            let problem =
                format!("{what}: it starts at byte {start} of the data, expected {covered}");
            return Err(Error::tensor(path, &tensors[index].name, problem));
        }
        covered = end;
    }
    if covered != total {
        let problem = format!("has {} bytes after its last tensor", total - covered);
        return Err(Error::file(path, problem));
    }
    Ok(())
}

/// The shape as `usize`, if the number of elements can be addressed.
fn checked_shape(shape: &[u64]) -> Option<Vec<usize>> {
    let shape: Option<Vec<usize>> = shape.iter().map(|n| usize::try_from(*n).ok()).collect();
    let shape = shape?;
    elements(&shape)?;
    Some(shape)
}

fn shown_shape(shape: &[u64]) -> String {
    shown(&format!("{:?}", &shape[..shape.len().min(16)]))
}

/// Bytes of a tensor: `None` for an unknown type, `Some(None)` where they are no whole number or
/// overflow.
fn byte_length(dtype: &str, shape: &[usize]) -> Option<Option<usize>> {
    let (_, bits) = TYPES.iter().find(|(name, _)| *name == dtype)?;
    let bits = elements(shape).and_then(|elements| elements.checked_mul(*bits));
    Some(bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8))
}

fn kind(dtype: String) -> StoredType {
    match dtype.as_str() {
        "F32" => StoredType::Codec(Codec::F32),
        "F16" => StoredType::Codec(Codec::F16),
        "BF16" => StoredType::Codec(Codec::BF16),
        "U8" => StoredType::U8,
        "U32" => StoredType::U32,
        _ => StoredType::Other(dtype),
    }
}

/// The header as it stands in the file.
struct Header {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, Entry)>,
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: Vec::new(), tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    let inside =
                        |error: A::Error| A::Error::custom(format!("'{}': {error}", shown(&name)));
                    if name == "__metadata__" {
                        // The reference reader takes null for none.
                        let metadata: Option<Map<String, Value>> =
                            map.next_value().map_err(inside)?;
                        for (key, value) in metadata.into_iter().flatten() {
                            // The format allows only strings; other values carry no meaning here.
                            if let Value::String(value) = value {
                                header.metadata.push((key, value));
                            }
                        }
                    } else if header.tensors.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    } else {
                        let entry = map.next_value().map_err(inside)?;
                        header.tensors.push((name, entry));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// The name, type and shape of a tensor to be written.
#[derive(Debug, Clone)]
pub struct Announced {
    /// Its name.
    pub name: String,
    /// Its type: any that safetensors has.
    pub kind: StoredType,
    /// Its dimensions, the slowest first.
    pub shape: Vec<usize>,
}

/// Writes a file tensor by tensor, so that no more than one need be in memory.
pub struct Writer {
    stream: TensorStream,
}

impl Writer {
    /// Starts a file at `path` that will hold `tensors` in that order. Nothing stands under `path`
    /// before [`Writer::finish`]. The header is padded with spaces so that the data section starts
    /// at a multiple of 64 bytes.
    ///
    /// # Errors
    /// If a name stands twice, a type is none of the format's or a size overflows, the header would
    /// exceed the format's limit, or the temporary file cannot be written.
    pub fn create(
        path: &Path,
        tensors: &[Announced],
        metadata: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let (head, expected) = head(path, tensors, metadata)?;
        Ok(Self { stream: TensorStream::create(path, &head, expected, 1)? })
    }

    /// As [`Writer::create`], but what is written stays beside `path` if [`Writer::finish`] is not reached,
    /// and a later call with the same arguments goes on there: [`Writer::done`] tensors need not be
    /// written again. `fingerprint` (letters and digits) says what else the bytes depend on.
    ///
    /// # Errors
    /// As for [`Writer::create`]; also if another process writes the same file.
    pub fn resume(
        path: &Path,
        tensors: &[Announced],
        metadata: &[(&str, &str)],
        fingerprint: &str,
    ) -> Result<Self, Error> {
        let (head, expected) = head(path, tensors, metadata)?;
        Ok(Self { stream: TensorStream::resume(path, &head, expected, 1, fingerprint)? })
    }

    /// How many of the announced tensors are written.
    pub fn done(&self) -> usize {
        self.stream.done()
    }

    /// Forgets all but the first `count` tensors of a writer that was just resumed, for those that belong
    /// together.
    ///
    /// # Errors
    /// If the file cannot be cut.
    pub fn rewind(&mut self, count: usize) -> Result<(), Error> {
        self.stream.rewind(count)
    }

    /// Writes the bytes of the next tensor, whose name must be the next one announced.
    ///
    /// # Errors
    /// If the name or the number of bytes is not what was announced, or writing fails.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.stream.tensor(name, &[bytes])
    }

    /// Completes the file and puts it in place of whatever stood under its name.
    ///
    /// # Errors
    /// If a tensor is missing or writing fails; then what stood there before is untouched.
    pub fn finish(self) -> Result<(), Error> {
        self.stream.finish()
    }
}

/// The bytes before the tensors, and the name and length of each.
type Head = (Vec<u8>, Vec<(String, usize)>);

fn head(path: &Path, tensors: &[Announced], metadata: &[(&str, &str)]) -> Result<Head, Error> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let metadata: Map<String, Value> =
            metadata.iter().map(|(key, value)| ((*key).into(), json!(value))).collect();
        header.insert("__metadata__".into(), metadata.into());
    }
    let mut expected = Vec::with_capacity(tensors.len());
    let mut start = 0usize;
    for tensor in tensors {
        let wrong = |problem: &str| Error::tensor(path, &tensor.name, problem);
        let dtype = tensor.kind.to_string();
        let bytes = byte_length(&dtype, &tensor.shape)
            .ok_or_else(|| wrong(&format!("is {dtype}, which safetensors cannot hold")))?;
        let end = bytes.and_then(|bytes| start.checked_add(bytes));
        let (Some(bytes), Some(end)) = (bytes, end) else {
            return Err(wrong("does not take a whole or addressable number of bytes"));
        };
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        if header.insert(tensor.name.clone(), entry).is_some() {
            return Err(wrong("would be written twice"));
        }
        expected.push((tensor.name.clone(), bytes));
        start = end;
    }
    let mut text = Value::from(header).to_string().into_bytes();
    text.resize((8 + text.len()).next_multiple_of(ALIGNMENT) - 8, b' ');
    if text.len() > MAX_HEADER {
        let problem =
            format!("would need a header of {} bytes; {MAX_HEADER} is the limit", text.len());
        return Err(Error::file(path, problem));
    }
    let mut head = (text.len() as u64).to_le_bytes().to_vec();
    head.append(&mut text);
    Ok((head, expected))
}

/// Writes a file whose tensors are all at hand.
///
/// # Errors
/// As for [`Writer`].
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (Announced, &'a [u8])>,
    metadata: &[(&str, &str)],
) -> Result<(), Error> {
    let (announced, bytes): (Vec<Announced>, Vec<&[u8]>) = tensors.into_iter().unzip();
    let mut writer = Writer::create(path, &announced, metadata)?;
    for (tensor, bytes) in announced.iter().zip(bytes) {
        writer.tensor(&tensor.name, bytes)?;
    }
    writer.finish()
}
