//! Products of few rows of activations with K-quants, by blocks of 32 columns: scales and minimums of runs are
//! applied in `i32`.

use super::decode::{RowAt, TileAt, WORDS, ask_ahead, dot, expand};
use super::ints::IntLanes;
use super::lanes::Lanes;
use crate::panel::TILE_ROWS;
use crate::tiles::{BLOCK, INTEGERS_AT, LINE, Layout};

/// K-quants whose integers are for 32 columns: Q4_K and Q5_K.
///
/// # Safety
/// The machine must have the instructions of `V`; the tile and the rows must be as the layout says.
#[inline(always)]
pub(super) unsafe fn long_runs<V: IntLanes, const BITS: usize, const ROWS: usize>(
    layout: &Layout,
    tile: TileAt,
    x: [RowAt; ROWS],
) -> [V::Floats; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let nothing = V::Floats::splat(0.0);
        let mut sums = [nothing; ROWS];
        for record in 0..layout.records {
            let header = tile.at.add(record * layout.record);
            ask_ahead(header, layout.header / LINE);
            let codes = header.add(layout.header + 4 * tile.row);
            let integers = header.add(INTEGERS_AT + tile.row);
            let blocks = layout.span / BLOCK;
            let (mut products, mut less) = ([nothing; ROWS], [nothing; ROWS]);
            for index in 0..blocks {
                let block = record * blocks + index;
                let words = expand::<V, BITS>(codes.add(index * layout.block_bytes()), V::splat(0));
                let scale = V::load_u8(integers.add(index * TILE_ROWS));
                let minimum = V::Floats::load_u8(integers.add((blocks + index) * TILE_ROWS));
                for (row, x) in x.iter().enumerate() {
                    let codes = x.codes.add(block * BLOCK);
                    let product = dot::<V, BITS>(V::splat(0), &words, 0, WORDS, codes).mul(scale);
                    let by = V::Floats::splat(*x.scales.add(block));
                    products[row] = product.to_floats().mul_add(by, products[row]);
                    let by = V::Floats::splat(*x.weighted32.add(block));
                    less[row] = minimum.mul_add(by, less[row]);
                }
            }
            add_super_block::<V, ROWS>(header, tile.row, products, less, &mut sums);
        }
        sums
    }
}

/// The scales and minimums of four runs of 16 columns, two by two: each lane has those of the first of two
/// in its lower 16 bits. Without minimums (Q3_K) those are nothing of use.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn integers_of_runs<V: IntLanes, const MINIMUM: bool>(fours: V) -> [(V, V); 2] {
    // SAFETY: the caller's promise.
    unsafe {
        if MINIMUM {
            let nibbles = V::splat(0x000f_000f);
            return [
                (fours.and(nibbles), fours.shift16::<-4>().and(nibbles)),
                (fours.shift16::<-8>().and(nibbles), fours.shift16::<-12>()),
            ];
        }
        let (first, second) = (fours.shift16::<8>().upper_bytes(), fours.upper_bytes());
        [(first, first), (second, second)]
    }
}

/// K-quants whose integers are for 16 columns, products with which fit into 16 bits: Q2_K (which has minimums)
/// and Q3_K.
///
/// # Safety
/// The machine must have the instructions of `V`; the tile and the rows must be as the layout says.
#[inline(always)]
pub(super) unsafe fn pairs_of_runs<
    V: IntLanes,
    const BITS: usize,
    const MINIMUM: bool,
    const ROWS: usize,
