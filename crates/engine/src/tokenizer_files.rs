//! Tokenizers of folders without a `tokenizer.json`: what transformers would make of the files that are there.
//!
//! Converted are SentencePiece models, `vocab.json` with `merges.txt` where the class or model type says how text is split, and
//! BERT's `vocab.txt`. Others are refused with what makes a `tokenizer.json` of them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::pre_tokenizers::pre_tokenizer;
use crate::sentencepiece::{self, WAY_OUT};
use crate::text::special_texts;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// The largest file that is read whole.
const MAX_FILE: u64 = 256 << 20;

/// Names of SentencePiece models.
const MODELS: [&str; 4] =
    ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model"];

/// The tokenizer of a folder, if there are files of one; an error comes with the file that it is of.
pub(crate) fn read(
    folder: &Path,
    config: Option<&Value>,
    model_type: Option<&str>,
) -> Option<Result<Tokenizer, (PathBuf, TokenizerError)>> {
    let find = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    let (path, tokenizer) = if let Some(path) = MODELS.iter().find_map(|name| find(name)) {
        let tokenizer = read_file(&path).and_then(|bytes| {
            if is_tiktoken(&bytes) {
                return Err(tiktoken());
            }
            let added = find("added_tokens.json").map(|path| read_json(&path)).transpose()?;
            sentencepiece::build(&bytes, config, added.as_ref())
        });
        (path, tokenizer)
    } else if let (Some(vocab), Some(merges)) = (find("vocab.json"), find("merges.txt")) {
        let tokenizer = byte_level(&vocab, &merges, config, model_type);
        (vocab, tokenizer)
    } else if let Some(path) = find("vocab.txt") {
        let tokenizer = word_piece(&path, config);
        (path, tokenizer)
    } else {
        let path = find("tiktoken.model").or_else(|| find("tekken.json")).or_else(|| {
            let mut files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
            files.find(|path| path.extension().is_some_and(|end| end == "tiktoken"))
        })?;
        (path, Err(tiktoken()))
    };
    Some(tokenizer.map_err(|error| (path, error)))
}

fn tiktoken() -> TokenizerError {
    TokenizerError::Limit(format!(
        "a vocabulary in tiktoken's form does not say how text is split before merging; {WAY_OUT} \
         (with trust_remote_code=True where the folder has Python files)"
    ))
}

/// Lines of base64 and a number.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some((text, rank)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' '))
    else {
        return false;
    };
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    text.bytes().all(base64) && rank.trim_end().parse::<u32>().is_ok()
}

