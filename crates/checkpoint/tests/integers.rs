//! Checkpoints of AWQ and GPTQ, and of compressed-tensors with "actorder", written here from the published layouts, one
//! bit at a time, and read back: every weight must be what the formula of its format gives.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Random, Tensor, assert_values, model_of, open, read, tensor};
use half::f16;
use keeve_codec::{Basis, Codec, Float, Group};
use serde_json::{Value, json};

/// Codes, zero points and scales of a matrix, and what they stand for.
struct Matrix {
    rows: usize,
    cols: usize,
    bits: usize,
    groups: usize,
    /// `[rows][cols]`.
    codes: Vec<Vec<u32>>,
    /// `[rows][groups]`.
    zeros: Vec<Vec<u32>>,
    scales: Vec<Vec<f16>>,
    /// The group of each column.
    group_of: Vec<usize>,
}

impl Matrix {
    fn new(rows: usize, cols: usize, bits: usize, group: usize, symmetric: bool) -> Self {
        let mut random = Random((rows * 7 + cols * 31 + bits) as u64);
        let groups = cols.div_ceil(group);
        let mut table = |columns: usize, end: u32| -> Vec<Vec<u32>> {
            let mut row = || (0..columns).map(|_| random.below(end)).collect();
            (0..rows).map(|_| row()).collect()
        };
        let codes = table(cols, 1 << bits);
        let zeros = match symmetric {
            true => vec![vec![1 << (bits - 1); groups]; rows],
            false => table(groups, 1 << bits),
        };
        let scales = table(groups, 60_000);
        let scale = |n: &u32| f16::from_f32((*n as f32 - 30_000.0) * 1e-6);
        let scales = scales.iter().map(|row| row.iter().map(scale).collect()).collect();
        let group_of = (0..cols).map(|column| column / group).collect();
        Self { rows, cols, bits, groups, codes, zeros, scales, group_of }
    }

    /// The columns in another order: groups keep their sizes.
    fn shuffled(mut self) -> Self {
        let mut random = Random(5);
        for last in (1..self.cols).rev() {
            self.group_of.swap(last, random.below(last as u32 + 1) as usize);
        }
        self
    }

    fn values(&self) -> Vec<f32> {
        let mut values = Vec::new();
        for row in 0..self.rows {
            for column in 0..self.cols {
                let group = self.group_of[column];
                let steps = self.codes[row][column] as i32 - self.zeros[row][group] as i32;
                values.push(steps as f32 * self.scales[row][group].to_f32());
            }
        }
        values
    }

    /// `[groups, rows]`.
    fn scales_by_group(&self) -> Vec<u8> {
        let place = |at: usize| self.scales[at % self.rows][at / self.rows];
        (0..self.groups * self.rows).flat_map(|at| place(at).to_le_bytes()).collect()
    }
}

/// Words of which each line of `line` words is a bit stream, the lowest bit first, of codes given as (line, index in
/// the line, code).
fn streams(lines: usize, line: usize, bits: usize, codes: &[(usize, usize, u32)]) -> Vec<u32> {
    let mut words = vec![0u32; lines * line];
    for &(at, index, code) in codes {
        for bit in 0..bits {
            let place = index * bits + bit;
            words[at * line + place / 32] |= (code >> bit & 1) << (place % 32);
        }
    }
    words
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn gptq(matrix: &Matrix, zero_offset: u32, g_idx: bool) -> Vec<Tensor> {
    let Matrix { rows, cols, bits, groups, .. } = *matrix;
    // Each column of qweight is a stream along k; made as lines, then transposed.
    let along_k: Vec<_> = (0..rows)
        .flat_map(|row| (0..cols).map(move |column| (row, column)))
        .map(|(row, column)| (row, column, matrix.codes[row][column]))
        .collect();
    let line = cols * bits / 32;
    let lines = streams(rows, line, bits, &along_k);
    let qweight: Vec<u32> =
        (0..line * rows).map(|at| lines[at % rows * line + at / rows]).collect();
    let mask = (1 << bits) - 1;
    let along_n: Vec<_> = (0..groups)
        .flat_map(|group| (0..rows).map(move |row| (group, row)))
        .map(|(group, row)| (group, row, matrix.zeros[row][group].wrapping_sub(zero_offset) & mask))
        .collect();
    let words = rows * bits / 32;
    let qzeros = streams(groups, words, bits, &along_n);
    let mut tensors = vec![
        tensor("p.qweight", "I32", &[line, rows], bytes(&qweight)),
        tensor("p.qzeros", "I32", &[groups, words], bytes(&qzeros)),
        tensor("p.scales", "F16", &[groups, rows], matrix.scales_by_group()),
    ];
    if g_idx {
        let groups: Vec<u32> = matrix.group_of.iter().map(|group| *group as u32).collect();
        tensors.push(tensor("p.g_idx", "I32", &[cols], bytes(&groups)));
    }
    tensors
}

fn gptq_config(bits: usize, group: i64, sym: bool, format: &str) -> Value {
    json!({"quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": group,
        "sym": sym, "desc_act": false, "checkpoint_format": format}})
}

