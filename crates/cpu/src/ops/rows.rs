//! Rows, and heads of them, that are held somewhere or made as they are read.

use std::ops::Range;

/// Rows of a value.
pub(crate) trait RowSource: Sync {
    /// Values of room that [`RowSource::row`] needs.
    fn room(&self) -> usize;

    /// Row `row`, which may be made in `room`.
    fn row<'a>(&'a self, row: usize, room: &'a mut [f32]) -> &'a [f32];
}

/// Rows of a value made of heads, each made from the same head.
pub(crate) trait HeadSource: Sync {
    /// The columns `columns` of a row, which are whole heads; they may be made in `room`, as long as they are.
    fn heads<'a>(&'a self, row: usize, columns: Range<usize>, room: &'a mut [f32]) -> &'a [f32];

    /// What these are made from.
    #[cfg(target_arch = "x86_64")]
    fn source(&self, row: usize, columns: Range<usize>) -> &[f32];
}
