//! `linear` in bf16.

use keeve_codec::Codec;
use keeve_graph::Phase;

use crate::bf16_tiles::Bf16Tiles;
use crate::few_rows::{TileProducts, few_rows, rows_at_once};
use crate::fused::Fusible;
use crate::gemm::{BF16_COLS, Bf16Source, Ending, Gemm, Output};
use crate::inputs::Input;
use crate::int_linear::Packed;
use crate::kernels::{DECODE_ROWS, Kernels};
use crate::linear::{PackedLinear, StoredLinear};
use crate::panel::{PanelSource, TILE_ROWS};
use crate::pool::Pool;
use crate::recipe::{Recipe, Recipes};

/// Where the weights are.
pub(crate) enum Bf16Weights {
    /// In tiles, as they were stored.
    Tiles {
        /// The weights.
        tiles: Bf16Tiles,
        /// What multiplies them with rows that are not rounded.
        kernels: &'static dyn Kernels,
    },
    /// In tiles of codes, which become bf16 as they are multiplied.
    Packed(Packed),
    /// Left as they are stored, of codecs without codes: unpacked to floats, or rounded to bf16, as they are used.
    Stored(StoredLinear),
}

/// A weight and how it is multiplied: by [`Recipe::Bf16`] or [`Recipe::Float`].
pub(crate) struct Bf16Linear {
    pub weights: Bf16Weights,
    pub recipes: Recipes,
    pub gemm: Gemm,
}

impl Bf16Linear {
    /// Whether `silu` of its products may be multiplied by those of `other` where both are made.
    pub fn can_gate(&self, other: &Self) -> bool {
        let form = |linear: &Self| {
            let weights = &linear.weights;
            let kind = std::mem::discriminant(weights);
            (weights.rows(), weights.cols(), kind, linear.recipes)
        };
        form(self) == form(other)
    }

    /// `out[r] = silu(x[r] . weights) * (x[r] . up)`.
    ///
    /// # Panics
    /// If [`Self::can_gate`] said otherwise.
    pub fn gate(
        &self,
        up: &Self,
        mut x: Input<'_>,
        phases: &[Phase],
        out: &mut [f32],
        pool: &Pool,
    ) {
        self.run(Some(up), Ending::Gated, &mut x, phases, None, out, pool);
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
        self.run(None, ending, x, phases, bias, out, pool);
    }

    #[allow(clippy::too_many_arguments)] // Those of a product, and with what it is done.
    fn run(
        &self,
        up: Option<&Self>,
        ending: Ending,
        x: &mut Input<'_>,
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        let (kernels, cols) = (x.kernels(), self.weights.cols());
        for (rows, recipe) in self.recipes.rows(phases) {
            let out = Output { values: &mut *out, rows: Some(&rows), bias, ending };
            if recipe == Recipe::Float {
                let padded = cols.next_multiple_of(BF16_COLS);
                let x = FloatRows { values: x.by_floats(&rows, cols, padded), padded };
                let up = up.map(|up| (&up.weights, kernels as &dyn Kernels));
                few_rows(&self.weights, up, &x, rows.len(), out, pool);
                continue;
            }
            let x = x.by_bf16(&rows, cols, pool);
            match up {
                Some(up) => self.gemm.gated_bf16([&self.weights, &up.weights], x, out, pool),
                None => self.gemm.bf16(&self.weights, x, out, pool),
            }
        }
    }
}

impl PackedLinear for Bf16Linear {
    fn codec(&self) -> Codec {
        match &self.weights {
            Bf16Weights::Tiles { .. } => Codec::BF16,
            Bf16Weights::Packed(packed) => packed.codec(),
            Bf16Weights::Stored(stored) => stored.codec(),
        }
    }

    fn bytes(&self) -> usize {
        match &self.weights {
            Bf16Weights::Tiles { tiles, .. } => tiles.bytes(),
            Bf16Weights::Packed(packed) => packed.bytes(),
            Bf16Weights::Stored(stored) => stored.bytes(),
        }
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        match &self.weights {
            Bf16Weights::Tiles { tiles, .. } => tiles.row(index, out),
            Bf16Weights::Packed(packed) => packed.row(index, out),
            Bf16Weights::Stored(stored) => stored.row(index, out),
        }
    }

    fn reads_rows(&self) -> bool {
        true
    }

    fn fusible(&self) -> Option<Fusible<'_>> {
        Some(Fusible::Bf16(self))
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

/// Few rows of activations: `[rows][padded]`.
struct FloatRows<'a> {
    values: &'a [f32],
    padded: usize,
}

