//! What a kernel gets: a group of row tiles, a panel of weights, and room for the sums.

use super::block::{Block, ROW_BYTES, SumTile, TILE};

/// Row tiles, and weight tiles, of a group: what of activations, weights and sums is in the first
/// level of cache at one time.
pub(super) const GROUP: usize = 4;

/// Activations and a panel of weight tiles.
pub(super) struct Operands<'a> {
    /// `[row tile][block]`.
    pub x: &'a [Block],
    /// `[block][row]`, or `[row]`.
    pub x_scales: &'a [f32],
    /// `[weight tile of the panel][block]`: the bytes of a [`Block`] each.
    pub weights: &'a [&'a [i8]],
    /// `[block][weight row of the panel]`, or `[weight row]`; an even number of tiles.
    pub weight_scales: &'a [f32],
    /// Blocks of a row.
    pub blocks: usize,
    /// `f32` values from the scales of one block of activations to the next: 0 if all share one.
    pub x_scale_step: usize,
    /// The same of weights.
    pub weight_scale_step: usize,
}

impl Operands<'_> {
    /// Where the block is.
    pub fn x(&self, tile: usize, block: usize) -> *const i8 {
        self.x[tile * self.blocks + block].0.as_ptr()
    }

    /// Where the block is: [`TILE`] times [`ROW_BYTES`] bytes.
    pub fn weights(&self, tile: usize, block: usize) -> *const i8 {
        let bytes = self.weights[tile * self.blocks + block];
        assert!(bytes.len() >= TILE * ROW_BYTES);
        bytes.as_ptr()
    }

    /// The scales of a block of `tiles` tiles of activations.
    pub fn x_scales(&self, tile: usize, tiles: usize, block: usize) -> &[f32] {
        &self.x_scales[block * self.x_scale_step + tile * TILE..][..tiles * TILE]
    }

    /// The scales of a block of `tiles` tiles of weights.
    pub fn weight_scales(&self, tile: usize, tiles: usize, block: usize) -> &[f32] {
        &self.weight_scales[block * self.weight_scale_step + tile * TILE..][..tiles * TILE]
    }
}

/// Which part of the product a group is.
#[derive(Clone, Copy)]
pub(super) struct Group {
    /// The first row tile, and how many: at most [`GROUP`].
    pub row_tile: usize,
    pub row_tiles: usize,
    /// Rows in them.
    pub rows: usize,
    /// The first weight tile of the panel, and how many: at most [`GROUP`].
    pub tile: usize,
    pub tiles: usize,
}

/// The sums of a group, `[row tile][weight tile]`.
pub(super) type Sums = [[SumTile; GROUP]; GROUP];

/// What a kernel leaves in the sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Product {
    /// `i32`: the products of int8 over all columns.
    Int8,
    /// `f32`: each block's product of int8 times both scales, added up in order.
    ScaledInt8,
    /// `f32`: the products of bf16. In every 32 columns the even ones are added up, then the odd
    /// ones, starting from zero; then both sums are added, and that to what there was.
    Bf16,
}
