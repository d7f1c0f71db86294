//! Text to token ids: the `tokenizers` crate behind a narrow, checked interface.
//!
//! Every call into that crate runs under `catch_unwind`: a `tokenizer.json` is untrusted input and
//! some of that crate's parsers and post-processors index without checking.
//!
//! # Text that must not become a control token
//! `encode(.., parse_special = false)` treats the text as a person's words: no token that the
//! tokenizer marks as special can come out of it, whatever the text spells. Added tokens that are
//! *not* special (`<think>`, `<tool_call>`) are still recognised, in both modes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Deserialize;
use tokenizers as hf;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{Encoding, Model};

use crate::chat::Segment;
use crate::detokenizer::Detokenizer;
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

/// What all copies and detokenizers of one tokenizer share.
#[derive(Debug)]
pub(crate) struct Inner {
    /// Recognises special tokens in text.
    full: hf::Tokenizer,
    /// Does not; see [`plain_copy`]. A second copy because the switch is a field of the tokenizer;
    /// it costs the memory of one more vocabulary.
    plain: hf::Tokenizer,
    /// `plain` was changed not to mark the start of text; the caller does it.
    mark_start: bool,
    unknown: Option<u32>,
    /// Special tokens that swallow white space on their left or right.
    stripping: HashMap<String, (bool, bool)>,
    special_texts: Vec<String>,
    pub(crate) vocabulary: Vocabulary,
}

impl Inner {
    pub(crate) fn token_text(&self, id: u32) -> Option<String> {
        self.full.id_to_token(id)
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
        mut full: hf::Tokenizer,
        special_tokens: &[&str],
    ) -> Result<Self, TokenizerError> {
        let promoted: Vec<hf::AddedToken> = special_tokens
            .iter()
            .filter(|text| !text.is_empty() && full.token_to_id(text).is_some())
            .map(|text| promote(&full, text))
            .collect();
        let parsed = guarded(|| {
            full.add_special_tokens(promoted)?;
            full.with_truncation(None)?;
            full.with_padding(None);
            let decoder = serde_json::to_value(full.get_decoder())?;
            // The map is taken by id because two spellings may share one: the added token wins,
            // as it does when the library decodes.
            let mut texts: HashMap<u32, String> =
                full.get_vocab(false).into_iter().map(|(text, id)| (id, text)).collect();
            for id in full.get_added_tokens_decoder().into_keys() {
                texts.extend(full.id_to_token(id).map(|text| (id, text)));
            }
            Ok((decoder, texts))
        });
        let (decoder, texts) = parsed.map_err(TokenizerError::Parse)?;
        let added = full.get_added_tokens_decoder();
        let special: HashSet<u32> =
            added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let vocabulary = Vocabulary::new(&texts, |id| special.contains(&id), &decoder)?;
        let (plain, mark_start) = plain_copy(&full);
        let unknown = unknown_id(&full);
        let mut special_texts = Vec::new();
        let mut stripping = HashMap::new();
        for token in added.into_values().filter(|token| token.special) {
            if token.lstrip || token.rstrip {
                stripping.insert(token.content.clone(), (token.lstrip, token.rstrip));
            }
            special_texts.push(token.content);
        }
        special_texts.sort();
        Ok(Self {
            inner: Arc::new(Inner {
                full,
                plain,
                mark_start,
                unknown,
                stripping,
                special_texts,
                vocabulary,
            }),
        })
    }

    /// One past the largest token id. A model's logits may have more columns (padding).
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary.size()
    }

    /// The id of the token spelled `text` in the vocabulary (for byte-level BPE that is the
    /// byte alphabet's spelling, for special tokens their plain text).
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.full.token_to_id(text)
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
        let inner = &*self.inner;
        let strips = |segment: Option<&Segment>| {
            segment
                .filter(|segment| segment.trusted)
                .and_then(|segment| inner.stripping.get(&segment.text))
                .copied()
                .unwrap_or_default()
        };
        let encode_all = || {
            let mut encodings = Vec::new();
            for (at, segment) in segments.iter().enumerate() {
                if segment.trusted {
                    encodings.push(inner.full.encode_fast(segment.text.as_str(), false)?);
                    continue;
                }
                let mut text = segment.text.as_str();
                if strips(at.checked_sub(1).and_then(|before| segments.get(before))).1 {
                    text = text.trim_start();
                }
                if strips(segments.get(at + 1)).0 {
                    text = text.trim_end();
                }
                inner.encode_plain(text, at == 0, &mut encodings)?;
            }
            let whole = Encoding::merge(encodings, false);
            inner.full.post_process(whole, None, add_special)
        };
        let encoding = guarded(encode_all).map_err(TokenizerError::Encode)?;
        // A post-processor names ids of its own, which need not exist.
        for &id in encoding.get_ids() {
            inner.vocabulary.require(id)?;
        }
        Ok(encoding.get_ids().to_vec())
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

