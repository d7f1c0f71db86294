//! Where panels of weights come from, whatever they hold.

use super::block::{BF16_COLS, Block, TILE};
use super::operands::Panel;
use crate::panel::{PANEL_COLS, PanelSource};

/// Weights in bf16 as panels: 16 weight rows by [`BF16_COLS`] columns, `[64][16][2]` (`k / 2`, row,
/// `k % 2`), the bytes of which are those of an int8 panel's place.
///
/// Rows past [`Bf16Source::rows`] and columns past [`Bf16Source::cols`] are zeros.
pub(crate) trait Bf16Source: Sync {
    /// Weight rows: N.
    fn rows(&self) -> usize;

    /// Columns: K. The last block of 128 may be short.
    fn cols(&self) -> usize;

    /// Fills the bf16 of weight rows `16 * tile ..` and columns `128 * block ..`.
    fn panel(&self, tile: usize, block: usize, values: &mut [u16; TILE * BF16_COLS]);

    /// Values that are stored as a panel already: no copy is needed.
    fn stored_panel(&self, tile: usize, block: usize) -> Option<&[u16]>;
}

/// Panels of 16 weight rows by 256 bytes.
pub(super) trait Source: Sync {
    /// Weight rows.
    fn rows(&self) -> usize;

    /// Tiles of weight rows.
    fn tiles(&self) -> usize;

    /// Blocks of a row.
    fn blocks(&self) -> usize;

    /// Blocks of a row that have scales of their own: all, one (for the whole row) or none.
    fn scale_blocks(&self) -> usize;

    /// Fills a block and its scales.
    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [f32; TILE]);

    /// The scales of a block that is stored.
    fn stored_scales(&self, tile: usize, block: usize, scales: &mut [f32; TILE]);

    /// The bytes of a block, if they are stored so.
    fn stored(&self, tile: usize, block: usize) -> Option<&Panel>;
}

/// [`PanelSource`] as a [`Source`].
pub(super) struct Int8<'a>(pub &'a dyn PanelSource);

impl Source for Int8<'_> {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn tiles(&self) -> usize {
        self.0.rows().div_ceil(TILE)
    }

    fn blocks(&self) -> usize {
        self.0.cols().div_ceil(PANEL_COLS)
    }

    fn scale_blocks(&self) -> usize {
        if self.0.scale_span() < self.0.cols() { self.blocks() } else { 1 }
    }

    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [f32; TILE]) {
        self.0.panel(tile, block, &mut bytes.0, scales);
    }

    fn stored_scales(&self, tile: usize, block: usize, scales: &mut [f32; TILE]) {
        self.0.stored_scales(tile, block, scales);
    }

    fn stored(&self, tile: usize, block: usize) -> Option<&Panel> {
        self.0.stored_panel(tile, block)?.first_chunk()
    }
}

/// [`Bf16Source`] as a [`Source`].
pub(super) struct Bf16<'a>(pub &'a dyn Bf16Source);

impl Source for Bf16<'_> {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn tiles(&self) -> usize {
        self.0.rows().div_ceil(TILE)
    }

    fn blocks(&self) -> usize {
        self.0.cols().div_ceil(BF16_COLS)
    }

    fn scale_blocks(&self) -> usize {
        0
    }

    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, _: &mut [f32; TILE]) {
        self.0.panel(tile, block, bytes.bf16_mut());
    }

    fn stored_scales(&self, _: usize, _: usize, _: &mut [f32; TILE]) {}

    fn stored(&self, tile: usize, block: usize) -> Option<&Panel> {
        let values: &[u16; TILE * BF16_COLS] = self.0.stored_panel(tile, block)?.first_chunk()?;
        // SAFETY: the same memory, byte by byte; any bytes are numbers.
        Some(unsafe { &*(&raw const *values).cast() })
    }
}

/// Two weights of one shape whose tiles take turns.
pub(super) struct InTurn<'a>([&'a dyn Source; 2]);

impl<'a> InTurn<'a> {
    /// The tiles of `first`, each followed by that of `second`.
    ///
    /// # Panics
    /// If they differ in shape or in how many columns share a scale.
    pub fn new(first: &'a dyn Source, second: &'a dyn Source) -> Self {
        let form = |source: &dyn Source| (source.rows(), source.blocks(), source.scale_blocks());
        assert!(form(first) == form(second), "weights of one shape");
        Self([first, second])
    }
}

impl Source for InTurn<'_> {
    fn rows(&self) -> usize {
        2 * self.0[0].rows()
    }

    fn tiles(&self) -> usize {
        2 * self.0[0].tiles()
    }

    fn blocks(&self) -> usize {
        self.0[0].blocks()
    }

    fn scale_blocks(&self) -> usize {
        self.0[0].scale_blocks()
    }

    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [f32; TILE]) {
        self.0[tile % 2].fill(tile / 2, block, bytes, scales);
    }

    fn stored_scales(&self, tile: usize, block: usize, scales: &mut [f32; TILE]) {
        self.0[tile % 2].stored_scales(tile / 2, block, scales);
    }

    fn stored(&self, tile: usize, block: usize) -> Option<&Panel> {
        self.0[tile % 2].stored(tile / 2, block)
    }
}
