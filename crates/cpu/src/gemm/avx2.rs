//! Products of int8 with AVX2.
//!
//! `vpmaddubsw` would saturate for codes that are far from zero, so both sides are widened to 16
//! bits and multiplied by `vpmaddwd`, which is exact.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::gemm::operands::{Group, Operands, Panel, Product, Sums};
use crate::gemm::tile::{Block, ROW_BYTES, TILE};

/// Rows whose sums are in registers at one time, four registers each.
const ROWS: usize = 3;

/// Adds the products of a group to its sums, or what they are worth with their scales.
///
/// # Safety
/// The machine must have the instructions; the operands must have the group.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn multiply(
    operands: &Operands<'_>,
    group: Group,
    product: Product,
    sums: &mut Sums,
) {
    let mut x = [[0i16; ROW_BYTES]; TILE];
    for row_tile in 0..group.row_tiles {
        let rows = (group.rows - row_tile * TILE).min(TILE);
        for block in 0..operands.blocks {
            widen(operands.x(group.row_tile + row_tile, block), &mut x);
            let x_scales = operands.x_scales(group.row_tile + row_tile, 1, block);
            for (tile, span) in
                (0..group.tiles).flat_map(|tile| operands.spans().map(move |span| (tile, span)))
            {
                let weights = operands.weights(group.tile + tile, block);
                let scales = operands.weight_scales(group.tile + tile, 1, block, span.start);
                let sums = &mut sums.0[row_tile][tile].0;
                for row in (0..rows).step_by(ROWS) {
                    let mut store = |row_in_part: usize, half: usize, dots: __m256i| {
                        let row = row + row_in_part;
                        let sums = &mut sums[row * TILE + half * 8..][..8];
                        add(product, dots, x_scales[row], &scales[half * 8..][..8], sums);
                    };
                    let (x, span) = (&x[row..], span.clone());
                    // SAFETY: the caller's promise.
                    unsafe {
                        match rows - row {
                            1 => dots::<1>(x, weights, span, &mut store),
                            2 => dots::<2>(x, weights, span, &mut store),
                            _ => dots::<ROWS>(x, weights, span, &mut store),
                        }
                    }
                }
            }
        }
    }
}

/// The rows of a block of activations as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(block: &Block, rows: &mut [[i16; ROW_BYTES]; TILE]) {
    for (index, line) in block.0.chunks_exact(64).enumerate() {
        let out = &mut rows[index % TILE][index / TILE * 64..][..64];
        for (out, &value) in out.iter_mut().zip(line) {
            *out = i16::from(value);
        }
    }
}

/// Hands the dot products of the first `COUNT` rows with a weight tile in some columns to
/// `store(row, half, _)`, eight weight rows at a time.
///
/// # Safety
/// The machine must have the instructions; `weights` must be a whole block.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dots<const COUNT: usize>(
    x: &[[i16; ROW_BYTES]],
    weights: &Panel,
    columns: Range<usize>,
    store: &mut impl FnMut(usize, usize, __m256i),
) {
    // Of each row, register `r` has the weight rows `4 r ..`, two sums each.
    let mut sums = [[_mm256_setzero_si256(); 4]; COUNT];
    let x = &x[..COUNT];
    assert!(columns.end <= ROW_BYTES);
    for four in columns.start / 4..columns.end / 4 {
        for register in 0..4 {
            // SAFETY: the block has 64 lines of 64 bytes, a row of activations 64 times four values.
            unsafe {
                let line = weights.as_ptr().add(four * 64 + register * 16);
                let line = _mm256_cvtepi8_epi16(_mm_loadu_si128(line.cast()));
                for (sums, x) in sums.iter_mut().zip(x) {
                    let x = x.as_ptr().add(four * 4).cast::<i64>().read_unaligned();
                    let products = _mm256_madd_epi16(line, _mm256_set1_epi64x(x));
                    sums[register] = _mm256_add_epi32(sums[register], products);
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for half in 0..2 {
            // Adding neighbours leaves the weight rows 0 1 4 5, 2 3 6 7.
            let pairs = _mm256_hadd_epi32(sums[2 * half], sums[2 * half + 1]);
            store(row, half, _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs));
        }
    }
}

/// Adds eight dot products of one row to its sums.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add(product: Product, dots: __m256i, x_scale: f32, scales: &[f32], sums: &mut [f32]) {
    assert!(sums.len() >= 8 && scales.len() >= 8);
    // SAFETY: eight values each, by the assertion.
    unsafe {
        if product == Product::Int8 {
            let sums = sums.as_mut_ptr().cast();
            _mm256_storeu_si256(sums, _mm256_add_epi32(_mm256_loadu_si256(sums), dots));
        } else {
            let by = _mm256_mul_ps(_mm256_set1_ps(x_scale), _mm256_loadu_ps(scales.as_ptr()));
            let before = _mm256_loadu_ps(sums.as_ptr());
            let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), by, before);
            _mm256_storeu_ps(sums.as_mut_ptr(), sum);
        }
    }
}
