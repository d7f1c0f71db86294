//! GGUF files.

use super::common::{RawGguf, llama_gguf, llama_metadata};
use super::{assert_refused, refusal};

/// A GGUF whose only value is `general.architecture`, with records and data by `rest`.
fn gguf_with(tensors: u64, rest: impl FnOnce(&mut RawGguf) -> Vec<u8>) -> Vec<u8> {
    let mut raw = RawGguf::new(3, tensors, 1);
    raw.text("general.architecture").u32(8).text("qwen3");
    rest(&mut raw)
}

/// A GGUF with one value, written by `rest` after its key `k`.
fn gguf_value(rest: impl FnOnce(&mut RawGguf)) -> Vec<u8> {
    let mut raw = RawGguf::new(3, 0, 1);
    raw.text("k");
    rest(&mut raw);
    raw.data(64)
}

#[test]
pub fn metadata_that_lie() {
    let max = u64::MAX;
    let nested = |deep: usize| {
        gguf_value(|raw| {
            raw.u32(9);
            for _ in 0..deep {
                raw.u32(9).u64(1);
            }
            raw.u32(0).u64(1);
        })
    };
    let alignment = |value: u64| {
        let mut raw = RawGguf::new(3, 0, 1);
        raw.text("general.alignment").u32(10).u64(value);
        raw.data(64)
    };
    let mut twice = RawGguf::new(3, 0, 2);
    twice.text("k").u32(4).u32(1).text("k").u32(4).u32(1);
    let mut wrong_alignment = RawGguf::new(3, 0, 1);
    wrong_alignment.text("general.alignment").u32(8).text("32");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "does not start with 'GGUF'"),
        ("magic", b"GGML\x03\0\0\0".to_vec(), "does not start with 'GGUF'"),
        ("magic only", b"GGUF".to_vec(), "ends early: the version"),
        ("version 1", RawGguf::new(1, 0, 0).data(0), "is GGUF version 1"),
        ("version 4", RawGguf::new(4, 0, 0).data(0), "is GGUF version 4"),
        ("big endian", RawGguf::new(3 << 24, 0, 0).data(0), "big-endian"),
        (
            "2^63 tensors",
            RawGguf::new(3, 1 << 63, 0).data(64),
            "claims 9223372036854775808 tensors",
        ),
        (
            "2^63 values",
            RawGguf::new(3, 0, 1 << 63).data(64),
            "9223372036854775808 metadata values",
        ),
        (
            "billion tensors",
            RawGguf::new(3, 1_000_000_000, 0).data(64),
            "claims 1000000000 tensors",
        ),
        ("more values than bytes", RawGguf::new(3, 0, 6).data(64), "claims 6 metadata values"),
        (
            "key of 2^63",
            RawGguf::new(3, 0, 1).u64(1 << 63).data(64),
            "a metadata key at byte 32 takes 9223372036854775808",
        ),
        ("key past the end", RawGguf::new(3, 0, 1).u64(60_000).data(64), "ends early"),
        (
            "key not UTF-8",
            {
                let mut raw = RawGguf::new(3, 0, 1);
                raw.u64(1).0.push(0xff);
                raw.data(64)
            },
            "not UTF-8",
        ),
        (
            "value type 13",
            gguf_value(|raw| {
                raw.u32(13);
            }),
            "'k' has value type 13",
        ),
        (
            "text past the end",
            gguf_value(|raw| {
                raw.u32(8).u64(1000);
            }),
            "ends early: k",
        ),
        (
            "text of 2^64-1",
            gguf_value(|raw| {
                raw.u32(8).u64(max);
            }),
            "k at byte 45 takes 18446744073709551615",
        ),
        (
            "array of 2^63",
            gguf_value(|raw| {
                raw.u32(9).u32(0).u64(1 << 63);
            }),
            "'k' claims 92233720",
        ),
        (
            "array of 2^61 u64",
            gguf_value(|raw| {
                raw.u32(9).u32(10).u64(1 << 61);
            }),
            "'k' claims",
        ),
        (
            "array of strings",
            gguf_value(|raw| {
                raw.u32(9).u32(8).u64(1 << 40);
            }),
            "'k' claims",
        ),
        (
            "string in array",
            gguf_value(|raw| {
                raw.u32(9).u32(8).u64(2).u64(max);
            }),
            "ends early: k",
        ),
        (
            "array of type 99",
            gguf_value(|raw| {
                raw.u32(9).u32(99).u64(1);
            }),
            "'k' has value type 99",
        ),
        ("65 deep", nested(65), "nests arrays more than 64 deep"),
        ("10000 deep", nested(10_000), "nests arrays more than 64 deep"),
        ("key twice", twice.data(64), "'k' stands twice"),
        ("alignment 0", alignment(0), "'general.alignment' is 0, expected a power of two"),
        ("alignment 3", alignment(3), "'general.alignment' is 3"),
        ("alignment 2 MiB", alignment(1 << 21), "'general.alignment' is 2097152"),
        ("alignment 2^63", alignment(1 << 63), "'general.alignment' is 9223372036854775808"),
        ("alignment a text", wrong_alignment.data(64), "'general.alignment' is String"),
        ("no architecture", RawGguf::new(3, 0, 0).data(0), "'general.architecture' is missing"),
    ];
    for (what, file, expected) in cases {
        assert_refused(what, &vec![("m.gguf".into(), file)], "m.gguf", expected);
    }
    assert_eq!(
        refusal(&vec![("m.gguf".into(), nested(60))]).unwrap(),
        "(memory)/m.gguf: field 'general.architecture' is missing"
    );
}

