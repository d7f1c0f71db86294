//! In which order attention on the tile unit goes over keys, and the memory that it has.

use std::marker::PhantomData;
use std::ops::Range;

use crate::attention::Queries;
use crate::attention::amx_steps::{KEYS, LANES, PAIR};

/// Runs of [`KEYS`] keys by whose weights values are added up at the same time.
pub(super) const RUNS: usize = 4;

/// Tiles that the tile unit and the vector units both use.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    at: *mut f32,
    len: usize,
    of: PhantomData<&'a mut [f32]>,
}

impl<'a> Shared<'a> {
    pub fn new(memory: &'a mut [f32]) -> Self {
        Self { at: memory.as_mut_ptr(), len: memory.len(), of: PhantomData }
    }

    /// From `start` on, for at least `len` values.
    pub fn from(self, start: usize, len: usize) -> *mut f32 {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: that is within the memory.
        unsafe { self.at.add(start) }
    }

    /// Some of it.
    ///
    /// # Safety
    /// Nobody else may use this part as long as the result lives.
    pub unsafe fn part(self, start: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: within the memory; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.from(start, len), len) }
    }
}

/// A run of [`KEYS`] keys, as a pair of tiles of queries sees it.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub pair: usize,
    /// Where the pair is among those there is place for.
    pub place: usize,
    /// The run's first token, divided by [`KEYS`].
    pub index: usize,
    /// Whether every query sees all its keys.
    pub full: bool,
    /// Whether it is the first that the pair sees.
    pub first: bool,
    /// Whether it is the last.
    pub last: bool,
    /// Whether it is the last of a block of [`RUNS`].
    pub ends_block: bool,
}

/// What the queries of `pair` see of `split`.
pub(super) fn runs(
    queries: &Queries<'_>,
    pair: usize,
    places: usize,
    split: Range<usize>,
) -> impl Iterator<Item = Run> + use<> {
    let (group, place) = (queries.group(), pair % places);
    let first = pair * PAIR * LANES;
    let last = (first + PAIR * LANES).min(queries.rows() * group) - 1;
    let (first_sees, last_sees) = (queries.sees(first / group), queries.sees(last / group));
    let all = first_sees.start / KEYS..last_sees.end.div_ceil(KEYS);
    let here = all.start.max(split.start / KEYS)..all.end.min(split.end.div_ceil(KEYS));
    here.map(move |index| {
        let full = first_sees.end >= (index + 1) * KEYS && last_sees.start <= index * KEYS;
        let (first, last) = (index == all.start, index + 1 == all.end);
        Run { pair, place, index, full, first, last, ends_block: last || (index + 1) % RUNS == 0 }
    })
}
