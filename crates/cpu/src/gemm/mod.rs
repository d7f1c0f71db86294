//! Products of many rows: activations in int8 or bf16 by panels of weights.
//!
//! Work is split over weight rows. A task unpacks some weight tiles, a panel that stays in the
//! second level of cache, and multiplies all rows of activations with it, in groups whose operands
//! and sums stay in the first level. What a number is computed from, and in which order, depends on
//! nothing but its own row and column, so rows are invariant, and all tiers give the same bits: int8
//! products are exact in `i32`, and `f32` operations come in the same order everywhere.
//!
//! With `dot[b]` the product of the 256 columns of block `b`, and `fma` rounding once:
//!
//! ```text
//! a scale for each row of both      y = (sum of dot[b] in i32) as f32 * x_scale * w_scale
//! weight scales by block            y = 0; for b: y = fma(dot[b] as f32, w_scale[b], y); y *= x_scale
//! activation scales by block        y = 0; for b: y = fma(dot[b] as f32, x_scale[b] * w_scale[b], y)
//! bf16                              y = 0; for every 32 columns:
//!                                     even = sum of x * w of even columns; odd likewise; y += even + odd
//! ```
//!
//! and then the bias is added. The order of bf16 is that of `tdpbf16ps` (Intel's Software Developer's
//! Manual, volume 2). That instruction reads subnormal numbers as zeros and makes none; the other
//! tiers do not, so results equal unless weights, products or sums are below `2^-126`.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_products;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod bf16_lanes;
mod block;
mod operands;
mod oracle;
mod rows;
mod source;
mod unit;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use self::block::{Block, SumTile, TILE};
use self::operands::{GROUP, Group, Operands, Product, Sums};
use self::rows::RowTiles;
use self::source::{Bf16, Int8, Source};
use self::unit::Unit;
use crate::isa::Isa;
use crate::panel::PanelSource;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::shared_out::SharedOut;

#[cfg(target_arch = "x86_64")]
pub(crate) use self::amx::Amx;
pub(crate) use self::block::BF16_COLS;
pub(crate) use self::rows::{Bf16Rows, Int8Rows, to_bf16};
pub(crate) use self::source::Bf16Source;

/// Bytes of a panel, about: with a group of activations it fits into a second level of 2 MiB.
const PANEL_BYTES: usize = 640 << 10;
/// Tasks for each thread, at least, where there are enough weights: so that threads end at about
/// the same time.
const TASKS_PER_THREAD: usize = 4;
/// So many columns of int8 cannot overflow an `i32`.
const LONGEST_ROW: usize = 1 << 17;

/// Products of many rows on one tier.
#[derive(Clone, Copy)]
pub(crate) struct Gemm {
    unit: Unit,
}

/// Where results go.
pub(crate) struct Output<'a> {
    /// `[rows][N]`.
    pub values: &'a mut [f32],
    /// The row of `values` that each row of activations goes to, all different; none: the same.
    pub rows: Option<&'a [usize]>,
    /// Added to each row: `[N]`.
    pub bias: Option<&'a [f32]>,
}

impl Gemm {
    /// The products of a tier that the machine has.
    pub fn new(isa: Isa) -> Self {
        Self { unit: Unit::of(isa) }
    }

    /// `x` by int8 weights: row `r` of the output is `x[r] . weights[n] + bias[n]`.
    ///
    /// # Panics
    /// If K is over 131072 or that of `x` differs from that of the weights, or the output does not
    /// have the rows.
    pub fn int8(&self, weights: &dyn PanelSource, x: &Int8Rows, out: Output<'_>, pool: &Pool) {
        assert!(weights.cols() <= LONGEST_ROW, "rows of {} columns", weights.cols());
        let source = Int8(weights);
        let one_each = !x.scale_per_block && source.scale_blocks() == 1;
        let product = if one_each { Product::Int8 } else { Product::ScaledInt8 };
        let x = Rows { tiles: &x.tiles, scales: &x.scales, scale_per_block: x.scale_per_block };
        self.run(&source, x, product, out, pool);
    }

