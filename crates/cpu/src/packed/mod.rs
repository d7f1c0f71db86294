//! Weights as products read them, decided when a model is loaded by how they will be multiplied.

pub(crate) mod bf16;
pub(crate) mod layout;
pub(crate) mod pack;
pub(crate) mod row;
pub(crate) mod stored;
pub(crate) mod tiles;

use keeve_codec::{Codec, PackedTensor};

use crate::gemm::BF16_COLS;
use crate::kernels::{Kernels, TileKernels};
use crate::packed::bf16::Bf16Tiles;
use crate::packed::stored::Stored;
use crate::packed::tiles::{Layout, Tiles};
use crate::reference::oracle::Oracle;
use crate::runtime::arena::Arena;
use crate::runtime::pool::Pool;
use crate::scheme::Recipe;
use crate::scheme::panel::{PANEL_COLS, PanelPart, TILE_ROWS};

/// A weight.
pub(crate) enum Packed {
    /// Codes, packed in tiles.
    Codes {
        /// The weights.
        tiles: Tiles,
        /// What reads them.
        kernels: &'static dyn TileKernels,
    },
    /// bf16, packed in tiles.
    Bf16 {
        /// The weights.
        tiles: Bf16Tiles,
        /// What multiplies them with rows that are not rounded.
        kernels: &'static dyn Kernels,
    },
    /// Codes as they are stored, for the scalar tier.
    Oracle(Oracle),
    /// Left as they are stored, and unpacked as they are used: without codes, or where nothing is rounded.
    Stored(Stored),
}

/// What stops packing.
pub(crate) enum Stop {
    /// There is not enough memory.
    Memory,
    /// Who was told how far it is said so.
    Cancelled,
}

impl From<std::io::Error> for Stop {
    fn from(_: std::io::Error) -> Self {
        Self::Memory
    }
}

