//! Steps of products on the unit AMX: what one is, and the loops in which sums just leave the tile registers.

use std::arch::asm;
use std::mem::MaybeUninit;

use crate::gemm::tile::{SumTile, TILE};

/// Two row tiles by two weight tiles.
#[repr(C, align(4096))]
pub(super) struct Square(pub [[SumTile; 2]; 2]);

/// Bytes from a row of a tile to the next.
pub(super) const STRIDE: usize = 64;

/// Sums, and scales, of nothing.
pub(super) static NOTHING: Square = Square([[SumTile::ZERO; 2]; 2]);

/// A block of two weight tiles, or a span of it, and their scales.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Weights {
    pub tiles: [*const i8; 2],
    pub scales: *const f32,
}

/// What the assembler code of a step reads.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Step {
    /// The first of the step's blocks of both row tiles, or the step's span of it.
    pub x: [*const i8; 2],
    /// The first of the step's blocks of weights.
    pub weights: *const Weights,
    /// How many blocks there are, one after the other.
    pub blocks: usize,
    /// What the products are added to, and bytes from a row of its tiles to the next.
    pub from: *const Square,
    pub from_stride: usize,
    /// Where the sums go: a [`Square`], or results.
    pub to: *mut f32,
    /// One of [`TO_SUMS`], [`TO_RESULTS`], [`PAST_CACHES`] and [`ONTO_RESULTS`].
    pub what: usize,
    /// Bytes from a row of results to the next.
    pub to_stride: usize,
    /// Scales of two row tiles.
    pub x_scales: *const f32,
    /// The first row of memory that is asked for, and bytes to the next.
    pub fetch: *const u8,
    pub fetch_stride: usize,
}

/// In [`Step::what`]: the sums are kept.
pub(super) const TO_SUMS: usize = 0;
/// In [`Step::what`]: they are results, and written as such.
pub(super) const TO_RESULTS: usize = 1;
/// In [`Step::what`]: the same, past the caches.
pub(super) const PAST_CACHES: usize = 2;
/// In [`Step::what`]: they are added to what is there.
pub(super) const ONTO_RESULTS: usize = 3;

/// Rows whose memory is asked for with each quarter of a block.
pub(super) const FETCHED_ROWS: usize = 2;
/// So many blocks ask for all the memory of a step.
pub(super) const FETCHING_BLOCKS: usize = 2 * TILE / (4 * FETCHED_ROWS);

/// Bytes of a [`Step`], and where its parts are, for the assembler.
pub(super) const STEP: usize = size_of::<Step>();
pub(super) const WEIGHTS: usize = std::mem::offset_of!(Step, weights);
pub(super) const BLOCKS: usize = std::mem::offset_of!(Step, blocks);
pub(super) const FROM: usize = std::mem::offset_of!(Step, from);
pub(super) const FROM_STRIDE: usize = std::mem::offset_of!(Step, from_stride);
pub(super) const TO: usize = std::mem::offset_of!(Step, to);
pub(super) const WHAT: usize = std::mem::offset_of!(Step, what);
pub(super) const TO_STRIDE: usize = std::mem::offset_of!(Step, to_stride);
pub(super) const X_SCALES: usize = std::mem::offset_of!(Step, x_scales);
pub(super) const FETCH: usize = std::mem::offset_of!(Step, fetch);
pub(super) const FETCH_STRIDE: usize = std::mem::offset_of!(Step, fetch_stride);
/// The same of [`Weights`].
pub(super) const EACH_WEIGHTS: usize = size_of::<Weights>();
pub(super) const SCALES: usize = std::mem::offset_of!(Weights, scales);

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
        pub(super) unsafe fn $name(steps: &[Step]) {
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

pub(super) use {exchange, fetch, quarter};
