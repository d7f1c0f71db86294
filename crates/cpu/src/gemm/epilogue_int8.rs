//! Results that are only quantized: nobody reads their floats.

use std::ops::Range;

use crate::gemm::rows::Int8Writer;
use crate::gemm::tile::TILE;
use crate::kernels::Kernels;
use crate::scheme::activations::Rounding;
use crate::scheme::panel::PANEL_COLS;

/// The most [`Codes::parts`].
const MOST_PARTS: usize = 2;

/// Where results go that are quantized where they are made.
pub(crate) struct Codes<'a> {
    pub kernels: &'a dyn Kernels,
    /// Blocks that 256 results become.
    pub parts: usize,
    pub writer: Int8Writer<'a>,
}

impl Codes<'_> {
    /// Quantizes the results of the row tiles `rows` in `block`: `[row][256]`, of which `width` columns are
    /// there.
    ///
    /// # Safety
    /// No other task may have the same rows and block.
    pub unsafe fn put(&self, rows: &Range<usize>, block: usize, width: usize, results: &[f32]) {
        let result = |row: usize| &results[(row - rows.start * TILE) * PANEL_COLS..][..width];
        for tile in rows.clone() {
            // SAFETY: the caller's promise.
            unsafe {
                if self.parts == 1 {
                    self.writer.put(tile, block, |row, codes| {
                        let mut scale = [0.0];
                        let rounding = Rounding::HalfEven;
                        self.kernels.quantize(result(row), PANEL_COLS, rounding, codes, &mut scale);
                        scale[0]
                    });
                    continue;
                }
                let parts = self.parts;
                for part in 0..parts {
                    self.writer.put(tile, parts * block + part, |row, codes| {
                        let (mut all, mut scales) =
                            ([0; MOST_PARTS * PANEL_COLS], [0.0; MOST_PARTS]);
                        let (all, scales) = (&mut all[..parts * PANEL_COLS], &mut scales[..parts]);
                        self.kernels.quantize_in_parts(result(row), all, scales);
                        codes.copy_from_slice(&all[part * PANEL_COLS..][..PANEL_COLS]);
                        scales[part]
                    });
                }
            }
        }
    }
}
