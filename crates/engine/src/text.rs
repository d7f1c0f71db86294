//! The text side of a checkpoint: tokenizer, chat template, end tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::tokenizer::GgufTokenizer;
use serde_json::Value;

use crate::chat::ChatTemplate;
use crate::error::Error;
use crate::gguf_tokenizer;
use crate::tokenizer::Tokenizer;
use crate::tokenizer_files;

/// Tokenizer and chat template of a model. Each may be absent, or there but of no use: then the
/// model can still be given token ids, and whoever gives it text is told why not.
pub(crate) struct TextSide {
    pub tokenizer: Result<Option<Tokenizer>, String>,
    pub template: Result<Option<ChatTemplate>, String>,
}

impl TextSide {
    /// Neither.
    pub fn none() -> Self {
        Self { tokenizer: Ok(None), template: Ok(None) }
    }

    /// Reads both from a checkpoint whose model has token ids below `vocabulary`.
    pub fn read(checkpoint: &Checkpoint, vocabulary: usize) -> Self {
        let fitting =
            |tokenizer: Option<Tokenizer>| match tokenizer.as_ref().map(Tokenizer::vocab_size) {
                Some(size) if size > vocabulary => Err(Error::Vocabulary {
                    path: checkpoint.path().into(),
                    largest: size - 1,
                    vocabulary,
                }),
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

    /// Tokens that end an answer: those that `generation_config.json`, `config.json` and the
    /// tokenizer name.
    ///
    /// # Errors
    /// If a config names something that is no token id.
    pub fn end_ids(&self, checkpoint: &Checkpoint, vocabulary: usize) -> Result<Vec<u32>, Error> {
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
        return match Tokenizer::from_json(&json, &special) {
            Ok(tokenizer) => Ok(Some(tokenizer)),
            Err(error) => Err(unusable(checkpoint.path().join("tokenizer.json"), error)),
        };
    }
    let Some(found) = checkpoint.gguf_tokenizer()? else {
        let model_type = checkpoint.config().get("model_type").and_then(Value::as_str);
        let config = checkpoint.tokenizer_config();
        let read = tokenizer_files::read(checkpoint.path(), config, model_type);
        return read.transpose().map_err(|(path, error)| unusable(path, error));
    };
    match gguf_tokenizer::build(&found) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(error) => Err(unusable(checkpoint.path().into(), error)),
    }
}

fn unusable(path: PathBuf, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::TextFile { path, source: Box::new(error) }
}

/// The checkpoint's chat template, if it has one.
///
/// # Errors
/// If it is not a valid template.
pub fn chat_template(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>, Error> {
    let sources = checkpoint.chat_templates();
    if sources.is_empty() {
        return Ok(None);
    }
    let named = match checkpoint.gguf_tokenizer()? {
        Some(gguf) => gguf_variables(&gguf),
        None => checkpoint.tokenizer_config().map(special_variables).unwrap_or_default(),
    };
    match ChatTemplate::of_several(sources, &named, tokenizer.special_tokens()) {
        Ok(template) => Ok(Some(template)),
        Err(error) => Err(unusable(checkpoint.path().into(), error)),
    }
}

fn end_ids(
    checkpoint: &Checkpoint,
    tokenizer: Option<&Tokenizer>,
    vocabulary: usize,
) -> Result<Vec<u32>, Error> {
    let generation = checkpoint.path().join("generation_config.json");
    let mut ids = vec![];
    if let Some(config) = checkpoint.generation_config() {
        ids.extend(named_end_ids(config, &generation)?);
    }
    // Models that also see may have theirs in the language model's part.
    let text = checkpoint.config().get("text_config");
    for config in [Some(checkpoint.config()), text].into_iter().flatten() {
        ids.extend(named_end_ids(config, checkpoint.config_path())?);
    }
    if let Some(tokenizer) = tokenizer {
        let eos = checkpoint
            .tokenizer_config()
            .and_then(|config| config.get("eos_token"))
            .and_then(token_text);
        ids.extend(eos.and_then(|text| tokenizer.token_id(&text)));
        ids.extend(tokenizer.end_tokens());
    }
    // Ids that the model does not have never come.
    ids.retain(|&id| (id as usize) < vocabulary);
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// What `eos_token_id` in a config names: nothing, an id or a list of ids.
fn named_end_ids(config: &Value, path: &Path) -> Result<Vec<u32>, Error> {
    let field = "eos_token_id";
    let ids = match config.get(field) {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(ids)) => ids,
        Some(id) => std::slice::from_ref(id),
    };
    let id = |value: &Value| {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| Error::EndTokens {
            path: path.into(),
            field,
            found: value.to_string().chars().take(40).collect(),
        })
    };
    ids.iter().map(id).collect()
}

/// A token in `tokenizer_config.json`: its text, or an object with its text as `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(Into::into)
}

/// `bos_token`, `eos_token` and their like, as chat templates see them.
fn special_variables(config: &Value) -> BTreeMap<String, String> {
    let fields = config.as_object().into_iter().flatten();
    let named = fields.filter(|(name, _)| name.ends_with("_token"));
    // Those of one model only have names of their own (huggingface/transformers
    // `tokenization_utils_base.py`, `extra_special_tokens`).
    let extra = config.get("extra_special_tokens").and_then(Value::as_object);
    let named = named.chain(extra.into_iter().flatten());
    named.filter_map(|(name, value)| Some((name.clone(), token_text(value)?))).collect()
}

/// The same of a GGUF model, which names them by id. Where a SentencePiece-style vocabulary does not
/// say, ids are those that it has by custom (ggml-org/llama.cpp `src/llama-vocab.cpp`,
/// `llama_vocab::impl::load`).
fn gguf_variables(found: &GgufTokenizer) -> BTreeMap<String, String> {
    let customary = |id| (found.model == "llama").then_some(id);
    let ids = [
        ("bos_token", found.bos.or(customary(1))),
        ("eos_token", found.eos.or(customary(2))),
        ("unk_token", found.unknown.or(customary(0))),
        ("pad_token", found.padding),
        ("sep_token", found.separator),
        ("cls_token", found.class),
        ("mask_token", found.mask),
    ];
    let text = |(name, id): (&str, Option<u32>)| {
        let text = found.tokens.get(usize::try_from(id?).ok()?)?;
        Some((name.to_owned(), text.clone()))
    };
    ids.into_iter().filter_map(text).collect()
}

/// The texts that `tokenizer_config.json` calls special.
pub(crate) fn special_texts(config: &Value) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gguf_models_name_their_tokens_by_id() {
        let tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<sep>", "<pad>"].map(Into::into).into();
        let gguf = |model: &str| GgufTokenizer {
            model: model.into(),
            tokens: tokens.clone(),
            ..GgufTokenizer::default()
        };
        let shown = |found: &GgufTokenizer| {
            let found = gguf_variables(found);
            found.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" ")
        };
        let named = GgufTokenizer {
            bos: Some(2),
            padding: Some(4),
            separator: Some(3),
            // Past the vocabulary.
            mask: Some(9),
            ..gguf("gpt2")
        };
        assert_eq!(shown(&named), "bos_token=</s> pad_token=<pad> sep_token=<sep>");
        assert_eq!(shown(&gguf("llama")), "bos_token=<s> eos_token=</s> unk_token=<unk>");
    }
}
