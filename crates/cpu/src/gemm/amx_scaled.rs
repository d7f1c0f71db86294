//! The loops of [`crate::gemm::amx_products`] in which vector units scale what the tile unit has multiplied, while
//! that goes on.

use std::arch::asm;
use std::arch::x86_64::{__m512i, _mm512_set1_epi32, _mm512_setzero_si512};

use crate::gemm::amx_steps::*;
use crate::gemm::tile::TILE;

/// For each row of a tile, a register that makes `vpermps` spread its number.
#[target_feature(enable = "avx512f")]
fn lanes() -> [__m512i; TILE] {
    let mut lanes = [_mm512_setzero_si512(); TILE];
    for (lane, number) in lanes.iter_mut().zip(0..) {
        *lane = _mm512_set1_epi32(number);
    }
    lanes
}

/// Stores a tile of products of the step before, and begins again from zero.
macro_rules! renew {
    ($tile:literal) => {
        concat!(
            "tilestored [{products} + {stride}*1 + 1024*",
            $tile,
            "], tmm",
            $tile,
            "\n",
            "tilezero tmm",
            $tile,
            "\n",
        )
    };
}

/// Keeps a row of sums.
macro_rules! to_sums {
    ($tile:literal, $row:literal) => {
        concat!("vmovaps zmmword ptr [{to} + 1024*", $tile, " + 64*", $row, "], zmm0\n")
    };
}

/// Writes a row of sums as results, and goes to the next row.
macro_rules! to_results {
    ($tile:literal, $row:literal) => {
        "vmovups zmmword ptr [{to}], zmm0\nadd {to}, {apart}\n"
    };
}

/// As `to_results`, past the caches: rows must begin where cache lines do.
macro_rules! past_caches {
    ($tile:literal, $row:literal) => {
        "vmovntps zmmword ptr [{to}], zmm0\nadd {to}, {apart}\n"
    };
}

/// As `to_results`, onto what is there.
macro_rules! onto_results {
    ($tile:literal, $row:literal) => {
        concat!("vaddps zmm0, zmm0, zmmword ptr [{to}]\n", to_results!($tile, $row))
    };
}

/// Scales rows of a tile: `sum = fma(product as f32, x_scale * weight_scale, sum)`.
macro_rules! scale {
    ($to:ident, $tile:literal, $x:literal, $weights:literal, $($row:literal)+) => {
        concat!($(
            "vcvtdq2ps zmm0, zmmword ptr [{products} + 1024*", $tile, " + 64*", $row, "]\n",
            "vpermps zmm1, {lane", $row, "}, ", $x, "\n",
            "vmulps zmm1, zmm1, ", $weights, "\n",
            "vfmadd213ps zmm0, zmm1, zmmword ptr [{from} + 1024*", $tile, " + 64*", $row, "]\n",
            $to!($tile, $row),
        )+)
    };
}

/// Multiplies what a step has, `$quarters`, while the products of the one before it are scaled and go `$to`.
/// `$right` and `$left` go from the end of a tile of results to the beginning of the other one of the same rows,
/// and of the first one of the next rows.
macro_rules! scaled_step {
    ($quarters:ident, $to:ident, $right:literal, $left:literal) => {
        concat!(
            "mov {from}, [{step} + {from_at}]\n",
            "mov {to}, [{step} + {to_at}]\n",
            "mov {x0}, [{step} + {x_scales_at}]\n",
            "vmovups zmm28, zmmword ptr [{x0}]\n",
            "vmovups zmm29, zmmword ptr [{x0} + 64]\n",
            "mov {x0}, [{step} + {weights_at}]\n",
            "mov {x0}, [{x0} + {scales_at}]\n",
            "vmovups zmm30, zmmword ptr [{x0}]\n",
            "vmovups zmm31, zmmword ptr [{x0} + 64]\n",
            "add {step}, {size}\n",
            "mov {x0}, [{step}]\n",
            "mov {x1}, [{step} + 8]\n",
            "mov {w1}, [{step} + {weights_at}]\n",
            "mov {fetch}, [{step} + {fetch_at}]\n",
            "mov {w0}, [{w1}]\n",
            "mov {w1}, [{w1} + 8]\n",
            $quarters!($to, $right, $left),
            "dec {count}\n",
            "jnz 2b\n",
        )
    };
}