fn read_file(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let wrong = |error: std::io::Error| TokenizerError::Limit(error.to_string());
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mut bytes = vec![];
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(TokenizerError::Limit(format!("the file has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn read_json(path: &Path) -> Result<Value, TokenizerError> {
    serde_json::from_slice(&read_file(path)?)
        .map_err(|error| TokenizerError::Parse(format!("{}: {error}", name(path))))
}

fn read_text(path: &Path) -> Result<String, TokenizerError> {
    String::from_utf8(read_file(path)?)
        .map_err(|_| TokenizerError::Parse(format!("{} is not UTF-8", name(path))))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `vocab.json` and `merges.txt`, as GPT-2, Qwen2 and RoBERTa have them.
fn byte_level(
    vocab: &Path,
    merges: &Path,
    config: Option<&Value>,
    model_type: Option<&str>,
) -> Result<Tokenizer, TokenizerError> {
    let class = config.and_then(|config| config.get("tokenizer_class")).and_then(Value::as_str);
    let class = class.map(|class| class.trim_end_matches("Fast").trim_end_matches("Tokenizer"));
    let normalizer = |nfc: bool| if nfc { json!({"type": "NFC"}) } else { Value::Null };
    let (patterns, nfc, roberta) = match (class, model_type) {
        (Some("Qwen2" | "Qwen3" | "Qwen2VL"), _)
        | (None, Some("qwen2" | "qwen3" | "qwen2_moe" | "qwen3_moe" | "qwen2_vl" | "qwen3_vl")) => {
            ("qwen2", true, false)
        }
        (Some("Roberta" | "Bart" | "Longformer" | "Blenderbot"), _)
        | (None, Some("roberta" | "bart")) => ("gpt-2", false, true),
        (Some("GPT2" | "CodeGen" | "GPTNeoX" | "GPTNeo" | "OPT"), _)
        | (
            None,
            Some("gpt2" | "gpt_neo" | "gpt_neox" | "gptj" | "codegen" | "opt" | "gpt_bigcode"),
        ) => ("gpt-2", false, false),
        _ => {
            let what = class.or(model_type).unwrap_or("no class");
            return Err(TokenizerError::Limit(format!(
                "vocab.json and merges.txt do not say how text is split ({what:?} is not one that keeve knows); {WAY_OUT}"
            )));
        }
    };
    let patterns = pre_tokenizer(patterns).map(|pre| pre.patterns).unwrap_or_default();
    let vocab = read_json(vocab)?;
    let merges = read_text(merges)?;
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
    let flag = |name: &str, by_default: bool| {
        config.and_then(|config| config.get(name)).and_then(Value::as_bool).unwrap_or(by_default)
    };
    let mut steps: Vec<Value> = patterns
        .iter()
        .map(|pattern| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
        })
        .collect();
    let byte_level = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": false});
    let prefix = flag("add_prefix_space", false);
    if prefix {
        // The space comes before splitting.
        steps = vec![
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        ];
    } else {
        steps.push(byte_level(false));
    }
    let text = |name: &str| special_text(config, name);
    let id = |text: &str| vocab.get(text).and_then(Value::as_u64);
    let (before, after) = if roberta {
        let named = |name: &str, usual: &str| text(name).unwrap_or_else(|| usual.to_owned());
        (Some(named("bos_token", "<s>")), Some(named("eos_token", "</s>")))
    } else {
        (text("bos_token").filter(|_| flag("add_bos_token", false)), None)
    };
    let known = |text: Option<String>| text.and_then(|text| Some((id(&text)?, text)));
    let template = template(known(before), known(after));
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(config, &vocab),
        "normalizer": normalizer(nfc),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": template,
        "decoder": byte_level(false),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    });
    made(&json, config)
}

/// BERT's `vocab.txt`: a token a line.
fn word_piece(path: &Path, config: Option<&Value>) -> Result<Tokenizer, TokenizerError> {
    let text = read_text(path)?;
    let tokens = text.lines().map(|line| line.trim_end_matches('\r'));
    let vocab: Map<String, Value> =
        tokens.enumerate().map(|(id, token)| (token.to_owned(), id.into())).collect();
    let flag = |name: &str, by_default: bool| {
        config.and_then(|config| config.get(name)).and_then(Value::as_bool).unwrap_or(by_default)
    };
    let named =
        |name: &str, usual: &str| special_text(config, name).unwrap_or_else(|| usual.into());
    let unknown = named("unk_token", "[UNK]");
    if !vocab.contains_key(&unknown) {
        return Err(TokenizerError::Parse(format!(
            "vocab.txt lacks the unknown token {unknown:?}"
        )));
    }
    let known = |text: String| Some((vocab.get(&text)?.as_u64()?, text));
    let template = template(known(named("cls_token", "[CLS]")), known(named("sep_token", "[SEP]")));
    let strip = config.and_then(|config| config.get("strip_accents")).and_then(Value::as_bool);
    let vocab = Value::Object(vocab);
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(config, &vocab),
        "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars", true), "strip_accents": strip,
            "lowercase": flag("do_lower_case", true)},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    made(&json, config)
}

fn made(json: &Value, config: Option<&Value>) -> Result<Tokenizer, TokenizerError> {
    let special = config.map(special_texts).unwrap_or_default();
    let special: Vec<&str> = special.iter().map(String::as_str).collect();
    Tokenizer::from_json(json.to_string().as_bytes(), &special)
}

fn special_text(config: Option<&Value>, name: &str) -> Option<String> {
    let value = config?.get(name)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(Into::into)
}

/// The template that puts tokens around a text.
fn template(before: Option<(u64, String)>, after: Option<(u64, String)>) -> Option<Value> {
    if before.is_none() && after.is_none() {
        return None;
    }
    let mut named = Map::new();
    let mut piece = |token: Option<(u64, String)>| {
        let (id, text) = token?;
        named.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
        Some(json!({"SpecialToken": {"id": text, "type_id": 0}}))
    };
    let (before, after) = (piece(before), piece(after));
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<Value> = before.into_iter().chain([text]).chain(after).collect();
    Some(
        json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": named}),
    )
}

