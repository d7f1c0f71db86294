//! Tokenizers from GGUF metadata.
//!
//! A GGUF file carries a vocabulary, token types and merges, and only *names* the rule that splits
//! text before merging. Supported: model `gpt2` (byte-level BPE) with pre-tokenizer `qwen2` or
//! `llama-bpe`. Key names and token types: ggml-org/ggml, `docs/gguf.md` and ggml-org/llama.cpp,
//! `gguf-py/gguf/constants.py`; the two split rules: `src/llama-vocab.cpp` there.
//!
//! Like llama.cpp, and unlike the Hugging Face tokenizer of the Qwen models, text is not
//! NFC-normalised here: the file does not ask for it.

use std::collections::HashMap;

use tokenizers as hf;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;

use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::vocabulary::char_of_byte;

/// The `tokenizer.ggml.*` metadata of a GGUF file, unchecked.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `model`: the kind of tokenizer, e.g. `gpt2`.
    pub model: String,
    /// `pre`: the name of the split rule; empty when the file has none.
    pub pre: String,
    /// `tokens`: text by id; for `gpt2` in the byte alphabet, control and user-defined tokens plain.
    pub tokens: Vec<String>,
    /// `token_type` by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `merges`: `"left right"`, best first.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `add_bos_token`; absent means the default of `pre` (on for `llama-bpe`, off for `qwen2`).
    pub add_bos: Option<bool>,
    /// `add_eos_token`; absent means off.
    pub add_eos: Option<bool>,
}

/// Why GGUF metadata does not describe a tokenizer this program can build.
#[derive(Debug, thiserror::Error)]
pub enum GgufTokenizerError {
    /// `tokenizer.ggml.model` is not supported.
    #[error(
        "tokenizer.ggml.model {0:?} is not supported (expected \"gpt2\", byte-level BPE); use the model's tokenizer.json"
    )]
    Model(String),
    /// `tokenizer.ggml.pre` is not supported.
    #[error("tokenizer.ggml.pre {0:?} is not supported (expected \"qwen2\" or \"llama-bpe\")")]
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

/// Token types of `tokenizer.ggml.token_type`.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// How a named pre-tokenizer behaves.
struct PreRule {
    pattern: &'static str,
    /// A pre-token that is in the vocabulary whole is not merged step by step.
    ignore_merges: bool,
    add_bos: bool,
}

/// The two rules differ in how many digits go together, among other things.
fn pre_rule(name: &str) -> Option<PreRule> {
    match name {
        "qwen2" => Some(PreRule {
            pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ignore_merges: false,
            add_bos: false,
        }),
        "llama-bpe" => Some(PreRule {
            pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ignore_merges: true,
            add_bos: true,
        }),
        _ => None,
    }
}

