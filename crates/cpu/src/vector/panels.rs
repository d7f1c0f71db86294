//! Unpacking tiles to int8 panels, as [`crate::recipe`] defines them: the same codes as
//! [`crate::scalar::oracle`] gives.

use keeve_codec::{Group, SUPER_BLOCK, Scaling};

use super::decode::expand;
use super::ints::IntLanes;
use crate::panel::{PANEL_COLS, TILE_ROWS};
use crate::recipe::{FRACTION_BITS, LEAST_PANEL_SCALE, PANEL_TOP};
use crate::tiles::{BLOCK, INTEGERS_AT, LINE, Layout, group_bytes};

/// The most runs (columns with one scale) in a panel.
const MOST_RUNS: usize = PANEL_COLS / 16;
/// Vectors of a block.
const WORDS: usize = BLOCK / 4;

/// A number for each row.
type Rows<T> = [T; TILE_ROWS];

/// What turns the stored codes of a panel into its codes: a 16-bit factor and summand for each run and
/// row, twice in each 32 bits.
struct Factors {
    /// Columns of a run.
    width: usize,
    factors: [Rows<i32>; MOST_RUNS],
    summands: [Rows<i32>; MOST_RUNS],
}

/// Scales and offsets of the runs of a panel.
struct Runs {
    count: usize,
    width: usize,
    scales: [Rows<f32>; MOST_RUNS],
    offsets: [Rows<f32>; MOST_RUNS],
}

/// Fills the codes of 16 weight rows by 256 columns, and their scales.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If something does not fit the layout.
#[inline(always)]
pub(super) unsafe fn panel<V: IntLanes>(
    layout: &Layout,
    tile: &[u8],
    block: usize,
    codes: &mut [i8; TILE_ROWS * PANEL_COLS],
    scales: &mut Rows<f32>,
) {
    assert!(tile.len() == layout.tile_bytes() && block * PANEL_COLS < layout.padded());
    let runs = runs(layout, tile, block);
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        if layout.exact_panels() {
            *scales = runs.scales[0];
            return match layout.codes.bits {
                4 => exact::<V, 4>(layout, tile, block, codes),
                _ => exact::<V, 8>(layout, tile, block, codes),
            };
        }
        let factors = factors(layout, &runs, scales);
        // By how many bits codes are shifted to the left: those in even bytes, and those in odd ones, which
        // are eight bits up already.
        match layout.codes.bits {
            1 => requantize::<V, 1, 14, 6>(layout, tile, block, &factors, codes),
            2 => requantize::<V, 2, 13, 5>(layout, tile, block, &factors, codes),
            3 => requantize::<V, 3, 12, 4>(layout, tile, block, &factors, codes),
            4 => requantize::<V, 4, 11, 3>(layout, tile, block, &factors, codes),
            5 => requantize::<V, 5, 10, 2>(layout, tile, block, &factors, codes),
            6 => requantize::<V, 6, 9, 1>(layout, tile, block, &factors, codes),
            _ if layout.codes.signed => {
                requantize::<V, 8, 8, 0>(layout, tile, block, &factors, codes)
            }
            _ => requantize::<V, 8, 7, -1>(layout, tile, block, &factors, codes),
        }
    }
}

/// Where the codes of 32 columns are in a tile; `None` for columns that it does not have.
#[inline(always)]
fn block_at(layout: &Layout, column: usize) -> Option<usize> {
    let (record, within) = (column / layout.span, column % layout.span);
    let at = record * layout.record + layout.header + within / BLOCK * layout.block_bytes();
    (record < layout.records).then_some(at)
}

