//! Products of int8 with AVX-512 VNNI.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes, so weights are moved up by 128, and 128 times the
//! sum of the activations is taken off again. All of it is exact in 32 bits.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::gemm::operands::{Group, Operands, Panel, Product, Sums};
use crate::gemm::tile::{Block, ROW_BYTES, TILE};

/// Rows whose sums are in registers at one time, beside two weight tiles.
const ROWS: usize = 8;
/// Columns that are multiplied without a question: the shortest span.
const STEP: usize = 32;

/// Adds the products of a group to its sums, or what they are worth with their scales. As for AMX,
/// sums of a second tile that the group has not may hold anything afterwards.
///
/// # Safety
/// The machine must have the instructions; the operands must have the group.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,fma")]
pub(crate) unsafe fn multiply(
    operands: &Operands<'_>,
    group: Group,
    product: Product,
    sums: &mut Sums,
) {
    for row_tile in 0..group.row_tiles {
        let rows = (group.rows - row_tile * TILE).min(TILE);
        for block in 0..operands.blocks {
            let x = operands.x(group.row_tile + row_tile, block);
            let x_scales = operands.x_scales(group.row_tile + row_tile, 1, block);
            let tiles = [group.tile, group.tile + group.tiles - 1];
            let weights = tiles.map(|tile| operands.weights(tile, block));
            for span in operands.spans() {
                let offsets = offsets(x, span.clone());
                let scales = operands.weight_scales(group.tile, 2, block, span.start);
                for row in (0..rows).step_by(ROWS) {
                    let columns = span.clone();
                    let part =
                        Part { x: &x.0[row * 64..], weights, columns, offsets: &offsets[row..] };
                    let left = (rows - row).min(ROWS);
                    // SAFETY: the caller's promise.
                    unsafe {
                        let mut store = |row_in_part: usize, which: usize, dots: __m512i| {
                            let row = row + row_in_part;
                            let sums = &mut sums.0[row_tile][which].0[row * TILE..][..TILE];
                            let scales = &scales[which * TILE..][..TILE];
                            add(product, dots, x_scales[row], scales, sums);
                        };
                        match left {
                            1 => part.dots::<1>(&mut store),
                            2 => part.dots::<2>(&mut store),
                            3 => part.dots::<3>(&mut store),
                            4 => part.dots::<4>(&mut store),
                            5 => part.dots::<5>(&mut store),
                            6 => part.dots::<6>(&mut store),
                            7 => part.dots::<7>(&mut store),
                            _ => part.dots::<ROWS>(&mut store),
                        }
                    }
                }
            }
        }
    }
}

/// Some rows of a block by a block of two weight tiles.
struct Part<'a> {
    /// From the first of the rows on.
    x: &'a [i8],
    weights: [&'a Panel; 2],
    /// Those that are multiplied: multiples of [`STEP`].
    columns: Range<usize>,
    /// What each row's sum starts from.
    offsets: &'a [i32],
}

impl Part<'_> {
    /// Hands each row's dot products with both tiles to `store(row, tile, _)`.
    ///
    /// # Safety
    /// The machine must have the instructions; `weights` must be whole blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,fma")]
    unsafe fn dots<const COUNT: usize>(&self, store: &mut impl FnMut(usize, usize, __m512i)) {
        let high_bits = _mm512_set1_epi8(-128);
        let mut sums = [[_mm512_setzero_si512(); 2]; COUNT];
        for (sums, &offset) in sums.iter_mut().zip(&self.offsets[..COUNT]) {
            *sums = [_mm512_set1_epi32(offset); 2];
        }
        assert!(self.x.len() >= 3 * TILE * 64 + COUNT * 64 && self.columns.end <= ROW_BYTES);
        for step in self.columns.start / STEP..self.columns.end / STEP {
            let in_row = step / 2 * TILE * 64 + step % 2 * STEP;
            for four in 0..STEP / 4 {
                // SAFETY: the blocks have 4 times 16 lines of 64 bytes; the rows of activations end
                // inside theirs by the assertion.
                unsafe {
                    let line = (step * (STEP / 4) + four) * 64;
                    let weights = self.weights.map(|weights| {
                        _mm512_xor_si512(
                            _mm512_loadu_si512(weights.as_ptr().add(line).cast()),
                            high_bits,
                        )
                    });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = self.x.as_ptr().add(in_row + row * 64 + four * 4);
                        let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
                        sums[0] = _mm512_dpbusd_epi32(sums[0], weights[0], x);
                        sums[1] = _mm512_dpbusd_epi32(sums[1], weights[1], x);
                    }
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            store(row, 0, sums[0]);
            store(row, 1, sums[1]);
        }
    }
}

/// Adds sixteen dot products of one row to its sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn add(product: Product, dots: __m512i, x_scale: f32, scales: &[f32], sums: &mut [f32]) {
    assert!(sums.len() >= TILE && scales.len() >= TILE);
    // SAFETY: sixteen values each, by the assertion.
    unsafe {
        if product == Product::Int8 {
            let sums = sums.as_mut_ptr().cast();
            let before = _mm512_loadu_si512(sums);
            _mm512_storeu_si512(sums, _mm512_add_epi32(before, dots));
        } else {
            let by = _mm512_mul_ps(_mm512_set1_ps(x_scale), _mm512_loadu_ps(scales.as_ptr()));
            let before = _mm512_loadu_ps(sums.as_ptr());
            let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), by, before);
            _mm512_storeu_ps(sums.as_mut_ptr(), sum);
        }
    }
}

/// For each row of a block, -128 times the sum of its bytes in some columns: all of its quarters, some or half
/// of one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn offsets(x: &Block, columns: Range<usize>) -> [i32; TILE] {
    let mut offsets = [0; TILE];
    let by = _mm512_set1_epi8(-128); // 128, unsigned
    for (row, offset) in offsets.iter_mut().enumerate() {
        let mut sums = _mm512_setzero_si512();
        for column in columns.clone().step_by(64) {
            let width = columns.len().min(64);
            let line = &x.0[(column / 64 * TILE + row) * 64 + column % 64..][..width];
            // SAFETY: as many bytes as are loaded.
            let line = unsafe { _mm512_maskz_loadu_epi8(u64::MAX >> (64 - width), line.as_ptr()) };
            sums = _mm512_dpbusd_epi32(sums, by, line);
        }
        *offset = -_mm512_reduce_add_epi32(sums);
    }
    offsets
}
