//! `linear` with activations and weights rounded to bf16.

use keeve_codec::Codec;
use keeve_graph::Phase;

use crate::gemm::{BF16_COLS, Bf16Rows, Bf16Source, Ending, Gemm, Output, to_bf16};
use crate::inputs::Input;
use crate::linear::{PackedLinear, StoredLinear};
use crate::panel::{PANEL_COLS, TILE_ROWS};
use crate::pool::Pool;

/// A weight left as it is stored, rounded to bf16 as it is used.
pub(crate) struct Bf16Linear {
    pub stored: StoredLinear,
    pub gemm: Gemm,
}

impl PackedLinear for Bf16Linear {
    fn codec(&self) -> Codec {
        self.stored.codec()
    }

    fn bytes(&self) -> usize {
        self.stored.bytes()
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.stored.row(index, out);
    }

    // Every phase has the same recipe.
    fn forward(
        &self,
        x: &mut Input<'_>,
        _: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        let mut rows = Bf16Rows::default();
        rows.round(x.x(), self.cols(), pool);
        self.gemm.bf16(
            self,
            &rows,
            Output { values: out, rows: None, bias, ending: Ending::Plain },
            pool,
        );
    }
}

impl Bf16Source for Bf16Linear {
    fn rows(&self) -> usize {
        self.stored.tensor.rows()
    }

    fn cols(&self) -> usize {
        self.stored.tensor.cols()
    }

    fn panel(&self, tile: usize, block: usize, values: &mut [u16; TILE_ROWS * BF16_COLS]) {
        // Codecs have blocks of up to 256 columns, so as many are unpacked.
        let first = block * BF16_COLS / PANEL_COLS * PANEL_COLS;
        let (skip, unpacked) = (block * BF16_COLS - first, PANEL_COLS.min(self.cols() - first));
        let mut row_values = [0.0; PANEL_COLS];
        values.fill(0);
        let rows = tile * TILE_ROWS..self.rows().min((tile + 1) * TILE_ROWS);
        for (row, index) in rows.enumerate() {
            self.stored.unpack(index, first, &mut row_values[..unpacked]);
            let part = &row_values[skip..unpacked.min(skip + BF16_COLS)];
            for (column, &value) in part.iter().enumerate() {
                values[(column / 2 * TILE_ROWS + row) * 2 + column % 2] = to_bf16(value);
            }
        }
    }

    fn stored_panel(&self, _: usize, _: usize) -> Option<&[u16]> {
        None
    }
}
