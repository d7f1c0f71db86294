//! Models split over several GGUF files, and language models inside models that also see.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Model, llama_metadata, model, open};
use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::{self, Array, Value, ValueType};
use keeve_codec::Codec;
use serde_json::json;

/// The bytes of a GGUF file of F32 tensors of 32 values each.
fn file(metadata: &[(&str, Value)], tensors: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let values: Vec<Vec<u8>> =
        tensors.iter().map(|name| f32::from(name.len() as u8).to_le_bytes().repeat(32)).collect();
    let announced = tensors.iter().zip(&values).map(|(name, bytes)| {
        let shape = vec![32];
        (gguf::Announced { name: (*name).into(), codec: Codec::F32, shape }, &bytes[..])
    });
    gguf::write(&path, metadata, announced).unwrap();
    std::fs::read(&path).unwrap()
}

/// What a part says of itself: its number from 0, and how many there are.
fn split(number: u64, count: u64) -> Vec<(&'static str, Value)> {
    vec![
        ("split.no", Value::Unsigned(ValueType::U16, number)),
        ("split.count", Value::Unsigned(ValueType::U16, count)),
    ]
}

const TENSORS: [&[&str]; 3] =
    [&["output_norm.weight"], &["blk.0.attn_norm.weight"], &["blk.0.ffn_norm.weight"]];

/// A model in three files.
fn three() -> Model {
    let part = |number: usize| {
        let mut metadata = split(number as u64, 3);
        if number == 0 {
            metadata.extend(llama_metadata());
            metadata.push(("split.tensors.count", Value::Signed(ValueType::I32, 3)));
        }
        let name = format!("m-q4-0000{}-of-00003.gguf", number + 1);
        (name, file(&metadata, TENSORS[number]))
    };
    (0..3).map(part).collect()
}

#[test]
fn any_part_opens_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in three() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::write(folder.path().join("notes.txt"), "").unwrap();
    let mut paths = vec![folder.path().to_path_buf()];
    paths.extend((1..=3).map(|part| folder.path().join(format!("m-q4-0000{part}-of-00003.gguf"))));
    for path in paths {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let names: Vec<&str> = checkpoint.tensors().map(|info| info.name.as_str()).collect();
        let layer = "model.layers.0";
        let expected = [
            format!("{layer}.input_layernorm.weight"),
            format!("{layer}.post_attention_layernorm.weight"),
            "model.norm.weight".into(),
        ];
        assert_eq!(names, expected, "{}", path.display());
        assert_eq!(checkpoint.files().len(), 3);
        assert_eq!(checkpoint.files()[1].name, "m-q4-00002-of-00003.gguf");
        assert_eq!(checkpoint.config()["hidden_size"], 32, "metadata of the first part");
        let value = checkpoint.tensor(&expected[1]).unwrap();
        assert_eq!(keeve_codec::decode(&value), [21.0; 32]);
        let from = &checkpoint.info(&expected[1]).unwrap().file;
        assert!(from.ends_with("m-q4-00003-of-00003.gguf"), "{}", from.display());
    }
    assert_eq!(open(&three()).unwrap().tensors().len(), 3, "from memory");
    // A model beside it makes the folder ambiguous, but not the path of a part.
    std::fs::write(folder.path().join("other.gguf"), file(&llama_metadata(), &[])).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("holds several GGUF files; give the path of one"), "{error}");
    Checkpoint::open(&folder.path().join("m-q4-00003-of-00003.gguf")).unwrap();
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    let with = |index: usize, name: &str, metadata: &[(&str, Value)], tensors: &[&str]| {
        let mut model = three();
        model[index] = (name.into(), file(metadata, tensors));
        model
    };
    let without = |index: usize| {
        let mut model = three();
        model.remove(index);
        model
    };
    let second = "m-q4-00002-of-00003.gguf";
    let mut first = split(0, 3);
    first.extend(llama_metadata());
    let mut counted = first.clone();
    counted.push(("split.tensors.count", Value::Signed(ValueType::I32, 4)));
    let wrong_kind = [("split.no", Value::string("1")), split(1, 3)[1].clone()];
    for (model, expected) in [
        (without(1), "m-q4-00002-of-00003.gguf: is missing: the model is split over 3 files"),
        (without(2), "m-q4-00003-of-00003.gguf: is missing: the model is split over 3 files"),
        (without(0), "m-q4-00001-of-00003.gguf: is missing"),
        (
            with(1, second, &split(2, 3), TENSORS[1]),
            "'split.no' is 2, expected 1 by the file's name",
        ),
        (with(1, second, &split(1, 4), TENSORS[1]), "'split.count' is 4, expected 3"),
        (with(1, second, &[], TENSORS[1]), "'split.count' is missing, expected 3"),
        (with(1, second, &wrong_kind, TENSORS[1]), "'split.no' is String, expected a count"),
        (with(1, second, &split(1, 3), TENSORS[0]), "'output_norm.weight' stands in another file"),
        (
            with(0, "m-q4-00001-of-00003.gguf", &counted, TENSORS[0]),
            "'split.tensors.count' is 4, but the 3 files have 3 tensors",
        ),
    ] {
        // Of a folder's files the model's own must be the only ones.
        let model: Model = model.into_iter().filter(|(name, _)| name.ends_with(".gguf")).collect();
        let error = open(&model).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("(memory)/") && error.contains(expected), "{error}");
    }
    // A count that no name can have.
    let mut metadata = llama_metadata();
    metadata.push(("split.count", Value::Unsigned(ValueType::U64, u64::MAX)));
    let error = open(&vec![("m.gguf".into(), file(&metadata, &[]))]).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("'split.count' is 18446744073709551615, but 0 of"),
        "{error}"
    );
    let array = Value::Array(Array::of_i32(&[3]));
    let error = open(&vec![("m.gguf".into(), file(&[("split.count", array)], &[]))]).unwrap_err();
    assert!(error.to_string().contains("'split.count' is Array, expected a count"), "{error}");
}

