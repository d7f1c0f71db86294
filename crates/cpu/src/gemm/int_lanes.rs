//! Products of int8 with registers that multiply signed bytes, a weight row in each lane.

use std::ops::Range;

use crate::gemm::operands::{Group, Operands, Panel, Product, Sums};
use crate::gemm::tile::{Block, ROW_BYTES, TILE};
use crate::simd::{IntLanes, Lanes};

/// Rows whose sums are in registers at one time.
const ROWS: usize = 4;
/// Columns that are multiplied without a question: the shortest span.
const STEP: usize = 32;

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
                let lines = sums.0[row_tile][tile].0.as_chunks_mut::<TILE>().0;
                for span in operands.spans() {
                    let scales = operands.weight_scales(group.tile + tile, 1, block, span.start);
                    for row in (0..rows).step_by(ROWS) {
                        let part = Part { x, row, weights, columns: span.clone() };
                        let left = lines[row..rows].iter_mut().zip(&x_scales[row..]);
                        // SAFETY: the caller vouches for the instructions.
                        unsafe {
                            let dots = match rows - row {
                                1 => part.dots::<V, 1>(),
                                2 => part.dots::<V, 2>(),
                                3 => part.dots::<V, 3>(),
                                _ => part.dots::<V, ROWS>(),
                            };
                            for (dots, (sums, &x_scale)) in dots.into_iter().zip(left) {
                                add(dots, product, x_scale, scales, sums);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Some rows of a block by a block of a weight tile.
struct Part<'a> {
    x: &'a Block,
    /// The first of the rows.
    row: usize,
    weights: &'a Panel,
    /// Those that are multiplied: multiples of [`STEP`].
    columns: Range<usize>,
}

impl Part<'_> {
    /// The dot products of `COUNT` rows; zeros after these.
    ///
    /// # Safety
    /// The machine must have the instructions of `V`.
    #[inline(always)]
    unsafe fn dots<V: IntLanes, const COUNT: usize>(&self) -> [V; ROWS] {
        assert!(self.row + COUNT <= TILE && COUNT <= ROWS && self.columns.end <= ROW_BYTES);
        // SAFETY: the caller vouches for the instructions; the blocks have 4 times 16 lines of 64 bytes.
        unsafe {
            let mut dots = [V::splat(0); ROWS];
            for step in self.columns.start / STEP..self.columns.end / STEP {
                let in_row = step / 2 * TILE * 64 + step % 2 * STEP;
                for four in 0..STEP / 4 {
                    let line = self.weights.as_ptr().cast::<u8>();
                    let line = V::load(line.add((step * (STEP / 4) + four) * 64));
                    for (index, dot) in dots[..COUNT].iter_mut().enumerate() {
                        let at = in_row + (self.row + index) * 64 + four * 4;
                        let by = self.x.0.as_ptr().add(at).cast::<i32>().read_unaligned();
                        *dot = dot.dot::<false>(line, V::splat(by));
                    }
                }
            }
            dots
        }
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
