//! The id-to-bytes side of a tokenizer: what each token id contributes to decoded text.
//!
//! The `tokenizers` crate decodes a whole id list at once. Streaming needs the same result piece
//! by piece, so the decoder description of the tokenizer is read once and turned into a table of
//! bytes by id and a [`DecodeRule`] for what does not depend on the single token. Decoders that
//! cannot be expressed this way are refused when the tokenizer is loaded, not approximated.

use std::collections::HashMap;

use serde_json::Value;

use crate::tokenizer::TokenizerError;

/// What decoding does beyond joining the bytes of the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DecodeRule {
    /// The joined bytes are read as UTF-8, each ill-formed part becoming U+FFFD.
    Bytes {
        /// The very first token, skipped or not, loses one leading space (GGUF's `llama` model).
        first_loses_space: bool,
    },
    /// SentencePiece-style pieces, each of them whole characters except byte tokens.
    Pieces {
        /// At most this many leading characters equal to the first field are dropped from the
        /// text (the `Strip` decoder).
        strip: Option<(char, usize)>,
        /// The first token loses every occurrence of this character instead of having it turned
        /// into a space (the `Metaspace` decoder when it prepends).
        first_drops: Option<char>,
    },
}

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
    pub(crate) rule: DecodeRule,
}

impl Vocabulary {
    /// Builds the table from `(text, id)` pairs as the tokenizer spells them.
    ///
    /// `decoder` is the decoder section of `tokenizer.json`. Errors when the decoder is not one of
    /// those named in the module documentation, or when the ids are so sparse that a table by id
    /// would be a way to make this program allocate at will.
    pub(crate) fn new(
        texts: &HashMap<u32, String>,
        is_special: impl Fn(u32) -> bool,
        decoder: &Value,
    ) -> Result<Self, TokenizerError> {
        let (piece_of, rule) = PieceReader::from_json(decoder)?;
        let size = texts.keys().max().map_or(0, |&id| id as usize + 1);
        if size > texts.len().saturating_mul(2).saturating_add(1 << 16) {
            return Err(TokenizerError::SparseIds { largest: size - 1, count: texts.len() });
        }
        let mut vocabulary = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(size),
            flags: Vec::with_capacity(size),
            rule,
        };
        for id in 0..size as u32 {
            let mut flags = 0;
            if let Some(text) = texts.get(&id) {
                flags |= PRESENT;
                if is_special(id) {
                    flags |= SPECIAL;
                }
                if piece_of.append(text, &mut vocabulary.bytes) {
                    flags |= BYTE;
                }
            }
            vocabulary.ends.push(vocabulary.bytes.len());
            vocabulary.flags.push(flags);
        }
        Ok(vocabulary)
    }

    /// A table of the bytes of every id, from 0 on, and whether it is special.
    pub(crate) fn of_bytes(
        tokens: impl Iterator<Item = (Vec<u8>, bool)>,
        rule: DecodeRule,
    ) -> Self {
        let mut vocabulary = Self { bytes: vec![], ends: vec![], flags: vec![], rule };
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

/// Turns the vocabulary's spelling of one token into bytes.
struct PieceReader {
    byte_level: Option<HashMap<char, u8>>,
    replace: Vec<(String, String)>,
    byte_fallback: bool,
}

impl PieceReader {
    /// Reads the decoder section. The stages and their order follow `tokenizers` 0.23,
    /// `src/decoders/`.
    fn from_json(decoder: &Value) -> Result<(Self, DecodeRule), TokenizerError> {
        let stages: Vec<&Value> = match kind(decoder) {
            "Sequence" => {
                decoder["decoders"].as_array().map(|list| list.iter().collect()).unwrap_or_default()
            }
            _ => vec![decoder],
        };
        let mut reader = Self { byte_level: None, replace: Vec::new(), byte_fallback: false };
        let (mut strip, mut first_drops, mut fused) = (None, None, false);
        for (at, stage) in stages.iter().enumerate() {
            let refuse = || TokenizerError::Decoder { kind: describe(decoder) };
            match kind(stage) {
                "ByteLevel" if at == 0 && stages.len() == 1 => {
                    reader.byte_level = Some(byte_of_char());
                }
                "Metaspace" if at == 0 && stages.len() == 1 => {
                    let mark = stage["replacement"].as_str().ok_or_else(refuse)?;
                    reader.replace.push((mark.to_owned(), " ".to_owned()));
                    if stage["prepend_scheme"].as_str() != Some("never") {
                        first_drops = mark.chars().next();
                    }
                }
                "Replace" if !fused && !reader.byte_fallback => {
                    // Patterns that are regular expressions have no String field and end here.
                    let from = stage["pattern"]["String"].as_str().ok_or_else(refuse)?;
                    let to = stage["content"].as_str().ok_or_else(refuse)?;
                    if from.is_empty() {
                        return Err(refuse());
                    }
                    reader.replace.push((from.to_owned(), to.to_owned()));
                }
                "ByteFallback" if !fused => reader.byte_fallback = true,
                "Fuse" => fused = true,
                "Strip" if fused && strip.is_none() && stage["stop"].as_u64() == Some(0) => {
                    let content = stage["content"].as_str().and_then(|text| text.chars().next());
                    let start = stage["start"].as_u64().and_then(|n| usize::try_from(n).ok());
                    strip = Some(content.zip(start).ok_or_else(refuse)?);
                }
                _ => return Err(refuse()),
            }
        }
        let rule = match reader.byte_level {
            Some(_) => DecodeRule::Bytes { first_loses_space: false },
            None if stages.is_empty() => {
                return Err(TokenizerError::Decoder { kind: describe(decoder) });
            }
            None => DecodeRule::Pieces { strip, first_drops },
        };
        Ok((reader, rule))
    }

    /// Appends the bytes of `text`; true when it is a byte token.
    fn append(&self, text: &str, out: &mut Vec<u8>) -> bool {
        if let Some(byte_of) = &self.byte_level {
            // A token with any character outside the alphabet (an added token) stands for itself.
            let mapped: Option<Vec<u8>> = text.chars().map(|c| byte_of.get(&c).copied()).collect();
            match mapped {
                Some(bytes) => out.extend(bytes),
                None => out.extend(text.as_bytes()),
            }
            return false;
        }
        let mut piece = text.to_owned();
        for (from, to) in &self.replace {
            piece = piece.replace(from, to);
        }
        if self.byte_fallback
            && piece.len() == 6
            && let Some(hex) = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'))
            && let Ok(byte) = u8::from_str_radix(hex, 16)
        {
            out.push(byte);
            return true;
        }
        out.extend(piece.as_bytes());
        false
    }
}

fn kind(decoder: &Value) -> &str {
    decoder["type"].as_str().unwrap_or("none")
}

/// The decoder's type names, for an error message.
fn describe(decoder: &Value) -> String {
    match decoder["decoders"].as_array() {
        Some(stages) => {
            let kinds: Vec<&str> = stages.iter().take(8).map(kind).collect();
            format!("Sequence [{}]", kinds.join(", "))
        }
        None => kind(decoder).to_owned(),
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

fn byte_of_char() -> HashMap<char, u8> {
    char_of_byte().into_iter().zip(0..=255u8).collect()
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
        assert_eq!(byte_of_char().len(), 256);
    }

    #[test]
    fn decoders_that_cannot_stream_are_refused_by_name() {
        let texts = HashMap::from([(0, "a".to_owned())]);
        for (decoder, named) in [
            (
                serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
                "WordPiece",
            ),
            (serde_json::json!(null), "none"),
            (serde_json::json!({"type": "Sequence", "decoders": []}), "Sequence []"),
            (
                serde_json::json!({"type": "Sequence", "decoders": [
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "Fuse"}]}),
                "Sequence [Strip, Fuse]",
            ),
        ] {
            let error = Vocabulary::new(&texts, |_| false, &decoder).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn sparse_ids_do_not_size_the_table() {
        let texts = HashMap::from([(u32::MAX - 1, "a".to_owned())]);
        let decoder = serde_json::json!({"type": "Fuse"});
        let error = Vocabulary::new(&texts, |_| false, &decoder).unwrap_err().to_string();
        assert!(error.contains("4294967294"), "{error}");
    }
}
