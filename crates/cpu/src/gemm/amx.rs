//! The tile unit AMX: whether it is there, leave to use it, and its configuration.
//!
//! Tiles and their instructions are in Intel's Software Developer's Manual, volume 1, chapter 18,
//! and volume 2 under their names. A tile register `tmm` is 16 rows of 64 bytes. The compiler has no
//! stable intrinsics for them, so they are used through `asm!`; it never uses them by itself.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use crate::gemm::amx_steps::{STRIDE, Step, Weights};

/// Proof that the tile unit, with its int8 and bf16 products, is there and may be used.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// The unit, if the processor has it (leaf 7 of `cpuid`) and the system lets this process use
    /// it.
    pub fn detect() -> Option<Self> {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        let all = BF16 | TILE | INT8;
        let found = __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & all == all;
        // The kernels around the tiles are AVX-512.
        (found && is_x86_feature_detected!("avx512f") && request_tiles()).then_some(Self(()))
    }

    /// Configures the tiles of this thread for the time that the result lives: eight tiles of 16
    /// rows by 64 bytes.
    pub fn tiles(self) -> Tiles {
        self.tiles_of(STRIDE)
    }

    /// As [`Self::tiles`], where products of int8 are of `columns` columns, at most 64: so many bytes of a
    /// row of activations in `tmm4` and `tmm5`, and a row of weights for four of them in `tmm6` and `tmm7`.
    pub fn tiles_of(self, columns: usize) -> Tiles {
        /// What `ldtilecfg` reads.
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        config.row_bytes[4..6].fill(columns.min(STRIDE) as u16);
        config.rows[6..8].fill((columns.min(STRIDE) / 4) as u8);
        // SAFETY: `self` says that the instruction is there and allowed; the configuration is one
        // that palette 1 has, 64 bytes long.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                config = in(reg) &raw const config,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
        Tiles { steps: vec![], weights: vec![], thread_bound: std::marker::PhantomData }
    }
}

/// Tiles that are configured on this thread. Dropping it releases them, so that the system need not
/// save them when it switches threads.
pub(crate) struct Tiles {
    /// Room for what is to be done with them.
    pub(super) steps: Vec<Step>,
    /// Room for the weights of a group.
    pub(super) weights: Vec<Weights>,
    /// Not `Send`: tiles belong to a thread.
    thread_bound: std::marker::PhantomData<*const ()>,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles exist only where the unit does.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, nomem),
            );
        }
    }
}

/// Asks Linux for leave to use tile data, for all threads of the process (`arch_prctl(2)` and
/// Documentation/arch/x86/xstate.rst in the kernel's sources). It may be asked any number of times.
#[cfg(target_os = "linux")]
fn request_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: this call changes nothing but which instructions the process may use; the registers
    // are those of the system's calling convention.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Elsewhere nobody is known to give leave.
#[cfg(not(target_os = "linux"))]
fn request_tiles() -> bool {
    false
}
