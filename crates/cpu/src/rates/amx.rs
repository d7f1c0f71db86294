//! AMX products on tiles that stay in their registers.
//!
//! Encodings and the shape of tiles: Intel 64 and IA-32 Architectures Software Developer's Manual,
//! "Programming with Intel AMX". Permission to use tiles: Linux `Documentation/arch/x86/xstate.rst`.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};

use super::Loop;

/// `arch_prctl` of the x86-64 system call table.
const SYS_ARCH_PRCTL: i64 = 158;
/// `ARCH_REQ_XCOMP_PERM`.
const REQUEST_PERMISSION: i64 = 0x1023;
/// `XFEATURE_XTILEDATA`.
const TILE_DATA: i64 = 18;

/// Operations of four tile products: 16 rows by 16 columns by 64 bytes (or 32 bf16) each.
const INT8_EACH: u64 = 4 * 2 * 16 * 16 * 64;
const BF16_EACH: u64 = INT8_EACH / 2;

pub(super) fn find_int8() -> Option<Loop> {
    // SAFETY: the tiles are there and permitted.
    let run = |count| unsafe { int8(count) };
    (has(1 << 25) && permitted()).then_some(Loop { run, operations: 50_000_000_000 })
}

pub(super) fn find_bf16() -> Option<Loop> {
    // SAFETY: the tiles are there and permitted.
    let run = |count| unsafe { bf16(count) };
    (has(1 << 22) && permitted()).then_some(Loop { run, operations: 25_000_000_000 })
}

/// Whether CPUID names tiles (bit 24 of leaf 7's EDX) and `feature` beside them.
fn has(feature: u32) -> bool {
    __cpuid(0).eax >= 7 && {
        let wanted = feature | 1 << 24;
        __cpuid_count(7, 0).edx & wanted == wanted
    }
}

/// Asks the system for the tile registers; asking again does no harm.
fn permitted() -> bool {
    let outcome: i64;
    // SAFETY: this system call only changes what the process may use; `syscall` overwrites rcx and
    // r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => outcome,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    outcome == 0
}

/// Palette 1, and eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: TileConfig = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        row_bytes[tile] = 64;
        rows[tile] = 16;
        tile += 1;
    }
    TileConfig { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Two tiles by two tiles into four, again and again.
macro_rules! products {
    ($instruction:literal, $rounds:expr, $operand:expr) => {{
        let operand: [u32; 256] = [$operand; 256];
        asm!(
            "ldtilecfg [{config}]",
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
            "tilerelease",
            config = in(reg) &raw const CONFIG,
            operand = in(reg) operand.as_ptr(),
            stride = in(reg) 64usize,
            rounds = inout(reg) $rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }};
}

/// # Safety
/// The machine must have AMX int8, and the process the permission to use it.
unsafe fn int8(operations: u64) -> u64 {
    let rounds = operations.div_ceil(INT8_EACH).max(1);
    // SAFETY: the caller vouches for the instructions; `operand` has the 16 rows of 64 bytes that
    // the loads read.
    unsafe { products!("tdpbssd", rounds, 0x7f12_ee05) };
    rounds * INT8_EACH
}

/// # Safety
/// The machine must have AMX bf16, and the process the permission to use it.
unsafe fn bf16(operations: u64) -> u64 {
    let rounds = operations.div_ceil(BF16_EACH).max(1);
    // SAFETY: as in `int8`. The operand is 0.57 and -0.026 in bf16.
    unsafe { products!("tdpbf16ps", rounds, 0x3f12_bcd5) };
    rounds * BF16_EACH
}
