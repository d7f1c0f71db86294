//! Products of tiles on the unit AMX.
//!
//! A step multiplies one block of two row tiles (or one) by one of two weight tiles: sixteen
//! products of 16 cycles each where there are two, each register loaded being used twice. Whole
//! steps are `asm!`, because nothing says that tile registers survive from one `asm!` to the next.
//!
//! Where each block has its scales, a step leaves its integers in memory and the step after it
//! scales them, instruction by instruction between its own products, so that the vector units work
//! while the tile unit does.

use std::arch::asm;

use super::amx::Tiles;
use super::block::{SumTile, TILE};
use super::operands::{GROUP, Group, Operands, Product, Sums};

/// Integer products of one step, `[row tile][weight tile]`.
type Step = [SumTile; 4];

/// Bytes from a row of a tile to the next.
const STRIDE: usize = 64;

/// Sixteen scales of nothing.
static NO_SCALES: [f32; 2 * TILE] = [0.0; 2 * TILE];

/// A step's integers that wait to be scaled, and where they go.
#[derive(Clone, Copy)]
struct Waiting {
    sums: *mut SumTile,
    x_scales: *const f32,
    weight_scales: *const f32,
}

/// Scales four rows of one tile: `sum = fma(product as f32, x_scale * weight_scale, sum)`.
macro_rules! scale_rows {
    ($from:literal, $to:literal, $x:literal, $weights:literal, $($row:literal)+) => {
        concat!($(
            "vcvtdq2ps zmm0, zmmword ptr [{waiting} + ", $from, " + 64*", $row, "]\n",
            "vmulps zmm1, ", $weights, ", dword ptr [{x_scales} + ", $x, " + 4*", $row, "]{{1to16}}\n",
            "vfmadd213ps zmm0, zmm1, zmmword ptr [{sums} + ", $to, " + 64*", $row, "]\n",
            "vmovaps zmmword ptr [{sums} + ", $to, " + 64*", $row, "], zmm0\n",
        )+)
    };
}

/// A quarter of a block: two row tiles by two weight tiles, and what is to be done meanwhile.
macro_rules! quarter_2x2 {
    ($dot:literal, $part:literal, $first:expr, $second:expr, $third:expr, $fourth:expr) => {
        concat!(
            "tileloadd tmm4, [{x0} + {stride}*1 + 1024*", $part, "]\n",
            "tileloadd tmm6, [{w0} + {stride}*1 + 1024*", $part, "]\n",
            $dot, " tmm0, tmm4, tmm6\n",
            $first,
            "tileloadd tmm7, [{w1} + {stride}*1 + 1024*", $part, "]\n",
            $dot, " tmm1, tmm4, tmm7\n",
            $second,
            "tileloadd tmm5, [{x1} + {stride}*1 + 1024*", $part, "]\n",
            $dot, " tmm2, tmm5, tmm6\n",
            $third,
            $dot, " tmm3, tmm5, tmm7\n",
            $fourth,
        )
    };
    ($dot:literal, $part:literal) => {
        quarter_2x2!($dot, $part, "", "", "", "")
    };
    ($dot:literal, $part:literal; $from:literal, $to:literal, $x:literal, $weights:literal) => {
        quarter_2x2!(
            $dot, $part,
            scale_rows!($from, $to, $x, $weights, 0 1 2 3),
            scale_rows!($from, $to, $x, $weights, 4 5 6 7),
            scale_rows!($from, $to, $x, $weights, 8 9 10 11),
            scale_rows!($from, $to, $x, $weights, 12 13 14 15)
        )
    };
}

/// A quarter of a block: one row tile by two weight tiles, and what is to be done meanwhile.
macro_rules! quarter_1x2 {
    ($dot:literal, $part:literal, $first:expr, $second:expr) => {
        concat!(
            "tileloadd tmm4, [{x0} + {stride}*1 + 1024*",
            $part,
            "]\n",
            "tileloadd tmm6, [{w0} + {stride}*1 + 1024*",
            $part,
            "]\n",
            $dot,
            " tmm0, tmm4, tmm6\n",
            $first,
            "tileloadd tmm7, [{w1} + {stride}*1 + 1024*",
            $part,
            "]\n",
            $dot,
            " tmm1, tmm4, tmm7\n",
            $second,
        )
    };
    ($dot:literal, $part:literal) => {
        quarter_1x2!($dot, $part, "", "")
    };
}

