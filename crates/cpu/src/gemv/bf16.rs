//! Products of few rows of activations with tiles of bf16, nothing rounded. The order of `f32` operations is
//! that of [`crate::packed::bf16::products`], so that results are the same bits.

use crate::packed::bf16::CHAINS;
use crate::packed::tiles::LINE;
use crate::scheme::panel::TILE_ROWS;
use crate::simd::lanes::Lanes;
use crate::simd::prefetch::ask_ahead;

/// `out[r] = x[r] . weights` for `ROWS` rows and the 16 weight rows of `tile`, `[K / 2][16][2]`.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If K is no multiple of [`CHAINS`], or `x` or `out` has fewer rows.
#[inline(always)]
pub(crate) unsafe fn products<V: Lanes, const ROWS: usize>(
    tile: &[u16],
    x: &[f32],
    out: &mut [[f32; TILE_ROWS]],
) {
    let k = tile.len() / TILE_ROWS;
    assert!(k.is_multiple_of(CHAINS) && tile.len() == k * TILE_ROWS);
    assert!(x.len() >= ROWS * k && out.len() >= ROWS);
    for lane in (0..TILE_ROWS).step_by(V::COUNT) {
        // SAFETY: the caller vouches for the instructions.
        let zero = unsafe { V::splat(0.0) };
        let mut sums = [[zero; CHAINS]; ROWS];
        for column in (0..k).step_by(CHAINS) {
            for chain in (0..CHAINS).step_by(2) {
                // SAFETY: the caller vouches for the instructions; a tile has a line for each two columns, of
                // which this takes the lanes that begin there, and each row has `k` values.
                unsafe {
                    let line = tile.as_ptr().cast::<u8>().add((column + chain) / 2 * LINE);
                    if lane == 0 {
                        ask_ahead(line);
                    }
                    let (first, second) = V::load_bf16_pairs(line.add(4 * lane));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = x.as_ptr().add(row * k + column + chain);
                        sums[chain] = V::splat(*x).mul_add(first, sums[chain]);
                        sums[chain + 1] = V::splat(*x.add(1)).mul_add(second, sums[chain + 1]);
                    }
                }
            }
        }
        for (sums, out) in sums.iter().zip(out.iter_mut()) {
            // SAFETY: the caller vouches for the instructions; `lane` begins a register of the row.
            unsafe {
                let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
                sum.store(out[lane..].as_mut_ptr());
            }
        }
    }
}