#[test]
fn a_model_that_also_sees_is_read_as_its_language_model() {
    for (prefix, head) in
        [("language_model.model", "language_model.lm_head"), ("model.language_model", "lm_head")]
    {
        let name = |rest: &str| format!("{prefix}.{rest}");
        let (norm, up) = (name("norm.weight"), name("layers.0.mlp.up_proj.weight"));
        let (scales, biases) =
            (name("layers.0.mlp.up_proj.scales"), name("layers.0.mlp.up_proj.biases"));
        let head = format!("{head}.weight");
        let tensors: [(&str, &str, &[usize], usize); 7] = [
            (&norm, "F32", &[4], 16),
            (&up, "U32", &[2, 16], 128),
            (&scales, "BF16", &[2, 2], 8),
            (&biases, "BF16", &[2, 2], 8),
            (&head, "F32", &[2, 2], 16),
            ("vision_tower.vision_model.post_layernorm.weight", "F32", &[2], 8),
            ("model.multi_modal_projector.mm_input_projection_weight", "F32", &[2], 8),
        ];
        let config = json!({"model_type": "gemma3", "eos_token_id": [1, 106],
            "quantization": {"bits": 4, "group_size": 64},
            "text_config": {"model_type": "gemma3_text", "hidden_size": 128,
                "rope_scaling": {"type": "linear", "factor": 8.0}}});
        let checkpoint = open(&model(config, &tensors)).unwrap();
        let names: Vec<&str> = checkpoint.tensors().map(|info| info.name.as_str()).collect();
        assert_eq!(
            names,
            ["lm_head.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
        );
        let up = checkpoint.tensor(names[1]).unwrap();
        assert_eq!((up.codec().name(), up.cols()), ("affine4-g64".into(), 128));
        let config = checkpoint.config();
        assert_eq!(
            (&config["model_type"], &config["head_dim"]),
            (&json!("gemma3_text"), &json!(256))
        );
        assert_eq!(config["rope_scaling"], json!({"rope_type": "linear", "factor": 8.0}));
        assert_eq!(config["eos_token_id"], json!([1, 106]));
        let note = "only its language model is read: 2 tensors that serve seeing are not";
        assert_eq!(checkpoint.notes(), [note]);
    }
    let config = json!({"model_type": "gemma3_text"});
    let plain = open(&model(config, &[("model.norm.weight", "F32", &[4], 16)])).unwrap();
    assert!(plain.notes().is_empty());
}
