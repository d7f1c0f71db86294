//! `linear` with quantized activations.

use keeve_codec::{Codec, PackedTensor};
use keeve_graph::{Phase, ValueId};

use crate::arena::Arena;
use crate::few_rows::{TileProducts, few_rows, rows_at_once};
use crate::fused::Fusible;
use crate::gemm::{BF16_COLS, Ending, Gemm, Output};
use crate::inputs::Input;
use crate::kernels::{DECODE_ROWS, Kernels, TileKernels};
use crate::linear::PackedLinear;
use crate::panel::{PANEL_COLS, PanelPart, PanelSource, TILE_ROWS};
use crate::passes::Passes;
use crate::pool::Pool;
use crate::quantize::BlockRows;
use crate::recipe::{Recipe, Recipes};
use crate::scalar::oracle::Oracle;
use crate::tiles::{BLOCK, Layout, Tiles};

/// The most rows that [`Recipe::Token`] and [`Recipe::Grouped`], whose kernels all give the same bits, take
/// through the kernel that reads weights once for every few rows.
const FEW_ROWS: usize = 8;

/// Whether so many rows of `cols` columns are multiplied by the kernels for few.
fn is_few(recipe: Recipe, rows: usize, cols: usize) -> bool {
    match recipe {
        Recipe::Block | Recipe::FineBlock => true,
        Recipe::Panel | Recipe::Fine | Recipe::Finer | Recipe::Bf16 | Recipe::Float => false,
        Recipe::Token(_) => rows <= FEW_ROWS,
        // The kernels for many rows scale in another order if there is but one group.
        Recipe::Grouped { group, .. } => rows <= FEW_ROWS || cols <= group,
    }
}

/// A weight as its tier wants it.
pub(crate) enum Packed {
    /// In tiles.
    Tiles {
        /// The weights.
        tiles: Tiles,
        /// What reads them.
        kernels: &'static dyn TileKernels,
    },
    /// As it is stored, for the scalar tier.
    Stored(Oracle),
}

impl Packed {
    /// Packs `tensor` for the tier, on all threads; `None` if `done` (which is told bytes of the tensor
    /// as they are packed) said to stop.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(
        layout: Layout,
        tensor: PackedTensor,
        kernels: &'static dyn Kernels,
        memory: &Arena,
        pool: &Pool,
        done: &(dyn Fn(u64) -> bool + Sync),
    ) -> std::io::Result<Option<Self>> {
        let Some(kernels) = kernels.tiles() else {
            let go_on = done(tensor.bytes() as u64);
            return Ok(go_on.then_some(Self::Stored(Oracle { layout, tensor })));
        };
        let tiles = Tiles::pack(layout, &tensor, memory, pool, done)?;
        tensor.release();
        Ok(tiles.map(|tiles| Self::Tiles { tiles, kernels }))
    }

    /// The codec it was stored in.
    pub fn codec(&self) -> Codec {
        self.layout().codec
    }

    /// Bytes that one product reads.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Tiles { tiles, .. } => tiles.bytes(),
            Self::Stored(oracle) => oracle.tensor.bytes(),
        }
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        self.layout().tile_bytes()
    }

    /// Fills `out` with weight row `index`: what [`keeve_codec::values`] gives, bit for bit.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one long.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        match self {
            Self::Tiles { tiles, .. } => tiles.row(index, out),
            Self::Stored(oracle) => keeve_codec::row_values(&oracle.tensor, index, out),
        }
    }

    /// [`TileKernels::bf16_panel`].
    ///
    /// # Panics
    /// If there is no such tile.
    pub fn bf16_panel(&self, tile: usize, block: usize, values: &mut [u16; TILE_ROWS * BF16_COLS]) {
        match self {
            Self::Tiles { tiles, kernels } => {
                if !kernels.bf16_panel(tiles.layout(), tiles.tile(tile), block, values) {
                    tiles.bf16_panel(tile, block, values);
                }
            }
            Self::Stored(oracle) => oracle.bf16_panel(tile, block, values),
        }
    }

    /// [`TileKernels::float_products`]: rows of `x` may be longer than K, filled up with zeros.
    ///
    /// # Panics
    /// If there is no such tile, or `out` has other than 1, 2 or 4 rows.
    pub fn float_products(&self, tile: usize, x: &[f32], out: &mut [[f32; TILE_ROWS]]) {
        let k = x.len() / out.len();
        match self {
            Self::Tiles { tiles, kernels } => {
                kernels.float_products(tiles.layout(), tiles.tile(tile), x, k, out);
            }
            Self::Stored(oracle) => oracle.float_products(tile, x, k, out),
        }
    }

    fn layout(&self) -> &Layout {
        match self {
            Self::Tiles { tiles, .. } => tiles.layout(),
            Self::Stored(oracle) => &oracle.layout,
        }
    }
}