impl TileProducts<FloatRows<'_>> for Bf16Weights {
    fn form(&self) -> (usize, usize) {
        let tile_bytes = match self {
            Self::Packed(packed) => packed.tile_bytes(),
            _ => self.cols().next_multiple_of(BF16_COLS) * TILE_ROWS * size_of::<u16>(),
        };
        (self.rows(), tile_bytes)
    }

    fn products(
        &self,
        tile: usize,
        x: &FloatRows<'_>,
        mut store: impl FnMut(usize, &[f32; TILE_ROWS]),
    ) {
        let rows = x.values.len() / x.padded;
        if let Self::Stored(stored) = self {
            return stored.tile_products(tile, x, rows, store);
        }
        let mut sums = [[0.0; TILE_ROWS]; DECODE_ROWS];
        let mut first = 0;
        while first < rows {
            let sums = &mut sums[..rows_at_once(rows - first)];
            let x = &x.values[first * x.padded..][..sums.len() * x.padded];
            match self {
                Self::Tiles { tiles, kernels } => kernels.bf16_products(tiles.tile(tile), x, sums),
                Self::Packed(packed) => packed.float_products(tile, x, sums),
                Self::Stored(_) => {}
            }
            for (row, sums) in sums.iter().enumerate() {
                store(first + row, sums);
            }
            first += sums.len();
        }
    }
}

impl StoredLinear {
    /// [`TileProducts::products`], row by row of the weights.
    fn tile_products(
        &self,
        tile: usize,
        x: &FloatRows<'_>,
        rows: usize,
        mut store: impl FnMut(usize, &[f32; TILE_ROWS]),
    ) {
        let (n, cols) = (self.tensor.rows(), self.tensor.cols());
        let mut sums = vec![[0.0; TILE_ROWS]; rows];
        // Columns past those of the weights are zeros in both.
        let (mut weights, mut dots) = (vec![0.0; x.padded], vec![0.0; rows]);
        for (place, index) in (tile * TILE_ROWS..n.min((tile + 1) * TILE_ROWS)).enumerate() {
            self.row(index, &mut weights[..cols]);
            self.kernels.dots(x.values, &weights, x.padded, &mut dots, rows);
            sums.iter_mut().zip(&dots).for_each(|(sums, dot)| sums[place] = *dot);
        }
        sums.iter().enumerate().for_each(|(row, sums)| store(row, sums));
    }
}

impl Bf16Source for Bf16Weights {
    fn rows(&self) -> usize {
        match self {
            Self::Tiles { tiles, .. } => tiles.rows(),
            Self::Packed(packed) => PanelSource::rows(packed),
            Self::Stored(stored) => stored.tensor.rows(),
        }
    }

    fn cols(&self) -> usize {
        match self {
            Self::Tiles { tiles, .. } => tiles.cols(),
            Self::Packed(packed) => PanelSource::cols(packed),
            Self::Stored(stored) => stored.tensor.cols(),
        }
    }

    fn panel(&self, tile: usize, block: usize, values: &mut [u16; TILE_ROWS * BF16_COLS]) {
        let stored = match self {
            Self::Tiles { tiles, .. } => return tiles.panel(tile, block, values),
            Self::Packed(packed) => return packed.bf16_panel(tile, block, values),
            Self::Stored(stored) => stored,
        };
        // As many as a block or a group has; those of 256 columns are unpacked once for each half.
        let step = stored.tensor.codec().column_step().next_multiple_of(BF16_COLS);
        let first = block * BF16_COLS / step * step;
        let (skip, unpacked) = (block * BF16_COLS - first, step.min(self.cols() - first));
        let (mut row_values, mut rounded) = (vec![0.0; unpacked], [0; BF16_COLS]);
        values.fill(0);
        let rows = tile * TILE_ROWS..self.rows().min((tile + 1) * TILE_ROWS);
        for (row, index) in rows.enumerate() {
            stored.unpack(index, first, &mut row_values);
            let part = &row_values[skip..unpacked.min(skip + BF16_COLS)];
            stored.kernels.round_to_bf16(part, &mut rounded[..part.len()]);
            let lines = values.as_chunks_mut::<{ 2 * TILE_ROWS }>().0;
            for (line, pair) in lines.iter_mut().zip(rounded.as_chunks::<2>().0) {
                line[2 * row..][..2].copy_from_slice(pair);
            }
        }
    }

    fn stored_panel(&self, tile: usize, block: usize) -> Option<&[u16]> {
        match self {
            Self::Tiles { tiles, .. } => tiles.stored_panel(tile, block),
            Self::Packed(_) | Self::Stored(_) => None,
        }
    }
}
