//! Tokenizers from GGUF metadata.
//!
//! A GGUF file carries a vocabulary, token types and merges, and only *names* the rule that splits
//! text before merging. Supported: model `gpt2` (byte-level BPE) with the pre-tokenizers of
//! `pre_tokenizers.rs`, and model `llama` (SentencePiece-style merging by score). Defaults and what
//! token types mean: ggml-org/llama.cpp `src/llama-vocab.cpp`.
//!
//! Like llama.cpp, and unlike the Hugging Face tokenizer of the Qwen models, text is not
//! NFC-normalised here: the file does not ask for it.

use std::cmp::Reverse;
use std::collections::HashMap;

use aho_corasick::AhoCorasick;
use keeve_checkpoint::gguf::tokenizer::{GgufTokenizer, TokenType};
use tokenizers as hf;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;

pub use crate::pre_tokenizers::PreTokenizer;
use crate::pre_tokenizers::{GPT2, name_of, pre_tokenizer};
use crate::spm::{SPACE, Spm, WholeToken};
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::vocabulary::{DecodeRule, Vocabulary, char_of_byte};

/// Why GGUF metadata does not describe a tokenizer this program can build.
#[derive(Debug, thiserror::Error)]
pub enum GgufTokenizerError {
    /// `tokenizer.ggml.model` is not supported.
    #[error(
        "tokenizer.ggml.model {0:?} is not supported (expected \"gpt2\" or \"llama\"); use the model's tokenizer.json"
    )]
    Model(String),
    /// `tokenizer.ggml.pre` is not supported.
    #[error("tokenizer.ggml.pre {0:?} is not supported; use the model's tokenizer.json")]
    Pre(String),
    /// A field contradicts itself or another one.
    #[error("tokenizer.ggml.{field}: {problem}")]
    Field {
        /// Key without its prefix.
        field: &'static str,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The tokenizer could not be built from the checked fields.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Builds the tokenizer.
///
/// Control and unknown tokens become special, user-defined tokens are recognised in all text.
///
/// # Errors
/// If `model` or `pre` is not supported, lists differ in length, a token occurs twice, a byte has no
/// token, a merge is of tokens that do not exist, a score is not a number, or a BOS or EOS is past
/// the vocabulary. The message names the field.
pub fn build(found: &GgufTokenizer) -> Result<Tokenizer, GgufTokenizerError> {
    match found.model.as_str() {
        "gpt2" => byte_level(found),
        "llama" => scored(found),
        other => Err(GgufTokenizerError::Model(other.into())),
    }
}

/// How the rule that GGUF files call `name` (`tokenizer.ggml.pre`) splits text; `None` if it is not known.
pub fn pre_tokenizer_rules(name: &str) -> Option<PreTokenizer> {
    pre_tokenizer(name)
}

/// The name that GGUF files have (`tokenizer.ggml.pre`) for the way in which a parsed `tokenizer.json`
/// splits text before merging; `None` if there is none, or it does not merge bytes.
pub fn pre_tokenizer_name(json: &serde_json::Value) -> Option<&'static str> {
    let is = |step: &serde_json::Value, kind: &str| step.get("type").is_some_and(|t| t == kind);
    let step = json.get("pre_tokenizer")?;
    let steps = match step.get("pretokenizers") {
        Some(steps) => steps.as_array()?.iter().collect(),
        None => vec![step],
    };
    let (last, splits) = steps.split_last()?;
    let mut patterns = Vec::new();
    for split in splits {
        match split.pointer("/pattern/Regex").and_then(serde_json::Value::as_str) {
            Some(pattern) if is(split, "Split") => patterns.push(pattern),
            // Each digit by itself, or runs of them.
            None if is(split, "Digits") => {
                let each = split.get("individual_digits").is_some_and(|each| each == true);
                patterns.push(if each { r"\p{N}" } else { r"\p{N}+" });
            }
            _ => return None,
        }
    }
    if !is(last, "ByteLevel") {
        return None;
    }
    if last.get("use_regex").is_none_or(|own| own == true) {
        patterns.push(GPT2);
    }
    let whole = json.pointer("/model/ignore_merges").is_some_and(|whole| whole == true);
    name_of(&patterns, whole)
}

