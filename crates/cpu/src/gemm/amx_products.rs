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
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::amx::Tiles;
use super::block::{Block, SumTile, TILE};
use super::operands::{
    AHEAD_BYTES, Ahead, GROUP_ROWS, GROUP_TILES, Group, Operands, Panel, Product, Sums,
};

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
            quarter_2x2!("tdpbssd", 2; "2048", "2048", "64", "zmm30"),
            quarter_2x2!("tdpbssd", 3; "3072", "3072", "64", "zmm31"),
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

/// Fetches the next `per_block` addresses ahead, 512 bytes each, into the second level of cache.
macro_rules! fetch_ahead {
    () => {
        concat!(
            "mov rcx, {per_block}\n",
            "test rcx, rcx\n",
            "jz 4f\n",
            "3:\n",
            "mov {w0}, [{ahead}]\n",
            "add {ahead}, 8\n",
            "prefetcht1 [{w0}]\n",
            "prefetcht1 [{w0} + 64]\n",
            "prefetcht1 [{w0} + 128]\n",
            "prefetcht1 [{w0} + 192]\n",
            "prefetcht1 [{w0} + 256]\n",
            "prefetcht1 [{w0} + 320]\n",
            "prefetcht1 [{w0} + 384]\n",
            "prefetcht1 [{w0} + 448]\n",
            "dec rcx\n",
            "jnz 3b\n",
            "4:\n",
            "mov {w0}, [{weights0} + {at}]\n",
        )
    };
}

