//! Tokenizers against the reference ids and texts of Hugging Face tokenizers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use common::{bytes, data_folder, ids, json, text};
use keeve_engine::chat::{ChatTemplate, Message, RenderOptions, Segment};
use keeve_engine::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};

const FIXTURES: [&str; 3] = ["tok_qwen", "tok_llama3", "tok_gemma"];

/// A file of the repository's shared `testdata` folder.
fn shared(name: &str) -> std::path::PathBuf {
    std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn load(name: &str) -> Tokenizer {
    let path = shared("tokenizers").join(name).join("tokenizer.json");
    Tokenizer::from_json(&bytes(&path), &[]).unwrap()
}

fn reference(name: &str, file: &str) -> Value {
    json(&shared("tokenizers").join(name).join(file))
}

/// The decoder of the `tokenizers` crate itself.
fn library(name: &str) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(shared("tokenizers").join(name).join("tokenizer.json"))
        .unwrap()
}

fn from_value(value: &Value) -> Result<Tokenizer, String> {
    Tokenizer::from_json(value.to_string().as_bytes(), &[]).map_err(|error| error.to_string())
}

#[test]
fn ids_and_texts_equal_the_reference() {
    for name in FIXTURES {
        let tokenizer = load(name);
        let reference = reference(name, "reference.json");
        assert_eq!(tokenizer.vocab_size() as u64, reference["vocab_size"].as_u64().unwrap());
        for case in reference["encodings"].as_array().unwrap() {
            let source = text(&case["text"]);
            let encoded = tokenizer.encode(source, true, true).unwrap();
            assert_eq!(encoded, ids(&case["ids"]), "{name}: {source:?}");
            let bare = tokenizer.encode(source, false, true).unwrap();
            assert_eq!(bare, ids(&case["ids_no_special"]), "{name}: {source:?}");
            // The reference decodes the ids without the tokens put around the text.
            assert_eq!(tokenizer.decode(&bare, false).unwrap(), text(&case["decoded"]), "{name}");
            assert_eq!(
                tokenizer.decode(&bare, true).unwrap(),
                text(&case["decoded_skip"]),
                "{name}"
            );
        }
    }
}

#[test]
fn chats_render_and_encode_as_the_reference() {
    for name in FIXTURES {
        let tokenizer = load(name);
        let config = reference(name, "tokenizer_config.json");
        let chat = &reference(name, "reference.json")["chat"];
        let named: BTreeMap<String, String> = config
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| key.ends_with("_token"))
            .map(|(key, value)| (key.clone(), text(value).to_owned()))
            .collect();
        let source = text(&config["chat_template"]);
        let template = ChatTemplate::new(source, &named, tokenizer.special_tokens()).unwrap();
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let rendered = template.render(&messages, &options).unwrap();
        assert_eq!(rendered, text(&chat["rendered"]), "{name}");
        let segments = template.render_segments(&messages, &options).unwrap();
        assert_eq!(
            tokenizer.encode_segments(&segments, false).unwrap(),
            tokenizer.encode(&rendered, false, true).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn text_that_spells_special_tokens_stays_text() {
    for name in FIXTURES {
        let tokenizer = load(name);
        assert!(tokenizer.special_tokens().len() >= 5);
        for special in tokenizer.special_tokens() {
            let text = format!("a {special}{special} b");
            let plain = tokenizer.encode(&text, false, false).unwrap();
            assert!(!plain.iter().any(|&id| tokenizer.is_special(id)), "{name}: {special}");
            assert_eq!(tokenizer.decode(&plain, true).unwrap(), text, "{name}: nothing is lost");
            let parsed = tokenizer.encode(&text, false, true).unwrap();
            let id = tokenizer.token_id(special).unwrap();
            assert_eq!(parsed.iter().filter(|&&other| other == id).count(), 2, "{name}: {special}");
        }
    }
}

#[test]
fn tokens_the_configuration_calls_special_become_special() {
    let path = shared("tokenizers/tok_qwen/tokenizer.json");
    let before = load("tok_qwen");
    let ordinary = before.piece(300).unwrap();
    let special = [ordinary.as_str(), "[no such token]", ""];
    let tokenizer = Tokenizer::from_json(&bytes(&path), &special).unwrap();
    assert!(tokenizer.is_special(300) && !before.is_special(300));
    assert_eq!(tokenizer.vocab_size(), before.vocab_size());
    assert_eq!(tokenizer.special_tokens().len(), before.special_tokens().len() + 1);
    assert_eq!(tokenizer.decode(&[300], true).unwrap(), "");
}

/// A byte-level tokenizer with one non-special added token inside ordinary text.
#[test]
fn added_tokens_that_are_not_special_are_matched_in_both_modes() {
    let mut value = reference("tok_qwen", "tokenizer.json");
    let next = load("tok_qwen").vocab_size();
    value["added_tokens"].as_array_mut().unwrap().push(json!({
        "id": next, "content": "<think>", "special": false, "normalized": false,
        "lstrip": false, "rstrip": false, "single_word": false,
    }));
    let tokenizer = from_value(&value).unwrap();
    for parse_special in [false, true] {
        let ids = tokenizer.encode("a<think>b", false, parse_special).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id as usize == next).count(), 1);
    }
    // As in transformers, a wrong id is not what the token gets.
    value["added_tokens"].as_array_mut().unwrap().last_mut().unwrap()["id"] = json!(next + 5);
    let tokenizer = from_value(&value).unwrap();
    assert_eq!(tokenizer.token_id("<think>"), Some(next as u32));
    let note = &tokenizer.notes()[0];
    assert!(note.contains("<think>") && note.contains(&(next + 5).to_string()), "{note}");
}