/// Byte-level BPE.
fn byte_level(found: &GgufTokenizer) -> Result<Tokenizer, GgufTokenizerError> {
    let name = found.pre.as_deref().unwrap_or_default();
    let pre = pre_tokenizer(name).ok_or_else(|| GgufTokenizerError::Pre(name.into()))?;
    let ids = ids_by_text(found)?;
    // Without its token a byte would vanish from the text in silence.
    for (byte, character) in char_of_byte().into_iter().enumerate() {
        let mut spelled = [0; 4];
        if !ids.contains_key(&*character.encode_utf8(&mut spelled)) {
            return Err(field("tokens", format!("byte 0x{byte:02x} has no token")));
        }
    }
    let merges = split_merges(found, &ids)?;
    let (bos, eos) = ends(found, pre.add_bos, found.bos, found.eos)?;
    let template = bos_eos_template(found, bos, eos)?;
    let added: Vec<hf::AddedToken> = found
        .tokens
        .iter()
        .zip(&found.token_types)
        .filter(|&(_, &kind)| is_special(kind) || kind == TokenType::UserDefined)
        .map(|(text, &kind)| hf::AddedToken::from(text, is_special(kind)).normalized(false))
        .collect();
    // All tokens, since the library looks up the ids of the added ones here.
    let vocab: Vocab = ids.into_iter().map(|(text, id)| (text.to_owned(), id)).collect();
    let library = |error: hf::Error| TokenizerError::Parse(error.to_string());
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(library)?;
    let mut steps: Vec<PreTokenizerWrapper> = vec![];
    for pattern in pre.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(split.map_err(library)?.into());
    }
    let to_bytes = ByteLevel::new(false, true, false);
    steps.push(to_bytes.into());
    let mut tokenizer = hf::Tokenizer::new(model);
    tokenizer
        .with_pre_tokenizer(Some(Sequence::new(steps)))
        .with_decoder(Some(to_bytes))
        .with_post_processor(template);
    tokenizer.add_tokens(added).map_err(library)?;
    Ok(Tokenizer::from_library(tokenizer, &[])?)
}

/// SentencePiece-style merging by score.
fn scored(found: &GgufTokenizer) -> Result<Tokenizer, GgufTokenizerError> {
    let ids = ids_by_text(found)?;
    // The ids that such a vocabulary has by custom, where the file does not say.
    let (bos, eos) = ends(found, true, found.bos.or(Some(1)), found.eos.or(Some(2)))?;
    let mut bytes = [0; 256];
    for (byte, id) in (0..=255u8).zip(&mut bytes) {
        let plain = char::from(byte).to_string();
        let plain = if byte.is_ascii() { ids.get(plain.as_str()) } else { None };
        let spelled = ids.get(format!("<0x{byte:02X}>").as_str());
        *id = *spelled
            .or(plain)
            .ok_or_else(|| field("tokens", format!("byte 0x{byte:02x} has no token")))?;
    }
    let mut whole: Vec<WholeToken> = (0..)
        .zip(&found.token_types)
        .filter(|&(_, &kind)| is_special(kind) || kind == TokenType::UserDefined)
        .map(|(id, &kind)| WholeToken { id, special: is_special(kind) })
        .collect();
    whole.sort_by_key(|token| Reverse(found.tokens[token.id as usize].len()));
    let texts = whole.iter().map(|token| &found.tokens[token.id as usize]);
    let finder = AhoCorasick::new(texts)
        .map_err(|error| field("tokens", format!("too many special tokens: {error}")))?;
    let space_prefix = found.add_space_prefix.unwrap_or(true);
    let pieces = (0..).zip(&found.tokens).zip(&found.token_types);
    let pieces = pieces
        .map(|((id, text), &kind)| Ok((piece(id, text, kind)?, is_special(kind))))
        .collect::<Result<Vec<_>, GgufTokenizerError>>()?;
    let rule = DecodeRule::Bytes { first_loses_space: space_prefix };
    let vocabulary = Vocabulary::of_bytes(pieces.into_iter(), rule);
    let spm = Spm {
        ranks: ranks(found)?,
        ids: ids.into_iter().map(|(text, id)| (text.to_owned(), id)).collect(),
        tokens: found.tokens.clone(),
        bytes,
        whole,
        finder,
        bos,
        eos,
        space_prefix,
    };
    Ok(Tokenizer::from_spm(spm, vocabulary))
}

/// The bytes of token `id` of a vocabulary with scores.
fn piece(id: u32, text: &str, kind: TokenType) -> Result<Vec<u8>, GgufTokenizerError> {
    match kind {
        TokenType::Normal => Ok(text.replace(SPACE, " ").into_bytes()),
        TokenType::Unknown | TokenType::Control | TokenType::UserDefined => Ok(text.into()),
        TokenType::Unused => Ok(vec![]),
        TokenType::Byte => {
            let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            let digits = digits.filter(|digits| digits.len() == 2);
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            byte.map(|byte| vec![byte]).ok_or_else(|| {
                field("tokens", format!("token {id} is {text:?}, expected a byte such as <0x0A>"))
            })
        }
    }
}

