//! Weights left as they are stored, unpacked as they are used.

use keeve_codec::{Codec, Group, PackedTensor, Row};

use crate::gemm::BF16_COLS;
use crate::kernels::Kernels;
use crate::scheme::activations::Rounding;
use crate::scheme::panel::{PANEL_COLS, TILE_ROWS};

/// Rows of the input whose sums are collected before they are handed out.
const ROW_BLOCK: usize = 64;

/// A matrix as it is stored.
pub(crate) struct Stored {
    pub tensor: PackedTensor,
    pub kernels: &'static dyn Kernels,
}

impl Stored {
    /// Weight row `index`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        self.kernels.unpack(self.tensor.codec(), self.tensor.row(index), out);
    }

    /// Unpacks the columns of row `index` from `start` on, which must be whole blocks and groups.
    fn unpack(&self, index: usize, start: usize, out: &mut [f32]) {
        let codec = self.tensor.codec();
        let columns = columns(codec, self.tensor.row(index), start, out.len());
        self.kernels.unpack(codec, columns, out);
    }

    /// The rows of a tile.
    fn tile_rows(&self, tile: usize) -> std::ops::Range<usize> {
        tile * TILE_ROWS..self.tensor.rows().min((tile + 1) * TILE_ROWS)
    }

    /// Values of room that [`Self::float_products`] needs.
    pub fn room(&self, rows: usize) -> usize {
        TILE_ROWS * (self.tensor.cols() + ROW_BLOCK.min(rows))
    }

    /// Products of the rows of `x`, `[rows][K]`, with the weight rows of a tile, nothing rounded. `store` gets each
    /// row and its sums.
    pub fn float_products(
        &self,
        tile: usize,
        x: &[f32],
        room: &mut [f32],
        mut store: impl FnMut(usize, &[f32; TILE_ROWS]),
    ) {
        let (k, indices) = (self.tensor.cols(), self.tile_rows(tile));
        let width = indices.len();
        let (weights, dots) = room.split_at_mut(width * k);
        for (index, weights) in indices.zip(weights.chunks_exact_mut(k)) {
            self.row(index, weights);
        }
        for (block, x) in x.chunks(ROW_BLOCK * k).enumerate() {
            let count = x.len() / k;
            self.kernels.dots(x, weights, k, dots, count);
            for row in 0..count {
                let mut sums = [0.0; TILE_ROWS];
                for (index, sum) in sums[..width].iter_mut().enumerate() {
                    *sum = dots[index * count + row];
                }
                store(block * ROW_BLOCK + row, &sums);
            }
        }
    }

    /// [`crate::packed::Packed::int8_panel`]: floats, quantized as activations are.
    pub fn int8_panel(
        &self,
        tile: usize,
        block: usize,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    ) {
        let start = block * PANEL_COLS;
        let width = PANEL_COLS.min(self.tensor.cols() - start);
        let (mut values, mut row_codes) = ([0.0; PANEL_COLS], [0; PANEL_COLS]);
        codes.fill(0);
        scales.fill(0.0);
        for ((row, index), scale) in self.tile_rows(tile).enumerate().zip(scales) {
            let values = &mut values[..width];
            self.unpack(index, start, values);
            let scale = std::slice::from_mut(scale);
            let rounding = Rounding::HalfEven;
            self.kernels.quantize(values, PANEL_COLS, rounding, &mut row_codes, scale);
            let words = codes.as_chunks_mut::<4>().0.iter_mut().skip(row).step_by(TILE_ROWS);
            for (word, codes) in words.zip(row_codes.as_chunks::<4>().0) {
                *word = *codes;
            }
        }
    }

    /// [`crate::packed::Packed::bf16_panel`].
    pub fn bf16_panel(&self, tile: usize, block: usize, values: &mut [u16; TILE_ROWS * BF16_COLS]) {
        // As many as a block or a group has; those of 256 columns are unpacked once for each half.
        let step = self.tensor.codec().column_step().next_multiple_of(BF16_COLS);
        let first = block * BF16_COLS / step * step;
        let (skip, unpacked) = (block * BF16_COLS - first, step.min(self.tensor.cols() - first));
        let (mut row_values, mut rounded) = (vec![0.0; unpacked], [0; BF16_COLS]);
        values.fill(0);
        for (row, index) in self.tile_rows(tile).enumerate() {
            self.unpack(index, first, &mut row_values);
            let part = &row_values[skip.min(unpacked)..unpacked.min(skip + BF16_COLS)];
            rounded.fill(0);
            self.kernels.round_to_bf16(part, &mut rounded[..part.len()]);
            let lines = values.as_chunks_mut::<{ 2 * TILE_ROWS }>().0;
            for (line, pair) in lines.iter_mut().zip(rounded.as_chunks::<2>().0) {
                line[2 * row..][..2].copy_from_slice(pair);
            }
        }
    }
}

/// `width` columns of a row from `start` on, which are whole blocks and groups.
pub(crate) fn columns<'a>(codec: Codec, row: Row<'a>, start: usize, width: usize) -> Row<'a> {
    let geometry = codec.geometry();
    let data = |columns: usize| columns / geometry.block * geometry.block_bytes;
    let part = |bytes: &'a [u8]| match geometry.scales {
        Some((Group::Of(group), each)) => {
            let group = usize::from(group);
            &bytes[..bytes.len().min((start + width).div_ceil(group) * each)]
                [start / group * each..]
        }
        Some((Group::Row, _)) | None => bytes,
    };
    Row {
        data: &row.data[data(start)..data(start + width)],
        scales: part(row.scales),
        biases: if geometry.biases { part(row.biases) } else { row.biases },
        global_scale: row.global_scale,
    }
}
