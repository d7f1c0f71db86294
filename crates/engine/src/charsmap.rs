//! SentencePiece's `precompiled_charsmap`: which characters are replaced by which before a text is split.
//!
//! A size, so many bytes of a trie, and texts that end with 0. The trie is a double array of 32-bit units (Darts-clone):
//! bits 10 to 30 are the offset to a node's children (times 256 if bit 9 is set), bits 0 to 7 and 31 the label, bit 8 says
//! that the first child holds a value, which is the place of a text. Source: google/sentencepiece `src/normalizer.cc`
//! and s-yata/darts-clone.

/// A trie of texts to replace, and what replaces them.
#[derive(Debug, Clone)]
pub(crate) struct Charsmap {
    units: Vec<u32>,
    texts: Vec<u8>,
}

/// The bytes of the trie and of the texts.
///
/// # Errors
/// What is wrong, without the field's name.
pub(crate) fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(format!("has {} bytes, expected a size of four at least", bytes.len()));
    };
    let size = u32::from_le_bytes(*size);
    let fits = usize::try_from(size).ok().filter(|size| size % 4 == 0 && *size >= 4);
    match fits.and_then(|size| rest.split_at_checked(size)) {
        Some((trie, texts)) if std::str::from_utf8(texts).is_ok() => Ok((trie, texts)),
        Some(_) => Err("has replacements that are not UTF-8".into()),
        None => Err(format!("says that its trie has {size} bytes, but {} follow", rest.len())),
    }
}

impl Charsmap {
    /// Reads a map; an empty one replaces nothing.
    ///
    /// # Errors
    /// As [`split`].
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (trie, texts) = split(bytes)?;
        let units = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Some(Self { units, texts: texts.to_vec() }))
    }

    /// The longest start of `text` that is replaced, and by what.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let unit = |at: usize| self.units.get(at).copied();
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut node = offset(unit(0)?);
        let mut found = None;
        for (length, byte) in (1..).zip(text.iter().take_while(|byte| **byte != 0)) {
            node ^= usize::from(*byte);
            let Some(child) =
                unit(node).filter(|unit| unit & ((1 << 31) | 0xff) == u32::from(*byte))
            else {
                break;
            };
            node ^= offset(child);
            if child >> 8 & 1 == 1 {
                found = unit(node).map(|value| (length, (value & !(1 << 31)) as usize));
            }
        }
        let (length, at) = found?;
        let rest = self.texts.get(at..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some((length, &rest[..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_lie_are_refused() {
        for (bytes, expected) in [
            (&b"\x00\x00"[..], "has 2 bytes"),
            (
                b"\xff\xff\xff\xff\xc0\0\0\0",
                "says that its trie has 4294967295 bytes, but 4 follow",
            ),
            (b"\x04\0\0\0\0\0\0", "but 3 follow"),
            (b"\0\0\0\0", "0 bytes"),
            (b"\x04\0\0\0\0\0\0\0\xff", "not UTF-8"),
        ] {
            let error = Charsmap::read(bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Charsmap::read(b"").unwrap().is_none());
    }

    #[test]
    fn units_that_point_nowhere_find_nothing() {
        let map = Charsmap::read(b"\x04\0\0\0\xff\xff\xff\x7fabc").unwrap().unwrap();
        assert_eq!(map.longest(b"abc"), None);
    }
}
