//! Panels of weights: what they are filled with, and in which order blocks of columns are multiplied.

use crate::gemm::operands::Panel;
use crate::gemm::tile::{BF16_COLS, Block, TILE};
use crate::packed::Packed;
use crate::scheme::Recipe;
use crate::scheme::panel::{PANEL_COLS, PanelPart};

/// Panels of 16 weight rows by 256 bytes.
///
/// Int8 is laid out `[64][16][4]` (`k / 4`, row, `k % 4`), bf16 `[64][16][2]`. Rows and columns past those that
/// there are are zeros.
pub(crate) trait PanelSource: Sync {
    /// Weight rows: N.
    fn rows(&self) -> usize;

    /// Panels of a row, in the order in which they are multiplied.
    fn blocks(&self) -> usize;

    /// Panels of a row that have scales of their own: all, one (for the whole row) or none.
    fn scale_blocks(&self) -> usize;

    /// The block of activations that a panel is multiplied with.
    fn x_block(&self, block: usize) -> usize {
        block
    }

    /// Blocks of a row of activations.
    fn x_blocks(&self) -> usize {
        self.blocks()
    }

    /// Whether a panel has the codes, though perhaps not the scales, of the one before it.
    fn repeats(&self, block: usize) -> bool {
        let _ = block;
        false
    }

    /// Fills a panel and its scales.
    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [f32; TILE]);

    /// The bytes of a panel, if they are stored so.
    fn stored(&self, tile: usize, block: usize) -> Option<&Panel>;

    /// The scales of a panel that is stored, or that repeats the one before, those of which are in `scales`.
    fn scales(&self, tile: usize, block: usize, scales: &mut [f32; TILE]);
}

/// What is multiplied at one time, of the 256 columns that a panel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Each {
    /// bf16: 128 columns.
    Bf16,
    /// Int8.
    All,
    /// Int8, with both parts of the activations one after the other.
    XParts,
    /// Int8 in two parts: the first with both of the activations, and what it leaves with the first.
    BothParts,
    /// The codes, with the scales of a group of so many columns; activations are zeros everywhere else.
    Group(usize),
}

/// Weights as a recipe multiplies them.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    packed: &'a Packed,
    each: Each,
}

/// How often groups of so many columns take a block.
pub(crate) fn groups(group: usize) -> usize {
    PANEL_COLS / group.clamp(1, PANEL_COLS)
}

impl<'a> Panels<'a> {
    /// The weights by a recipe that they have.
    pub fn of(packed: &'a Packed, recipe: Recipe) -> Self {
        let each = match recipe {
            Recipe::Bf16 => Each::Bf16,
            Recipe::Fine => Each::XParts,
            Recipe::Finer => Each::BothParts,
            Recipe::Grouped { group, .. } if groups(group) > 1 => Each::Group(group),
            _ => Each::All,
        };
        Self { packed, each }
    }

    /// How often a block is taken.
    fn passes(&self) -> usize {
        match self.each {
            Each::Bf16 | Each::All => 1,
            Each::XParts => 2,
            Each::BothParts => 3,
            Each::Group(group) => groups(group),
        }
    }
}

impl PanelSource for Panels<'_> {
    fn rows(&self) -> usize {
        self.packed.rows()
    }

    fn blocks(&self) -> usize {
        let cols = if self.each == Each::Bf16 { BF16_COLS } else { PANEL_COLS };
        self.packed.cols().div_ceil(cols) * self.passes()
    }

    fn scale_blocks(&self) -> usize {
        match self.each {
            Each::Bf16 => 0,
            Each::All if self.packed.scale_span() >= self.packed.cols() => 1,
            _ => self.blocks(),
        }
    }

    fn x_block(&self, block: usize) -> usize {
        // Activations have two parts of each block: the first is taken twice.
        match self.each {
            Each::BothParts => [0, 1, 0][block % 3] + block / 3 * 2,
            _ => block,
        }
    }

    fn x_blocks(&self) -> usize {
        match self.each {
            Each::BothParts => self.blocks() / 3 * 2,
            _ => self.blocks(),
        }
    }

    fn repeats(&self, block: usize) -> bool {
        match self.each {
            Each::Bf16 | Each::All => false,
            Each::BothParts => block % 3 == 1,
            Each::XParts | Each::Group(_) => !block.is_multiple_of(self.passes()),
        }
    }

    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [f32; TILE]) {
        let (block, pass) = (block / self.passes(), block % self.passes());
        match self.each {
            Each::Bf16 => self.packed.bf16_panel(tile, block, bytes.bf16_mut()),
            Each::Group(group) => {
                self.packed.group_codes(tile, block, &mut bytes.0);
                self.packed.group_scales(tile, block * PANEL_COLS + pass * group, scales);
            }
            Each::All | Each::XParts | Each::BothParts => {
                let part = if pass == 2 { PanelPart::Rest } else { PanelPart::First };
                self.packed.int8_panel(tile, block, part, &mut bytes.0, scales);
            }
        }
    }

    fn stored(&self, tile: usize, block: usize) -> Option<&Panel> {
        let (block, pass) = (block / self.passes(), block % self.passes());
        match self.each {
            Each::Bf16 => {
                let values = self.packed.stored_bf16(tile, block)?;
                // SAFETY: the same memory, byte by byte; any bytes are numbers.
                Some(unsafe { &*(&raw const *values).cast() })
            }
            _ if pass == 2 => None,
            _ => self.packed.stored_int8(tile, block)?.first_chunk(),
        }
    }

    fn scales(&self, tile: usize, block: usize, scales: &mut [f32; TILE]) {
        let (block, pass) = (block / self.passes(), block % self.passes());
        let column = match self.each {
            Each::Bf16 => return,
            Each::XParts | Each::BothParts if self.repeats(self.passes() * block + pass) => return,
            Each::Group(group) => block * PANEL_COLS + pass * group,
            // Panels that are stored are whole numbers of the scales of their groups.
            Each::All | Each::XParts | Each::BothParts => block * PANEL_COLS,
        };
        self.packed.group_scales(tile, column, scales);
    }
}