/// The places of the scores among all scores; `None` for tokens that are not made by merging.
fn ranks(found: &GgufTokenizer) -> Result<Vec<Option<u32>>, GgufTokenizerError> {
    let scores = &found.scores;
    if scores.len() != found.tokens.len() {
        let problem = format!("{} entries for {} tokens", scores.len(), found.tokens.len());
        return Err(field("scores", problem));
    }
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(field("scores", format!("token {id} has a score that is not a number")));
    }
    // Adding 0 makes the two zeros one.
    let mut sorted: Vec<f32> = scores.iter().map(|score| score + 0.0).collect();
    sorted.sort_by(f32::total_cmp);
    sorted.dedup();
    let rank = |score: f32| sorted.partition_point(|other| *other < score) as u32;
    let merged = |kind| !is_special(kind) && kind != TokenType::Byte;
    let both = scores.iter().zip(&found.token_types);
    Ok(both.map(|(score, kind)| merged(*kind).then(|| rank(*score))).collect())
}

/// Tokens that ordinary text never becomes.
fn is_special(kind: TokenType) -> bool {
    matches!(kind, TokenType::Unknown | TokenType::Control)
}

/// Checks the token lists; the vocabulary by text.
fn ids_by_text(found: &GgufTokenizer) -> Result<HashMap<&str, u32>, GgufTokenizerError> {
    if found.token_types.len() != found.tokens.len() {
        return Err(field(
            "token_type",
            format!("{} entries for {} tokens", found.token_types.len(), found.tokens.len()),
        ));
    }
    let mut ids = HashMap::with_capacity(found.tokens.len());
    for (id, text) in found.tokens.iter().enumerate() {
        let id = u32::try_from(id)
            .map_err(|_| field("tokens", "more tokens than 32-bit ids".to_owned()))?;
        if text.is_empty() {
            return Err(field("tokens", format!("token {id} is empty")));
        }
        if let Some(earlier) = ids.insert(text.as_str(), id) {
            return Err(field("tokens", format!("tokens {earlier} and {id} are both {text:?}")));
        }
    }
    Ok(ids)
}

/// Splits every merge at the first space after its first character and checks its tokens.
fn split_merges(
    found: &GgufTokenizer,
    ids: &HashMap<&str, u32>,
) -> Result<Vec<(String, String)>, GgufTokenizerError> {
    let mut merges = Vec::with_capacity(found.merges.len());
    let mut joined = String::new();
    for (rank, merge) in found.merges.iter().enumerate() {
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let Some((left, right)) =
            merge[first..].find(' ').map(|at| (&merge[..first + at], &merge[first + at + 1..]))
        else {
            return Err(field("merges", format!("merge {rank} is {merge:?}, not a pair")));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for text in [left, right, joined.as_str()] {
            if !ids.contains_key(text) {
                return Err(field(
                    "merges",
                    format!("merge {rank} ({merge:?}) needs token {text:?}, which is absent"),
                ));
            }
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}

/// The tokens to put before and after text, given those that the file or custom names.
fn ends(
    found: &GgufTokenizer,
    bos_by_default: bool,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<(Option<u32>, Option<u32>), GgufTokenizerError> {
    // An id nothing uses may still be nonsense that deserves to be reported.
    for (name, id) in [("bos_token_id", found.bos), ("eos_token_id", found.eos)] {
        if let Some(id) = id.filter(|id| *id as usize >= found.tokens.len()) {
            let problem = format!("id {id} is past the {} tokens", found.tokens.len());
            return Err(field(name, problem));
        }
    }
    let known = |id: Option<u32>| id.filter(|id| (*id as usize) < found.tokens.len());
    let wanted = |name, id, asked: Option<bool>, by_default: bool| match (asked, known(id)) {
        (Some(true), None) => Err(field(name, "absent, but its use is switched on".to_owned())),
        (asked, id) => Ok(id.filter(|_| asked.unwrap_or(by_default))),
    };
    let bos = wanted("bos_token_id", bos, found.add_bos, bos_by_default)?;
    let eos = wanted("eos_token_id", eos, found.add_eos, false)?;
    Ok((bos, eos))
}

/// The post-processor that puts BOS before and EOS after a text.
fn bos_eos_template(
    found: &GgufTokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<Option<TemplateProcessing>, GgufTokenizerError> {
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    // Written as JSON because the builder takes a little language in which token texts such
    // as "$A" would mean something else.
    let mut single = vec![serde_json::json!({"Sequence": {"id": "A", "type_id": 0}})];
    let mut named = serde_json::Map::new();
    let mut piece = |id: u32| {
        let text = &found.tokens[id as usize];
        named.insert(text.clone(), serde_json::json!({"id": text, "ids": [id], "tokens": [text]}));
        serde_json::json!({"SpecialToken": {"id": text, "type_id": 0}})
    };
    if let Some(bos) = bos {
        single.insert(0, piece(bos));
    }
    if let Some(eos) = eos {
        single.push(piece(eos));
    }
    let template = serde_json::json!({
        "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": named,
    });
    serde_json::from_value(template)
        .map(Some)
        .map_err(|error| TokenizerError::Parse(error.to_string()).into())
}

fn field(field: &'static str, problem: String) -> GgufTokenizerError {
    GgufTokenizerError::Field { field, problem }
}
