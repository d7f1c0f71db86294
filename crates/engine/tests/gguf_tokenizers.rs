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
        merges: strings("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        add_bos: get("add_bos_token").as_bool(),
        add_eos: get("add_eos_token").as_bool(),
        ..GgufTokenizer::default()
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
    base.token_types[500] = TokenType::UserDefined;
    base.tokens[500] = "<think>".to_owned();
    // A marker is one whatever its type.
    base.token_types[511] = TokenType::UserDefined;
    let tokenizer = build(&base).unwrap();
    assert!(tokenizer.is_special(507) && tokenizer.is_special(511) && !tokenizer.is_special(500));
    assert_eq!(tokenizer.encode("<think>", false, false).unwrap(), [500]);
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
    let cases: [(Change, &str); 2] = [
        (|v| v.model = "hybriddna".to_owned(), "\"hybriddna\" is not supported"),
        (|v| v.token_types.truncate(3), "3 entries for 512 tokens"),
    ];
    refused(&base, &cases);
}

/// Whether a text becomes the same bytes again.
fn round_trip(found: &GgufTokenizer, source: &str) -> (Vec<u32>, Vec<String>) {
    let tokenizer = build(found).unwrap();
    let ids = tokenizer.encode(source, false, false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), source);
    (ids, tokenizer.notes().to_vec())
}

#[test]
fn what_is_amiss_and_clear_is_taken_with_a_note_where_it_may_cost_something() {
    let base = vocab(&stored("gguf_llama.json")["metadata"]);
    let changed = |change: Change| {
        let mut found = base.clone();
        change(&mut found);
        found
    };
    let (expected, none) = round_trip(&base, "hello there, it's 2024");
    assert!(none.is_empty());
    // The rule for splitting is not known: the default one, and one note.
    for pre in [Some("no such"), None, Some("")] {
        let found = GgufTokenizer { pre: pre.map(Into::into), ..base.clone() };
        let (_, notes) = round_trip(&found, "hello there");
        assert!(notes.len() == 1 && notes[0].contains("tokenizer.ggml.pre"), "{notes:?}");
    }
    // A BOS that there is not.
    let no_bos = changed(|v| v.bos = None);
    let tokenizer = build(&no_bos).unwrap();
    assert!(tokenizer.notes()[0].contains("bos_token_id"), "{:?}", tokenizer.notes());
    assert_eq!(
        tokenizer.encode("a", true, true).unwrap(),
        tokenizer.encode("a", false, true).unwrap()
    );
    // The same token twice, an empty one, one that nothing uses, merges that are none.
    let changes: [Change; 4] = [
        |v| v.tokens.push(v.tokens[300].clone()),
        |v| v.tokens.push(String::new()),
        |v| v.merges.push("q zzz".to_owned()),
        |v| v.merges.insert(0, "zz zq".to_owned()),
    ];
    for change in changes {
        let mut found = changed(change);
        found.token_types.resize(found.tokens.len(), TokenType::Normal);
        assert_eq!(round_trip(&found, "hello there, it's 2024").0, expected);
    }
    let (ids, notes) = round_trip(&changed(|v| v.merges.insert(1, "ab".to_owned())), "hello");
    assert!(!ids.is_empty() && notes[0].contains("1 of"), "{notes:?}");
    // No types: the same text, and markers are markers still.
    let untyped = changed(|v| v.token_types.clear());
    assert_eq!(round_trip(&untyped, "hello there, it's 2024").0, expected);
    assert!(build(&untyped).unwrap().is_special(507));
    // Nothing at all.
    let empty = GgufTokenizer { tokens: vec![], token_types: vec![], merges: vec![], ..base };
    assert!(build(&empty).unwrap().encode("a", true, true).unwrap().is_empty());
}

#[test]
fn the_first_of_equal_tokens_encodes_and_all_decode() {
    let mut found = vocab(&stored("gguf_llama.json")["metadata"]);
    let twice = found.tokens[300].clone();
    found.tokens.push(twice);
    found.token_types.push(TokenType::Normal);
    let tokenizer = build(&found).unwrap();
    assert_eq!(tokenizer.token_bytes(300), tokenizer.token_bytes(512));
    assert_eq!(tokenizer.token_id(&tokenizer.piece(512).unwrap()), Some(300));
    assert_eq!(tokenizer.vocab_size(), 513);
}

