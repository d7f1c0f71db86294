//! What holds for every codec, whatever the bytes and values.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use keeve_codec::{
    Basis, Codec, EncodeOptions, Float, Group, PackedTensor, Parts, Row, RowMut, SUPER_BLOCK,
    Scaling, codes, decode, decode_row, encode, encode_row, group_scale, row_values, super_block,
};
use proptest::prelude::*;

const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];
/// A multiple of every codec's step.
const COLS: usize = 512;

fn all_codecs() -> Vec<Codec> {
    let mut codecs = Codec::PLAIN.to_vec();
    for scale in FLOATS {
        for bits in Codec::AFFINE_BITS {
            for group in Codec::AFFINE_GROUPS {
                codecs.push(Codec::Affine { bits, group, scale });
            }
        }
        let groups = Codec::INT_GROUPS.into_iter().map(Group::Of);
        for group in [Group::Row].into_iter().chain(groups) {
            codecs.extend([Codec::Int8 { group, scale }, Codec::Int4 { group, scale }]);
            codecs.push(Codec::Fp8 { group, scale });
        }
    }
    codecs
}

/// A tensor of arbitrary bytes, repeating `seed` with a different start in each part.
fn arbitrary(codec: Codec, experts: usize, rows: usize, seed: &[u8]) -> PackedTensor {
    let part = codec.row_parts(COLS).expect("512 columns fit every codec");
    let bytes = |each: usize, start: usize| -> Vec<u8> {
        seed.iter().copied().cycle().skip(start).take(each * experts * rows).collect()
    };
    let present = |each: usize, start: usize| (each > 0).then(|| bytes(each, start).into());
    let parts = Parts {
        data: bytes(part.data, 0).into(),
        scales: present(part.scales, 1),
        biases: present(part.biases, 2),
        global_scale: (part.global_scale > 0)
            .then(|| seed.iter().copied().cycle().take(part.global_scale * experts).collect())
            .map(Vec::into),
    };
    PackedTensor::new(codec, experts, rows, COLS, parts).expect("the lengths are right")
}

/// The weights of a row, put together from what taking it apart gives.
fn from_codes(codec: Codec, row: Row<'_>) -> Option<Vec<f32>> {
    let what = codec.codes()?;
    let mut stored = vec![0; COLS];
    codes(codec, row, &mut stored);
    let signed = |code: u8| if what.signed { i32::from(code as i8) } else { i32::from(code) };
    let weight = |(column, &code): (usize, &u8)| {
        let code = (signed(code) - i32::from(what.zero)) as f32;
        match what.scaling {
            Scaling::Groups { group, .. } => {
                let index = match group {
                    Group::Row => 0,
                    Group::Of(len) => column / usize::from(len),
                };
                let (scale, offset) = group_scale(codec, row, index).expect("scales by groups");
                code * scale + offset
            }
            Scaling::SuperBlocks { run, .. } => {
                let block = super_block(codec, row, column / SUPER_BLOCK).expect("super-blocks");
                let run = column % SUPER_BLOCK / usize::from(run);
                let scale = block.scale.to_f32() * f32::from(block.scales[run]);
                scale * code - block.minimum.to_f32() * f32::from(block.minimums[run])
            }
        }
    };
    Some(stored.iter().enumerate().map(weight).collect())
}

fn encodable() -> impl Iterator<Item = Codec> {
    all_codecs().into_iter().filter(|codec| codec.has_encoder())
}

fn same(left: &[f32], right: &[f32]) -> bool {
    let same = |(l, r): (&f32, &f32)| l.to_bits() == r.to_bits() || l.is_nan() && r.is_nan();
    left.len() == right.len() && left.iter().zip(right).all(same)
}

/// Rows of values within `2^exponent`, some zero.
fn values(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![9 => -1f32..1f32, 1 => Just(0f32)];
    (proptest::collection::vec(value, len), -6i32..6).prop_map(|(mut values, exponent)| {
        values.iter_mut().for_each(|value| *value *= 2f32.powi(exponent));
        values
    })
}