impl TileProducts<BlockRows> for Packed {
    fn form(&self) -> (usize, usize) {
        (self.layout().rows, self.layout().tile_bytes())
    }

    /// As `x` says by [`Recipe::Block`], [`Recipe::FineBlock`], [`Recipe::Token`] or [`Recipe::Grouped`].
    fn products(
        &self,
        tile: usize,
        x: &BlockRows,
        mut store: impl FnMut(usize, &[f32; TILE_ROWS]),
    ) {
        let rows = x.rows.rows;
        let mut store = |row: usize, sums: &[f32; TILE_ROWS]| {
            store(row, &sums.map(|sum| sum * x.factors[row]));
        };
        match self {
            Self::Tiles { tiles, kernels } => {
                let mut sums = [[0.0; TILE_ROWS]; DECODE_ROWS];
                let mut first = 0;
                while first < rows {
                    let count = rows_at_once(rows - first);
                    let sums = &mut sums[..count];
                    kernels.decode(tiles.layout(), tiles.tile(tile), x, first, sums);
                    for (row, sums) in sums.iter().enumerate() {
                        store(first + row, sums);
                    }
                    first += count;
                }
            }
            Self::Stored(oracle) => {
                let (parts, x) = (x.parts, &x.rows);
                let product = match parts {
                    1 if x.span == BLOCK => Oracle::by_blocks,
                    1 => Oracle::by_token,
                    _ => Oracle::by_parts,
                };
                let mut sums = vec![[0.0; TILE_ROWS]; rows];
                for index in 0..TILE_ROWS.min(oracle.layout.rows - tile * TILE_ROWS) {
                    let codes = oracle.codes(tile * TILE_ROWS + index);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        sums[index] = product(oracle, tile * TILE_ROWS + index, &codes, x, row);
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    store(row, sums);
                }
            }
        }
    }
}

impl Packed {
    /// The codes of 256 columns, each a whole number of its group's scale; for [`Recipe::Grouped`].
    ///
    /// # Panics
    /// If there is no such tile, or codes are neither signed nor of 4 bits.
    pub fn codes(&self, tile: usize, block: usize, codes: &mut [i8; TILE_ROWS * PANEL_COLS]) {
        match self {
            Self::Tiles { tiles, .. } => tiles.codes(tile, block, codes),
            Self::Stored(oracle) => oracle.panel_codes(tile, block, codes),
        }
    }

    /// The scales of the group that `column` is in; zeros past the last column.
    ///
    /// # Panics
    /// If there is no such tile, or the codec does not scale by groups.
    pub fn group_scales(&self, tile: usize, column: usize, scales: &mut [f32; TILE_ROWS]) {
        match self {
            Self::Tiles { tiles, .. } => tiles.group_scales(tile, column, scales),
            Self::Stored(oracle) => oracle.group_scales(tile, column, scales),
        }
    }

    /// As [`PanelSource::panel`], or what that leaves of weights whose codes have at most two bits.
    ///
    /// # Panics
    /// If there is no such tile, or codes have more bits.
    pub fn panel_part(
        &self,
        tile: usize,
        block: usize,
        part: PanelPart,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    ) {
        match self {
            Self::Tiles { tiles, kernels } => {
                kernels.panel(tiles.layout(), tiles.tile(tile), block, part, codes, scales);
            }
            Self::Stored(oracle) => oracle.panel_part(tile, block, part, codes, scales),
        }
    }
}

impl PanelSource for Packed {
    fn rows(&self) -> usize {
        self.layout().rows
    }

    fn cols(&self) -> usize {
        self.layout().cols
    }

    fn scale_span(&self) -> usize {
        self.layout().panel_scale_span()
    }

    fn panel(
        &self,
        tile: usize,
        block: usize,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    ) {
        self.panel_part(tile, block, PanelPart::First, codes, scales);
    }

