//! Products of tiles on the unit AMX.
//!
//! A step multiplies two row tiles by two weight tiles, each register loaded being used twice. All
//! steps of a group are one `asm!`, because nothing says that tile registers survive from one `asm!`
//! to the next, and because of what was measured on Sapphire Rapids: four tiles stored one after the
//! other hold the unit up for 60 cycles, and none when there are products between them. So a step
//! stores the tiles of the one before it, each just before it is used again.
//!
//! Sums stay in tile registers over all columns of a step. Where each block has its scales, a step is
//! one block, and the vector units scale its integers while the tile unit works on the next.
//!
//! Activations are loaded with a hint (`tileloaddt1`) that keeps them out of the first level of cache: they
//! go by, while weights, integers and sums stay there. Asking for them ahead is no gain then, since loads are
//! what there is most of: for the same reason the scales of rows are spread from a register.
//!
//! Memory of results is asked for between products, a few lines at a time: asked for all at once, it holds
//! everything up until most of it has come.

use std::arch::asm;
use std::arch::x86_64::{__m512i, _mm512_set1_epi32, _mm512_setzero_si512};
use std::mem::MaybeUninit;

use super::amx::Tiles;
use super::block::{Block, SumTile, TILE};
use super::operands::{
    Ahead, Direct, GROUP_ROWS, GROUP_TILES, Group, Operands, Panel, Product, Sums, Way,
};

/// Two row tiles by two weight tiles.
#[repr(C, align(4096))]
struct Square([[SumTile; 2]; 2]);

/// Row tiles that share a block of weights where each block has its scales.
const TURN_ROWS: usize = 4;

/// Blocks of weights that stay in the first level of cache while rows go by where they have no scales.
const INT8_BLOCKS: usize = 4;

/// Bytes from a row of a tile to the next.
const STRIDE: usize = 64;

/// Sums, and scales, of nothing.
static NOTHING: Square = Square([[SumTile::ZERO; 2]; 2]);

/// A block of two weight tiles, and their scales.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Weights {
    tiles: [*const Panel; 2],
    scales: *const f32,
}

/// What the assembler code of a step reads.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Step {
    /// The first of the step's blocks of both row tiles.
    x: [*const Block; 2],
    /// The first of the step's blocks of weights.
    weights: *const Weights,
    /// How many blocks there are, one after the other.
    blocks: usize,
    /// What the products are added to, and bytes from a row of its tiles to the next.
    from: *const Square,
    from_stride: usize,
    /// Where the sums go: a [`Square`], or results.
    to: *mut f32,
    /// One of [`TO_SUMS`], [`TO_RESULTS`], [`PAST_CACHES`] and [`ONTO_RESULTS`].
    what: usize,
    /// Bytes from a row of results to the next.
    to_stride: usize,
    /// Scales of two row tiles.
    x_scales: *const f32,
    /// The first row of memory that is asked for, and bytes to the next.
    fetch: *const u8,
    fetch_stride: usize,
}

/// In [`Step::what`]: the sums are kept.
const TO_SUMS: usize = 0;
/// In [`Step::what`]: they are results, and written as such.
const TO_RESULTS: usize = 1;
/// In [`Step::what`]: the same, past the caches.
const PAST_CACHES: usize = 2;
/// In [`Step::what`]: they are added to what is there.
const ONTO_RESULTS: usize = 3;

/// Rows whose memory is asked for with each block.
const FETCHED_ROWS: usize = 8;
/// So many blocks ask for all the memory of a step.
pub(super) const FETCHING_BLOCKS: usize = 2 * TILE / FETCHED_ROWS;

/// Bytes of a [`Step`], and where its parts are, for the assembler.
const STEP: usize = size_of::<Step>();
const WEIGHTS: usize = std::mem::offset_of!(Step, weights);
const BLOCKS: usize = std::mem::offset_of!(Step, blocks);
const FROM: usize = std::mem::offset_of!(Step, from);
const FROM_STRIDE: usize = std::mem::offset_of!(Step, from_stride);
const TO: usize = std::mem::offset_of!(Step, to);
const WHAT: usize = std::mem::offset_of!(Step, what);
const TO_STRIDE: usize = std::mem::offset_of!(Step, to_stride);
const X_SCALES: usize = std::mem::offset_of!(Step, x_scales);
const FETCH: usize = std::mem::offset_of!(Step, fetch);
const FETCH_STRIDE: usize = std::mem::offset_of!(Step, fetch_stride);
/// The same of [`Weights`].
const EACH_WEIGHTS: usize = size_of::<Weights>();
const SCALES: usize = std::mem::offset_of!(Weights, scales);

