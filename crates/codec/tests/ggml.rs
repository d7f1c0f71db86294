//! ggml's codecs against gguf-py's decoders and ggml's own encoders, bit for bit.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{assert_same_bits, floats, get, local, shared};
use half::f16;
use keeve_codec::{Codec, EncodeOptions, PackedTensor, Parts, decode, encode, row_values};
use safetensors::SafeTensors;

/// Codecs that can be made.
const ENCODED: [Codec; 16] = [
    Codec::Q4_0,
    Codec::Q4_1,
    Codec::Q5_0,
    Codec::Q5_1,
    Codec::Q8_0,
    Codec::Q2K,
    Codec::Q3K,
    Codec::Q4K,
    Codec::Q5K,
    Codec::Q6K,
    Codec::Iq4Nl,
    Codec::Iq4Xs,
    Codec::Tq1_0,
    Codec::Tq2_0,
    Codec::Mxfp4,
    Codec::Nvfp4,
];

/// Codecs that are only read.
const READ: [Codec; 7] = [
    Codec::Iq1S,
    Codec::Iq1M,
    Codec::Iq2Xxs,
    Codec::Iq2Xs,
    Codec::Iq2S,
    Codec::Iq3Xxs,
    Codec::Iq3S,
];

/// Codecs of mlx-kquant, and ggml's that only it has references for.
const OF_MLX_KQUANT: [Codec; 3] = [Codec::Q2_0, Codec::Pq2_0, Codec::Ptq1_0];

/// Whether ggml's encoder takes importance into account, so that there are bytes of its own for it.
fn uses_importance(codec: Codec) -> bool {
    let ignores =
        [Codec::Q8_0, Codec::Tq1_0, Codec::Tq2_0, Codec::Mxfp4, Codec::Nvfp4].contains(&codec);
    !ignores
}

fn packed(codec: Codec, wire: &safetensors::tensor::TensorView<'_>, cols: usize) -> PackedTensor {
    let parts = Parts::data(wire.data().to_vec());
    PackedTensor::new(codec, 1, wire.shape()[0], cols, parts).expect("the shapes fit")
}

#[test]
fn decoding_meets_gguf_py() {
    let bytes = local("ggml_decode.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    for codec in ENCODED.into_iter().chain(READ) {
        let expected = get(&file, &format!("{codec}.f32"));
        let tensor = packed(codec, &get(&file, &format!("{codec}.wire")), expected.shape()[1]);
        let expected = floats(&expected);
        assert_same_bits(&decode(&tensor), &expected, &codec.name());
        let mut row = vec![0.0; tensor.cols()];
        for (index, expected) in expected.chunks_exact(tensor.cols()).enumerate() {
            row_values(&tensor, index, &mut row);
            assert_same_bits(&row, expected, &codec.name());
        }
    }
}

/// The first block whose bytes differ, to say more than "not equal".
fn assert_same_blocks(codec: Codec, found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{codec} {what}");
    let each = codec.geometry().block_bytes;
    let blocks = found.chunks_exact(each).zip(expected.chunks_exact(each));
    let wrong: Vec<usize> =
        blocks.enumerate().filter(|(_, (a, b))| a != b).map(|(index, _)| index).collect();
    assert!(wrong.is_empty(), "{codec} {what}: blocks {wrong:?} of {}", found.len() / each);
}

fn check_encoders(bytes: &[u8]) {
    let file = SafeTensors::deserialize(bytes).expect("safetensors");
    let source = get(&file, "src");
    let (rows, cols) = (source.shape()[0], source.shape()[1]);
    let source = floats(&source);
    let importance = floats(&get(&file, "imatrix"));
    for codec in ENCODED {
        let plain = encode(codec, rows, cols, &source, EncodeOptions::default()).expect("encodes");
        let expected = get(&file, &format!("{codec}.wire_ggml"));
        assert_same_blocks(codec, &plain.tensor.parts().data, expected.data(), "plain");

        let options = EncodeOptions { importance: Some(&importance) };
        let weighted = encode(codec, rows, cols, &source, options).expect("encodes");
        let expected = match uses_importance(codec) {
            false => expected,
            true => get(&file, &format!("{codec}.wire_ggml_im")),
        };
        assert_same_blocks(codec, &weighted.tensor.parts().data, expected.data(), "importance");

        for encoded in [plain, weighted] {
            let decoded = decode(&encoded.tensor);
            let error: f64 = (source.iter().zip(&decoded))
                .map(|(value, code)| (f64::from(*value) - f64::from(*code)).powi(2))
                .sum();
            let close = (encoded.squared_error - error).abs() <= 1e-12 * error;
            assert!(close, "{codec}: {} {error}", encoded.squared_error);
        }
    }
}