/// How far a decoded weight may be from its source: given the group's largest magnitude and the width of
/// its range. K-quants minimize a sum over the group and promise nothing for one weight: see
/// [`rms_bound`].
fn bound(codec: Codec, largest: f32, range: f32) -> Option<f32> {
    let unit = |float: Float| match float {
        Float::F32 => 2f32.powi(-24),
        Float::F16 => 2f32.powi(-11),
        Float::Bf16 => 2f32.powi(-8),
    };
    let f16 = unit(Float::F16);
    // The finest f16 step, for scales and values that are subnormal there.
    let tiny = 2f32.powi(-24);
    Some(
        match codec {
            Codec::Float(float) => largest * unit(float) + tiny,
            // The far end of a symmetric 4- or 5-bit grid is one step short.
            Codec::Q4_0 => largest * (1.0 / 8.0 + 2.0 * f16) + 8.0 * tiny,
            Codec::Q5_0 => largest * (1.0 / 16.0 + 2.0 * f16) + 16.0 * tiny,
            Codec::Q8_0 => largest * (0.5 / 127.0 + 2.0 * f16) + 127.0 * tiny,
            Codec::Q4_1 => range * (0.5 / 15.0 + f16) + largest * 2.0 * f16 + 16.0 * tiny,
            Codec::Q5_1 => range * (0.5 / 31.0 + f16) + largest * 2.0 * f16 + 32.0 * tiny,
            Codec::Q2K | Codec::Q3K | Codec::Q4K | Codec::Q5K | Codec::Q6K => return None,
            Codec::Iq4Nl | Codec::Iq4Xs => return None,
            // Nothing between zero and the largest magnitude.
            Codec::Tq1_0 | Codec::Ptq1_0 | Codec::Tq2_0 | Codec::Q2_0 | Codec::Pq2_0 => {
                largest * (0.5 + f16) + tiny
            }
            // Only signs.
            Codec::Q1_0 => largest * (1.0 + f16) + tiny,
            // Up to 8 in units of a scale that reaches to 6.
            Codec::Mxfp4 => largest * 0.25,
            // The far end has steps of 2 from 4 to 6, which may be anywhere in the upper half.
            Codec::MlxMxfp4 => largest * 0.2,
            Codec::MlxMxfp8 => largest * (1.0 / 16.0),
            // The same steps, and a scale of three bits that ends at 2^-9.
            Codec::Nvfp4 | Codec::MlxNvfp4 { .. } => largest * 0.3 + 6.0 * 2f32.powi(-9),
            Codec::Iq1S
            | Codec::Iq1M
            | Codec::Iq2Xxs
            | Codec::Iq2Xs
            | Codec::Iq2S
            | Codec::Iq3Xxs
            | Codec::Iq3S => panic!("{codec} has no encoder"),
            Codec::Affine { bits, scale, .. } => {
                let steps = f32::from(u8::MAX >> (8 - bits));
                // Zero and the larger end are on the grid, at the cost of up to a step at the other end.
                let nearest = if bits == 1 { 0.5 } else { 1.5 };
                // Scale, bias, product and sum are each rounded.
                let rounding = unit(scale) * (2.0 * range + 2.0 * largest);
                range * nearest / steps + rounding + 1e-7 + steps * tiny
            }
            Codec::Int8 { scale, .. } => largest * (0.5 / 127.0 + unit(scale)) + 127.0 * tiny,
            Codec::Int4 { scale, .. } => largest * (0.5 / 7.0 + unit(scale)) + 7.0 * tiny,
            // Half of the last of three bits, and the finest step near zero.
            Codec::Fp8 { scale, .. } => {
                largest * (1.0 / 16.0 + 2.0 * unit(scale)) + (448.0 + 2.0) * tiny
            }
        } * 1.001,
    )
}

/// How large the root mean square error of a K-quant's super-block may be, in units of its largest
/// magnitude: about half of the coarsest step (range over number of codes).
fn rms_bound(codec: Codec) -> f64 {
    match codec {
        Codec::Q2K => 0.25,
        Codec::Q3K => 0.13,
        Codec::Q4K => 0.06,
        Codec::Iq4Nl | Codec::Iq4Xs => 0.07,
        Codec::Q5K => 0.03,
        _ => 0.02,
    }
}

