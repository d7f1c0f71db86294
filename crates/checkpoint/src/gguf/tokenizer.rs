//! The tokenizer that a GGUF file carries in its metadata (`tokenizer.ggml.*`).
//!
//! Keys: ggml-org/llama.cpp `gguf-py/gguf/constants.py` (class `Keys.Tokenizer`); their meaning and
//! defaults: `src/llama-vocab.cpp` there.

use super::value::{Array, Metadata};
use crate::Error;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// Text.
    Normal,
    /// Stands for what the vocabulary cannot express.
    Unknown,
    /// A marker such as the end of a turn; never made from a user's text.
    Control,
    /// Added by the model's author; cut out of any text before the rest is split.
    UserDefined,
    /// A place without a token.
    Unused,
    /// A single byte, written `<0xXX>`.
    Byte,
}

/// The tokenizer's tables and settings as stored; what is absent from the file is `None` or empty,
/// because the default depends on the tokenizer's kind.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizer {
    /// The algorithm: `gpt2` for byte-level BPE, `llama` for SentencePiece-style merging by score.
    pub model: String,
    /// For `gpt2`: the name of the rule that splits text before merging, such as `qwen2`.
    pub pre: Option<String>,
    /// Strings by id.
    pub tokens: Vec<String>,
    /// What each token is for, as many as tokens; empty if not stored.
    pub token_types: Vec<TokenType>,
    /// Score of each token, as many as tokens; empty if not stored.
    pub scores: Vec<f32>,
    /// Pairs `left right` by rank; empty if not stored.
    pub merges: Vec<String>,
    /// Begin of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
    /// Unknown token.
    pub unknown: Option<u32>,
    /// Padding.
    pub padding: Option<u32>,
    /// Whether text starts with `bos`.
    pub add_bos: Option<bool>,
    /// Whether text ends with `eos`.
    pub add_eos: Option<bool>,
    /// For `llama`: whether a space is put before text.
    pub add_space_prefix: Option<bool>,
}

impl GgufTokenizer {
    /// Reads the tables; `None` if the metadata hold no tokenizer.
    ///
    /// # Errors
    /// If a value has the wrong type, a text is not UTF-8, the tables differ in length, or a special
    /// id is not below the number of tokens.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>, Error> {
        let Some(model) = metadata.string("tokenizer.ggml.model")? else { return Ok(None) };
        let Some(tokens) = metadata.array(TOKENS)? else {
            return Err(Error::field(metadata.path(), TOKENS, "is missing"));
        };
        let tokens = strings(metadata, TOKENS, tokens)?;
        let count = tokens.len();
        let per_token = |key: &str| -> Result<Option<&Array>, Error> {
            let array = metadata.array(key)?;
            match array {
                Some(array) if array.len() != count => {
                    let problem = format!("has {} values for {count} tokens", array.len());
                    Err(Error::field(metadata.path(), key, problem))
                }
                _ => Ok(array),
            }
        };
        let types_key = "tokenizer.ggml.token_type";
        let token_types = match per_token(types_key)? {
            Some(array) => token_types(array).ok_or_else(|| {
                let problem = "holds something else than the token types 1 to 6";
                Error::field(metadata.path(), types_key, problem)
            })?,
            None => Vec::new(),
        };
        let scores_key = "tokenizer.ggml.scores";
        let scores = match per_token(scores_key)? {
            Some(array) => array.f32s().ok_or_else(|| {
                let problem = format!("holds {:?}, expected F32", array.kind());
                Error::field(metadata.path(), scores_key, problem)
            })?,
            None => Vec::new(),
        };
        let merges = match metadata.array(MERGES)? {
            Some(array) => strings(metadata, MERGES, array)?,
            None => Vec::new(),
        };
        let id = |name: &str| -> Result<Option<u32>, Error> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = metadata.count(&key)? else { return Ok(None) };
            match u32::try_from(id) {
                Ok(id) if (id as usize) < count => Ok(Some(id)),
                _ => {
                    let problem = format!("is {id}, but there are {count} tokens");
                    Err(Error::field(metadata.path(), &key, problem))
                }
            }
        };
        Ok(Some(Self {
            model: model.into(),
            pre: metadata.string("tokenizer.ggml.pre")?.map(Into::into),
            token_types,
            scores,
            merges,
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unknown: id("unknown")?,
            padding: id("padding")?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
            tokens,
        }))
    }
}

fn strings(metadata: &Metadata, key: &str, array: &Array) -> Result<Vec<String>, Error> {
    let wrong = |problem: String| Error::field(metadata.path(), key, problem);
    let values = array
        .strings()
        .ok_or_else(|| wrong(format!("holds {:?}, expected strings", array.kind())))?;
    let text = |(index, bytes): (usize, &[u8])| {
        let text = std::str::from_utf8(bytes).map(str::to_owned);
        text.map_err(|_| wrong(format!("has a value, number {index}, that is not UTF-8")))
    };
    values.enumerate().map(text).collect()
}

fn token_types(array: &Array) -> Option<Vec<TokenType>> {
    let each = |id: i64| {
        Some(match id {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => return None,
        })
    };
    array.integers()?.into_iter().map(each).collect()
}
