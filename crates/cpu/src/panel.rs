//! Int8 panels: the seam between packed weights and the integer products of prompts.
//!
//! Whatever a codec looks like, its tiles can be had as panels of 16 weight rows by 256 columns of
//! `i8`; products of panels with quantized activations are exact in `i32` per 256 columns. With
//! `dot[b]` the product of block `b`, the result of every kernel is, in this order of `f32`
//! operations (`fma` rounds once):
//!
//! ```text
//! one weight scale and one activation scale a block:  y = 0; for b in 0.. { y = fma(dot[b] as f32, x_scale[b] * w_scale[b], y) }
//! one of each a row (both spans reach over the row):   y = (sum of dot[b] in i32) as f32 * x_scale * w_scale
//! ```

/// Weight rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns of a panel.
pub(crate) const PANEL_COLS: usize = 256;

/// Weights as int8 panels: 16 weight rows by 256 columns, `[64][16][4]` (`k / 4`, row, `k % 4`), and a
/// scale for each row.
///
/// Rows past [`PanelSource::rows`] and columns past [`PanelSource::cols`] are zeros.
pub(crate) trait PanelSource: Sync {
    /// Weight rows: N.
    fn rows(&self) -> usize;

    /// Columns: K. The last block of 256 may be short.
    fn cols(&self) -> usize;

    /// Columns that share a scale: 256, or [`PanelSource::cols`] (one scale for each row).
    fn scale_span(&self) -> usize;

    /// Fills the codes of weight rows `16 * tile ..` and columns `256 * block ..`, and the 16 scales of
    /// that block. A weight is `scale * code`.
    fn panel(
        &self,
        tile: usize,
        block: usize,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    );

    /// Codes that are stored as a panel already: no copy is needed. Fastest at multiples of 4096.
    fn stored_panel(&self, tile: usize, block: usize) -> Option<&[i8]>;

    /// The 16 scales of a panel that is stored: those that [`PanelSource::panel`] gives.
    fn stored_scales(&self, tile: usize, block: usize, scales: &mut [f32; TILE_ROWS]) {
        self.panel(tile, block, &mut [0; TILE_ROWS * PANEL_COLS], scales);
    }
}

/// Parts of the weights in 256 columns, each of int8 with a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PanelPart {
    /// What a panel has.
    First,
    /// What it leaves of the weights, with a scale that is 256 times smaller.
    Rest,
}

/// Weights for activations in two parts ([`crate::recipe::Recipe::Fine`]): each block of columns twice.
pub(crate) struct Twice<'a>(pub &'a dyn PanelSource);

impl PanelSource for Twice<'_> {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn cols(&self) -> usize {
        2 * self.0.cols().next_multiple_of(PANEL_COLS)
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
        self.0.panel(tile, block / 2, codes, scales);
    }

    fn stored_panel(&self, tile: usize, block: usize) -> Option<&[i8]> {
        self.0.stored_panel(tile, block / 2)
    }
}

/// Rows of activations, quantized: a value is `scale * code`.
pub(crate) struct QuantizedRows {
    /// How many rows there are.
    pub rows: usize,
    /// Codes of a row: K rounded up to a multiple of 256; those past K are zeros.
    pub cols: usize,
    /// `[rows][cols]`.
    pub codes: Vec<i8>,
    /// `[rows][cols / span]`, or one a row where `span` reaches over the row.
    pub scales: Vec<f32>,
    /// Columns that share a scale: 32, 256, or at least K (one scale for each row).
    pub span: usize,
}
