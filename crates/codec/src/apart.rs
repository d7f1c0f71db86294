//! Rows taken apart into the numbers they store, for kernels that compute with codes.

pub use crate::kquant::Block as SuperBlock;
use crate::{Codec, Float, Group, Row, kquant, legacy, read_codes, ternary};

/// Weights in a super-block of a K-quant.
pub const SUPER_BLOCK: usize = kquant::BLOCK;

/// How a codec makes a weight out of its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// Bits of a code, which may be stored closer together.
    pub bits: u8,
    /// Whether codes are two's complement. Otherwise they are counted from zero.
    pub signed: bool,
    /// The code that stands for zero (before an offset or a minimum): a weight is
    /// `scale * (code - zero)`, plus or minus what [`Scaling`] says.
    pub zero: u8,
    /// Where scales come from.
    pub scaling: Scaling,
}

/// Where the scales of a codec come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// A float for each group: `scale * (code - zero) + offset`; see [`group_scale`].
    Groups {
        /// Weights that share a scale.
        group: Group,
        /// How scales (and offsets) are stored.
        float: Float,
        /// Whether there is an offset.
        offset: bool,
    },
    /// Small integers times a float for each [`SUPER_BLOCK`] weights:
    /// `scale * scales[run] * (code - zero) - minimum * minimums[run]`; see [`super_block`].
    SuperBlocks {
        /// Weights that share an integer.
        run: u8,
        /// Whether there are minimums.
        minimum: bool,
    },
}

impl Codec {
    /// What the codes mean; `None` for plain floats and for codecs whose codes choose from uneven levels, a
    /// grid or small floats.
    pub const fn codes(self) -> Option<Codes> {
        const fn groups(bits: u8, zero: u8, group: Group, float: Float, offset: bool) -> Codes {
            let scaling = Scaling::Groups { group, float, offset };
            Codes { bits, signed: bits == 8 && !offset, zero, scaling }
        }
        const fn blocks(bits: u8, zero: u8, run: u8, minimum: bool) -> Codes {
            Codes { bits, signed: false, zero, scaling: Scaling::SuperBlocks { run, minimum } }
        }
        const BLOCK: Group = Group::Of(32);
        Some(match self {
            Self::Q4_0 => groups(4, 8, BLOCK, Float::F16, false),
            Self::Q4_1 => groups(4, 0, BLOCK, Float::F16, true),
            Self::Q5_0 => groups(5, 16, BLOCK, Float::F16, false),
            Self::Q5_1 => groups(5, 0, BLOCK, Float::F16, true),
            Self::Q8_0 => groups(8, 0, BLOCK, Float::F16, false),
            Self::Affine { bits, group, scale } => groups(bits, 0, Group::Of(group), scale, true),
            Self::Int8 { group, scale } => groups(8, 0, group, scale, false),
            Self::Int4 { group, scale } => groups(4, 8, group, scale, false),
            Self::Tq1_0 | Self::Tq2_0 => groups(2, 1, Group::Of(256), Float::F16, false),
            Self::Ptq1_0 | Self::Pq2_0 => groups(2, 1, Group::Of(128), Float::F16, false),
            Self::Q2_0 => groups(2, 1, Group::Of(64), Float::F16, false),
            Self::Q2K => blocks(2, 0, 16, true),
            Self::Q3K => blocks(3, 4, 16, false),
            Self::Q4K => blocks(4, 0, 32, true),
            Self::Q5K => blocks(5, 0, 32, true),
            Self::Q6K => blocks(6, 32, 16, false),
            _ => return None,
        })
    }
}

/// The codes of a row as they are stored, a byte each. Codecs without [`Codec::codes`] have none: nothing is
/// written.
///
/// # Panics
/// If `row` does not have the bytes of `out.len()` weights of a codec that [`Codec::row_parts`] accepts.
pub fn codes(codec: Codec, row: Row<'_>, out: &mut [u8]) {
    row.expect_lengths(codec, out.len());
    match codec {
        Codec::Q4_0 => legacy::codes(legacy::Q4_0, row.data, out),
        Codec::Q4_1 => legacy::codes(legacy::Q4_1, row.data, out),
        Codec::Q5_0 => legacy::codes(legacy::Q5_0, row.data, out),
        Codec::Q5_1 => legacy::codes(legacy::Q5_1, row.data, out),
        Codec::Q8_0 => legacy::q8_0_codes(row.data, out),
        Codec::Q2K | Codec::Q3K | Codec::Q4K | Codec::Q5K | Codec::Q6K => {
            for (index, out) in out.chunks_exact_mut(SUPER_BLOCK).enumerate() {
                if let Some(block) = super_block(codec, row, index) {
                    out.copy_from_slice(&block.codes);
                }
            }
        }
        Codec::Tq1_0 => ternary::trits_codes(&ternary::TQ1_0, row.data, out),
        Codec::Ptq1_0 => ternary::trits_codes(&ternary::PTQ1_0, row.data, out),
        Codec::Tq2_0 => ternary::bits_codes(&ternary::TQ2_0, row.data, out),
        Codec::Q2_0 => ternary::bits_codes(&ternary::Q2_0, row.data, out),
        Codec::Pq2_0 => ternary::bits_codes(&ternary::PQ2_0, row.data, out),
        Codec::Affine { bits, .. } => read_codes(bits, row.data, out),
        Codec::Int8 { .. } => out.copy_from_slice(row.data),
        Codec::Int4 { .. } => {
            for (pair, &byte) in out.as_chunks_mut().0.iter_mut().zip(row.data) {
                *pair = [byte & 15, byte >> 4];
            }
        }
        _ => {}
    }
}

/// Scale and offset (zero if the codec has none) of group `index` of a row, for codecs that scale by
/// groups; `None` for the others.
///
/// # Panics
/// If there is no such group.
pub fn group_scale(codec: Codec, row: Row<'_>, index: usize) -> Option<(f32, f32)> {
    let Some(Codes { scaling: Scaling::Groups { float, offset, .. }, .. }) = codec.codes() else {
        return None;
    };
    let (scales, offsets, at) = if codec.geometry().scales.is_some() {
        (row.scales, row.biases, index)
    } else {
        let bytes = codec.geometry().block_bytes;
        let block = &row.data[index * bytes..][..bytes];
        let scale = match codec {
            Codec::Tq1_0 | Codec::Ptq1_0 | Codec::Tq2_0 => bytes - float.bytes(),
            _ => 0,
        };
        (&block[scale..], &block[float.bytes()..], 0)
    };
    Some((float.read(scales, at), if offset { float.read(offsets, at) } else { 0.0 }))
}

/// Super-block `index` of a row of a K-quant; `None` for other codecs.
///
/// # Panics
/// If there is no such block.
pub fn super_block(codec: Codec, row: Row<'_>, index: usize) -> Option<SuperBlock> {
    let layout = match codec {
        Codec::Q2K => &kquant::Q2_K,
        Codec::Q3K => &kquant::Q3_K,
        Codec::Q4K => &kquant::Q4_K,
        Codec::Q5K => &kquant::Q5_K,
        Codec::Q6K => &kquant::Q6_K,
        _ => return None,
    };
    Some((layout.read)(&row.data[index * layout.bytes..][..layout.bytes]))
}
