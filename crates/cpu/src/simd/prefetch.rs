//! Asking for memory before it is needed.

/// How far ahead memory that is read from end to end is asked for, in bytes: first for the second level of cache, which can wait for
/// more of memory at the same time than the first, then for the first.
const FAR_AHEAD: usize = 8192;
const AHEAD: usize = 2048;

/// Asks for the line of memory that `at` is in. Any address will do, also one that cannot be read, as there
/// are past the end of a tensor.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it does nothing for addresses that cannot
    // be read.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; stable Rust has no intrinsic for it.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{at}]",
            at = in(reg) at,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// As [`prefetch`], but only for the second level of cache.
#[inline(always)]
pub(crate) fn prefetch_far(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as in `prefetch`.
    unsafe {
        std::arch::asm!(
            "prfm pldl2keep, [{at}]",
            at = in(reg) at,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Asks for the lines that come [`FAR_AHEAD`] and [`AHEAD`] bytes after `at`. To be called once for each line,
/// where it is read.
#[inline(always)]
pub(crate) fn ask_ahead(at: *const u8) {
    prefetch_far(at.wrapping_add(FAR_AHEAD));
    prefetch(at.wrapping_add(AHEAD));
}
