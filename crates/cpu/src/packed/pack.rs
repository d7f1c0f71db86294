//! Packing: from stored rows to tiles.

use keeve_codec::{Codes, Group, PackedTensor, SUPER_BLOCK, Scaling, SuperBlock};

use crate::packed::layout::{BLOCK, INTEGERS_AT, LINE, Layout, group_bytes};
use crate::scheme::panel::TILE_ROWS;

/// Words (codes of four columns, a byte each) of a block's row.
const WORDS: usize = BLOCK / 4;

/// Fills `out`, all zeros, with tile `tile` of `tensor`.
///
/// # Panics
/// If `layout` is not the tensor's, or `out` is not one tile long.
pub(crate) fn pack_tile(layout: &Layout, tensor: &PackedTensor, tile: usize, out: &mut [u8]) {
    assert_eq!(out.len(), layout.tile_bytes());
    let first = tile * TILE_ROWS;
    let rows = first..(first + TILE_ROWS).min(layout.rows);
    // Codes that nobody fills stand for zero.
    let mut codes = vec![layout.codes.zero; TILE_ROWS * layout.padded()];
    for (index, codes) in rows.clone().zip(codes.chunks_exact_mut(layout.padded())) {
        keeve_codec::codes(layout.codec, tensor.row(index), &mut codes[..layout.cols]);
    }
    for (record, out) in out.chunks_exact_mut(layout.record).enumerate() {
        let (header, blocks) = out.split_at_mut(layout.header);
        for (row, index) in rows.clone().enumerate() {
            write_header(layout, tensor, index, record, row, header);
        }
        for (block, out) in blocks.chunks_exact_mut(layout.block_bytes()).enumerate() {
            let column = record * layout.span + block * BLOCK;
            write_block(layout.codes, &codes, layout.padded(), column, out);
        }
    }
}

/// Writes what row `row` of a tile, row `index` of the tensor, has in the header of a record.
fn write_header(
    layout: &Layout,
    tensor: &PackedTensor,
    index: usize,
    record: usize,
    row: usize,
    header: &mut [u8],
) {
    match layout.codes.scaling {
        Scaling::Groups { group, float, offset } => {
            let len = match group {
                Group::Row => layout.span,
                Group::Of(len) => usize::from(len),
            };
            let bytes = group_bytes(float, offset);
            let groups = record * layout.span / len..layout.cols.div_ceil(len);
            let places = header.chunks_exact_mut(bytes).take(layout.span / len);
            for (group, place) in groups.zip(places) {
                let values = keeve_codec::group_scale(layout.codec, tensor.row(index), group);
                let (scale, added) = values.unwrap_or_default();
                float.write(place, row, scale);
                if offset {
                    float.write(place, TILE_ROWS + row, added);
                }
            }
        }
        Scaling::SuperBlocks { run, minimum } => {
            let block = keeve_codec::super_block(layout.codec, tensor.row(index), record);
            let Some(block) = block else { return };
            let SuperBlock { scale, minimum: least, scales, minimums, .. } = block;
            header[2 * row..][..2].copy_from_slice(&scale.to_le_bytes());
            header[2 * (TILE_ROWS + row)..][..2].copy_from_slice(&least.to_le_bytes());
            let integers = &mut header[INTEGERS_AT..];
            let runs = SUPER_BLOCK / usize::from(run);
            for at in 0..runs {
                let scale = scales[at] as u8;
                if runs == 8 {
                    integers[at * TILE_ROWS + row] = scale;
                    integers[(runs + at) * TILE_ROWS + row] = minimums[at];
                } else {
                    let upper = if minimum { minimums[at] << 4 } else { 0 };
                    integers[layout.integer_at(at, row)] = scale | upper;
                }
            }
        }
    }
}

/// Writes the codes of 16 rows (`width` apart in `codes`) from `column` on.
fn write_block(what: Codes, codes: &[u8], width: usize, column: usize, out: &mut [u8]) {
    let mut words = [[0; WORDS]; TILE_ROWS];
    for (words, codes) in words.iter_mut().zip(codes.chunks_exact(width)) {
        for (word, codes) in words.iter_mut().zip(codes[column..].as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*codes);
        }
    }
    let mut vectors = out.chunks_exact_mut(LINE);
    // `count` words, one every `step` bits, after the `shift` bits that other planes have.
    let mut plane = |mask: u32, shift: u32, count: usize, step: usize| {
        for (vector, first) in vectors.by_ref().take(WORDS / count).zip((0..).step_by(count)) {
            for (place, words) in vector.as_chunks_mut::<4>().0.iter_mut().zip(&words) {
                let parts = words[first..][..count].iter().enumerate();
                let word = parts
                    .fold(0, |all, (index, word)| all | (word >> shift & mask) << (index * step));
                *place = word.to_le_bytes();
            }
        }
    };
    if what.bits == 8 {
        return plane(u32::MAX, 0, 1, 8);
    }
    let mut shift = 0;
    for (width, mask) in [(4, 0x0f0f_0f0f), (2, 0x0303_0303), (1, 0x0101_0101)] {
        if what.bits & width != 0 {
            plane(mask, shift, 8 / usize::from(width), width.into());
            shift += u32::from(width);
        }
    }
}