impl Packed {
    /// Codes of `tensor` as the tier reads them, packed on all threads. `done` is told bytes of the tensor as
    /// they are packed, and says whether to go on.
    ///
    /// # Errors
    /// If there is not enough memory, or `done` said to stop.
    pub fn codes(
        tensor: PackedTensor,
        kernels: &'static dyn Kernels,
        memory: &Arena,
        pool: &Pool,
        done: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Self, Stop> {
        let layout = Layout::new(tensor.codec(), tensor.rows(), tensor.cols());
        let layout = layout.ok_or(Stop::Memory)?;
        let Some(kernels) = kernels.tiles() else {
            let go_on = done(tensor.bytes() as u64);
            return go_on.then_some(Self::Oracle(Oracle { layout, tensor })).ok_or(Stop::Cancelled);
        };
        let tiles = Tiles::pack(layout, &tensor, memory, pool, done)?.ok_or(Stop::Cancelled)?;
        tensor.release();
        Ok(Self::Codes { tiles, kernels })
    }

    /// As [`Self::codes`], for a tensor of bf16.
    ///
    /// # Errors
    /// As there.
    pub fn bf16(
        tensor: PackedTensor,
        kernels: &'static dyn Kernels,
        memory: &Arena,
        pool: &Pool,
        done: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Self, Stop> {
        let tiles = Bf16Tiles::pack(&tensor, memory, pool, done)?.ok_or(Stop::Cancelled)?;
        tensor.release();
        Ok(Self::Bf16 { tiles, kernels })
    }

    /// As [`Self::codes`], left as it is.
    ///
    /// # Errors
    /// If `done` said to stop.
    pub fn stored(
        tensor: PackedTensor,
        kernels: &'static dyn Kernels,
        done: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Self, Stop> {
        let go_on = done(tensor.bytes() as u64);
        go_on.then_some(Self::Stored(Stored { tensor, kernels })).ok_or(Stop::Cancelled)
    }

    /// Whether there are products by a recipe.
    pub fn has(&self, recipe: Recipe) -> bool {
        match (self, recipe) {
            (_, Recipe::Float) => true,
            (_, Recipe::Bf16) => true,
            (Self::Bf16 { .. }, _) => false,
            (Self::Stored(_), recipe) => matches!(recipe, Recipe::Panel | Recipe::Fine),
            (Self::Codes { .. } | Self::Oracle(_), recipe) => {
                let Some(layout) = self.layout() else { return false };
                match recipe {
                    Recipe::Token(_) => layout.one_scale_a_row(),
                    Recipe::Grouped { .. } => layout.scales_groups(),
                    Recipe::Finer | Recipe::FineBlock => layout.codes.bits <= 2,
                    Recipe::Block => layout.codes.bits > 1,
                    _ => true,
                }
            }
        }
    }

    /// Where the codes are.
    pub fn layout(&self) -> Option<&Layout> {
        match self {
            Self::Codes { tiles, .. } => Some(tiles.layout()),
            Self::Oracle(oracle) => Some(&oracle.layout),
            Self::Bf16 { .. } | Self::Stored(_) => None,
        }
    }

    /// The codec it was stored in.
    pub fn codec(&self) -> Codec {
        match self {
            Self::Codes { tiles, .. } => tiles.layout().codec,
            Self::Bf16 { .. } => Codec::BF16,
            Self::Oracle(oracle) => oracle.layout.codec,
            Self::Stored(stored) => stored.tensor.codec(),
        }
    }

    /// Weight rows: N.
    pub fn rows(&self) -> usize {
        match self {
            Self::Codes { tiles, .. } => tiles.layout().rows,
            Self::Bf16 { tiles, .. } => tiles.rows(),
            Self::Oracle(oracle) => oracle.layout.rows,
            Self::Stored(stored) => stored.tensor.rows(),
        }
    }

    /// Columns: K.
    pub fn cols(&self) -> usize {
        match self {
            Self::Codes { tiles, .. } => tiles.layout().cols,
            Self::Bf16 { tiles, .. } => tiles.cols(),
            Self::Oracle(oracle) => oracle.layout.cols,
            Self::Stored(stored) => stored.tensor.cols(),
        }
    }

    /// Bytes that one product reads.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Codes { tiles, .. } => tiles.bytes(),
            Self::Bf16 { tiles, .. } => tiles.bytes(),
            Self::Oracle(oracle) => oracle.tensor.bytes(),
            Self::Stored(stored) => stored.tensor.bytes(),
        }
    }

    /// Bytes of 16 rows.
    pub fn tile_bytes(&self) -> usize {
        self.bytes() / self.rows().div_ceil(TILE_ROWS).max(1)
    }

    /// Fills `out` with weight row `index`: what [`keeve_codec::values`] gives, bit for bit.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one long.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        match self {
            Self::Codes { tiles, .. } => tiles.row(index, out),
            Self::Bf16 { tiles, .. } => tiles.row(index, out),
            Self::Oracle(oracle) => keeve_codec::row_values(&oracle.tensor, index, out),
            Self::Stored(stored) => stored.row(index, out),
        }
    }

    /// Columns that share a scale in int8 panels: 256, or all.
    pub fn scale_span(&self) -> usize {
        self.layout().map_or(PANEL_COLS, Layout::panel_scale_span)
    }

    /// Fills the int8 of weight rows `16 * tile ..` and columns `256 * block ..`, `[64][16][4]`, or what these
    /// leave of weights whose codes have at most two bits, and the 16 scales: a weight is `scale * code`.
    ///
    /// # Panics
    /// If there is no such tile, or no such recipe: see [`Self::has`].
    pub fn int8_panel(
        &self,
        tile: usize,
        block: usize,
        part: PanelPart,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    ) {
        match self {
            Self::Codes { tiles, kernels } => {
                kernels.panel(tiles.layout(), tiles.tile(tile), block, part, codes, scales);
            }
            Self::Oracle(oracle) => oracle.panel_part(tile, block, part, codes, scales),
            Self::Stored(stored) => stored.int8_panel(tile, block, codes, scales),
            Self::Bf16 { .. } => unreachable!("no int8 of bf16"),
        }
    }

    /// The codes of 256 columns, each a whole number of its group's scale, for [`Recipe::Grouped`].
    ///
    /// # Panics
    /// As [`Self::int8_panel`].
    pub fn group_codes(&self, tile: usize, block: usize, codes: &mut [i8; TILE_ROWS * PANEL_COLS]) {
        match self {
            Self::Codes { tiles, .. } => tiles.codes(tile, block, codes),
            Self::Oracle(oracle) => oracle.panel_codes(tile, block, codes),
            Self::Bf16 { .. } | Self::Stored(_) => unreachable!("no groups of codes"),
        }
    }

    /// The scales of the group that `column` is in; zeros past the last column.
    ///
    /// # Panics
    /// As [`Self::int8_panel`].
    pub fn group_scales(&self, tile: usize, column: usize, scales: &mut [f32; TILE_ROWS]) {
        match self {
            Self::Codes { tiles, .. } => tiles.group_scales(tile, column, scales),
            Self::Oracle(oracle) => oracle.group_scales(tile, column, scales),
            Self::Bf16 { .. } | Self::Stored(_) => unreachable!("no groups of codes"),
        }
    }

    /// Codes that are stored as [`Self::int8_panel`] would fill them.
    pub fn stored_int8(&self, tile: usize, block: usize) -> Option<&[i8]> {
        match self {
            Self::Codes { tiles, .. } => tiles.stored_panel(tile, block),
            _ => None,
        }
    }

    /// Fills the bf16 of weight rows `16 * tile ..` and columns `128 * block ..`, `[64][16][2]`.
    ///
    /// # Panics
    /// If there is no such tile or block.
    pub fn bf16_panel(&self, tile: usize, block: usize, values: &mut [u16; TILE_ROWS * BF16_COLS]) {
        match self {
            Self::Codes { tiles, kernels } => {
                if !kernels.bf16_panel(tiles.layout(), tiles.tile(tile), block, values) {
                    tiles.bf16_panel(tile, block, values);
                }
            }
            Self::Bf16 { tiles, .. } => values.copy_from_slice(tiles.panel(tile, block)),
            Self::Oracle(oracle) => oracle.bf16_panel(tile, block, values),
            Self::Stored(stored) => stored.bf16_panel(tile, block, values),
        }
    }

    /// Values that are stored as [`Self::bf16_panel`] would fill them.
    pub fn stored_bf16(&self, tile: usize, block: usize) -> Option<&[u16; TILE_ROWS * BF16_COLS]> {
        match self {
            Self::Bf16 { tiles, .. } => Some(tiles.panel(tile, block)),
            _ => None,
        }
    }
}