/// A SentencePiece-style tokenizer whose own vocabulary holds its special tokens, which mark the
/// start of text only, and one of which swallows the white space after it.
fn unigram(prepend: &str) -> Value {
    let added = |id: u32, content: &str, rstrip: bool| {
        json!({"id": id, "content": content, "special": true, "normalized": false,
            "lstrip": false, "rstrip": rstrip, "single_word": false})
    };
    let mut vocab = vec![json!(["<unk>", 0.0]), json!(["<s>", 0.0]), json!(["</s>", 0.0])];
    for piece in ["\u{2581}", "<", ">", "/", "s", "a", "b", "ab", "\u{2581}a", "\n", "\u{2581}ab"] {
        vocab.push(json!([piece, -1.0 - piece.len() as f64 / 100.0]));
    }
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}",
        "prepend_scheme": prepend, "split": false});
    json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>", false), added(1, "<s>", false), added(2, "</s>", true)],
        "normalizer": null, "pre_tokenizer": metaspace, "post_processor": null,
        "decoder": metaspace, "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab,
        "byte_fallback": false}})
}

#[test]
fn special_tokens_the_model_itself_would_assemble_are_cut_apart() {
    let tokenizer = from_value(&unigram("first")).unwrap();
    for source in ["<s>", "a<s><s></s>b", "</s></s>", "ab</s>\nab <s"] {
        let plain = tokenizer.encode(source, false, false).unwrap();
        assert!(!plain.iter().any(|&id| id == 1 || id == 2), "{source:?}: {plain:?}");
        assert_eq!(tokenizer.decode(&plain, false).unwrap(), source);
    }
    // A character the model does not know is not an attack.
    assert_eq!(tokenizer.encode("é", false, false).unwrap().last(), Some(&0));
}

#[test]
fn segments_encode_as_the_whole_text_does() {
    let segment = |text: &str, trusted| Segment { text: text.to_owned(), trusted };
    for prepend in ["first", "always", "never"] {
        let tokenizer = from_value(&unigram(prepend)).unwrap();
        for parts in [
            vec![
                ("ab a", false),
                ("<s>", true),
                ("ab ab", false),
                ("</s>", true),
                ("\n ab", false),
            ],
            vec![("<s>", true), ("ab", false), ("</s>", true), ("</s>", true), (" a", false)],
            vec![("", false), (" ab", false)],
            vec![],
        ] {
            let segments: Vec<Segment> =
                parts.iter().map(|&(t, trusted)| segment(t, trusted)).collect();
            let whole: String = parts.iter().map(|&(text, _)| text).collect();
            if parts.first().is_some_and(|first| first.0.is_empty()) {
                continue;
            }
            assert_eq!(
                tokenizer.encode_segments(&segments, true).unwrap(),
                tokenizer.encode(&whole, true, true).unwrap(),
                "{prepend}: {whole:?}"
            );
        }
    }
}

#[test]
fn unknown_ids_are_errors_that_name_them() {
    let tokenizer = load("tok_qwen");
    for id in [512, u32::MAX] {
        let error = tokenizer.decode(&[1, id], false).unwrap_err().to_string();
        assert!(error.contains(&id.to_string()) && error.contains("512"), "{error}");
        assert_eq!((tokenizer.token_bytes(id), tokenizer.piece(id)), (None, None));
    }
}

#[test]
fn characters_are_never_broken_while_streaming() {
    for name in FIXTURES {
        let tokenizer = load(name);
        let source = "né 😀 a👍🏽b 日本 c";
        let mut detokenizer = tokenizer.detokenizer(true);
        let (mut streamed, mut chunks) = (String::new(), 0);
        for id in tokenizer.encode(source, false, false).unwrap() {
            if let Some(chunk) = detokenizer.push(id).unwrap() {
                assert!(!chunk.is_empty() && !chunk.contains('\u{fffd}'), "{name}: {chunk:?}");
                streamed.push_str(&chunk);
                chunks += 1;
                assert!(source.starts_with(&streamed));
            }
        }
        streamed.extend(detokenizer.finish());
        assert_eq!(streamed, source);
        assert!(chunks > 1, "{name} streams");
    }
}

