//! Tokenizers from GGUF metadata against llama.cpp's ids.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{bytes, data_folder, ids, json, text};
use keeve_engine::gguf_tokenizer::GgufVocab;
use serde_json::{Map, Value, json};

/// Just enough of a GGUF reader to get at the metadata of a trusted file.
struct Metadata<'a>(&'a [u8]);

impl Metadata<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_first_chunk().unwrap();
        self.0 = tail;
        *head
    }

    fn length(&mut self) -> usize {
        u64::from_le_bytes(self.take()).try_into().unwrap()
    }

    fn string(&mut self) -> String {
        let length = self.length();
        let (head, tail) = self.0.split_at(length);
        self.0 = tail;
        String::from_utf8(head.to_vec()).unwrap()
    }

    /// Value types: ggml-org/ggml, `docs/gguf.md`.
    fn value(&mut self, kind: u32) -> Value {
        match kind {
            0 | 1 => json!(self.take::<1>()[0]),
            2 | 3 => json!(u16::from_le_bytes(self.take())),
            4 => json!(u32::from_le_bytes(self.take())),
            5 => json!(i32::from_le_bytes(self.take())),
            6 => json!(f32::from_le_bytes(self.take())),
            7 => json!(self.take::<1>()[0] != 0),
            8 => json!(self.string()),
            9 => {
                let kind = u32::from_le_bytes(self.take());
                let length = self.length();
                (0..length).map(|_| self.value(kind)).collect()
            }
            10 => json!(u64::from_le_bytes(self.take())),
            11 => json!(i64::from_le_bytes(self.take())),
            12 => json!(f64::from_le_bytes(self.take())),
            other => panic!("value type {other}"),
        }
    }

    fn read(file: &[u8]) -> Value {
        let mut reader = Metadata(file);
        assert_eq!(&reader.take::<4>(), b"GGUF");
        let _version = reader.take::<4>();
        let _tensors = reader.length();
        let count = reader.length();
        let mut map = Map::new();
        for _ in 0..count {
            let key = reader.string();
            let kind = u32::from_le_bytes(reader.take());
            map.insert(key, reader.value(kind));
        }
        Value::Object(map)
    }
}

fn vocab(metadata: &Value) -> GgufVocab {
    let get = |key: &str| &metadata[format!("tokenizer.ggml.{key}")];
    let id = |key| get(key).as_u64().map(|id| id.try_into().unwrap());
    let strings = |key| {
        let list = get(key).as_array().cloned().unwrap_or_default();
        list.iter().map(|item| text(item).to_owned()).collect()
    };
    GgufVocab {
        model: text(get("model")).to_owned(),
        pre: get("pre").as_str().unwrap_or_default().to_owned(),
        tokens: strings("tokens"),
        token_types: get("token_type")
            .as_array()
            .unwrap()
            .iter()
            .map(|kind| kind.as_i64().unwrap().try_into().unwrap())
            .collect(),
        merges: strings("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        add_bos: get("add_bos_token").as_bool(),
        add_eos: get("add_eos_token").as_bool(),
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

fn check(name: &str, metadata: &Value, reference: &Value) {
    let tokenizer = vocab(metadata).build().unwrap();
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
        // Not compared with `detok_hex`: llama.cpp's whole-text detokenizer also removes spaces
        // before apostrophes and punctuation there ("clean spaces"); its pieces do not.
        let parsed = ids(&case["add_special=0,parse_special=1"]);
        let pieces = &reference["pieces_hex"];
        let joined: Vec<u8> =
            parsed.iter().flat_map(|&id| hex(text(&pieces[id as usize]))).collect();
        let decoded = tokenizer.decode(&parsed, false).unwrap();
        assert_eq!(decoded, String::from_utf8_lossy(&joined), "{name}: {source:?}");
    }
}

fn stored(name: &str) -> Value {
    json(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name))
}

#[test]
fn small_vocabularies_give_llama_cpps_ids() {
    for name in ["gguf_llama.json", "gguf_qwen2.json"] {
        let stored = stored(name);
        check(name, &stored["metadata"], &stored["reference"]);
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn all_byte_level_fixtures_give_llama_cpps_ids() {
    let mut checked = 0;
    for entry in std::fs::read_dir(data_folder().join("fixtures/gguf_models")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let metadata = Metadata::read(&bytes(&folder.join("model.gguf")));
        if name.starts_with("llama-spm") || name.starts_with("gemma3") {
            let error = vocab(&metadata).build().unwrap_err().to_string();
            assert!(error.contains("\"llama\" is not supported"), "{error}");
            continue;
        }
        check(&name, &metadata, &json(&folder.join("tokenizer_ref.json")));
        checked += 1;
    }
    assert_eq!(checked, 9, "llama, qwen2, qwen3 and demo folders");
}

#[test]
fn bos_follows_the_key_and_then_the_default_of_pre() {
    let base = vocab(&stored("gguf_llama.json")["metadata"]);
    let first = |add_bos, pre: &str| {
        let vocab = GgufVocab { add_bos, pre: pre.to_owned(), ..base.clone() };
        vocab.build().unwrap().encode("a", true, true).unwrap()[0] == 507
    };
    assert!(
        first(Some(true), "llama-bpe") && first(None, "llama-bpe") && first(Some(true), "qwen2")
    );
    assert!(!first(Some(false), "llama-bpe") && !first(None, "qwen2"));
    let tokenizer = GgufVocab { add_eos: Some(true), ..base }.build().unwrap();
    assert_eq!(tokenizer.encode("a", true, false).unwrap().last(), Some(&511));
}

#[test]
fn control_tokens_are_special_and_user_defined_ones_are_not() {
    let mut base = vocab(&stored("gguf_llama.json")["metadata"]);
    base.token_types[511] = 4;
    let eot = base.tokens[511].clone();
    let tokenizer = base.build().unwrap();
    assert!(tokenizer.is_special(507) && !tokenizer.is_special(511));
    assert_eq!(tokenizer.encode(&eot, false, false).unwrap(), [511]);
}

#[test]
fn contradictions_are_errors_that_name_the_field() {
    let base = vocab(&stored("gguf_llama.json")["metadata"]);
    type Change = fn(&mut GgufVocab);
    let cases: [(Change, &str); 13] = [
        (|v| v.model = "llama".to_owned(), "\"llama\" is not supported"),
        (|v| v.pre = "dbrx".to_owned(), "\"dbrx\" is not supported"),
        (|v| v.pre.clear(), "\"\" is not supported"),
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
    for (change, expected) in cases {
        let mut vocab = base.clone();
        change(&mut vocab);
        let error = vocab.build().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains('\n'));
    }
    assert!(
        GgufVocab { model: "gpt2".to_owned(), pre: "qwen2".to_owned(), ..GgufVocab::default() }
            .build()
            .is_err()
    );
}