/// A quarter of a block: the four products, with what is to be done before each, and after the
/// loads that come with it.
macro_rules! quarter {
    ($dot:literal, $part:literal, $first:expr, $second:expr, $third:expr, $fourth:expr) => {
        concat!(
            $first,
            "tileloaddt1 tmm4, [{x0} + {stride}*1 + 1024*",
            $part,
            "]\n",
            "tileloadd tmm6, [{w0} + {stride}*1 + 1024*",
            $part,
            "]\n",
            $dot,
            " tmm0, tmm4, tmm6\n",
            $second,
            "tileloadd tmm7, [{w1} + {stride}*1 + 1024*",
            $part,
            "]\n",
            $dot,
            " tmm1, tmm4, tmm7\n",
            $third,
            "tileloaddt1 tmm5, [{x1} + {stride}*1 + 1024*",
            $part,
            "]\n",
            $dot,
            " tmm2, tmm5, tmm6\n",
            $fourth,
            $dot,
            " tmm3, tmm5, tmm7\n",
        )
    };
}

/// Asks for the memory of two rows, to write.
macro_rules! fetch {
    () => {
        concat!(
            "prefetchw [{fetch}]\n",
            "prefetchw [{fetch} + 64]\n",
            "add {fetch}, [{step} + {fetch_stride}]\n",
            "prefetchw [{fetch}]\n",
            "prefetchw [{fetch} + 64]\n",
            "add {fetch}, [{step} + {fetch_stride}]\n",
        )
    };
}

/// Stores a tile of sums of the step before, and loads that of this step.
macro_rules! exchange {
    ($tile:literal) => {
        concat!(
            "tilestored [{to} + {stride}*1 + 1024*",
            $tile,
            "], tmm",
            $tile,
            "\n",
            "tileloadd tmm",
            $tile,
            ", [{from} + {apart}*1 + 1024*",
            $tile,
            "]\n",
        )
    };
}

