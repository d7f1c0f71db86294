//! Weights of tiles as the floats that they are: rounded to bf16 as a panel, or multiplied with activations that
//! are not rounded. A weight is `scale * (code - zero)`, rounded once, plus its offset if the codec has
//! one, rounded once more: what [`keeve_codec::values`] gives, bit for bit.

use crate::gemm::BF16_COLS;
use crate::gemm::unpack::{Runs, block_at, runs};
use crate::gemv::bits::{expand, for_each_word, load};
use crate::packed::bf16::CHAINS;
use crate::packed::tiles::{BLOCK, LINE, Layout};
use crate::scheme::panel::{PANEL_COLS, TILE_ROWS};
use crate::simd::ints::IntLanes;
use crate::simd::lanes::Lanes;

/// Calls `$function::<V, BITS, ..>` for the layout.
macro_rules! for_bits {
    ($function:ident, [$($extra:expr),*], $layout:ident, ($($argument:expr),*)) => {
        match $layout.codes.bits {
            1 => $function::<V, 1, $({ $extra }),*>($layout, $($argument),*),
            2 => $function::<V, 2, $({ $extra }),*>($layout, $($argument),*),
            3 => $function::<V, 3, $({ $extra }),*>($layout, $($argument),*),
            4 => $function::<V, 4, $({ $extra }),*>($layout, $($argument),*),
            5 => $function::<V, 5, $({ $extra }),*>($layout, $($argument),*),
            6 => $function::<V, 6, $({ $extra }),*>($layout, $($argument),*),
            _ => $function::<V, 8, $({ $extra }),*>($layout, $($argument),*),
        }
    };
}

/// What is taken off a code without a sign, and what makes it one.
fn zero(layout: &Layout) -> (f32, i32) {
    match layout.codes.signed {
        true => (128.0, 0x8080_8080_u32 as i32),
        false => (layout.codes.zero.into(), 0),
    }
}

/// The weights of a word's four columns. Without an offset, -0 is added, which changes nothing.
macro_rules! weights {
    ($V:ident, $word:expr, $zero:expr, $scale:expr, $offset:expr) => {
        [
            $word.byte::<0>().to_floats().sub($zero).mul($scale).add($offset),
            $word.byte::<1>().to_floats().sub($zero).mul($scale).add($offset),
            $word.byte::<2>().to_floats().sub($zero).mul($scale).add($offset),
            $word.byte::<3>().to_floats().sub($zero).mul($scale).add($offset),
        ]
    };
}

/// Fills a block of bf16 (`[64][16][2]`): 128 columns of a tile, from `BF16_COLS * block` on, rounded. `false`
/// if there may be weights that [`IntLanes::bf16_pairs`] cannot round: then nothing is written. `NATIVE`:
/// by [`IntLanes::native_bf16_pairs`].
///
/// # Safety
/// The machine must have the instructions of `V`, with AVX512-BF16 if `NATIVE`.
///
/// # Panics
/// If something does not fit the layout.
#[inline(always)]
pub(crate) unsafe fn bf16_panel<V: IntLanes, const NATIVE: bool>(
    layout: &Layout,
    tile: &[u8],
    block: usize,
    values: &mut [u16; TILE_ROWS * BF16_COLS],
) -> bool {
    assert!(tile.len() == layout.tile_bytes());
    if block * BF16_COLS >= layout.padded() {
        values.fill(0);
        return true;
    }
    // SAFETY: the caller vouches for the instructions; all runs of the block are written.
    unsafe {
        let runs = runs::<V>(layout, tile, block * BF16_COLS, BF16_COLS);
        let normal = runs.are_normal();
        if normal {
            for_bits!(rounded, [NATIVE], layout, (tile, block, &runs, values));
        }
        normal
    }
}