    /// `x` by bf16 weights: row `r` of the output is `x[r] . weights[n] + bias[n]`.
    ///
    /// # Panics
    /// If K of `x` differs from that of the weights, or the output does not have the rows.
    pub fn bf16(&self, weights: &dyn Bf16Source, x: &Bf16Rows, out: Output<'_>, pool: &Pool) {
        let x = Rows { tiles: &x.tiles, scales: &[], scale_per_block: false };
        self.run(&Bf16(weights), x, Product::Bf16, out, pool);
    }

    fn run(
        &self,
        source: &dyn Source,
        x: Rows<'_>,
        product: Product,
        out: Output<'_>,
        pool: &Pool,
    ) {
        let (n, rows) = (source.rows(), x.tiles.rows);
        assert!(x.tiles.blocks == source.blocks(), "activations have the columns of the weights");
        assert!(out.rows.is_none_or(|places| places.len() == rows), "a place for each row");
        assert!(out.bias.is_none_or(|bias| bias.len() == n), "a bias for each weight row");
        if n == 0 || rows == 0 {
            return;
        }
        // Scales that are applied at the end are ones until then.
        let ones = match product {
            Product::ScaledInt8 if !x.scale_per_block => vec![1.0; x.tiles.tiles() * TILE],
            _ => vec![],
        };
        let width = panel_tiles(n, source.blocks(), pool.threads());
        let job = Job {
            unit: self.unit,
            source,
            x,
            ones: &ones,
            product,
            bias: out.bias,
            places: out.rows,
            out: SharedOut::new(out.values, n),
        };
        pool.run(n.div_ceil(TILE * width), |task, scratch| {
            let tiles = task * width..((task + 1) * width).min(n.div_ceil(TILE));
            job.panel(tiles, scratch);
        });
    }
}

/// Weight tiles of a panel: a multiple of a group, or an even number where a group is too large.
fn panel_tiles(n: usize, blocks: usize, threads: usize) -> usize {
    let room = PANEL_BYTES / (blocks.max(1) * size_of::<Block>());
    let share = n.div_ceil(TILE) / (threads * TASKS_PER_THREAD);
    match room.min(share) {
        0..=3 => 2,
        tiles => tiles / GROUP * GROUP,
    }
}

/// Activations of whichever kind.
struct Rows<'a> {
    tiles: &'a RowTiles,
    scales: &'a [f32],
    scale_per_block: bool,
}

/// A product, as its tasks see it.
struct Job<'a> {
    unit: Unit,
    source: &'a dyn Source,
    x: Rows<'a>,
    ones: &'a [f32],
    product: Product,
    bias: Option<&'a [f32]>,
    places: Option<&'a [usize]>,
    out: SharedOut<'a>,
}

