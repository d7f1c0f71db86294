//! Encoding with the vocabulary of a GGUF file or a SentencePiece model: whole tokens are cut out of the text, and an
//! algorithm makes tokens of what is between them.

use std::collections::HashMap;

use crate::bpe::Bpe;
use crate::chat::Segment;
use crate::plamo2::Plamo2;
use crate::rwkv::Rwkv;
use crate::spm::Spm;
use crate::tokenizer::TokenizerError;
use crate::unigram::Unigram;
use crate::whole_tokens::WholeTokens;
use crate::word_piece::WordPiece;

/// How text between whole tokens becomes tokens.
#[derive(Debug)]
pub(crate) enum Algorithm {
    /// Merging by score (`llama`).
    Spm(Box<Spm>),
    /// Merging by rank (`gpt2`, `gemma4`, `whitespace`).
    Bpe(Box<Bpe>),
    /// The longest pieces of words (`bert`).
    WordPiece(WordPiece),
    /// The most probable pieces (`t5`).
    Unigram(Box<Unigram>),
    /// The longest pieces of anything (`rwkv`).
    Rwkv(Rwkv),
    /// The cheapest pieces (`plamo2`).
    Plamo2(Plamo2),
}

/// A vocabulary and what it is used by.
#[derive(Debug)]
pub(crate) struct GgufEncoder {
    /// Texts by id.
    pub tokens: Vec<String>,
    /// Ids by text: of a text that several tokens have, the first.
    pub ids: HashMap<String, u32>,
    pub whole: WholeTokens,
    /// Put before everything.
    pub before: Option<u32>,
    /// Put after everything.
    pub after: Option<u32>,
    pub algorithm: Algorithm,
}

impl GgufEncoder {
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// As [`crate::tokenizer::Tokenizer::encode_segments`]. Text of neighbouring segments is encoded
    /// as if it were one.
    pub fn encode(
        &self,
        segments: &[Segment],
        add_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = vec![];
        if add_special {
            ids.extend(self.before);
        }
        let mut pending = String::new();
        let (mut start, mut strip) = (true, false);
        let push = |pending: &mut String, text: &str, strip: &mut bool| {
            let text = if *strip { text.trim_start() } else { text };
            *strip &= text.is_empty();
            pending.push_str(text);
        };
        for Segment { text, trusted } in segments {
            let mut done = 0;
            for (range, token) in self.whole.find(text, *trusted) {
                push(&mut pending, &text[done..range.start], &mut strip);
                if token.strips_left {
                    pending.truncate(pending.trim_end().len());
                }
                self.take(&mut pending, start, &mut ids)?;
                ids.push(token.id);
                (start, strip) = (false, token.strips_right);
                done = range.end;
            }
            push(&mut pending, &text[done..], &mut strip);
        }
        self.take(&mut pending, start, &mut ids)?;
        if add_special {
            ids.extend(self.after);
        }
        Ok(ids)
    }

    /// Encodes the text that has gathered since the start or the last whole token, leaving none.
    fn take(
        &self,
        pending: &mut String,
        start: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        if pending.is_empty() {
            return Ok(());
        }
        match &self.algorithm {
            Algorithm::Spm(spm) => spm.encode(pending, start, &self.ids, ids),
            Algorithm::Bpe(bpe) => bpe.encode(pending, ids),
            Algorithm::WordPiece(pieces) => pieces.encode(pending, &self.ids, ids)?,
            Algorithm::Unigram(unigram) => unigram.encode(pending, start, ids),
            Algorithm::Rwkv(rwkv) => rwkv.encode(pending, ids),
            Algorithm::Plamo2(plamo) => plamo.encode(pending, ids),
        }
        pending.clear();
        Ok(())
    }
}