/// The tokens that `tokenizer_config.json` adds, by id; without such a list, the special ones that the vocabulary has.
fn added_tokens(config: Option<&Value>, vocab: &Value) -> Vec<Value> {
    let token = |id: u64, text: &str, of: Option<&Value>| {
        let flag = |name: &str, by_default: bool| {
            of.and_then(|of| of.get(name)).and_then(Value::as_bool).unwrap_or(by_default)
        };
        json!({"id": id, "content": text, "single_word": flag("single_word", false), "lstrip": flag("lstrip", false),
            "rstrip": flag("rstrip", false), "normalized": flag("normalized", false), "special": flag("special", true)})
    };
    let decoder =
        config.and_then(|config| config.get("added_tokens_decoder")).and_then(Value::as_object);
    let mut tokens: Vec<(u64, Value)> = match decoder {
        Some(decoder) => decoder
            .iter()
            .filter_map(|(id, of)| {
                let id = id.parse().ok()?;
                Some((id, token(id, of.get("content")?.as_str()?, Some(of))))
            })
            .collect(),
        None => {
            let special = config.map(special_texts).unwrap_or_default();
            let usual =
                ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "<|endoftext|>"].map(String::from);
            let all = special.into_iter().chain(usual);
            all.filter_map(|text| Some((vocab.get(&text)?.as_u64()?, text)))
                .map(|(id, text)| (id, token(id, &text, None)))
                .collect()
        }
    };
    tokens.sort_by_key(|(id, _)| *id);
    tokens.dedup_by_key(|(id, _)| *id);
    tokens.into_iter().map(|(_, token)| token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokenizer of a folder with these files.
    fn of(
        files: &[(&str, &str)],
        config: Value,
        model_type: Option<&str>,
    ) -> Result<Tokenizer, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let read = read(folder.path(), Some(&config), model_type).unwrap();
        read.map_err(|(path, error)| format!("{}: {error}", name(&path)))
    }

    const VOCAB: &str = r#"{"a": 0, "b": 1, "ab": 2, "\u0120": 3, "1": 4, "2": 5, "12": 6, "<s>": 7, "</s>": 8, "<|endoftext|>": 9}"#;
    const MERGES: &str = "#version: 0.2\na b\n1 2\n";

    #[test]
    fn vocab_and_merges_are_split_as_their_class_says() {
        let files = [("vocab.json", VOCAB), ("merges.txt", MERGES)];
        let encode = |config: Value, model_type, text: &str| {
            of(&files, config, model_type).unwrap().encode(text, true, true).unwrap()
        };
        let gpt2 = json!({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"});
        assert_eq!(encode(gpt2, None, "ab 12<|endoftext|>"), [2, 3, 6, 9]);
        let qwen = json!({"tokenizer_class": "Qwen2Tokenizer"});
        assert_eq!(encode(qwen, None, "ab 12"), [2, 3, 4, 5]);
        assert_eq!(encode(Value::Null, Some("qwen2"), "12"), [4, 5]);
        let roberta = json!({"tokenizer_class": "RobertaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"});
        assert_eq!(encode(roberta, None, "ab"), [7, 2, 8]);
        let error = of(&files, json!({"tokenizer_class": "BlipTokenizer"}), None).unwrap_err();
        assert!(error.contains("Blip") && error.contains("save_pretrained"), "{error}");
    }

    #[test]
    fn a_vocab_txt_is_berts() {
        let files = [("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\nwor\n##ld\n!\n")];
        let tokenizer = of(&files, Value::Null, None).unwrap();
        assert_eq!(
            tokenizer.encode("Hello world! x[SEP]", true, true).unwrap(),
            [2, 4, 5, 6, 7, 1, 3, 3]
        );
        assert_eq!(tokenizer.decode(&[4, 5, 6, 7], true).unwrap(), "hello world!");
        let cased = of(&files, json!({"do_lower_case": false}), None).unwrap();
        assert_eq!(cased.encode("Hello hello", false, true).unwrap(), [1, 4]);
        assert!(
            of(&[("vocab.txt", "a\n")], Value::Null, None).unwrap_err().contains("unknown token")
        );
    }

    #[test]
    fn tiktoken_files_are_refused_with_the_way_out() {
        for (name, text) in [
            ("qwen.tiktoken", "IQ== 0\n"),
            ("tokenizer.model", "IQ== 0\nIg== 1\n"),
            ("tekken.json", "{}"),
        ] {
            let error = of(&[(name, text)], Value::Null, None).unwrap_err();
            assert!(
                error.contains(name) && error.contains("save_pretrained") && !error.contains('\n'),
                "{error}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path(), None, None).is_none());
    }
}