#[test]
pub fn tensors_that_lie() {
    let max = u64::MAX;
    let one =
        |ne: &[u64], kind, offset| gguf_with(1, |raw| raw.tensor("t", ne, kind, offset).data(64));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("past the end", one(&[17], 0, 0), "'t' starts at byte 0 and takes 68 bytes, outside"),
        ("offset past the end", one(&[1], 0, 96), "'t' starts at byte 96"),
        ("offset of 2^64-32", one(&[1], 0, max - 31), "'t' starts at byte 18446744073709551584"),
        ("end wraps", one(&[1 << 61], 0, 1 << 62), "'t' "),
        ("misaligned", one(&[1], 0, 4), "no multiple of the alignment 32"),
        ("five dimensions", one(&[1; 5], 0, 0), "'t' has 5 dimensions"),
        (
            "2^32-1 dimensions",
            gguf_with(1, |raw| raw.text("t").u32(u32::MAX).data(64)),
            "'t' has 4294967295 dimensions",
        ),
        ("elements overflow", one(&[1 << 32, 1 << 32], 0, 0), "too large to address"),
        ("overflow hidden by 0", one(&[1 << 32, 1 << 32, 0], 0, 0), "too large to address"),
        ("bytes overflow", one(&[1 << 62], 0, 0), "too large to address"),
        ("2^63 elements in blocks", one(&[1 << 63], 2, 0), "'t' starts at byte 0 and takes"),
        ("no whole blocks", one(&[33], 2, 0), "'t' has rows of 33, which blocks of 32 (q4_0)"),
        ("unknown type", one(&[32], 99, 0), "'t' is stored as type 99, which keeve does not read"),
        ("removed type", one(&[32], 4, 0), "'t' is stored as type 4"),
        ("unread type", one(&[32], 9, 0), "'t' is stored as q8_1"),
        ("unknown type past the end", one(&[32], 99, 96), "'t' starts at byte 96"),
        ("empty tensor", one(&[0], 0, 0), "'t' is empty"),
        (
            "same name twice",
            gguf_with(2, |raw| raw.tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 32).data(64)),
            "'t' stands twice",
        ),
        (
            "overlap",
            gguf_with(2, |raw| raw.tensor("t", &[16], 0, 0).tensor("u", &[1], 0, 32).data(64)),
            "'u' overlaps 't'",
        ),
        (
            "same place",
            gguf_with(2, |raw| raw.tensor("t", &[16], 0, 0).tensor("u", &[16], 0, 0).data(64)),
            "overlaps",
        ),
        (
            "names that mean the same",
            gguf_with(2, |raw| {
                raw.tensor("output.weight", &[1], 0, 0)
                    .tensor("lm_head.weight", &[1], 0, 32)
                    .data(64)
            }),
            "'lm_head.weight' is there twice",
        ),
        (
            "long name",
            gguf_with(1, |raw| raw.tensor(&"n".repeat(1025), &[1], 0, 0).data(64)),
            "a tensor name of 1025 bytes",
        ),
        (
            "more tensors than bytes",
            gguf_with(4, |raw| raw.tensor("t", &[1], 0, 0).data(32)),
            "m.gguf",
        ),
    ];
    for (what, file, expected) in cases {
        assert_refused(what, &vec![("m.gguf".into(), file)], "m.gguf", expected);
    }
}

