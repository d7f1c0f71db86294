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

/// Parts of the weights in 256 columns, each of int8 with a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PanelPart {
    /// What a panel has.
    First,
    /// What it leaves of the weights, with a scale that is 256 times smaller.
    Rest,
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
