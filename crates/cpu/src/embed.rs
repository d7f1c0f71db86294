//! `embed`: rows of the embedding table.

use keeve_codec::PackedTensor;
use keeve_graph::Step;

use crate::kernels::Kernels;

/// Writes the embedding of each row of `step` to `out`: a row of `table`, or what the step gives.
pub(crate) fn embed(kernels: &dyn Kernels, table: &PackedTensor, step: &Step<'_>, out: &mut [f32]) {
    let mut given = step.embeddings.iter().peekable();
    for (index, (row, out)) in step.rows.iter().zip(out.chunks_exact_mut(table.cols())).enumerate()
    {
        match given.next_if(|(row, _)| *row == index) {
            Some((_, values)) => out.copy_from_slice(values),
            None => kernels.unpack(table.codec(), table.row(row.id as usize), out),
        }
    }
}
