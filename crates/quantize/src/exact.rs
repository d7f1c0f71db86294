//! Symmetric integers as MLX affine: the same values in other bytes.

use keeve_codec::{Bytes, Codec, Error, Float, Group, PackedTensor, Parts};

/// The affine codec for integers of `bits` bits with a scale for each `group`: with the longest groups
/// that divide theirs. `None` if there is none.
pub(crate) fn affine(bits: u8, group: Group) -> Option<Codec> {
    let fits = |unit: &u16| match group {
        // A row is a multiple of what its codec asks for; 32 is the least that affine has.
        Group::Row => *unit == 32,
        Group::Of(len) => len.is_multiple_of(*unit),
    };
    let group = Codec::AFFINE_GROUPS.into_iter().rev().find(fits)?;
    Some(Codec::Affine { bits, group, scale: Float::F32 })
}

/// Whether [`rewritten`] does that.
pub(crate) fn is_exact(from: Codec, to: Codec) -> bool {
    match (from, to) {
        (Codec::Int8 { group, .. }, to) => affine(8, group) == Some(to),
        (Codec::Int4 { group, .. }, to) => affine(4, group) == Some(to),
        _ => false,
    }
}

/// `source` in the codec that [`affine`] gives: codes counted from the lowest, and a bias that takes that
/// back. `None` for other codecs.
pub(crate) fn rewritten(source: &PackedTensor, to: Codec) -> Option<Result<PackedTensor, Error>> {
    let from = source.codec();
    if !is_exact(from, to) {
        return None;
    }
    let (group, scale, lowest) = match from {
        Codec::Int8 { group, scale } => (group, scale, -128.0f32),
        Codec::Int4 { group, scale } => (group, scale, -8.0),
        _ => return None,
    };
    let Codec::Affine { group: unit, .. } = to else { return None };
    let cols = source.cols();
    let len = match group {
        Group::Row => cols,
        Group::Of(len) => usize::from(len),
    };
    let parts = source.parts();
    let data = match from {
        Codec::Int8 { .. } => {
            // Two's complement, from the lowest.
            Bytes::from(parts.data.iter().map(|code| code ^ 0x80).collect::<Vec<u8>>())
        }
        // The layouts agree.
        _ => parts.data.clone(),
    };
    let (mut scales, mut biases) = (Vec::new(), Vec::new());
    for row in 0..source.experts() * source.rows() {
        let row = source.row(row);
        for start in (0..cols).step_by(unit.into()) {
            let value = read(scale, row.scales, start / len);
            scales.extend(value.to_le_bytes());
            biases.extend((lowest * value).to_le_bytes());
        }
    }
    let parts = Parts {
        data,
        scales: Some(scales.into()),
        biases: Some(biases.into()),
        global_scale: None,
    };
    Some(PackedTensor::new(to, source.experts(), source.rows(), cols, parts))
}

fn read(float: Float, bytes: &[u8], index: usize) -> f32 {
    let at = index * float.bytes();
    match float {
        Float::F32 => f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]),
        Float::F16 => half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
        Float::Bf16 => half::bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
    }
}

#[cfg(test)]
mod tests {
    use keeve_codec::{EncodeOptions, encode, values};

    use super::*;

    #[test]
    fn values_stay_what_they_are() {
        let floats: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
        for name in ["int8-bf16", "int8-g128-f16", "int4-g64-bf16", "int8-g32-bf16", "int4-bf16"] {
            let from: Codec = name.parse().unwrap();
            let source = encode(from, 2, 256, &floats, EncodeOptions::default()).unwrap().tensor;
            let (bits, group) = match from {
                Codec::Int8 { group, .. } => (8, group),
                Codec::Int4 { group, .. } => (4, group),
                _ => unreachable!(),
            };
            let to = affine(bits, group).unwrap();
            let affine = rewritten(&source, to).unwrap().unwrap();
            for row in 0..2 {
                let (mut a, mut b) = (vec![0.0; 256], vec![0.0; 256]);
                values(from, source.row(row), &mut a);
                values(to, affine.row(row), &mut b);
                assert_eq!(a, b, "{name}");
            }
        }
        assert!(
            rewritten(
                &encode(Codec::Q8_0, 2, 256, &floats, EncodeOptions::default()).unwrap().tensor,
                Codec::F32
            )
            .is_none()
        );
    }
}
