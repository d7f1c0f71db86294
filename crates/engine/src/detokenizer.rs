//! Token ids to text, one id at a time.
//!
//! [`Detokenizer`] is the only decoder of this crate: decoding a whole list is pushing all of it,
//! so a stream and a whole decode cannot disagree. The result equals `decode` of the `tokenizers`
//! crate 0.23 for the decoders that [`crate::tokenizer::Tokenizer`] accepts.
//!
//! What decides how long text is held back:
//! * byte-level tokenizers and those of GGUF files: until the bytes at hand are whole characters. An ill-formed sequence
//!   becomes U+FFFD as soon as the next byte shows that it is one;
//! * byte-fallback tokenizers of the `tokenizers` crate: until a run of byte tokens (`<0xE4><0xBD>...`) ends, since the
//!   reference turns *every* byte of a run into U+FFFD when any part of the run is ill-formed;
//! * where the last token is spelled otherwise (`BPEDecoder`): one token;
//! * where the text's end is stripped or a text within it replaced: what may be part of that.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::decoding::{Join, Place, Tail};
use crate::tokenizer::{Inner, TokenizerError};

/// The private-use characters that can stand for special tokens in an answer's text, see
/// [`Detokenizer::showing`]. They are not those of chat templates.
pub const SHOWN: RangeInclusive<char> = '\u{10e000}'..='\u{10efff}';

/// Special tokens that are shown, and the characters that stand for them.
pub type Shown = BTreeMap<u32, char>;

/// Turns the ids of one sequence into text as they arrive.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    inner: Arc<Inner>,
    skip_special: bool,
    shown: Arc<Shown>,
    /// Bytes that are not yet known to be whole characters.
    pending: Vec<u8>,
    /// No token has been seen yet.
    at_start: bool,
    /// No token has been seen yet that was not skipped.
    at_first: bool,
    /// The token before, where it matters.
    previous: Option<u32>,
    /// A token that may be the last one.
    held: Option<(u32, bool)>,
    /// What the tails hold back.
    tails: Vec<TailState>,
}

/// The state of a [`Tail`].
#[derive(Debug, Clone)]
struct TailState {
    /// How many leading characters may still be dropped from the text.
    strip_left: usize,
    held: String,
}

impl Detokenizer {
    pub(crate) fn new(inner: Arc<Inner>, skip_special: bool) -> Self {
        let state = |tail: &Tail| {
            let strip_left = if let Tail::Strip { start, .. } = tail { *start } else { 0 };
            TailState { strip_left, held: String::new() }
        };
        let tails = inner.vocabulary.decoding.tail.iter().map(state).collect();
        Self {
            inner,
            skip_special,
            shown: Arc::default(),
            pending: Vec::new(),
            at_start: true,
            at_first: true,
            previous: None,
            held: None,
            tails,
        }
    }

    /// Writes these special tokens as the characters given, which are of [`SHOWN`], whether or not special
    /// tokens are skipped otherwise. Where any are shown, no other token can write such a character:
    /// it becomes U+FFFD.
    #[must_use]
    pub fn showing(mut self, shown: Arc<Shown>) -> Self {
        self.shown = shown;
        self
    }

