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

    /// Which columns of a row share a scale.
    fn span(&self) -> Span;

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

    /// Fills a panel, and the scales of each of its spans.
    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [[f32; TILE]]);

    /// The bytes of a panel, if they are stored so.
    fn stored(&self, tile: usize, block: usize) -> Option<&Panel>;

    /// The scales of a panel that is stored, or that repeats the one before, those of which are in `scales`.
    fn scales(&self, tile: usize, block: usize, scales: &mut [[f32; TILE]]);
}

/// Columns of a weight row that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// There are no scales.
    None,
    /// All of the row's.
    Row,
    /// So many: 32, 64, 128 or 256.
    Cols(usize),
}

impl Span {
    /// Spans of a panel.
    pub fn in_block(self) -> usize {
        PANEL_COLS / self.cols()
    }

    /// Columns of a panel after which something may have to be scaled.
    pub fn cols(self) -> usize {
        match self {
            Self::None | Self::Row => PANEL_COLS,
            Self::Cols(cols) => cols,
        }
    }

    /// Scales of so many panels of a row.
    pub fn scales(self, blocks: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Row => 1,
            Self::Cols(_) => blocks * self.in_block(),
        }
    }
}

/// What is multiplied at one time, of the 256 columns that a panel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Each {
    /// bf16: 128 columns.
    Bf16,
    /// Int8 with one scale in 256 columns, or in a row.
    All,
    /// Int8, with both parts of the activations one after the other.
    XParts,
    /// Int8 in two parts: the first with both of the activations, and what it leaves with the first.
    BothParts,
    /// The codes as they are, with the scales of their groups of so many columns.
    Groups(usize),
}

/// Weights as a recipe multiplies them.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    packed: &'a Packed,
    each: Each,
}

impl<'a> Panels<'a> {
    /// The weights by a recipe that they have.
    pub fn of(packed: &'a Packed, recipe: Recipe) -> Self {
        let each = match recipe {
            Recipe::Bf16 => Each::Bf16,
            Recipe::Fine => Each::XParts,
            Recipe::Finer => Each::BothParts,
            Recipe::Grouped { group, .. } if group < PANEL_COLS => Each::Groups(group),
            _ => Each::All,
        };
        Self { packed, each }
    }

    /// How often a block is taken.
    fn passes(&self) -> usize {
        match self.each {
            Each::Bf16 | Each::All | Each::Groups(_) => 1,
            Each::XParts => 2,
            Each::BothParts => 3,
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

    fn span(&self) -> Span {
        match self.each {
            Each::Bf16 => Span::None,
            Each::All if self.packed.scale_span() >= self.packed.cols() => Span::Row,
            Each::All | Each::XParts | Each::BothParts => Span::Cols(PANEL_COLS),
            Each::Groups(group) => Span::Cols(group),
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
            Each::Bf16 | Each::All | Each::Groups(_) => false,
            Each::BothParts => block % 3 == 1,
            Each::XParts => block % 2 == 1,
        }
    }

    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [[f32; TILE]]) {
        let (place, pass) = (block / self.passes(), block % self.passes());
        match self.each {
            Each::Bf16 => self.packed.bf16_panel(tile, place, bytes.bf16_mut()),
            Each::Groups(_) => {
                self.packed.group_codes(tile, place, &mut bytes.0);
                self.scales(tile, block, scales);
            }
            Each::All | Each::XParts | Each::BothParts => {
                let part = if pass == 2 { PanelPart::Rest } else { PanelPart::First };
                self.packed.int8_panel(tile, place, part, &mut bytes.0, &mut scales[0]);
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

    fn scales(&self, tile: usize, block: usize, scales: &mut [[f32; TILE]]) {
        if self.each == Each::Bf16 || self.repeats(block) {
            return;
        }
        let (start, span) = (block / self.passes() * PANEL_COLS, self.span().cols());
        // Panels that are stored are whole numbers of the scales of their groups.
        for (index, scales) in scales.iter_mut().enumerate() {
            self.packed.group_scales(tile, start + index * span, scales);
        }
    }
}
