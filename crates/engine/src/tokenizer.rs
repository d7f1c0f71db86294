//! Text to token ids, behind a narrow, checked interface. Two encoders stand behind it: the
//! `tokenizers` crate, and merging by score as GGUF's SentencePiece-style vocabularies want it.
//!
//! # Text that must not become a control token
//! `encode(.., parse_special = false)` treats the text as a person's words: no token that the
//! tokenizer marks as special can come out of it, whatever the text spells. Added tokens that are
//! *not* special (`<think>`, `<tool_call>`) are still recognised, in both modes.

use std::sync::Arc;

use serde::Deserialize;
use tokenizers as hf;

use crate::chat::Segment;
use crate::detokenizer::Detokenizer;
use crate::library_encoder::{Library, guarded};
use crate::spm::Spm;
use crate::vocabulary::Vocabulary;

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is not a tokenizer description that the `tokenizers` crate can read.
    #[error("tokenizer: not a valid tokenizer description: {0}")]
    Parse(String),
    /// A setting that would give wrong or random ids.
    #[error("tokenizer: {0} is not supported")]
    Unsupported(String),
    /// The decoder section is not one that can be streamed exactly.
    #[error(
        "tokenizer: decoder {kind} is not supported (expected ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse, Strip)"
    )]
    Decoder {
        /// Type names of the decoder.
        kind: String,
    },
    /// An added token's declared id is not the id it would really get.
    #[error("tokenizer: added token {text:?} is declared with id {declared} but has id {actual}")]
    AddedTokenId {
        /// The token.
        text: String,
        /// The id in `added_tokens`.
        declared: u32,
        /// The id the vocabulary gives it.
        actual: u32,
    },
    /// Ids too far apart for a table by id.
    #[error(
        "tokenizer: token id {largest} is out of proportion for a vocabulary of {count} tokens"
    )]
    SparseIds {
        /// Largest id.
        largest: usize,
        /// Number of tokens.
        count: usize,
    },
    /// An id the tokenizer does not have.
    #[error("token id {id} is not in the tokenizer's vocabulary of {size} ids")]
    UnknownId {
        /// The id.
        id: u32,
        /// One past the largest id of the tokenizer.
        size: usize,
    },
    /// Encoding failed.
    #[error("tokenizer: cannot encode text: {0}")]
    Encode(String),
}

/// What makes ids of text.
#[derive(Debug)]
enum Encoder {
    Library(Box<Library>),
    Spm(Box<Spm>),
}

/// What all copies and detokenizers of one tokenizer share.
#[derive(Debug)]
pub(crate) struct Inner {
    encoder: Encoder,
    special_texts: Vec<String>,
    pub(crate) vocabulary: Vocabulary,
}

impl Inner {
    pub(crate) fn token_text(&self, id: u32) -> Option<String> {
        match &self.encoder {
            Encoder::Library(library) => library.token_text(id),
            Encoder::Spm(spm) => spm.token_text(id).map(str::to_owned),
        }
    }
}

/// A tokenizer. Cloning is cheap and shares everything.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

/// The few fields of `tokenizer.json` that are checked before the file is handed on.
#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    added_tokens: Vec<AddedTokenHeader>,
    model: ModelHeader,
}

