//! AMX products on tiles that stay in their registers.

use std::arch::asm;

use crate::gemm::Amx;
use crate::rates::Loop;

/// Operations of four tile products: 16 rows by 16 columns by 64 bytes (or 32 bf16) each.
const INT8_EACH: u64 = 4 * 2 * 16 * 16 * 64;
const BF16_EACH: u64 = INT8_EACH / 2;

pub(super) fn find_int8() -> Option<Loop> {
    let amx = Amx::detect()?;
    Some(Loop { run: Box::new(move |count| int8(amx, count)), operations: 50_000_000_000 })
}

pub(super) fn find_bf16() -> Option<Loop> {
    let amx = Amx::detect()?;
    Some(Loop { run: Box::new(move |count| bf16(amx, count)), operations: 25_000_000_000 })
}

/// Makes a loop of two tiles by two tiles into four. The operands are not zeros, which could be
/// cheaper than other numbers.
macro_rules! products {
    ($name:ident, $instruction:literal, $each:expr, $operand:expr) => {
        /// Runs at least so many operations, and returns how many.
        fn $name(amx: Amx, operations: u64) -> u64 {
            let rounds = operations.div_ceil($each).max(1);
            let operand: [u32; 256] = [$operand; 256];
            let _tiles = amx.tiles();
            // SAFETY: the tiles are configured as 16 rows of 64 bytes, which is what `operand` has.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "tileloadd tmm4, [{operand} + {stride}]",
                    "tileloadd tmm5, [{operand} + {stride}]",
                    "tileloadd tmm6, [{operand} + {stride}]",
                    "tileloadd tmm7, [{operand} + {stride}]",
                    "2:",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec {rounds}",
                    "jnz 2b",
                    operand = in(reg) operand.as_ptr(),
                    stride = in(reg) 64usize,
                    rounds = inout(reg) rounds => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly),
                );
            }
            rounds * $each
        }
    };
}

products!(int8, "tdpbssd", INT8_EACH, 0x7f12_ee05);
// The operand is 0.57 and -0.026 in bf16.
products!(bf16, "tdpbf16ps", BF16_EACH, 0x3f12_bcd5);