/// Weights that share a scale.
fn scale_group(codec: Codec, cols: usize) -> usize {
    match codec.geometry().scales {
        Some((Group::Of(len), _)) => usize::from(len),
        Some((Group::Row, _)) => cols,
        None => codec.geometry().block,
    }
}

fn check_errors(codec: Codec, source: &[f32], decoded: &[f32]) -> Result<(), TestCaseError> {
    let group = scale_group(codec, COLS);
    for (source, decoded) in source.chunks_exact(group).zip(decoded.chunks_exact(group)) {
        let largest = source.iter().fold(0f32, |best, value| best.max(value.abs()));
        let lowest = source.iter().copied().fold(f32::INFINITY, f32::min);
        let highest = source.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        match bound(codec, largest, highest - lowest) {
            Some(bound) => {
                for (value, code) in source.iter().zip(decoded) {
                    let error = (value - code).abs();
                    prop_assert!(error <= bound, "{codec}: {value} became {code}, not {bound}");
                }
            }
            None => {
                let squares: f64 = (source.iter().zip(decoded))
                    .map(|(value, code)| f64::from(value - code).powi(2))
                    .sum();
                let rms = (squares / group as f64).sqrt();
                prop_assert!(
                    rms <= rms_bound(codec) * f64::from(largest) + 1e-7,
                    "{codec}: rms {rms} of {largest}"
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn taken_apart_and_put_together_rows_are_the_same(
        seed in proptest::collection::vec(any::<u8>(), 1..4000),
    ) {
        for codec in all_codecs() {
            let tensor = arbitrary(codec, 1, 1, &seed);
            let mut expected = vec![0.0; COLS];
            row_values(&tensor, 0, &mut expected);
            match from_codes(codec, tensor.row(0)) {
                // Zeros may differ in their sign, since an absent offset or minimum is one too.
                Some(found) => {
                    let equal = |(l, r): (&f32, &f32)| l == r || l.is_nan() && r.is_nan();
                    prop_assert!(found.iter().zip(&expected).all(equal), "{}", codec);
                }
                None => prop_assert!(codec.codes().is_none(), "{}", codec),
            }
        }
    }

    #[test]
    fn any_bytes_decode(seed in proptest::collection::vec(any::<u8>(), 1..4000)) {
        for codec in all_codecs() {
            let tensor = arbitrary(codec, 2, 3, &seed);
            let all = decode(&tensor);
            prop_assert_eq!(all.len(), 2 * 3 * COLS);
            let mut row = vec![0.0; COLS];
            for (index, expected) in all.chunks_exact(COLS).enumerate() {
                decode_row(&tensor, index, &mut row);
                prop_assert!(same(&row, expected), "{}", codec);
                row_values(&tensor, index, &mut row);
                let rounded = matches!(codec, Codec::Affine { scale, .. } if scale != Float::F32);
                prop_assert!(rounded || same(&row, expected), "{}", codec);
            }
        }
    }

    #[test]
    fn cutting_and_moving_agree_with_decoding(
        seed in proptest::collection::vec(any::<u8>(), 1..4000),
        cut in (0usize..512, 0usize..512),
        rows in (0usize..4, 0usize..4),
        order in Just((0..8).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        for codec in all_codecs() {
            let tensor = arbitrary(codec, 2, 4, &seed);
            let all = decode(&tensor);

            let step = codec.column_step();
            let start = cut.0.min(cut.1) / step * step;
            let end = (cut.0.max(cut.1) / step + 1) * step;
            let cut = tensor.slice_cols(start..end).expect("on a boundary");
            let expected: Vec<f32> =
                all.chunks_exact(COLS).flat_map(|row| row[start..end].to_vec()).collect();
            prop_assert!(same(&decode(&cut), &expected), "{} {}..{}", codec, start, end);

            let across = order.iter().enumerate().any(|(to, from)| to / 4 != from / 4);
            if codec.geometry().global_scale && across {
                let refused = tensor.reorder_rows(&order);
                prop_assert_eq!(refused, Err(keeve_codec::Error::Experts(codec)));
                continue;
            }
            let moved = tensor.reorder_rows(&order).expect("a permutation");
            let expected: Vec<f32> = (order.iter())
                .flat_map(|&row| all[row * COLS..(row + 1) * COLS].to_vec())
                .collect();
            prop_assert!(same(&decode(&moved), &expected), "{} {:?}", codec, order);

            let matrix = arbitrary(codec, 1, 4, &seed);
            let (start, end) = (rows.0.min(rows.1), rows.0.max(rows.1) + 1);
            let slice = matrix.slice_rows(start..end).expect("in bounds");
            let expected = &decode(&matrix)[start * COLS..end * COLS];
            prop_assert!(same(&decode(&slice), expected), "{} rows {}..{}", codec, start, end);
        }
    }

    #[test]
    fn columns_in_another_order_are_put_back(
        seed in proptest::collection::vec(any::<u8>(), 1..4000),
        order in Just((0..COLS as u32).collect::<Vec<u32>>()).prop_shuffle(),
    ) {
        for codec in all_codecs() {
            let stored = arbitrary(codec, 1, 2, &seed);
            let tensor = stored.clone().with_basis(Basis::Order(order.clone().into())).expect("an order");
            let as_stored = decode(&stored);
            for matrix in [tensor.clone(), tensor.reorder_rows(&[1, 0]).expect("two rows")
                .reorder_rows(&[1, 0]).expect("two rows")] {
                let all = decode(&matrix);
                for (row, stored) in all.chunks_exact(COLS).zip(as_stored.chunks_exact(COLS)) {
                    let found: Vec<f32> = order.iter().map(|&column| row[column as usize]).collect();
                    prop_assert!(same(&found, stored), "{}", codec);
                }
            }
            let second = tensor.slice_rows(1..2).expect("in bounds");
            prop_assert!(same(&decode(&second), &decode(&tensor)[COLS..]), "{}", codec);
            let mut row = vec![0.0; COLS];
            row_values(&tensor, 1, &mut row);
            let rounded = matches!(codec, Codec::Affine { scale, .. } if scale != Float::F32);
            prop_assert!(rounded || same(&row, &decode(&second)), "{}", codec);
            let stack = arbitrary(codec, 2, 1, &seed);
            let stack = stack.with_basis(Basis::Order(order.clone().into())).expect("an order");
            let second = stack.expert(1).expect("of two");
            prop_assert!(same(&decode(&second), &decode(&stack)[COLS..]), "{}", codec);
            prop_assert!(tensor.slice_cols(0..codec.column_step()).is_err());
            prop_assert_eq!(tensor.into_stored(), (stored, Some(Basis::Order(order.clone().into()))));
        }
    }

    #[test]
    fn encoding_is_close(source in values(2 * COLS)) {
        for codec in encodable() {
            let encoded = encode(codec, 2, COLS, &source, EncodeOptions::default());
            let encoded = encoded.expect("finite values of modest size");
            let decoded = decode(&encoded.tensor);
            check_errors(codec, &source, &decoded)?;
            let error: f64 = (source.iter().zip(&decoded))
                .map(|(value, code)| (f64::from(*value) - f64::from(*code)).powi(2))
                .sum();
            let close = (encoded.squared_error - error).abs() <= 1e-9 * error;
            prop_assert!(close, "{}: {} {}", codec, encoded.squared_error, error);
        }
    }

    /// The columns that matter more come out no worse than without importance: summed over the tensor,
    /// with a little room since the super-block's scales are searched greedily.
    #[test]
    fn importance_lowers_the_weighted_error(
        source in values(2 * COLS),
        importance in proptest::collection::vec(0.01f32..1.0, COLS),
    ) {
        let kquants = [Codec::Q2K, Codec::Q3K, Codec::Q4K, Codec::Q5K, Codec::Q6K];
        for codec in kquants.into_iter().chain([Codec::Iq4Nl, Codec::Iq4Xs]) {
            let weighted = |options| {
                let encoded = encode(codec, 2, COLS, &source, options).expect("encodes");
                let weights = importance.iter().cycle();
                (source.iter().zip(decode(&encoded.tensor)).zip(weights))
                    .map(|((value, code), weight)| f64::from(weight * (value - code).powi(2)))
                    .sum::<f64>()
            };
            let plain = weighted(EncodeOptions::default());
            let with = weighted(EncodeOptions { importance: Some(&importance) });
            prop_assert!(with <= 1.1 * plain, "{}: {} {}", codec, with, plain);
        }
    }

    #[test]
    fn decoded_weights_encode_to_themselves(source in values(COLS)) {
        // Not the codecs with a minimum or a fitted scale: those may find another fit.
        let exact = encodable().filter(|codec| match codec {
            Codec::Float(_) | Codec::Q4_0 | Codec::Q5_0 | Codec::Q8_0 => true,
            Codec::Tq1_0 | Codec::Ptq1_0 | Codec::Tq2_0 | Codec::Q2_0 | Codec::Pq2_0 => true,
            Codec::MlxMxfp8 => true,
            Codec::Int8 { scale, .. } | Codec::Int4 { scale, .. } | Codec::Fp8 { scale, .. } => {
                *scale != Float::F32
            }
            _ => false,
        });
        for codec in exact {
            let once = encode(codec, 1, COLS, &source, EncodeOptions::default()).expect("encodes");
            let once = decode(&once.tensor);
            let twice = encode(codec, 1, COLS, &once, EncodeOptions::default()).expect("encodes");
            prop_assert_eq!(twice.squared_error, 0.0, "{}", codec);
            prop_assert_eq!(decode(&twice.tensor), once, "{}", codec);
        }
    }

    /// Any finite values are encoded or refused, and what is encoded is finite.
    #[test]
    fn extreme_values_are_encoded_or_refused(
        bits in proptest::collection::vec(any::<u32>(), COLS),
        importance in proptest::collection::vec(0f32..f32::MAX, COLS),
    ) {
        let source: Vec<f32> = bits
            .into_iter()
            .map(f32::from_bits)
            .map(|value| if value.is_finite() { value } else { 0.0 })
            .collect();
        let subnormal: Vec<f32> = source.iter().map(|value| value * f32::MIN_POSITIVE).collect();
        for codec in all_codecs() {
            for source in [&source, &subnormal] {
                for importance in [None, Some(&importance[..])] {
                    let options = EncodeOptions { importance };
                    if let Ok(encoded) = encode(codec, 1, COLS, source, options) {
                        let finite = decode(&encoded.tensor).iter().all(|value| value.is_finite());
                        prop_assert!(finite || codec.is_float(), "{}", codec);
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_at_a_time_gives_the_same_bytes() {
    let source: Vec<f32> = (0..3 * COLS).map(|index| ((index * 37) % 101) as f32 - 50.0).collect();
    let importance: Vec<f32> = (0..COLS).map(|index| 1.0 + (index % 7) as f32).collect();
    let options = EncodeOptions { importance: Some(&importance) };
    for codec in encodable() {
        let whole = encode(codec, 3, COLS, &source, options).expect("encodes");
        let part = codec.row_parts(COLS).expect("fits");
        let mut sum = 0.0;
        for (index, values) in source.chunks_exact(COLS).enumerate() {
            let (mut data, mut scales, mut biases) =
                (vec![0; part.data], vec![0; part.scales], vec![0; part.biases]);
            let row = RowMut { data: &mut data, scales: &mut scales, biases: &mut biases };
            sum += encode_row(codec, values, options, row).expect("encodes");
            let expected = whole.tensor.row(index);
            assert_eq!((&data[..], &scales[..]), (expected.data, expected.scales), "{codec}");
            assert_eq!(biases, expected.biases, "{codec}");
        }
        assert_eq!(sum, whole.squared_error, "{codec}");
    }
}
