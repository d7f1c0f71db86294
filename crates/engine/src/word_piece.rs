//! The longest pieces of words, as GGUF's tokenizer model `bert` wants it.
//!
//! Words are found as BERT finds them, by the `tokenizers` crate. In a GGUF file pieces that start a word begin with
//! U+2581, where a `vocab.txt` marks those that go on with `##`.
//! Reference: ggml-org/llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_wpm_session`).

use std::collections::HashMap;

use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use crate::guarded::guarded;
use crate::spm::SPACE;
use crate::tokenizer::TokenizerError;

/// How words are made ready.
#[derive(Debug)]
pub(crate) struct WordPiece {
    normalizer: BertNormalizer,
    /// Bytes of the longest token.
    longest: usize,
    /// By id.
    is_text: Vec<bool>,
    unknown: Option<u32>,
}

impl WordPiece {
    /// `is_text` says which tokens text may become.
    pub fn new(
        lowercase: bool,
        strip_accents: bool,
        longest: usize,
        is_text: Vec<bool>,
        unknown: Option<u32>,
    ) -> Self {
        let normalizer = BertNormalizer::new(true, true, Some(strip_accents), lowercase);
        Self { normalizer, longest, is_text, unknown }
    }

    /// Appends the tokens of `text`. A word that is not made of tokens is the unknown one.
    pub fn encode(
        &self,
        text: &str,
        vocabulary: &HashMap<String, u32>,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let words = guarded(|| {
            let mut text = NormalizedString::from(text);
            self.normalizer.normalize(&mut text)?;
            let mut words = PreTokenizedString::from(text);
            BertPreTokenizer.pre_tokenize(&mut words)?;
            let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
            Ok::<_, tokenizers::Error>(
                splits.into_iter().map(|(word, _, _)| word.to_owned()).collect::<Vec<_>>(),
            )
        });
        for word in words.map_err(TokenizerError::Encode)? {
            let before = ids.len();
            let word = format!("{SPACE}{word}");
            let mut rest = word.as_str();
            while !rest.is_empty() {
                let mut end = rest.floor_char_boundary(self.longest.min(rest.len()));
                let found = loop {
                    match vocabulary.get(&rest[..end]) {
                        Some(&id) if self.is_text.get(id as usize) == Some(&true) => {
                            break Some(id);
                        }
                        _ if end == 0 => break None,
                        _ => end = rest.floor_char_boundary(end - 1),
                    }
                };
                let Some(id) = found else {
                    ids.truncate(before);
                    ids.extend(self.unknown);
                    break;
                };
                ids.push(id);
                rest = &rest[end..];
            }
        }
        Ok(())
    }
}
