//! Weights packed for int8 products: tiles of 16 rows, read from end to end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use keeve_codec::PackedTensor;

use crate::gemm::{BF16_COLS, to_bf16};
use crate::packed::bf16::place;
use crate::packed::{pack, row};
use crate::runtime::arena::{Arena, Piece};
use crate::runtime::pool::Pool;
use crate::scheme::panel::{PANEL_COLS, TILE_ROWS};

pub(crate) use crate::packed::layout::{
    BLOCK, INTEGERS_AT, LINE, Layout, SUPER_HEADER, group_bytes,
};

/// A matrix in tiles.
pub(crate) struct Tiles {
    layout: Layout,
    bytes: Piece,
}

impl Tiles {
    /// Packs a single matrix, on all threads. `done` is told the stored bytes of each tile and stops
    /// the work by returning `false`; then there are no tiles.
    ///
    /// # Errors
    /// If there is not enough memory.
    ///
    /// # Panics
    /// If `layout` is not the tensor's.
    pub fn pack(
        layout: Layout,
        tensor: &PackedTensor,
        memory: &Arena,
        pool: &Pool,
        done: &(dyn Fn(u64) -> bool + Sync),
    ) -> std::io::Result<Option<Self>> {
        let is_its = (layout.codec, layout.rows, layout.cols)
            == (tensor.codec(), tensor.rows(), tensor.cols());
        assert!(is_its && tensor.experts() == 1, "{layout:?}");
        let mut bytes = memory.take(layout.tile_bytes() * layout.tiles())?;
        let tile_bytes = tensor.bytes() as u64 / layout.tiles() as u64;
        let stopped = AtomicBool::new(false);
        let places =
            Mutex::new(bytes.bytes_mut().chunks_exact_mut(layout.tile_bytes()).enumerate());
        pool.run(layout.tiles(), |_, _| {
            let next = places.lock().ok().and_then(|mut places| places.next());
            let Some((tile, out)) = next.filter(|_| !stopped.load(Ordering::Relaxed)) else {
                return;
            };
            pack::pack_tile(&layout, tensor, tile, out);
            if !done(tile_bytes) {
                stopped.store(true, Ordering::Relaxed);
            }
        });
        if stopped.into_inner() {
            return Ok(None);
        }
        Ok(Some(Self { layout, bytes }))
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Bytes of all tiles.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of a tile. They begin on a 64-byte boundary.
    ///
    /// # Panics
    /// If there is no such tile.
    pub fn tile(&self, index: usize) -> &[u8] {
        let bytes = self.layout.tile_bytes();
        &self.bytes[index * bytes..][..bytes]
    }

    /// Fills `out` with weight row `index`: what [`keeve_codec::values`] gives, bit for bit.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one long.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(out.len() == self.layout.cols, "a value for each column");
        row::unpack_row(&self.layout, self.tile(index / TILE_ROWS), index % TILE_ROWS, 0, out);
    }

    /// Fills a block of bf16 (`[64][16][2]`) with the columns from `128 * block` on, whatever the weights are.
    ///
    /// # Panics
    /// If there is no such tile or block.
    pub fn bf16_panel(&self, tile: usize, block: usize, to: &mut [u16; TILE_ROWS * BF16_COLS]) {
        to.fill(0);
        let start = block * BF16_COLS;
        let mut values = [0.0; BF16_COLS];
        let values = &mut values[..BF16_COLS.min(self.layout.cols - start)];
        for row in 0..TILE_ROWS.min(self.layout.rows - tile * TILE_ROWS) {
            row::unpack_row(&self.layout, self.tile(tile), row, start, values);
            for (column, &value) in values.iter().enumerate() {
                to[place(row, column)] = to_bf16(value);
            }
        }
    }

    /// The codes of 16 rows by 256 columns as a panel, less the code of zero; zeros past the last column.
    ///
    /// # Panics
    /// If there is no such tile, or codes are neither signed nor of 4 bits.
    pub fn codes(&self, tile: usize, block: usize, codes: &mut [i8; TILE_ROWS * PANEL_COLS]) {
        row::unpack_codes(&self.layout, self.tile(tile), block * PANEL_COLS, codes);
    }

    /// The scales of the group that `column` is in; zeros past the last column.
    ///
    /// # Panics
    /// If there is no such tile, or the codec does not scale by groups.
    pub fn group_scales(&self, tile: usize, column: usize, scales: &mut [f32; TILE_ROWS]) {
        row::group_scales(&self.layout, self.tile(tile), column, scales);
    }

    /// The codes of 16 rows by 256 columns, if they are stored as a panel.
    ///
    /// # Panics
    /// If there is no such tile.
    pub fn stored_panel(&self, tile: usize, block: usize) -> Option<&[i8]> {
        let layout = &self.layout;
        let column = block * PANEL_COLS;
        if !(layout.codes.signed && layout.exact_panels()) || column + PANEL_COLS > layout.padded()
        {
            return None;
        }
        let (record, within) = (column / layout.span, column % layout.span);
        let at = record * layout.record + layout.header + within * TILE_ROWS;
        let codes = &self.tile(tile)[at..][..TILE_ROWS * PANEL_COLS];
        // SAFETY: the types have the same size and alignment, and every byte is valid for both.
        Some(unsafe { std::slice::from_raw_parts(codes.as_ptr().cast(), codes.len()) })
    }
}