#[derive(Deserialize)]
struct AddedTokenHeader {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct ModelHeader {
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
}

impl Tokenizer {
    /// Reads the bytes of a Hugging Face `tokenizer.json`.
    ///
    /// `special_tokens` are texts that the model's `tokenizer_config.json` calls special
    /// (`bos_token`, `eos_token`, `additional_special_tokens`, special entries of
    /// `added_tokens_decoder`). Those that the vocabulary has are treated as special even where
    /// `tokenizer.json` does not say so; those it lacks can never be produced and are ignored.
    /// Truncation and padding settings in the file are not applied: a prompt is never cut here.
    ///
    /// Errors when the file is malformed, or uses BPE dropout, a continuing-subword prefix, or a
    /// decoder outside the list in [`TokenizerError::Decoder`].
    pub fn from_json(bytes: &[u8], special_tokens: &[&str]) -> Result<Self, TokenizerError> {
        let header: Header = serde_json::from_slice(bytes)
            .map_err(|error| TokenizerError::Parse(error.to_string()))?;
        if header.model.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err(TokenizerError::Unsupported("BPE dropout".to_owned()));
        }
        if header.model.continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty()) {
            return Err(TokenizerError::Unsupported("continuing_subword_prefix".to_owned()));
        }
        let full = guarded(|| hf::Tokenizer::from_bytes(bytes)).map_err(TokenizerError::Parse)?;
        for added in &header.added_tokens {
            // An added token with an empty text is skipped by the library.
            let actual = full.token_to_id(&added.content);
            if let Some(actual) = actual.filter(|&actual| actual != added.id) {
                return Err(TokenizerError::AddedTokenId {
                    text: added.content.clone(),
                    declared: added.id,
                    actual,
                });
            }
        }
        Self::from_library(full, special_tokens)
    }

    /// Wraps a tokenizer built in memory; `special_tokens` as in [`Self::from_json`].
    pub(crate) fn from_library(
        full: hf::Tokenizer,
        special_tokens: &[&str],
    ) -> Result<Self, TokenizerError> {
        let (library, vocabulary) = Library::new(full, special_tokens)?;
        Ok(Self::new(Encoder::Library(Box::new(library)), vocabulary))
    }

    /// Wraps an encoder that merges by score, and its pieces.
    pub(crate) fn from_spm(spm: Spm, vocabulary: Vocabulary) -> Self {
        Self::new(Encoder::Spm(Box::new(spm)), vocabulary)
    }

    fn new(encoder: Encoder, vocabulary: Vocabulary) -> Self {
        let mut inner = Inner { encoder, special_texts: vec![], vocabulary };
        let ids = 0..inner.vocabulary.size() as u32;
        let special = ids.filter(|&id| inner.vocabulary.is_special(id));
        let mut texts: Vec<_> = special.filter_map(|id| inner.token_text(id)).collect();
        texts.sort();
        inner.special_texts = texts;
        Self { inner: Arc::new(inner) }
    }

    /// One past the largest token id. A model's logits may have more columns (padding).
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary.size()
    }

    /// The id of the token spelled `text` in the vocabulary (for byte-level BPE that is the
    /// byte alphabet's spelling, for special tokens their plain text).
    pub fn token_id(&self, text: &str) -> Option<u32> {
        match &self.inner.encoder {
            Encoder::Library(library) => library.token_id(text),
            Encoder::Spm(spm) => spm.token_id(text),
        }
    }

    /// How the vocabulary spells token `id`.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.token_text(id)
    }

    /// The bytes token `id` contributes to text; not necessarily whole characters.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.inner.vocabulary.bytes(id)
    }

    /// Whether `id` is marked special (control, not part of ordinary text).
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.vocabulary.is_special(id)
    }

    /// The texts of all special tokens, sorted. [`crate::chat::ChatTemplate`] needs them.
    pub fn special_tokens(&self) -> &[String] {
        &self.inner.special_texts
    }

    /// Token ids of `text`.
    ///
    /// `add_special` puts the tokens around the text that the tokenizer's post-processor asks for
    /// (a BOS, for instance). `parse_special` recognises special tokens spelled in the text; see
    /// the module documentation for what `false` promises.
    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let segment = Segment { text: text.to_owned(), trusted: parse_special };
        self.encode_segments(std::slice::from_ref(&segment), add_special)
    }

    /// Token ids of a text in parts, special tokens being recognised in the trusted parts only.
    ///
    /// With the segments of [`crate::chat::ChatTemplate::render_segments`] this gives the ids that
    /// encoding the whole text would give, except that special tokens spelled by untrusted text
    /// stay ordinary text.
    pub fn encode_segments(
        &self,
        segments: &[Segment],
        add_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        match &self.inner.encoder {
            Encoder::Library(library) => {
                library.encode(segments, add_special, &self.inner.vocabulary)
            }
            Encoder::Spm(spm) => Ok(spm.encode(segments, add_special)),
        }
    }

    /// The text of `ids`, without special tokens if `skip_special`.
    ///
    /// Errors with [`TokenizerError::UnknownId`] at the first id the tokenizer does not have.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let mut detokenizer = self.detokenizer(skip_special);
        let mut text = String::new();
        for &id in ids {
            text.extend(detokenizer.push(id)?);
        }
        text.extend(detokenizer.finish());
        Ok(text)
    }

    /// A decoder for one sequence of ids that arrive one by one.
    pub fn detokenizer(&self, skip_special: bool) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.inner), skip_special)
    }
}