/// [`bf16_panel`] for codes of `BITS` bits.
///
/// # Safety
/// As for [`bf16_panel`]; the runs must be those of the block.
#[inline(always)]
unsafe fn rounded<V: IntLanes, const BITS: usize, const NATIVE: bool>(
    layout: &Layout,
    tile: &[u8],
    block: usize,
    runs: &Runs,
    values: &mut [u16; TILE_ROWS * BF16_COLS],
) {
    let (zero, flip) = zero(layout);
    let parts = values.as_chunks_mut::<{ TILE_ROWS * BLOCK }>().0.iter_mut();
    for (index, out) in parts.enumerate() {
        let Some(at) = block_at(layout, block * BF16_COLS + index * BLOCK) else {
            out.fill(0);
            continue;
        };
        let from = &tile[at..][..layout.block_bytes()];
        let out = out.as_mut_ptr().cast::<u8>();
        for row in (0..TILE_ROWS).step_by(V::COUNT) {
            // SAFETY: the caller's promise; a block of codes is at `from`, and at `out` there are two lines for
            // each word.
            unsafe {
                let zero = V::Floats::splat(zero);
                let words = expand::<V, BITS>(from.as_ptr().add(4 * row), V::splat(flip));
                for half in 0..2 {
                    let run = (index * BLOCK + half * BLOCK / 2) / runs.width;
                    let scale = V::Floats::load(runs.scales.get(run)[row..].as_ptr());
                    let offset = V::Floats::load(runs.offsets.get(run)[row..].as_ptr());
                    // Unrolled, so that all words stay in registers.
                    #[allow(clippy::needless_range_loop)]
                    for word in half * words.len() / 2..(half + 1) * words.len() / 2 {
                        let [a, b, c, d] = weights!(V, words[word], zero, scale, offset);
                        let line = out.add(2 * word * LINE + 4 * row);
                        let (first, second) = if NATIVE {
                            (V::native_bf16_pairs(a, b), V::native_bf16_pairs(c, d))
                        } else {
                            (V::bf16_pairs(a, b), V::bf16_pairs(c, d))
                        };
                        first.store(line);
                        second.store(line.add(LINE));
                    }
                }
            }
        }
    }
}

/// `out[r] = x[r] . weights` for `ROWS` rows and the 16 weight rows of a tile, in the order of
/// [`crate::packed::bf16::sums`]. `x` is `[ROWS][k]`, zeros past the tensor's columns.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If something does not fit the layout, or `k` is less than its columns or no multiple of [`BLOCK`].
#[inline(always)]
pub(crate) unsafe fn products<V: IntLanes, const ROWS: usize>(
    layout: &Layout,
    tile: &[u8],
    x: &[f32],
    k: usize,
    out: &mut [[f32; TILE_ROWS]],
) {
    assert!(tile.len() == layout.tile_bytes() && out.len() == ROWS && x.len() >= ROWS * k);
    assert!(k >= layout.cols && k.is_multiple_of(BLOCK));
    // SAFETY: the caller vouches for the instructions.
    unsafe { for_bits!(tile_products, [ROWS], layout, (tile, x, k, out)) }
}

/// [`products`] for codes of `BITS` bits.
///
/// # Safety
/// The machine must have the instructions of `V`; the arguments must fit.
#[inline(always)]
unsafe fn tile_products<V: IntLanes, const BITS: usize, const ROWS: usize>(
    layout: &Layout,
    tile: &[u8],
    x: &[f32],
    k: usize,
    out: &mut [[f32; TILE_ROWS]],
) {
    let (zero, flip) = zero(layout);
    for row in (0..TILE_ROWS).step_by(V::COUNT) {
        // SAFETY: the caller's promise: each row of `x` has as many values as there are columns, a multiple of
        // 32, and a block of codes is where it is read.
        unsafe {
            let zero = V::Floats::splat(zero);
            let mut sums = [[V::Floats::splat(0.0); CHAINS]; ROWS];
            for first in (0..layout.cols).step_by(PANEL_COLS) {
                let runs = runs::<V>(layout, tile, first, PANEL_COLS);
                for column in (first..k.min(first + PANEL_COLS)).step_by(BLOCK) {
                    let Some(at) = block_at(layout, column) else { break };
                    let from = tile[at..][..layout.block_bytes()].as_ptr().add(4 * row);
                    let run = (column - first) / runs.width;
                    let next = (column - first + BLOCK / 2) / runs.width;
                    let scales = [run, next]
                        .map(|run| V::Floats::load(runs.scales.get(run)[row..].as_ptr()));
                    let offsets = [run, next]
                        .map(|run| V::Floats::load(runs.offsets.get(run)[row..].as_ptr()));
                    for_each_word!(V, BITS, from, V::splat(flip), |index, word| {
                        let (scale, offset) = (scales[index / 4], offsets[index / 4]);
                        let weights = weights!(V, word, zero, scale, offset);
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let x = x.as_ptr().add(row * k + column + CHAINS * index);
                            for (chain, sum) in sums.iter_mut().enumerate() {
                                *sum =
                                    V::Floats::splat(*x.add(chain)).mul_add(weights[chain], *sum);
                            }
                        }
                    });
                }
            }
            for (sums, out) in sums.iter().zip(out.iter_mut()) {
                let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
                sum.store(out[row..].as_mut_ptr());
            }
        }
    }
}
