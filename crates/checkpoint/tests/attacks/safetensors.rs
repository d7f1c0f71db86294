//! Safetensors files, indexes and folders.

use serde_json::json;

use super::common::{Model, model, open, safetensors, safetensors_of};
use super::{assert_refused, refusal};

fn with_weights(weights: Vec<u8>) -> Model {
    let config = json!({"model_type": "llama"}).to_string().into_bytes();
    vec![("config.json".into(), config), ("model.safetensors".into(), weights)]
}

#[test]
pub fn files_that_lie() {
    let entry = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |entry: String| safetensors(&format!(r#"{{"a":{entry}}}"#), 16);
    let two = |b: String| safetensors(&format!(r#"{{"a":{},"b":{b}}}"#, entry("[2]", 0, 8)), 16);
    let length = |length: u64| {
        let mut file = length.to_le_bytes().to_vec();
        file.extend(b"{}");
        file
    };
    let nested =
        format!(r#"{{"__metadata__":{{"k":{}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let max = u64::MAX;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "too short"),
        ("seven bytes", vec![0; 7], "too short"),
        ("header past the end", length(3), "3 bytes by its own account"),
        ("header of 2^63", length(1 << 63), "by its own account"),
        ("header of 2^64-1", length(max), "by its own account"),
        ("no JSON", safetensors("{]", 0), "bad safetensors header"),
        ("no object", safetensors("[1]", 0), "bad safetensors header"),
        ("empty header", safetensors("", 0), "bad safetensors header"),
        ("not UTF-8", [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[0xff]].concat(), "bad safetensors header"),
        ("deep", safetensors(&nested, 0), "recursion limit"),
        ("no entry", safetensors(r#"{"a":3}"#, 0), "'a': invalid type"),
        ("no offsets", safetensors(r#"{"a":{"dtype":"F32","shape":[]}}"#, 0), "'a': missing field"),
        (
            "negative",
            safetensors(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#, 0),
            "'a': invalid value",
        ),
        ("past the end", one(entry("[5]", 0, 20)), "'a' lies at bytes 0 to 20"),
        ("backwards", one(entry("[4]", 16, 0)), "'a' lies at bytes 16 to 0"),
        ("offset of 2^64-1", one(entry("[4]", max, max)), "'a' lies at bytes"),
        ("too short for shape", one(entry("[5]", 0, 16)), "'a' has 16 bytes, but F32 of shape [5]"),
        ("too long for shape", one(entry("[3]", 0, 16)), "'a' has 16 bytes"),
        ("shape overflows", one(entry("[4294967296,4294967296]", 0, 16)), "too large to address"),
        ("shape overflows to 0", one(entry("[9223372036854775808,2]", 0, 0)), "too large"),
        ("overflow hidden by 0", one(entry("[9223372036854775808,4,0]", 0, 0)), "too large"),
        ("bytes overflow", one(entry("[4611686018427387904]", 0, 16)), "'a' has 16 bytes"),
        ("billion weights", one(entry("[1000000000]", 0, 16)), "'a' has 16 bytes"),
        ("overlap", two(entry("[3]", 4, 16)), "'b' overlaps"),
        ("same bytes", two(entry("[2]", 0, 8)), "overlaps"),
        ("hole", two(entry("[1]", 12, 16)), "'b' follows a hole"),
        ("rest", two(entry("[1]", 8, 12)), "4 bytes after its last tensor"),
        ("no tensor but data", safetensors("{}", 8), "8 bytes after its last tensor"),
        (
            "same name twice",
            safetensors(
                &format!(r#"{{"a":{},"a":{}}}"#, entry("[2]", 0, 8), entry("[2]", 8, 16)),
                16,
            ),
            "'a' stands twice",
        ),
        (
            "half a byte",
            safetensors(r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#, 2),
            "no whole number",
        ),
        (
            "unknown type",
            safetensors(r#"{"a":{"dtype":"Q9","shape":[3],"data_offsets":[0,2]}}"#, 2),
            "'a' is stored as Q9",
        ),
        (
            "no weights",
            safetensors(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#, 8),
            "'a' is stored as I64",
        ),
        (
            "empty tensor",
            safetensors(r#"{"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}"#, 0),
            "'a' is empty",
        ),
        (
            "a name with a line break",
            safetensors(r#"{"a\nb\u001b":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#, 8),
            "a\\nb",
        ),
    ];
    for (what, file, expected) in cases {
        assert_refused(what, &with_weights(file), "model.safetensors", expected);
    }
}

#[test]
fn files_cut_anywhere() {
    let whole = model(json!({}), &[("a", "F32", &[2], 8), ("b.weight", "U8", &[3], 3)]);
    assert!(refusal(&whole).unwrap().contains("'b.weight' is stored as U8"));
    let bytes = &whole[1].1;
    for length in 0..bytes.len() {
        assert_refused("cut", &with_weights(bytes[..length].to_vec()), "model.safetensors", "");
    }
}

#[test]
fn indexes_that_leave_the_folder_or_lie() {
    let index = |value: serde_json::Value| {
        let mut model = with_weights(safetensors_of(&[("a", "F32", &[2], 8)]));
        model.push(("model.safetensors.index.json".into(), value.to_string().into_bytes()));
        model
    };
    let map = |shard: serde_json::Value| index(json!({"weight_map": {"a": shard}}));
    let index_file = "model.safetensors.index.json";
    for shard in [
        "/etc/passwd",
        "/x.safetensors",
        "../x.safetensors",
        "..\\x.safetensors",
        "sub/x.safetensors",
        "C:x.safetensors",
        "C:\\x.safetensors",
        "..",
        "",
        ".safetensors",
        ".hidden.safetensors",
        "x\0.safetensors",
        "x\n.safetensors",
        "config.json",
        "model.safetensors:stream",
    ] {
        assert_refused(shard, &map(shard.into()), index_file, "'weight_map.a' is \"");
    }
    assert_refused("number", &map(json!(3)), index_file, "'weight_map.a' is 3");
    assert_refused("no map", &index(json!({})), index_file, "'weight_map' is missing");
    assert_refused("list", &index(json!({"weight_map": []})), index_file, "not an object");
    let part = "model-00001-of-00002.safetensors";
    let mut missing = map(part.into());
    missing.retain(|(name, _)| name != "model.safetensors");
    assert_refused("missing shard", &missing, part, "is missing");
    let other = "model-00002-of-00002.safetensors";
    missing.push((other.into(), safetensors_of(&[("b", "F32", &[2], 8)])));
    assert_refused("one of two", &missing, part, "is missing");
    // What lies about tensors is passed over, with a note: see `published.rs`.
    for lie in [
        json!({}),
        json!({"a": part}),
        json!({"a": "pytorch_model.bin"}),
        json!({"b": "model.safetensors"}),
    ] {
        let model = open(&index(json!({"weight_map": lie}))).unwrap();
        assert_eq!((model.tensors().len(), model.notes().len()), (1, 1), "{:?}", model.notes());
    }
}

#[test]
fn folders_that_lack_files() {
    let config = || ("config.json".to_string(), b"{}".to_vec());
    let file = |name: &str| (name.to_string(), safetensors_of(&[("a", "F32", &[2], 8)]));
    let cases: Vec<(&str, Model, &str, &str)> = vec![
        ("nothing", vec![], "(memory)", "neither config.json nor a GGUF"),
        ("no weights", vec![config()], "(memory)", "neither model.safetensors.index.json nor"),
        (
            "a part",
            vec![config(), file("model-00002-of-00003.safetensors")],
            "(memory)",
            "1 of the 3 files model-*-of-00003.safetensors",
        ),
        (
            "two GGUF",
            vec![("a.gguf".into(), vec![]), ("b.gguf".into(), vec![])],
            "(memory)",
            "several GGUF",
        ),
        (
            "GGUF beside a config",
            vec![config(), ("a.gguf".into(), vec![])],
            "a.gguf",
            "is not a GGUF file",
        ),
        (
            "config no JSON",
            vec![("config.json".into(), b"{".to_vec())],
            "config.json",
            "not valid JSON",
        ),
        (
            "config a list",
            vec![("config.json".into(), b"[]".to_vec()), file("model.safetensors")],
            "config.json",
            "not a JSON object",
        ),
        (
            "deep config",
            vec![("config.json".into(), "[".repeat(100_000).into_bytes())],
            "config.json",
            "recursion limit",
        ),
    ];
    for (what, model, file, expected) in cases {
        assert_refused(what, &model, file, expected);
    }
}