/// The scales and offsets of a panel.
#[inline(always)]
fn runs(layout: &Layout, tile: &[u8], block: usize) -> Runs {
    let zeros = [[0.0; TILE_ROWS]; MOST_RUNS];
    let mut runs = Runs { count: 0, width: PANEL_COLS, scales: zeros, offsets: zeros };
    let first = block * PANEL_COLS;
    let columns = PANEL_COLS.min(layout.padded() - first);
    match layout.codes.scaling {
        Scaling::Groups { group, float, offset } => {
            let len = match group {
                Group::Row => layout.span,
                Group::Of(len) => usize::from(len),
            };
            runs.width = len.min(PANEL_COLS);
            runs.count = columns.div_ceil(runs.width);
            for index in 0..runs.count {
                let column = first + index * runs.width;
                let header = &tile[column / layout.span * layout.record..][..layout.header];
                let bytes = group_bytes(float, offset);
                let place = &header[column % layout.span / len * bytes..][..bytes];
                for row in 0..TILE_ROWS {
                    runs.scales[index][row] = float.read(place, row);
                    if offset {
                        runs.offsets[index][row] = float.read(place, TILE_ROWS + row);
                    }
                }
            }
        }
        Scaling::SuperBlocks { run, minimum } => {
            runs.width = run.into();
            runs.count = SUPER_BLOCK / runs.width;
            let header = &tile[block * layout.record..][..layout.header];
            let mut float = [[0.0; TILE_ROWS]; 2];
            for row in 0..TILE_ROWS {
                float[0][row] = keeve_codec::Float::F16.read(header, row);
                float[1][row] = keeve_codec::Float::F16.read(header, TILE_ROWS + row);
            }
            let integers = header[INTEGERS_AT..].as_chunks::<TILE_ROWS>().0;
            for index in 0..runs.count {
                for row in 0..TILE_ROWS {
                    let stored = integers[index][row];
                    let (scale, least) = match (run, minimum) {
                        (32, _) => (stored as i8, integers[runs.count + index][row]),
                        (_, true) => ((stored & 15) as i8, stored >> 4),
                        (_, false) => (stored as i8, 0),
                    };
                    runs.scales[index][row] = float[0][row] * f32::from(scale);
                    runs.offsets[index][row] = -(float[1][row] * f32::from(least));
                }
            }
        }
    }
    runs
}

/// The scales of a panel and what its codes are made with.
#[inline(always)]
fn factors(layout: &Layout, runs: &Runs, scales: &mut Rows<f32>) -> Factors {
    let (bits, zero) = (u32::from(layout.codes.bits), f32::from(layout.codes.zero));
    let top = if layout.codes.signed { PANEL_TOP } else { ((1u32 << bits) - 1) as f32 - zero };
    let bottom = if layout.codes.signed { -PANEL_TOP } else { -zero };
    // Without their sign, floats are ordered as their bits are, and NaN comes last.
    let mut largest = [0u32; TILE_ROWS];
    for index in 0..runs.count {
        for row in 0..TILE_ROWS {
            let (scale, offset) = (runs.scales[index][row], runs.offsets[index][row]);
            let high = scale.mul_add(top, offset).abs().to_bits();
            let low = scale.mul_add(bottom, offset).abs().to_bits();
            largest[row] = largest[row].max(high).max(low);
        }
    }
    let mut inverse = [0.0; TILE_ROWS];
    for row in 0..TILE_ROWS {
        scales[row] = f32::from_bits(largest[row]) / PANEL_TOP;
        let usable = scales[row] >= LEAST_PANEL_SCALE && scales[row] < f32::INFINITY;
        inverse[row] = if usable { 1.0 / scales[row] } else { 0.0 };
    }
    let one = (1u32 << FRACTION_BITS) as f32;
    let factor = (1u32 << (15 + FRACTION_BITS - layout.code_shift())) as f32;
    let zeros = [[0; TILE_ROWS]; MOST_RUNS];
    let mut made = Factors { width: runs.width, factors: zeros, summands: zeros };
    for index in 0..runs.count {
        for row in 0..TILE_ROWS {
            let (scale, offset) = (runs.scales[index][row], runs.offsets[index][row]);
            let by = (scale * inverse[row] * factor).round_ties_even() as i32;
            let at_zero = (-zero).mul_add(scale, offset) * inverse[row];
            let plus = (at_zero * one).round_ties_even() as i32 + (1 << (FRACTION_BITS - 1));
            made.factors[index][row] = by & 0xffff | by << 16;
            made.summands[index][row] = plus & 0xffff | plus << 16;
        }
    }
    made
}

