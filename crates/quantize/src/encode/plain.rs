//! Encoders that only round: Q8_0, and MLX affine with 4 or 8 bits. The bytes are those of
//! `keeve_codec`'s encoders, which say where the rules come from.

use half::{bf16, f16};
use keeve_codec::{Codec, Float, RowMut};

use super::search::{Tier, Vectors};

/// Scales of larger values may overflow an f16; the reference says so.
const LARGEST: f32 = 16_384.0;

/// Adding it leaves the nearest integer, ties to even, in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// Encodes a row, if there is an encoder here for its codec and it has no value out of the ordinary.
pub(super) fn encode(vectors: Vectors, codec: Codec, values: &[f32], row: &mut RowMut<'_>) -> bool {
    let (bits, group, float) = match codec {
        Codec::Q8_0 => (0, 0, Float::F16),
        Codec::Affine { bits: bits @ (4 | 8), group, scale } => (bits, group, scale),
        _ => return false,
    };
    match vectors.tier() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Vectors` has this tier only after the feature was detected.
        Tier::Avx512 => unsafe { avx512(bits, group, float, values, row) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx2 => unsafe { avx2(bits, group, float, values, row) },
        Tier::Baseline => either(bits, group, float, values, row),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512(bits: u8, group: u16, float: Float, values: &[f32], row: &mut RowMut<'_>) -> bool {
    either(bits, group, float, values, row)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(bits: u8, group: u16, float: Float, values: &[f32], row: &mut RowMut<'_>) -> bool {
    either(bits, group, float, values, row)
}

#[inline(always)]
fn either(bits: u8, group: u16, float: Float, values: &[f32], row: &mut RowMut<'_>) -> bool {
    let largest = largest(values);
    if largest.is_nan() || largest > LARGEST {
        return false;
    }
    match (bits, group) {
        (0, _) => q8_0(values, row.data),
        (4, 32) => affine::<32>(true, float, values, row),
        (4, 64) => affine::<64>(true, float, values, row),
        (4, 128) => affine::<128>(true, float, values, row),
        (_, 32) => affine::<32>(false, float, values, row),
        (_, 64) => affine::<64>(false, float, values, row),
        (_, 128) => affine::<128>(false, float, values, row),
        _ => return false,
    }
    true
}

/// Numbers that are folded side by side.
const LANES: usize = 16;

/// Folds values in lanes, and the lanes at last. Order makes no difference to what `fold` picks.
#[inline(always)]
fn pick(values: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, *value);
        }
    }
    lanes.iter().chain(rest).fold(start, |picked, value| fold(picked, *value))
}

/// The largest magnitude; NaN or infinite if a value is.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    // As integers, magnitudes are ordered like the numbers, and NaN comes last.
    let mut lanes = [0u32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = (*lane).max(value.to_bits() & 0x7fff_ffff);
        }
    }
    let rest = rest.iter().map(|value| value.to_bits() & 0x7fff_ffff);
    f32::from_bits(lanes.into_iter().chain(rest).fold(0, u32::max))
}

#[inline(always)]
fn q8_0(values: &[f32], data: &mut [u8]) {
    for (block, values) in data.as_chunks_mut::<34>().0.iter_mut().zip(values.as_chunks::<32>().0) {
        let scale = largest(values) / 127.0;
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let codes = block[2..].iter_mut().zip(values);
        // Halves go away from zero: the largest float below a half does not carry a smaller fraction over.
        let shifted = |value: f32| value * inverse + 0.499_999_97f32.copysign(value * inverse);
        if inverse.is_finite() {
            // Within -128..128, so that adding the constant leaves the integer in the low bits.
            codes.for_each(|(code, value)| {
                *code = (shifted(*value).trunc() + MAGIC).to_bits() as u8
            });
        } else {
            codes.for_each(|(code, value)| *code = shifted(*value) as i8 as u8);
        }
    }
}

#[inline(always)]
fn write(float: Float, bytes: &mut [u8], index: usize, value: f32) {
    match float {
        Float::F32 => bytes[index * 4..][..4].copy_from_slice(&value.to_le_bytes()),
        Float::F16 => {
            bytes[index * 2..][..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        }
        Float::Bf16 => {
            bytes[index * 2..][..2].copy_from_slice(&bf16::from_f32(value).to_le_bytes());
        }
    }
}

/// The least scale of a group.
const LEAST_SCALE: f32 = 1e-7;

#[inline(always)]
fn affine<const G: usize>(is_4: bool, float: Float, values: &[f32], row: &mut RowMut<'_>) {
    let top = if is_4 { 15.0f32 } else { 255.0 };
    let bytes = if is_4 { G / 2 } else { G };
    let groups = row.data.chunks_exact_mut(bytes).zip(values.as_chunks::<G>().0);
    for (index, (data, values)) in groups.enumerate() {
        let mut lowest = pick(values, f32::INFINITY, |a, b| if b < a { b } else { a });
        let mut highest = pick(values, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        // Of zeros that differ in sign the first counts.
        let first_zero = || values.iter().copied().find(|value| *value == 0.0).unwrap_or(0.0);
        if lowest == 0.0 {
            lowest = first_zero();
        }
        if highest == 0.0 {
            highest = first_zero();
        }
        let scale = ((highest - lowest) / top).max(LEAST_SCALE);
        let (edge, scale) =
            if lowest.abs() > highest.abs() { (lowest, scale) } else { (highest, -scale) };
        let steps = (edge / scale).round_ties_even();
        let (scale, bias) = if steps == 0.0 { (scale, 0.0) } else { (edge / steps, edge) };
        let code = |value: f32| {
            let code = (value - bias) / scale;
            let code = if code > 0.0 { code } else { 0.0 };
            let code = if code < top { code } else { top };
            // The integer, ties to even, stands in the low bits.
            (code + MAGIC).to_bits() as u8
        };
        let mut codes = [0u8; G];
        for (out, value) in codes.iter_mut().zip(values) {
            *out = code(*value);
        }
        if is_4 {
            for (byte, pair) in data.iter_mut().zip(codes.as_chunks::<2>().0) {
                *byte = pair[0] | pair[1] << 4;
            }
        } else {
            data.copy_from_slice(&codes);
        }
        write(float, row.scales, index, scale);
        write(float, row.biases, index, bias);
    }
}

#[cfg(test)]
mod tests {
    use keeve_codec::{EncodeOptions, encode_row};
    use proptest::prelude::*;

    use super::*;

    fn numbers() -> impl Strategy<Value = Vec<f32>> {
        let number = prop_oneof![
            6 => -1.0f32..1.0,
            1 => -2e4f32..2e4,
            1 => Just(0.0f32),
            1 => Just(-0.0f32),
            1 => (-2000i32..2000).prop_map(|halves| halves as f32 * 0.5),
            1 => (-149i32..5).prop_map(|power| 2.0f32.powi(power)),
        ];
        let signs = 0usize..4;
        (proptest::collection::vec(number, 256), signs).prop_map(|(mut values, signs)| {
            match signs {
                0 => values.iter_mut().for_each(|value| *value = value.abs()),
                1 => values.iter_mut().for_each(|value| *value = -value.abs()),
                2 => values[..128].fill(0.0),
                _ => {}
            }
            values
        })
    }

    proptest! {
        #[test]
        fn every_tier_gives_the_bytes_of_the_reference(values in numbers()) {
            let names = ["q8_0", "affine4-g32", "affine4-g64-f16", "affine4-g128-f32",
                "affine8-g32", "affine8-g64-f32", "affine8-g128-f16"];
            for codec in names.map(|name| name.parse::<Codec>().unwrap()) {
                let part = codec.row_parts(values.len()).unwrap();
                let empty = || (vec![0; part.data], vec![0; part.scales], vec![0; part.biases]);
                let mut expected = empty();
                let (data, scales, biases) = (&mut expected.0, &mut expected.1, &mut expected.2);
                let row = RowMut { data, scales, biases };
                encode_row(codec, &values, EncodeOptions::default(), row).unwrap();
                for vectors in Vectors::found() {
                    let mut found = empty();
                    let (data, scales, biases) = (&mut found.0, &mut found.1, &mut found.2);
                    let mut row = RowMut { data, scales, biases };
                    let done = encode(vectors, codec, &values, &mut row);
                    prop_assert!(done || largest(&values) > LARGEST);
                    prop_assert!(!done || found == expected, "{} {:?}", codec, vectors);
                }
            }
        }
    }

    /// Where the scale has no finite inverse, and just above.
    #[test]
    fn least_blocks_have_the_bytes_of_the_reference() {
        for power in -149..-100 {
            let least = 2.0f32.powi(power);
            let values: Vec<f32> = (0..32).map(|at| (at - 16) as f32 * least).collect();
            let mut expected = [0; 34];
            let row = RowMut { data: &mut expected, scales: &mut [], biases: &mut [] };
            encode_row(Codec::Q8_0, &values, EncodeOptions::default(), row).unwrap();
            for vectors in Vectors::found() {
                let mut found = [0; 34];
                let mut row = RowMut { data: &mut found, scales: &mut [], biases: &mut [] };
                assert!(encode(vectors, Codec::Q8_0, &values, &mut row));
                assert_eq!(found, expected, "2^{power} {vectors:?}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_left_to_the_reference() {
        for wrong in [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e9] {
            let mut values = [1.0f32; 64];
            values[37] = wrong;
            let (mut data, empty) = (vec![0; 68], &mut [][..]);
            let mut row = RowMut { data: &mut data, scales: empty, biases: &mut [] };
            assert!(!encode(Vectors::best(), Codec::Q8_0, &values, &mut row), "{wrong}");
        }
    }
}
