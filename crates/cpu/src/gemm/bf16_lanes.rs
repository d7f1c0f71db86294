//! Products of bf16 with registers of `f32`, in the order of sums that AMX has, so that the results
//! are the same to the last bit. Products of two bf16 are exact in `f32`.

use crate::gemm::operands::{GROUP_ROWS, Group, Operands, Panel, Sums};
use crate::gemm::tile::{BF16_COLS, Block, TILE};
use crate::simd::Lanes;

/// Columns that AMX adds up from zero before it adds them to a sum.
const RUN: usize = 32;

/// A block of activations, `[row][column]`.
type Rows = [[f32; BF16_COLS]; TILE];
/// A block of weights, `[column][weight row]`.
type Columns = [[f32; TILE]; BF16_COLS];

/// Adds the products of a group to its sums, `ROWS` rows (a divisor of 16) at a time.
///
/// # Safety
/// The machine must have the instructions of `V`; the operands must have the group.
#[inline(always)]
pub(crate) unsafe fn multiply<V: Lanes, const ROWS: usize>(
    operands: &Operands<'_>,
    group: Group,
    sums: &mut Sums,
) {
    let mut x = [[[0.0; BF16_COLS]; TILE]; GROUP_ROWS];
    let mut weights = [[0.0; TILE]; BF16_COLS];
    for block in 0..operands.blocks {
        for (tile, x) in x[..group.row_tiles].iter_mut().enumerate() {
            widen_rows(operands.x(group.row_tile + tile, block), x);
        }
        for tile in 0..group.tiles {
            widen_columns(operands.weights(group.tile + tile, block), &mut weights);
            for start in (0..group.rows).step_by(ROWS) {
                let (row_tile, row) = (start / TILE, start % TILE);
                let left = (group.rows - start).min(ROWS);
                let x = &x[row_tile][row..][..left];
                let sums = &mut sums.0[row_tile][tile].0[row * TILE..][..left * TILE];
                // SAFETY: the caller vouches for the instructions.
                unsafe {
                    if left == ROWS {
                        add_rows::<V, ROWS>(x, &weights, sums);
                    } else {
                        for (x, sums) in x.chunks(1).zip(sums.chunks_mut(TILE)) {
                            add_rows::<V, 1>(x, &weights, sums);
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products of `ROWS` rows of a block with a block of a weight tile to their sums.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn add_rows<V: Lanes, const ROWS: usize>(
    x: &[[f32; BF16_COLS]],
    weights: &Columns,
    sums: &mut [f32],
) {
    let x = &x[..ROWS];
    assert!(sums.len() >= ROWS * TILE && TILE.is_multiple_of(V::COUNT));
    for lane in (0..TILE).step_by(V::COUNT) {
        // SAFETY: the caller vouches for the instructions; each column has 16 weights, of which
        // `lane ..` are a register, and so have the sums of each row.
        unsafe {
            let mut totals = [V::splat(0.0); ROWS];
            for (row, total) in totals.iter_mut().enumerate() {
                *total = V::load(sums.as_ptr().add(row * TILE + lane));
            }
            for run in (0..BF16_COLS).step_by(RUN) {
                let mut even = [V::splat(0.0); ROWS];
                let mut odd = [V::splat(0.0); ROWS];
                for column in (run..run + RUN).step_by(2) {
                    let first = V::load(weights[column].as_ptr().add(lane));
                    let second = V::load(weights[column + 1].as_ptr().add(lane));
                    for (row, x) in x.iter().enumerate() {
                        even[row] = V::splat(x[column]).mul_add(first, even[row]);
                        odd[row] = V::splat(x[column + 1]).mul_add(second, odd[row]);
                    }
                }
                for (row, total) in totals.iter_mut().enumerate() {
                    *total = total.add(even[row].add(odd[row]));
                }
            }
            for (row, total) in totals.iter().enumerate() {
                total.store(sums.as_mut_ptr().add(row * TILE + lane));
            }
        }
    }
}

/// The rows of a block of activations.
#[inline(always)]
fn widen_rows(block: &Block, rows: &mut Rows) {
    for (index, line) in block.bf16().chunks_exact(32).enumerate() {
        let out = &mut rows[index % TILE][index / TILE * 32..][..32];
        for (out, &value) in out.iter_mut().zip(line) {
            *out = f32::from_bits(u32::from(value) << 16);
        }
    }
}

/// The columns of a block of weights.
#[inline(always)]
fn widen_columns(weights: &Panel, columns: &mut Columns) {
    let pairs = weights.as_chunks::<4>().0.chunks_exact(TILE);
    for (pairs, columns) in pairs.zip(columns.as_chunks_mut::<2>().0) {
        for (row, &pair) in pairs.iter().enumerate() {
            let pair = u32::from_le_bytes(pair.map(|byte| byte as u8));
            columns[0][row] = f32::from_bits(pair << 16);
            columns[1][row] = f32::from_bits(pair & 0xffff_0000);
        }
    }
}
