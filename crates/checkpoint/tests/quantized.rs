//! Checkpoints of AWQ, GPTQ, BitNet, FP8 and compressed-tensors, written here from the published layouts, one bit at
//! a time, and read back: every weight must be what the formula of its format gives.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Model, Random, Tensor, model_of, open, tensor};
use half::f16;
use keeve_checkpoint::{ActivationRule, ActivationScheme, ActivationStrategy};
use keeve_codec::{Codec, Float, Group, PackedTensor};
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

fn read(model: &Model) -> Result<PackedTensor, String> {
    let checkpoint = open(model).map_err(|error| error.to_string())?;
    assert_eq!(checkpoint.tensors().len(), 1, "the others are parts");
    let tensor = checkpoint.tensor("p.weight").map_err(|error| error.to_string())?;
    let info = checkpoint.info("p.weight").unwrap();
    assert_eq!(info.shape, [tensor.rows(), tensor.cols()]);
    assert_eq!(info.codec, Some(tensor.codec()));
    Ok(tensor)
}

/// Checks that both decodes of a tensor give `expected`, bit for bit but for the sign of zeros.
fn assert_values(tensor: &PackedTensor, expected: &[f32], what: &str) {
    assert!(keeve_codec::decode(tensor) == expected, "{what}");
    let mut row = vec![0.0; tensor.cols()];
    for (index, expected) in expected.chunks_exact(tensor.cols()).enumerate() {
        keeve_codec::row_values(tensor, index, &mut row);
        assert!(row == expected, "{what}, row {index}");
    }
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
                    assert_eq!(tensor.column_order(), None, "{what}");
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
            let order = tensor.column_order().expect("columns have moved");
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
    let error = open(&split(&tensors[..2], &tensors[1..])).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("'p.qzeros' stands in another file of the model as well"), "{error}");
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
