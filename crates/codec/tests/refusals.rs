//! What is refused, and that it is said clearly.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use keeve_codec::{
    Basis, Bytes, Codec, EncodeOptions, Encoded, Error, Float, Group, PackedTensor, Parts, RowMut,
    encode, encode_row,
};

const AFFINE: Codec = Codec::Affine { bits: 4, group: 64, scale: Float::F16 };

fn affine_parts(data: usize, scales: Option<usize>, biases: Option<usize>) -> Parts {
    let part = |len: usize| Bytes::from(vec![0; len]);
    Parts {
        data: part(data),
        scales: scales.map(part),
        biases: biases.map(part),
        global_scale: None,
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let text = result.expect_err("must be refused").to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

#[test]
fn shapes_that_do_not_fit() {
    let new = |codec, experts, rows, cols, parts| {
        refusal(PackedTensor::new(codec, experts, rows, cols, parts))
    };
    let none = || Parts::data(vec![]);
    assert_eq!(new(Codec::Q4K, 1, 1, 255, none()), columns("q4_k", 256, 255));
    assert_eq!(new(Codec::Q4K, 1, 1, 0, none()), columns("q4_k", 256, 0));
    assert_eq!(new(AFFINE, 1, 1, 32, none()), columns("affine4-g64", 64, 32));
    let odd = Codec::Int4 { group: Group::Row, scale: Float::F32 };
    assert_eq!(new(odd, 1, 1, 7, none()), columns("int4", 2, 7));
    assert_eq!(new(Codec::F32, 1, 0, 4, none()), "a tensor of 1 experts of 0 rows has no weights");
    assert_eq!(new(Codec::F32, 0, 4, 4, none()), "a tensor of 0 experts of 4 rows has no weights");
    for (experts, rows, cols) in [
        (usize::MAX, 2, 256),
        (1, usize::MAX, 256),
        (1 << 40, 1 << 40, 256),
        (1, 1, usize::MAX & !255),
        (1, 1 << 62, 4),
    ] {
        let text = new(Codec::F32, experts, rows, cols, none());
        assert!(text.contains("too large to address"), "{text}");
    }
}

fn columns(codec: &str, block: usize, cols: usize) -> String {
    format!("{codec} packs {block} weights at a time, which does not divide a row of {cols}")
}

#[test]
fn parts_that_do_not_fit() {
    let new = |parts| refusal(PackedTensor::new(AFFINE, 1, 3, 128, parts));
    assert!(PackedTensor::new(AFFINE, 1, 3, 128, affine_parts(192, Some(12), Some(12))).is_ok());
    assert_eq!(
        new(affine_parts(191, Some(12), Some(12))),
        "affine4-g64 part 'data' has 191 bytes, expected 192 for 1x3x128"
    );
    assert_eq!(
        new(affine_parts(192, Some(13), Some(12))),
        "affine4-g64 part 'scales' has 13 bytes, expected 12 for 1x3x128"
    );
    assert_eq!(new(affine_parts(192, None, Some(12))), "affine4-g64 lacks its part 'scales'");
    assert_eq!(new(affine_parts(192, Some(12), None)), "affine4-g64 lacks its part 'biases'");
    let superfluous = affine_parts(144, Some(2), None);
    let text = refusal(PackedTensor::new(Codec::Q4K, 1, 1, 256, superfluous));
    assert_eq!(text, "q4_k has no part 'scales'");
}

#[test]
fn codecs_that_do_not_exist() {
    let scale = Float::F32;
    for codec in [
        Codec::Affine { bits: 7, group: 64, scale },
        Codec::Affine { bits: 0, group: 64, scale },
        Codec::Affine { bits: 255, group: 64, scale },
        Codec::Affine { bits: 4, group: 0, scale },
        Codec::Affine { bits: 4, group: 48, scale },
        Codec::Int8 { group: Group::Of(0), scale },
        Codec::Int4 { group: Group::Of(33), scale },
    ] {
        assert!(!codec.is_known());
        let parts = Parts::data(vec![0; 4096]);
        let unknown = format!("unknown codec '{}'", codec.name());
        assert_eq!(refusal(PackedTensor::new(codec, 1, 1, 4096, parts)), unknown);
        assert_eq!(refusal(codec.row_bytes(4096)), unknown);
        assert_eq!(refusal(try_encode(codec, 1, 4096, &[0.0; 4096])), unknown);
    }
}

fn try_encode(codec: Codec, rows: usize, cols: usize, values: &[f32]) -> Result<Encoded, Error> {
    encode(codec, rows, cols, values, EncodeOptions::default())
}

#[test]
fn values_that_cannot_be_encoded() {
    let q8 = |rows, values: &[f32]| try_encode(Codec::Q8_0, rows, 32, values);
    assert_eq!(refusal(q8(2, &[0.0; 63])), "the source has 63 values, expected 64");
    assert!(refusal(q8(0, &[])).contains("has no weights"));
    assert!(refusal(q8(usize::MAX, &[])).contains("too large to address"));
    let mut values = [1.0; 64];
    values[40] = f32::NAN;
    let nan = "value 40 of the source is NaN: only finite values can be encoded";
    assert_eq!(refusal(q8(2, &values)), nan);
    values[40] = 1e30;
    assert!(refusal(q8(2, &values)).ends_with("overflow the scales of q8_0"));

    // Plain floats keep what they are given.
    values[40] = f32::NAN;
    values[3] = f32::INFINITY;
    let kept = try_encode(Codec::F16, 2, 32, &values).expect("floats pass through");
    assert_eq!(kept.squared_error, 0.0);
}

#[test]
fn codecs_that_are_only_read() {
    for codec in Codec::PLAIN {
        let found = try_encode(codec, 1, 256, &[1.0; 256]);
        assert_eq!(found.is_ok(), codec.has_encoder(), "{codec}");
    }
    let text = "iq2_s can be read but not made: keeve has no encoder for it";
    assert_eq!(refusal(try_encode(Codec::Iq2S, 1, 256, &[1.0; 256])), text);
    // Scales of nvfp4 end long before those of the others.
    for codec in [Codec::Nvfp4, Codec::MlxNvfp4 { global: false }] {
        assert!(try_encode(codec, 1, 64, &[2688.0; 64]).is_ok());
        assert!(refusal(try_encode(codec, 1, 64, &[-2689.0; 64])).contains("values up to 2689"));
    }
}

#[test]
fn global_scales_that_do_not_fit() {
    let new = |codec, experts, global: Option<usize>| {
        let part = |len: usize| Bytes::from(vec![0; len]);
        let global_scale = global.map(part);
        let (data, scales) = (part(experts * 3 * 8), Some(part(experts * 3)));
        PackedTensor::new(codec, experts, 3, 16, Parts { data, scales, biases: None, global_scale })
    };
    let codec = Codec::MlxNvfp4 { global: true };
    let stack = new(codec, 2, Some(8)).expect("one for each expert");
    assert_eq!(refusal(new(codec, 2, None)), "mlx-nvfp4-global lacks its part 'global_scale'");
    let text = "mlx-nvfp4-global part 'global_scale' has 4 bytes, expected 8 for 2x3x16";
    assert_eq!(refusal(new(codec, 2, Some(4))), text);
    let without = Codec::MlxNvfp4 { global: false };
    assert_eq!(refusal(new(without, 2, Some(8))), "mlx-nvfp4 has no part 'global_scale'");
    assert!(stack.reorder_rows(&[2, 1, 0, 5, 4, 3]).is_ok());
    let text = "mlx-nvfp4-global has a scale for each expert, so rows cannot move from one expert to another";
    assert_eq!(refusal(stack.reorder_rows(&[3, 1, 2, 0, 4, 5])), text);
}

#[test]
fn importance_that_makes_no_sense() {
    let with = |importance: &[f32]| {
        let options = EncodeOptions { importance: Some(importance) };
        encode(Codec::Q4_0, 1, 32, &[1.0; 32], options)
    };
    assert!(with(&[0.0; 32]).is_ok());
    assert_eq!(refusal(with(&[1.0; 31])), "importance has 31 values, expected 32");
    let mut weights = [1.0; 32];
    for (wrong, text) in [(-1.0, "-1"), (f32::INFINITY, "inf"), (f32::NAN, "NaN")] {
        weights[9] = wrong;
        assert_eq!(
            refusal(with(&weights)),
            format!("importance of column 9 is {text}, expected a finite number not below zero")
        );
    }
}

#[test]
fn places_of_the_wrong_size() {
    let mut data = [0; 33];
    let row = RowMut { data: &mut data, scales: &mut [], biases: &mut [] };
    let text = refusal(encode_row(Codec::Q8_0, &[0.0; 32], EncodeOptions::default(), row));
    assert_eq!(text, "q8_0 part 'data' has 33 bytes, expected 34 for 1x1x32");
}

#[test]
fn slices_that_do_not_fit() {
    let tensor = PackedTensor::new(AFFINE, 1, 3, 128, affine_parts(192, Some(12), Some(12)));
    let tensor = tensor.expect("fits");
    for (start, end) in [(0, 4), (3, 4), (1, 1), (usize::MAX, usize::MAX)] {
        assert!(refusal(tensor.slice_rows(start..end)).starts_with("cannot take rows"));
    }
    for (start, end) in [(0, 32), (0, 192), (64, 64), (32, 96)] {
        assert!(refusal(tensor.slice_cols(start..end)).starts_with("cannot take columns"));
    }
    assert!(refusal(tensor.reorder_rows(&[0, 1])).starts_with("a row order has 2 values"));
    assert!(refusal(tensor.reorder_rows(&[0, 1, 3])).starts_with("cannot take rows 3..4"));
    assert!(refusal(tensor.reorder_rows(&[0, 1, usize::MAX])).starts_with("cannot take rows"));
    let stack = PackedTensor::new(AFFINE, 3, 1, 128, affine_parts(192, Some(12), Some(12)));
    assert!(refusal(stack.expect("fits").slice_rows(0..1)).starts_with("cannot take rows"));
}

#[test]
fn bases_must_be_of_the_columns() {
    let tensor = PackedTensor::from_f32(1, 4, &[0.0; 4]).expect("a matrix");
    let expected = "the basis of rows must name each of the 4 columns once or have blocks of a power of two that \
                    divides them, and only once be given";
    for order in [&[0, 1, 2][..], &[0, 1, 2, 3, 3], &[0, 1, 2, 2], &[0, 1, 2, 4], &[u32::MAX; 4]] {
        let error = tensor.clone().with_basis(Basis::Order(order.into())).expect_err("no order");
        assert_eq!(error.to_string(), expected, "{order:?}");
    }
    for block in [0, 3, 8] {
        let error = tensor.clone().with_basis(Basis::Hadamard(block)).expect_err("no blocks");
        assert_eq!(error.to_string(), expected, "{block}");
    }
    assert!(tensor.clone().with_basis(Basis::Hadamard(2)).is_ok());
    let order = Basis::Order([3, 1, 2, 0].into());
    let ordered = tensor.with_basis(order.clone()).expect("an order");
    assert_eq!(ordered.basis(), Some(&order));
    assert!(ordered.with_basis(order).is_err());
}
