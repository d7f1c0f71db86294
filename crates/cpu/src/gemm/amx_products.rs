//! Products of tiles on the unit AMX.
//!
//! A step multiplies two row tiles by two weight tiles, each register loaded being used twice. All
//! steps of a group are one `asm!`, because nothing says that tile registers survive from one `asm!`
//! to the next, and because of what was measured on Sapphire Rapids: four tiles stored one after the
//! other hold the unit up for 60 cycles, and none when there are products between them. So a step
//! stores the tiles of the one before it, each just before it is used again.
//!
//! Sums stay in tile registers over all columns of a step. Where each span of columns has its scales, a step is
//! one span, a block of 256 columns at most, and the vector units scale its integers while the tile unit works
//! on the next. Tiles have 64 columns; for spans of 32 they are configured to have as many, which takes the unit
//! as long.
//!
//! Activations are loaded with a hint (`tileloaddt1`) that keeps them out of the first level of cache: they
//! go by, while weights, integers and sums stay there. Asking for them ahead is no gain then, since loads are
//! what there is most of: for the same reason the scales of rows are spread from a register.
//!
//! Products that need nothing but their scales become results in the same way: the last ones are written to
//! where they belong from the registers that scale them, while the unit works on what comes next. So they are
//! not read again from sums.
//!
//! Memory of results is asked for between products, a few lines at a time: asked for all at once, it holds
//! everything up until most of it has come.

use std::mem::MaybeUninit;

use crate::gemm::amx::Tiles;
use crate::gemm::amx_scaled::{add_scaled, make_int8};
use crate::gemm::amx_steps::*;
use crate::gemm::operands::{
    Ahead, Direct, GROUP_ROWS, GROUP_TILES, Group, Operands, Product, Results, Sums, Way,
};
use crate::gemm::tile::TILE;
use crate::scheme::panel::PANEL_COLS;

/// Row tiles that share a block of weights where each block has its scales.
const TURN_ROWS: usize = 4;

/// Blocks of weights that stay in the first level of cache while rows go by where they have no scales.
const INT8_BLOCKS: usize = 4;

