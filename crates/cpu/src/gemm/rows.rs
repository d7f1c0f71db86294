//! Activations of one step, laid out as tiles. Packed once, used by all products with them.

use crate::gemm::tile::{BF16_COLS, Block, TILE};
use crate::runtime::disjoint::SharedOut;
use crate::runtime::memory::Memory;
use crate::runtime::pool::Pool;
use crate::scheme::panel::PANEL_COLS;
#[cfg(test)]
use crate::scheme::panel::QuantizedRows;

/// Rows of activations as [`Block`]s, `[row tile][block]`. Rows past the last are zeros.
#[derive(Default)]
pub(crate) struct RowTiles {
    pub rows: usize,
    /// Blocks of a row.
    pub blocks: usize,
    memory: Memory,
}

impl RowTiles {
    /// Makes room, holding anything, in the memory that is there.
    fn resize(&mut self, rows: usize, blocks: usize) -> &mut [Block] {
        (self.rows, self.blocks) = (rows, blocks);
        let count = rows.div_ceil(TILE) * blocks;
        Block::within(self.memory.take(count * Block::FLOATS + Block::SLACK), count)
    }

    /// The blocks.
    pub fn all(&self) -> &[Block] {
        match self.tiles() * self.blocks {
            0 => &[],
            count => Block::read_within(self.memory.all(), count),
        }
    }

    /// Rows that have scales: kernels read those of two tiles at a time.
    pub fn scale_rows(&self) -> usize {
        scale_rows(self.rows)
    }

    /// Tiles of 16 rows, the last one perhaps not full.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }
}

/// [`RowTiles::scale_rows`] of so many rows.
fn scale_rows(rows: usize) -> usize {
    rows.div_ceil(TILE).next_multiple_of(2) * TILE
}

/// Int8 activations as tiles, with their scales. The memory is kept from step to step.
#[derive(Default)]
pub(crate) struct Int8Rows {
    pub(crate) tiles: RowTiles,
    /// `[block][row]`, or `[row]`; as many rows as an even number of tiles has, zeros past the last.
    pub(crate) scales: Vec<f32>,
    /// Whether there is a scale for each block of 256 columns, and not one for each row.
    pub(crate) scale_per_block: bool,
}

impl Int8Rows {
    /// Takes quantized rows over.
    ///
    /// # Panics
    /// If their scales are neither of 256 columns nor of whole rows, or the lengths do not fit.
    #[cfg(test)]
    pub fn pack(&mut self, x: &QuantizedRows, pool: &Pool) {
        let spans = if x.span >= x.cols { 1 } else { x.cols.div_ceil(x.span.max(1)) };
        assert!(x.codes.len() == x.rows * x.cols && x.scales.len() == x.rows * spans);
        self.quantize([x.rows, x.cols], x.span, 0, pool, |row, codes, scales, _| {
            codes.copy_from_slice(&x.codes[row * x.cols..][..x.cols]);
            scales.copy_from_slice(&x.scales[row * spans..][..spans]);
        });
    }

    /// Has `quantize` make each row's codes and scales (256 columns each, or one for the row), and
    /// lays them out while they are in cache. The shape is rows by K; the codes of the row are K rounded
    /// up to a multiple of 256, and those past K must be zeros. `quantize` also gets `room` values of
    /// room.
    ///
    /// # Panics
    /// If `span` is neither 256 nor at least K.
    pub fn quantize<F>(
        &mut self,
        [rows, cols]: [usize; 2],
        span: usize,
        room: usize,
        pool: &Pool,
        quantize: F,
    ) where
        F: Fn(usize, &mut [i8], &mut [f32], &mut [f32]) + Sync,
    {
        assert!(span == PANEL_COLS || span >= cols, "activation scales of {span} columns");
        let blocks = cols.div_ceil(PANEL_COLS);
        let memory = self.tiles.resize(rows, blocks);
        self.scale_per_block = span < cols;
        let spans = if self.scale_per_block { blocks } else { 1 };
        let width = scale_rows(rows);
        self.scales.clear();
        self.scales.resize(spans * width, 0.0);
        if rows == 0 || blocks == 0 {
            return;
        }
        let tiles = SharedOut::new(memory, blocks);
        let scales = SharedOut::new(&mut self.scales, width);
        pool.run(rows.div_ceil(TILE), |tile, scratch| {
            let codes_len = blocks * PANEL_COLS / size_of::<f32>();
            let [codes, row_scales, room] = scratch.take([codes_len, spans, room]);
            // SAFETY: as many bytes, which are numbers whatever they are, borrowed from `codes`.
            let codes: &mut [i8] = unsafe {
                std::slice::from_raw_parts_mut(codes.as_mut_ptr().cast(), blocks * PANEL_COLS)
            };
            // SAFETY: no two tasks have the same tile.
            let memory = unsafe { tiles.part(tile, 0..blocks) };
            for lane in 0..TILE {
                let row = tile * TILE + lane;
                if row < rows {
                    quantize(row, codes, row_scales, room);
                } else {
                    codes.fill(0);
                    row_scales.fill(0.0);
                }
                for (block, codes) in memory.iter_mut().zip(codes.chunks_exact(PANEL_COLS)) {
                    for (part, codes) in block.0.chunks_exact_mut(TILE * 64).zip(codes.chunks(64)) {
                        part[lane * 64..][..64].copy_from_slice(codes);
                    }
                }
                for (span, &scale) in row_scales.iter().enumerate() {
                    // SAFETY: no two tasks have the same row.
                    unsafe { scales.part(span, row..row + 1).fill(scale) };
                }
            }
        });
    }
}

