//! MLX affine against `mx.quantize` and `mx.dequantize`, bit for bit.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{assert_same_bits, floats, get, local, shared};
use keeve_codec::{
    Codec, EncodeOptions, Float, PackedTensor, Parts, decode, decode_row, encode, row_values,
};
use safetensors::SafeTensors;

/// Checks every entry of a file of affine tensors; gives how many there were.
fn check(bytes: &[u8]) -> usize {
    let file = SafeTensors::deserialize(bytes).expect("safetensors");
    let mut entries = 0;
    for bits in Codec::AFFINE_BITS {
        for group in Codec::AFFINE_GROUPS {
            for scale in [Float::F16, Float::Bf16, Float::F32] {
                let prefix = format!("affine.b{bits}.g{group}.{}", scale.name());
                if file.tensor(&format!("{prefix}.wq")).is_ok() {
                    check_one(&file, &prefix, Codec::Affine { bits, group, scale }, scale);
                    entries += 1;
                }
            }
        }
    }
    entries
}

fn check_one(file: &SafeTensors<'_>, prefix: &str, codec: Codec, scale: Float) {
    let part = |name: &str| get(file, &format!("{prefix}.{name}"));
    let source = get(file, &format!("w.{}", scale.name()));
    let (rows, cols) = (source.shape()[0], source.shape()[1]);
    let bytes = |name: &str| part(name).data().to_vec();
    let parts = Parts {
        data: bytes("wq").into(),
        scales: Some(bytes("scales").into()),
        biases: Some(bytes("biases").into()),
        global_scale: None,
    };
    let tensor = PackedTensor::new(codec, 1, rows, cols, parts).expect("the shapes fit");
    assert_same_bits(&decode(&tensor), &floats(&part("deq")), prefix);

    let encoded = encode(codec, rows, cols, &floats(&source), EncodeOptions::default());
    let encoded = encoded.expect("encodes").tensor;
    assert!(encoded.parts().scales == tensor.parts().scales, "{prefix}: scales");
    assert!(encoded.parts().biases == tensor.parts().biases, "{prefix}: biases");
    assert!(encoded.parts().data == tensor.parts().data, "{prefix}: codes");

    // The unrounded values are those, before two roundings that each cost at most half a unit of the
    // scale's type at the magnitude of the product or the sum.
    let unit = match scale {
        Float::F32 => 0.0,
        Float::F16 => 2f32.powi(-11),
        Float::Bf16 => 2f32.powi(-8),
    };
    let (mut stored, mut exact) = (vec![0.0; cols], vec![0.0; cols]);
    for row in 0..rows {
        decode_row(&tensor, row, &mut stored);
        row_values(&tensor, row, &mut exact);
        let largest = exact.iter().fold(0.0f32, |best, value| best.max(value.abs()));
        for (stored, exact) in stored.iter().zip(&exact) {
            // A product is at most the sum of two values; subnormal f16 steps come on top.
            let bound =
                4.0 * unit * largest + if scale == Float::F16 { 2f32.powi(-24) } else { 0.0 };
            assert!((stored - exact).abs() <= bound, "{prefix}: {stored} {exact}");
        }
    }
}

#[test]
fn quantize_and_dequantize_meet_mlx() {
    assert_eq!(check(&local("mlx_affine.safetensors")), 44);
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn all_rows_meet_mlx() {
    let entries: usize = Codec::AFFINE_BITS
        .into_iter()
        .map(|bits| check(&shared(&format!("mlx_ops/affine_b{bits}.safetensors"))))
        .sum();
    assert_eq!(entries, 44);
}
