//! Unpacking: a row of weights out of tiles, as `embed` wants it; and codes as they are, for products by
//! groups.

use keeve_codec::{Codes, Float, Group, SUPER_BLOCK, Scaling};

use crate::packed::layout::{BLOCK, INTEGERS_AT, LINE, Layout, group_bytes};
use crate::scheme::activations::SUM_COLS;
use crate::scheme::panel::TILE_ROWS;

/// Words (codes of four columns, a byte each) of a block's row.
const WORDS: usize = BLOCK / 4;

/// Fills `out` with the columns from `start` on, a multiple of 32, of row `row` of a tile: what
/// [`keeve_codec::values`] gives, bit for bit.
///
/// # Panics
/// If the tile is not the layout's, or has fewer columns.
pub(crate) fn unpack_row(layout: &Layout, tile: &[u8], row: usize, start: usize, out: &mut [f32]) {
    assert!(tile.len() == layout.tile_bytes() && row < TILE_ROWS);
    assert!(start + out.len() <= layout.cols && start.is_multiple_of(BLOCK));
    match layout.codes.bits {
        1 => unpack::<1>(layout, tile, row, start, out),
        2 => unpack::<2>(layout, tile, row, start, out),
        3 => unpack::<3>(layout, tile, row, start, out),
        4 => unpack::<4>(layout, tile, row, start, out),
        5 => unpack::<5>(layout, tile, row, start, out),
        6 => unpack::<6>(layout, tile, row, start, out),
        _ => unpack::<8>(layout, tile, row, start, out),
    }
}

/// [`unpack_row`] for codes of `BITS` bits.
fn unpack<const BITS: usize>(
    layout: &Layout,
    tile: &[u8],
    row: usize,
    start: usize,
    out: &mut [f32],
) {
    let zero = i32::from(layout.codes.zero);
    for (index, out) in out.chunks_mut(BLOCK).enumerate() {
        let column = start + index * BLOCK;
        let (record, within) = (column / layout.span, column % layout.span);
        let (header, blocks) = tile[record * layout.record..].split_at(layout.header);
        let block = &blocks[within / BLOCK * layout.block_bytes()..][..layout.block_bytes()];
        let codes = block_codes::<BITS>(block, row);
        let runs = out.chunks_mut(SUM_COLS).zip(codes.chunks_exact(SUM_COLS));
        for (run, (out, codes)) in runs.enumerate() {
            let (scale, added) = scale_of(layout, header, row, within + run * SUM_COLS);
            for (out, &code) in out.iter_mut().zip(codes) {
                let code = if layout.codes.signed {
                    i32::from(code as i8)
                } else {
                    i32::from(code) - zero
                };
                *out = scale * code as f32 + added;
            }
        }
    }
}

/// Fills `out` with the codes of the columns from `start` on, less the code of zero, as `[64][16][4]`;
/// zeros past the last column.
///
/// # Panics
/// If the tile is not the layout's, or codes are neither signed nor of 4 bits.
pub(crate) fn unpack_codes(layout: &Layout, tile: &[u8], start: usize, out: &mut [i8]) {
    let Codes { bits, signed, zero, .. } = layout.codes;
    assert!(bits == 4 || bits == 8 && signed, "codes of {bits} bits");
    assert_eq!(tile.len(), layout.tile_bytes());
    for (index, out) in out.chunks_exact_mut(TILE_ROWS * BLOCK).enumerate() {
        let column = start + index * BLOCK;
        if column >= layout.padded() {
            out.fill(0);
            continue;
        }
        let (record, within) = (column / layout.span, column % layout.span);
        let at = record * layout.record + layout.header + within / BLOCK * layout.block_bytes();
        let block = &tile[at..][..layout.block_bytes()];
        if bits == 8 {
            for (out, &code) in out.iter_mut().zip(block) {
                *out = code as i8;
            }
            continue;
        }
        for (out, vector) in out.chunks_exact_mut(2 * LINE).zip(block.as_chunks::<LINE>().0) {
            let (low, high) = out.split_at_mut(LINE);
            for ((low, high), both) in low.iter_mut().zip(high).zip(vector) {
                *low = (both & 15) as i8 - zero as i8;
                *high = (both >> 4) as i8 - zero as i8;
            }
        }
    }
}

