//! Tokenizers from GGUF metadata against llama.cpp's ids.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{data_folder, ids, json, text};
use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::tokenizer::{GgufTokenizer, TokenType};
use keeve_engine::gguf_tokenizer::build;
use serde_json::Value;

/// The tokenizer of metadata stored as JSON.
fn vocab(metadata: &Value) -> GgufTokenizer {
    let get = |key: &str| &metadata[format!("tokenizer.ggml.{key}")];
    let id = |key| get(key).as_u64().map(|id| id.try_into().unwrap());
    let strings = |key| {
        let list = get(key).as_array().cloned().unwrap_or_default();
        list.iter().map(|item| text(item).to_owned()).collect()
    };
    let kind = |kind: &Value| match kind.as_i64() {
        Some(1) => TokenType::Normal,
        Some(3) => TokenType::Control,
        other => panic!("{other:?}"),
    };
    GgufTokenizer {
        model: text(get("model")).to_owned(),
        pre: get("pre").as_str().map(Into::into),
        tokens: strings("tokens"),
        token_types: get("token_type").as_array().unwrap().iter().map(kind).collect(),
        scores: vec![],
        merges: strings("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        eot: None,
        eom: None,
        unknown: None,
        padding: None,
        add_bos: get("add_bos_token").as_bool(),
        add_eos: get("add_eos_token").as_bool(),
        add_space_prefix: None,
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

fn check(name: &str, found: &GgufTokenizer, reference: &Value) {
    let tokenizer = build(found).unwrap();
    for (id, piece) in reference["pieces_hex"].as_array().unwrap().iter().enumerate() {
        let bytes = tokenizer.token_bytes(id as u32);
        assert_eq!(bytes, Some(&hex(text(piece))[..]), "{name}: id {id}");
    }
    for case in reference["cases"].as_array().unwrap() {
        let source = text(&case["text"]);
        for (add, parse) in [(false, false), (false, true), (true, false), (true, true)] {
            let key = format!("add_special={},parse_special={}", u8::from(add), u8::from(parse));
            let encoded = tokenizer.encode(source, add, parse).unwrap();
            assert_eq!(encoded, ids(&case[&key]), "{name}: {key}: {source:?}");
        }
        let parsed = ids(&case["add_special=0,parse_special=1"]);
        let expected = if found.model == "llama" {
            hex(text(&case["detok_hex"]))
        } else {
            // Not `detok_hex`: llama.cpp's whole-text detokenizer also removes spaces before
            // apostrophes and punctuation there ("clean spaces"); its pieces do not.
            let pieces = &reference["pieces_hex"];
            parsed.iter().flat_map(|&id| hex(text(&pieces[id as usize]))).collect()
        };
        let decoded = tokenizer.decode(&parsed, false).unwrap();
        assert_eq!(decoded, String::from_utf8_lossy(&expected), "{name}: {source:?}");
    }
}

fn stored(name: &str) -> Value {
    json(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name))
}

#[test]
fn small_vocabularies_give_llama_cpps_ids() {
    for name in ["gguf_llama.json", "gguf_qwen2.json"] {
        let stored = stored(name);
        check(name, &vocab(&stored["metadata"]), &stored["reference"]);
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn all_fixtures_give_llama_cpps_ids() {
    let mut checked = 0;
    for entry in std::fs::read_dir(data_folder().join("fixtures/gguf_models")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let checkpoint = Checkpoint::open(&folder.join("model.gguf")).unwrap();
        let found = checkpoint.gguf_tokenizer().unwrap().unwrap();
        check(&name, &found, &json(&folder.join("tokenizer_ref.json")));
        checked += 1;
    }
    assert_eq!(checked, 16);
}

#[test]
fn bos_follows_the_key_and_then_the_default_of_pre() {
    let base = vocab(&stored("gguf_llama.json")["metadata"]);
    let first = |add_bos, pre: &str| {
        let found = GgufTokenizer { add_bos, pre: Some(pre.to_owned()), ..base.clone() };
        build(&found).unwrap().encode("a", true, true).unwrap()[0] == 507
    };
    assert!(
        first(Some(true), "llama-bpe") && first(None, "llama-bpe") && first(Some(true), "qwen2")
    );
    assert!(!first(Some(false), "llama-bpe") && !first(None, "qwen2"));
    let tokenizer = build(&GgufTokenizer { add_eos: Some(true), ..base }).unwrap();
    assert_eq!(tokenizer.encode("a", true, false).unwrap().last(), Some(&511));
}

#[test]
fn control_tokens_are_special_and_user_defined_ones_are_not() {
    let mut base = vocab(&stored("gguf_llama.json")["metadata"]);
    base.token_types[511] = TokenType::UserDefined;
    let eot = base.tokens[511].clone();
    let tokenizer = build(&base).unwrap();
    assert!(tokenizer.is_special(507) && !tokenizer.is_special(511));
    assert_eq!(tokenizer.encode(&eot, false, false).unwrap(), [511]);
}

type Change = fn(&mut GgufTokenizer);

fn refused(base: &GgufTokenizer, cases: &[(Change, &str)]) {
    for (change, expected) in cases {
        let mut changed = base.clone();
        change(&mut changed);
        let error = build(&changed).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn contradictions_are_errors_that_name_the_field() {
    let base = vocab(&stored("gguf_llama.json")["metadata"]);
    let cases: [(Change, &str); 13] = [
        (|v| v.model = "bert".to_owned(), "\"bert\" is not supported"),
        (|v| v.pre = Some("superbpe".to_owned()), "\"superbpe\" is not supported"),
        (|v| v.pre = None, "\"\" is not supported"),
        (|v| v.token_types.truncate(3), "3 entries for 512 tokens"),
        (|v| v.tokens[400] = v.tokens[300].clone(), "tokens 300 and 400 are both"),
        (|v| v.tokens[400].clear(), "token 400 is empty"),
        (|v| v.tokens[0] = "zzzz".to_owned(), "byte 0x21 has no token"),
        (|v| v.merges.insert(2, "q zzz".to_owned()), "merge 2 (\"q zzz\") needs token \"zzz\""),
        (|v| v.merges.insert(0, "z q".to_owned()), "needs token \"zq\""),
        (|v| v.merges[1] = "ab".to_owned(), "merge 1 is \"ab\", not a pair"),
        (|v| v.merges[1].clear(), "merge 1 is \"\", not a pair"),
        (|v| v.bos = Some(512), "bos_token_id: id 512 is past the 512 tokens"),
        (|v| v.bos = None, "bos_token_id: absent"),
    ];
    refused(&base, &cases);
    let empty = GgufTokenizer { tokens: vec![], token_types: vec![], merges: vec![], ..base };
    assert!(build(&empty).is_err());
}

/// All bytes, then `pieces` with their scores and kinds.
fn spm(pieces: &[(&str, f32, TokenType)]) -> GgufTokenizer {
    let mut found = vocab(&stored("gguf_llama.json")["metadata"]);
    found.model = "llama".to_owned();
    (found.pre, found.bos, found.eos, found.add_bos) = (None, None, None, Some(false));
    found.merges = vec![];
    found.tokens = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    found.token_types = vec![TokenType::Byte; 256];
    found.scores = vec![0.0; 256];
    for &(text, score, kind) in pieces {
        found.tokens.push(text.to_owned());
        found.scores.push(score);
        found.token_types.push(kind);
    }
    found
}

#[test]
fn merging_goes_by_score_and_then_from_the_left() {
    use TokenType::Normal;
    let found = spm(&[("aa", -1.0, Normal), ("ab", 0.0, Normal), ("aba", -0.0, Normal)]);
    let tokenizer =
        build(&GgufTokenizer { add_space_prefix: Some(false), ..found.clone() }).unwrap();
    // "a" and "b" are no tokens, yet their pairs merge; what stays single becomes bytes.
    for (text, expected) in [
        ("aaa", vec![256, 97]),
        ("aab", vec![97, 257]),
        // "ab" first, then the "aba" at the same place before the "ab" to its right.
        ("abab", vec![258, 98]),
        ("aabaa", vec![97, 258, 97]),
        ("\u{e9}", vec![0xc3, 0xa9]),
        ("", vec![]),
    ] {
        assert_eq!(tokenizer.encode(text, true, true).unwrap(), expected, "{text:?}");
    }
    // The space before text is there by default, and so is a BOS, whose id is 1.
    let tokenizer = build(&GgufTokenizer { add_bos: None, ..found }).unwrap();
    assert_eq!(tokenizer.encode("ab", true, true).unwrap(), [1, 0xe2, 0x96, 0x81, 257]);
    assert_eq!(tokenizer.encode("", true, true).unwrap(), [1]);
}

#[test]
fn whole_tokens_are_cut_out_the_longest_first_and_special_ones_only_if_asked() {
    use TokenType::{Control, Normal, UserDefined};
    let found = spm(&[
        ("<s", 0.0, Normal),
        ("<s>", 1.0, Control),
        ("xy", 0.0, UserDefined),
        ("yz!", 0.0, UserDefined),
        ("\u{2581}", 0.0, Normal),
    ]);
    let tokenizer = build(&found).unwrap();
    let encode = |text, parse| tokenizer.encode(text, false, parse).unwrap();
    // The end of "xyz!" is the longer token, so "xy" is not there any more.
    assert_eq!(encode("xyz!xy", false), [260, 120, 259, 258]);
    assert_eq!(encode("<s>q", true), [257, 260, 113]);
    assert_eq!(encode("<s>q", false), [260, 256, 62, 113]);
    // A space before text is dropped again, but only that of the first token, skipped or not.
    assert_eq!(tokenizer.decode(&[260, 113, 260, 113], true).unwrap(), "q q");
    assert_eq!(tokenizer.decode(&[257, 260, 113], true).unwrap(), " q");
    assert_eq!(tokenizer.decode(&[257, 260, 113], false).unwrap(), "<s> q");
}

#[test]
fn damaged_scores_and_bytes_are_refused() {
    let cases: [(Change, &str); 5] = [
        (|v| v.scores.truncate(9), "scores: 9 entries for 257 tokens"),
        (|v| v.scores[3] = f32::NAN, "token 3 has a score that is not a number"),
        (|v| v.tokens[10] = "<0xZZ>".into(), "byte 0x0a has no token"),
        (|v| v.token_types[256] = TokenType::Byte, "token 256 is \"q\", expected a byte"),
        (|v| v.eos = Some(257), "eos_token_id: id 257 is past the 257 tokens"),
    ];
    refused(&spm(&[("q", 0.0, TokenType::Normal)]), &cases);
}

#[test]
fn every_pre_tokenizer_is_a_valid_pattern_and_loses_no_text() {
    let base = vocab(&stored("gguf_llama.json")["metadata"]);
    let names = [
        "default",
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "pixtral",
        "dbrx",
        "smaug-bpe",
        "glm4",
        "qwen2",
        "qwen35",
        "stablelm2",
        "gpt-2",
        "phi-2",
        "mpt",
        "olmo",
        "starcoder",
        "refact",
        "command-r",
        "smollm",
        "falcon",
        "deepseek-coder",
        "tekken",
        "gpt-4o",
        "llama4",
        "deepseek-llm",
        "deepseek-v3",
        "seed-coder",
        "minicpm5",
        "bloom",
        "viking",
        "mellum2",
        "kormo",
    ];
    for name in names {
        let found = GgufTokenizer { pre: Some(name.to_owned()), ..base.clone() };
        let tokenizer = build(&found).unwrap();
        let text = "It's 12345 \u{c9}T\u{c9}s,\n\n  caf\u{e9}s \u{4e00}!";
        let ids = tokenizer.encode(text, false, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{name}");
    }
    // What llama.cpp knows and keeve does not is refused by name.
    for name in ["superbpe", "kimi-k2", "afmoe", "tiny_aya", "gemma4", "whitespace"] {
        let found = GgufTokenizer { pre: Some(name.to_owned()), ..base.clone() };
        let error = build(&found).unwrap_err().to_string();
        assert!(
            error.contains(&format!("tokenizer.ggml.pre \"{name}\" is not supported")),
            "{error}"
        );
    }
}
