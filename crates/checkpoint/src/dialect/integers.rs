//! Integer codes with scales and zero points, `(code - zero) * scale`, as affine: `code * scale + bias`
//! with the bias `-zero * scale`.
//!
//! Scales of 16 bits times codes and zero points of 8 are exact in f32, and so is the sum: with f32 scales
//! and biases the values are those of the original, bit for bit.

use keeve_codec::{Bytes, Codec, Float, Parts, Row};

use crate::{StoredTensor, StoredType};

/// The affine codec for codes of `bits` bits, of which `group` neighbours share a scale; `None` if there is
/// none. Its groups may be shorter.
pub(super) fn affine(bits: u8, group: usize) -> Option<Codec> {
    let mut groups = Codec::AFFINE_GROUPS.into_iter().rev();
    let unit = groups.find(|unit| group.is_multiple_of(usize::from(*unit)))?;
    let codec = Codec::Affine { bits, group: unit, scale: Float::F32 };
    codec.is_known().then_some(codec)
}

/// Parts of [`affine`] for rows of `cols` codes: `scale_and_zero` gives them by row and group, if they
/// are there.
pub(super) fn parts(
    data: Bytes,
    codec: Codec,
    [rows, cols]: [usize; 2],
    group: usize,
    scale_and_zero: impl Fn(usize, usize) -> Option<(f32, i32)>,
) -> Result<Parts, String> {
    let unit = codec.column_step();
    let (mut scales, mut biases) = (Vec::new(), Vec::new());
    for row in 0..rows {
        for start in (0..cols).step_by(unit) {
            let found = scale_and_zero(row, start / group);
            let (scale, zero) = found.ok_or("has fewer scales or zero points than groups")?;
            scales.extend(scale.to_le_bytes());
            biases.extend((-(zero as f32) * scale).to_le_bytes());
        }
    }
    let (scales, biases) = (Some(scales.into()), Some(biases.into()));
    Ok(Parts { data, scales, biases, global_scale: None })
}

/// The values of a tensor stored as floats.
pub(super) fn floats(tensor: &StoredTensor) -> Option<Vec<f32>> {
    let StoredType::Codec(codec @ Codec::Float(float)) = tensor.kind else { return None };
    let mut values = vec![0.0; tensor.data.len() / float.bytes()];
    let row = Row { data: &tensor.data, scales: &[], biases: &[], global_scale: &[] };
    if !values.is_empty() {
        keeve_codec::values(codec, row, &mut values);
    }
    Some(values)
}

/// Word `index` of a tensor of 32-bit integers.
pub(super) fn word_at(tensor: &StoredTensor, index: usize) -> Option<u32> {
    tensor.data.as_chunks().0.get(index).map(|bytes| u32::from_le_bytes(*bytes))
}

/// Whether a tensor is stored as a type that only its name tells, such as `I32`.
pub(super) fn is_kind(tensor: &StoredTensor, name: &str) -> bool {
    matches!(&tensor.kind, StoredType::Other(kind) if kind == name)
}
