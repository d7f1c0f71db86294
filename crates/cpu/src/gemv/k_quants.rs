//! Products of few rows of activations with K-quants, by blocks of 32 columns: scales and minimums of runs are
//! applied in `i32`.

use keeve_codec::SUPER_BLOCK;

use crate::gemv::bits::add_products;
use crate::gemv::operands::{RowAt, TileAt};
use crate::packed::tiles::{BLOCK, INTEGERS_AT, LINE, Layout, SUPER_HEADER};
use crate::scheme::panel::TILE_ROWS;
use crate::simd::ints::IntLanes;
use crate::simd::lanes::Lanes;
use crate::simd::prefetch::ask_ahead;

/// Blocks of a record.
const BLOCKS: usize = SUPER_BLOCK / BLOCK;

/// Bytes of a record with codes of so many bits.
pub(crate) const fn record_bytes(bits: usize) -> usize {
    SUPER_HEADER + BLOCKS * bits * LINE
}

/// Asks, with a block of a record, for its share of a later header.
#[inline(always)]
fn ask_ahead_for_header(header: *const u8, block: usize) {
    const { assert!(SUPER_HEADER / LINE <= BLOCKS) };
    if block < SUPER_HEADER / LINE {
        ask_ahead(header.wrapping_add(block * LINE));
    }
}

/// K-quants whose integers are for 32 columns: Q4_K and Q5_K.
///
/// # Safety
/// The machine must have the instructions of `V`; the tile and the rows must be as the layout says.
#[inline(always)]
pub(crate) unsafe fn long_runs<V: IntLanes, const BITS: usize, const ROWS: usize>(
    layout: &Layout,
    tile: TileAt,
    x: [RowAt; ROWS],
) -> [V::Floats; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let nothing = V::Floats::splat(0.0);
        let mut sums = [nothing; ROWS];
        for record in 0..layout.records {
            let header = tile.at.add(record * record_bytes(BITS));
            let codes = header.add(SUPER_HEADER + 4 * tile.row);
            let integers = header.add(INTEGERS_AT + tile.row);
            let (mut products, mut less) = ([nothing; ROWS], [nothing; ROWS]);
            for index in 0..BLOCKS {
                let block = record * BLOCKS + index;
                ask_ahead_for_header(header, index);
                let codes = codes.add(index * BITS * LINE);
                let mut block_sums = [[V::splat(0)]; ROWS];
                add_products::<V, BITS, ROWS, 1>(codes, V::splat(0), &x, block, &mut block_sums);
                let scale = V::load_u8(integers.add(index * TILE_ROWS));
                let minimum = V::Floats::load_u8(integers.add((BLOCKS + index) * TILE_ROWS));
                for (row, (x, [product])) in x.iter().zip(block_sums).enumerate() {
                    let by = V::Floats::splat(*x.scales.add(block));
                    products[row] = product.mul(scale).to_floats().mul_add(by, products[row]);
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
pub(crate) unsafe fn integers_of_runs<V: IntLanes, const MINIMUM: bool>(fours: V) -> [(V, V); 2] {
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
pub(crate) unsafe fn pairs_of_runs<
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
            let header = tile.at.add(record * record_bytes(BITS));
            let mut codes = header.add(SUPER_HEADER + 4 * tile.row);
            let integers = header.add(INTEGERS_AT + 4 * tile.row);
            let (mut products, mut less) = ([nothing; ROWS], [nothing; ROWS]);
            for two in 0..BLOCKS / 2 {
                let of_runs = integers_of_runs::<V, MINIMUM>(V::load(integers.add(two * LINE)));
                for (index, (scale, minimum)) in of_runs.into_iter().enumerate() {
                    let block = record * BLOCKS + 2 * two + index;
                    ask_ahead_for_header(header, 2 * two + index);
                    let mut runs = starts::<V, ROWS>(&x, block, zero);
                    add_products::<V, BITS, ROWS, 2>(codes, V::splat(0), &x, block, &mut runs);
                    codes = codes.add(BITS * LINE);
                    for (row, (x, [first, second])) in x.iter().zip(runs).enumerate() {
                        let both = first.pair_with(second);
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
pub(crate) unsafe fn short_runs<V: IntLanes, const BITS: usize, const ROWS: usize>(
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
            let header = tile.at.add(record * record_bytes(BITS));
            let codes = header.add(SUPER_HEADER + 4 * tile.row);
            let integers = header.add(INTEGERS_AT + tile.row);
            let mut products = [nothing; ROWS];
            for index in 0..BLOCKS {
                let block = record * BLOCKS + index;
                ask_ahead_for_header(header, index);
                let codes = codes.add(index * BITS * LINE);
                let mut runs = starts::<V, ROWS>(&x, block, zero);
                add_products::<V, BITS, ROWS, 2>(codes, V::splat(0), &x, block, &mut runs);
                let at = integers.add(2 * index * TILE_ROWS);
                let scales = [V::load_i8(at), V::load_i8(at.add(TILE_ROWS))];
                for (row, (x, [first, second])) in x.iter().zip(runs).enumerate() {
                    let product = first.mul(scales[0]).add(second.mul(scales[1]));
                    let by = V::Floats::splat(*x.scales.add(block));
                    products[row] = product.to_floats().mul_add(by, products[row]);
                }
            }
            add_scaled::<V, ROWS>(header, tile.row, products, &mut sums);
        }
        sums
    }
}

/// What the sums of a block's two runs of 16 columns begin with, where codes are counted from zero, but mean so
/// much less `zero`.
///
/// # Safety
/// The machine must have the instructions of `V`; rows must have such a block.
#[inline(always)]
unsafe fn starts<V: IntLanes, const ROWS: usize>(
    x: &[RowAt; ROWS],
    block: usize,
    zero: i32,
) -> [[V; 2]; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let start = |x: &RowAt, run| V::splat(-zero * x.sum16(2 * block + run));
        x.each_ref().map(|x| [start(x, 0), start(x, 1)])
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
