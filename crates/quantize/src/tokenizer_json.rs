//! A `tokenizer.json` from the tables of a GGUF file: the other direction of `gguf/vocabulary.rs`.

use keeve_checkpoint::gguf::tokenizer::{GgufTokenizer, TokenType};
use serde_json::{Map, Value, json};

/// `tokenizer.json` and `tokenizer_config.json` for a byte-level tokenizer.
///
/// # Errors
/// One line, if it is of another kind, or splits text in a way that is not known.
pub(crate) fn files(
    found: &GgufTokenizer,
    template: Option<&str>,
) -> Result<(Value, Value), String> {
    if found.model != "gpt2" {
        let model = &found.model;
        return Err(format!(
            "tokenizer.ggml.model is '{model}'; only byte-level ('gpt2') ones become tokenizer.json"
        ));
    }
    let name = found.pre.as_deref().unwrap_or_default();
    let pre = keeve_engine::gguf_tokenizer::pre_tokenizer_rules(name)
        .filter(|pre| !pre.characters)
        .ok_or_else(|| format!("tokenizer.ggml.pre '{name}' is not known, or is not of bytes"))?;
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, token) in found.tokens.iter().enumerate() {
        let kind = found.token_types.get(id).copied().unwrap_or(TokenType::Normal);
        let special = matches!(kind, TokenType::Control | TokenType::Unknown);
        match kind {
            TokenType::Normal | TokenType::Byte => {
                // Of a text that several tokens have, the first is the one that text becomes.
                vocab.entry(token.clone()).or_insert_with(|| id.into());
            }
            // A place without a token.
            TokenType::Unused => {}
            TokenType::Control | TokenType::Unknown | TokenType::UserDefined => {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": special,
                }));
            }
        }
    }
    let merges: Vec<Value> = found
        .merges
        .iter()
        .filter_map(|merge| {
            // The first character may be a space itself.
            let (at, _) = merge.char_indices().skip(1).find(|(_, letter)| *letter == ' ')?;
            let (left, right) = (&merge[..at], &merge[at + 1..]);
            // The `tokenizers` crate refuses merges of what is no token.
            let known = |text: &str| vocab.contains_key(text);
            let usable = known(left) && known(right) && known(&format!("{left}{right}"));
            usable.then(|| json!([left, right]))
        })
        .collect();
    let mut steps: Vec<Value> = pre
        .patterns
        .iter()
        .map(|pattern| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                   "invert": false})
        })
        .collect();
    let byte_level = |regex: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
               "use_regex": regex})
    };
    steps.push(byte_level(false));
    let text = |id: Option<u32>| id.and_then(|id| found.tokens.get(id as usize)).cloned();
    let bos = text(found.bos);
    let puts_bos = found.add_bos.unwrap_or(pre.add_bos);
    let post = match (&bos, found.bos) {
        (Some(bos), Some(id)) if puts_bos => {
            let sequence = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
            let special = |kind: u32| json!({"SpecialToken": {"id": bos, "type_id": kind}});
            json!({"type": "TemplateProcessing",
                "single": [special(0), sequence("A", 0)],
                "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
                "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}}})
        }
        _ => byte_level(false),
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": post,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": text(found.eos),
        "pad_token": text(found.padding),
        "unk_token": null,
        "add_bos_token": puts_bos,
        "clean_up_tokenization_spaces": false,
    });
    if let Some(template) = template {
        config["chat_template"] = template.into();
    }
    Ok((tokenizer, config))
}
