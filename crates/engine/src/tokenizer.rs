//! Text to token ids, behind a narrow, checked interface. Two encoders stand behind it: the
//! `tokenizers` crate, and keeve's own for vocabularies of GGUF files and SentencePiece models.
//!
//! # Text that must not become a control token
//! `encode(.., parse_special = false)` treats the text as a person's words: no token that the
//! tokenizer marks as special can come out of it, whatever the text spells. Added tokens that are
//! *not* special (`<think>`, `<tool_call>`) are still recognised, in both modes.

use std::sync::Arc;

use keeve_checkpoint::gguf::tokenizer::FimIds;
use tokenizers as hf;
use tokenizers::models::ModelWrapper;

use crate::chat::Segment;
use crate::detokenizer::Detokenizer;
use crate::gguf_encoder::GgufEncoder;
use crate::guarded::guarded;
use crate::least::Least;
use crate::library_encoder::Library;
use crate::special_tokens::{self, Fim};
use crate::tokenizer_limits::Header;
use crate::vocabulary::Vocabulary;

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is not a tokenizer description that the `tokenizers` crate can read.
    #[error("tokenizer: not a valid tokenizer description: {0}")]
    Parse(String),
    /// Something in the file is out of proportion.
    #[error("tokenizer: {0}")]
    Limit(String),
    /// The decoder section is not one that can be streamed exactly.
    #[error(
        "tokenizer: decoder {kind} is not supported (after Fuse and ByteLevel only Strip and Replace of a text can be streamed, before CTC nothing, and after it nothing that minds the first token)"
    )]
    Decoder {
        /// Type names of the decoder.
        kind: String,
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
    Gguf(Box<GgufEncoder>),
}

/// What all copies and detokenizers of one tokenizer share.
#[derive(Debug)]
pub(crate) struct Inner {
    encoder: Encoder,
    special_texts: Vec<String>,
    pub(crate) vocabulary: Vocabulary,
    facts: Facts,
}

/// What is known of a tokenizer beside its tables.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// How few tokens a text can become.
    pub least: Option<Least>,
    /// Tokens for filling the middle that the file names.
    pub fim: FimIds,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
    /// What was taken otherwise than the file says, for a person.
    pub notes: Vec<String>,
}

impl Inner {
    pub(crate) fn token_text(&self, id: u32) -> Option<String> {
        match &self.encoder {
            Encoder::Library(library) => library.token_text(id),
            Encoder::Gguf(own) => own.token_text(id).map(str::to_owned),
        }
    }
}

/// A tokenizer. Cloning is cheap and shares everything.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
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
    /// Dropout, which makes ids random, is not applied either. An added token whose text the vocabulary has under
    /// another id has that id, as in transformers; [`Self::notes`] says so.
    ///
    /// Errors when the file is malformed, would make texts or tables grow out of proportion, or has a decoder that
    /// cannot be streamed.
    pub fn from_json(bytes: &[u8], special_tokens: &[&str]) -> Result<Self, TokenizerError> {
        let (header, reach) = Header::read(bytes)?;
        let mut full =
            guarded(|| hf::Tokenizer::from_bytes(bytes)).map_err(TokenizerError::Parse)?;
        let mut notes = vec![];
        if header.model.dropout.is_some_and(|dropout| dropout != 0.0)
            && let ModelWrapper::BPE(model) = full.get_model()
        {
            let mut model = model.clone();
            model.dropout = None;
            full.with_model(model);
            notes.push(
                "the tokenizer's BPE dropout is not applied: it would make ids random".into(),
            );
        }
        for added in &header.added_tokens {
            // An added token with an empty text is skipped by the library.
            let actual = full.token_to_id(&added.content);
            if let Some(actual) = actual.filter(|&actual| u64::from(actual) != added.id) {
                notes.push(format!(
                    "the tokenizer declares added token {:?} with id {} but gives it id {actual}, as in transformers",
                    added.content, added.id
                ));
            }
        }
        // One line is enough to know that something is wrong.
        let more = notes.len().saturating_sub(3);
        notes.truncate(3);
        if more > 0 {
            notes.push(format!("{more} more added tokens have another id than declared"));
        }
        let (library, vocabulary, least) =
            Library::new(full, special_tokens, &header.model, reach)?;
        let facts = Facts { least, notes, ..Facts::default() };
        Ok(Self::new(Encoder::Library(Box::new(library)), vocabulary, facts))
    }

    /// Wraps an encoder with its pieces.
    pub(crate) fn from_gguf(encoder: GgufEncoder, vocabulary: Vocabulary, facts: Facts) -> Self {
        Self::new(Encoder::Gguf(Box::new(encoder)), vocabulary, facts)
    }

    fn new(encoder: Encoder, vocabulary: Vocabulary, facts: Facts) -> Self {
        let mut inner = Inner { encoder, special_texts: vec![], vocabulary, facts };
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
            Encoder::Gguf(own) => own.token_id(text),
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

    /// The tokens that the model fills the middle of a text by, if it has them: those that the file names, or
    /// those with texts that such models share.
    pub fn fim(&self) -> Option<Fim> {
        let known = |text: &str| self.token_id(text);
        special_tokens::fim(special_tokens::fim_ids(self.inner.facts.fim, known))
    }

    /// Tokens that end an answer by what a GGUF file and its vocabulary say; none for a `tokenizer.json`, beside which
    /// the model's configuration says it.
    pub fn end_tokens(&self) -> &[u32] {
        &self.inner.facts.ends
    }

    /// No fewer tokens than this come of `text`, known in a fraction of the time of [`Self::encode`]. So a text
    /// that cannot fit need not be tokenized.
    ///
    /// 0 where nothing is known: tokenizers that leave text out or put words of any length into one token (WordPiece,
    /// Unigram without bytes, most normalizers that delete).
    pub fn least_tokens(&self, text: &str) -> usize {
        self.inner.facts.least.map_or(0, |least| least.tokens(text))
    }

    /// What was taken otherwise than the tokenizer's file says, in sentences for a person.
    pub fn notes(&self) -> &[String] {
        &self.inner.facts.notes
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
            Encoder::Gguf(own) => own.encode(segments, add_special),
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