#[test]
fn gptq_of_all_bits_groups_and_versions() {
    let (rows, cols) = (32, 256);
    for bits in [2, 3, 4, 8] {
        for group in [-1, 32, 64, 128, 256, 1024] {
            let len = if group < 0 { cols } else { (group as usize).min(cols) };
            for sym in [true, false] {
                let matrix = Matrix::new(rows, cols, bits, len, sym);
                for (format, offset) in [("gptq", 1), ("gptq_v2", 0)] {
                    let what = format!("{bits} bits, groups of {group}, sym {sym}, {format}");
                    let config = gptq_config(bits, group, sym, format);
                    let model = model_of(config, &gptq(&matrix, offset, group != 64));
                    let tensor = read(&model).unwrap();
                    assert_values(&tensor, &matrix.values(), &what);
                    assert_eq!(tensor.basis(), None, "{what}");
                    let own_size = rows * (cols * bits / 8 + 2 * cols / len);
                    match (sym, bits) {
                        (true, 4 | 8) => assert_eq!(tensor.bytes(), own_size, "{what}"),
                        // An f32 scale and bias for each 128, 64 or 32 columns.
                        _ => {
                            let parts = rows * (cols / len.min(128)) * 8;
                            assert_eq!(tensor.bytes(), rows * cols * bits / 8 + parts, "{what}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn gptq_with_columns_in_order_of_activations() {
    for (bits, sym) in [(2, false), (3, true), (4, true), (4, false), (8, true)] {
        for group in [32, 128] {
            let matrix = Matrix::new(64, 384, bits, group, sym).shuffled();
            let config = gptq_config(bits, group as i64, sym, "gptq");
            let tensor = read(&model_of(config, &gptq(&matrix, 1, true))).unwrap();
            let Some(Basis::Order(order)) = tensor.basis() else { panic!("columns have moved") };
            assert!(order.is_sorted_by_key(|column| matrix.group_of[*column as usize]));
            assert_values(&tensor, &matrix.values(), &format!("{bits} bits in {group}"));
        }
    }
}

#[test]
fn gptq_modules_may_differ() {
    // The config says 4 bits in groups of 128; an override says 8 in 32 for this module.
    let matrix = Matrix::new(32, 128, 8, 32, false);
    let tensors = gptq(&matrix, 0, true);
    let mut config = gptq_config(4, 128, true, "gptq_v2");
    let error = read(&model_of(config.clone(), &tensors)).unwrap_err();
    assert!(error.contains("8 words of zero points for 32 rows, which is not 4 bits"), "{error}");
    config["quantization_config"]["dynamic"] = json!({"+:p": {"bits": 8, "group_size": 32}});
    let tensor = read(&model_of(config, &tensors)).unwrap();
    assert_eq!(tensor.codec(), Codec::Affine { bits: 8, group: 32, scale: Float::F32 });
    assert_values(&tensor, &matrix.values(), "an override");
}

#[test]
fn damaged_gptq_is_refused() {
    let matrix = || Matrix::new(32, 128, 4, 64, true);
    let good = gptq(&matrix(), 1, true);
    let with = |index: usize, changed: Tensor| {
        let mut tensors = good.clone();
        tensors[index] = changed;
        model_of(gptq_config(4, 64, true, "gptq"), &tensors)
    };
    let without = |index: usize| {
        let mut tensors = good.clone();
        tensors.remove(index);
        model_of(gptq_config(4, 64, true, "gptq"), &tensors)
    };
    let g_idx = |groups: &[u32]| with(3, tensor("p.g_idx", "I32", &[groups.len()], bytes(groups)));
    let mut one_off: Vec<u32> = (0..128).map(|column| column / 64).collect();
    one_off[3] = 1;
    let config = |config: Value| model_of(config, &good);
    for (model, expected) in [
        (
            config(gptq_config(4, 32, true, "gptq")),
            "2 groups for rows of 128, expected groups of 32",
        ),
        (
            config(gptq_config(4, -1, true, "gptq")),
            "2 groups for rows of 128, expected groups of 128",
        ),
        (
            config(gptq_config(8, 64, true, "gptq")),
            "4 words of zero points for 32 rows, which is not 8",
        ),
        (config(gptq_config(4, 64, true, "gptq_v2")), "the zero point 7 in row 0, expected 8"),
        (without(1), "lacks its 'qzeros'"),
        (without(2), "lacks its 'scales'"),
        (g_idx(&[2; 128]), "has the group 2 for column 0 in g_idx; there are 2 groups"),
        (g_idx(&[u32::MAX; 128]), "has the group -1 for column 0"),
        (g_idx(&[0; 64]), "has g_idx I32 [64], expected I32 [128]"),
        (g_idx(&one_off), "has a g_idx whose groups are no multiples of 64 columns"),
        (
            with(0, tensor("p.qweight", "I32", &[512], vec![0; 2048])),
            "expected two dimensions each",
        ),
        (with(0, tensor("p.qweight", "F32", &[16, 32], vec![0; 2048])), "as F32, expected I32"),
        (with(0, tensor("p.qweight", "I32", &[0, 32], vec![])), "is empty"),
        (with(1, tensor("p.qzeros", "I32", &[1, 4], vec![0; 16])), "which do not go together"),
        (with(1, tensor("p.qzeros", "I32", &[2, 5], vec![0; 40])), "5 words of zero points for 32"),
        (with(2, tensor("p.scales", "I32", &[2, 32], vec![0; 256])), "scales of type I32"),
        (with(2, tensor("p.scales", "F16", &[2, 31], vec![0; 124])), "which do not go together"),
    ] {
        let error = read(&model).unwrap_err();
        assert!(error.contains("tensor 'p.weight' ") && error.contains(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let field = |key: &str, value: Value| {
        let mut config = gptq_config(4, 64, true, "gptq");
        config["quantization_config"][key] = value;
        open(&model_of(config, &good)).map(|_| ()).unwrap_err().to_string()
    };
    for (key, value, expected) in [
        ("bits", json!(5), "bits' is 5, expected 2, 3, 4 or 8"),
        ("bits", Value::Null, "bits' is missing, expected"),
        ("group_size", json!(0), "group_size' is 0, expected -1 or a count"),
        ("group_size", json!(-2), "group_size' is -2"),
        ("checkpoint_format", json!("marlin"), "is \"marlin\", expected \"gptq\" or \"gptq_v2\""),
        ("pack_dtype", json!("int64"), "pack_dtype' is \"int64\", expected \"int32\""),
        ("sym", json!(1), "sym' is 1, expected true or false"),
        ("dynamic", json!([]), "dynamic' is [], expected an object"),
    ] {
        let error = field(key, value);
        assert!(error.starts_with("(memory)/config.json: ") && error.contains(expected), "{error}");
    }
    // Groups that keeve has no codec for.
    let small = Matrix::new(32, 128, 4, 16, true);
    let model = model_of(gptq_config(4, 16, true, "gptq"), &gptq(&small, 1, true));
    let error = read(&model).unwrap_err();
    assert!(error.contains("4 bits in groups of 16, for which keeve has no codec"), "{error}");
}

/// The order of AutoAWQ's packing: nibble i holds output `[0, 2, 4, 6, 1, 3, 5, 7][i]` of eight.
fn awq_place(row: usize) -> usize {
    row / 8 * 8 + [0, 4, 1, 5, 2, 6, 3, 7][row % 8]
}

fn awq(matrix: &Matrix) -> Vec<Tensor> {
    let Matrix { rows, cols, groups, .. } = *matrix;
    let all = |lines: usize| (0..lines).flat_map(|line| (0..rows).map(move |row| (line, row)));
    let codes: Vec<_> =
        all(cols).map(|(k, row)| (k, awq_place(row), matrix.codes[row][k])).collect();
    let zeros: Vec<_> =
        all(groups).map(|(g, row)| (g, awq_place(row), matrix.zeros[row][g])).collect();
    let words = rows / 8;
    vec![
        tensor("p.qweight", "I32", &[cols, words], bytes(&streams(cols, words, 4, &codes))),
        tensor("p.qzeros", "I32", &[groups, words], bytes(&streams(groups, words, 4, &zeros))),
        tensor("p.scales", "F16", &[groups, rows], matrix.scales_by_group()),
    ]
}

/// Zero points and scales are padded to `words`.
fn awq_gemv(matrix: &Matrix, words: usize) -> Vec<Tensor> {
    let Matrix { rows, cols, groups, .. } = *matrix;
    let all = |columns: usize| (0..rows).flat_map(move |row| (0..columns).map(move |k| (row, k)));
    let codes: Vec<_> = all(cols).map(|(row, k)| (row, k, matrix.codes[row][k])).collect();
    let zeros: Vec<_> = all(groups).map(|(row, g)| (row, g, matrix.zeros[row][g])).collect();
    let scale = |(row, g): (usize, usize)| matrix.scales[row].get(g).copied().unwrap_or(f16::ZERO);
    let scales = all(words * 8).flat_map(|at| scale(at).to_le_bytes()).collect();
    vec![
        tensor("p.qweight", "I32", &[rows, cols / 8], bytes(&streams(rows, cols / 8, 4, &codes))),
        tensor("p.qzeros", "I32", &[rows, words], bytes(&streams(rows, words, 4, &zeros))),
        tensor("p.scales", "F16", &[rows, words * 8], scales),
    ]
}

fn awq_config(group: i64, version: &str) -> Value {
    json!({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": group,
        "zero_point": true, "version": version, "modules_to_not_convert": null}})
}

#[test]
fn awq_of_all_groups_and_versions() {
    for group in [-1, 32, 64, 128] {
        let len = if group < 0 { 384 } else { group as usize };
        let matrix = Matrix::new(40, 384, 4, len, false);
        for (version, tensors) in
            [("gemm", awq(&matrix)), ("GEMM", awq(&matrix)), ("gemv", awq_gemv(&matrix, 4))]
        {
            let tensor = read(&model_of(awq_config(group, version), &tensors)).unwrap();
            assert_values(&tensor, &matrix.values(), &format!("{version}, groups of {group}"));
            let unit = len.min(128) as u16;
            let codec = Codec::Affine { bits: 4, group: unit, scale: Float::F32 };
            assert_eq!(tensor.codec(), codec);
        }
    }
}

#[test]
fn damaged_awq_is_refused() {
    let good = awq(&Matrix::new(32, 128, 4, 64, false));
    let with = |index: usize, changed: Option<Tensor>| {
        let mut tensors = good.clone();
        tensors.remove(index);
        tensors.extend(changed);
        model_of(awq_config(64, "gemm"), &tensors)
    };
    for (model, expected) in [
        (model_of(awq_config(32, "gemm"), &good), "do not go with 32x128 in groups of 32"),
        (model_of(awq_config(-1, "gemm"), &good), "do not go with 32x128 in groups of 128"),
        (model_of(awq_config(64, "gemv"), &good), "do not go with 128x32 in groups of 32"),
        (with(1, None), "lacks its 'qzeros'"),
        (with(2, None), "lacks its 'scales'"),
        (with(1, Some(tensor("p.qzeros", "I32", &[2, 0], vec![]))), "is empty"),
        (with(1, Some(tensor("p.qzeros", "I64", &[2, 4], vec![0; 64]))), "stored as I64"),
        (with(2, Some(tensor("p.scales", "F16", &[64], vec![0; 128]))), "two dimensions each"),
    ] {
        let error = read(&model).unwrap_err();
        assert!(error.contains("tensor 'p.weight' ") && error.contains(expected), "{error}");
    }
    for (key, value, expected) in [
        ("bits", json!(3), "bits' is 3, expected 4"),
        ("version", json!("gemv_fast"), "is \"gemv_fast\", expected \"gemm\" or \"gemv\""),
        ("version", json!("marlin"), "version' is \"marlin\""),
        ("backend", json!("llm-awq"), "backend' is \"llm-awq\", expected \"autoawq\""),
        ("group_size", json!("64"), "group_size' is \"64\", expected -1 or a count"),
    ] {
        let mut config = awq_config(64, "gemm");
        config["quantization_config"][key] = value;
        let error = open(&model_of(config, &good)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn actorder_of_compressed_tensors() {
    let matrix = Matrix::new(32, 128, 4, 32, true).shuffled();
    let codes: Vec<_> = (0..32)
        .flat_map(|row| (0..128).map(move |column| (row, column)))
        .map(|(row, column)| (row, column, matrix.codes[row][column]))
        .collect();
    let shape: Vec<u8> = [32i64, 128].iter().flat_map(|n| n.to_le_bytes()).collect();
    let scales = matrix.scales.iter().flatten().flat_map(|scale| scale.to_le_bytes()).collect();
    let g_idx: Vec<u32> = matrix.group_of.iter().map(|group| *group as u32).collect();
    let tensors = [
        tensor("p.weight_packed", "I32", &[32, 16], bytes(&streams(32, 16, 4, &codes))),
        tensor("p.weight_shape", "I64", &[2], shape),
        tensor("p.weight_scale", "F16", &[32, 4], scales),
        tensor("p.weight_g_idx", "I32", &[128], bytes(&g_idx)),
    ];
    let weights = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
        "actorder": "group", "symmetric": true});
    let config = json!({"quantization_config": {"quant_method": "compressed-tensors",
        "format": "pack-quantized", "config_groups": {"g": {"targets": ["Linear"], "weights": weights}}}});
    let tensor = read(&model_of(config, &tensors)).unwrap();
    assert_eq!(tensor.codec(), Codec::Int4 { group: Group::Of(32), scale: Float::F16 });
    assert_values(&tensor, &matrix.values(), "actorder");
}

/// A model of compressed-tensors with a module `a.down_proj` of 3 by 64, and its config's transforms.
fn transformed(transforms: Value) -> Result<keeve_codec::PackedTensor, keeve_checkpoint::Error> {
    let codes = (0..3 * 64).map(|code| (code * 5 % 251) as u8).collect();
    let scales = [0.5f32, 0.25, 2.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let tensors = [
        tensor("a.down_proj.weight", "I8", &[3, 64], codes),
        tensor("a.down_proj.weight_scale", "F32", &[3, 1], scales),
    ];
    let weights = json!({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true});
    let config = json!({"quantization_config": {"quant_method": "compressed-tensors",
        "format": "int-quantized", "config_groups": {"g": {"targets": ["Linear"], "weights": weights}},
        "transform_config": transforms}});
    let model = model_of(config, &tensors);
    let checkpoint = open(&model)?;
    let tensor = checkpoint.tensor("a.down_proj.weight")?;
    let info = checkpoint.info("a.down_proj.weight").unwrap();
    assert_eq!(info.has_basis, tensor.basis().is_some());
    Ok(tensor)
}

/// As `transform_config` says, inputs are rotated where that is done as the model runs.
#[test]
fn rotations_of_compressed_tensors() {
    let plain = transformed(json!({})).unwrap();
    assert_eq!(plain.basis(), None);
    let args = |location: &str, targets: Value| json!({"targets": targets, "location": location});
    let scheme = |fields: Value, apply: &[Value]| {
        let mut scheme = json!({"type": "hadamard", "randomize": false, "requires_grad": false});
        let all = scheme.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        all.insert("apply".into(), apply.into());
        json!({"config_groups": {"R4": scheme}})
    };
    let both = |targets: Value| [args("input", targets.clone()), args("weight_input", targets)];
    for (fields, targets, block) in [
        (json!({"head_dim": 16}), json!(["a.down_proj"]), Some(16)),
        (json!({"head_dim": null}), json!(["re:.*down_proj$"]), Some(64)),
        (json!({"head_dim": 32, "precision": "torch.float32"}), json!(["Linear"]), Some(32)),
        (json!({"head_dim": 16}), json!(["a.up_proj"]), None),
    ] {
        let rotated = transformed(scheme(fields, &both(targets))).unwrap();
        assert_eq!(rotated.basis().cloned(), block.map(Basis::Hadamard));
        let mut expected = keeve_codec::decode(&plain);
        if let Some(block) = block {
            keeve_codec::hadamard(&mut expected, block);
        }
        assert!(keeve_codec::decode(&rotated) == expected);
    }
    // What was done to weights is done.
    let offline = scheme(json!({}), &[args("weight_output", json!(["Linear"]))]);
    assert_eq!(transformed(offline).unwrap().basis(), None);
    let mut ignored = args("input", json!(["Linear"]));
    ignored["ignore"] = json!(["a.down_proj"]);
    assert_eq!(transformed(scheme(json!({}), &[ignored])).unwrap().basis(), None);
    let linear = || both(json!(["Linear"]));
    let at = |field: &str| format!("transform_config.config_groups.R4.{field}");
    for (transforms, words) in [
        (scheme(json!({"type": "random-hadamard"}), &linear()), at("type' is \"random-hadamard\"")),
        (scheme(json!({"randomize": true}), &linear()), at("randomize' is true")),
        (scheme(json!({"head_dim": 24}), &linear()), at("head_dim' is not a power of two")),
        (scheme(json!({"head_dim": -1}), &linear()), at("head_dim' is not a power of two")),
        (scheme(json!({"head_dim": 128}), &linear()), "64 columns".into()),
        (scheme(json!({}), &[args("k_cache", json!(["Linear"]))]), at("apply[0].location")),
        (scheme(json!({}), &[args("input", json!(3))]), at("apply[0].targets")),
        (scheme(json!({}), &[linear(), linear()].concat()), "rotated twice".into()),
        (json!({"config_groups": {"R4": {"type": "hadamard"}}}), at("apply' is missing")),
        (json!({"config_groups": []}), "config_groups' is not an object".into()),
    ] {
        let error = transformed(transforms.clone()).unwrap_err().to_string();
        assert!(error.contains(&words), "{transforms}: {error}");
    }
}

/// The tensors of a module may lie in different files.
#[test]
fn modules_over_several_files() {
    let matrix = Matrix::new(32, 128, 4, 64, false);
    let tensors = awq(&matrix);
    let whole = |tensors: &[Tensor]| model_of(awq_config(64, "gemm"), tensors);
    let shard = |tensors: &[Tensor], number: usize| {
        let name = format!("model-0000{number}-of-00002.safetensors");
        (name, whole(tensors).remove(1).1)
    };
    let split = |first: &[Tensor], second: &[Tensor]| {
        vec![whole(&tensors).remove(0), shard(first, 1), shard(second, 2)]
    };
    let tensor = read(&split(&tensors[..1], &tensors[1..])).unwrap();
    assert_values(&tensor, &matrix.values(), "two files");
    let error = read(&split(&tensors[..1], &tensors[1..2])).unwrap_err();
    assert!(
        error.contains("model-00001-of-00002.safetensors: tensor 'p.weight' lacks its 'scales'"),
        "{error}"
    );
    let twice = open(&split(&tensors[..2], &tensors[1..])).unwrap();
    assert!(twice.notes()[0].contains("'p.qzeros' stands in several files"), "{:?}", twice.notes());
    assert_values(&twice.tensor("p.weight").unwrap(), &matrix.values(), "the same twice");
    // Scales without codes are listed, and are no weights.
    let orphans = open(&split(&tensors[1..2], &tensors[2..])).unwrap();
    let error = orphans.tensor("p.qzeros").unwrap_err().to_string();
    assert!(error.contains("is stored as I32, which keeve does not read as weights"), "{error}");
    // Codes of one dialect in a model of another.
    let gptq = model_of(gptq_config(4, 64, true, "gptq"), &tensors);
    let error = read(&gptq).unwrap_err();
    assert!(
        error.contains("qweight [128, 4], scales [2, 32] and qzeros [2, 4], which do not"),
        "{error}"
    );
}