    /// Adds one id and returns the text that became certain, if any.
    ///
    /// Over a sequence this is linear in the bytes decoded. Errors with
    /// [`TokenizerError::UnknownId`] when the tokenizer has no such id; the state is then unchanged.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        let inner = Arc::clone(&self.inner);
        inner.vocabulary.require(id)?;
        let start = std::mem::replace(&mut self.at_start, false);
        if inner.vocabulary.is_special(id) {
            if let Some(&mark) = self.shown.get(&id) {
                let mut text = self.rest(false);
                text.push(mark);
                return Ok(self.through_tails(text, false));
            }
            if self.skip_special {
                return Ok(None);
            }
        }
        let decoding = &inner.vocabulary.decoding;
        if decoding.drops_repeats() {
            let before = self.previous.replace(id);
            let repeated = before.is_some_and(|before| {
                before == id || inner.token_text(before) == inner.token_text(id)
            });
            if repeated {
                return Ok(None);
            }
        }
        let first = std::mem::replace(&mut self.at_first, false);
        let text = if decoding.minds_last() {
            match self.held.replace((id, first)) {
                Some((before, first)) => self.text(before, start, Place { first, last: false }),
                None => String::new(),
            }
        } else {
            self.text(id, start, Place { first, last: false })
        };
        let text = self.without_marks(text);
        Ok(self.through_tails(text, false))
    }

    /// Ends the sequence: what was held back, with U+FFFD for what never became a character.
    pub fn finish(mut self) -> Option<String> {
        let text = self.rest(true);
        self.through_tails(text, true)
    }

    /// What tokens and bytes are held back, with U+FFFD for what is no character, leaving none.
    fn rest(&mut self, last: bool) -> String {
        let mut text = match self.held.take() {
            Some((id, first)) => self.text(id, false, Place { first, last }),
            None => String::new(),
        };
        match self.inner.vocabulary.decoding.join {
            Join::Bytes { .. } => {
                text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.pending)));
            }
            Join::Pieces => text.push_str(&self.take_byte_run()),
        }
        self.without_marks(text)
    }

    fn without_marks(&self, text: String) -> String {
        match self.shown.is_empty() {
            true => text,
            false => text.replace(|c| SHOWN.contains(&c), "\u{fffd}"),
        }
    }

    /// The text that a token makes certain.
    fn text(&mut self, id: u32, start: bool, place: Place) -> String {
        let inner = Arc::clone(&self.inner);
        let vocabulary = &inner.vocabulary;
        let decoding = &vocabulary.decoding;
        let mut bytes = vocabulary.bytes(id).unwrap_or_default();
        let mut is_byte = vocabulary.is_byte(id);
        let mut own = vec![];
        if place.first && decoding.minds_first() || place.last && decoding.minds_last() {
            let spelled = inner.token_text(id).unwrap_or_default();
            is_byte = decoding.append(&spelled, place, &mut own);
            bytes = &own;
        }
        match decoding.join {
            Join::Bytes { first_loses_space } => {
                let space = (start && first_loses_space).then(|| bytes.strip_prefix(b" "));
                self.pending.extend_from_slice(space.flatten().unwrap_or(bytes));
                self.take_whole_characters()
            }
            Join::Pieces if is_byte => {
                self.pending.extend_from_slice(bytes);
                String::new()
            }
            Join::Pieces => {
                let mut text = self.take_byte_run();
                // Pieces come from strings, so this borrows and replaces nothing.
                text.push_str(&String::from_utf8_lossy(bytes));
                text
            }
        }
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
        self.inner.vocabulary.decoding.run(std::mem::take(&mut self.pending))
    }

    /// What of the text is certain after all tails; `None` for empty text.
    fn through_tails(&mut self, mut text: String, ends: bool) -> Option<String> {
        let inner = Arc::clone(&self.inner);
        for (tail, state) in inner.vocabulary.decoding.tail.iter().zip(&mut self.tails) {
            text = state.push(tail, &text, ends);
        }
        (!text.is_empty()).then_some(text)
    }
}

impl TailState {
    fn push(&mut self, tail: &Tail, text: &str, ends: bool) -> String {
        match tail {
            Tail::Strip { content, stop, .. } => {
                let mut rest = text;
                while self.strip_left > 0 && !rest.is_empty() {
                    match rest.strip_prefix(*content) {
                        Some(shorter) => {
                            rest = shorter;
                            self.strip_left -= 1;
                        }
                        None => self.strip_left = 0,
                    }
                }
                if *stop == 0 {
                    return rest.to_owned();
                }
                let mut text = std::mem::take(&mut self.held) + rest;
                let run = text.chars().rev().take(*stop).take_while(|letter| letter == content);
                let kept = text.len() - run.count() * content.len_utf8();
                if ends {
                    text.truncate(kept);
                } else {
                    self.held = text.split_off(kept);
                }
                text
            }
            Tail::Replace { from, to } => {
                let text = std::mem::take(&mut self.held) + text;
                let mut out = String::with_capacity(text.len());
                let mut rest = text.as_str();
                while let Some(at) = rest.find(from.as_str()) {
                    out.push_str(&rest[..at]);
                    out.push_str(to);
                    rest = &rest[at + from.len()..];
                }
                // What may be the start of the text to replace.
                let tails = rest.char_indices().map(|(at, _)| at);
                let short = |at: &usize| rest.len() - at < from.len();
                let held = tails.filter(short).find(|at| from.starts_with(&rest[*at..]));
                let held = held.filter(|_| !ends).unwrap_or(rest.len());
                out.push_str(&rest[..held]);
                self.held = rest[held..].to_owned();
                out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn marks_stand_for_their_tokens_whether_or_not_others_are_skipped() {
        let json = include_bytes!("../../../testdata/tokenizers/tok_qwen/tokenizer.json");
        let tokenizer = Tokenizer::from_json(json, &[]).unwrap();
        let id = |text: &str| tokenizer.token_id(text).unwrap();
        let ids = [id("a"), id("<|im_start|>"), id("b"), id("<|vision_end|>"), id("c")];
        let shown = Arc::new(Shown::from([(id("<|im_start|>"), '\u{10e000}')]));
        for (skip, expected) in [(true, "a\u{10e000}bc"), (false, "a\u{10e000}b<|vision_end|>c")] {
            let mut detokenizer = tokenizer.detokenizer(skip).showing(shown.clone());
            let pieces = ids.map(|id| detokenizer.push(id).unwrap().unwrap_or_default());
            assert_eq!(pieces.concat() + &detokenizer.finish().unwrap_or_default(), expected);
        }
    }
}