#[test]
fn codecs_of_mlx_kquant() {
    let bytes = local("ggml_encode.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let source = get(&file, "src");
    let (rows, cols) = (source.shape()[0], source.shape()[1]);
    let source = floats(&source);
    for codec in OF_MLX_KQUANT {
        let wire = get(&file, &format!("{codec}.wire_kq"));
        let decoded = decode(&packed(codec, &wire, cols));
        assert_same_bits(&decoded, &floats(&get(&file, &format!("{codec}.f32"))), &codec.name());
        let encoded =
            encode(codec, rows, cols, &source, EncodeOptions::default()).expect("encodes");
        assert_same_blocks(codec, &encoded.tensor.parts().data, wire.data(), "plain");
    }
}

/// No reference file has this one: by hand, from its description in `ggml/src/ggml-common.h`.
#[test]
fn q1_0_is_a_sign_and_the_mean_magnitude() {
    let source: Vec<f32> = (0..128).map(|i| if i % 3 == 0 { -1.0 } else { 2.5 }).collect();
    let encoded = encode(Codec::Q1_0, 1, 128, &source, EncodeOptions::default()).expect("encodes");
    // 43 of magnitude 1 and 85 of 2.5.
    let scale = f16::from_f32((43.0 + 85.0 * 2.5) / 128.0);
    let data = &encoded.tensor.parts().data;
    assert_eq!(data[..2], scale.to_le_bytes());
    assert_eq!(data[2..5], [0b1011_0110, 0b0110_1101, 0b1101_1011]);
    let expected: Vec<f32> = source.iter().map(|x| scale.to_f32().copysign(*x)).collect();
    assert_same_bits(&decode(&encoded.tensor), &expected, "q1_0");
}

#[test]
fn encoding_gives_the_bytes_of_ggml() {
    check_encoders(&local("ggml_encode.safetensors"));
}

/// The file that the local one was cut from also has the decodes of ggml's bytes.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn full_reference_encodes_and_decodes() {
    let bytes = shared("gguf/encode.safetensors");
    check_encoders(&bytes);
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    // ggml makes these only with importance.
    let only_with = [Codec::Iq1S, Codec::Iq1M, Codec::Iq2Xxs, Codec::Iq2Xs];
    for codec in ENCODED.into_iter().chain(READ) {
        for (wire, values) in [("wire_ggml", "f32"), ("wire_ggml_im", "f32_im")] {
            let importance = wire == "wire_ggml_im";
            if importance && !uses_importance(codec) || !importance && only_with.contains(&codec) {
                continue;
            }
            let expected = get(&file, &format!("{codec}.{values}"));
            let wire = get(&file, &format!("{codec}.{wire}"));
            let tensor = packed(codec, &wire, expected.shape()[1]);
            assert_same_bits(&decode(&tensor), &floats(&expected), &codec.name());
        }
    }
}

/// mlx-kquant's own encoders give other bytes than ggml's, so this covers codes that those never pick.
#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn decoding_meets_mlx_kquant() {
    let bytes = shared("kquant/kq_ops.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let kquants = ENCODED
        .into_iter()
        .chain(READ)
        .filter(|codec| ![Codec::Tq1_0, Codec::Tq2_0, Codec::Mxfp4, Codec::Nvfp4].contains(codec));
    for codec in kquants.chain(OF_MLX_KQUANT) {
        let expected = get(&file, &format!("{codec}.deq_f16"));
        let plain = format!("{codec}.wire");
        let wire = if file.tensor(&plain).is_ok() { plain } else { format!("{codec}.wire_im") };
        let tensor = packed(codec, &get(&file, &wire), expected.shape()[1]);
        let rounded: Vec<f32> =
            decode(&tensor).into_iter().map(|value| f16::from_f32(value).to_f32()).collect();
        assert_same_bits(&rounded, &floats(&expected), &codec.name());
    }
}