/// Makes a function that adds the products of `steps` to their sums.
macro_rules! add_products {
    ($name:ident, $dot:literal) => {
        /// # Safety
        /// Tiles must be configured. Of each step, the pointers must be to `blocks` blocks, at least
        /// one, and to sums.
        unsafe fn $name(steps: &[Step]) {
            // Where the first step stores tiles that hold nothing yet.
            let mut nowhere = MaybeUninit::<Square>::uninit();
            if steps.is_empty() {
                return;
            }
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "2:",
                    "mov {x0}, [{step}]",
                    "mov {x1}, [{step} + 8]",
                    "mov {weights}, [{step} + {weights_at}]",
                    "mov {blocks}, [{step} + {blocks_at}]",
                    "mov {from}, [{step} + {from_at}]",
                    "mov {apart}, [{step} + {from_stride}]",
                    "mov {w0}, [{weights}]",
                    "mov {w1}, [{weights} + 8]",
                    "mov {fetch}, [{step} + {fetch_at}]",
                    quarter!($dot, 0, exchange!(0), exchange!(1), exchange!(2), exchange!(3)),
                    quarter!($dot, 1, fetch!(), "", "", ""),
                    quarter!($dot, 2, fetch!(), "", fetch!(), ""),
                    quarter!($dot, 3, fetch!(), "", "", ""),
                    "jmp 4f",
                    "3:",
                    "add {weights}, {each_weights}",
                    "add {x0}, 4096",
                    "add {x1}, 4096",
                    "mov {w0}, [{weights}]",
                    "mov {w1}, [{weights} + 8]",
                    quarter!($dot, 0, fetch!(), "", "", ""),
                    quarter!($dot, 1, fetch!(), "", "", ""),
                    quarter!($dot, 2, fetch!(), "", "", ""),
                    quarter!($dot, 3, fetch!(), "", "", ""),
                    "4:",
                    "dec {blocks}",
                    "jnz 3b",
                    "mov {to}, [{step} + {to_at}]",
                    "add {step}, {size}",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{to} + {stride}*1], tmm0",
                    "tilestored [{to} + {stride}*1 + 1024], tmm1",
                    "tilestored [{to} + {stride}*1 + 2048], tmm2",
                    "tilestored [{to} + {stride}*1 + 3072], tmm3",
                    step = inout(reg) steps.as_ptr() => _,
                    count = inout(reg) steps.len() => _,
                    x0 = out(reg) _,
                    x1 = out(reg) _,
                    w0 = out(reg) _,
                    w1 = out(reg) _,
                    weights = out(reg) _,
                    blocks = out(reg) _,
                    from = out(reg) _,
                    to = inout(reg) nowhere.as_mut_ptr() => _,
                    fetch = out(reg) _,
                    apart = out(reg) _,
                    stride = in(reg) STRIDE,
                    weights_at = const WEIGHTS,
                    blocks_at = const BLOCKS,
                    from_at = const FROM,
                    from_stride = const FROM_STRIDE,
                    to_at = const TO,
                    fetch_at = const FETCH,
                    fetch_stride = const FETCH_STRIDE,
                    size = const STEP,
                    each_weights = const EACH_WEIGHTS,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

add_products!(add_int8, "tdpbssd");
add_products!(add_bf16, "tdpbf16ps");

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

/// Multiplies the blocks of a step while the products of the one before it are scaled and go `$to`. `$right`
/// and `$left` go from the end of a tile of results to the beginning of the other one of the same rows, and of
/// the first one of the next rows.
macro_rules! scaled_step {
    ($to:ident, $right:literal, $left:literal) => {
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
            "dec {count}\n",
            "jnz 2b\n",
        )
    };
}

/// Adds the products of `steps`, one block each, times their scales to their sums, but those of the
/// last one: they are left in `products`. The first step is what is scaled while the second one is
/// multiplied, without products of its own.
///
/// # Safety
/// Tiles must be configured, and the machine have the instructions. Of each step, the pointers must
/// be to a block, sums, or results in rows of `to_stride` bytes, and scales.
#[target_feature(enable = "avx512f")]
unsafe fn add_scaled(steps: &[Step], to_stride: usize, products: *mut Square) {
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
            scaled_step!(to_sums, "", ""),
            "jmp 5f",
            "3:",
            scaled_step!(past_caches, "add {to}, {right}\n", "sub {to}, 64\n"),
            "jmp 5f",
            "6:",
            scaled_step!(to_results, "add {to}, {right}\n", "sub {to}, 64\n"),
            "jmp 5f",
            "4:",
            scaled_step!(onto_results, "add {to}, {right}\n", "sub {to}, 64\n"),
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
unsafe fn make_int8(steps: &[Step], products: *mut Square) {
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

/// Adds the products of a group to its sums, or to zero if `fresh`; the last ones are written as results if
/// there is a place for them (whole products with scales by block, all rows and columns of an even number of
/// row tiles). Sums of row tiles and weight
/// tiles that the group has not hold anything afterwards.
///
/// # Safety
/// The machine must have the instructions; results of the group may be written.
#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments, reason = "a kernel's operands")]
pub(super) unsafe fn multiply(
    tiles: &mut Tiles,
    operands: &Operands<'_>,
    group: Group,
    product: Product,
    fresh: bool,
    ahead: Option<Ahead>,
    direct: Option<Direct>,
    sums: &mut Sums,
) {
    assert!((1..=GROUP_ROWS).contains(&group.row_tiles));
    assert!((1..=GROUP_TILES).contains(&group.tiles));
    let scaled = product == Product::ScaledInt8;
    let Tiles { steps, weights, .. } = tiles;
    // The tiles of a group that has only one of a kind are taken twice.
    let pair = [group.tile, group.tile + group.tiles - 1].map(|tile| operands.weights_row(tile));
    weights.clear();
    weights.extend((0..operands.blocks).map(|block| Weights {
        tiles: pair.map(|tile| &raw const *tile[block]),
        scales: match scaled || direct.is_some() {
            true => operands.weight_scales(group.tile, 2, block).as_ptr(),
            false => std::ptr::null(),
        },
    }));
    // What scaling begins with: products that mean nothing times zeros.
    let mut nowhere = MaybeUninit::<Square>::uninit();
    let no_weights = Weights { tiles: [std::ptr::null(); 2], scales: (&raw const NOTHING).cast() };
    let none = Step {
        x: [std::ptr::null(); 2],
        weights: &raw const no_weights,
        blocks: 0,
        from: &raw const NOTHING,
        from_stride: 0,
        to: nowhere.as_mut_ptr().cast(),
        what: TO_SUMS,
        to_stride: STRIDE,
        x_scales: (&raw const NOTHING).cast(),
        fetch: (&raw const NOTHING).cast(),
        fetch_stride: 0,
    };
    let squares = (&raw mut *sums).cast::<Square>();
    steps.clear();
    if scaled || direct.is_some() {
        steps.push(none);
    }
    // Row tiles that take turns with a block of weights while it is in the first level of cache: worth
    // it only where sums have to leave the tile registers after each block anyway.
    let (blocks, turn) = match product {
        Product::ScaledInt8 => (1, TURN_ROWS),
        Product::Int8 => (INT8_BLOCKS, GROUP_ROWS),
        Product::Bf16 => (2, GROUP_ROWS),
    };
    for first in (0..group.row_tiles).step_by(turn) {
        for block in (0..operands.blocks).step_by(blocks) {
            for row in (first..group.row_tiles.min(first + turn)).step_by(2) {
                let rows = [row, (row + 1).min(group.row_tiles - 1)];
                let x = rows.map(|row| &raw const *operands.x(group.row_tile + row, block));
                let sums = squares.wrapping_add(row / 2);
                let blocks = blocks.min(operands.blocks - block);
                let mut step = Step { x, weights: &raw const weights[block], blocks, ..none };
                step.to = sums.cast();
                if block > 0 || !fresh {
                    (step.from, step.from_stride) = (sums, STRIDE);
                }
                if let Some(Direct { start, stride, way }) = direct
                    && block + blocks == operands.blocks
                {
                    step.to = start.wrapping_byte_add(row * TILE * stride);
                    step.what = match way {
                        Way::Onto => ONTO_RESULTS,
                        Way::To => TO_RESULTS,
                        Way::PastCaches => PAST_CACHES,
                    };
                    step.to_stride = stride;
                }
                if let Some(Ahead { start, stride }) = ahead
                    && block < FETCHING_BLOCKS
                {
                    step.fetch = start.wrapping_add((row * TILE + block * FETCHED_ROWS) * stride);
                    step.fetch_stride = stride;
                }
                if scaled || direct.is_some() {
                    // Scales of a second tile that is none are those of other rows, or zeros: they
                    // go into sums that nobody reads.
                    step.x_scales = operands.x_scales(group.row_tile + row, 2, block).as_ptr();
                }
                steps.push(step);
            }
        }
    }
    // SAFETY: every step has blocks of the operands, a square of the sums and scales.
    unsafe {
        match (product, &steps[..]) {
            (Product::Int8, [_, .., last]) if direct.is_some() => {
                let mut products = MaybeUninit::<Square>::uninit();
                make_int8(steps, products.as_mut_ptr());
                scale_last(products.assume_init_ref(), last, product);
            }
            (Product::Int8, _) => add_int8(steps),
            (Product::Bf16, _) => add_bf16(steps),
            (Product::ScaledInt8, [_, .., last]) => {
                let mut products = MaybeUninit::<Square>::uninit();
                let to_stride = direct.map_or(STRIDE, |direct| direct.stride);
                add_scaled(steps, to_stride, products.as_mut_ptr());
                scale_last(products.assume_init_ref(), last, product);
            }
            (Product::ScaledInt8, _) => {}
        }
    }
}

/// Scales what the last step has left.
///
/// # Safety
/// The pointers of the step must be to sums, or results in rows of its `to_stride` bytes, and scales.
#[target_feature(enable = "avx512f")]
unsafe fn scale_last(products: &Square, step: &Step, product: Product) {
    for (index, products) in products.0.as_flattened().iter().enumerate() {
        let (row_tile, tile) = (index / 2, index % 2);
        for (row, products) in products.i32().as_chunks::<TILE>().0.iter().enumerate() {
            let in_square = index * TILE * TILE + row * TILE;
            // SAFETY: the caller's promise.
            unsafe {
                let scales = &*(*step.weights).scales.add(tile * TILE).cast::<[f32; TILE]>();
                let x_scale = *step.x_scales.add(row_tile * TILE + row);
                let mut sums = step.from.cast::<f32>().add(in_square).cast::<[f32; TILE]>().read();
                for ((sum, &dot), &scale) in sums.iter_mut().zip(products).zip(scales) {
                    *sum = match product {
                        Product::Int8 => dot as f32 * x_scale * scale,
                        _ => (dot as f32).mul_add(x_scale * scale, *sum),
                    };
                }
                if step.what == TO_SUMS {
                    step.to.add(in_square).cast::<[f32; TILE]>().write(sums);
                    continue;
                }
                let to =
                    step.to.byte_add((row_tile * TILE + row) * step.to_stride).add(tile * TILE);
                let to = to.cast::<[f32; TILE]>();
                if step.what == ONTO_RESULTS {
                    let before = to.read();
                    sums.iter_mut().zip(before).for_each(|(sum, before)| *sum += before);
                }
                to.write(sums);
            }
        }
    }
}