/// A block.
macro_rules! four_quarters {
    ($to:ident, $right:literal, $left:literal) => {
        concat!(
            quarter!("tdpbssd", 0,
                concat!(renew!(0), fetch!()),
                concat!(renew!(1), fetch!()),
                concat!(renew!(2), fetch!()),
                concat!(renew!(3), fetch!())),
            quarter!("tdpbssd", 1,
                scale!($to, 0, "zmm28", "zmm30", 0 1 2 3),
                scale!($to, 0, "zmm28", "zmm30", 4 5 6 7),
                scale!($to, 0, "zmm28", "zmm30", 8 9 10 11),
                concat!(scale!($to, 0, "zmm28", "zmm30", 12 13 14 15), $right)),
            quarter!("tdpbssd", 2,
                scale!($to, 1, "zmm28", "zmm31", 0 1 2 3 4 5),
                scale!($to, 1, "zmm28", "zmm31", 6 7 8 9 10 11),
                concat!(scale!($to, 1, "zmm28", "zmm31", 12 13 14 15), $left,
                    scale!($to, 2, "zmm29", "zmm30", 0 1)),
                scale!($to, 2, "zmm29", "zmm30", 2 3 4 5 6 7)),
            quarter!("tdpbssd", 3,
                scale!($to, 2, "zmm29", "zmm30", 8 9 10 11 12 13),
                concat!(scale!($to, 2, "zmm29", "zmm30", 14 15), $right,
                    scale!($to, 3, "zmm29", "zmm31", 0 1 2 3)),
                scale!($to, 3, "zmm29", "zmm31", 4 5 6 7 8 9),
                scale!($to, 3, "zmm29", "zmm31", 10 11 12 13 14 15)),
        )
    };
}

/// Scales a whole tile.
macro_rules! scale_tile {
    ($to:ident, $tile:literal, $x:literal, $weights:literal) => {
        scale!($to, $tile, $x, $weights, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
}

/// Half of a block.
macro_rules! two_quarters {
    ($to:ident, $right:literal, $left:literal) => {
        concat!(
            quarter!(
                "tdpbssd",
                0,
                concat!(renew!(0), fetch!()),
                renew!(1),
                concat!(renew!(2), fetch!()),
                renew!(3)
            ),
            quarter!(
                "tdpbssd",
                1,
                concat!(scale_tile!($to, 0, "zmm28", "zmm30"), $right),
                concat!(scale_tile!($to, 1, "zmm28", "zmm31"), $left),
                concat!(scale_tile!($to, 2, "zmm29", "zmm30"), $right),
                scale_tile!($to, 3, "zmm29", "zmm31")
            ),
        )
    };
}

/// A quarter of a block, or half of that: as many columns as tiles are configured for.
macro_rules! one_quarter {
    ($to:ident, $right:literal, $left:literal) => {
        concat!(
            quarter!("tdpbssd", 0, concat!(renew!(0), fetch!()), renew!(1), renew!(2), renew!(3)),
            scale_tile!($to, 0, "zmm28", "zmm30"),
            $right,
            scale_tile!($to, 1, "zmm28", "zmm31"),
            $left,
            scale_tile!($to, 2, "zmm29", "zmm30"),
            $right,
            scale_tile!($to, 3, "zmm29", "zmm31"),
        )
    };
}

/// Adds the products of `steps`, each of one span of columns, times their scales to their sums, but those of the
/// last one: they are left in `products`. The first step is what is scaled while the second one is
/// multiplied, without products of its own.
///
/// # Safety
/// Tiles must be configured for spans as short as that, and the machine have the instructions. Of each step,
/// the pointers must be to a span, sums, or results in rows of `to_stride` bytes, and scales.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add_scaled(
    steps: &[Step],
    span: usize,
    to_stride: usize,
    products: *mut Square,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match span {
            256 => add_blocks(steps, to_stride, products),
            128 => add_halves(steps, to_stride, products),
            _ => add_quarters(steps, to_stride, products),
        }
    }
}

