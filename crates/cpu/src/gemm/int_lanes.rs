//! Products of int8 with registers that multiply signed bytes, a weight row in each lane.

use crate::gemm::operands::{Group, Operands, Panel, Product, Sums};
use crate::gemm::tile::{Block, ROW_BYTES, TILE};
use crate::simd::{IntLanes, Lanes};

/// Rows whose sums are in registers at one time.
const ROWS: usize = 4;

/// Adds the products of a group to its sums, or what they are worth with their scales.
///
/// # Safety
/// The machine must have the instructions of `V`; the operands must have the group.
#[inline(always)]
pub(crate) unsafe fn multiply<V: IntLanes>(
    operands: &Operands<'_>,
    group: Group,
    product: Product,
    sums: &mut Sums,
) {
    const { assert!(V::SIGNED && V::COUNT == TILE) };
    for row_tile in 0..group.row_tiles {
        let rows = (group.rows - row_tile * TILE).min(TILE);
        for block in 0..operands.blocks {
            let x = operands.x(group.row_tile + row_tile, block);
            let x_scales = operands.x_scales(group.row_tile + row_tile, 1, block);
            for tile in 0..group.tiles {
                let weights = operands.weights(group.tile + tile, block);
                let scales = operands.weight_scales(group.tile + tile, 1, block);
                let sums = &mut sums.0[row_tile][tile].0;
                for row in (0..rows).step_by(ROWS) {
                    let x_scales = &x_scales[row..];
                    let sums = &mut sums[row * TILE..];
                    // SAFETY: the caller vouches for the instructions.
                    unsafe {
                        match rows - row {
                            1 => part::<V, 1>(x, row, weights, product, x_scales, scales, sums),
                            2 => part::<V, 2>(x, row, weights, product, x_scales, scales, sums),
                            3 => part::<V, 3>(x, row, weights, product, x_scales, scales, sums),
                            _ => part::<V, ROWS>(x, row, weights, product, x_scales, scales, sums),
                        }
                    }
                }
            }
        }
    }
}

/// `COUNT` rows of a block, from row `row` on, by a block of a weight tile.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn part<V: IntLanes, const COUNT: usize>(
    x: &Block,
    row: usize,
    weights: &Panel,
    product: Product,
    x_scales: &[f32],
    scales: &[f32],
    sums: &mut [f32],
) {
    assert!(row + COUNT <= TILE);
    // SAFETY: the caller vouches for the instructions; the blocks have 4 times 16 lines of 64 bytes.
    let dots = unsafe {
        let mut dots = [V::splat(0); COUNT];
        for quarter in 0..ROW_BYTES / 64 {
            for four in 0..TILE {
                let line = V::load(weights.as_ptr().cast::<u8>().add((quarter * TILE + four) * 64));
                for (index, dot) in dots.iter_mut().enumerate() {
                    let at = (quarter * TILE + row + index) * 64 + four * 4;
                    let by = x.0.as_ptr().add(at).cast::<i32>().read_unaligned();
                    *dot = dot.dot::<false>(line, V::splat(by));
                }
            }
        }
        dots
    };
    let lines = sums.as_chunks_mut::<TILE>().0.iter_mut().zip(x_scales);
    for (dot, (sums, &x_scale)) in dots.into_iter().zip(lines) {
        // SAFETY: the caller vouches for the instructions.
        unsafe { add(dot, product, x_scale, &scales[..TILE], sums) };
    }
}

/// Adds sixteen dot products of one row to its sums.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn add<V: IntLanes>(
    dots: V,
    product: Product,
    x_scale: f32,
    scales: &[f32],
    sums: &mut [f32; TILE],
) {
    assert!(V::COUNT == TILE && scales.len() >= TILE);
    // SAFETY: the caller vouches for the instructions; there are sixteen values each, by the assertion.
    unsafe {
        if product == Product::Int8 {
            let sums = sums.as_mut_ptr().cast::<u8>();
            V::load(sums).add(dots).store(sums);
        } else {
            let by = V::Floats::splat(x_scale).mul(V::Floats::load(scales.as_ptr()));
            let before = V::Floats::load(sums.as_ptr());
            dots.to_floats().mul_add(by, before).store(sums.as_mut_ptr());
        }
    }
}