impl Inner {
    /// Encodes text that must not become a special token, appending its parts to `out`.
    ///
    /// Not parsing special tokens is not enough: a model whose own vocabulary holds the special
    /// token's text (Unigram, or BPE that ignores merges) can still assemble it. Where that
    /// happens the text is cut inside the offending token and its halves are encoded apart.
    fn encode_plain(&self, text: &str, at_start: bool, out: &mut Vec<Encoding>) -> hf::Result<()> {
        let text = if self.mark_start
            && at_start
            && !text.is_empty()
            && !text.starts_with([' ', '\u{2581}'])
        {
            Cow::Owned(format!(" {text}"))
        } else {
            Cow::Borrowed(text)
        };
        let mut pieces = vec![&*text];
        while let Some(piece) = pieces.pop() {
            let encoding = self.plain.encode_fast(piece, false)?;
            if !encoding.get_ids().iter().any(|&id| self.forbidden(id)) {
                out.push(encoding);
                continue;
            }
            let encoding = self.plain.encode(piece, false)?;
            let mut cuts = Vec::new();
            for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
                if !self.forbidden(id) {
                    continue;
                }
                let spelled = piece.get(start..end).unwrap_or_default();
                let first = spelled.chars().next().map_or(0, char::len_utf8);
                if first == 0 || first == spelled.len() {
                    return Err(format!("ordinary text becomes special token {id}").into());
                }
                cuts.push(start + first);
            }
            // Last part first, since `pieces` is a stack.
            let mut end = piece.len();
            for &cut in cuts.iter().rev() {
                pieces.push(&piece[cut..end]);
                end = cut;
            }
            pieces.push(&piece[..end]);
        }
        Ok(())
    }

    /// Special tokens except the one for unknown characters, which any text may contain.
    fn forbidden(&self, id: u32) -> bool {
        self.vocabulary.is_special(id) && Some(id) != self.unknown
    }
}

/// `text` as a special token, keeping what the tokenizer already says about its surroundings.
fn promote(full: &hf::Tokenizer, text: &str) -> hf::AddedToken {
    let known = full
        .token_to_id(text)
        .and_then(|id| full.get_added_vocabulary().get_added_tokens_decoder().get(&id).cloned());
    known.unwrap_or_else(|| hf::AddedToken::from(text, true)).special(true)
}

/// A copy that leaves special tokens spelled in text alone.
///
/// A Metaspace pre-tokenizer that marks only the start of the text would mark the start of every
/// segment, since each is encoded alone; in the copy it marks nothing, and `true` is returned:
/// the caller marks the start of the first segment.
fn plain_copy(full: &hf::Tokenizer) -> (hf::Tokenizer, bool) {
    let mut plain = full.clone();
    plain.set_encode_special_tokens(true);
    if let Some(PreTokenizerWrapper::Metaspace(metaspace)) = plain.get_pre_tokenizer()
        && metaspace.get_prepend_scheme() == PrependScheme::First
        && metaspace.get_replacement() == '\u{2581}'
    {
        let mut metaspace = metaspace.clone();
        metaspace.set_prepend_scheme(PrependScheme::Never);
        plain.with_pre_tokenizer(Some(metaspace));
        return (plain, true);
    }
    (plain, false)
}

/// The id the model gives to characters it does not know.
fn unknown_id(tokenizer: &hf::Tokenizer) -> Option<u32> {
    match tokenizer.get_model() {
        ModelWrapper::BPE(model) => {
            model.get_unk_token().as_deref().and_then(|text| model.token_to_id(text))
        }
        ModelWrapper::WordPiece(model) => model.token_to_id(&model.unk_token),
        ModelWrapper::WordLevel(model) => model.token_to_id(&model.unk_token),
        // This one says so only in its serialised form.
        ModelWrapper::Unigram(model) => {
            let id = serde_json::to_value(model).ok()?.get("unk_id")?.as_u64()?;
            u32::try_from(id).ok()
        }
    }
}

/// Runs a call into the `tokenizers` crate, turning a panic inside it into an error text.
fn guarded<T>(call: impl FnOnce() -> hf::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().replace('\n', " ")),
        Err(_) => Err("the tokenizer library gave up on this input".to_owned()),
    }
}