/// Makes an [`add_scaled`] for steps of `$quarters`.
macro_rules! add_scaled {
    ($name:ident, $quarters:ident) => {
        /// # Safety
        /// As for [`add_scaled`].
        #[target_feature(enable = "avx512f")]
        unsafe fn $name(steps: &[Step], to_stride: usize, products: *mut Square) {
            if steps.len() < 2 {
                return;
            }
            let lanes = lanes();
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "mov {x0}, [{step} + {what_at}]",
                    "cmp {x0}, {past_caches}",
                    "je 3f",
                    "ja 4f",
                    "test {x0}, {x0}",
                    "jnz 6f",
                    scaled_step!($quarters, to_sums, "", ""),
                    "jmp 5f",
                    "3:",
                    scaled_step!($quarters, past_caches, "add {to}, {right}\n", "sub {to}, 64\n"),
                    "jmp 5f",
                    "6:",
                    scaled_step!($quarters, to_results, "add {to}, {right}\n", "sub {to}, 64\n"),
                    "jmp 5f",
                    "4:",
                    scaled_step!($quarters, onto_results, "add {to}, {right}\n", "sub {to}, 64\n"),
                    "5:",
                    "tilestored [{products} + {stride}*1], tmm0",
                    "tilestored [{products} + {stride}*1 + 1024], tmm1",
                    "tilestored [{products} + {stride}*1 + 2048], tmm2",
                    "tilestored [{products} + {stride}*1 + 3072], tmm3",
                    step = inout(reg) steps.as_ptr() => _,
                    count = inout(reg) steps.len() - 1 => _,
                    x0 = out(reg) _,
                    x1 = out(reg) _,
                    w0 = out(reg) _,
                    w1 = out(reg) _,
                    from = out(reg) _,
                    to = out(reg) _,
                    apart = in(reg) to_stride,
                    right = in(reg) 64usize.wrapping_sub(TILE * to_stride),
                    products = in(reg) products,
                    fetch = out(reg) _,
                    lane0 = in(zmm_reg) lanes[0],
                    lane1 = in(zmm_reg) lanes[1],
                    lane2 = in(zmm_reg) lanes[2],
                    lane3 = in(zmm_reg) lanes[3],
                    lane4 = in(zmm_reg) lanes[4],
                    lane5 = in(zmm_reg) lanes[5],
                    lane6 = in(zmm_reg) lanes[6],
                    lane7 = in(zmm_reg) lanes[7],
                    lane8 = in(zmm_reg) lanes[8],
                    lane9 = in(zmm_reg) lanes[9],
                    lane10 = in(zmm_reg) lanes[10],
                    lane11 = in(zmm_reg) lanes[11],
                    lane12 = in(zmm_reg) lanes[12],
                    lane13 = in(zmm_reg) lanes[13],
                    lane14 = in(zmm_reg) lanes[14],
                    lane15 = in(zmm_reg) lanes[15],
                    stride = in(reg) STRIDE,
                    fetch_at = const FETCH,
                    fetch_stride = const FETCH_STRIDE,
                    weights_at = const WEIGHTS,
                    scales_at = const SCALES,
                    from_at = const FROM,
                    to_at = const TO,
                    what_at = const WHAT,
                    past_caches = const PAST_CACHES,
                    x_scales_at = const X_SCALES,
                    size = const STEP,
                    out("zmm0") _, out("zmm1") _,
                    out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

add_scaled!(add_blocks, four_quarters);
add_scaled!(add_halves, two_quarters);
add_scaled!(add_quarters, one_quarter);

/// Scales rows of a tile of whole products: `result = product as f32 * x_scale * weight_scale`.
macro_rules! scale_whole {
    ($to:ident, $tile:literal, $x:literal, $weights:literal, $($row:literal)+) => {
        concat!($(
            "vpermps zmm1, {lane", $row, "}, ", $x, "\n",
            "vcvtdq2ps zmm0, zmmword ptr [{products} + 1024*", $tile, " + 64*", $row, "]\n",
            "vmulps zmm0, zmm0, zmm1\n",
            "vmulps zmm0, zmm0, ", $weights, "\n",
            $to!($tile, $row),
        )+)
    };
}

/// All but the first quarter of a block, while the products of the step before become results.
macro_rules! finishing_quarters {
    ($to:ident) => {
        concat!(
            "mov {to}, [{step} - {size} + {x_scales_at}]\n",
            "vmovups zmm28, zmmword ptr [{to}]\n",
            "vmovups zmm29, zmmword ptr [{to} + 64]\n",
            "mov {to}, [{step} - {size} + {weights_at}]\n",
            "mov {to}, [{to} + {scales_at}]\n",
            "vmovups zmm30, zmmword ptr [{to}]\n",
            "vmovups zmm31, zmmword ptr [{to} + 64]\n",
            "mov {to}, [{step} - {size} + {to_at}]\n",
            // To the second tile of the same rows: 64 bytes less 16 rows.
            "mov {apart}, [{step} - {size} + {to_stride_at}]\n",
            "mov {from}, {apart}\n",
            "shl {from}, 4\n",
            "neg {from}\n",
            "add {from}, 64\n",
            quarter!("tdpbssd", 1,
                concat!(fetch!(), scale_whole!($to, 0, "zmm28", "zmm30", 0 1 2 3)),
                scale_whole!($to, 0, "zmm28", "zmm30", 4 5 6 7),
                scale_whole!($to, 0, "zmm28", "zmm30", 8 9 10 11),
                concat!(scale_whole!($to, 0, "zmm28", "zmm30", 12 13 14 15), "add {to}, {from}\n")),
            quarter!("tdpbssd", 2,
                concat!(fetch!(), scale_whole!($to, 1, "zmm28", "zmm31", 0 1 2 3 4 5)),
                scale_whole!($to, 1, "zmm28", "zmm31", 6 7 8 9 10 11),
                concat!(fetch!(), scale_whole!($to, 1, "zmm28", "zmm31", 12 13 14 15),
                    "sub {to}, 64\n", scale_whole!($to, 2, "zmm29", "zmm30", 0 1)),
                scale_whole!($to, 2, "zmm29", "zmm30", 2 3 4 5 6 7)),
            quarter!("tdpbssd", 3,
                concat!(fetch!(), scale_whole!($to, 2, "zmm29", "zmm30", 8 9 10 11 12 13)),
                concat!(scale_whole!($to, 2, "zmm29", "zmm30", 14 15), "add {to}, {from}\n",
                    scale_whole!($to, 3, "zmm29", "zmm31", 0 1 2 3)),
                scale_whole!($to, 3, "zmm29", "zmm31", 4 5 6 7 8 9),
                scale_whole!($to, 3, "zmm29", "zmm31", 10 11 12 13 14 15)),
        )
    };
}

/// Adds the products of `steps` to their sums, or makes results of them; those of the last one are left in
/// `products`. The first step is not multiplied.
///
/// # Safety
/// Tiles must be configured, and the machine have the instructions. Of each step, the pointers must be to
/// `blocks` blocks, at least one, to sums, or results in rows of `to_stride` bytes, and to scales.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn make_int8(steps: &[Step], products: *mut Square) {
    if steps.len() < 2 {
        return;
    }
    let lanes = lanes();
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "2:",
            // What the step before has made goes to its sums, or where it is scaled.
            "mov {from}, [{step} + {what_at}]",
            "mov {to}, [{step} + {to_at}]",
            "test {from}, {from}",
            "cmovnz {to}, {products}",
            "add {step}, {size}",
            "mov {x0}, [{step}]",
            "mov {x1}, [{step} + 8]",
            "mov {weights}, [{step} + {weights_at}]",
            "mov {from}, [{step} + {from_at}]",
            "mov {apart}, [{step} + {from_stride}]",
            "mov {w0}, [{weights}]",
            "mov {w1}, [{weights} + 8]",
            "mov {fetch}, [{step} + {fetch_at}]",
            quarter!("tdpbssd", 0, exchange!(0), exchange!(1), exchange!(2), exchange!(3)),
            "cmp qword ptr [{step} - {size} + {what_at}], {past_caches}",
            "je 3f",
            "ja 4f",
            "cmp qword ptr [{step} - {size} + {what_at}], {to_sums}",
            "jne 8f",
            quarter!("tdpbssd", 1, fetch!(), "", "", ""),
            quarter!("tdpbssd", 2, fetch!(), "", fetch!(), ""),
            quarter!("tdpbssd", 3, fetch!(), "", "", ""),
            "jmp 5f",
            "3:",
            finishing_quarters!(past_caches),
            "jmp 5f",
            "8:",
            finishing_quarters!(to_results),
            "jmp 5f",
            "4:",
            finishing_quarters!(onto_results),
            "5:",
            "mov {from}, [{step} + {blocks_at}]",
            "jmp 7f",
            "6:",
            "add {weights}, {each_weights}",
            "add {x0}, 4096",
            "add {x1}, 4096",
            "mov {w0}, [{weights}]",
            "mov {w1}, [{weights} + 8]",
            quarter!("tdpbssd", 0, fetch!(), "", "", ""),
            quarter!("tdpbssd", 1, fetch!(), "", "", ""),
            quarter!("tdpbssd", 2, fetch!(), "", "", ""),
            quarter!("tdpbssd", 3, fetch!(), "", "", ""),
            "7:",
            "dec {from}",
            "jnz 6b",
            "dec {count}",
            "jnz 2b",
            "tilestored [{products} + {stride}*1], tmm0",
            "tilestored [{products} + {stride}*1 + 1024], tmm1",
            "tilestored [{products} + {stride}*1 + 2048], tmm2",
            "tilestored [{products} + {stride}*1 + 3072], tmm3",
            step = inout(reg) steps.as_ptr() => _,
            count = inout(reg) steps.len() - 1 => _,
            x0 = out(reg) _,
            x1 = out(reg) _,
            w0 = out(reg) _,
            w1 = out(reg) _,
            weights = out(reg) _,
            from = out(reg) _,
            to = out(reg) _,
            products = in(reg) products,
            fetch = out(reg) _,
            apart = out(reg) _,
            stride = in(reg) STRIDE,
            lane0 = in(zmm_reg) lanes[0],
            lane1 = in(zmm_reg) lanes[1],
            lane2 = in(zmm_reg) lanes[2],
            lane3 = in(zmm_reg) lanes[3],
            lane4 = in(zmm_reg) lanes[4],
            lane5 = in(zmm_reg) lanes[5],
            lane6 = in(zmm_reg) lanes[6],
            lane7 = in(zmm_reg) lanes[7],
            lane8 = in(zmm_reg) lanes[8],
            lane9 = in(zmm_reg) lanes[9],
            lane10 = in(zmm_reg) lanes[10],
            lane11 = in(zmm_reg) lanes[11],
            lane12 = in(zmm_reg) lanes[12],
            lane13 = in(zmm_reg) lanes[13],
            lane14 = in(zmm_reg) lanes[14],
            lane15 = in(zmm_reg) lanes[15],
            weights_at = const WEIGHTS,
            scales_at = const SCALES,
            blocks_at = const BLOCKS,
            from_at = const FROM,
            from_stride = const FROM_STRIDE,
            to_at = const TO,
            to_stride_at = const TO_STRIDE,
            what_at = const WHAT,
            to_sums = const TO_SUMS,
            past_caches = const PAST_CACHES,
            x_scales_at = const X_SCALES,
            fetch_at = const FETCH,
            fetch_stride = const FETCH_STRIDE,
            size = const STEP,
            each_weights = const EACH_WEIGHTS,
            out("zmm0") _, out("zmm1") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
