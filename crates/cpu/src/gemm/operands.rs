//! What a kernel gets: a group of row tiles, a panel of weights, and room for the sums.

use std::ops::Range;

use crate::gemm::tile::{Block, SumTile, TILE};
use crate::scheme::panel::PANEL_COLS;

/// Row tiles of a group at most.
pub(crate) const GROUP_ROWS: usize = 16;
/// Weight tiles of a group at most.
pub(crate) const GROUP_TILES: usize = 2;

/// Some columns of activations and of a panel of weight tiles.
pub(crate) struct Operands<'a> {
    /// `[row tile][all blocks]`.
    pub x: &'a [Block],
    /// Blocks of a row of `x`.
    pub x_blocks: usize,
    /// The block of `x` that each panel of these columns is multiplied with.
    pub x_order: &'a [usize],
    /// Panels of these columns.
    pub blocks: usize,
    /// `[all blocks][row]`, or `[row]`; an even number of tiles.
    pub x_scales: &'a [f32],
    /// `f32` values from the scales of one block of activations to the next: 0 if all share one.
    pub x_scale_step: usize,
    /// `[weight tile of the panel][block of these columns]`.
    pub weights: &'a [&'a Panel],
    /// Columns after which sums of int8 are flushed with the scales of weights, [`Product::ScaledInt8`]: 32,
    /// 64, 128 or 256.
    pub span: usize,
    /// `[block of these columns][span][weight row of the panel]`, or `[weight row]`; an even number of
    /// tiles.
    pub weight_scales: &'a [f32],
    /// `f32` values from the scales of one span to the next: 0 if all share one.
    pub weight_scale_step: usize,
}

/// A block of weights. It need not be aligned.
pub(crate) type Panel = [i8; size_of::<Block>()];

impl Operands<'_> {
    /// A block of activations.
    pub fn x(&self, tile: usize, block: usize) -> &Block {
        &self.x[tile * self.x_blocks + self.x_order[block]]
    }

    /// A block of weights.
    pub fn weights(&self, tile: usize, block: usize) -> &Panel {
        self.weights[tile * self.blocks + block]
    }

    /// The blocks of a tile of weights.
    #[cfg(target_arch = "x86_64")]
    pub fn weights_row(&self, tile: usize) -> &[&Panel] {
        &self.weights[tile * self.blocks..][..self.blocks]
    }

    /// The scales of a block of `tiles` tiles of activations; there are an even number of tiles.
    pub fn x_scales(&self, tile: usize, tiles: usize, block: usize) -> &[f32] {
        let start = self.x_order[block] * self.x_scale_step + tile * TILE;
        &self.x_scales[start..][..tiles * TILE]
    }

    /// The columns of a block of int8 that are summed up before they are scaled, in order.
    pub fn spans(&self) -> impl Iterator<Item = Range<usize>> {
        (0..PANEL_COLS / self.span).map(|index| index * self.span..(index + 1) * self.span)
    }

    /// The scales of a block of `tiles` tiles of weights in the span that begins with `column`.
    pub fn weight_scales(&self, tile: usize, tiles: usize, block: usize, column: usize) -> &[f32] {
        let span = block * (PANEL_COLS / self.span) + column / self.span;
        &self.weight_scales[span * self.weight_scale_step + tile * TILE..][..tiles * TILE]
    }
}

/// Which part of the product a group is.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// The first row tile, and how many: at most [`GROUP_ROWS`].
    pub row_tile: usize,
    pub row_tiles: usize,
    /// Rows in them.
    pub rows: usize,
    /// The first weight tile of the panel, and how many: at most [`GROUP_TILES`].
    pub tile: usize,
    pub tiles: usize,
}

/// The sums of a group, `[row tile][weight tile]`.
#[derive(Clone)]
#[repr(C, align(4096))]
pub(crate) struct Sums(pub [[SumTile; GROUP_TILES]; GROUP_ROWS]);

impl Sums {
    pub const ZERO: Self = Self([[SumTile::ZERO; GROUP_TILES]; GROUP_ROWS]);

    /// `f32` values that take as much memory.
    pub const FLOATS: usize = size_of::<Self>() / size_of::<f32>();
    /// `f32` values to ask for beyond the sums, for [`Self::within`] to align them.
    pub const SLACK: usize = align_of::<Self>() / size_of::<f32>();

    /// `memory` as sums, holding anything: at least [`Self::FLOATS`] values each and [`Self::SLACK`].
    pub fn within(memory: &mut [f32], count: usize) -> &mut [Self] {
        let skip = memory.as_ptr().align_offset(align_of::<Self>());
        let sums = &mut memory[skip..][..count * Self::FLOATS];
        // SAFETY: the memory is aligned, any bits are sums, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(sums.as_mut_ptr().cast(), count) }
    }
}

/// Memory of the results of a group, to be asked for while they are computed.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AMX asks for memory so"))]
pub(crate) struct Ahead {
    /// That of its first row.
    pub start: *const u8,
    /// Bytes from a row's to the next one's.
    pub stride: usize,
}

/// What a unit may do about the results of a group, if it does that.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AMX does"))]
pub(crate) struct Results {
    /// Memory to ask for.
    pub ahead: Option<Ahead>,
    /// Where to write them, and not to the sums.
    pub direct: Option<Direct>,
}

/// Where the results of a group are written where they are made, if its scales are all that they need and all
/// of its rows and columns are there.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AMX writes results"))]
pub(crate) struct Direct {
    /// The first result.
    pub start: *mut f32,
    /// Bytes from a row's to the next one's.
    pub stride: usize,
    /// How they are written.
    pub way: Way,
}

/// How results are written.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// As they are.
    To,
    /// Past the caches: all rows begin where cache lines do.
    PastCaches,
    /// Added to what is there.
    Onto,
}

/// What a kernel leaves in the sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Product {
    /// `i32`: the products of int8 over all columns.
    Int8,
    /// `f32`: the product of int8 in each span times both scales, added up in order.
    ScaledInt8,
    /// `f32`: the products of bf16. In every 32 columns the even ones are added up, then the odd
    /// ones, starting from zero; then both sums are added, and that to what there was.
    Bf16,
}
