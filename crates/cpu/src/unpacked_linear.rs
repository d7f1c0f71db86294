//! `linear` for codecs that can only be unpacked: [`crate::recipe`].

use keeve_codec::Codec;
use keeve_graph::Phase;

use crate::gemm::{Ending, Gemm, Output};
use crate::inputs::Input;
use crate::linear::{PackedLinear, StoredLinear, rows_of};
use crate::panel::{PANEL_COLS, PanelSource, TILE_ROWS};
use crate::pool::Pool;
use crate::quantize::Rounding;
use crate::recipe::Recipe;

/// A weight left as it is stored. Rows of prompts are multiplied with int8 panels made of it as they are
/// needed, others with its floats.
pub(crate) struct UnpackedLinear {
    pub stored: StoredLinear,
    pub gemm: Gemm,
    /// For rows of prompts.
    pub prompt: Recipe,
}

impl PackedLinear for UnpackedLinear {
    fn codec(&self) -> Codec {
        self.stored.codec()
    }

    fn bytes(&self) -> usize {
        self.stored.bytes()
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.stored.row(index, out);
    }

    fn forward(
        &self,
        x: &mut Input<'_>,
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        let cols = self.cols();
        let generated = rows_of(phases, Phase::Generated);
        if !generated.is_empty() {
            let rows = generated.iter().flat_map(|&row| &x.x()[row * cols..][..cols]);
            let rows: Vec<f32> = rows.copied().collect();
            self.stored.products(&rows, &generated, bias, out, pool);
        }
        let prompt = rows_of(phases, Phase::Prompt);
        if !prompt.is_empty() {
            let x = x.by_tiles(&prompt, cols, self.prompt, pool);
            let out = Output { values: out, rows: Some(&prompt), bias, ending: Ending::Plain };
            self.gemm.by_recipe(self.prompt, self, x, out, pool);
        }
    }
}

impl PanelSource for UnpackedLinear {
    fn rows(&self) -> usize {
        self.stored.tensor.rows()
    }

    fn cols(&self) -> usize {
        self.stored.tensor.cols()
    }

    fn scale_span(&self) -> usize {
        PANEL_COLS
    }

    fn panel(
        &self,
        tile: usize,
        block: usize,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    ) {
        let StoredLinear { tensor, kernels } = &self.stored;
        let start = block * PANEL_COLS;
        let width = PANEL_COLS.min(tensor.cols() - start);
        let (mut values, mut row_codes) = ([0.0; PANEL_COLS], [0; PANEL_COLS]);
        codes.fill(0);
        scales.fill(0.0);
        let rows = tile * TILE_ROWS..tensor.rows().min((tile + 1) * TILE_ROWS);
        for ((row, index), scale) in rows.enumerate().zip(scales) {
            let values = &mut values[..width];
            self.stored.unpack(index, start, values);
            let scale = std::slice::from_mut(scale);
            kernels.quantize(values, PANEL_COLS, Rounding::HalfEven, &mut row_codes, scale);
            let words = codes.as_chunks_mut::<4>().0.iter_mut().skip(row).step_by(TILE_ROWS);
            for (word, codes) in words.zip(row_codes.as_chunks::<4>().0) {
                *word = *codes;
            }
        }
    }

    fn stored_panel(&self, _: usize, _: usize) -> Option<&[i8]> {
        None
    }
}