/// Multiplies a block of two row tiles by one of two weight tiles into `products`, and scales what
/// waits.
///
/// # Safety
/// The machine must have the instructions and tiles be configured; the pointers must be to whole
/// blocks, to four tiles of products, to scales of two tiles, and to sums of a group from the tile
/// on which is the first of the two by two.
#[target_feature(enable = "avx512f")]
unsafe fn scaled_2x2(
    x: [*const i8; 2],
    weights: [*const i8; 2],
    products: &mut Step,
    waiting: &Step,
    place: Waiting,
) {
    // SAFETY: the caller's promise; all that is written is `products` and the sums.
    unsafe {
        asm!(
            "vmovups zmm30, zmmword ptr [{weight_scales}]",
            "vmovups zmm31, zmmword ptr [{weight_scales} + 64]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            quarter_2x2!("tdpbssd", 0; "0", "0", "0", "zmm30"),
            quarter_2x2!("tdpbssd", 1; "1024", "1024", "0", "zmm31"),
            quarter_2x2!("tdpbssd", 2; "2048", "4096", "64", "zmm30"),
            quarter_2x2!("tdpbssd", 3; "3072", "5120", "64", "zmm31"),
            "tilestored [{products} + {stride}*1], tmm0",
            "tilestored [{products} + {stride}*1 + 1024], tmm1",
            "tilestored [{products} + {stride}*1 + 2048], tmm2",
            "tilestored [{products} + {stride}*1 + 3072], tmm3",
            x0 = in(reg) x[0],
            x1 = in(reg) x[1],
            w0 = in(reg) weights[0],
            w1 = in(reg) weights[1],
            stride = in(reg) STRIDE,
            products = in(reg) products.as_mut_ptr(),
            waiting = in(reg) waiting.as_ptr(),
            sums = in(reg) place.sums,
            x_scales = in(reg) place.x_scales,
            weight_scales = in(reg) place.weight_scales,
            out("zmm0") _, out("zmm1") _, out("zmm30") _, out("zmm31") _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        );
    }
}

/// As [`scaled_2x2`], for one row tile. Half of `products` is used.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
unsafe fn scaled_1x2(
    x: *const i8,
    weights: [*const i8; 2],
    products: &mut Step,
    waiting: &Step,
    place: Waiting,
) {
    // SAFETY: the caller's promise; all that is written is `products` and the sums.
    unsafe {
        asm!(
            "vmovups zmm30, zmmword ptr [{weight_scales}]",
            "vmovups zmm31, zmmword ptr [{weight_scales} + 64]",
            "tilezero tmm0",
            "tilezero tmm1",
            quarter_1x2!("tdpbssd", 0,
                scale_rows!("0", "0", "0", "zmm30", 0 1 2 3),
                scale_rows!("0", "0", "0", "zmm30", 4 5 6 7)),
            quarter_1x2!("tdpbssd", 1,
                scale_rows!("0", "0", "0", "zmm30", 8 9 10 11),
                scale_rows!("0", "0", "0", "zmm30", 12 13 14 15)),
            quarter_1x2!("tdpbssd", 2,
                scale_rows!("1024", "1024", "0", "zmm31", 0 1 2 3),
                scale_rows!("1024", "1024", "0", "zmm31", 4 5 6 7)),
            quarter_1x2!("tdpbssd", 3,
                scale_rows!("1024", "1024", "0", "zmm31", 8 9 10 11),
                scale_rows!("1024", "1024", "0", "zmm31", 12 13 14 15)),
            "tilestored [{products} + {stride}*1], tmm0",
            "tilestored [{products} + {stride}*1 + 1024], tmm1",
            x0 = in(reg) x,
            w0 = in(reg) weights[0],
            w1 = in(reg) weights[1],
            stride = in(reg) STRIDE,
            products = in(reg) products.as_mut_ptr(),
            waiting = in(reg) waiting.as_ptr(),
            sums = in(reg) place.sums,
            x_scales = in(reg) place.x_scales,
            weight_scales = in(reg) place.weight_scales,
            out("zmm0") _, out("zmm1") _, out("zmm30") _, out("zmm31") _,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        );
    }
}

