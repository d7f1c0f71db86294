//! Token ids to text, one id at a time.
//!
//! [`Detokenizer`] is the only decoder of this crate: decoding a whole list is pushing all of it,
//! so a stream and a whole decode cannot disagree. The result equals `decode` of the `tokenizers`
//! crate 0.23 for the decoders that [`crate::tokenizer::Tokenizer`] accepts.
//!
//! Two rules decide how long text is held back:
//! * byte-level tokenizers and those of GGUF files: until the bytes at hand are whole characters. An ill-formed sequence
//!   becomes U+FFFD as soon as the next byte shows that it is one;
//! * byte-fallback tokenizers of the `tokenizers` crate: until a run of byte tokens (`<0xE4><0xBD>...`) ends, since the
//!   reference turns *every* byte of a run into U+FFFD when any part of the run is ill-formed.

use std::sync::Arc;

use crate::tokenizer::{Inner, TokenizerError};
use crate::vocabulary::DecodeRule;

/// Turns the ids of one sequence into text as they arrive.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    inner: Arc<Inner>,
    skip_special: bool,
    /// Bytes that are not yet known to be whole characters.
    pending: Vec<u8>,
    /// No token has been seen yet. Whether skipped ones count is up to the rule.
    at_first: bool,
    /// How many leading characters may still be dropped from the text.
    strip_left: usize,
}

impl Detokenizer {
    pub(crate) fn new(inner: Arc<Inner>, skip_special: bool) -> Self {
        let strip_left = match inner.vocabulary.rule {
            DecodeRule::Pieces { strip: Some((_, count)), .. } => count,
            _ => 0,
        };
        Self { inner, skip_special, pending: Vec::new(), at_first: true, strip_left }
    }

    /// Adds one id and returns the text that became certain, if any.
    ///
    /// Over a sequence this is linear in the bytes decoded. Errors with
    /// [`TokenizerError::UnknownId`] when the tokenizer has no such id; the state is then unchanged.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        let inner = Arc::clone(&self.inner);
        let bytes = inner.vocabulary.require(id)?;
        let rule = &inner.vocabulary.rule;
        let first = self.at_first;
        let skipped = self.skip_special && inner.vocabulary.is_special(id);
        if !skipped || matches!(rule, DecodeRule::Bytes { .. }) {
            self.at_first = false;
        }
        if skipped {
            return Ok(None);
        }
        let text = match rule {
            DecodeRule::Bytes { first_loses_space } => {
                let space = (first && *first_loses_space).then(|| bytes.strip_prefix(b" "));
                self.pending.extend_from_slice(space.flatten().unwrap_or(bytes));
                self.take_whole_characters()
            }
            DecodeRule::Pieces { .. } if inner.vocabulary.is_byte(id) => {
                self.pending.extend_from_slice(bytes);
                String::new()
            }
            DecodeRule::Pieces { first_drops, .. } => {
                let mut text = self.take_byte_run();
                match first_drops {
                    Some(mark) if first => {
                        let spelled = inner.token_text(id).unwrap_or_default();
                        text.extend(spelled.chars().filter(|c| c != mark));
                    }
                    // Pieces come from strings, so this borrows and replaces nothing.
                    _ => text.push_str(&String::from_utf8_lossy(bytes)),
                }
                text
            }
        };
        Ok(self.strip_start(text))
    }

    /// Ends the sequence: what was held back, with U+FFFD for what never became a character.
    pub fn finish(mut self) -> Option<String> {
        let text = match self.inner.vocabulary.rule {
            DecodeRule::Bytes { .. } => String::from_utf8_lossy(&self.pending).into_owned(),
            DecodeRule::Pieces { .. } => self.take_byte_run(),
        };
        self.strip_start(text)
    }

    /// Moves the leading whole characters (and replaced ill-formed sequences) out of `pending`,
    /// leaving at most three bytes: the start of a character.
    fn take_whole_characters(&mut self) -> String {
        let mut text = String::new();
        let mut taken = 0;
        while taken < self.pending.len() {
            match std::str::from_utf8(&self.pending[taken..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    taken = self.pending.len();
                }
                Err(error) => {
                    let valid = taken + error.valid_up_to();
                    // Valid by the error's own account, so nothing is replaced here.
                    text.push_str(&String::from_utf8_lossy(&self.pending[taken..valid]));
                    taken = valid;
                    match error.error_len() {
                        Some(ill_formed) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            taken += ill_formed;
                        }
                        None => break,
                    }
                }
            }
        }
        self.pending.drain(..taken);
        text
    }

    /// The text of the byte tokens held back, leaving none.
    fn take_byte_run(&mut self) -> String {
        match String::from_utf8(std::mem::take(&mut self.pending)) {
            Ok(text) => text,
            Err(error) => "\u{fffd}".repeat(error.as_bytes().len()),
        }
    }

    /// Applies the `Strip` decoder to the start of the whole text; `None` for empty text.
    fn strip_start(&mut self, text: String) -> Option<String> {
        let mut rest = text.as_str();
        if let DecodeRule::Pieces { strip: Some((dropped, _)), .. } = self.inner.vocabulary.rule {
            while self.strip_left > 0 && !rest.is_empty() {
                match rest.strip_prefix(dropped) {
                    Some(shorter) => {
                        rest = shorter;
                        self.strip_left -= 1;
                    }
                    None => self.strip_left = 0,
                }
            }
        }
        match rest.len() {
            0 => None,
            length if length == text.len() => Some(text),
            _ => Some(rest.to_owned()),
        }
    }
}
