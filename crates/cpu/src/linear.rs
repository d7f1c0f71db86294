//! `linear`: a matrix product with a packed weight.

use keeve_codec::{Codec, Group, PackedTensor, Row};
use keeve_graph::Phase;

use crate::fused::Fusible;
use crate::inputs::Input;
use crate::kernels::Kernels;
use crate::pool::Pool;
use crate::shared_out::SharedOut;

/// Weight rows that one task unpacks, to use them for all rows of the input.
const PANEL: usize = 16;
/// Rows of the input whose sums a task collects before it hands them out.
const ROW_BLOCK: usize = 64;

/// A weight packed as some kernel wants it. Made once, at load.
pub(crate) trait PackedLinear: Send + Sync {
    /// The codec it was stored in.
    fn codec(&self) -> Codec;

    /// Bytes that one product reads.
    fn bytes(&self) -> usize;

    /// Fills `out` with weight row `index`: what [`keeve_codec::values`] gives, bit for bit.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one long.
    fn row(&self, index: usize, out: &mut [f32]);

    /// Whether it reads its input only row by row, and not as a whole.
    fn reads_rows(&self) -> bool {
        false
    }

    /// Itself, if its products can be used where they are made.
    fn fusible(&self) -> Option<Fusible<'_>> {
        None
    }

    /// `out[r, n] = x[r] . weight[n] + bias[n]`. `x` is `[phases.len(), K]`, `out` `[.., N]`.
    /// Kernels that quantize activations choose how by each row's phase.
    fn forward(
        &self,
        x: &mut Input<'_>,
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    );
}

/// A weight left as it is stored, unpacked to `f32` as it is used.
pub(crate) struct StoredLinear {
    pub tensor: PackedTensor,
    pub kernels: &'static dyn Kernels,
}

impl StoredLinear {
    /// Unpacks the columns of row `index` from `start` on, which must be whole blocks and groups.
    pub fn unpack(&self, index: usize, start: usize, out: &mut [f32]) {
        let codec = self.tensor.codec();
        let columns = columns(codec, self.tensor.row(index), start, out.len());
        self.kernels.unpack(codec, columns, out);
    }

    /// Products of the rows of `x`, `[rows.len(), K]`, with nothing quantized; row `r` of them goes to row
    /// `rows[r]` of the output.
    pub fn products(
        &self,
        x: &[f32],
        rows: &[usize],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        let (n, k) = (self.tensor.rows(), self.tensor.cols());
        let out = SharedOut::new(out, n);
        pool.run(n.div_ceil(PANEL), |task, scratch| {
            let columns = task * PANEL..((task + 1) * PANEL).min(n);
            let width = columns.len();
            let [weights, sums] = scratch.take([width * k, width * ROW_BLOCK.min(rows.len())]);
            for (index, weights) in columns.clone().zip(weights.chunks_exact_mut(k)) {
                self.kernels.unpack(self.tensor.codec(), self.tensor.row(index), weights);
            }
            for (x, rows) in x.chunks(ROW_BLOCK * k).zip(rows.chunks(ROW_BLOCK)) {
                let count = rows.len();
                self.kernels.dots(x, weights, k, sums, count);
                for (row, &place) in rows.iter().enumerate() {
                    // SAFETY: no two tasks have the same columns, no two rows the same place.
                    let out = unsafe { out.part(place, columns.clone()) };
                    for (index, out) in out.iter_mut().enumerate() {
                        *out = sums[index * count + row];
                    }
                    if let Some(bias) = bias {
                        for (out, bias) in out.iter_mut().zip(&bias[columns.clone()]) {
                            *out += bias;
                        }
                    }
                }
            }
        });
    }
}

impl PackedLinear for StoredLinear {
    fn codec(&self) -> Codec {
        self.tensor.codec()
    }

    fn bytes(&self) -> usize {
        self.tensor.bytes()
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.kernels.unpack(self.tensor.codec(), self.tensor.row(index), out);
    }

    // In `f32` every phase has the same recipe.
    fn forward(
        &self,
        x: &mut Input<'_>,
        phases: &[Phase],
        bias: Option<&[f32]>,
        out: &mut [f32],
        pool: &Pool,
    ) {
        let rows: Vec<usize> = (0..phases.len()).collect();
        self.products(x.x(), &rows, bias, out, pool);
    }
}

/// The rows of a phase.
pub(crate) fn rows_of(phases: &[Phase], phase: Phase) -> Vec<usize> {
    (0..phases.len()).filter(|&row| phases[row] == phase).collect()
}

/// `width` columns of a row from `start` on, which are whole blocks and groups.
pub(crate) fn columns<'a>(codec: Codec, row: Row<'a>, start: usize, width: usize) -> Row<'a> {
    let geometry = codec.geometry();
    let data = |columns: usize| columns / geometry.block * geometry.block_bytes;
    let part = |bytes: &'a [u8]| match geometry.scales {
        Some((Group::Of(group), each)) => {
            let group = usize::from(group);
            &bytes[..bytes.len().min((start + width).div_ceil(group) * each)]
                [start / group * each..]
        }
        Some((Group::Row, _)) | None => bytes,
    };
    Row {
        data: &row.data[data(start)..data(start + width)],
        scales: part(row.scales),
        biases: if geometry.biases { part(row.biases) } else { row.biases },
        global_scale: row.global_scale,
    }
}
