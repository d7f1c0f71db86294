//! What the machine can do at most: the rates that kernels and whole models are measured against.
//!
//! Every rate is of all threads together, the best of [`ROUNDS`] rounds, and comes from loops that
//! do nothing else: reading memory once from one end to the other, and instructions of the integer
//! units on registers. Each function takes a `stop` that is asked between rounds and ends the
//! measuring (with no result) when it says so.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni;

use std::sync::Barrier;
use std::time::Instant;

use crate::packed::tiles::LINE;
use crate::runtime::arena::Arena;
use crate::simd::ask_ahead;

/// How often each rate is measured; the best counts.
pub const ROUNDS: usize = 5;

/// Numbers of a line of cache.
const LANES: usize = LINE / size_of::<u64>();

/// A unit that multiplies and adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// VPDPBUSD: products of bytes in vector registers, with AVX-512 VNNI or else AVX-VNNI.
    VnniInt8,
    /// TDPBSSD: products of bytes in AMX tiles.
    AmxInt8,
    /// TDPBF16PS: products of bf16 in AMX tiles.
    AmxBf16,
}

/// A loop on registers.
struct Loop {
    /// Runs at least this many operations (a multiply and an addition are two), and returns how
    /// many it ran.
    run: Box<dyn Fn(u64) -> u64 + Sync>,
    /// Operations of a round that take some ten milliseconds.
    operations: u64,
}

/// Operations (a multiply and an addition are two) a second, in units of 10^12, of `threads`
/// threads. `None` if this machine or this build lacks the unit, or `stop` said so.
///
/// # Errors
/// If the system refuses a thread.
pub fn operations(
    unit: Unit,
    threads: usize,
    stop: &dyn Fn() -> bool,
) -> std::io::Result<Option<f64>> {
    let Some(work) = find(unit) else { return Ok(None) };
    let mut best = None;
    for _ in 0..ROUNDS {
        if stop() {
            return Ok(None);
        }
        let (seconds, done) = together(threads, |_| (work.run)(work.operations))?;
        let rate = done as f64 / seconds / 1e12;
        best = Some(best.map_or(rate, |best: f64| best.max(rate)));
    }
    Ok(best)
}

/// The unit's loop, if it is here.
fn find(unit: Unit) -> Option<Loop> {
    match unit {
        #[cfg(target_arch = "x86_64")]
        Unit::VnniInt8 => vnni::find(),
        #[cfg(target_arch = "x86_64")]
        Unit::AmxInt8 => amx::find_int8(),
        #[cfg(target_arch = "x86_64")]
        Unit::AmxBf16 => amx::find_bf16(),
        #[cfg(not(target_arch = "x86_64"))]
        Unit::VnniInt8 | Unit::AmxInt8 | Unit::AmxBf16 => None,
    }
}

/// Bytes a second, in units of 10^9, that `threads` threads read from `bytes` of memory. `None` if
/// `stop` said so.
///
/// # Errors
/// If there is not that much memory, or the system refuses a thread.
pub fn read(bytes: usize, threads: usize, stop: &dyn Fn() -> bool) -> std::io::Result<Option<f64>> {
    let threads = threads.max(1);
    let each = (bytes / size_of::<u64>()).div_ceil(threads).next_multiple_of(LANES);
    let memory = Arena::default();
    let part = |_| memory.take(each * size_of::<u64>());
    let mut parts = (0..threads).map(part).collect::<std::io::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        // Written by several threads, since the system has to find the memory now.
        for part in &mut parts {
            let numbers = part.bytes_mut().as_chunks_mut().0.iter_mut();
            scope.spawn(move || (0u64..).zip(numbers).for_each(|(n, to)| *to = n.to_ne_bytes()));
        }
    });
    let mut best = None;
    for _ in 0..ROUNDS {
        if stop() {
            return Ok(None);
        }
        let (seconds, sum) = together(threads, |index| sum(&parts[index]))?;
        std::hint::black_box(sum);
        let rate = (threads * each * size_of::<u64>()) as f64 / seconds / 1e9;
        best = Some(best.map_or(rate, |best: f64| best.max(rate)));
    }
    Ok(best)
}

/// The sum of the numbers in whole lines of `bytes`. They are read as memory is read fastest: each line is asked for
/// twice before, where another is read.
fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the machine has the instructions.
        return unsafe { sum_avx512(bytes) };
    }
    sum_of_lines(bytes)
}

/// [`sum_of_lines`], compiled for 64-byte registers.
///
/// # Safety
/// The machine must have AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn sum_avx512(bytes: &[u8]) -> u64 {
    sum_of_lines(bytes)
}

#[inline(always)]
fn sum_of_lines(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; LANES];
    for line in bytes.as_chunks::<LINE>().0 {
        ask_ahead(line.as_ptr());
        for (lane, number) in lanes.iter_mut().zip(line.as_chunks().0) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*number));
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// Runs `work(0)` to `work(threads - 1)` at the same time. Returns the seconds from the first start
/// to the last end, and the sum of what they return.
fn together(threads: usize, work: impl Fn(usize) -> u64 + Sync) -> std::io::Result<(f64, u64)> {
    let threads = threads.max(1);
    let barrier = Barrier::new(threads);
    let timed = |index| {
        barrier.wait();
        let start = Instant::now();
        let done = work(index);
        (start, Instant::now(), done)
    };
    let results: Vec<(Instant, Instant, u64)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|index| scope.spawn(move || timed(index))).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Result<_, _>>()
    })
    .map_err(|_| std::io::Error::other("a measuring thread panicked"))?;
    let start = results.iter().map(|result| result.0).min();
    let end = results.iter().map(|result| result.1).max();
    let seconds = start.zip(end).map_or(0.0, |(start, end)| (end - start).as_secs_f64());
    let done = results.iter().fold(0u64, |sum, result| sum.wrapping_add(result.2));
    Ok((seconds.max(1e-9), done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_reads_everything() {
        let numbers = 0..LANES as u64 * 5;
        let bytes: Vec<u8> = numbers.clone().flat_map(u64::to_ne_bytes).collect();
        assert_eq!((sum(&bytes), sum_of_lines(&bytes)), (numbers.clone().sum(), numbers.sum()));
    }

    #[test]
    fn rates_are_rates_or_absent() {
        let rate = read(1 << 20, 3, &|| false).unwrap().unwrap();
        assert!(rate.is_finite() && rate > 0.0);
        for unit in [Unit::VnniInt8, Unit::AmxInt8, Unit::AmxBf16] {
            let found = find(unit);
            let ran = found.map(|work| (work.run)(1));
            assert!(ran.is_none_or(|operations| operations > 0));
        }
    }

    #[test]
    fn measuring_stops_when_asked() {
        assert_eq!(read(1 << 16, 1, &|| true).unwrap(), None);
        assert_eq!(operations(Unit::VnniInt8, 1, &|| true).unwrap(), None);
    }

    #[test]
    fn all_threads_take_part() {
        assert_eq!(together(3, |index| 1 << index).unwrap().1, 7);
    }
}