#[test]
fn files_cut_anywhere() {
    let whole = llama_gguf();
    assert_eq!(refusal(&vec![("m.gguf".into(), whole.clone())]), None);
    for length in 0..whole.len() {
        // The last tensor takes 8 bytes of the 32 that end the file.
        let expected = if length >= whole.len() - 24 { continue } else { "" };
        let cut = vec![("m.gguf".into(), whole[..length].to_vec())];
        assert_refused("cut", &cut, "m.gguf", expected);
    }
}

#[test]
fn models_that_lie() {
    use keeve_checkpoint::gguf::{self, Array, Value};
    let with = |key: &'static str, value: Value| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let mut metadata = llama_metadata();
        metadata.retain(|(known, _)| *known != key);
        metadata.push((key, value));
        let q = gguf::Announced {
            name: "blk.0.attn_q.weight".into(),
            codec: keeve_codec::Codec::F32,
            shape: vec![8, 1],
        };
        gguf::write(&path, &metadata, [(q, &[0; 32][..])]).unwrap();
        vec![("m.gguf".to_string(), std::fs::read(&path).unwrap())]
    };
    let strings = |n: usize| Value::Array(Array::of_strings(vec!["x"; n]));
    let cases: Vec<(&'static str, Value, &str)> = vec![
        ("general.architecture", Value::u32(3), "is U32, expected a string"),
        (
            "split.count",
            Value::u32(3),
            "is 3, but 0 of these files are here, called NAME-00001-of-00003.gguf or otherwise",
        ),
        ("llama.block_count", Value::string("x"), "is String, expected a count"),
        ("llama.block_count", Value::Signed(gguf::ValueType::I32, -1), "expected a count"),
        ("llama.rope.freq_base", Value::F32(f32::NAN), "expected a finite number"),
        ("llama.attention.layer_norm_rms_epsilon", Value::F64(f64::INFINITY), "a finite number"),
        ("llama.attention.head_count", Value::u32(0), "8 rows, which 0 heads"),
        ("llama.attention.head_count", Value::u32(3), "8 rows, which 3 heads"),
        ("llama.attention.head_count", Value::u32(8), "8 rows, which 8 heads"),
        ("llama.attention.value_length", Value::u32(8), "is 8, but heads are 4 wide"),
        ("llama.rope.dimension_count", Value::u32(2), "is 2, but heads are 4 wide"),
        (
            "llama.rope.scaling.type",
            Value::string("longrope"),
            "is 'longrope', which is not supported",
        ),
        ("llama.rope.scaling.type", Value::string("x\ny"), "is 'x\\ny'"),
        (
            "llama.rope.scaling.type",
            Value::string("linear"),
            "'llama.rope.scaling.factor' is missing",
        ),
        ("llama.expert_count", Value::string("8"), "is String, expected a count"),
        ("tokenizer.ggml.tokens", Value::u32(3), "is U32, expected an array"),
        ("tokenizer.ggml.tokens", Value::Array(Array::of_i32(&[1, 2, 3])), "expected strings"),
        (
            "tokenizer.ggml.token_type",
            Value::Array(Array::of_i32(&[1, 1])),
            "'tokenizer.ggml.token_type' has 2 values for 3",
        ),
        ("tokenizer.ggml.token_type", strings(3), "holds String, expected integers"),
        ("tokenizer.ggml.scores", Value::Array(Array::of_f32(&[0.0])), "has 1 values for 3 tokens"),
        ("tokenizer.ggml.scores", strings(3), "holds String, expected integers"),
        ("tokenizer.ggml.merges", Value::Array(Array::of_i32(&[0])), "holds I32, expected strings"),
        ("tokenizer.ggml.eos_token_id", Value::string("2"), "is String, expected a count"),
        ("tokenizer.ggml.precompiled_charsmap", strings(1), "holds String, expected integers"),
        ("tokenizer.ggml.add_bos_token", Value::u32(2), "expected a truth value"),
        ("tokenizer.chat_template", Value::Bool(true), "expected a string"),
    ];
    for (key, value, expected) in cases {
        assert_refused(key, &with(key, value), "m.gguf", expected);
    }
}
