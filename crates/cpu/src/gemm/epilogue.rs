//! From sums to results: the scales that are still missing, the bias, and what is done with them then.

use std::ops::Range;

use crate::gemm::operands::{Ahead, Direct, GROUP_TILES, Group, Product, Sums, Way};
use crate::gemm::tile::{SumTile, TILE};
use crate::reference::silu;
use crate::runtime::disjoint::SharedOut;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::simd::{Lanes, silu_of};

/// What is done with products where they are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// They are the result.
    Store,
    /// They are added to what the output holds.
    Add,
    /// Tiles of weights are in turn of `gate` and of `up`: the result is `silu(gate) * up`.
    SwiGlu,
}

/// How sums become results.
pub(crate) struct Finish<'a> {
    pub product: Product,
    pub ending: Ending,
    /// A scale for each row of activations, if it is still missing.
    pub x_scales: Option<&'a [f32]>,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// The output's row of each row of activations; none: the same.
    pub places: Option<&'a [usize]>,
    /// Whether these follow each other.
    pub follow: bool,
    /// Whether results are written past the caches, where the alignment of the output allows.
    pub past_cache: bool,
    /// Row and column of the results that the output begins with.
    pub first: (usize, usize),
    /// The output: rows of the results' columns, or of some of them.
    pub out: SharedOut<'a>,
    /// Columns of the results.
    pub n: usize,
}

/// A group of sums, and where it belongs.
pub(crate) struct Finished<'a> {
    pub sums: &'a mut Sums,
    pub group: &'a Group,
    /// The first weight row.
    pub start: usize,
    /// Scales of the weight rows, if they are still missing, two tiles.
    pub scales: &'a [f32],
}

