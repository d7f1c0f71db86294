//! `linear`: a matrix product with a packed weight.

use keeve_codec::{Codec, PackedTensor};
use keeve_graph::Phase;

use crate::kernels::Kernels;
use crate::pool::Pool;
use crate::shared_out::SharedOut;

/// Weight rows that one task unpacks and multiplies.
const ROWS_PER_TASK: usize = 16;

/// A weight packed as some kernel wants it. Made once, at load.
pub(crate) trait PackedLinear: Send + Sync {
    /// The codec it was stored in.
    fn codec(&self) -> Codec;

    /// Bytes that one product reads.
    fn bytes(&self) -> usize;

    /// `out[r, n] = x[r] . weight[n] + bias[n]`. `x` is `[phases.len(), K]`, `out` `[.., N]`.
    /// Kernels that quantize activations choose how by each row's phase.
    fn forward(
        &self,
        x: &[f32],
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    );
}

/// A weight left as it is stored, unpacked to `f32` row by row as it is used.
pub(crate) struct StoredLinear {
    pub tensor: PackedTensor,
    pub kernels: &'static dyn Kernels,
}

impl PackedLinear for StoredLinear {
    fn codec(&self) -> Codec {
        self.tensor.codec()
    }

    fn bytes(&self) -> usize {
        self.tensor.bytes()
    }

    // In `f32` every phase has the same recipe.
    fn forward(
        &self,
        x: &[f32],
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        let (n, k) = (self.tensor.rows(), self.tensor.cols());
        let rows = phases.len();
        let out = SharedOut::new(out, n);
        pool.run(n.div_ceil(ROWS_PER_TASK), |task| {
            let mut weights = vec![0.0; k];
            let mut column = vec![0.0; rows];
            for index in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(n) {
                self.kernels.unpack(self.tensor.codec(), self.tensor.row(index), &mut weights);
                self.kernels.dots(x, &weights, &mut column);
                let bias = bias.map_or(0.0, |bias| bias[index]);
                for (row, value) in column.iter().enumerate() {
                    // SAFETY: no two tasks have the same `index`.
                    let out = unsafe { out.part(row, index..index + 1) };
                    out[0] = value + bias;
                }
            }
        });
    }
}
