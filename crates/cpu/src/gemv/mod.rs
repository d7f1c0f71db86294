//! Products of few rows: tile by tile, each finished where it is made.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod bf16;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod bits;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod floats;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod int8;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod k_quants;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod operands;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod residual;

use crate::gemm::{Ending, Output};
use crate::kernels::{DECODE_ROWS, Kernels};
use crate::packed::Packed;
use crate::packed::tiles::BLOCK;
use crate::reference::oracle::Oracle;
use crate::runtime::disjoint::SharedOut;
use crate::runtime::pool::Pool;
use crate::scheme::activations::BlockRows;
use crate::scheme::panel::TILE_ROWS;

/// Bytes of weights that a task reads, at least: less than a microsecond of reading, which is what threads may have to
/// wait for each other in the end.
const TASK_BYTES: usize = 8 << 10;

/// Activations of few rows.
pub(crate) trait FewRows: Sync {
    /// Values of room that [`FewRows::products`] needs.
    fn room(&self, weights: &Packed) -> usize {
        let _ = weights;
        0
    }

    /// Their products with the weight rows of a tile. `store` gets each row and its sums.
    fn products(
        &self,
        weights: &Packed,
        tile: usize,
        room: &mut [f32],
        store: impl FnMut(usize, &[f32; TILE_ROWS]),
    );
}

/// Nothing rounded: `[rows][padded]`. Columns past those of the weights are zeros.
pub(crate) struct FloatRows<'a> {
    pub values: &'a [f32],
    pub padded: usize,
}

impl FewRows for FloatRows<'_> {
    fn room(&self, weights: &Packed) -> usize {
        match weights {
            Packed::Stored(stored) => stored.room(self.values.len() / self.padded),
            _ => 0,
        }
    }

    fn products(
        &self,
        weights: &Packed,
        tile: usize,
        room: &mut [f32],
        mut store: impl FnMut(usize, &[f32; TILE_ROWS]),
    ) {
        if let Packed::Stored(stored) = weights {
            return stored.float_products(tile, self.values, room, store);
        }
        let rows = self.values.len() / self.padded;
        let mut sums = [[0.0; TILE_ROWS]; DECODE_ROWS];
        let mut first = 0;
        while first < rows {
            let sums = &mut sums[..rows_at_once(rows - first)];
            let x = &self.values[first * self.padded..][..sums.len() * self.padded];
            match weights {
                Packed::Codes { tiles, kernels } => {
                    let (layout, tile) = (tiles.layout(), tiles.tile(tile));
                    kernels.float_products(layout, tile, x, self.padded, sums);
                }
                Packed::Bf16 { tiles, kernels } => kernels.bf16_products(tiles.tile(tile), x, sums),
                Packed::Oracle(oracle) => oracle.float_products(tile, x, self.padded, sums),
                Packed::Stored(_) => unreachable!("multiplied above"),
            }
            for (row, sums) in sums.iter().enumerate() {
                store(first + row, sums);
            }
            first += sums.len();
        }
    }
}

/// By [`Recipe::Block`](crate::scheme::Recipe::Block), `FineBlock`, `Token` or `Grouped`.
impl FewRows for BlockRows {
    fn products(
        &self,
        weights: &Packed,
        tile: usize,
        _: &mut [f32],
        mut store: impl FnMut(usize, &[f32; TILE_ROWS]),
    ) {
        let rows = self.rows.rows;
        let mut store = |row: usize, sums: &[f32; TILE_ROWS]| {
            store(row, &sums.map(|sum| sum * self.factors[row]));
        };
        match weights {
            Packed::Codes { tiles, kernels } => {
                let mut sums = [[0.0; TILE_ROWS]; DECODE_ROWS];
                let mut first = 0;
                while first < rows {
                    let sums = &mut sums[..rows_at_once(rows - first)];
                    kernels.decode(tiles.layout(), tiles.tile(tile), self, first, sums);
                    for (row, sums) in sums.iter().enumerate() {
                        store(first + row, sums);
                    }
                    first += sums.len();
                }
            }
            Packed::Oracle(oracle) => {
                let (parts, x) = (self.parts, &self.rows);
                let product = match parts {
                    1 if x.span == BLOCK => Oracle::by_blocks,
                    1 => Oracle::by_token,
                    _ => Oracle::by_parts,
                };
                let mut sums = vec![[0.0; TILE_ROWS]; rows];
                for index in 0..TILE_ROWS.min(oracle.layout.rows - tile * TILE_ROWS) {
                    let codes = oracle.codes(tile * TILE_ROWS + index);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        sums[index] = product(oracle, tile * TILE_ROWS + index, &codes, x, row);
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    store(row, sums);
                }
            }
            Packed::Bf16 { .. } | Packed::Stored(_) => unreachable!("no codes: see Packed::has"),
        }
    }
}

/// Products with few rows, `rows` of them. `up`: what the products go through [`Ending::SwiGlu`] with.
///
/// # Panics
/// If the output does not have the rows.
pub(crate) fn few_rows<X: FewRows>(
    weights: &Packed,
    up: Option<(&Packed, &dyn Kernels)>,
    x: &X,
    rows: usize,
    out: Output<'_>,
    pool: &Pool,
) {
    let (width, tile_bytes) = (weights.rows(), weights.tile_bytes().max(1));
    let Output { values, rows: places, bias, ending, .. } = out;
    let values = SharedOut::new(values, width);
    let each = TASK_BYTES.div_ceil(tile_bytes);
    let tiles = width.div_ceil(TILE_ROWS);
    let tasks = tiles.div_ceil(each);
    pool.run(tasks, |task, scratch| {
        let [gates, room] = scratch.take([up.map_or(0, |_| rows * TILE_ROWS), x.room(weights)]);
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
                x.products(weights, tile, room, |row, sums| gates[row] = *sums);
                kernels.silu(gates.as_flattened_mut());
                x.products(up, tile, room, |row, sums| {
                    let both = gates[row].iter().zip(sums);
                    let out = place(row).iter_mut().zip(both);
                    out.for_each(|(out, (gate, sum))| *out = gate * sum);
                });
                continue;
            }
            x.products(weights, tile, room, |row, sums| {
                let mut sums = *sums;
                if let Some(bias) = bias {
                    let pairs = sums.iter_mut().zip(&bias[columns.clone()]);
                    pairs.for_each(|(sum, bias)| *sum += bias);
                }
                let out = place(row).iter_mut().zip(sums);
                match ending {
                    Ending::Add => out.for_each(|(out, sum)| *out += sum),
                    Ending::Store | Ending::SwiGlu => out.for_each(|(out, sum)| *out = sum),
                }
            });
        }
    });
}

/// How many of `left` rows a kernel takes at one time: 1, 2 or at most [`DECODE_ROWS`].
fn rows_at_once(left: usize) -> usize {
    match left {
        0 | 1 => left,
        2 | 3 => 2,
        _ => DECODE_ROWS,
    }
}
