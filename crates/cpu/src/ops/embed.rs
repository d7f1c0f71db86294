//! `embed`: rows of the embedding table.

use keeve_codec::PackedTensor;
use keeve_graph::Step;

use crate::kernels::Kernels;
use crate::linear::Linear;
use crate::runtime::disjoint::SharedOut;
use crate::runtime::pool::Pool;

/// Rows that a task makes.
const TASK_ROWS: usize = 16;

/// An embedding table.
pub(crate) enum Table<'a> {
    /// As it is stored.
    Stored(&'a PackedTensor, &'a dyn Kernels),
    /// As it is packed for products, if the head has the same weights.
    Packed(&'a Linear),
}

impl Table<'_> {
    fn row(&self, id: usize, out: &mut [f32]) {
        match self {
            Self::Stored(table, kernels) => kernels.unpack(table.codec(), table.row(id), out),
            Self::Packed(linear) => linear.row(id, out),
        }
    }
}

/// Writes the embedding of each row of `step` to `out` (`[rows, width]`): a row of `table`, or what the
/// step gives.
pub(crate) fn embed(
    table: &Table<'_>,
    step: &Step<'_>,
    out: &mut [f32],
    width: usize,
    pool: &Pool,
) {
    let rows = step.rows.len();
    let out = SharedOut::new(out, width);
    pool.run(rows.div_ceil(TASK_ROWS), |task, _| {
        for index in task * TASK_ROWS..rows.min((task + 1) * TASK_ROWS) {
            // SAFETY: no two tasks have the same row.
            let out = unsafe { out.part(index, 0..width) };
            match step.given_row(index) {
                Some(given) => out.copy_from_slice(&given[..width]),
                None => table.row(step.rows[index].id as usize, out),
            }
        }
    });
}
