//! What the dialects make of small models: names, codecs, configs, and what they refuse.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Model, llama_gguf, llama_metadata, model, open};
use keeve_checkpoint::gguf::tokenizer::TokenType;
use keeve_checkpoint::gguf::{self, Array, Value};
use keeve_codec::{Codec, Float, Group};
use serde_json::json;

/// An affine module of 4 bits in groups of 64 (or 8 in 32, or 2 in 128): two rows of 16 words.
const MODULE: [(&str, &str, &[usize], usize); 3] = [
    ("model.layers.0.mlp.up_proj.weight", "U32", &[2, 16], 128),
    ("model.layers.0.mlp.up_proj.scales", "BF16", &[2, 2], 8),
    ("model.layers.0.mlp.up_proj.biases", "BF16", &[2, 2], 8),
];
const NAME: &str = "model.layers.0.mlp.up_proj.weight";

fn affine(bits: u8, group: u16) -> Codec {
    Codec::Affine { bits, group, scale: Float::Bf16 }
}

/// The codec of the module, or the error of reading it.
fn read(model: &Model) -> Result<Codec, String> {
    let checkpoint = open(model).map_err(|error| error.to_string())?;
    let tensor = checkpoint.tensor(NAME).map_err(|error| error.to_string())?;
    let info = checkpoint.info(NAME).unwrap();
    assert_eq!(info.shape, [tensor.rows(), tensor.cols()]);
    assert_eq!(info.codec, Some(tensor.codec()));
    Ok(tensor.codec())
}

#[test]
fn affine_bits_come_from_config_and_shapes() {
    let q = |bits: u8, group: u16| json!({"bits": bits, "group_size": group});
    let cases = [
        // The default, whether at the top, nested, or only in the hub's copy.
        (json!({"quantization": q(8, 32)}), affine(8, 32)),
        (json!({"text_config": {"quantization": q(2, 128)}}), affine(2, 128)),
        (json!({"quantization_config": q(4, 64)}), affine(4, 64)),
        // The architecture knows the row length.
        (json!({"hidden_size": 128}), affine(4, 64)),
        (json!({"hidden_size": 64, "quantization": q(4, 64)}), affine(8, 32)),
        (json!({"text_config": {"hidden_size": 256}, "quantization": q(4, 64)}), affine(2, 128)),
        // An entry of the module's own wins.
        (
            json!({"hidden_size": 128, "quantization":
                {"bits": 4, "group_size": 64, "model.layers.0.mlp.up_proj": q(8, 32)}}),
            affine(8, 32),
        ),
        // An incomplete one does not.
        (
            json!({"hidden_size": 128, "quantization":
                {"bits": 8, "group_size": 32, "model.layers.0.mlp.up_proj": {"mode": "affine"}}}),
            affine(4, 64),
        ),
        // An entry under another prefix is not this module's.
        (
            json!({"hidden_size": 128, "quantization":
                {"bits": 3, "group_size": 64, "language_model.model.layers.0.mlp.up_proj": q(8, 32)}}),
            affine(4, 64),
        ),
        // MLX's block goes before a left-over of the original model.
        (
            json!({"quantization": q(4, 64), "quantization_config": {"quant_method": "mxfp4"}}),
            affine(4, 64),
        ),
    ];
    for (config, expected) in cases {
        assert_eq!(read(&model(config.clone(), &MODULE)), Ok(expected), "{config}");
    }
    let checkpoint = open(&model(json!({"hidden_size": 128}), &MODULE)).unwrap();
    assert_eq!(checkpoint.format(), "safetensors (mlx affine)");
    assert_eq!(checkpoint.tensors().len(), 1, "scales and biases are parts");
    let info = checkpoint.info(NAME).unwrap();
    assert_eq!(info.stored_names.len(), 3);
    assert_eq!(info.bytes, 144);
    let tensor = checkpoint.tensor(NAME).unwrap();
    // The file's bytes count up from 0: weight 0..128, scales 128..136, biases 136..144.
    assert_eq!(tensor.parts().data[0], 0);
    assert_eq!(tensor.parts().scales.as_ref().unwrap()[0], 128);
    assert_eq!(tensor.parts().biases.as_ref().unwrap()[0], 136);
}

