//! Encoding with the `tokenizers` crate.
//!
//! Every call into that crate is guarded: a `tokenizer.json` is untrusted input and some of that crate's parsers index
//! without checking.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use tokenizers as hf;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{Encoding, Model, NormalizedString, Normalizer};

use crate::chat::Segment;
use crate::guarded::guarded;
use crate::least::Least;
use crate::post_processor::Around;
use crate::tokenizer::TokenizerError;
use crate::tokenizer_limits::{ModelHeader, Reach};
use crate::vocabulary::{Vocabulary, char_of_byte};

/// A tokenizer of the `tokenizers` crate, in two copies.
#[derive(Debug)]
pub(crate) struct Library {
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
    /// Tokens around a text.
    around: Around,
    reach: Reach,
}

impl Library {
    /// Wraps a tokenizer; `special_tokens` as in [`crate::tokenizer::Tokenizer::from_json`].
    pub fn new(
        mut full: hf::Tokenizer,
        special_tokens: &[&str],
        model: &ModelHeader,
        reach: Reach,
    ) -> Result<(Self, Vocabulary, Option<Least>), TokenizerError> {
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
            let processor = serde_json::to_value(full.get_post_processor())?;
            // The map is taken by id because two spellings may share one: the added token wins,
            // as it does when the library decodes.
            let mut texts: HashMap<u32, String> =
                full.get_vocab(false).into_iter().map(|(text, id)| (id, text)).collect();
            for id in full.get_added_tokens_decoder().into_keys() {
                texts.extend(full.id_to_token(id).map(|text| (id, text)));
            }
            Ok::<_, hf::Error>((decoder, processor, texts))
        });
        let (decoder, processor, texts) = parsed.map_err(TokenizerError::Parse)?;
        let added = full.get_added_tokens_decoder();
        let special: HashSet<u32> =
            added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let vocabulary = Vocabulary::new(&texts, |id| special.contains(&id), &decoder)?;
        let around = Around::from_json(&processor)?;
        for &id in around.before.iter().chain(&around.after) {
            vocabulary.require(id)?;
        }
        let least = least(&full, &texts, &vocabulary, model, reach);
        let (plain, mark_start) = plain_copy(&full);
        let unknown = unknown_id(&full);
        let mut stripping = HashMap::new();
        for token in added.into_values().filter(|token| token.special) {
            if token.lstrip || token.rstrip {
                stripping.insert(token.content, (token.lstrip, token.rstrip));
            }
        }
        let library = Self { full, plain, mark_start, unknown, stripping, around, reach };
        Ok((library, vocabulary, least))
    }

    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.full.token_to_id(text)
    }

    pub fn token_text(&self, id: u32) -> Option<String> {
        self.full.id_to_token(id)
    }

    /// As [`crate::tokenizer::Tokenizer::encode_segments`].
    pub fn encode(
        &self,
        segments: &[Segment],
        add_special: bool,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<u32>, TokenizerError> {
        let strips = |segment: Option<&Segment>| {
            segment
                .filter(|segment| segment.trusted)
                .and_then(|segment| self.stripping.get(&segment.text))
                .copied()
                .unwrap_or_default()
        };
        for segment in segments.iter().filter(|segment| !self.reach.is_harmless(segment.text.len()))
        {
            self.check(&segment.text)?;
        }
        let encode_all = || {
            let mut encodings = Vec::new();
            for (at, segment) in segments.iter().enumerate() {
                if segment.trusted {
                    encodings.push(self.full.encode_fast(segment.text.as_str(), false)?);
                    continue;
                }
                let mut text = segment.text.as_str();
                if strips(at.checked_sub(1).and_then(|before| segments.get(before))).1 {
                    text = text.trim_start();
                }
                if strips(segments.get(at + 1)).0 {
                    text = text.trim_end();
                }
                self.encode_plain(text, at == 0, vocabulary, &mut encodings)?;
            }
            Ok::<_, hf::Error>(encodings)
        };
        let encodings = guarded(encode_all).map_err(TokenizerError::Encode)?;
        let mut ids = if add_special { self.around.before.clone() } else { vec![] };
        ids.extend(encodings.iter().flat_map(Encoding::get_ids));
        if add_special {
            ids.extend(&self.around.after);
        }
        for &id in &ids {
            vocabulary.require(id)?;
        }
        Ok(ids)
    }

    /// Refuses a text that normalizing makes long out of proportion, without making it so.
    fn check(&self, text: &str) -> Result<(), TokenizerError> {
        let Some(normalizer) = self.full.get_normalizer() else {
            return self.reach.check(text.len(), text.len() as u64);
        };
        let (mut rest, mut length) = (text, 0u64);
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.floor_char_boundary(1024.min(rest.len())));
            rest = tail;
            let mut piece = NormalizedString::from(piece);
            guarded(|| normalizer.normalize(&mut piece)).map_err(TokenizerError::Encode)?;
            length = length.saturating_add(piece.get().len() as u64);
            self.reach.check(text.len(), length)?;
        }
        Ok(())
    }

    /// Encodes text that must not become a special token, appending its parts to `out`.
    ///
    /// Not parsing special tokens is not enough: a model whose own vocabulary holds the special
    /// token's text (Unigram, or BPE that ignores merges) can still assemble it. Where that
    /// happens the text is cut inside the offending token and its halves are encoded apart.
    fn encode_plain(
        &self,
        text: &str,
        at_start: bool,
        vocabulary: &Vocabulary,
        out: &mut Vec<Encoding>,
    ) -> hf::Result<()> {
        // Special tokens except the one for unknown characters, which any text may contain.
        let forbidden = |id: u32| vocabulary.is_special(id) && Some(id) != self.unknown;
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
            if !encoding.get_ids().iter().any(|&id| forbidden(id)) {
                out.push(encoding);
                continue;
            }
            let encoding = self.plain.encode(piece, false)?;
            let mut cuts = Vec::new();
            for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
                if !forbidden(id) {
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

/// How few tokens a text can become, if there is a bound.
fn least(
    full: &hf::Tokenizer,
    texts: &HashMap<u32, String>,
    vocabulary: &Vocabulary,
    model: &ModelHeader,
    reach: Reach,
) -> Option<Least> {
    let known = |text: &str| full.token_to_id(text).is_some();
    let shrink = usize::try_from(reach.shrink?).ok()?;
    let byte_level = vocabulary.decoding.is_byte_level();
    let all_bytes = || (0..=255u8).all(|byte| known(&format!("<0x{byte:02X}>")));
    // Whether a token comes of every character, known or not.
    let complete = match full.get_model() {
        ModelWrapper::BPE(_) => {
            let fallback = model.byte_fallback == Some(true) && all_bytes();
            let alphabet = || {
                let letters = char_of_byte();
                let needed = (0..=255u8).filter(|byte| !matches!(byte, 0xc0 | 0xc1 | 0xf5..));
                let mut letters = needed.map(|byte| letters[usize::from(byte)]);
                letters.all(|letter| known(letter.encode_utf8(&mut [0; 4])))
            };
            let unknown = model.unk_token.as_deref().is_some_and(known);
            fallback || byte_level && alphabet() || unknown && model.fuse_unk != Some(true)
        }
        ModelWrapper::Unigram(_) => model.byte_fallback == Some(true) && all_bytes(),
        ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => false,
    };
    let added = full.get_added_tokens_decoder();
    let mut longest = added.values().map(|token| token.content.len()).max().unwrap_or(0);
    for (&id, text) in texts {
        let length = match vocabulary.bytes(id) {
            Some(bytes) if byte_level => bytes.len(),
            _ => text.len(),
        };
        longest = longest.max(length);
    }
    let strips = added.values().any(|token| token.lstrip || token.rstrip);
    complete.then_some(Least {
        bytes: longest.checked_mul(shrink)?,
        but_spaces: reach.drops_spaces || strips,
    })
}
