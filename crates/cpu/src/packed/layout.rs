//! Where everything is in a tile.
//!
//! A tile is 16 weight rows. Along the columns it is a sequence of records, so that a product reads it
//! from its first byte to its last; a record is a header of scales and then blocks of 32 columns of
//! codes. All of these are multiples of 64 bytes.
//!
//! **Codes.** Let `word[k4][row]` be the codes of columns `4 * k4 .. 4 * k4 + 4` of a weight row, a byte
//! each: 64 bytes for all rows, which is one register and the operand of a byte product. A block has
//! eight such vectors. 8-bit codes are stored as they are (`[8][16][4]`); fewer bits are stored in
//! planes of 4, 2 and 1 bits (6 bits: the low four, then the upper two), each a multiple of 64 bytes:
//!
//! * 4 bits: vector `i` of four has `word[2 i]` in the low nibbles and `word[2 i + 1]` in the high ones;
//! * 2 bits: vector `i` of two has `word[4 i + p]` in bits `2 p ..`;
//! * 1 bit: one vector, with `word[p]` in bit `p`.
//!
//! **Headers.** Codecs that scale by groups: for each group of the record 16 scales, then 16 offsets if
//! there are any, as stored. K-quants: 16 scales (f16), 16 minimums (f16; zeros if there are none), then
//! 256 bytes: for runs of 32 `[8 runs][16 rows]` scales and as many minimums, for runs of 16 scales (with
//! minimums in the upper nibble, as Q2_K has them): `[16 runs][16 rows]` for Q6_K, and for Q2_K and Q3_K,
//! whose products with 16 columns fit into 16 bits, `[4][16 rows][4 runs]`, of which the second and the third
//! have changed places: so those of two runs are 16 bits apart.
//!
//! Rows and columns past the tensor's have weights of zero.

use keeve_codec::{Codec, Codes, Float, Group, SUPER_BLOCK, Scaling};

use crate::scheme::panel::{PANEL_COLS, TILE_ROWS};

/// Columns of a block of codes.
pub(crate) const BLOCK: usize = 32;
/// What everything is a multiple of.
pub(crate) const LINE: usize = 64;
/// Columns of the records of groups of up to this many: enough for whole lines of 16-bit scales.
const GROUPS_SPAN: usize = 128;
/// Where the integers begin in the header of a K-quant: after 16 scales and 16 minimums.
pub(crate) const INTEGERS_AT: usize = 64;
/// Bytes of the header of a K-quant.
pub(crate) const SUPER_HEADER: usize = INTEGERS_AT + 256;

/// The layout of a tensor's tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The codec.
    pub codec: Codec,
    /// What its codes mean.
    pub codes: Codes,
    /// Weight rows: N.
    pub rows: usize,
    /// Columns: K.
    pub cols: usize,
    /// Columns of a record.
    pub span: usize,
    /// Bytes of a record's header.
    pub header: usize,
    /// Bytes of a record.
    pub record: usize,
    /// Records of a tile.
    pub records: usize,
}

impl Layout {
    /// The layout for a matrix of `rows` by `cols`; `None` for plain floats, and where its bytes overflow.
    pub fn new(codec: Codec, rows: usize, cols: usize) -> Option<Self> {
        let codes = codec.codes()?;
        let (span, header) = match codes.scaling {
            Scaling::SuperBlocks { .. } => (SUPER_BLOCK, SUPER_HEADER),
            Scaling::Groups { group, float, offset } => {
                let (span, groups) = match group {
                    Group::Row => (cols.checked_next_multiple_of(LINE)?, 1),
                    Group::Of(len) => {
                        let len = usize::from(len);
                        (len.max(GROUPS_SPAN), GROUPS_SPAN.div_ceil(len))
                    }
                };
                let header = groups * group_bytes(float, offset);
                (span, header.next_multiple_of(LINE))
            }
        };
        let blocks = (span / BLOCK).checked_mul(block_bytes(codes))?;
        let record = blocks.checked_add(header)?;
        let records = cols.div_ceil(span);
        record.checked_mul(records)?.checked_mul(rows.div_ceil(TILE_ROWS))?;
        Some(Self { codec, codes, rows, cols, span, header, record, records })
    }

    /// How many tiles there are.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        self.record * self.records
    }

    /// Columns of the tile, zeros included.
    pub fn padded(&self) -> usize {
        self.span * self.records
    }

    /// Bytes of a block of 32 columns.
    pub fn block_bytes(&self) -> usize {
        block_bytes(self.codes)
    }

    /// Where the integer of a run of 16 columns is, from [`INTEGERS_AT`] on.
    pub fn integer_at(&self, run: usize, row: usize) -> usize {
        if self.codes.bits <= 3 {
            run / 4 * LINE + 4 * row + [0, 2, 1, 3][run % 4]
        } else {
            run * TILE_ROWS + row
        }
    }

    /// Whether the codec has one scale for a whole row.
    pub fn one_scale_a_row(&self) -> bool {
        matches!(self.codes.scaling, Scaling::Groups { group: Group::Row, offset: false, .. })
    }

    /// Whether codes are whole numbers of the scales of groups, of which there may be one a row.
    pub fn scales_groups(&self) -> bool {
        let signed_or_nibbles = self.codes.signed || self.codes.bits == 4;
        let groups = matches!(self.codes.scaling, Scaling::Groups { offset: false, .. });
        groups && signed_or_nibbles
    }

    /// Columns that share a scale in panels.
    pub fn panel_scale_span(&self) -> usize {
        if self.one_scale_a_row() { self.cols } else { PANEL_COLS }
    }

    /// Whether all weights of a row in any 256 columns are codes times one scale, so that a panel of
    /// int8 holds them exactly.
    pub fn exact_panels(&self) -> bool {
        match self.codes.scaling {
            Scaling::Groups { group, offset: false, .. } => match group {
                Group::Row => true,
                Group::Of(len) => usize::from(len) >= PANEL_COLS,
            },
            _ => false,
        }
    }
}

/// Bytes that a group has in a header: scales, and offsets if there are any.
pub(crate) fn group_bytes(float: Float, offset: bool) -> usize {
    TILE_ROWS * float.bytes() * if offset { 2 } else { 1 }
}

/// Bytes of the codes of 16 rows by 32 columns.
fn block_bytes(codes: Codes) -> usize {
    TILE_ROWS * BLOCK * usize::from(codes.bits) / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_hardly_larger_than_what_they_hold() {
        for codec in crate::tests::codecs() {
            let layout = Layout::new(codec, 4096, 4096).unwrap();
            for part in [layout.header, layout.record, layout.block_bytes()] {
                assert!(part.is_multiple_of(LINE), "{codec}: {layout:?}");
            }
            let stored = codec.row_bytes(4096).unwrap() * 4096;
            let ratio = (layout.tile_bytes() * layout.tiles()) as f64 / stored as f64;
            // Five base-3 digits to a byte would take too long to pull apart: they have two bits each.
            let digits = matches!(codec, Codec::Tq1_0 | Codec::Ptq1_0);
            let most = if digits { 1.29 } else { 1.15 };
            assert!((1.0..most).contains(&ratio), "{codec}: {ratio}");
        }
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let int8 = "int8".parse().unwrap();
        assert_eq!(Layout::new(int8, 1, usize::MAX), None);
        assert_eq!(Layout::new(int8, usize::MAX, 1 << 20), None);
        assert_eq!(Layout::new(Codec::Q4K, usize::MAX / 2, 1 << 20), None);
    }
}
