//! The tokenizer that a GGUF file carries in its metadata (`tokenizer.ggml.*`).
//!
//! Keys: ggml-org/llama.cpp `gguf-py/gguf/constants.py` (class `Keys.Tokenizer`); their meaning and
//! defaults: `src/llama-vocab.cpp` there.

use super::value::{Array, Metadata, Value};
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

/// The tokens that a model fills the middle of a text by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FimIds {
    /// Before what comes before the gap.
    pub prefix: Option<u32>,
    /// Before what comes after the gap.
    pub suffix: Option<u32>,
    /// Before what fills the gap.
    pub middle: Option<u32>,
    /// Padding.
    pub padding: Option<u32>,
    /// Before the name of a repository.
    pub repository: Option<u32>,
    /// Between files.
    pub separator: Option<u32>,
}

/// The tokenizer's tables and settings as stored; what is absent from the file is `None` or empty,
/// because the default depends on the tokenizer's kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer {
    /// The algorithm: `gpt2` for byte-level BPE, `llama` for SentencePiece-style merging by score,
    /// `t5` for Unigram, `bert` for WordPiece, `gemma4`, `rwkv`, `plamo2`, ...
    pub model: String,
    /// For `gpt2`: the name of the rule that splits text before merging, such as `qwen2`.
    pub pre: Option<String>,
    /// The model's architecture: some markers' treatment of white space is known by it only.
    pub architecture: Option<String>,
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
    /// Between two texts, and at the end of one (`bert`).
    pub separator: Option<u32>,
    /// At the start of a text, as BERT calls it.
    pub class: Option<u32>,
    /// Stands for what is to be guessed.
    pub mask: Option<u32>,
    /// Filling the middle.
    pub fim: FimIds,
    /// Whether text starts with `bos`.
    pub add_bos: Option<bool>,
    /// Whether text ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space is put before text.
    pub add_space_prefix: Option<bool>,
    /// For `t5`: whether runs of spaces are one space, and none are at the ends.
    pub remove_extra_whitespaces: Option<bool>,
    /// For `t5`: how characters are replaced, in SentencePiece's `precompiled_charsmap`.
    pub charsmap: Vec<u8>,
    /// For `bert`: whether capital letters become small ones.
    pub lowercase: Option<bool>,
    /// For `bert`: whether accents are left out.
    pub strip_accents: Option<bool>,
    /// What the file says and does not mean, in sentences for a person.
    pub notes: Vec<String>,
}

