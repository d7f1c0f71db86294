//! Integer codes with scales and zero points, `(code - zero) * scale`, in the codecs that have them.
//!
//! Symmetric codes of 4 and 8 bits are `int4` and `int8`, whose zero is the middle and whose scales stay as they
//! are stored. All others are affine, `code * scale + bias` with the bias `-zero * scale`. A zero point has 8 bits
//! at most and a 16-bit scale has 11, so in f32 the bias, the product and the sum are exact: with f32 scales and
//! biases the values are those of the original, bit for bit, whereas 16 bits would have to round them. Scales that
//! are stored in 32 bits beside zero points are the one case that is rounded, in each of the three steps: a
//! weight is off by at most 2^-23 of the largest code times the scale.

use std::sync::Arc;

use keeve_codec::{
    Basis, Bytes, Codec, Float, Group, PackedTensor, Parts, Row, read_codes, write_codes,
};

use crate::{StoredTensor, StoredType};

/// What the codes of a matrix are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Bits of a code.
    pub(super) bits: u8,
    /// Neighbours in a row that share a scale and a zero point. The last group may be shorter.
    pub(super) group: usize,
    /// Whether all zero points are the middle of the codes.
    pub(super) symmetric: bool,
    /// How scales are stored.
    pub(super) scale: Float,
}

impl Layout {
    /// The code in the middle.
    pub(super) fn middle(&self) -> i32 {
        1 << (self.bits - 1)
    }

    /// Groups of a row.
    pub(super) fn groups(&self) -> usize {
        self.cols.div_ceil(self.group)
    }

    /// The codec, whose groups may be parts of these.
    ///
    /// # Errors
    /// If there is none; the text ends a sentence that begins with the tensor's name.
    pub(super) fn codec(&self) -> Result<Codec, String> {
        let Self { bits, cols, scale, .. } = *self;
        let group = self.group.min(cols);
        let fits = |unit: &u16| {
            group.is_multiple_of(usize::from(*unit)) && cols.is_multiple_of(usize::from(*unit))
        };
        let grouped = Codec::INT_GROUPS.into_iter().rev().find(fits).map(Group::Of);
        let integer = if group == cols { Some(Group::Row) } else { grouped };
        let affine = Codec::AFFINE_GROUPS.into_iter().rev().find(fits);
        let codec = match (self.symmetric, bits, integer, affine) {
            (true, 4, Some(group), _) => Some(Codec::Int4 { group, scale }),
            (true, 8, Some(group), _) => Some(Codec::Int8 { group, scale }),
            (_, _, _, Some(group)) => Some(Codec::Affine { bits, group, scale: Float::F32 }),
            _ => None,
        };
        codec.filter(|codec| codec.row_parts(cols).is_ok()).ok_or_else(|| {
            format!(
                "has rows of {cols} with {bits} bits in groups of {group}, for which keeve has no codec"
            )
        })
    }

    /// Parts of [`Layout::codec`], given each row's codes as a little-endian bit stream, and scales and zero
    /// points by row and group. `order` says which column each stored one is, if another: then columns of a
    /// codec's group must be of one group, which `group_of` tells by stored column.
    ///
    /// # Errors
    /// If scales or zero points are missing, are not what [`Layout::symmetric`] says, or the groups of
    /// reordered columns are cut up; the text ends a sentence that begins with the tensor's name.
    pub(super) fn parts(
        &self,
        codec: Codec,
        mut data: Vec<u8>,
        scale_and_zero: impl Fn(usize, usize) -> Option<(f32, i32)>,
        group_of: impl Fn(usize) -> usize,
    ) -> Result<Parts, String> {
        let float = match codec {
            Codec::Affine { scale, .. } | Codec::Int8 { scale, .. } | Codec::Int4 { scale, .. } => {
                scale
            }
            _ => return Err(format!("cannot be put together as {codec}")),
        };
        let geometry = codec.geometry();
        let unit = match geometry.scales {
            Some((Group::Of(unit), _)) => usize::from(unit),
            _ => self.cols,
        };
        for start in (0..self.cols).step_by(unit) {
            let group = group_of(start);
            if (start..start + unit).any(|column| group_of(column) != group) {
                return Err(format!(
                    "has a g_idx whose groups are no multiples of {unit} columns, which keeve asks for"
                ));
            }
        }
        let count = self.rows * (self.cols / unit);
        let mut scales = vec![0; count * float.bytes()];
        let mut biases = vec![0; if geometry.biases { scales.len() } else { 0 }];
        let middle = self.middle();
        for row in 0..self.rows {
            for index in 0..self.cols / unit {
                let found = scale_and_zero(row, group_of(index * unit));
                let (scale, zero) = found.ok_or("has fewer scales or zero points than groups")?;
                if self.symmetric && zero != middle {
                    return Err(format!(
                        "has the zero point {zero} in row {row}, expected {middle}: its config says that it is \
                         symmetric"
                    ));
                }
                let at = row * (self.cols / unit) + index;
                float.write(&mut scales, at, scale);
                if geometry.biases {
                    float.write(&mut biases, at, -(zero as f32) * scale);
                }
            }
        }
        if matches!(codec, Codec::Int8 { .. }) {
            data.iter_mut().for_each(|byte| *byte ^= 0x80);
        }
        let biases = geometry.biases.then(|| Bytes::from(biases));
        Ok(Parts { data: data.into(), scales: Some(scales.into()), biases, global_scale: None })
    }
}

/// Columns brought together by group.
pub(super) struct Moved {
    /// The column that each stored one is.
    pub(super) order: Arc<[u32]>,
    /// The group of each stored column.
    pub(super) groups: Vec<usize>,
}