/// Adds the products of a group to its sums, or to zero if `fresh`; the last ones are written as results if
/// there is a place for them. Sums of row tiles and weight tiles that the group has not hold anything afterwards.
///
/// # Safety
/// The machine must have the instructions; results of the group may be written.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply(
    tiles: &mut Tiles,
    operands: &Operands<'_>,
    group: Group,
    product: Product,
    fresh: bool,
    Results { ahead, direct }: Results,
    sums: &mut Sums,
) {
    assert!((1..=GROUP_ROWS).contains(&group.row_tiles));
    assert!((1..=GROUP_TILES).contains(&group.tiles));
    let scaled = product == Product::ScaledInt8;
    let Tiles { steps, weights, .. } = tiles;
    // The tiles of a group that has only one of a kind are taken twice.
    let pair = [group.tile, group.tile + group.tiles - 1].map(|tile| operands.weights_row(tile));
    weights.clear();
    for block in 0..operands.blocks {
        weights.extend(operands.spans().map(|span| Weights {
            tiles: pair.map(|tile| tile[block][span.start * TILE..].as_ptr()),
            scales: match scaled || direct.is_some() {
                true => operands.weight_scales(group.tile, 2, block, span.start).as_ptr(),
                false => std::ptr::null(),
            },
        }));
    }
    // What scaling begins with: products that mean nothing times zeros.
    let mut nowhere = MaybeUninit::<Square>::uninit();
    let no_weights = Weights { tiles: [std::ptr::null(); 2], scales: (&raw const NOTHING).cast() };
    let none = Step {
        x: [std::ptr::null(); 2],
        weights: &raw const no_weights,
        blocks: 0,
        from: &raw const NOTHING,
        from_stride: 0,
        to: nowhere.as_mut_ptr().cast(),
        what: TO_SUMS,
        to_stride: STRIDE,
        x_scales: (&raw const NOTHING).cast(),
        fetch: (&raw const NOTHING).cast(),
        fetch_stride: 0,
    };
    let squares = (&raw mut *sums).cast::<Square>();
    steps.clear();
    if scaled || direct.is_some() {
        steps.push(none);
    }
    // Row tiles that take turns with a block of weights while it is in the first level of cache: worth
    // it only where sums have to leave the tile registers after each span anyway.
    let (blocks, turn) = match product {
        Product::ScaledInt8 => (1, TURN_ROWS),
        Product::Int8 => (INT8_BLOCKS, GROUP_ROWS),
        Product::Bf16 => (2, GROUP_ROWS),
    };
    // Spans are blocks where nothing is flushed within one.
    let in_block = PANEL_COLS / operands.span;
    let asked = operands.span.div_ceil(STRIDE) * FETCHED_ROWS;
    for first in (0..group.row_tiles).step_by(turn) {
        for span in (0..weights.len()).step_by(blocks) {
            let (block, column) = (span / in_block, span % in_block * operands.span);
            for row in (first..group.row_tiles.min(first + turn)).step_by(2) {
                let rows = [row, (row + 1).min(group.row_tiles - 1)];
                let x = rows.map(|row| {
                    let block = operands.x(group.row_tile + row, block);
                    block.0[column / STRIDE * TILE * STRIDE + column % STRIDE..].as_ptr()
                });
                let sums = squares.wrapping_add(row / 2);
                let blocks = blocks.min(weights.len() - span);
                let mut step = Step { x, weights: &raw const weights[span], blocks, ..none };
                step.to = sums.cast();
                if span > 0 || !fresh {
                    (step.from, step.from_stride) = (sums, STRIDE);
                }
                if let Some(Direct { start, stride, way }) = direct
                    && span + blocks == weights.len()
                {
                    step.to = start.wrapping_byte_add(row * TILE * stride);
                    step.what = match way {
                        Way::Onto => ONTO_RESULTS,
                        Way::To => TO_RESULTS,
                        Way::PastCaches => PAST_CACHES,
                    };
                    step.to_stride = stride;
                }
                if let Some(Ahead { start, stride }) = ahead
                    && span * asked < 2 * TILE
                {
                    step.fetch = start.wrapping_add((row * TILE + span * asked) * stride);
                    step.fetch_stride = stride;
                }
                if scaled || direct.is_some() {
                    // Scales of a second tile that is none are those of other rows, or zeros: they
                    // go into sums that nobody reads.
                    step.x_scales = operands.x_scales(group.row_tile + row, 2, block).as_ptr();
                }
                steps.push(step);
            }
        }
    }
    // SAFETY: every step has blocks of the operands, a square of the sums and scales.
    unsafe {
        match (product, &steps[..]) {
            (Product::Int8, [_, .., last]) if direct.is_some() => {
                let mut products = MaybeUninit::<Square>::uninit();
                make_int8(steps, products.as_mut_ptr());
                scale_last(products.assume_init_ref(), last, product);
            }
            (Product::Int8, _) => add_int8(steps),
            (Product::Bf16, _) => add_bf16(steps),
            (Product::ScaledInt8, [_, .., last]) => {
                let mut products = MaybeUninit::<Square>::uninit();
                let to_stride = direct.map_or(STRIDE, |direct| direct.stride);
                add_scaled(steps, operands.span, to_stride, products.as_mut_ptr());
                scale_last(products.assume_init_ref(), last, product);
            }
            (Product::ScaledInt8, _) => {}
        }
    }
}

/// Scales what the last step has left.
///
/// # Safety
/// The pointers of the step must be to sums, or results in rows of its `to_stride` bytes, and scales.
#[target_feature(enable = "avx512f")]
unsafe fn scale_last(products: &Square, step: &Step, product: Product) {
    for (index, products) in products.0.as_flattened().iter().enumerate() {
        let (row_tile, tile) = (index / 2, index % 2);
        for (row, products) in products.i32().as_chunks::<TILE>().0.iter().enumerate() {
            let in_square = index * TILE * TILE + row * TILE;
            // SAFETY: the caller's promise.
            unsafe {
                let scales = &*(*step.weights).scales.add(tile * TILE).cast::<[f32; TILE]>();
                let x_scale = *step.x_scales.add(row_tile * TILE + row);
                let mut sums = step.from.cast::<f32>().add(in_square).cast::<[f32; TILE]>().read();
                for ((sum, &dot), &scale) in sums.iter_mut().zip(products).zip(scales) {
                    *sum = match product {
                        Product::Int8 => dot as f32 * x_scale * scale,
                        _ => (dot as f32).mul_add(x_scale * scale, *sum),
                    };
                }
                if step.what == TO_SUMS {
                    step.to.add(in_square).cast::<[f32; TILE]>().write(sums);
                    continue;
                }
                let to =
                    step.to.byte_add((row_tile * TILE + row) * step.to_stride).add(tile * TILE);
                let to = to.cast::<[f32; TILE]>();
                if step.what == ONTO_RESULTS {
                    let before = to.read();
                    sums.iter_mut().zip(before).for_each(|(sum, before)| *sum += before);
                }
                to.write(sums);
            }
        }
    }
}
