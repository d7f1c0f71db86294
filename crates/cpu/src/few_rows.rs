//! Products of few rows: tile by tile, each finished where it is made.

use crate::gemm::{Ending, Output};
use crate::kernels::Kernels;
use crate::panel::TILE_ROWS;
use crate::pool::Pool;
use crate::shared_out::SharedOut;

/// Bytes of weights that a task reads, at least: less than a microsecond of reading, which is what threads may have to
/// wait for each other in the end.
const TASK_BYTES: usize = 8 << 10;

/// Weights in tiles of 16 rows, to be multiplied with activations `X`.
pub(crate) trait TileProducts<X>: Sync {
    /// Weight rows, and bytes of a tile of them.
    fn form(&self) -> (usize, usize);

    /// Products of the rows of `x` with the weight rows of a tile. `store` gets each row and its sums.
    fn products(&self, tile: usize, x: &X, store: impl FnMut(usize, &[f32; TILE_ROWS]));
}

/// Products with few rows, `rows` of them. `up`: what the products go through [`Ending::Gated`] with.
///
/// # Panics
/// If the output does not have the rows.
pub(crate) fn few_rows<X: Sync, W: TileProducts<X>>(
    weights: &W,
    up: Option<(&W, &dyn Kernels)>,
    x: &X,
    rows: usize,
    out: Output<'_>,
    pool: &Pool,
) {
    let (width, tile_bytes) = weights.form();
    let Output { values, rows: places, bias, ending } = out;
    let values = SharedOut::new(values, width);
    let each = TASK_BYTES.div_ceil(tile_bytes);
    let tiles = width.div_ceil(TILE_ROWS);
    let tasks = tiles.div_ceil(each);
    pool.run(tasks, |task, scratch| {
        let [gates] = scratch.take([up.map_or(0, |_| rows * TILE_ROWS)]);
        let gates = gates.as_chunks_mut::<TILE_ROWS>().0;
        for tile in task * tiles / tasks..(task + 1) * tiles / tasks {
            let columns = tile * TILE_ROWS..width.min((tile + 1) * TILE_ROWS);
            let place = |row: usize| {
                let place = places.map_or(row, |places| places[row]);
                // SAFETY: no two tasks have the same tile, no two rows the same place, and what is given
                // for a row is used up before the next is asked for.
                unsafe { values.part(place, columns.clone()) }
            };
            if let Some((up, kernels)) = up {
                weights.products(tile, x, |row, sums| gates[row] = *sums);
                kernels.silu(gates.as_flattened_mut());
                up.products(tile, x, |row, sums| {
                    let both = gates[row].iter().zip(sums);
                    let out = place(row).iter_mut().zip(both);
                    out.for_each(|(out, (gate, sum))| *out = gate * sum);
                });
                continue;
            }
            weights.products(tile, x, |row, sums| {
                let mut sums = *sums;
                if let Some(bias) = bias {
                    let pairs = sums.iter_mut().zip(&bias[columns.clone()]);
                    pairs.for_each(|(sum, bias)| *sum += bias);
                }
                let out = place(row).iter_mut().zip(sums);
                match ending {
                    Ending::Added => out.for_each(|(out, sum)| *out += sum),
                    Ending::Plain | Ending::Gated => out.for_each(|(out, sum)| *out = sum),
                }
            });
        }
    });
}

/// How many of `left` rows a kernel takes at one time: 1, 2 or at most [`crate::kernels::DECODE_ROWS`].
pub(crate) fn rows_at_once(left: usize) -> usize {
    match left {
        0 | 1 => left,
        2 | 3 => 2,
        _ => crate::kernels::DECODE_ROWS,
    }
}