    fn stored_panel(&self, tile: usize, block: usize) -> Option<&[i8]> {
        match self {
            Self::Tiles { tiles, .. } => tiles.stored_panel(tile, block),
            Self::Stored(_) => None,
        }
    }

    // The panels that are stored are whole numbers of the scales of their groups.
    fn stored_scales(&self, tile: usize, block: usize, scales: &mut [f32; TILE_ROWS]) {
        self.group_scales(tile, block * PANEL_COLS, scales);
    }
}

/// A weight and how it is multiplied.
pub(crate) struct IntLinear {
    pub packed: Packed,
    pub recipes: Recipes,
    pub gemm: Gemm,
}

impl IntLinear {
    /// Whether `silu` of its products may be multiplied by those of `other` where both are made.
    pub fn can_gate(&self, other: &Self) -> bool {
        let form = |linear: &Self| {
            let layout = linear.packed.layout();
            (layout.rows, layout.cols, linear.packed.scale_span(), linear.recipes)
        };
        form(self) == form(other)
    }

    /// Whether what a gate makes can go into `next` as it was quantized where it was made.
    pub fn makes_codes_for(&self, next: &Self) -> bool {
        let by_block = |recipe| matches!(recipe, Recipe::Panel | Recipe::Fine | Recipe::Finer);
        self.recipes == next.recipes && by_block(self.recipes.prompt)
    }

    /// `out[r] = silu(x[r] . weights) * (x[r] . up)`. `codes_of`: the value that this is, if rows of prompts
    /// are only to be quantized, for products with it, and not written to `out`.
    ///
    /// # Panics
    /// If [`Self::can_gate`] or [`Self::makes_codes_for`] said otherwise.
    pub fn gate(
        &self,
        up: &Self,
        codes_of: Option<ValueId>,
        mut x: Input<'_>,
        phases: &[Phase],
        out: &mut [f32],
        pool: &Pool,
    ) {
        let (kernels, cols) = (x.kernels(), self.packed.cols());
        for (rows, recipe) in self.recipes.rows(phases) {
            let out =
                Output { values: &mut *out, rows: Some(&rows), bias: None, ending: Ending::Gated };
            if is_few(recipe, rows.len(), cols) {
                let x = x.by_rows(&rows, cols, recipe, pool);
                few_rows(&self.packed, Some((&up.packed, kernels)), x, rows.len(), out, pool);
                continue;
            }
            let (gate, up) = (Passes::of(&self.packed, recipe), Passes::of(&up.packed, recipe));
            let weights: [&dyn PanelSource; 2] = [&gate, &up];
            if codes_of.is_some() {
                let (x, next) = x.by_tiles_and_next(&rows, cols, recipe, pool);
                self.gemm.gated_codes(recipe, weights, x, next, kernels, pool);
            } else {
                let x = x.by_tiles(&rows, cols, recipe, pool);
                self.gemm.gated(recipe, weights, x, out, pool);
            }
        }
        if let Some(value) = codes_of
            && phases.contains(&Phase::Prompt)
        {
            x.made_next(value, self.recipes.prompt);
        }
    }

    /// As [`PackedLinear::forward`], with an ending that is not of a gate.
    pub fn forward_with(
        &self,
        ending: Ending,
        x: &mut Input<'_>,
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        let cols = self.packed.cols();
        for (rows, recipe) in self.recipes.rows(phases) {
            let out = Output { values: &mut *out, rows: Some(&rows), bias, ending };
            if is_few(recipe, rows.len(), cols) {
                let x = x.by_rows(&rows, cols, recipe, pool);
                few_rows(&self.packed, None, x, rows.len(), out, pool);
            } else {
                let x = x.by_tiles(&rows, cols, recipe, pool);
                self.gemm.by_recipe(recipe, &Passes::of(&self.packed, recipe), x, out, pool);
            }
        }
    }
}

impl PackedLinear for IntLinear {
    fn codec(&self) -> Codec {
        self.packed.codec()
    }

    fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.packed.row(index, out);
    }

    fn reads_rows(&self) -> bool {
        true
    }

    fn fusible(&self) -> Option<Fusible<'_>> {
        Some(Fusible::Int(self))
    }

    fn forward(
        &self,
        x: &mut Input<'_>,
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        self.forward_with(Ending::Plain, x, phases, bias, out, pool);
    }
}