>(
    layout: &Layout,
    tile: TileAt,
    x: [RowAt; ROWS],
) -> [V::Floats; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let nothing = V::Floats::splat(0.0);
        let mut sums = [nothing; ROWS];
        // Codecs with minimums have no need of another zero.
        let zero = if MINIMUM { 0 } else { i32::from(layout.codes.zero) };
        for record in 0..layout.records {
            let header = tile.at.add(record * layout.record);
            ask_ahead(header, layout.header / LINE);
            let mut codes = header.add(layout.header + 4 * tile.row);
            let integers = header.add(INTEGERS_AT + 4 * tile.row);
            let blocks = layout.span / BLOCK;
            let (mut products, mut less) = ([nothing; ROWS], [nothing; ROWS]);
            for two in 0..blocks / 2 {
                let of_runs = integers_of_runs::<V, MINIMUM>(V::load(integers.add(two * LINE)));
                for (index, (scale, minimum)) in of_runs.into_iter().enumerate() {
                    let block = record * blocks + 2 * two + index;
                    let words = expand::<V, BITS>(codes, V::splat(0));
                    codes = codes.add(layout.block_bytes());
                    for (row, x) in x.iter().enumerate() {
                        let at = x.codes.add(block * BLOCK);
                        let mut parts = [V::splat(0); 2];
                        for (run, part) in parts.iter_mut().enumerate() {
                            let half = run * WORDS / 2;
                            let start = V::splat(-zero * x.sum16(2 * block + run));
                            *part = dot::<V, BITS>(start, &words, half, half + WORDS / 2, at);
                        }
                        let both = parts[0].pair_with(parts[1]);
                        let by = V::Floats::splat(*x.scales.add(block));
                        let product = both.dot_pairs(scale).to_floats();
                        products[row] = product.mul_add(by, products[row]);
                        if MINIMUM {
                            let both = x.sums.add(2 * block).cast::<i32>().read_unaligned();
                            let added = minimum.dot_pairs(V::splat(both)).to_floats();
                            less[row] = added.mul_add(by, less[row]);
                        }
                    }
                }
            }
            if MINIMUM {
                add_super_block::<V, ROWS>(header, tile.row, products, less, &mut sums);
            } else {
                add_scaled::<V, ROWS>(header, tile.row, products, &mut sums);
            }
        }
        sums
    }
}

/// Other K-quants whose integers are for 16 columns: Q6_K.
///
/// # Safety
/// The machine must have the instructions of `V`; the tile and the rows must be as the layout says.
#[inline(always)]
pub(super) unsafe fn short_runs<V: IntLanes, const BITS: usize, const ROWS: usize>(
    layout: &Layout,
    tile: TileAt,
    x: [RowAt; ROWS],
) -> [V::Floats; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let nothing = V::Floats::splat(0.0);
        let mut sums = [nothing; ROWS];
        let zero = i32::from(layout.codes.zero);
        for record in 0..layout.records {
            let header = tile.at.add(record * layout.record);
            ask_ahead(header, layout.header / LINE);
            let codes = header.add(layout.header + 4 * tile.row);
            let integers = header.add(INTEGERS_AT + tile.row);
            let blocks = layout.span / BLOCK;
            let mut products = [nothing; ROWS];
            for index in 0..blocks {
                let block = record * blocks + index;
                let words = expand::<V, BITS>(codes.add(index * layout.block_bytes()), V::splat(0));
                let at = integers.add(2 * index * TILE_ROWS);
                let scale = [V::load_i8(at), V::load_i8(at.add(TILE_ROWS))];
                for (row, x) in x.iter().enumerate() {
                    let codes = x.codes.add(block * BLOCK);
                    let mut product = V::splat(0);
                    for (run, scale) in scale.into_iter().enumerate() {
                        let start = V::splat(-zero * x.sum16(2 * block + run));
                        let half = run * WORDS / 2;
                        let part = dot::<V, BITS>(start, &words, half, half + WORDS / 2, codes);
                        product = product.add(part.mul(scale));
                    }
                    let by = V::Floats::splat(*x.scales.add(block));
                    products[row] = product.to_floats().mul_add(by, products[row]);
                }
            }
            add_scaled::<V, ROWS>(header, tile.row, products, &mut sums);
        }
        sums
    }
}

/// `sums += scale * products`, the scales of a K-quant's header.
///
/// # Safety
/// The machine must have the instructions of `V`; there must be a header at `header`.
#[inline(always)]
unsafe fn add_scaled<V: IntLanes, const ROWS: usize>(
    header: *const u8,
    row: usize,
    products: [V::Floats; ROWS],
    sums: &mut [V::Floats; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = V::Floats::load_f16(header.add(2 * row));
        for (sum, product) in sums.iter_mut().zip(products) {
            *sum = scale.mul_add(product, *sum);
        }
    }
}

/// `sums += scale * products - minimum * less`, the scales and minimums of a K-quant's header.
///
/// # Safety
/// The machine must have the instructions of `V`; there must be a header at `header`.
#[inline(always)]
unsafe fn add_super_block<V: IntLanes, const ROWS: usize>(
    header: *const u8,
    row: usize,
    products: [V::Floats; ROWS],
    less: [V::Floats; ROWS],
    sums: &mut [V::Floats; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = V::Floats::load_f16(header.add(2 * row));
        let minimum = V::Floats::load_f16(header.add(2 * (TILE_ROWS + row)));
        let minimum = V::Floats::splat(0.0).sub(minimum);
        for (sum, (products, less)) in sums.iter_mut().zip(products.into_iter().zip(less)) {
            *sum = minimum.mul_add(less, scale.mul_add(products, *sum));
        }
    }
}