impl Finish<'_> {
    /// The results of row `row` of a group.
    ///
    /// # Safety
    /// The group must be the task's own.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // As in `SharedOut::part`.
    unsafe fn place(&self, group: &Group, start: usize, row: usize) -> &mut [f32] {
        let from = group.row_tile * TILE + row;
        let to = self.places.map_or(from, |places| places[from]);
        let Range { start, end } = self.columns(group, start);
        let (first_row, first_column) = self.first;
        // SAFETY: the caller's promise; no two rows have the same place.
        unsafe { self.out.part(to - first_row, start - first_column..end - first_column) }
    }

    /// The columns of the output that the group makes whose first weight row is `start`.
    #[inline(always)]
    fn columns(&self, group: &Group, start: usize) -> Range<usize> {
        match self.ending {
            Ending::SwiGlu => start / 2..(start / 2 + TILE).min(self.n),
            Ending::Store | Ending::Add => start..(start + group.tiles * TILE).min(self.n),
        }
    }

    /// The memory of a group's results, if its rows follow each other and it is to be asked for.
    ///
    /// # Safety
    /// The group must be the task's own.
    pub unsafe fn ahead(&self, part: &Finished<'_>) -> Option<Ahead> {
        // SAFETY: the caller's promise.
        let start = unsafe { self.place(part.group, part.start, 0).as_ptr().cast() };
        let ahead = Ahead { start, stride: self.out.width() * size_of::<f32>() };
        (self.follow && !self.past_cache).then_some(ahead)
    }

    /// Where the results of a group can be written from the registers that they are made in.
    pub fn direct(&self, part: &Finished<'_>) -> Option<Direct> {
        let group = part.group;
        let whole = group.row_tiles.is_multiple_of(2) && group.rows == group.row_tiles * TILE;
        let columns = self.columns(group, part.start);
        let scaled = match self.product {
            Product::Int8 => self.x_scales.is_some(),
            Product::ScaledInt8 => self.x_scales.is_none(),
            Product::Bf16 => false,
        };
        let ready = scaled && self.bias.is_none() && self.ending != Ending::SwiGlu;
        let direct = whole && columns.len() == GROUP_TILES * TILE && ready;
        (direct && self.follow).then(|| {
            let from = group.row_tile * TILE;
            let to = self.places.map_or(from, |places| places[from]) - self.first.0;
            let start = self.out.place(to, columns.start - self.first.1);
            let stride = self.out.width() * size_of::<f32>();
            let aligned = (start.addr() | stride).is_multiple_of(size_of::<[f32; TILE]>());
            let way = match self.ending {
                Ending::Add => Way::Onto,
                _ if self.past_cache && aligned => Way::PastCaches,
                _ => Way::To,
            };
            Direct { start, stride, way }
        })
    }

    /// Asks for the memory of results, to write, before they are computed.
    ///
    /// # Safety
    /// The group must be the task's own.
    #[inline(always)]
    pub unsafe fn fetch(&self, part: &Finished<'_>) {
        #[cfg(target_arch = "x86_64")]
        if !self.past_cache {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            for row in 0..part.group.rows {
                // SAFETY: the caller's promise. Fetching does nothing where it cannot.
                unsafe {
                    for line in self.place(part.group, part.start, row).chunks(TILE) {
                        _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast());
                    }
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = part;
    }

    /// Hands results out.
    ///
    /// # Safety
    /// The group must be the task's own.
    pub unsafe fn finish(&self, part: &Finished<'_>) {
        for row in 0..part.group.rows {
            // SAFETY: the caller's promise.
            let out = unsafe { self.place(part.group, part.start, row) };
            let x_scale = self.x_scale(part.group, row);
            let value = |column: usize| {
                let sum = line(&part.sums.0[row / TILE][column / TILE], row)[column % TILE];
                let value = match (self.product, x_scale) {
                    (Product::Int8, Some(x)) => {
                        sum.to_bits() as i32 as f32 * x * part.scales[column]
                    }
                    (_, Some(x_scale)) => sum * x_scale,
                    (_, None) => sum,
                };
                self.bias.map_or(value, |bias| value + bias[part.start + column])
            };
            for (column, out) in out.iter_mut().enumerate() {
                *out = match self.ending {
                    Ending::Store => value(column),
                    Ending::Add => *out + value(column),
                    Ending::SwiGlu => silu(value(column)) * value(TILE + column),
                };
            }
        }
    }

    /// As [`Self::finish`], with registers.
    ///
    /// # Safety
    /// The group must be the task's own, and the machine must have the instructions of `V`.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    pub unsafe fn finish_lanes<V: Lanes>(&self, part: &Finished<'_>) {
        let columns = self.columns(part.group, part.start);
        let bias = self.bias.map(|bias| &bias[columns.clone()]);
        for column in (0..columns.len()).step_by(V::COUNT) {
            let count = (columns.len() - column).min(V::COUNT);
            let whole = count == V::COUNT;
            // SAFETY: the caller vouches for the instructions; as many values are there as are read
            // and written, in the sums and scales whole registers.
            unsafe {
                let scales = |column: usize| match self.product {
                    Product::Int8 => V::load(part.scales[column..][..V::COUNT].as_ptr()),
                    _ => V::splat(1.0),
                };
                let (own_scales, other_scales) = match self.ending {
                    Ending::SwiGlu => (scales(column), scales(TILE + column)),
                    Ending::Store | Ending::Add => (scales(column), V::splat(1.0)),
                };
                let bias = bias.map(|bias| match whole {
                    true => V::load(bias[column..].as_ptr()),
                    false => V::load_part(bias[column..].as_ptr(), count),
                });
                for row in 0..part.group.rows {
                    let out = &mut self.place(part.group, part.start, row)[column..][..count];
                    let out = out.as_mut_ptr();
                    let mut value = self.scaled(part, row, column, own_scales);
                    if let Some(bias) = bias {
                        value = value.add(bias);
                    }
                    match self.ending {
                        Ending::Store => {}
                        Ending::Add if whole => value = V::load(out).add(value),
                        Ending::Add => value = V::load_part(out, count).add(value),
                        Ending::SwiGlu => {
                            let other = self.scaled(part, row, TILE + column, other_scales);
                            value = silu_of(value).mul(other);
                        }
                    }
                    if !whole {
                        value.store_part(out, count);
                    } else if self.past_cache && out.addr().is_multiple_of(size_of::<V>()) {
                        value.store_past_cache(out);
                    } else {
                        value.store(out);
                    }
                }
            }
        }
    }

    /// The products of a row of a group from its weight row `column` on, with all scales.
    ///
    /// # Safety
    /// The machine must have the instructions of `V`.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    unsafe fn scaled<V: Lanes>(
        &self,
        part: &Finished<'_>,
        row: usize,
        column: usize,
        scales: V,
    ) -> V {
        let sums = line(&part.sums.0[row / TILE][column / TILE], row);
        let sums = sums[column % TILE..][..V::COUNT].as_ptr();
        // SAFETY: the caller vouches for the instructions; a register of sums is there.
        unsafe {
            match (self.product, self.x_scale(part.group, row)) {
                (Product::Int8, Some(x_scale)) => {
                    V::load_i32(sums.cast()).mul(V::splat(x_scale)).mul(scales)
                }
                (_, Some(x_scale)) => V::load(sums).mul(V::splat(x_scale)),
                (_, None) => V::load(sums),
            }
        }
    }

    /// Makes what was written past the caches visible to other threads, before they are told.
    pub fn end(&self) {
        #[cfg(target_arch = "x86_64")]
        if self.past_cache {
            // SAFETY: every x86-64 has the instruction.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }

    /// The scale of a row of a group, if it is still missing.
    #[inline(always)]
    fn x_scale(&self, group: &Group, row: usize) -> Option<f32> {
        self.x_scales.map(|scales| scales[group.row_tile * TILE + row])
    }
}

/// Row `row` of a group in the sums of its tile.
#[inline(always)]
fn line(sums: &SumTile, row: usize) -> &[f32; TILE] {
    &sums.0.as_chunks().0[row % TILE]
}
