//! The unit of memory of the products: 16 rows of a block of columns.

use crate::scheme::panel::{PANEL_COLS, TILE_ROWS};

/// Rows of a tile, of weights as of activations.
pub(crate) const TILE: usize = TILE_ROWS;
/// Bytes of a row in a block: 256 columns of int8 or 128 of bf16.
pub(crate) const ROW_BYTES: usize = PANEL_COLS;
/// Columns of a block of bf16.
pub(crate) const BF16_COLS: usize = ROW_BYTES / 2;

/// Sixteen rows of [`ROW_BYTES`] bytes.
///
/// Weights are laid out `[64][16][4 bytes]`: four bytes of each row in turn, a "panel". Activations
/// are laid out `[4][16][64 bytes]`: 64 bytes of each row in turn. So each quarter of a block is one
/// tile register as `tdpbssd` and `tdpbf16ps` want it.
///
/// Blocks are pages, as are [`Sums`](crate::gemm::operands::Sums), so that what is read and what was just
/// written are at different places of their pages: a processor takes a load to depend on an earlier
/// store if the last twelve bits of their addresses are the same.
#[derive(Clone)]
#[repr(C, align(4096))]
pub(crate) struct Block(pub [i8; TILE * ROW_BYTES]);

impl Block {
    pub const ZERO: Self = Self([0; TILE * ROW_BYTES]);

    /// The same bytes as bf16.
    pub fn bf16(&self) -> &[u16; TILE * BF16_COLS] {
        // SAFETY: as many bytes, aligned, and any bytes are numbers.
        unsafe { &*(&raw const self.0).cast() }
    }

    /// As [`Self::bf16`], to write.
    pub fn bf16_mut(&mut self) -> &mut [u16; TILE * BF16_COLS] {
        // SAFETY: as many bytes, aligned, and any bytes are numbers.
        unsafe { &mut *(&raw mut self.0).cast() }
    }

    /// As [`Self::within`], to read.
    pub fn read_within(memory: &[f32], count: usize) -> &[Self] {
        let skip = memory.as_ptr().align_offset(align_of::<Self>());
        let blocks = &memory[skip..][..count * Self::FLOATS];
        // SAFETY: the memory is aligned, and any bytes are a block.
        unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), count) }
    }

    /// `memory` as blocks: at least [`Self::FLOATS`] values each and [`Self::SLACK`].
    pub fn within(memory: &mut [f32], count: usize) -> &mut [Self] {
        let skip = memory.as_ptr().align_offset(align_of::<Self>());
        let blocks = &mut memory[skip..][..count * Self::FLOATS];
        // SAFETY: the memory is aligned, any bytes are a block, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), count) }
    }

    /// `f32` values that take as much memory as a block.
    pub const FLOATS: usize = size_of::<Self>() / size_of::<f32>();
    /// `f32` values to ask for beyond the blocks, for [`Self::within`] to align them.
    pub const SLACK: usize = align_of::<Self>() / size_of::<f32>();
}

/// Sums of a tile of activations by a tile of weights: `[row][weight row]`, bits of `f32` or `i32`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct SumTile(pub [f32; TILE * TILE]);

impl SumTile {
    pub const ZERO: Self = Self([0.0; TILE * TILE]);

    /// The same bits as `i32`.
    #[cfg(target_arch = "x86_64")]
    pub fn i32(&self) -> &[i32; TILE * TILE] {
        // SAFETY: same size and alignment, and any bits are a number.
        unsafe { &*(&raw const self.0).cast() }
    }

    /// As [`Self::i32`], to write.
    pub fn i32_mut(&mut self) -> &mut [i32; TILE * TILE] {
        // SAFETY: same size and alignment, and any bits are a number.
        unsafe { &mut *(&raw mut self.0).cast() }
    }
}
