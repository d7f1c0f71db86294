//! Where tokens begin in the text that they make.

use keeve_engine::Tokenizer;
use keeve_engine::detokenizer::Detokenizer;

use crate::models::Model;

/// Follows the tokens of a text.
pub(crate) struct Offsets {
    text_side: Option<(Tokenizer, Detokenizer)>,
    keep_special: bool,
    text: String,
    /// Characters of the text that are certain.
    certain: usize,
    /// The bytes since then.
    pending: Vec<u8>,
}

impl Offsets {
    /// `keep_special`: whether the text has those of special tokens.
    pub fn new(model: &Model, keep_special: bool) -> Self {
        let tokenizer = model.engine.tokenizer().ok().cloned();
        Self::with(tokenizer, keep_special)
    }

    fn with(tokenizer: Option<Tokenizer>, keep_special: bool) -> Self {
        let text_side = tokenizer.map(|tokenizer| {
            let detokenizer = tokenizer.detokenizer(!keep_special);
            (tokenizer, detokenizer)
        });
        Self { text_side, keep_special, text: String::new(), certain: 0, pending: vec![] }
    }

    /// A token before the text, which decides whether the text may begin with a space.
    pub fn before(&mut self, id: u32) {
        self.next(id);
        (self.text, self.certain, self.pending) = (String::new(), 0, vec![]);
    }

    /// The text so far, which is forgotten.
    pub fn take_text(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Where the token `id` begins: the number of characters before it, or before the one that it is a part of.
    pub fn next(&mut self, id: u32) -> usize {
        let Some((tokenizer, detokenizer)) = &mut self.text_side else { return self.certain };
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let begun = self.pending.iter().filter(|&&byte| !continues(byte)).count();
        let within = bytes.first().is_some_and(|&byte| continues(byte));
        let at = self.certain + if within { begun.saturating_sub(1) } else { begun };
        // Ids without a text have none here either.
        let Ok(piece) = detokenizer.push(id) else { return at };
        if tokenizer.is_special(id) && !self.keep_special {
            return at;
        }
        self.pending.extend_from_slice(bytes);
        if let Some(piece) = piece.filter(|piece| !piece.is_empty()) {
            self.certain += piece.chars().count();
            self.text.push_str(&piece);
            let kept = unfinished(&self.pending).len();
            self.pending.drain(..self.pending.len() - kept);
        }
        at
    }
}

/// Whether a byte goes on with a character (RFC 3629, 3).
fn continues(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// The beginning of a character at the end of some bytes, if that is how they end.
fn unfinished(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(&bytes[bytes.len().saturating_sub(4)..]) {
        Ok(_) => &[],
        Err(_) => {
            let tail =
                (1..=bytes.len().min(3)).find(|&length| !continues(bytes[bytes.len() - length]));
            let Some(tail) = tail.map(|length| &bytes[bytes.len() - length..]) else { return &[] };
            match std::str::from_utf8(tail) {
                Err(error) if error.error_len().is_none() => tail,
                _ => &[],
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_begin_where_their_text_does() {
        let file = keeve_demo_model::FILES.iter().find(|file| file.0 == "tokenizer.json").unwrap();
        let tokenizer = Tokenizer::from_json(file.1, &[]).unwrap();
        for text in ["Once upon a time, in Köln.", "a 你好 👩‍👧 b\n\n", "ü", "\u{10ffff}x"]
        {
            let ids = tokenizer.encode(text, false, false).unwrap();
            let mut offsets = Offsets::with(Some(tokenizer.clone()), false);
            let mut bytes = vec![];
            for id in ids {
                let own = tokenizer.token_bytes(id).unwrap();
                // The characters that have begun before this token; the last one may be its own too.
                let begun = bytes.iter().filter(|&&byte| !continues(byte)).count();
                let expected = if continues(own[0]) { begun - 1 } else { begun };
                assert_eq!(offsets.next(id), expected, "{text}");
                bytes.extend_from_slice(own);
            }
            assert_eq!(offsets.take_text(), text);
        }
    }

    #[test]
    fn the_beginning_of_a_character_is_kept() {
        for (bytes, expected) in [
            (&b"abc"[..], &b""[..]),
            ("aü".as_bytes(), b""),
            (b"a\xc3", b"\xc3"),
            (b"\xe4\xbd", b"\xe4\xbd"),
            (b"abcdef\xf0\x9f\x91", b"\xf0\x9f\x91"),
            (b"\xff", b""),
            (b"\x80\x80\x80\x80", b""),
            (b"", b""),
        ] {
            assert_eq!(unfinished(bytes), expected, "{bytes:?}");
        }
    }
}
