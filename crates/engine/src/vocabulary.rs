//! The id-to-bytes side of a tokenizer: what each token id contributes to decoded text.
//!
//! The `tokenizers` crate decodes a whole id list at once. Streaming needs the same result piece by piece, so what each
//! token says is worked out once, into a table of bytes by id, and `decoding.rs` knows what does not depend on the
//! single token.

use std::collections::HashMap;

use serde_json::Value;

use crate::decoding::{Decoding, Place};
use crate::tokenizer::TokenizerError;

/// The most bytes that all tokens together may stand for; a decoder can make them longer than they are.
const MAX_BYTES: usize = 256 << 20;

const PRESENT: u8 = 1;
const SPECIAL: u8 = 2;
const BYTE: u8 = 4;

/// Bytes and kind of every token id, in one flat buffer.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    /// `ends[id]` is where the bytes of `id` end; they start where those of `id - 1` end.
    ends: Vec<usize>,
    flags: Vec<u8>,
    pub(crate) decoding: Decoding,
}

impl Vocabulary {
    /// Builds the table from `(text, id)` pairs as the tokenizer spells them.
    ///
    /// `decoder` is the decoder section of `tokenizer.json`. Errors when the decoder cannot be streamed, or when the
    /// ids are so sparse, or the texts so long, that a table by id would be a way to make this program allocate at will.
    pub(crate) fn new(
        texts: &HashMap<u32, String>,
        is_special: impl Fn(u32) -> bool,
        decoder: &Value,
    ) -> Result<Self, TokenizerError> {
        let decoding = Decoding::from_json(decoder)?;
        let size = texts.keys().max().map_or(0, |&id| id as usize + 1);
        if size > texts.len().saturating_mul(2).saturating_add(1 << 16) {
            return Err(TokenizerError::SparseIds { largest: size - 1, count: texts.len() });
        }
        let (mut bytes, mut ends, mut flags) = (vec![], vec![], vec![]);
        for id in 0..size as u32 {
            let mut flag = 0;
            if let Some(text) = texts.get(&id) {
                flag |= PRESENT;
                if is_special(id) {
                    flag |= SPECIAL;
                }
                // In the middle of a text.
                if decoding.append(text, Place::default(), &mut bytes) {
                    flag |= BYTE;
                }
                if bytes.len() > MAX_BYTES {
                    return Err(TokenizerError::Limit(format!(
                        "its decoder makes more than {MAX_BYTES} bytes of the vocabulary"
                    )));
                }
            }
            ends.push(bytes.len());
            flags.push(flag);
        }
        Ok(Self { bytes, ends, flags, decoding })
    }

    /// A table of the bytes of every id, from 0 on, and whether it is special.
    pub(crate) fn of_bytes(
        tokens: impl Iterator<Item = (Vec<u8>, bool)>,
        first_loses_space: bool,
    ) -> Self {
        let decoding = Decoding::of_bytes(first_loses_space);
        let mut vocabulary = Self { bytes: vec![], ends: vec![], flags: vec![], decoding };
        for (bytes, special) in tokens {
            vocabulary.bytes.extend(bytes);
            vocabulary.ends.push(vocabulary.bytes.len());
            vocabulary.flags.push(PRESENT | if special { SPECIAL } else { 0 });
        }
        vocabulary
    }

    /// One past the largest id.
    pub(crate) fn size(&self) -> usize {
        self.ends.len()
    }

    /// The bytes `id` contributes to decoded text, or `None` where there is no such token.
    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        if self.flags.get(id)? & PRESENT == 0 {
            return None;
        }
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start..self.ends[id]])
    }

    /// [`Self::bytes`], or the error that names the id.
    pub(crate) fn require(&self, id: u32) -> Result<&[u8], TokenizerError> {
        self.bytes(id).ok_or(TokenizerError::UnknownId { id, size: self.size() })
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.has(id, SPECIAL)
    }

    /// Whether `id` is a byte token of the byte-fallback kind (`<0x0A>`).
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        self.has(id, BYTE)
    }

    fn has(&self, id: u32, flag: u8) -> bool {
        self.flags.get(id as usize).is_some_and(|flags| flags & flag != 0)
    }
}

/// The byte-to-character alphabet of byte-level BPE.
///
/// Printable bytes (`!`..`~`, `¡`..`¬`, `®`..`ÿ`) stand for themselves; the other 68, in order,
/// are the characters from U+0100 on. Source: openai/gpt-2, `src/encoder.py`, `bytes_to_unicode`.
pub(crate) fn char_of_byte() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        table[byte as usize] = if printable {
            char::from(byte)
        } else {
            let shifted = char::from_u32(next).unwrap_or('\0');
            next += 1;
            shifted
        };
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection_with_the_known_corners() {
        let table = char_of_byte();
        assert_eq!(table[b' ' as usize], 'Ġ');
        assert_eq!(table[b'\n' as usize], 'Ċ');
        assert_eq!(table[b'A' as usize], 'A');
        assert_eq!(table[0xad], '\u{143}');
        assert_eq!(table.iter().collect::<std::collections::HashSet<_>>().len(), 256);
    }

    #[test]
    fn sparse_ids_do_not_size_the_table() {
        let texts = HashMap::from([(u32::MAX - 1, "a".to_owned())]);
        let decoder = serde_json::json!({"type": "Fuse"});
        let error = Vocabulary::new(&texts, |_| false, &decoder).unwrap_err().to_string();
        assert!(error.contains("4294967294"), "{error}");
    }

    #[test]
    fn decoders_do_not_make_the_table_large() {
        let texts = (0..1 << 16).map(|id| (id, "aaaaaaaaaaaaaaaa".to_owned())).collect();
        let decoder = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b".repeat(4096)});
        let error = Vocabulary::new(&texts, |_| false, &decoder).unwrap_err().to_string();
        assert!(error.contains("its decoder makes more than"), "{error}");
    }
}
