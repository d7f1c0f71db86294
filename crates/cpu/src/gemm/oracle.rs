//! The products in plain Rust: what every other tier must equal to the last bit.

use std::ops::Range;

use crate::gemm::operands::{Group, Operands, Product, Sums};
use crate::gemm::tile::{BF16_COLS, Block, SumTile, TILE};
use crate::scheme::panel::PANEL_COLS;

/// Adds the products of a group to its sums, or what they are worth with their scales.
pub(crate) fn multiply(operands: &Operands<'_>, group: Group, product: Product, sums: &mut Sums) {
    for block in 0..operands.blocks {
        for row_tile in 0..group.row_tiles {
            for tile in 0..group.tiles {
                let x = operands.x(group.row_tile + row_tile, block);
                let weights = operands.weights(group.tile + tile, block);
                let sums = &mut sums.0[row_tile][tile];
                match product {
                    Product::Int8 => {
                        let dots = dots(x, weights, 0..PANEL_COLS);
                        for (sum, dot) in sums.i32_mut().iter_mut().zip(dots) {
                            *sum += dot;
                        }
                    }
                    Product::ScaledInt8 => {
                        let x_scales = operands.x_scales(group.row_tile + row_tile, 1, block);
                        for span in operands.spans() {
                            let start = span.start;
                            let scales = operands.weight_scales(group.tile + tile, 1, block, start);
                            for (index, dot) in dots(x, weights, span).into_iter().enumerate() {
                                let scale = x_scales[index / TILE] * scales[index % TILE];
                                sums.0[index] = (dot as f32).mul_add(scale, sums.0[index]);
                            }
                        }
                    }
                    Product::Bf16 => add_bf16(x, weights, sums),
                }
            }
        }
    }
}

/// The dot products of 16 rows of activations with 16 rows of weights in some columns, `[row][weight row]`.
fn dots(x: &Block, weights: &[i8], columns: Range<usize>) -> [i32; TILE * TILE] {
    let mut dots = [0; TILE * TILE];
    for (index, dot) in dots.iter_mut().enumerate() {
        let (row, weight_row) = (index / TILE, index % TILE);
        for column in columns.clone() {
            let x = x.0[column / 64 * TILE * 64 + row * 64 + column % 64];
            let weight = weights[column / 4 * TILE * 4 + weight_row * 4 + column % 4];
            *dot += i32::from(x) * i32::from(weight);
        }
    }
    dots
}

/// Adds the dot products of 16 rows of activations with 16 rows of weights, [`Product::Bf16`].
fn add_bf16(x: &Block, weights: &[i8], sums: &mut SumTile) {
    let number = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    for (index, sum) in sums.0.iter_mut().enumerate() {
        let (row, weight_row) = (index / TILE, index % TILE);
        for run in 0..BF16_COLS / 32 {
            let mut both = [0.0; 2];
            for column in 32 * run..32 * (run + 1) {
                let x = x.bf16()[run * TILE * 32 + row * 32 + column % 32];
                let at = (column / 2 * TILE * 2 + weight_row * 2 + column % 2) * 2;
                let weight = u16::from_le_bytes([weights[at] as u8, weights[at + 1] as u8]);
                both[column % 2] += number(x) * number(weight);
            }
            *sum += both[0] + both[1];
        }
    }
}
