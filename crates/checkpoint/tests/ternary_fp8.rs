//! Checkpoints of BitNet and FP8, written here from the published layouts and read back; and what checkpoints say about
//! rounding activations.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Random, Tensor, assert_values, model_of, open, read, tensor};
use keeve_checkpoint::{ActivationRule, ActivationScheme, ActivationStrategy};
use keeve_codec::{Codec, Float, Group};
use serde_json::{Value, json};

#[test]
fn bitnet_rows_come_apart() {
    let (rows, cols) = (8, 64);
    let mut random = Random(3);
    let weights: Vec<Vec<i32>> =
        (0..rows).map(|_| (0..cols).map(|_| random.below(3) as i32 - 1).collect()).collect();
    let mut packed = vec![0u8; rows / 4 * cols];
    for (row, weights) in weights.iter().enumerate() {
        for (column, weight) in weights.iter().enumerate() {
            packed[row % 2 * cols + column] |= ((weight + 1) as u8) << (row / 2 * 2);
        }
    }
    let scale = half::bf16::from_f32(1.7578125);
    let model = |settings: Value, packed: &[u8]| {
        let mut block = json!({"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]});
        block.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        model_of(
            json!({"quantization_config": block}),
            &[
                tensor("p.weight", "U8", &[2, cols], packed.to_vec()),
                tensor("p.weight_scale", "BF16", &[1], scale.to_le_bytes().to_vec()),
            ],
        )
    };
    let auto = json!({"linear_class": "autobitlinear", "quantization_mode": "offline"});
    for (settings, factor, float) in [
        (auto.clone(), scale.to_f32(), Float::Bf16),
        (json!({"linear_class": "bitlinear"}), 1.0 / scale.to_f32(), Float::F32),
        (json!({}), 1.0 / scale.to_f32(), Float::F32),
    ] {
        let model = model(settings.clone(), &packed);
        let tensor = read(&model).unwrap();
        assert_eq!(tensor.codec(), Codec::Affine { bits: 2, group: 64, scale: float });
        let expected: Vec<f32> = weights.iter().flatten().map(|w| *w as f32 * factor).collect();
        assert_values(&tensor, &expected, &settings.to_string());
        let activations = open(&model).unwrap().info("p.weight").unwrap().activations.unwrap();
        assert_eq!(activations.to_string(), "int8 per token, dynamic");
        assert_eq!(activations.rule, ActivationRule::BitNet);
    }
    let mut three = packed.clone();
    three[cols + 5] |= 0b0011_0000;
    let error = read(&model(auto.clone(), &three)).unwrap_err();
    assert!(error.contains("has the code 3 in byte 5 of row 1, expected 0, 1 or 2"), "{error}");
    for (settings, expected) in [
        (
            json!({"quantization_mode": "online"}),
            "quantization_mode' is \"online\", so the file has",
        ),
        (json!({"quantization_mode": 3}), "quantization_mode' is 3, expected \"offline\""),
        (json!({"use_rms_norm": true}), "use_rms_norm' is true, expected false"),
        (json!({"linear_class": "other"}), "linear_class' is \"other\", expected \"bitlinear\""),
    ] {
        let error = open(&model(settings, &packed)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let config = || json!({"quantization_config": {"quant_method": "bitnet"}});
    let weight = || tensor("p.weight", "U8", &[2, 64], packed.clone());
    let zero = vec![0; 2];
    for (tensors, expected) in [
        (vec![weight()], "is packed, but has no 'weight_scale'"),
        (vec![weight(), tensor("p.weight_scale", "BF16", &[1], zero)], "zero where it divides"),
        (vec![weight(), tensor("p.weight_scale", "BF16", &[2], vec![0; 4])], "expected one float"),
        (vec![weight(), tensor("p.weight_scale", "I32", &[1], vec![0; 4])], "expected one float"),
        (
            vec![
                tensor("p.weight", "BF16", &[2, 64], vec![0; 256]),
                tensor("p.weight_scale", "BF16", &[1], vec![1; 2]),
            ],
            "has a 'weight_scale' but is stored as BF16, expected U8",
        ),
        (
            vec![
                tensor("p.weight", "U8", &[2, 40], vec![0; 80]),
                tensor("p.weight_scale", "BF16", &[1], vec![1; 2]),
            ],
            "has rows of 40, expected a multiple of 32",
        ),
    ] {
        let error = read(&model_of(config(), &tensors)).unwrap_err();
        assert!(error.contains("tensor 'p.weight' ") && error.contains(expected), "{error}");
    }
}

/// E4M3 from its definition: sign, 4 bits of exponent with bias 7, 3 of fraction.
fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let size =
        if exponent == 0 { fraction / 64.0 } else { (1.0 + fraction) * 2f32.powi(exponent - 7) };
    if byte >= 128 { -size } else { size }
}

#[test]
fn fp8_with_scales_of_blocks_rows_and_tensors() {
    let (rows, cols) = (200, 320);
    let mut random = Random(9);
    let codes: Vec<u8> =
        (0..rows * cols).map(|_| random.below(127) as u8 ^ (random.below(2) as u8) << 7).collect();
    let weight = tensor("p.weight", "F8_E4M3", &[rows, cols], codes.clone());
    let block = |settings: Value| {
        let mut block =
            json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"});
        block.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        json!({"quantization_config": block})
    };
    let compressed = |weights: Value| {
        let inputs = json!({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true});
        json!({"quantization_config": {"quant_method": "compressed-tensors",
            "format": "float-quantized", "config_groups": {"g": {"targets": ["Linear"],
            "weights": weights, "input_activations": inputs}}}})
    };
    let float = |strategy: &str| json!({"num_bits": 8, "type": "float", "strategy": strategy});
    let mut blocks = float("block");
    blocks["block_structure"] = json!([128, 128]);
    // Rows and columns that share a scale; the last ones may be fewer.
    for (config, name, shape, [height, width], group, activations) in [
        (
            block(json!({"weight_block_size": [128, 128]})),
            "p.weight_scale_inv",
            vec![2, 3],
            [128, 128],
            Group::Of(64),
            "fp8 per 128 columns of a token, dynamic",
        ),
        (
            block(json!({"weight_block_size": [100, 32], "activation_scheme": "static"})),
            "p.weight_scale_inv",
            vec![2, 10],
            [100, 32],
            Group::Of(32),
            "fp8 per tensor, static",
        ),
        (
            block(json!({"weight_block_size": null})),
            "p.weight_scale",
            vec![],
            [rows, cols],
            Group::Row,
            "fp8 per token, dynamic",
        ),
        (
            compressed(float("tensor")),
            "p.weight_scale",
            vec![1],
            [rows, cols],
            Group::Row,
            "fp8 per token, dynamic",
        ),
        (
            compressed(float("channel")),
            "p.weight_scale",
            vec![rows, 1],
            [1, cols],
            Group::Row,
            "fp8 per token, dynamic",
        ),
        (
            compressed(float("group")),
            "p.weight_scale",
            vec![rows, 5],
            [1, 64],
            Group::Of(64),
            "fp8 per token, dynamic",
        ),
        (
            compressed(blocks),
            "p.weight_scale",
            vec![2, 3],
            [128, 128],
            Group::Of(64),
            "fp8 per token, dynamic",
        ),
    ] {
        let count: usize = shape.iter().product();
        let scales: Vec<f32> =
            (0..count).map(|_| random.below(1000) as f32 * 1e-5 - 2e-3).collect();
        let stored = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let model = model_of(config, &[weight.clone(), tensor(name, "F32", &shape, stored)]);
        let found = read(&model).unwrap();
        assert_eq!(found.codec(), Codec::Fp8 { group, scale: Float::F32 });
        assert_eq!(found.parts().data.len(), rows * cols, "a byte for each weight");
        let across = cols.div_ceil(width);
        let expected: Vec<f32> = (0..rows * cols)
            .map(|at| {
                let scale = scales[at / cols / height * across + at % cols / width];
                e4m3(codes[at]) * scale
            })
            .collect();
        assert_values(&found, &expected, &format!("{name} {shape:?}"));
        let found = open(&model).unwrap().info("p.weight").unwrap().activations.unwrap();
        assert_eq!(found.to_string(), activations);
    }
    let blocks = || block(json!({"weight_block_size": [128, 128]}));
    let scale =
        |kind, shape: &[usize], bytes| tensor("p.weight_scale_inv", kind, shape, vec![1; bytes]);
    for (config, tensors, expected) in [
        (blocks(), vec![weight.clone()], "lacks its scales"),
        (
            blocks(),
            vec![weight.clone(), scale("F32", &[3, 2], 24)],
            "scales [3, 2], which do not go with 200x320 in blocks of 128x128",
        ),
        (blocks(), vec![weight.clone(), scale("F32", &[], 4)], "scales [], which do not go with"),
        (blocks(), vec![weight.clone(), scale("F8_E8M0", &[2, 3], 6)], "scales of type F8_E8M0"),
        (
            block(json!({})),
            vec![weight.clone(), scale("F32", &[2, 3], 24)],
            "scales [2, 3], which do",
        ),
        (
            block(json!({"weight_block_size": [1, 20]})),
            vec![weight.clone(), scale("F32", &[200, 16], 12_800)],
            "has scales for 20 columns of 320, no multiple of 32",
        ),
        (blocks(), vec![tensor("p.weight", "F8_E4M3", &[128], vec![0; 128])], "lacks its scales"),
        (
            blocks(),
            vec![tensor("p.weight", "F8_E4M3", &[128], vec![0; 128]), scale("F32", &[1], 4)],
            "expected two dimensions",
        ),
    ] {
        let error = read(&model_of(config, &tensors)).unwrap_err();
        assert!(error.contains("tensor 'p.weight' ") && error.contains(expected), "{error}");
    }
    for (settings, expected) in [
        (json!({"weight_block_size": [128]}), "weight_block_size' is [128], expected two counts"),
        (json!({"weight_block_size": [128, 0]}), "weight_block_size' is [128,0], expected"),
        (json!({"fmt": "e5m2"}), "fmt' is \"e5m2\", expected e4m3"),
        (json!({"activation_scheme": "none"}), "activation_scheme' is \"none\", expected"),
    ] {
        let model = model_of(block(settings), std::slice::from_ref(&weight));
        let error = open(&model).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn activations_of_compressed_tensors() {
    let weight = |name: &str| tensor(&format!("{name}.weight"), "I8", &[2, 64], vec![1; 128]);
    let scale = |name: &str| tensor(&format!("{name}.weight_scale"), "F32", &[2, 1], vec![0; 8]);
    let names = [
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
    ];
    let tensors: Vec<Tensor> = names.iter().flat_map(|name| [weight(name), scale(name)]).collect();
    let group = |targets: &[&str], inputs: Value| {
        json!({"targets": targets, "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
            "input_activations": inputs})
    };
    let config = |groups: Value| {
        json!({"quantization_config": {"quant_method": "compressed-tensors",
            "format": "int-quantized", "config_groups": groups}})
    };
    let token = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true,
        "symmetric": true, "observer": null, "group_size": null});
    let fixed = json!({"num_bits": 8, "strategy": "tensor", "dynamic": false, "symmetric": false});
    let grouped = json!({"num_bits": 4, "strategy": "group", "group_size": 128, "dynamic": true});
    // The name goes before the pattern, and that before the class, whatever their order is.
    let groups = json!({
        "a": group(&["Linear"], token.clone()),
        "b": group(&["re:.*\\.1\\..*"], grouped),
        "c": group(&["model.layers.1.self_attn.q_proj"], fixed),
    });
    let checkpoint = open(&model_of(config(groups), &tensors)).unwrap();
    let found = names.map(|name| {
        let info = checkpoint.info(&format!("{name}.weight")).unwrap();
        info.activations.map(|activations| activations.to_string()).unwrap_or_default()
    });
    assert_eq!(
        found,
        [
            "int8 per token, dynamic",
            "int4 per 128 columns of a token, dynamic",
            "int8 per tensor, static, asymmetric",
        ]
    );
    let first = checkpoint.info("model.layers.0.mlp.up_proj.weight").unwrap().activations;
    assert_eq!(
        first,
        Some(ActivationScheme {
            rule: ActivationRule::CompressedTensors,
            strategy: ActivationStrategy::Token,
            bits: 8,
            float: false,
            symmetric: true,
            dynamic: true,
        })
    );
    let one = json!({"a": group(&["re:layers"], token.clone())});
    let checkpoint = open(&model_of(config(one), &tensors)).unwrap();
    let info = checkpoint.info("model.layers.0.mlp.up_proj.weight").unwrap();
    assert_eq!(info.activations, None, "patterns match from the start");
    let with = |key: &str, value: Value| {
        let mut inputs = token.clone();
        inputs[key] = value;
        json!({"a": group(&["Linear"], inputs)})
    };
    for (groups, expected) in [
        (with("num_bits", json!(3)), "input_activations.num_bits' is 3, which is not supported"),
        (with("num_bits", Value::Null), "input_activations.num_bits' is missing or not a count"),
        (with("type", json!("posit")), "input_activations.type' is \"posit\""),
        (with("dynamic", json!("local")), "input_activations.dynamic' is \"local\""),
        (with("strategy", json!("block")), "input_activations.strategy' is \"block\""),
        (with("strategy", json!("group")), "input_activations.group_size' is missing"),
        (json!({"a": group(&["re:("], token.clone())}), "has 're:(', no regular expression"),
        (json!({"a": {"targets": 3}}), "config_groups.a.targets' is not a list"),
    ] {
        let error = open(&model_of(config(groups), &tensors)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
