//! MLX's floating-point modes against `mx.quantize` and `mx.dequantize`, bit for bit.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{assert_same_bits, floats, get, local, shared};
use half::f16;
use keeve_codec::{Codec, EncodeOptions, PackedTensor, Parts, decode, encode};
use safetensors::SafeTensors;

fn check(bytes: &[u8]) {
    let file = SafeTensors::deserialize(bytes).expect("safetensors");
    for dtype in ["f16", "bf16"] {
        for (prefix, codec) in [
            ("mxfp4.b4.g32", Codec::MlxMxfp4),
            ("mxfp8.b8.g32", Codec::MlxMxfp8),
            ("nvfp4.b4.g16", Codec::MlxNvfp4 { global: false }),
            ("nvfp4gs.b4.g16", Codec::MlxNvfp4 { global: true }),
        ] {
            check_one(&file, &format!("{prefix}.{dtype}"), dtype, codec);
        }
    }
}

fn check_one(file: &SafeTensors<'_>, prefix: &str, dtype: &str, codec: Codec) {
    let part = |name: &str| get(file, &format!("{prefix}.{name}"));
    let bytes = |name: &str| part(name).data().to_vec();
    let source = get(file, &format!("w.{dtype}"));
    let (rows, cols) = (source.shape()[0], source.shape()[1]);
    let global = codec.geometry().global_scale;
    let parts = Parts {
        data: bytes("wq").into(),
        scales: Some(bytes("scales").into()),
        biases: None,
        global_scale: global.then(|| bytes("global_scale").into()),
    };
    let tensor = PackedTensor::new(codec, 1, rows, cols, parts).expect("the shapes fit");
    let mut decoded = decode(&tensor);
    if dtype == "f16" && !global {
        // The type that the reference was asked for; bf16 holds all the values.
        decoded.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
    }
    assert_same_bits(&decoded, &floats(&part("deq")), prefix);

    if codec.has_encoder() {
        let encoded = encode(codec, rows, cols, &floats(&source), EncodeOptions::default());
        let encoded = encoded.expect("encodes").tensor;
        for (index, values) in floats(&source).chunks_exact(cols).enumerate() {
            // MLX divides in the type of the source, where this underflows. keeve knows only f32.
            let largest = values.iter().fold(0.0f32, |best, value| best.max(value.abs()));
            if dtype == "f16" && largest > 0.0 && largest < f16::MIN_POSITIVE.to_f32() {
                continue;
            }
            let (found, expected) = (encoded.row(index), tensor.row(index));
            assert_eq!(found.scales, expected.scales, "{prefix} row {index}: scales");
            assert_eq!(found.data, expected.data, "{prefix} row {index}: codes");
        }
    }
}

#[test]
fn quantize_and_dequantize_meet_mlx() {
    check(&local("mlx_fp.safetensors"));
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn all_rows_meet_mlx() {
    check(&shared("mlx_ops/fp_modes.safetensors"));
}

/// Codes and scales at the ends of their ranges, as mlx 0.32.4 decodes them on the CPU.
#[test]
fn extreme_scales() {
    let decoded = |codec: Codec, scale: u8, data: &[u8]| {
        let mut bytes = data.to_vec();
        bytes.resize(codec.geometry().block_bytes, 0);
        let parts = Parts { scales: Some(vec![scale].into()), ..Parts::data(bytes) };
        decode(&PackedTensor::new(codec, 1, 1, codec.geometry().block, parts).expect("fits"))
    };
    let smallest = decoded(Codec::MlxMxfp4, 0, &[0x10, 0x72]);
    assert_eq!(smallest[..4], [0.0, 2f32.powi(-128), 2f32.powi(-127), 6.0 * 2f32.powi(-127)]);
    let largest = decoded(Codec::MlxMxfp4, 254, &[0x21, 0x43]);
    assert_eq!(largest[..3], [2f32.powi(126), 2f32.powi(127), 1.5 * 2f32.powi(127)]);
    assert_eq!(largest[3], f32::INFINITY);
    let infinite = decoded(Codec::MlxMxfp4, 255, &[0x10]);
    assert!(infinite[0].is_nan() && infinite[1] == f32::INFINITY);
    let nvfp4 = Codec::MlxNvfp4 { global: false };
    assert!(decoded(nvfp4, 0x7f, &[0x10]).iter().all(|value| value.is_nan()));
    assert_eq!(decoded(nvfp4, 0x7e, &[0x10])[1], 224.0);
    assert_eq!(decoded(nvfp4, 0xb8, &[0x10])[1], -0.5, "a scale keeps its sign");
    let bytes = decoded(Codec::MlxMxfp8, 127, &[1, 0x7e, 0x7f, 0x81, 0xfe]);
    assert_eq!(bytes[..2], [1.0 / 512.0, 448.0]);
    assert!(bytes[2].is_nan());
    assert_eq!(bytes[3..5], [-1.0 / 512.0, -448.0]);
}
