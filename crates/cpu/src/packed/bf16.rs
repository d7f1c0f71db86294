//! Weights of bf16 in tiles of 16 rows: one layout for products of few rows and of many.
//!
//! A tile is `[K / 2][16][2]`: of each two columns, all rows' pairs, which is a line of cache. 64 lines are a
//! panel of the products of many rows ([`crate::gemm::PanelSource`]), and a register of AVX-512 has the pairs of all rows
//! for products of few. Columns are filled up with zeros to a multiple of 128, and so are rows to one of 16.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use keeve_codec::PackedTensor;

use crate::gemm::{BF16_COLS, to_bf16};
use crate::runtime::arena::{Arena, Piece};
use crate::runtime::bytes::{numbers, numbers_mut};
use crate::runtime::pool::Pool;
use crate::scheme::panel::TILE_ROWS;

/// Sums that a product with nothing rounded is made of.
pub(crate) const CHAINS: usize = 4;
/// Values of a panel.
const PANEL: usize = TILE_ROWS * BF16_COLS;

/// The product of a row of activations with a row of weights, nothing rounded. In `f32`, `fma` rounding once:
///
/// ```text
/// sum[c] = 0; for k in c, c + 4, ..: sum[c] = fma(x[k], weight[k], sum[c])
/// y = (sum[0] + sum[1]) + (sum[2] + sum[3])
/// ```
pub(crate) fn sums(x: &[f32], weight: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0f32; CHAINS];
    for (column, &x) in x.iter().enumerate() {
        let sum = &mut sums[column % CHAINS];
        *sum = x.mul_add(weight(column), *sum);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// `out[r] = x[r] . weights` for the 16 weight rows of `tile`, `[K / 2][16][2]`, by [`sums`]; `x` is
/// `[out.len()][K]`.
///
/// # Panics
/// If `x` is shorter.
pub(crate) fn products(tile: &[u16], x: &[f32], out: &mut [[f32; TILE_ROWS]]) {
    let k = tile.len() / TILE_ROWS;
    for (row, out) in out.iter_mut().enumerate() {
        let x = &x[row * k..][..k];
        for (lane, out) in out.iter_mut().enumerate() {
            *out = sums(x, |column| widen(tile[place(lane, column)]));
        }
    }
}

/// Rounds values: [`to_bf16`] of each.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn round(x: &[f32], out: &mut [u16]) {
    assert!(x.len() == out.len());
    for (out, &x) in out.iter_mut().zip(x) {
        *out = to_bf16(x);
    }
}

/// Where a weight is in its tile.
pub(crate) fn place(row: usize, column: usize) -> usize {
    (column / 2 * TILE_ROWS + row) * 2 + column % 2
}

fn widen(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// A matrix of bf16 in tiles.
pub(crate) struct Bf16Tiles {
    rows: usize,
    cols: usize,
    bytes: Piece,
}

impl Bf16Tiles {
    /// Packs a single matrix of bf16, on all threads. `done` is told the stored bytes of each tile and stops
    /// the work by returning `false`; then there are no tiles.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn pack(
        tensor: &PackedTensor,
        memory: &Arena,
        pool: &Pool,
        done: &(dyn Fn(u64) -> bool + Sync),
    ) -> std::io::Result<Option<Self>> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let tiles = rows.div_ceil(TILE_ROWS);
        let tile_bytes = cols
            .checked_next_multiple_of(BF16_COLS)
            .and_then(|cols| cols.checked_mul(TILE_ROWS * size_of::<u16>()));
        let all = tile_bytes.and_then(|bytes| bytes.checked_mul(tiles));
        let (Some(tile_bytes), Some(all)) = (tile_bytes, all) else {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        };
        let mut bytes = memory.take(all)?;
        let stored = tensor.bytes() as u64 / tiles.max(1) as u64;
        let stopped = AtomicBool::new(false);
        let places = Mutex::new(bytes.bytes_mut().chunks_exact_mut(tile_bytes.max(1)).enumerate());
        pool.run(tiles, |_, _| {
            let next = places.lock().ok().and_then(|mut places| places.next());
            let Some((tile, out)) = next.filter(|_| !stopped.load(Ordering::Relaxed)) else {
                return;
            };
            let out = numbers_mut(out);
            for row in tile * TILE_ROWS..rows.min((tile + 1) * TILE_ROWS) {
                pack_row(tensor.row(row).data, row % TILE_ROWS, out);
            }
            if !done(stored) {
                stopped.store(true, Ordering::Relaxed);
            }
        });
        if stopped.into_inner() {
            return Ok(None);
        }
        Ok(Some(Self { rows, cols, bytes }))
    }

    /// Weight rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns of a tile, those that fill it up included.
    pub fn padded(&self) -> usize {
        self.cols.next_multiple_of(BF16_COLS)
    }

    /// Bytes of all tiles.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// A tile, for [`products`].
    ///
    /// # Panics
    /// If there is no such tile.
    pub fn tile(&self, index: usize) -> &[u16] {
        let len = TILE_ROWS * self.padded();
        &numbers(&self.bytes)[index * len..][..len]
    }

    /// A panel: the columns from `128 * block` on of a tile, `[64][16][2]`.
    ///
    /// # Panics
    /// If there is no such tile or block.
    pub fn panel(&self, tile: usize, block: usize) -> &[u16; PANEL] {
        &self.tile(tile).as_chunks().0[block]
    }

    /// Fills `out` with weight row `index`.
    ///
    /// # Panics
    /// If there is no such row, or `out` is longer.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        let (tile, row) = (self.tile(index / TILE_ROWS), index % TILE_ROWS);
        for (column, out) in out.iter_mut().enumerate() {
            *out = widen(tile[place(row, column)]);
        }
    }
}