/// The order of columns that brings those of a group together; `None` if they are together already. `g_idx` gives the group of each column.
///
/// # Errors
/// If a group is out of range; the text ends a sentence that begins with the tensor's name.
pub(super) fn column_order(
    g_idx: &StoredTensor,
    group: usize,
    groups: usize,
) -> Result<Option<Moved>, String> {
    let mut of_column = Vec::with_capacity(g_idx.data.len() / 4);
    for (column, bytes) in g_idx.data.as_chunks().0.iter().enumerate() {
        let found = i32::from_le_bytes(*bytes);
        let index = usize::try_from(found).ok().filter(|index| *index < groups);
        of_column.push(index.ok_or_else(|| {
            format!("has the group {found} for column {column} in g_idx; there are {groups} groups")
        })?);
    }
    if of_column.iter().enumerate().all(|(column, index)| *index == column / group) {
        return Ok(None);
    }
    let count = u32::try_from(of_column.len()).map_err(|_| "has too many columns")?;
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_by_key(|column| of_column[*column as usize]);
    let groups = order.iter().map(|column| of_column[*column as usize]).collect();
    Ok(Some(Moved { order: order.into(), groups }))
}

/// Whether [`column_order`] will move columns. What is wrong with `g_idx` is told where the tensor is read.
pub(super) fn is_moved(g_idx: Option<&StoredTensor>, group: usize, groups: usize) -> bool {
    g_idx.is_some_and(|g_idx| matches!(column_order(g_idx, group, groups), Ok(Some(_))))
}

/// A tensor whose columns were moved, if they were.
pub(super) fn in_order(tensor: PackedTensor, moved: Option<Moved>) -> Result<PackedTensor, String> {
    let Some(moved) = moved else { return Ok(tensor) };
    tensor.with_basis(Basis::Order(moved.order)).map_err(|error| format!("is wrong: {error}"))
}

/// Puts the codes of every row in another order: code `i` becomes code `order[i]` of before. The codes of a row fill
/// whole runs of eight.
pub(super) fn reorder(data: &mut [u8], bits: u8, order: &[u32]) {
    let (mut codes, mut moved) = (vec![0; order.len()], vec![0; order.len()]);
    for row in data.chunks_exact_mut(order.len() / 8 * usize::from(bits)) {
        read_codes(bits, row, &mut codes);
        for (to, from) in moved.iter_mut().zip(order) {
            *to = codes[*from as usize];
        }
        write_codes(bits, &moved, row);
    }
}

/// The transpose of a matrix of 32-bit words, as bytes.
pub(super) fn transposed(words: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    /// Columns that are read together, so that the lines they are written to stay at hand.
    const STRIP: usize = 32;
    let mut out = vec![0; words.len()];
    let (from, to) = (words.as_chunks::<4>().0, out.as_chunks_mut::<4>().0);
    for strip in (0..cols).step_by(STRIP) {
        for (row, words) in from.chunks_exact(cols).enumerate() {
            for column in strip..(strip + STRIP).min(cols) {
                to[column * rows + row] = words[column];
            }
        }
    }
    out
}

/// Code `index` of `bits` bits, at most 8, in a row of `words` 32-bit words that is a little-endian bit stream.
pub(super) fn code_at(
    tensor: &StoredTensor,
    row: usize,
    words: usize,
    bits: u8,
    index: usize,
) -> Option<i32> {
    let row = tensor.data.get(row * words * 4..(row + 1) * words * 4)?;
    let bit = index * usize::from(bits);
    let (low, high) = (*row.get(bit / 8)?, row.get(bit / 8 + 1).copied().unwrap_or(0));
    let code = u16::from_le_bytes([low, high]) >> (bit % 8) & ((1 << bits) - 1);
    Some(code.into())
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

/// How the scales in a tensor are stored.
///
/// # Errors
/// If they are no floats; the text ends a sentence that begins with the weight's name.
pub(super) fn scale_type(tensor: &StoredTensor) -> Result<Float, String> {
    match tensor.kind {
        StoredType::Codec(Codec::Float(float)) => Ok(float),
        _ => Err(format!("has scales of type {}, expected floats", tensor.kind)),
    }
}

/// Word `index` of a tensor of 32-bit integers.
pub(super) fn word_at(tensor: &StoredTensor, index: usize) -> Option<u32> {
    tensor.data.as_chunks().0.get(index).map(|bytes| u32::from_le_bytes(*bytes))
}

/// Whether a tensor is stored as a type that only its name tells, such as `I32`.
pub(super) fn is_kind(tensor: &StoredTensor, name: &str) -> bool {
    matches!(&tensor.kind, StoredType::Other(kind) if kind == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_transposed() {
        let words: Vec<u8> = (0..40 * 3u32).flat_map(u32::to_le_bytes).collect();
        let out = transposed(&words, 3, 40);
        for (index, word) in out.as_chunks().0.iter().enumerate() {
            assert_eq!(u32::from_le_bytes(*word) as usize, index % 3 * 40 + index / 3);
        }
    }

    #[test]
    fn codes_are_reordered() {
        let mut stream = vec![0; 2 * 3];
        write_codes(3, &[0, 1, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 3, 2, 1, 0], &mut stream);
        reorder(&mut stream, 3, &[7, 6, 5, 4, 0, 1, 2, 3]);
        let mut codes = [0; 16];
        read_codes(3, &stream, &mut codes);
        assert_eq!(codes, [7, 6, 5, 4, 0, 1, 2, 3, 0, 1, 2, 3, 7, 6, 5, 4]);
    }
}