/// Makes the functions that add the products of a block to sums: two row tiles by two weight tiles,
/// and one by two. The sums are those of a group, from the first of the tiles on.
macro_rules! add_products {
    ($two:ident, $one:ident, $dot:literal) => {
        /// # Safety
        /// Tiles must be configured; the pointers must be to whole blocks and to the sums of a
        /// group, from the tile on which is the first of the two by two.
        unsafe fn $two(x: [*const i8; 2], weights: [*const i8; 2], sums: *mut SumTile) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {stride}*1]",
                    "tileloadd tmm1, [{sums} + {stride}*1 + 1024]",
                    "tileloadd tmm2, [{sums} + {stride}*1 + 4096]",
                    "tileloadd tmm3, [{sums} + {stride}*1 + 5120]",
                    quarter_2x2!($dot, 0),
                    quarter_2x2!($dot, 1),
                    quarter_2x2!($dot, 2),
                    quarter_2x2!($dot, 3),
                    "tilestored [{sums} + {stride}*1], tmm0",
                    "tilestored [{sums} + {stride}*1 + 1024], tmm1",
                    "tilestored [{sums} + {stride}*1 + 4096], tmm2",
                    "tilestored [{sums} + {stride}*1 + 5120], tmm3",
                    x0 = in(reg) x[0],
                    x1 = in(reg) x[1],
                    w0 = in(reg) weights[0],
                    w1 = in(reg) weights[1],
                    stride = in(reg) STRIDE,
                    sums = in(reg) sums,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags),
                );
            }
        }

        /// # Safety
        /// As for two row tiles.
        unsafe fn $one(x: *const i8, weights: [*const i8; 2], sums: *mut SumTile) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {stride}*1]",
                    "tileloadd tmm1, [{sums} + {stride}*1 + 1024]",
                    quarter_1x2!($dot, 0),
                    quarter_1x2!($dot, 1),
                    quarter_1x2!($dot, 2),
                    quarter_1x2!($dot, 3),
                    "tilestored [{sums} + {stride}*1], tmm0",
                    "tilestored [{sums} + {stride}*1 + 1024], tmm1",
                    x0 = in(reg) x,
                    w0 = in(reg) weights[0],
                    w1 = in(reg) weights[1],
                    stride = in(reg) STRIDE,
                    sums = in(reg) sums,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

add_products!(int8_2x2, int8_1x2, "tdpbssd");
add_products!(bf16_2x2, bf16_1x2, "tdpbf16ps");

/// Adds the products of a group to its sums. Sums of tiles that the group has not, but an even
/// number of tiles would have, hold anything afterwards.
///
/// # Safety
/// The machine must have the instructions; the operands must have the group.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply(
    _tiles: &Tiles,
    operands: &Operands<'_>,
    group: Group,
    product: Product,
    sums: &mut Sums,
) {
    assert!(group.row_tiles <= GROUP && group.tiles <= GROUP);
    let mut row = 0;
    while row < group.row_tiles {
        let rows =
            if group.row_tiles - row >= 2 && row % 2 == 0 { group.row_tiles / 2 * 2 } else { 1 };
        // SAFETY: the caller's promise.
        unsafe {
            match product {
                Product::ScaledInt8 if rows == 1 => scaled_rows::<1>(operands, group, row, 1, sums),
                Product::ScaledInt8 => scaled_rows::<2>(operands, group, row, rows, sums),
                Product::Int8 => {
                    added_rows(operands, group, row, rows, sums, int8_2x2, int8_1x2);
                }
                Product::Bf16 => added_rows(operands, group, row, rows, sums, bf16_2x2, bf16_1x2),
            }
        }
        row += rows;
    }
}

/// Two row tiles by two weight tiles, onto sums.
type TwoByTwo = unsafe fn([*const i8; 2], [*const i8; 2], *mut SumTile);
/// One row tile by two weight tiles, onto sums.
type OneByTwo = unsafe fn(*const i8, [*const i8; 2], *mut SumTile);

