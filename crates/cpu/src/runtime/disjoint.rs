//! Handing disjoint parts of one result to several tasks.

use std::marker::PhantomData;
use std::ops::Range;

/// A `[rows, width]` matrix that tasks write parts of at the same time.
pub(crate) struct SharedOut<'a, T = f32> {
    start: *mut T,
    rows: usize,
    width: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: it gives access only through `part`, whose caller promises that parts are disjoint.
unsafe impl<T: Send> Send for SharedOut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedOut<'_, T> {}

impl<'a, T> SharedOut<'a, T> {
    /// Shares `out`, rows of `width` values.
    ///
    /// # Panics
    /// If `width` does not divide its length.
    pub fn new(out: &'a mut [T], width: usize) -> Self {
        assert!(
            width > 0 && out.len().is_multiple_of(width),
            "{} values in rows of {width}",
            out.len()
        );
        let rows = out.len() / width;
        Self { start: out.as_mut_ptr(), rows, width, borrowed: PhantomData }
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Where column `column` of `row` is; what follows it may be written by who could ask for it by
    /// [`Self::part`].
    ///
    /// # Panics
    /// If they are out of bounds.
    pub fn place(&self, row: usize, column: usize) -> *mut T {
        assert!(row < self.rows && column < self.width);
        self.start.wrapping_add(row * self.width + column)
    }

    /// The columns `range` of `row`.
    ///
    /// # Safety
    /// While the slice lives, no other call may have given a slice that overlaps it.
    ///
    /// # Panics
    /// If the row or the range is out of bounds.
    #[allow(clippy::mut_from_ref)] // That is the point; see the contract.
    pub unsafe fn part(&self, row: usize, range: Range<usize>) -> &'a mut [T] {
        assert!(row < self.rows && range.start <= range.end && range.end <= self.width);
        let offset = row * self.width + range.start;
        // SAFETY: in bounds of the borrowed slice by the assertion, disjoint from every other part
        // by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), range.len()) }
    }
}