/// Codes that are the weights over one scale.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn exact<V: IntLanes, const BITS: usize>(
    layout: &Layout,
    tile: &[u8],
    block: usize,
    codes: &mut [i8; TILE_ROWS * PANEL_COLS],
) {
    for (index, out) in codes.chunks_exact_mut(TILE_ROWS * BLOCK).enumerate() {
        let Some(at) = block_at(layout, block * PANEL_COLS + index * BLOCK) else {
            out.fill(0);
            continue;
        };
        let from = &tile[at..][..layout.block_bytes()];
        for row in (0..TILE_ROWS).step_by(V::COUNT) {
            // SAFETY: the caller vouches for the instructions; a block of codes is at `from`, and of
            // `WORDS` lines at `out`.
            unsafe {
                let words = expand::<V, BITS>(from.as_ptr().add(4 * row), V::splat(0));
                for (word, words) in words.into_iter().enumerate() {
                    // Signed bytes minus the code of zero, without carries: the sum with the upper bit
                    // left out, then that bit by itself.
                    let less = (layout.codes.zero as i8).wrapping_neg() as u8;
                    let less = V::splat(i32::from_le_bytes([less; 4]));
                    let low = V::splat(0x7f7f_7f7f);
                    let sum = words.and(low).add(less.and(low));
                    let upper = words.xor(less).and(V::splat(0x8080_8080_u32 as i32));
                    sum.xor(upper).store(out.as_mut_ptr().cast::<u8>().add(word * LINE + 4 * row));
                }
            }
        }
    }
}

/// Codes made by fixed-point arithmetic in 16 bits.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn requantize<V: IntLanes, const BITS: usize, const EVEN: i32, const ODD: i32>(
    layout: &Layout,
    tile: &[u8],
    block: usize,
    factors: &Factors,
    codes: &mut [i8; TILE_ROWS * PANEL_COLS],
) {
    for (index, out) in codes.chunks_exact_mut(TILE_ROWS * BLOCK).enumerate() {
        let Some(at) = block_at(layout, block * PANEL_COLS + index * BLOCK) else {
            out.fill(0);
            continue;
        };
        let from = &tile[at..][..layout.block_bytes()];
        for row in (0..TILE_ROWS).step_by(V::COUNT) {
            // SAFETY: the caller vouches for the instructions; a block of codes is at `from`, and of
            // `WORDS` lines at `out`.
            unsafe {
                let words = expand::<V, BITS>(from.as_ptr().add(4 * row), V::splat(0));
                let (low, high) = (V::splat(0x00ff_00ff), V::splat(0xff00_ff00_u32 as i32));
                for half in 0..2 {
                    let run = (index * BLOCK + half * BLOCK / 2) / factors.width;
                    let by = V::load(factors.factors[run][row..].as_ptr().cast());
                    let plus = V::load(factors.summands[run][row..].as_ptr().cast());
                    for word in half * WORDS / 2..(half + 1) * WORDS / 2 {
                        let code = words[word];
                        let even = code.and(low).shift16::<EVEN>();
                        let odd = code.and(high).shift16::<ODD>();
                        let even = even.mul_high16(by).add16(plus);
                        let odd = odd.mul_high16(by).add16(plus);
                        // The whole part of each, in its byte.
                        let even = even.shift16::<{ -(FRACTION_BITS as i32) }>().and(low);
                        let odd = odd.shift16::<{ 8 - FRACTION_BITS as i32 }>().and(high);
                        let at = word * LINE + 4 * row;
                        even.or(odd).store(out.as_mut_ptr().cast::<u8>().add(at));
                    }
                }
            }
        }
    }
}