/// A byte without a token is left out, and does not join what is beside it.
#[test]
fn bytes_without_tokens_are_left_out() {
    let tokens = ["a", "b", "ab", "x", "axb"].map(str::to_owned);
    let found = GgufTokenizer {
        model: "gpt2".to_owned(),
        pre: Some("gpt-2".to_owned()),
        token_types: vec![TokenType::Normal; tokens.len()],
        tokens: tokens.to_vec(),
        merges: vec!["a b".to_owned(), "a x".to_owned(), "ax b".to_owned()],
        ..GgufTokenizer::default()
    };
    let tokenizer = build(&found).unwrap();
    let encode = |text| tokenizer.encode(text, false, false).unwrap();
    assert_eq!(encode("ab"), [2]);
    assert_eq!(encode("aéb"), [0, 1]);
    // "ax" is no token, but what is made of it is; where it stays, it is taken apart.
    assert_eq!(encode("axb"), [4]);
    assert_eq!(encode("axa"), [0, 3, 0]);
    assert_eq!(tokenizer.least_tokens("abab"), 0);
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
    let cases: [(Change, &str); 4] = [
        (|v| v.scores.truncate(9), "scores: 9 entries for 257 tokens"),
        (|v| v.scores[3] = f32::NAN, "token 3 has a score that is not a number"),
        (|v| v.tokens[10] = "<0xZZ>".into(), "token 10 is \"<0xZZ>\", expected a byte"),
        (|v| v.token_types[256] = TokenType::Byte, "token 256 is \"q\", expected a byte"),
    ];
    refused(&spm(&[("q", 0.0, TokenType::Normal)]), &cases);
    // These try all lengths at each place.
    let cases: [(Change, &str); 3] = [
        (|v| v.model = "t5".into(), "token 256 has 1025 bytes, at most 1024 are accepted"),
        (|v| v.model = "bert".into(), "token 256 has 1025 bytes, at most 1024 are accepted"),
        (|v| v.model = "rwkv".into(), "token 256 has 1025 bytes, at most 1024 are accepted"),
    ];
    let long = "q".repeat(1025);
    let base = spm(&[(&long, 0.0, TokenType::Normal)]);
    refused(&base, &cases);
    assert!(build(&base).is_ok());
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
        "falcon-h1",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
        "chatglm-bpe",
        "glm5",
        "jais",
        "jais-2",
        "deepseek-r1-qwen",
        "megrez",
        "hunyuan",
        "solar-open",
        "grok-2",
        "f2llmv2",
        "exaone",
        "exaone4",
        "exaone-moe",
        "trillion",
        "granite-docling",
        "gigachat",
        "a.x-4.0",
        "mellum",
        "jina-es",
        "jina-de",
        "jina-v1-en",
        "jina-v2-es",
        "jina-v2-de",
        "jina-v2-code",
        "modern-bert",
        "roberta-bpe",
        "codeshell",
        "minerva-7b",
        "hunyuan-dense",
        "joyai-llm",
        "hy_v4",
        "spark2_5",
        "youtu",
        "kanana2",
        "talkie",
        "minimax-m2",
        "granite-embed-multi-97m",
        "tiny_aya",
        "cohere2moe",
        "kimi-k2",
        "superbpe",
        "bailingmoe",
        "bailingmoe2",
        "llada-moe",
        "ufakzeka",
        "afmoe",
        "laguna",
        "chameleon",
        "poro-chat",
        "gpt3-finnish",
    ];
    for name in names {
        let found = GgufTokenizer { pre: Some(name.to_owned()), ..base.clone() };
        let text = "It's 12345 \u{c9}T\u{c9}s,\n\n  caf\u{e9}s \u{4e00}!";
        let (_, notes) = round_trip(&found, text);
        assert!(notes.is_empty(), "{name}: {notes:?}");
    }
}

/// llama.cpp's own vocabulary test (its `tests/test-tokenizer-0.cpp`): files `ggml-vocab-*.gguf` with texts in `.inp` and ids
/// in `.out`, in the folder that `KEEVE_PEER_VOCAB` names; they are part of its sources, in `models`. No special tokens
/// are added or recognised.
#[test]
#[ignore = "needs KEEVE_PEER_VOCAB, the folder of llama.cpp's vocabularies"]
fn vocabularies_of_llama_cpp_give_its_ids() {
    let folder = std::env::var_os("KEEVE_PEER_VOCAB").expect("KEEVE_PEER_VOCAB names a folder");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .collect();
    files.sort();
    let (mut passed, mut all, mut wrong) = (0, 0, vec![]);
    for file in files {
        let beside = |extension: &str| {
            let mut name = file.clone().into_os_string();
            name.push(extension);
            std::fs::read(name).ok().map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let checkpoint = Checkpoint::open(&file).unwrap();
        let tokenizer = build(&checkpoint.gguf_tokenizer().unwrap().unwrap()).unwrap();
        for note in tokenizer.notes() {
            println!("{name}: {note}");
        }
        // Some come without texts: then it counts that they load.
        let (Some(texts), Some(expected)) = (beside(".inp"), beside(".out")) else {
            println!("{name}: loads; no texts");
            continue;
        };
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let before = passed;
        // The last text may be empty, and so the last line.
        let expected = expected.lines().chain(std::iter::repeat(""));
        for (text, expected) in texts.iter().zip(expected) {
            let expected: Vec<u32> =
                expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let ids = tokenizer.encode(text, false, false).unwrap();
            all += 1;
            if ids == expected {
                passed += 1;
            } else {
                wrong.push(format!("{name}: {text:?}: {ids:?}, expected {expected:?}"));
            }
        }
        println!("{name}: {} of {}", passed - before, texts.len());
    }
    // What `cargo xtask peers` counts.
    println!("peers: llama.cpp vocabularies | {passed} | {all} |");
    assert!(all > 0 && wrong.is_empty(), "{}", wrong.join("\n"));
}
