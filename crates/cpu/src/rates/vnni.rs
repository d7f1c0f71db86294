//! VPDPBUSD on registers.

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_dpbusd_avx_epi32, _mm256_set1_epi32, _mm512_dpbusd_epi32,
    _mm512_set1_epi32,
};
use std::hint::black_box;

use crate::rates::Loop;

/// Sums in flight: more than latency times instructions a cycle, few enough for the registers.
const SUMS: usize = 12;

pub(super) fn find() -> Option<Loop> {
    const OPERATIONS: u64 = 5_000_000_000;
    if is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the machine has the instructions.
        let run = Box::new(|count| unsafe { avx512(count) });
        return Some(Loop { run, operations: OPERATIONS });
    }
    if is_x86_feature_detected!("avxvnni") {
        // SAFETY: the machine has the instructions.
        let run = Box::new(|count| unsafe { avx(count) });
        return Some(Loop { run, operations: OPERATIONS / 2 });
    }
    None
}

/// # Safety
/// The machine must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn avx512(operations: u64) -> u64 {
    // 64 products and as many additions each.
    const EACH: u64 = SUMS as u64 * 128;
    let (a, b) = black_box((_mm512_set1_epi32(0x7f12_ee05), _mm512_set1_epi32(0x1180_43fd)));
    let mut sums: [__m512i; SUMS] = [_mm512_set1_epi32(0); SUMS];
    let rounds = operations.div_ceil(EACH);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums);
    rounds * EACH
}

/// # Safety
/// The machine must have AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn avx(operations: u64) -> u64 {
    // 32 products and as many additions each.
    const EACH: u64 = SUMS as u64 * 64;
    let (a, b) = black_box((_mm256_set1_epi32(0x7f12_ee05), _mm256_set1_epi32(0x1180_43fd)));
    let mut sums: [__m256i; SUMS] = [_mm256_set1_epi32(0); SUMS];
    let rounds = operations.div_ceil(EACH);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
        }
    }
    black_box(sums);
    rounds * EACH
}