impl Job<'_> {
    /// All rows by the weight tiles `tiles`.
    fn panel(&self, tiles: Range<usize>, scratch: &mut Scratch) {
        let blocks = self.source.blocks();
        let scale_blocks = self.source.scale_blocks();
        // Kernels read the scales of two tiles at a time.
        let scale_step = tiles.len().next_multiple_of(2) * TILE;
        let memory = tiles.len() * blocks;
        let [memory_and_slack, scales] =
            scratch.take([memory * Block::FLOATS + Block::SLACK, scale_step * scale_blocks]);
        scales.fill(0.0);
        let (memory, _) = Block::within(memory_and_slack, memory);
        let weights = unpack(self.source, tiles.clone(), memory, scales, scale_step);
        let by_block = self.product == Product::ScaledInt8;
        let row_width = self.x.tiles.tiles() * TILE;
        let operands = Operands {
            x: &self.x.tiles.memory,
            x_scales: if by_block && !self.x.scale_per_block { self.ones } else { self.x.scales },
            weights: &weights,
            weight_scales: scales,
            blocks,
            x_scale_step: if self.x.scale_per_block { row_width } else { 0 },
            weight_scale_step: if scale_blocks > 1 { scale_step } else { 0 },
        };
        let unit = self.unit.start();
        let mut row_tile = 0;
        while row_tile < self.x.tiles.tiles() {
            let row_tiles = (self.x.tiles.tiles() - row_tile).min(GROUP);
            let rows = (self.x.tiles.rows - row_tile * TILE).min(row_tiles * TILE);
            for tile in (0..tiles.len()).step_by(GROUP) {
                let group =
                    Group { row_tile, row_tiles, rows, tile, tiles: GROUP.min(tiles.len() - tile) };
                let mut sums = [[SumTile::ZERO; GROUP]; GROUP];
                unit.multiply(&operands, group, self.product, &mut sums);
                unit.finish(|| self.finish(&sums, group, tiles.start, scales));
            }
            row_tile += row_tiles;
        }
    }

    /// Hands the sums of a group out. Inlined, to be compiled for each tier.
    #[inline(always)]
    fn finish(&self, sums: &Sums, group: Group, first_tile: usize, scales: &[f32]) {
        let start = (first_tile + group.tile) * TILE;
        let columns = start..(start + group.tiles * TILE).min(self.source.rows());
        for row in 0..group.rows {
            let from = group.row_tile * TILE + row;
            let to = self.places.map_or(from, |places| places[from]);
            // SAFETY: no two tasks have the same weight rows, no two rows the same place.
            let out = unsafe { self.out.part(to, columns.clone()) };
            let line = row % TILE * TILE;
            for (tile, out) in out.chunks_mut(TILE).enumerate() {
                let sums = &sums[row / TILE][tile];
                match self.product {
                    Product::Int8 => {
                        let x_scale = self.x.scales[from];
                        let scales = &scales[(group.tile + tile) * TILE..][..TILE];
                        let sums = &sums.i32()[line..line + TILE];
                        for ((out, &sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                            *out = sum as f32 * x_scale * scale;
                        }
                    }
                    Product::ScaledInt8 if !self.x.scale_per_block => {
                        let x_scale = self.x.scales[from];
                        for (out, sum) in out.iter_mut().zip(&sums.0[line..line + TILE]) {
                            *out = sum * x_scale;
                        }
                    }
                    Product::ScaledInt8 | Product::Bf16 => {
                        out.copy_from_slice(&sums.0[line..][..out.len()]);
                    }
                }
                if let Some(bias) = self.bias {
                    let bias = &bias[start + tile * TILE..];
                    for (out, bias) in out.iter_mut().zip(bias) {
                        *out += bias;
                    }
                }
            }
        }
    }
}

/// The blocks of `tiles`, `[tile][block]`: those that are stored so, or else unpacked into `memory`.
/// `scales` gets the scales, `[scale block][tile][16]`, `step` values from block to block.
fn unpack<'a>(
    source: &'a dyn Source,
    tiles: Range<usize>,
    memory: &'a mut [Block],
    scales: &mut [f32],
    step: usize,
) -> Vec<&'a [i8]> {
    let blocks = source.blocks();
    let mut weights = Vec::with_capacity(memory.len());
    for (index, memory) in memory.iter_mut().enumerate() {
        let (tile, block) = (index / blocks, index % blocks);
        let stored = source.stored(tiles.start + tile, block);
        if stored.is_none() || block < source.scale_blocks() {
            let mut block_scales = [0.0; TILE];
            source.fill(tiles.start + tile, block, memory, &mut block_scales);
            if block < source.scale_blocks() {
                scales[block * step + tile * TILE..][..TILE].copy_from_slice(&block_scales);
            }
        }
        weights.push(stored.unwrap_or(&memory.0));
    }
    weights
}

#[cfg(test)]
mod tests;