#[test]
fn damaged_affine_modules_are_refused() {
    let q = json!({"quantization": {"bits": 4, "group_size": 64}});
    let own = |value| {
        json!({"quantization": {"bits": 4, "group_size": 64,
                                              "model.layers.0.mlp.up_proj": value}})
    };
    let with = |index: usize, dtype, shape, bytes| {
        let mut module = MODULE.to_vec();
        module[index] = (module[index].0, dtype, shape, bytes);
        model(q.clone(), &module)
    };
    let config = "(memory)/config.json: field";
    let tensor = format!("(memory)/model.safetensors: tensor '{NAME}' ");
    let cases = [
        (
            model(json!({}), &MODULE),
            "these bits and group sizes fit alike: 2 in 128, 4 in 64, 8 in 32",
        ),
        (
            model(own(json!({"bits": 3, "group_size": 64})), &MODULE),
            "3 bits in groups of 64 do not fit",
        ),
        (model(own(json!(false)), &MODULE), "says that it is not quantized"),
        (model(q.clone(), &MODULE[..2]), "lacks 'model.layers.0.mlp.up_proj.biases'"),
        (with(0, "F32", &[2, 16], 128), "should be stored as U32; it is F32"),
        (with(0, "U32", &[1, 16], 64), "shape [1, 16], which does not go with scales [2, 2]"),
        (with(0, "U32", &[32], 128), "shape [32], which does not go with"),
        (with(0, "U32", &[2, 17], 136), "no bits and group size of MLX's affine mode fit"),
        (with(0, "U32", &[2, 0], 0), "does not go with scales"),
        (with(1, "I32", &[2, 2], 16), "scales of type I32, expected floats"),
        (with(1, "BF16", &[2, 0], 0), "does not go with scales [2, 0]"),
        (with(1, "U8", &[2, 2], 4), "has biases, which mode mxfp8 has not"),
        (with(1, "U8", &[2, 4], 8), "has biases, which mode mxfp4 has not"),
        (with(1, "U8", &[2, 8], 16), "has biases, which mode nvfp4 has not"),
        (with(1, "U8", &[2, 1], 2), "byte scales of a group size that no mode of MLX has"),
        (model(own(json!({"mode": "mxfp4"})), &MODULE), "mode mxfp4 by its config, but its scales"),
        (
            with(2, "F16", &[2, 2], 8),
            "biases F16 [2, 2], expected them like its scales BF16 [2, 2]",
        ),
        (with(2, "BF16", &[2, 1], 4), "biases BF16 [2, 1]"),
    ];
    for (model, expected) in cases {
        let error = read(&model).unwrap_err();
        assert!(error.starts_with(&tensor) && error.contains(expected), "{error}");
    }
    // Fields that are wrong whatever the tensors are.
    let block = |block| model(json!({"quantization": block}), &MODULE);
    let method = |field: &str, method: &str| {
        let mut config = json!({});
        config[field] = json!({"quant_method": method, "bits": 4, "group_size": 128});
        model(config, &MODULE)
    };
    let mut cases = vec![
        (block(json!("q4")), "'quantization' is not an object".to_string()),
        (block(json!({"bits": 7})), "'quantization.bits' is 7, expected 1, 2, 3".into()),
        (block(json!({"bits": 4.5})), "'quantization.bits' is 4.5".into()),
        (block(json!({"group_size": 0})), "'quantization.group_size' is 0, expected 32".into()),
        (
            block(json!({"mode": "magic"})),
            "'quantization.mode' is \"magic\", expected affine".into(),
        ),
        (block(json!({"mode": 3})), "'quantization.mode' is 3".into()),
        (block(json!({"a.b": {"bits": 9}})), "'quantization.a.b.bits' is 9".into()),
        (block(json!({"mode": "kquant"})), "'quantization.per_tensor' is missing".into()),
        (block(json!({"mode": "kquant", "per_tensor": {"m": 4}})), "per_tensor.m' is 4".into()),
        (
            model(
                json!({"quantization": {"bits": 4}, "text_config": {"quantization": {"bits": 8}}}),
                &MODULE,
            ),
            "'text_config.quantization' contradicts 'quantization'".into(),
        ),
        (
            model(json!({"quantization_config": {"load_in_8bit": true}}), &MODULE),
            "'quantization_config' has neither 'quant_method'".into(),
        ),
        (
            model(json!({"compression_config": {"format": "int-quantized"}}), &MODULE),
            "'compression_config.config_groups' is missing".into(),
        ),
    ];
    for name in ["bitsandbytes", "quanto", "mxfp4"] {
        let problem = format!(
            "quant_method' is \"{name}\", expected one of awq, bitnet, compressed-tensors, fp8, gptq"
        );
        cases.push((method("quantization_config", name), problem));
    }
    for (model, expected) in cases {
        let error = open(&model).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(config) && error.contains(&expected), "{error}");
    }
}