/// The scales of the group that `column` is in; zeros past the last column.
///
/// # Panics
/// If the tile is not the layout's, or the codec does not scale by groups.
pub(crate) fn group_scales(
    layout: &Layout,
    tile: &[u8],
    column: usize,
    scales: &mut [f32; TILE_ROWS],
) {
    let Scaling::Groups { group, float, offset } = layout.codes.scaling else {
        unreachable!("{} does not scale by groups", layout.codec)
    };
    scales.fill(0.0);
    if column >= layout.cols {
        return;
    }
    let len = match group {
        Group::Row => layout.span,
        Group::Of(len) => len.into(),
    };
    let (record, within) = (column / layout.span, column % layout.span);
    let header = &tile[record * layout.record..][..layout.header];
    let place = &header[within / len * group_bytes(float, offset)..];
    for (row, scale) in scales.iter_mut().enumerate() {
        *scale = float.read(place, row);
    }
}

/// Scale and offset of the 16 columns from `column` of a record on, which no codec scales apart. Where there is
/// no offset it is -0, which changes nothing that it is added to.
fn scale_of(layout: &Layout, header: &[u8], row: usize, column: usize) -> (f32, f32) {
    match layout.codes.scaling {
        Scaling::Groups { group, float, offset } => {
            let group = match group {
                Group::Row => 0,
                Group::Of(len) => column / usize::from(len),
            };
            let place = &header[group * group_bytes(float, offset)..];
            let added = if offset { float.read(place, TILE_ROWS + row) } else { -0.0 };
            (float.read(place, row), added)
        }
        Scaling::SuperBlocks { run, minimum } => {
            let run = usize::from(run);
            let (index, runs) = (column / run, SUPER_BLOCK / run);
            let integers = &header[INTEGERS_AT..];
            let place = match runs {
                8 => index * TILE_ROWS + row,
                _ => layout.integer_at(index, row),
            };
            let integer = integers[place];
            let (scale, least) = match (runs, minimum) {
                (8, _) => (integer as i8, integers[(runs + index) * TILE_ROWS + row]),
                (_, true) => ((integer & 15) as i8, integer >> 4),
                (_, false) => (integer as i8, 0),
            };
            let scale = Float::F16.read(header, row) * f32::from(scale);
            (scale, -(Float::F16.read(header, TILE_ROWS + row) * f32::from(least)))
        }
    }
}

/// The codes of `BITS` bits of a row in a block: the planes of `write_block` put together.
fn block_codes<const BITS: usize>(block: &[u8], row: usize) -> [u8; BLOCK] {
    let word = |vector: usize| {
        let word = block[vector * LINE + 4 * row..].first_chunk();
        u32::from_le_bytes(*word.unwrap_or(&[0; 4]))
    };
    let mut words = [0u32; WORDS];
    if BITS == 8 {
        for (vector, to) in words.iter_mut().enumerate() {
            *to = word(vector);
        }
    }
    let (mut vector, mut shift) = (0, 0);
    for (width, mask) in [(4, 0x0f0f_0f0f), (2, 0x0303_0303), (1, 0x0101_0101)] {
        if BITS & width == 0 {
            continue;
        }
        for words in words.chunks_exact_mut(8 / width) {
            let plane = word(vector);
            vector += 1;
            for (index, to) in words.iter_mut().enumerate() {
                *to |= (plane >> (index * width) & mask) << shift;
            }
        }
        shift += width;
    }
    let mut codes = [0; BLOCK];
    for (codes, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *codes = word.to_le_bytes();
    }
    codes
}

#[cfg(test)]
mod tests {
    use keeve_codec::{EncodeOptions, encode};

    use super::*;
    use crate::packed::tiles::Tiles;
    use crate::runtime::arena::Arena;
    use crate::runtime::pool::Pool;

    #[test]
    fn rows_come_out_of_tiles_as_they_went_in() {
        let (memory, pool) = (Arena::default(), Pool::new(2).unwrap());
        for codec in crate::tests::codecs() {
            for (rows, cols) in [(33, 512), (16, 768)] {
                let Some(layout) = Layout::new(codec, rows, cols) else { continue };
                let mut seed = 1u32;
                let values: Vec<f32> = (0..rows * cols)
                    .map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
                    })
                    .collect();
                let tensor = encode(codec, rows, cols, &values, EncodeOptions::default());
                let tensor = tensor.unwrap().tensor;
                let tiles =
                    Tiles::pack(layout, &tensor, &memory, &pool, &|_| true).unwrap().unwrap();
                let (mut found, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
                for row in 0..rows {
                    tiles.row(row, &mut found);
                    keeve_codec::row_values(&tensor, row, &mut expected);
                    let same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{codec} row {row}");
                }
            }
        }
    }
}