#[test]
fn hostile_files_are_errors() {
    let good = reference("tok_qwen", "tokenizer.json");
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        from_value(&value).unwrap_err()
    };
    assert!(
        broken(&|v| v["model"]["merges"][0] = json!(["no", "such"])).contains("valid tokenizer")
    );
    let fuse = json!({"type": "Fuse"});
    let sequence =
        json!({"type": "Sequence", "decoders": [fuse, {"type": "Metaspace", "replacement": "_"}]});
    assert!(broken(&|v| v["decoder"] = sequence.clone()).contains("tokenizer"));
    assert!(broken(&|v| v["model"]["vocab"]["!"] = json!(4_000_000_000u32)).contains("4000000000"));
    assert!(broken(&|v| v["pre_tokenizer"] = json!({"type": "Split"})).contains("tokenizer"));
    let post = json!({"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"x": {"id": "x", "ids": [70000], "tokens": ["x"]}}});
    let mut value = good.clone();
    value["post_processor"] = post;
    // The id appears only when text is encoded.
    let outcome = from_value(&value).map(|t| t.encode("a", true, true).map_err(|e| e.to_string()));
    let error = match outcome {
        Ok(encoded) => encoded.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.contains("70000") || error.contains("valid tokenizer"), "{error}");
    for bytes in [&b""[..], b"{}", b"[1]", b"\xff\xfe", b"{\"model\": {\"type\": \"BPE\"}}"] {
        assert!(Tokenizer::from_json(bytes, &[]).is_err());
    }
    let text = good.to_string();
    for end in (0..text.len()).step_by(997) {
        assert!(Tokenizer::from_json(&text.as_bytes()[..end], &[]).is_err(), "cut at {end}");
    }
}

#[test]
fn long_runs_are_encoded_in_reasonable_work() {
    for name in FIXTURES {
        let tokenizer = load(name);
        for run in [" ", "a", "é", "<"] {
            let source = run.repeat(50_000);
            let encoded = tokenizer.encode(&source, false, false).unwrap();
            assert_eq!(tokenizer.decode(&encoded, false).unwrap(), source);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Streaming, decoding at once and the library agree on arbitrary ids, valid text or not.
    #[test]
    fn streaming_equals_the_librarys_decode(
        raw in prop::collection::vec(0u32..512, 0..60),
        skip_special: bool,
    ) {
        for name in FIXTURES {
            let tokenizer = load(name);
            let ids: Vec<u32> =
                raw.iter().copied().filter(|&id| tokenizer.piece(id).is_some()).collect();
            let mut detokenizer = tokenizer.detokenizer(skip_special);
            let mut streamed = String::new();
            for &id in &ids {
                streamed.extend(detokenizer.push(id).unwrap());
            }
            streamed.extend(detokenizer.finish());
            prop_assert_eq!(&streamed, &tokenizer.decode(&ids, skip_special).unwrap());
            prop_assert_eq!(&streamed, &library(name).decode(&ids, skip_special).unwrap(), "{}", name);
        }
    }

    /// The same for decoders that strip the start of the text.
    #[test]
    fn stripping_decoders_equal_the_librarys(
        ids in prop::collection::vec(0u32..14, 0..12),
        strip in 0usize..3,
    ) {
        let mut value = unigram("always");
        let metaspace = value.clone();
        value["decoder"] = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": strip, "stop": 0}]});
        for value in [value, metaspace] {
            let source = value.to_string();
            let ours = from_value(&value).unwrap().decode(&ids, false).unwrap();
            let theirs: tokenizers::Tokenizer = source.parse().unwrap();
            prop_assert_eq!(ours, theirs.decode(&ids, false).unwrap());
        }
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn the_demo_models_tokenizer_equals_its_reference() {
    let folder = data_folder().join("models/demo-qwen3");
    let tokenizer = Tokenizer::from_json(&bytes(&folder.join("tokenizer.json")), &[]).unwrap();
    let reference = json(&folder.join("reference.json"));
    for case in reference["tokenizer_cases"].as_array().unwrap() {
        let encoded = tokenizer.encode(text(&case["text"]), true, true).unwrap();
        assert_eq!(encoded, ids(&case["ids"]), "{}", case["text"]);
    }
    let source = String::from_utf8(bytes(&folder.join("chat_template.jinja"))).unwrap();
    let template =
        ChatTemplate::new(&source, &BTreeMap::new(), tokenizer.special_tokens()).unwrap();
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let mut chats = 0;
    for generation in reference["generations"].as_array().unwrap() {
        let prompt = text(&generation["prompt"]);
        let prompt_ids = ids(&generation["prompt_ids"]);
        assert_eq!(tokenizer.encode(prompt, true, true).unwrap(), prompt_ids);
        let answer = ids(&generation["greedy_ids_48"]);
        assert_eq!(tokenizer.decode(&answer, false).unwrap(), text(&generation["greedy_text"]));
        let question = prompt
            .strip_prefix("<|im_start|>user\n")
            .and_then(|rest| rest.strip_suffix("<|im_end|>\n<|im_start|>assistant\n"));
        if let Some(question) = question.filter(|question| !question.contains("<|")) {
            let segments =
                template.render_segments(&[Message::text("user", question)], &options).unwrap();
            assert_eq!(tokenizer.encode_segments(&segments, true).unwrap(), prompt_ids);
            chats += 1;
        }
    }
    assert!(chats >= 2);
}