/// The module above in mode nvfp4, and a global scale.
const NVFP4: [(&str, &str, &[usize], usize); 3] = [
    ("model.layers.0.mlp.up_proj.weight", "U32", &[2, 16], 128),
    ("model.layers.0.mlp.up_proj.scales", "U8", &[2, 8], 16),
    ("model.layers.0.mlp.up_proj.global_scale", "F32", &[], 4),
];

#[test]
fn modes_with_byte_scales() {
    let q = |mode: &str| json!({"quantization": {"mode": mode}});
    let scales = |columns: &'static [usize], bytes| [NVFP4[0], (NVFP4[1].0, "U8", columns, bytes)];
    for (config, module, codec, cols) in [
        (q("mxfp4"), &scales(&[2, 4], 8)[..], Codec::MlxMxfp4, 128),
        (q("mxfp8"), &scales(&[2, 2], 4), Codec::MlxMxfp8, 64),
        (q("nvfp4"), &NVFP4[..2], Codec::MlxNvfp4 { global: false }, 128),
        (q("nvfp4"), &NVFP4, Codec::MlxNvfp4 { global: true }, 128),
        // The shapes tell, whatever the default is.
        (q("mxfp8"), &NVFP4, Codec::MlxNvfp4 { global: true }, 128),
        (json!({}), &NVFP4[..2], Codec::MlxNvfp4 { global: false }, 128),
    ] {
        let checkpoint = open(&model(config, module)).unwrap();
        assert_eq!(checkpoint.tensors().len(), 1, "the others are parts");
        let tensor = checkpoint.tensor(NAME).unwrap();
        assert_eq!((tensor.codec(), tensor.rows(), tensor.cols()), (codec, 2, cols));
        assert_eq!(checkpoint.info(NAME).unwrap().shape, [2, cols]);
    }
    let with = |config: serde_json::Value, index: usize, dtype, shape, bytes| {
        let mut module = NVFP4.to_vec();
        module[index] = (module[index].0, dtype, shape, bytes);
        model(config, &module)
    };
    let mut own = q("nvfp4");
    own["quantization"]["model.layers.0.mlp.up_proj"] = json!({"bits": 4, "group_size": 32});
    for (model, expected) in [
        (with(q("nvfp4"), 2, "F16", &[], 2), "a global scale of type F16, expected F32"),
        (with(q("nvfp4"), 2, "F32", &[2], 8), "'global_scale' has 8 bytes, expected 4"),
        (with(q("nvfp4"), 1, "U8", &[2, 4], 8), "has a global scale, which only mode nvfp4 has"),
        (with(q("nvfp4"), 1, "F16", &[2, 2], 8), "has a global scale, which only mode nvfp4 has"),
        (model(own, &NVFP4), "is in mode nvfp4 by its shapes, but in another by its config"),
    ] {
        let error = read(&model).unwrap_err();
        assert!(error.contains(NAME) && error.contains(expected), "{error}");
    }
}

/// A config of compressed-tensors with one group.
fn compressed(format: &str, bits: usize) -> serde_json::Value {
    let weights = json!({"num_bits": bits, "type": "int", "symmetric": true});
    json!({"quantization_config": {"quant_method": "compressed-tensors", "format": format,
        "quantization_status": "compressed", "sparsity_config": {},
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}})
}

/// A model with a pack-quantized module: `weight_shape` is what its bytes say.
fn pack_quantized(
    config: serde_json::Value,
    weight_shape: [i64; 2],
    tensors: &[(&str, &str, &[usize], usize)],
) -> Model {
    let mut tensors = tensors.to_vec();
    tensors.insert(0, ("p.weight_shape", "I64", &[2], 16));
    let mut model = model(config, &tensors);
    let file = &mut model[1].1;
    let header = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let bytes: Vec<u8> = weight_shape.iter().flat_map(|n| n.to_le_bytes()).collect();
    file[8 + header..][..16].copy_from_slice(&bytes);
    model
}