/// The rows `row ..` of a group, an even number or one, block after block.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn added_rows(
    operands: &Operands<'_>,
    group: Group,
    row: usize,
    rows: usize,
    sums: &mut Sums,
    two: TwoByTwo,
    one: OneByTwo,
) {
    for block in 0..operands.blocks {
        for row in (row..row + rows).step_by(2) {
            for tile in (0..group.tiles).step_by(2) {
                let x = |at: usize| operands.x(group.row_tile + row + at, block);
                let weights = weights_of_two(operands, group, tile, block);
                let sums = (&raw mut sums[row][tile]).cast::<SumTile>();
                // SAFETY: the operands have these blocks; there are sums of two by two tiles.
                unsafe {
                    if rows == 1 {
                        one(x(0), weights, sums);
                    } else {
                        two([x(0), x(1)], weights, sums);
                    }
                }
            }
        }
    }
}

/// The blocks of two weight tiles; twice the same where there is no second one.
#[inline(always)]
fn weights_of_two(
    operands: &Operands<'_>,
    group: Group,
    tile: usize,
    block: usize,
) -> [*const i8; 2] {
    let second = (tile + 1).min(group.tiles - 1);
    [tile, second].map(|tile| operands.weights(group.tile + tile, block))
}

/// The rows `row ..` of a group, `ROWS` (1 or 2) tiles at a time, block after block, each block
/// with its scales.
///
/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn scaled_rows<const ROWS: usize>(
    operands: &Operands<'_>,
    group: Group,
    row: usize,
    rows: usize,
    sums: &mut Sums,
) {
    let start = (&raw mut *sums).cast::<SumTile>();
    let (mut products, mut waiting) = (&mut [SumTile::ZERO; 4], &mut [SumTile::ZERO; 4]);
    // Before the first step nothing waits: zeros times zeros.
    let none = NO_SCALES.as_ptr();
    let first = start.wrapping_add(row * GROUP);
    let mut place = Waiting { sums: first, x_scales: none, weight_scales: none };
    for block in 0..operands.blocks {
        for row in (row..row + rows).step_by(ROWS) {
            let x_scales = operands.x_scales(group.row_tile + row, ROWS, block).as_ptr();
            for tile in (0..group.tiles).step_by(2) {
                let x = |at: usize| operands.x(group.row_tile + row + at, block);
                let weights = weights_of_two(operands, group, tile, block);
                // SAFETY: the operands have these blocks and scales; there are sums of two by two
                // tiles, or of one by two.
                unsafe {
                    if ROWS == 1 {
                        scaled_1x2(x(0), weights, products, waiting, place);
                    } else {
                        scaled_2x2([x(0), x(1)], weights, products, waiting, place);
                    }
                }
                std::mem::swap(&mut products, &mut waiting);
                place = Waiting {
                    sums: start.wrapping_add(row * GROUP + tile),
                    x_scales,
                    weight_scales: operands.weight_scales(group.tile + tile, 2, block).as_ptr(),
                };
            }
        }
    }
    // SAFETY: what the last step left has its place in the sums and its scales.
    unsafe { scale_last::<ROWS>(waiting, place) };
}

/// Scales what the last step has left.
///
/// # Safety
/// As for [`scaled_2x2`].
#[target_feature(enable = "avx512f")]
unsafe fn scale_last<const ROWS: usize>(waiting: &Step, place: Waiting) {
    for row in 0..ROWS {
        for tile in 0..2 {
            let products = waiting[2 * row + tile].i32();
            // SAFETY: the sums have these tiles, and each tile its scales.
            let (sums, x_scales, weight_scales) = unsafe {
                (
                    &mut (*place.sums.add(row * GROUP + tile)).0,
                    std::slice::from_raw_parts(place.x_scales.add(row * TILE), TILE),
                    std::slice::from_raw_parts(place.weight_scales.add(tile * TILE), TILE),
                )
            };
            let lines = sums.chunks_exact_mut(TILE).zip(products.chunks_exact(TILE));
            for ((sums, products), &x_scale) in lines.zip(x_scales) {
                for ((sum, &product), &scale) in sums.iter_mut().zip(products).zip(weight_scales) {
                    *sum = (product as f32).mul_add(x_scale * scale, *sum);
                }
            }
        }
    }
}
