//! What the units that multiply can do at most, with all operands in registers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::time::Instant;

use super::amx::Amx;

/// Instructions in a round of a loop.
const ROUND: usize = 24;

/// Multiplications and additions in a `tdpbssd` or `vpdpbusd`, by tile or register.
const TILE_INT8: f64 = 2.0 * 16.0 * 16.0 * 64.0;
const TILE_BF16: f64 = TILE_INT8 / 2.0;
const REGISTER_INT8: f64 = 2.0 * 64.0;

/// Makes a loop of products on six tiles.
macro_rules! tile_rate {
    ($name:ident, $dot:literal, $operations:ident) => {
        /// Operations per second of this thread over `rounds` rounds.
        pub(crate) fn $name(amx: Amx, rounds: usize) -> f64 {
            let _tiles = amx.tiles();
            let start = Instant::now();
            // SAFETY: tiles are configured; nothing but registers is touched.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                    "2:",
                    concat!($dot, " tmm0, tmm6, tmm7"), concat!($dot, " tmm1, tmm6, tmm7"),
                    concat!($dot, " tmm2, tmm6, tmm7"), concat!($dot, " tmm3, tmm6, tmm7"),
                    concat!($dot, " tmm4, tmm6, tmm7"), concat!($dot, " tmm5, tmm6, tmm7"),
                    concat!($dot, " tmm0, tmm6, tmm7"), concat!($dot, " tmm1, tmm6, tmm7"),
                    concat!($dot, " tmm2, tmm6, tmm7"), concat!($dot, " tmm3, tmm6, tmm7"),
                    concat!($dot, " tmm4, tmm6, tmm7"), concat!($dot, " tmm5, tmm6, tmm7"),
                    concat!($dot, " tmm0, tmm6, tmm7"), concat!($dot, " tmm1, tmm6, tmm7"),
                    concat!($dot, " tmm2, tmm6, tmm7"), concat!($dot, " tmm3, tmm6, tmm7"),
                    concat!($dot, " tmm4, tmm6, tmm7"), concat!($dot, " tmm5, tmm6, tmm7"),
                    concat!($dot, " tmm0, tmm6, tmm7"), concat!($dot, " tmm1, tmm6, tmm7"),
                    concat!($dot, " tmm2, tmm6, tmm7"), concat!($dot, " tmm3, tmm6, tmm7"),
                    concat!($dot, " tmm4, tmm6, tmm7"), concat!($dot, " tmm5, tmm6, tmm7"),
                    "dec {rounds}",
                    "jnz 2b",
                    rounds = inout(reg) rounds.max(1) => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, nomem),
                );
            }
            (rounds.max(1) * ROUND) as f64 * $operations / start.elapsed().as_secs_f64()
        }
    };
}

tile_rate!(amx_int8, "tdpbssd", TILE_INT8);
tile_rate!(amx_bf16, "tdpbf16ps", TILE_BF16);

/// Operations per second of this thread over `rounds` rounds of AVX-512 VNNI.
///
/// # Safety
/// The machine must have the instructions.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn vnni(rounds: usize) -> f64 {
    let mut sums = [_mm512_setzero_si512(); ROUND];
    let (a, b) = (_mm512_set1_epi8(1), _mm512_set1_epi8(2));
    let start = Instant::now();
    for _ in 0..rounds {
        // Out of the compiler's sight, or it would multiply once.
        let a = std::hint::black_box(a);
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box(sums);
    (rounds * ROUND) as f64 * REGISTER_INT8 / seconds
}