#[test]
fn compressed_tensors_modules() {
    let bytes = [("p.weight", "I8", &[2, 64][..], 128), ("p.weight_scale", "BF16", &[2, 1], 4)];
    let checkpoint = open(&model(compressed("int-quantized", 4), &bytes)).unwrap();
    assert_eq!(checkpoint.format(), "safetensors (compressed-tensors)");
    assert_eq!(checkpoint.tensors().len(), 1, "scales are parts");
    let int8 = Codec::Int8 { group: Group::Row, scale: Float::Bf16 };
    assert_eq!(checkpoint.tensor("p.weight").unwrap().codec(), int8);

    // One scale for all rows, with a zero point: affine, codes counted from the lowest.
    let mut shared = vec![bytes[0], ("p.weight_scale", "F32", &[1], 4)];
    shared.push(("p.weight_zero_point", "I8", &[1], 1));
    let checkpoint = open(&model(compressed("int-quantized", 8), &shared)).unwrap();
    let tensor = checkpoint.tensor("p.weight").unwrap();
    assert_eq!(tensor.codec(), Codec::Affine { bits: 8, group: 64, scale: Float::F32 });
    // The file's bytes count up: codes from 0, the scale 128..132, the zero point 132, which is -124.
    let scale = f32::from_le_bytes([128, 129, 130, 131]);
    let mut row = vec![0.0; 64];
    keeve_codec::row_values(&tensor, 1, &mut row);
    assert_eq!(row[..2], [(64.0 + 124.0) * scale, (65.0 + 124.0) * scale]);

    let packed = [
        ("p.weight_packed", "I32", &[2, 16][..], 128),
        ("p.weight_scale", "BF16", &[2, 2], 8),
        ("p.weight_zero_point", "I32", &[1, 2], 8),
    ];
    let q = || compressed("pack-quantized", 4);
    let read = |model: &Model| {
        open(model).and_then(|checkpoint| checkpoint.tensor("p.weight")).map(|t| t.codec())
    };
    let int4 = Codec::Int4 { group: Group::Of(64), scale: Float::Bf16 };
    assert_eq!(read(&pack_quantized(q(), [2, 128], &packed[..2])).unwrap(), int4);
    let affine = Codec::Affine { bits: 4, group: 64, scale: Float::F32 };
    assert_eq!(read(&pack_quantized(q(), [2, 128], &packed)).unwrap(), affine);

    let with = |index: usize, dtype, shape, bytes| {
        let mut tensors = packed.to_vec();
        tensors[index] = (tensors[index].0, dtype, shape, bytes);
        pack_quantized(q(), [2, 128], &tensors)
    };
    let mut ordered = packed[..2].to_vec();
    ordered.push(("p.weight_g_idx", "I32", &[128], 512));
    let mut short = packed[..2].to_vec();
    short.push(("p.weight_g_idx", "I32", &[64], 256));
    let block = |key: &str, value: serde_json::Value| {
        let mut config = q();
        config["quantization_config"][key] = value;
        pack_quantized(config, [2, 128], &packed)
    };
    for (model, expected) in [
        (model(q(), &packed), "lacks 'p.weight_shape'"),
        (pack_quantized(q(), [3, 128], &packed), "'weight_shape' that does not go with its 2 rows"),
        (pack_quantized(q(), [2, 0], &packed), "'weight_shape' that does not go"),
        (pack_quantized(q(), [2, -1], &packed), "'weight_shape' that does not go"),
        (pack_quantized(q(), [2, i64::MAX], &packed), "'weight_shape' that does not go"),
        (pack_quantized(q(), [2, 100], &packed), "16 words for rows of 100, no whole bits each"),
        (
            pack_quantized(q(), [2, 32], &packed),
            "16 words for rows of 32, no whole bits each up to 8",
        ),
        (pack_quantized(q(), [2, 64], &packed), "has 8 bits a weight, which its config does not"),
        (pack_quantized(q(), [2, 128], &ordered), "column 0 in g_idx; there are 2 groups"),
        (pack_quantized(q(), [2, 128], &short), "has g_idx I32 [64], expected I32 [128]"),
        (with(0, "U32", &[2, 16], 128), "is stored as U32, expected I32"),
        (with(1, "BF16", &[2, 3], 12), "has 3 scales for rows of 128"),
        (with(1, "BF16", &[3, 2], 12), "has scales [3, 2], which do not go with 2 rows"),
        (with(1, "I32", &[2, 2], 16), "has scales of type I32, expected floats"),
        (with(1, "BF16", &[2, 8], 32), "has zero points I32 [1, 2], expected I32 [1, 8]"),
        (with(2, "I32", &[2, 2], 16), "has zero points I32 [2, 2], expected I32 [1, 2]"),
        (
            block("format", json!("marlin-24")),
            "format' is \"marlin-24\", expected one of int-quantized,",
        ),
        (block("kv_cache_scheme", json!({"num_bits": 8})), "kv_cache_scheme' is {\"num_bits\":8}"),
        (block("config_groups", json!(3)), "config_groups' is missing or not an object"),
    ] {
        let error = read(&model).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn kquant_modules() {
    let per_tensor = json!({"a": "q4_k", "b": "stq1_0", "c": "q6_k", "d": "q4_k", "gone": "q8_0",
        "e": "Q4_K", "f": "affine4-g64", "g": "bf16", "x.switch_mlp.up": "q8_0"});
    let config = json!({"quantization": {"mode": "kquant", "per_tensor": per_tensor}});
    let model = model(
        config,
        &[
            ("a.weight", "U8", &[2, 288], 576),
            ("a.scales", "U8", &[1], 1),
            ("a.bias", "BF16", &[2], 4),
            ("b.weight", "U8", &[1, 136], 136),
            ("b.scales", "U8", &[1], 1),
            ("c.weight", "U8", &[1, 211], 211),
            ("d.weight", "BF16", &[2, 2], 8),
            ("e.weight", "U8", &[1, 144], 144),
            ("f.weight", "U8", &[1, 144], 144),
            ("g.weight", "U8", &[1, 144], 144),
            ("unlisted.weight", "U8", &[1, 144], 144),
            ("norm.weight", "BF16", &[4], 8),
            ("lonely.scales", "U8", &[1], 1),
            ("x.switch_mlp.up.weight", "U8", &[3, 2, 34], 204),
        ],
    );
    let checkpoint = open(&model).unwrap();
    assert_eq!(checkpoint.format(), "safetensors (mlx-kquant)");
    let a = checkpoint.tensor("a.weight").unwrap();
    assert_eq!((a.codec(), a.rows(), a.cols()), (Codec::Q4K, 2, 512));
    let stack = checkpoint.tensor("x.switch_mlp.up.weight").unwrap();
    assert_eq!(
        (stack.codec(), stack.experts(), stack.rows(), stack.cols()),
        (Codec::Q8_0, 3, 2, 32)
    );
    assert_eq!(checkpoint.info("b.weight").unwrap().format, "stq1_0");
    let names: Vec<&str> = checkpoint.tensors().map(|info| info.name.as_str()).collect();
    assert!(!names.contains(&"a.scales") && names.contains(&"lonely.scales"), "{names:?}");
    for (name, expected) in [
        ("b.weight", "is stored as \"stq1_0\", a codec that keeve does not read"),
        ("c.weight", "rows of 211 bytes, which q6_k blocks of 210 do not divide"),
        ("d.weight", "is listed as q4_k but stored as BF16"),
        ("e.weight", "is stored as \"Q4_K\""),
        ("f.weight", "is stored as \"affine4-g64\""),
        ("g.weight", "is stored as \"bf16\""),
        ("unlisted.weight", "'quantization.per_tensor' lists no codec for it"),
        ("gone.weight", "is not in the model"),
    ] {
        let error = checkpoint.tensor(name).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(name), "{error}");
    }
}

#[test]
fn shapes_become_rows_and_experts() {
    let model = model(
        json!({}),
        &[
            ("scalar", "F32", &[], 4),
            ("vector", "F16", &[6], 12),
            ("conv.weight", "BF16", &[4, 2, 3], 48),
            ("model.layers.0.mlp.experts.gate_up_proj", "F32", &[2, 3, 4], 96),
        ],
    );
    let checkpoint = open(&model).unwrap();
    let dimensions = |name: &str| {
        let tensor = checkpoint.tensor(name).unwrap();
        (tensor.experts(), tensor.rows(), tensor.cols())
    };
    assert_eq!(dimensions("scalar"), (1, 1, 1));
    assert_eq!(dimensions("vector"), (1, 1, 6));
    assert_eq!(dimensions("conv.weight"), (1, 8, 3));
    assert_eq!(dimensions("model.layers.0.mlp.experts.gate_up_proj"), (2, 3, 4));
}

#[test]
fn special_tokens_are_those_that_transformers_takes() {
    let with = |files: &[(&str, &str)]| {
        let mut model = model(json!({}), &[("a", "F32", &[1], 4)]);
        model.extend(
            files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())),
        );
        open(&model).unwrap().tokenizer_config().cloned()
    };
    let map = (
        "special_tokens_map.json",
        r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "extra_special_tokens": ["<b>", "<c>"]}"#,
    );
    let config = |text| ("tokenizer_config.json", text);
    assert_eq!(with(&[]), None);
    let alone = with(&[map]).unwrap();
    assert_eq!(
        (&alone["bos_token"], &alone["eos_token"]["content"]),
        (&json!("<s>"), &json!("</s>"))
    );
    let lists = r#"{"bos_token": "x", "pad_token": "p", "extra_special_tokens": ["<a>", "<b>"]}"#;
    let both = with(&[config(lists), map]).unwrap();
    assert_eq!((&both["bos_token"], &both["pad_token"]), (&json!("<s>"), &json!("p")));
    assert_eq!(both["extra_special_tokens"], json!(["<a>", "<b>", "<c>"]));
    // Files of today say everything in one place.
    let today = r#"{"bos_token": "x", "added_tokens_decoder": {}}"#;
    assert_eq!(with(&[config(today), map]).unwrap()["bos_token"], "x");
}

