//! The writer: GGUF version 3.

use std::path::Path;

use super::value::{Value, encode_string};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, MAX_NAME, types};
use crate::stream::TensorStream;
use crate::{Announced, Error};

/// Writes a file tensor by tensor, so that no more than one need be in memory.
pub struct Writer {
    stream: TensorStream,
}

impl Writer {
    /// Starts a file at `path` with `metadata` that will hold `tensors` in that order, each at a
    /// multiple of 32 bytes. Nothing stands under `path` before [`Writer::finish`].
    ///
    /// # Errors
    /// If the metadata set an alignment of their own or have a key twice, a tensor's name stands
    /// twice or is too long, ggml has no type for a codec, blocks do not divide a row, a size
    /// overflows, or the temporary file cannot be written.
    pub fn create(
        path: &Path,
        metadata: &[(&str, Value)],
        tensors: &[Announced],
    ) -> Result<Self, Error> {
        let (head, expected) = head(path, metadata, tensors)?;
        Ok(Self { stream: TensorStream::create(path, &head, expected, DEFAULT_ALIGNMENT)? })
    }

    /// As [`Writer::create`], but what is written stays beside `path` if [`Writer::finish`] is not reached,
    /// and a later call with the same arguments goes on there: [`Writer::done`] tensors need not be
    /// written again. `fingerprint` (letters and digits) says what else the bytes depend on.
    ///
    /// # Errors
    /// As for [`Writer::create`]; also if another process writes the same file.
    pub fn resume(
        path: &Path,
        metadata: &[(&str, Value)],
        tensors: &[Announced],
        fingerprint: &str,
    ) -> Result<Self, Error> {
        let (head, expected) = head(path, metadata, tensors)?;
        let alignment = DEFAULT_ALIGNMENT;
        Ok(Self { stream: TensorStream::resume(path, &head, expected, alignment, fingerprint)? })
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

fn head(path: &Path, metadata: &[(&str, Value)], tensors: &[Announced]) -> Result<Head, Error> {
    let mut head = MAGIC.to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    let mut keys = std::collections::HashSet::new();
    for (key, value) in metadata {
        if *key == ALIGNMENT_KEY {
            return Err(Error::field(path, key, "is set by the writer"));
        }
        if !keys.insert(*key) {
            return Err(Error::field(path, key, "would be written twice"));
        }
        encode_string(key.as_bytes(), &mut head);
        head.extend((value.kind() as u32).to_le_bytes());
        value.encode(&mut head);
    }
    let mut names = std::collections::HashSet::new();
    let mut expected = Vec::with_capacity(tensors.len());
    let mut offset = 0usize;
    for tensor in tensors {
        let wrong = |problem: String| Error::tensor(path, &tensor.name, problem);
        if tensor.name.len() > MAX_NAME || tensor.shape.len() > MAX_DIMENSIONS {
            return Err(wrong("has too long a name or too many dimensions for GGUF".into()));
        }
        if !names.insert(&tensor.name) {
            return Err(wrong("would be written twice".into()));
        }
        let id = types::id_of(tensor.codec)
            .ok_or_else(|| wrong(format!("is {}, which GGUF cannot hold", tensor.codec)))?;
        let (bytes, next) = size(tensor, offset).map_err(wrong)?;
        encode_string(tensor.name.as_bytes(), &mut head);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for length in tensor.shape.iter().rev() {
            head.extend((*length as u64).to_le_bytes());
        }
        head.extend(id.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        expected.push((tensor.name.clone(), bytes));
        offset = next;
    }
    head.resize(head.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
    Ok((head, expected))
}

/// Bytes of a tensor at `offset`, and the offset of the next.
fn size(tensor: &Announced, offset: usize) -> Result<(usize, usize), String> {
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let row =
        tensor.codec.row_bytes(cols).map_err(|error| format!("cannot be written: {error}"))?;
    let rows = &tensor.shape[..tensor.shape.len().saturating_sub(1)];
    let bytes = rows.iter().try_fold(row, |product, n| product.checked_mul(*n));
    let next = bytes
        .and_then(|bytes| offset.checked_add(bytes)?.checked_next_multiple_of(DEFAULT_ALIGNMENT));
    bytes.zip(next).ok_or_else(|| "is too large to address".into())
}

/// Writes a file whose tensors are all at hand.
///
/// # Errors
/// As for [`Writer`].
pub fn write<'a>(
    path: &Path,
    metadata: &[(&str, Value)],
    tensors: impl IntoIterator<Item = (Announced, &'a [u8])>,
) -> Result<(), Error> {
    let (announced, bytes): (Vec<Announced>, Vec<&[u8]>) = tensors.into_iter().unzip();
    let mut writer = Writer::create(path, metadata, &announced)?;
    for (tensor, bytes) in announced.iter().zip(bytes) {
        writer.tensor(&tensor.name, bytes)?;
    }
    writer.finish()
}