impl GgufVocab {
    /// Builds the tokenizer.
    ///
    /// Control (3) and unknown (2) tokens become special, user-defined (4) tokens are recognised in
    /// all text. Errors name the field: an unsupported `model` or `pre`, lists of different
    /// lengths, a token that occurs twice, a byte without a token, a merge of tokens that do not
    /// exist, a BOS or EOS id past the vocabulary.
    pub fn build(self) -> Result<Tokenizer, GgufTokenizerError> {
        if self.model != "gpt2" {
            return Err(GgufTokenizerError::Model(self.model));
        }
        let Some(rule) = pre_rule(&self.pre) else {
            return Err(GgufTokenizerError::Pre(self.pre));
        };
        let ids = self.ids_by_text()?;
        let merges = self.split_merges(&ids)?;
        let template = self.bos_eos_template(rule.add_bos)?;
        let added: Vec<hf::AddedToken> = self
            .tokens
            .iter()
            .zip(&self.token_types)
            .filter(|&(_, &kind)| matches!(kind, UNKNOWN | CONTROL | USER_DEFINED))
            .map(|(text, &kind)| hf::AddedToken::from(text, kind != USER_DEFINED).normalized(false))
            .collect();
        // All tokens, since the library looks up the ids of the added ones here.
        let vocab: Vocab = ids.into_iter().map(|(text, id)| (text.to_owned(), id)).collect();
        let library = |error: hf::Error| TokenizerError::Parse(error.to_string());
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(rule.ignore_merges)
            .build()
            .map_err(library)?;
        let split = Split::new(
            SplitPattern::Regex(rule.pattern.to_owned()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .map_err(library)?;
        let to_bytes = ByteLevel::new(false, true, false);
        let mut tokenizer = hf::Tokenizer::new(model);
        tokenizer
            .with_pre_tokenizer(Some(Sequence::new(vec![split.into(), to_bytes.into()])))
            .with_decoder(Some(to_bytes))
            .with_post_processor(template);
        tokenizer.add_tokens(added).map_err(library)?;
        Ok(Tokenizer::from_library(tokenizer, &[])?)
    }

    /// Checks the token lists; the vocabulary by text.
    fn ids_by_text(&self) -> Result<HashMap<&str, u32>, GgufTokenizerError> {
        if self.token_types.len() != self.tokens.len() {
            return Err(field(
                "token_type",
                format!("{} entries for {} tokens", self.token_types.len(), self.tokens.len()),
            ));
        }
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, text) in self.tokens.iter().enumerate() {
            let id = u32::try_from(id)
                .map_err(|_| field("tokens", "more tokens than 32-bit ids".to_owned()))?;
            if text.is_empty() {
                return Err(field("tokens", format!("token {id} is empty")));
            }
            if let Some(earlier) = ids.insert(text.as_str(), id) {
                return Err(field(
                    "tokens",
                    format!("tokens {earlier} and {id} are both {text:?}"),
                ));
            }
        }
        // Without its token a byte would vanish from the text in silence.
        for (byte, character) in char_of_byte().into_iter().enumerate() {
            let mut spelled = [0; 4];
            if !ids.contains_key(&*character.encode_utf8(&mut spelled)) {
                return Err(field("tokens", format!("byte 0x{byte:02x} has no token")));
            }
        }
        Ok(ids)
    }

    /// Splits every merge at the first space after its first character and checks its tokens.
    fn split_merges(
        &self,
        ids: &HashMap<&str, u32>,
    ) -> Result<Vec<(String, String)>, GgufTokenizerError> {
        let mut merges = Vec::with_capacity(self.merges.len());
        let mut joined = String::new();
        for (rank, merge) in self.merges.iter().enumerate() {
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

    /// The post-processor that puts BOS before and EOS after a text.
    fn bos_eos_template(
        &self,
        bos_by_default: bool,
    ) -> Result<Option<TemplateProcessing>, GgufTokenizerError> {
        let text_of = |name: &'static str, id: u32| {
            usize::try_from(id).ok().and_then(|id| self.tokens.get(id)).ok_or_else(|| {
                field(name, format!("id {id} is past the {} tokens", self.tokens.len()))
            })
        };
        let missing = |name| field(name, "absent, but its use is switched on".to_owned());
        // An id nothing uses may still be nonsense that deserves to be reported.
        let bos = self.bos.map(|id| text_of("bos_token_id", id)).transpose()?;
        let eos = self.eos.map(|id| text_of("eos_token_id", id)).transpose()?;
        let bos = match self.add_bos {
            Some(true) => Some(bos.ok_or_else(|| missing("bos_token_id"))?),
            Some(false) => None,
            None => bos.filter(|_| bos_by_default),
        };
        let eos = match self.add_eos {
            Some(true) => Some(eos.ok_or_else(|| missing("eos_token_id"))?),
            _ => None,
        };
        if bos.is_none() && eos.is_none() {
            return Ok(None);
        }
        // Written as JSON because the builder takes a little language in which token texts such
        // as "$A" would mean something else.
        let mut single = vec![serde_json::json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut named = serde_json::Map::new();
        let mut piece = |text: &String, id: Option<u32>| {
            named.insert(
                text.clone(),
                serde_json::json!({"id": text, "ids": [id], "tokens": [text]}),
            );
            serde_json::json!({"SpecialToken": {"id": text, "type_id": 0}})
        };
        if let Some(bos) = bos {
            single.insert(0, piece(bos, self.bos));
        }
        if let Some(eos) = eos {
            single.push(piece(eos, self.eos));
        }
        let template = serde_json::json!({
            "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": named,
        });
        serde_json::from_value(template)
            .map(Some)
            .map_err(|error| TokenizerError::Parse(error.to_string()).into())
    }
}

fn field(field: &'static str, problem: String) -> GgufTokenizerError {
    GgufTokenizerError::Field { field, problem }
}