#[test]
fn chat_templates_are_found() {
    let with = |files: &[(&str, &str)]| {
        let mut model = model(json!({}), &[("a", "F32", &[1], 4)]);
        model.extend(files.iter().map(|(name, text)| ((*name).into(), text.as_bytes().to_vec())));
        open(&model)
            .map(|checkpoint| checkpoint.chat_template().map(str::to_owned))
            .map_err(|error| error.to_string())
    };
    let config = ("tokenizer_config.json", r#"{"chat_template": "C"}"#);
    let list = r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    let found = |text: &str| Ok(Some(text.to_string()));
    assert_eq!(with(&[]), Ok(None));
    assert_eq!(with(&[("tokenizer_config.json", "{}")]), Ok(None));
    assert_eq!(with(&[config]), found("C"));
    assert_eq!(with(&[("tokenizer_config.json", list)]), found("D"));
    assert_eq!(with(&[config, ("chat_template.json", r#"{"chat_template": "J"}"#)]), found("J"));
    assert_eq!(with(&[config, ("chat_template.jinja", "{{ x }}\n")]), found("{{ x }}\n"));
    let named = |files: &[(&str, &str)]| {
        let mut model = model(json!({}), &[("a", "F32", &[1], 4)]);
        model.extend(files.iter().map(|(name, text)| ((*name).into(), text.as_bytes().to_vec())));
        let names = open(&model).unwrap().chat_templates().to_vec();
        names.into_iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(named(&[("tokenizer_config.json", list)]), "tool_use=T default=D");
    let separate = ("additional_chat_templates/tool_use.jinja", "T2");
    assert_eq!(named(&[("chat_template.jinja", "D2"), separate]), "default=D2 tool_use=T2");
    let only = r#"{"chat_template": [{"name": "rag", "template": "R"}]}"#;
    assert_eq!(named(&[("tokenizer_config.json", only)]), "rag=R");
    for (text, expected) in [
        (r#"{"chat_template": 3}"#, "'chat_template' is neither a text nor a list"),
        (r#"{"chat_template": []}"#, "'chat_template' has no template named 'default'"),
        (
            r#"{"chat_template": [{"name": "default", "template": 3}]}"#,
            "no template named 'default'",
        ),
    ] {
        let error = with(&[("tokenizer_config.json", text)]).unwrap_err();
        assert!(error.contains("tokenizer_config.json") && error.contains(expected), "{error}");
    }
}

#[test]
fn gguf_becomes_config_tokenizer_and_rows_in_order() {
    let checkpoint = open(&vec![("model.gguf".into(), llama_gguf())]).unwrap();
    assert_eq!(checkpoint.format(), "GGUF v3");
    assert_eq!(checkpoint.chat_template(), Some("{{ messages }}"));
    assert_eq!(
        checkpoint.config(),
        &json!({
            "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1,
            "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 128,
            "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "factors", "factors": [1.0, 2.0]}, "vocab_size": 8,
            "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": false,
            "hidden_act": "silu", "eos_token_id": 2
        })
    );
    let tokenizer = checkpoint.gguf_tokenizer().unwrap().unwrap();
    assert_eq!(tokenizer.tokens, ["a", "b", "ab"]);
    assert_eq!(tokenizer.token_types[2], TokenType::Control);
    assert_eq!((tokenizer.eos, tokenizer.bos, tokenizer.add_bos), (Some(2), None, Some(false)));
    assert_eq!(tokenizer.merges, ["a b"]);

    // Row r of q holds the values 32 r .. 32 r + 32; two heads of four rows.
    let q = checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    let first = |row: usize| f32::from_le_bytes(*q.row(row).data.first_chunk().unwrap());
    let rows: Vec<f32> = (0..8).map(|row| first(row) / 32.0).collect();
    assert_eq!(rows, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    // Its bias moves with it, and stays one row.
    let bias = checkpoint.tensor("model.layers.0.self_attn.q_proj.bias").unwrap();
    assert_eq!((bias.rows(), bias.cols()), (1, 8));
    let values: Vec<f32> =
        bias.parts().data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(values, rows);
    // k is packed (rows of 18 bytes) and moves as one head; v has the same bytes and stays.
    let k = checkpoint.tensor("model.layers.0.self_attn.k_proj.weight").unwrap();
    let v = checkpoint.tensor("model.layers.0.self_attn.v_proj.weight").unwrap();
    assert_eq!(k.codec(), Codec::Q4_0);
    for (row, from) in [0, 2, 1, 3].into_iter().enumerate() {
        assert_eq!(k.row(row).data, v.row(from).data);
        assert_eq!(v.row(row).data[0], 18 * row as u8);
    }
}

#[test]
fn gguf_nvfp4_with_scales_apart_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let announce = |name: &str, codec, shape: &[usize]| gguf::Announced {
        name: name.into(),
        codec,
        shape: shape.into(),
    };
    let weight = [0; 36];
    let tensors = [
        (announce("blk.0.ffn_up.weight", Codec::Nvfp4, &[1, 64]), &weight[..]),
        (announce("blk.0.ffn_up.scale", Codec::F32, &[1]), &[0; 4]),
        (announce("blk.0.ffn_down.weight", Codec::Nvfp4, &[1, 64]), &weight),
    ];
    gguf::write(&path, &llama_metadata(), tensors).unwrap();
    let checkpoint = keeve_checkpoint::Checkpoint::open(&path).unwrap();
    let error = checkpoint.tensor("model.layers.0.mlp.up_proj.weight").unwrap_err().to_string();
    assert!(
        error.ends_with("is nvfp4 with a scale in a tensor of its own, which keeve does not read")
    );
    assert!(checkpoint.tensor("model.layers.0.mlp.down_proj.weight").is_ok());
}

#[test]
fn gguf_gemma3_has_hugging_faces_norms_and_fields() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let gains: Vec<u8> = [1.5f32, 0.25].into_iter().flat_map(f32::to_le_bytes).collect();
    let write = |more: &[(&'static str, Value)], codec: Codec| {
        let mut metadata = vec![
            ("general.architecture", Value::string("gemma3")),
            ("gemma3.block_count", Value::u32(3)),
            ("gemma3.attention.head_count", Value::u32(2)),
            ("gemma3.attention.key_length", Value::u32(16)),
            ("gemma3.attention.sliding_window", Value::u32(8)),
        ];
        metadata.extend(more.iter().cloned());
        let shape = vec![if codec == Codec::F32 { 2 } else { 4 }];
        let name = "blk.0.ffn_norm.weight".into();
        let tensor = gguf::Announced { name, codec, shape };
        gguf::write(&path, &metadata, [(tensor, &gains[..])]).unwrap();
        keeve_checkpoint::Checkpoint::open(&path)
    };
    let checkpoint = write(&[], Codec::F32).unwrap();
    let norm = checkpoint.tensor("model.layers.0.pre_feedforward_layernorm.weight").unwrap();
    assert_eq!(keeve_codec::decode(&norm), [0.5, -0.75]);
    let config = checkpoint.config();
    for (field, value) in [
        ("model_type", json!("gemma3_text")),
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("sliding_window", json!(8)),
        ("sliding_window_pattern", json!(6)),
        ("rope_local_base_freq", json!(10_000.0)),
        ("query_pre_attn_scalar", json!(16)),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
    let pattern = |local: &[bool]| {
        let key = "gemma3.attention.sliding_window_pattern";
        write(&[(key, Value::Array(Array::of_bools(local)))], Codec::F32)
    };
    let types = pattern(&[true, false, true]).unwrap().config()["layer_types"].clone();
    assert_eq!(types, json!(["sliding_attention", "full_attention", "sliding_attention"]));
    let error = pattern(&[true]).unwrap_err().to_string();
    assert!(error.contains("sliding_window_pattern' does not hold 3 truth values"), "{error}");
    let checkpoint = write(&[], Codec::F16).unwrap();
    let error = checkpoint.tensor("model.layers.0.pre_feedforward_layernorm.weight");
    assert!(error.unwrap_err().to_string().contains("a norm stored as"));
}

#[test]
fn gguf_rope_scaling() {
    let scaled = |values: &[(&'static str, Value)]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let mut metadata = llama_metadata();
        metadata.extend(values.iter().cloned());
        gguf::write(&path, &metadata, []).unwrap();
        let checkpoint = keeve_checkpoint::Checkpoint::open(&path).unwrap();
        checkpoint.config()["rope_scaling"].clone()
    };
    let kind = |kind: &str| ("llama.rope.scaling.type", Value::string(kind));
    let factor = ("llama.rope.scaling.factor", Value::F32(4.0));
    assert_eq!(scaled(&[]), json!(null));
    assert_eq!(scaled(&[kind("none")]), json!(null));
    assert_eq!(
        scaled(&[kind("linear"), factor.clone()]),
        json!({"rope_type": "linear", "factor": 4.0})
    );
    // A factor without a type is linear, also under its first name.
    assert_eq!(
        scaled(std::slice::from_ref(&factor)),
        json!({"rope_type": "linear", "factor": 4.0})
    );
    let old = ("llama.rope.scale_linear", Value::F32(2.0));
    assert_eq!(scaled(&[old]), json!({"rope_type": "linear", "factor": 2.0}));
    let original = ("llama.rope.scaling.original_context_length", Value::u32(4096));
    assert_eq!(
        scaled(&[kind("yarn"), factor.clone(), original]),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096})
    );
    let attention = ("llama.rope.scaling.attn_factor", Value::F32(1.0));
    let yarn = scaled(&[kind("yarn"), factor, attention]);
    assert_eq!(yarn["attention_factor"], 0.1 * 4f64.ln() + 1.0);
}

#[test]
fn paths_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        keeve_checkpoint::Checkpoint::open(&folder.path().join(name)).map_err(|e| e.to_string())
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("a.safetensors", b"");
    write("a.txt", b"hello");
    write("a.gguf", b"hello");
    write("no-extension", &llama_gguf());
    assert!(
        open("a.safetensors")
            .unwrap_err()
            .ends_with("config.json, which says what model it is, is not beside it")
    );
    assert!(open("a.txt").unwrap_err().ends_with("is neither a model's folder nor a GGUF file"));
    assert!(open("a.gguf").unwrap_err().contains("is not a GGUF file"));
    assert!(open("none").unwrap_err().contains("none: "));
    assert_eq!(open("no-extension").unwrap().tensors().len(), 6);
    // A folder with a single GGUF file stands for it.
    std::fs::create_dir(folder.path().join("m")).unwrap();
    write("m/model.gguf", &llama_gguf());
    let model = open("m").unwrap();
    assert!(model.path().ends_with("m/model.gguf"), "{model:?}");
    assert_eq!(model.files()[0].name, "model.gguf");
}
