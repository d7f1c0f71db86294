//! Products of int8 with `smmla`, which multiplies two rows of activations by two weight rows, eight
//! columns each. Its operands are made out of blocks once for all that they are multiplied with.

use std::arch::aarch64::*;

use crate::gemm::int_lanes::add;
use crate::gemm::operands::{GROUP_TILES, Group, Operands, Panel, Product, Sums};
use crate::gemm::tile::{Block, ROW_BYTES, TILE};
use crate::simd::{Ints, Pair, TileInts, Widening, smmla};

/// Columns of an operand.
const COLS: usize = 8;
/// Pairs of rows of a tile.
const PAIRS: usize = TILE / 2;
/// Pairs of rows that are multiplied at one time, of activations as of weights: sixteen registers of sums.
const PART: usize = 4;

/// Eight columns of the rows of a block by twos: `[pair][row of the pair][8]`.
type Columns = [[i8; 2 * COLS]; PAIRS];

/// The rows of a block by twos: `[columns / 8]`.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Pairs([Columns; ROW_BYTES / COLS]);

impl Pairs {
    const ZERO: Self = Self([[[0; 2 * COLS]; PAIRS]; ROW_BYTES / COLS]);
}

/// Adds the products of a group to its sums, or what they are worth with their scales.
///
/// # Safety
/// The machine must have the instructions; the operands must have the group.
#[target_feature(enable = "neon,i8mm")]
pub(crate) unsafe fn multiply(
    operands: &Operands<'_>,
    group: Group,
    product: Product,
    sums: &mut Sums,
) {
    let mut weights = [Pairs::ZERO; GROUP_TILES];
    let mut x = Pairs::ZERO;
    for block in 0..operands.blocks {
        for (tile, pairs) in weights[..group.tiles].iter_mut().enumerate() {
            pair_weights(operands.weights(group.tile + tile, block), pairs);
        }
        for row_tile in 0..group.row_tiles {
            pair_rows(operands.x(group.row_tile + row_tile, block), &mut x);
            let x_scales = operands.x_scales(group.row_tile + row_tile, 1, block);
            let rows = (group.rows - row_tile * TILE).min(TILE);
            for (tile, weights) in weights[..group.tiles].iter().enumerate() {
                let lines = sums.0[row_tile][tile].0.as_chunks_mut::<TILE>().0;
                for span in operands.spans() {
                    let scales = operands.weight_scales(group.tile + tile, 1, block, span.start);
                    let columns = span.start / COLS..span.end / COLS;
                    let (x, weights) = (&x.0[columns.clone()], &weights.0[columns]);
                    for pair in (0..rows.div_ceil(2)).step_by(PART) {
                        let dots = match rows.div_ceil(2) - pair {
                            1 => dots::<1>(x, pair, weights),
                            2 => dots::<2>(x, pair, weights),
                            3 => dots::<3>(x, pair, weights),
                            _ => dots::<PART>(x, pair, weights),
                        };
                        let row = 2 * pair;
                        let left = lines[row..rows].iter_mut().zip(&x_scales[row..]);
                        for (dots, (sums, &x_scale)) in dots.iter().zip(left) {
                            // SAFETY: this function has NEON, all that these registers want.
                            unsafe { add(lanes(*dots), product, x_scale, scales, sums) };
                        }
                    }
                }
            }
        }
    }
}

/// The dot products of a row, as one register. How it would multiply does not matter.
#[inline]
fn lanes(dots: [int32x4_t; 4]) -> TileInts<Widening> {
    let [first, second, third, fourth] = dots.map(Ints::of);
    Pair(Pair(first, second), Pair(third, fourth))
}

/// The rows of a block of activations by twos.
#[inline]
#[target_feature(enable = "neon")]
fn pair_rows(block: &Block, pairs: &mut Pairs) {
    for (quarter, rows) in block.0.chunks_exact(TILE * 64).enumerate() {
        let out = &mut pairs.0[quarter * 64 / COLS..][..64 / COLS];
        for (pair, rows) in rows.as_chunks::<128>().0.iter().enumerate() {
            let (first, second) = rows.split_at(64);
            let both = first.as_chunks::<COLS>().0.iter().zip(second.as_chunks::<COLS>().0);
            for (out, (first, second)) in out.iter_mut().zip(both) {
                out[pair][..COLS].copy_from_slice(first);
                out[pair][COLS..].copy_from_slice(second);
            }
        }
    }
}

/// The rows of a block of weights by twos.
#[inline]
#[target_feature(enable = "neon")]
fn pair_weights(weights: &Panel, pairs: &mut Pairs) {
    // Four columns of all rows, and then the next four.
    let columns = weights.as_chunks::<{ 2 * 4 * TILE }>().0;
    for (columns, pairs) in columns.iter().zip(&mut pairs.0) {
        let (first, second) = columns.split_at(4 * TILE);
        let both = first.as_chunks::<16>().0.iter().zip(second.as_chunks::<16>().0);
        for (pairs, (first, second)) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(both) {
            // SAFETY: sixteen bytes each.
            unsafe {
                let first = vreinterpretq_s32_s8(vld1q_s8(first.as_ptr()));
                let second = vreinterpretq_s32_s8(vld1q_s8(second.as_ptr()));
                let (low, high) = (vzip1q_s32(first, second), vzip2q_s32(first, second));
                vst1q_s8(pairs[0].as_mut_ptr(), vreinterpretq_s8_s32(low));
                vst1q_s8(pairs[1].as_mut_ptr(), vreinterpretq_s8_s32(high));
            }
        }
    }
}

/// The dot products of `COUNT` pairs of rows, from pair `pair` on, with a weight tile: for each row those
/// with four weight rows in each register. Zeros for rows past these.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn dots<const COUNT: usize>(
    x: &[Columns],
    pair: usize,
    weights: &[Columns],
) -> [[int32x4_t; 4]; 2 * PART] {
    assert!(pair + COUNT <= PAIRS);
    let mut dots = [[vdupq_n_s32(0); 4]; 2 * PART];
    for half in 0..PAIRS / PART {
        let mut sums = [[vdupq_n_s32(0); PART]; COUNT];
        for (x, weights) in x.iter().zip(weights) {
            // By pointers, so that all loops are of a known number of rounds and sums stay in registers.
            let (x, weights) = (x.as_ptr(), weights.as_ptr());
            // SAFETY: there are sixteen bytes for each pair, `pair + COUNT` of them at least by the
            // assertion, and `half` times `PART` by that of the loop.
            unsafe {
                let mut columns = [vdupq_n_s8(0); PART];
                for (index, column) in columns.iter_mut().enumerate() {
                    *column = vld1q_s8(weights.add(half * PART + index).cast());
                }
                for (index, sums) in sums.iter_mut().enumerate() {
                    let x = vld1q_s8(x.add(pair + index).cast());
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = smmla(*sum, x, column);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let dots = &mut dots[2 * row..2 * row + 2];
            for (index, [left, right]) in sums.as_chunks::<2>().0.iter().enumerate() {
                let (left, right) = (vreinterpretq_s64_s32(*left), vreinterpretq_s64_s32(*right));
                // A sum has two weight rows of the first row, and then of the second.
                dots[0][2 * half + index] = vreinterpretq_s32_s64(vzip1q_s64(left, right));
                dots[1][2 * half + index] = vreinterpretq_s32_s64(vzip2q_s64(left, right));
            }
        }
    }
    dots
}
