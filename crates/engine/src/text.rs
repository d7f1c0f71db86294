//! The text side of a checkpoint: tokenizer, chat template, end tokens.

use std::collections::BTreeMap;

use keeve_checkpoint::Checkpoint;
use serde_json::Value;

use crate::chat::ChatTemplate;
use crate::error::Error;
use crate::gguf_tokenizer;
use crate::tokenizer::Tokenizer;

/// Texts of tokens that end an answer wherever a GGUF file has them: it names one end token at
/// most, and llama.cpp goes by these texts too (`llama_vocab::impl::load`).
const END_TEXTS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_turn|>",
];

/// Tokenizer and chat template of a model. Each may be absent, or there but of no use: then the
/// model can still be given token ids, and whoever gives it text is told why not.
pub(crate) struct TextSide {
    pub tokenizer: Result<Option<Tokenizer>, String>,
    pub template: Result<Option<ChatTemplate>, String>,
}

impl TextSide {
    /// Reads both from a checkpoint whose model has token ids below `vocabulary`.
    pub fn read(checkpoint: &Checkpoint, vocabulary: usize) -> Self {
        let fitting =
            |tokenizer: Option<Tokenizer>| match tokenizer.as_ref().map(Tokenizer::vocab_size) {
                Some(size) if size > vocabulary => {
                    Err(Error::Vocabulary { largest: size - 1, vocabulary })
                }
                _ => Ok(tokenizer),
            };
        let tokenizer = tokenizer(checkpoint).and_then(fitting).map_err(|error| error.to_string());
        let template = match &tokenizer {
            Ok(Some(tokenizer)) => {
                chat_template(checkpoint, tokenizer).map_err(|error| error.to_string())
            }
            _ => Ok(None),
        };
        Self { tokenizer, template }
    }

    /// Why something that is there cannot be used.
    pub fn problems(&self) -> Vec<String> {
        let problems = [self.tokenizer.as_ref().err(), self.template.as_ref().err()];
        problems.into_iter().flatten().cloned().collect()
    }

    /// Tokens that end an answer: those that `generation_config.json`, `config.json` and the
    /// tokenizer name.
    pub fn end_ids(&self, checkpoint: &Checkpoint, vocabulary: usize) -> Vec<u32> {
        end_ids(checkpoint, self.tokenizer.as_ref().ok().and_then(Option::as_ref), vocabulary)
    }
}

/// The checkpoint's tokenizer, if it has one.
///
/// # Errors
/// If it cannot be read.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>, Error> {
    if let Some(json) = checkpoint.tokenizer() {
        let config = checkpoint.tokenizer_config();
        let special = config.map(special_texts).unwrap_or_default();
        let special: Vec<_> = special.iter().map(String::as_str).collect();
        return Ok(Some(Tokenizer::from_json(&json, &special)?));
    }
    let Some(found) = checkpoint.gguf_tokenizer()? else { return Ok(None) };
    Ok(Some(gguf_tokenizer::build(&found)?))
}

/// The checkpoint's chat template, if it has one.
///
/// # Errors
/// If it is not a valid template.
fn chat_template(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>, Error> {
    let Some(source) = checkpoint.chat_template() else { return Ok(None) };
    let named = checkpoint.tokenizer_config().map(special_variables).unwrap_or_default();
    Ok(Some(ChatTemplate::new(source, &named, tokenizer.special_tokens())?))
}

fn end_ids(checkpoint: &Checkpoint, tokenizer: Option<&Tokenizer>, vocabulary: usize) -> Vec<u32> {
    let named = |config: &Value| match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => id.as_u64().into_iter().collect(),
        None => vec![],
    };
    let configs = checkpoint.generation_config().into_iter().chain([checkpoint.config()]);
    let mut ids: Vec<u32> =
        configs.flat_map(named).filter_map(|id| u32::try_from(id).ok()).collect();
    if let Some(tokenizer) = tokenizer {
        let eos = checkpoint
            .tokenizer_config()
            .and_then(|config| config.get("eos_token"))
            .and_then(token_text);
        ids.extend(eos.and_then(|text| tokenizer.token_id(&text)));
        // The tokenizer was made from it, so it can be read.
        if let Ok(Some(gguf)) = checkpoint.gguf_tokenizer() {
            ids.extend([gguf.eos, gguf.eot, gguf.eom].into_iter().flatten());
            ids.extend(END_TEXTS.iter().filter_map(|text| tokenizer.token_id(text)));
        }
    }
    ids.retain(|&id| (id as usize) < vocabulary);
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// A token in `tokenizer_config.json`: its text, or an object with its text as `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(Into::into)
}

/// `bos_token`, `eos_token` and their like, as chat templates see them.
fn special_variables(config: &Value) -> BTreeMap<String, String> {
    let fields = config.as_object().into_iter().flatten();
    let named = fields.filter(|(name, _)| name.ends_with("_token"));
    named.filter_map(|(name, value)| Some((name.clone(), token_text(value)?))).collect()
}

/// The texts that `tokenizer_config.json` calls special.
fn special_texts(config: &Value) -> Vec<String> {
    let named = special_variables(config).into_values();
    let extra = config.get("additional_special_tokens").and_then(Value::as_array);
    let extra = extra.into_iter().flatten().filter_map(token_text);
    let decoder =
        config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten();
    let is_special = |token: &&Value| token.get("special").and_then(Value::as_bool) == Some(true);
    let decoder = decoder.map(|(_, token)| token).filter(is_special).filter_map(token_text);
    let mut texts: Vec<_> = named.chain(extra).chain(decoder).collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}