/// Puts a row, as it is stored, into a tile.
fn pack_row(stored: &[u8], row: usize, tile: &mut [u16]) {
    let lines = tile.as_chunks_mut::<{ 2 * TILE_ROWS }>().0;
    for (line, pair) in lines.iter_mut().zip(stored.chunks(4)) {
        for (to, value) in line[2 * row..].iter_mut().zip(pair.as_chunks::<2>().0) {
            *to = u16::from_le_bytes(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use keeve_codec::{Codec, EncodeOptions, encode};

    use super::*;
    use crate::dispatch::kernels;
    use crate::isa::Isa;

    fn values(count: usize) -> Vec<f32> {
        let mut seed = 1u32;
        let mut value = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| value()).collect()
    }

    fn tiles(rows: usize, cols: usize) -> (PackedTensor, Bf16Tiles) {
        let options = EncodeOptions::default();
        let tensor = encode(Codec::BF16, rows, cols, &values(rows * cols), options).unwrap().tensor;
        let (memory, pool) = (Arena::default(), Pool::new(2).unwrap());
        let tiles = Bf16Tiles::pack(&tensor, &memory, &pool, &|_| true).unwrap().unwrap();
        assert!(Bf16Tiles::pack(&tensor, &memory, &pool, &|_| false).unwrap().is_none());
        (tensor, tiles)
    }

    #[test]
    fn rows_come_out_of_tiles_as_they_went_in() {
        for (rows, cols) in [(33, 256), (16, 129), (5, 1)] {
            let (tensor, tiles) = tiles(rows, cols);
            let (mut found, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
            for row in 0..rows {
                tiles.row(row, &mut found);
                keeve_codec::row_values(&tensor, row, &mut expected);
                assert_eq!(found, expected, "row {row} of {rows} by {cols}");
            }
        }
    }

    #[test]
    fn products_of_every_tier_are_the_definition_to_the_last_bit() {
        for cols in [1, 130, 1000] {
            let (_, tiles) = tiles(37, cols);
            let padded = tiles.padded();
            let x = values(4 * padded);
            for tile in 0..3 {
                for rows in [1, 2, 4] {
                    let mut expected = [[0.0; TILE_ROWS]; 4];
                    products(tiles.tile(tile), &x, &mut expected[..rows]);
                    for tier in Isa::found().filter_map(kernels) {
                        let mut found = [[0.0; TILE_ROWS]; 4];
                        tier.bf16_products(tiles.tile(tile), &x, &mut found[..rows]);
                        assert_eq!(found, expected, "{rows} rows of {cols}");
                    }
                }
            }
        }
    }

    #[test]
    fn rounding_is_the_same_on_every_tier() {
        let mut x = values(999);
        x[..6].copy_from_slice(&[f32::NAN, f32::INFINITY, -0.0, 1e-40, f32::MAX, 1.003_906_3]);
        let expected: Vec<_> = x.iter().map(|&x| to_bf16(x)).collect();
        for tier in Isa::found().filter_map(kernels) {
            let mut found = vec![0; x.len()];
            tier.round_to_bf16(&x, &mut found);
            assert_eq!(found, expected);
        }
    }
}
