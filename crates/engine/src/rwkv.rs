//! The longest pieces of anything, as GGUF's tokenizer model `rwkv` wants it.
//!
//! Reference: ggml-org/llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_rwkv`).

use crate::prefixes::Prefixes;

/// All tokens as bytes.
#[derive(Debug)]
pub(crate) struct Rwkv {
    pub tokens: Prefixes,
    pub unknown: Option<u32>,
}

impl Rwkv {
    /// Appends the tokens of `text`; a byte that starts none is the unknown one.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let (length, id) = match self.tokens.longest(rest) {
                Some((length, id)) => (length, Some(id)),
                None => (1, self.unknown),
            };
            ids.extend(id);
            rest = &rest[length..];
        }
    }
}

/// The bytes that a token of the file means: `\n`, `\t`, `\r`, `\xHH`, and a backslash before anything else.
pub(crate) fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let Some((&escaped, tail)) = tail.split_first().filter(|_| byte == b'\\') else {
            bytes.push(byte);
            continue;
        };
        rest = tail;
        let hex = tail.split_at_checked(2).and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, after))
        });
        match (escaped, hex) {
            (b'x', Some((byte, after))) => {
                bytes.push(byte);
                rest = after;
            }
            (b't', _) => bytes.push(b'\t'),
            (b'n', _) => bytes.push(b'\n'),
            (b'r', _) => bytes.push(b'\r'),
            (other, _) => bytes.push(other),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_the_longest_piece() {
        assert_eq!(unescaped(r"a\n\t\r\\\x00\xff\'\"), b"a\n\t\r\\\x00\xff'\\");
        let tokens = ["a", "ab", r"\xc3", "\u{e9}"].map(unescaped);
        let tokens = Prefixes::new(tokens.into_iter().zip(1..));
        let rwkv = Rwkv { tokens, unknown: Some(0) };
        let mut ids = vec![];
        rwkv.encode("aab\u{e9}\u{e8}z", &mut ids);
        assert_eq!(ids, [1, 2, 4, 3, 0, 0]);
    }
}
