//! `linear` with a weight whose columns are stored in another order: the input is gathered to fit.

use std::sync::Arc;

use keeve_codec::Codec;
use keeve_graph::Phase;

use crate::inputs::{Input, Inputs};
use crate::kernels::Kernels;
use crate::linear::PackedLinear;
use crate::pool::Pool;

/// A weight of reordered columns: stored column `i` belongs to input `order[i]`.
pub(crate) struct OrderedLinear {
    pub order: Arc<[u32]>,
    pub stored: Box<dyn PackedLinear>,
    pub kernels: &'static dyn Kernels,
}

impl PackedLinear for OrderedLinear {
    fn codec(&self) -> Codec {
        self.stored.codec()
    }

    fn bytes(&self) -> usize {
        self.stored.bytes() + size_of_val(&*self.order)
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        let mut stored = vec![0.0; out.len()];
        self.stored.row(index, &mut stored);
        for (&column, value) in self.order.iter().zip(stored) {
            out[column as usize] = value;
        }
    }

    // Every row is gathered by itself, so its result still depends on no other row.
    fn forward(
        &self,
        x: &mut Input<'_>,
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        let rows = x.x().chunks_exact(self.order.len());
        let gathered: Vec<f32> =
            rows.flat_map(|row| self.order.iter().map(|&column| row[column as usize])).collect();
        let mut inputs = Inputs::default();
        let mut x = inputs.fresh(&gathered, self.kernels);
        self.stored.forward(&mut x, phases, bias, out, pool);
    }
}