/// Where tasks put codes that they have made, block by block.
pub(crate) struct Int8Writer<'a> {
    rows: usize,
    tiles: SharedOut<'a, Block>,
    scales: SharedOut<'a>,
}

impl Int8Rows {
    /// Makes room for `rows` rows of `cols` columns with a scale for each 256 of them, to be written: all
    /// of the rows' blocks.
    ///
    /// # Panics
    /// If there are no rows or no columns.
    pub(crate) fn writer(&mut self, [rows, cols]: [usize; 2]) -> Int8Writer<'_> {
        let blocks = cols.div_ceil(PANEL_COLS);
        let memory = self.tiles.resize(rows, blocks);
        self.scale_per_block = blocks > 1;
        let width = scale_rows(rows);
        self.scales.clear();
        self.scales.resize(blocks * width, 0.0);
        let (tiles, scales) =
            (SharedOut::new(memory, blocks), SharedOut::new(&mut self.scales, width));
        Int8Writer { rows, tiles, scales }
    }
}

impl Int8Writer<'_> {
    /// Puts the codes of `block` of a row tile, and their scales, where `make` makes them for each row;
    /// rows that there are not become zeros.
    ///
    /// # Safety
    /// No other task may have the same tile and block.
    pub unsafe fn put(
        &self,
        tile: usize,
        block: usize,
        mut make: impl FnMut(usize, &mut [i8; PANEL_COLS]) -> f32,
    ) {
        // SAFETY: the caller's promise.
        let to = unsafe { &mut self.tiles.part(tile, block..block + 1)[0] };
        // SAFETY: as above.
        let scales = unsafe { self.scales.part(block, tile * TILE..(tile + 1) * TILE) }.iter_mut();
        let mut codes = [0; PANEL_COLS];
        for (lane, scale) in scales.enumerate() {
            let row = tile * TILE + lane;
            *scale = if row < self.rows { make(row, &mut codes) } else { 0.0 };
            if row >= self.rows {
                codes.fill(0);
            }
            for (part, codes) in
                to.0.as_chunks_mut::<{ TILE * 64 }>().0.iter_mut().zip(codes.as_chunks::<64>().0)
            {
                part[lane * 64..][..64].copy_from_slice(codes);
            }
        }
    }
}

/// Activations rounded to bf16, as tiles. The memory is kept from step to step.
#[derive(Default)]
pub(crate) struct Bf16Rows {
    pub(crate) tiles: RowTiles,
}

impl Bf16Rows {
    /// Has `round` make each row's values, and lays them out while they are in cache. The shape is rows by K.
    /// `round` also gets `room` values of room.
    ///
    /// # Panics
    /// If there are rows, but no columns.
    pub fn round<F>(&mut self, [rows, cols]: [usize; 2], room: usize, pool: &Pool, round: F)
    where
        F: Fn(usize, &mut [u16], &mut [f32]) + Sync,
    {
        let blocks = cols.div_ceil(BF16_COLS);
        let memory = self.tiles.resize(rows, blocks);
        if rows == 0 {
            return;
        }
        let tiles = SharedOut::new(memory, blocks);
        pool.run(rows.div_ceil(TILE), |tile, scratch| {
            let [values, room] = scratch.take([blocks * BF16_COLS / 2, room]);
            // SAFETY: as many bytes, which are numbers whatever they are, borrowed from `values`.
            let values: &mut [u16] = unsafe {
                std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), blocks * BF16_COLS)
            };
            values.fill(0);
            // SAFETY: no two tasks have the same tile.
            let memory = unsafe { tiles.part(tile, 0..blocks) };
            for lane in 0..TILE {
                let row = tile * TILE + lane;
                match row < rows {
                    true => round(row, &mut values[..cols], room),
                    false => values.fill(0),
                }
                for (block, values) in memory.iter_mut().zip(values.as_chunks::<BF16_COLS>().0) {
                    let parts = block.bf16_mut().as_chunks_mut::<{ TILE * 32 }>().0;
                    for (part, values) in parts.iter_mut().zip(values.as_chunks::<32>().0) {
                        part[lane * 32..][..32].copy_from_slice(values);
                    }
                }
            }
        });
    }
}

/// The nearest bf16, ties to even. Subnormal numbers become zeros, as the units for bf16 read them;
/// NaN stays NaN.
#[inline(always)]
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, size) = (bits & 0x8000_0000, bits & 0x7fff_ffff);
    let rounded = size + 0x7fff + (size >> 16 & 1);
    let nan = (size > 0x7f80_0000) as u32 * 0x40;
    let rounded = if size > 0x7f80_0000 { size & 0x7fff_0000 | nan << 16 } else { rounded };
    let rounded = if size < 0x0080_0000 { 0 } else { rounded };
    ((sign | rounded) >> 16) as u16
}