/// Makes the functions that add the products of a run of blocks to sums: two row tiles by two weight
/// tiles, and one by two.
macro_rules! add_products {
    ($two:ident, $one:ident, $dot:literal) => {
        /// # Safety
        /// Tiles must be configured; there must be `blocks` (at least one) blocks at each pointer of
        /// `x` and pointers to panels at each of `weights`, and `ahead` addresses for each.
        unsafe fn $two(
            x: [*const Block; 2],
            weights: [*const &Panel; 2],
            blocks: usize,
            (ahead, ahead_per_block): (*const *const i8, usize),
            sums: *mut SumTile,
        ) {
            // SAFETY: the caller's promise. Fetching ahead cannot fault.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {stride}*1]",
                    "tileloadd tmm1, [{sums} + {stride}*1 + 1024]",
                    "tileloadd tmm2, [{sums} + {stride}*1 + 2048]",
                    "tileloadd tmm3, [{sums} + {stride}*1 + 3072]",
                    "2:",
                    "mov {w0}, [{weights0} + {at}]",
                    "mov {w1}, [{weights1} + {at}]",
                    quarter_2x2!($dot, 0),
                    quarter_2x2!($dot, 1),
                    fetch_ahead!(),
                    quarter_2x2!($dot, 2),
                    quarter_2x2!($dot, 3),
                    "add {x0}, 4096",
                    "add {x1}, 4096",
                    "add {at}, 8",
                    "dec {blocks}",
                    "jnz 2b",
                    "tilestored [{sums} + {stride}*1], tmm0",
                    "tilestored [{sums} + {stride}*1 + 1024], tmm1",
                    "tilestored [{sums} + {stride}*1 + 2048], tmm2",
                    "tilestored [{sums} + {stride}*1 + 3072], tmm3",
                    x0 = inout(reg) x[0] => _,
                    x1 = inout(reg) x[1] => _,
                    weights0 = in(reg) weights[0],
                    weights1 = in(reg) weights[1],
                    w0 = out(reg) _,
                    w1 = out(reg) _,
                    at = inout(reg) 0usize => _,
                    blocks = inout(reg) blocks => _,
                    ahead = inout(reg) ahead => _,
                    per_block = in(reg) ahead_per_block,
                    stride = in(reg) STRIDE,
                    sums = in(reg) sums,
                    out("rcx") _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }

        /// # Safety
        /// As for two row tiles.
        unsafe fn $one(
            x: *const Block,
            weights: [*const &Panel; 2],
            blocks: usize,
            (ahead, ahead_per_block): (*const *const i8, usize),
            sums: *mut SumTile,
        ) {
            // SAFETY: the caller's promise. Fetching ahead cannot fault.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {stride}*1]",
                    "tileloadd tmm1, [{sums} + {stride}*1 + 1024]",
                    "2:",
                    "mov {w0}, [{weights0} + {at}]",
                    "mov {w1}, [{weights1} + {at}]",
                    quarter_1x2!($dot, 0),
                    quarter_1x2!($dot, 1),
                    fetch_ahead!(),
                    quarter_1x2!($dot, 2),
                    quarter_1x2!($dot, 3),
                    "add {x0}, 4096",
                    "add {at}, 8",
                    "dec {blocks}",
                    "jnz 2b",
                    "tilestored [{sums} + {stride}*1], tmm0",
                    "tilestored [{sums} + {stride}*1 + 1024], tmm1",
                    x0 = inout(reg) x => _,
                    weights0 = in(reg) weights[0],
                    weights1 = in(reg) weights[1],
                    w0 = out(reg) _,
                    w1 = out(reg) _,
                    at = inout(reg) 0usize => _,
                    blocks = inout(reg) blocks => _,
                    ahead = inout(reg) ahead => _,
                    per_block = in(reg) ahead_per_block,
                    stride = in(reg) STRIDE,
                    sums = in(reg) sums,
                    out("rcx") _,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

add_products!(int8_2x2, int8_1x2, "tdpbssd");
add_products!(bf16_2x2, bf16_1x2, "tdpbf16ps");

/// Adds the products of a group to its sums. Sums of a second weight tile that the group has not
/// hold anything afterwards.
///
/// # Safety
/// The machine must have the instructions.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply(
    _tiles: &Tiles,
    operands: &Operands<'_>,
    group: Group,
    product: Product,
    ahead: &mut Ahead,
    sums: &mut Sums,
) {
    assert!(group.row_tiles <= GROUP_ROWS && (1..=GROUP_TILES).contains(&group.tiles));
    if operands.blocks == 0 {
        return;
    }
    for row in (0..group.row_tiles).step_by(2) {
        let pair = group.row_tiles - row >= 2;
        let sums = &mut sums[row..];
        // SAFETY: the caller's promise; there are sums for the row tiles.
        unsafe {
            match (product, pair) {
                (Product::ScaledInt8, true) => {
                    scaled::<2>(operands, group, group.row_tile + row, ahead, sums);
                }
                (Product::ScaledInt8, false) => {
                    scaled::<1>(operands, group, group.row_tile + row, ahead, sums);
                }
                (Product::Int8, _) => {
                    added(operands, group, row, pair, ahead, sums, int8_2x2, int8_1x2);
                }
                (Product::Bf16, _) => {
                    added(operands, group, row, pair, ahead, sums, bf16_2x2, bf16_1x2);
                }
            }
        }
    }
}

/// Addresses to fetch, and how many go with each block.
type Fetch = (*const *const i8, usize);
/// Two row tiles by two weight tiles, onto sums.
type TwoByTwo = unsafe fn([*const Block; 2], [*const &Panel; 2], usize, Fetch, *mut SumTile);
/// One row tile by two weight tiles, onto sums.
type OneByTwo = unsafe fn(*const Block, [*const &Panel; 2], usize, Fetch, *mut SumTile);

/// One or two row tiles of a group, from `row` on, with all blocks.
///
/// # Safety
/// The machine must have the instructions and `sums` as many row tiles.
#[allow(clippy::too_many_arguments)] // Two kinds of products times two shapes, in one place.
#[inline(always)]
unsafe fn added(
    operands: &Operands<'_>,
    group: Group,
    row: usize,
    pair: bool,
    ahead: &mut Ahead,
    sums: &mut [[SumTile; GROUP_TILES]],
    two: TwoByTwo,
    one: OneByTwo,
) {
    let x = |at: usize| operands.x_row(group.row_tile + row + at).as_ptr();
    let weights = tiles_of(group).map(|tile| operands.weights_row(tile).as_ptr());
    let (addresses, per_block) = ahead.take(operands.blocks);
    let fetch = (addresses.as_ptr(), per_block);
    let sums = sums.as_mut_ptr().cast();
    // SAFETY: the operands have these blocks, and the caller vouches for the rest.
    unsafe {
        if pair {
            two([x(0), x(1)], weights, operands.blocks, fetch, sums);
        } else {
            one(x(0), weights, operands.blocks, fetch, sums);
        }
    }
}

/// The two weight tiles of a group; twice the same where there is no second one.
fn tiles_of(group: Group) -> [usize; 2] {
    [group.tile, group.tile + group.tiles - 1]
}

/// `ROWS` (1 or 2) row tiles, from `row_tile` on, with all blocks, each with its scales.
///
/// # Safety
/// The machine must have the instructions and `sums` as many row tiles.
#[target_feature(enable = "avx512f")]
unsafe fn scaled<const ROWS: usize>(
    operands: &Operands<'_>,
    group: Group,
    row_tile: usize,
    ahead: &mut Ahead,
    sums: &mut [[SumTile; GROUP_TILES]],
) {
    let sums = sums.as_mut_ptr().cast();
    let (mut products, mut waiting) = (&mut [SumTile::ZERO; 4], &mut [SumTile::ZERO; 4]);
    // Before the first step nothing waits: zeros times zeros.
    let none = NO_SCALES.as_ptr();
    let mut place = Waiting { sums, x_scales: none, weight_scales: none };
    let x: [_; ROWS] = std::array::from_fn(|at| operands.x_row(row_tile + at));
    let weights = tiles_of(group).map(|tile| operands.weights_row(tile));
    let (addresses, per_block) = ahead.take(operands.blocks);
    for block in 0..operands.blocks {
        for &address in addresses.get(block * per_block..(block + 1) * per_block).unwrap_or(&[]) {
            for line in (0..AHEAD_BYTES).step_by(64) {
                // SAFETY: fetching cannot fault.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(address.wrapping_add(line)) };
            }
        }
        let weights = weights.map(|weights| weights[block].as_ptr());
        let x = x.map(|x| x[block].0.as_ptr());
        // SAFETY: whole blocks; the scales of two tiles, and of `ROWS`; sums of `ROWS` by two.
        unsafe {
            if ROWS == 1 {
                scaled_1x2(x[0], weights, products, waiting, place);
            } else {
                scaled_2x2([x[0], x[ROWS - 1]], weights, products, waiting, place);
            }
        }
        std::mem::swap(&mut products, &mut waiting);
        place.x_scales = operands.x_scales(row_tile, ROWS, block).as_ptr();
        place.weight_scales = operands.weight_scales(group.tile, 2, block).as_ptr();
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
                    &mut (*place.sums.add(row * GROUP_TILES + tile)).0,
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