impl GgufTokenizer {
    /// Reads the tables; `None` if the metadata hold no tokenizer.
    ///
    /// As in llama.cpp, special ids that are no tokens are as absent, and tables may be longer than there are tokens.
    ///
    /// # Errors
    /// If a value has the wrong type, or a table is shorter than there are tokens.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>, Error> {
        let Some(model) = metadata.string("tokenizer.ggml.model")? else { return Ok(None) };
        if matches!(model, "no_vocab" | "none") {
            return Ok(None);
        }
        let Some(tokens) = metadata.array(TOKENS)? else {
            return Err(Error::field(metadata.path(), TOKENS, "is missing"));
        };
        let tokens = strings(metadata, TOKENS, tokens)?;
        let count = tokens.len();
        let per_token = |key: &str| -> Result<Option<&Array>, Error> {
            let array = metadata.array(key)?;
            match array {
                // Nothing for every token is how some converters say that they have none.
                Some(array) if array.is_empty() => Ok(None),
                Some(array) if array.len() < count => {
                    let problem = format!("has {} values for {count} tokens", array.len());
                    Err(Error::field(metadata.path(), key, problem))
                }
                _ => Ok(array),
            }
        };
        let integers = |key: &str, array: &Array| {
            let problem = || format!("holds {:?}, expected integers", array.kind());
            array.integers().ok_or_else(|| Error::field(metadata.path(), key, problem()))
        };
        let types_key = "tokenizer.ggml.token_type";
        let token_types = match per_token(types_key)? {
            Some(array) => {
                integers(types_key, array)?.into_iter().take(count).map(token_type).collect()
            }
            None => Vec::new(),
        };
        let scores_key = "tokenizer.ggml.scores";
        let mut scores = match per_token(scores_key)? {
            Some(array) => match array.f32s() {
                Some(scores) => scores,
                None => {
                    integers(scores_key, array)?.into_iter().map(|score| score as f32).collect()
                }
            },
            None => Vec::new(),
        };
        scores.truncate(count);
        let merges = match metadata.array(MERGES)? {
            Some(array) => strings(metadata, MERGES, array)?,
            None => Vec::new(),
        };
        let mut notes = Vec::new();
        let mut id = |names: &[&str]| -> Result<Option<u32>, Error> {
            for name in names {
                let key = format!("tokenizer.ggml.{name}_token_id");
                let Some(value) = metadata.get(&key) else { continue };
                // -1, in whatever type, is how converters say that there is none.
                let id = match value {
                    Value::Signed(..) => value.as_u64().unwrap_or(u64::MAX),
                    _ => metadata.count(&key)?.unwrap_or(u64::MAX),
                };
                match u32::try_from(id) {
                    Ok(id) if (id as usize) < count => return Ok(Some(id)),
                    Err(_) | Ok(u32::MAX) => {}
                    Ok(id) => notes.push(format!(
                        "'{key}' is {id}, but there are {count} tokens; taken as absent"
                    )),
                }
            }
            Ok(None)
        };
        let charsmap_key = "tokenizer.ggml.precompiled_charsmap";
        let charsmap = match metadata.array(charsmap_key)? {
            Some(array) => {
                integers(charsmap_key, array)?.into_iter().map(|byte| byte as u8).collect()
            }
            None => Vec::new(),
        };
        let flag = |name: &str| metadata.bool(&format!("tokenizer.ggml.{name}"));
        let mut found = Self {
            model: model.into(),
            pre: metadata.string("tokenizer.ggml.pre")?.map(Into::into),
            architecture: metadata.string("general.architecture")?.map(Into::into),
            token_types,
            scores,
            merges,
            bos: id(&["bos"])?,
            eos: id(&["eos"])?,
            eot: id(&["eot"])?,
            eom: id(&["eom"])?,
            unknown: id(&["unknown"])?,
            padding: id(&["padding"])?,
            // The first spelling is that of the format.
            separator: id(&["seperator", "separator"])?,
            class: id(&["cls"])?,
            mask: id(&["mask"])?,
            fim: FimIds {
                prefix: id(&["fim_pre", "prefix"])?,
                suffix: id(&["fim_suf", "suffix"])?,
                middle: id(&["fim_mid", "middle"])?,
                padding: id(&["fim_pad"])?,
                repository: id(&["fim_rep"])?,
                separator: id(&["fim_sep"])?,
            },
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            remove_extra_whitespaces: flag("remove_extra_whitespaces")?,
            charsmap,
            lowercase: flag("normalizer.lowercase")?,
            strip_accents: flag("normalizer.strip_accents")?,
            tokens,
            notes: Vec::new(),
        };
        found.notes = notes;
        Ok(Some(found))
    }
}

fn strings(metadata: &Metadata, key: &str, array: &Array) -> Result<Vec<String>, Error> {
    let wrong = |problem: String| Error::field(metadata.path(), key, problem);
    let values = array
        .strings()
        .ok_or_else(|| wrong(format!("holds {:?}, expected strings", array.kind())))?;
    // What is not UTF-8 no text becomes, and is shown as what it is.
    Ok(values.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
}

fn token_type(id: i64) -> TokenType {
    match id {
        2 => TokenType::Unknown,
        3 => TokenType::Control,
        4 => TokenType::UserDefined,
        5 => TokenType::Unused,
        6 => TokenType::Byte,
        // 0 is "undefined"; of further types nothing is known but that they are tokens.
        _ => TokenType::Normal,
    }
}
