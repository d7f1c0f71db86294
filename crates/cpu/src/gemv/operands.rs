//! Where the products of few rows find what they read.

use keeve_codec::Float;

use crate::packed::tiles::{LINE, group_bytes};
use crate::scheme::panel::TILE_ROWS;
use crate::simd::lanes::Lanes;
use crate::simd::prefetch::ask_ahead;

/// A row of activations.
#[derive(Clone, Copy)]
pub(crate) struct RowAt {
    pub codes: *const i8,
    pub scales: *const f32,
    pub sums: *const i16,
    pub weighted32: *const f32,
}

impl RowAt {
    /// The sum of the codes of 16 columns.
    ///
    /// # Safety
    /// The row must have them.
    #[inline(always)]
    pub unsafe fn sum16(&self, index: usize) -> i32 {
        // SAFETY: the caller's promise.
        unsafe { i32::from(*self.sums.add(index)) }
    }
}

/// A tile, from the first row that a register holds.
#[derive(Clone, Copy)]
pub(crate) struct TileAt {
    pub at: *const u8,
    /// The first row.
    pub row: usize,
}

/// A register of floats as they are stored.
///
/// # Safety
/// The machine must have the instructions of `F`; there must be as many values at `at`.
#[inline(always)]
pub(crate) unsafe fn load_floats<F: Lanes>(float: Float, at: *const u8) -> F {
    // SAFETY: the caller's promise.
    unsafe {
        match float {
            Float::F32 => F::load(at.cast()),
            Float::F16 => F::load_f16(at),
            Float::Bf16 => F::load_bf16(at),
        }
    }
}

/// How a codec scales by groups.
#[derive(Clone, Copy)]
pub(crate) struct Scales {
    /// Columns of a group.
    pub width: usize,
    pub float: Float,
    pub offset: bool,
}

impl Scales {
    /// The scales and offsets (zeros if there are none) of group `index` of a record, from row `row` on. Asks for
    /// those of a later record.
    ///
    /// # Safety
    /// The machine must have the instructions of `F`; there must be such a record at `header`.
    #[inline(always)]
    pub unsafe fn of_group<F: Lanes>(self, header: *const u8, index: usize, row: usize) -> (F, F) {
        // SAFETY: the caller's promise: the group has 16 scales, and then as many offsets.
        unsafe {
            let bytes = self.float.bytes();
            let group = group_bytes(self.float, self.offset);
            let at = header.add(index * group);
            // A group is half a line, a line, or two.
            if (index * group).is_multiple_of(LINE) {
                ask_ahead(at);
            }
            if group > LINE {
                ask_ahead(at.wrapping_add(LINE));
            }
            let scale = load_floats::<F>(self.float, at.add(row * bytes));
            let offset = if self.offset {
                load_floats::<F>(self.float, at.add((TILE_ROWS + row) * bytes))
            } else {
                F::splat(0.0)
            };
            (scale, offset)
        }
    }
}
