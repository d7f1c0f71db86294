//! What attention on the tile unit is made of: packing tiles, their products, writing results.
//!
//! A tile register is 16 rows of 64 bytes. `tdpbf16ps` adds to `sums[m][n]` the products of
//! `a[m][2 i], a[m][2 i + 1]` and `b[i][2 n], b[i][2 n + 1]` for `i` below 16 (Intel's Software
//! Developer's Manual, volume 2). Tiles in memory are [`TILE`] values of `f32` long, whatever is in
//! them, and lie on lines of cache.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;

use crate::attention::Queries;

/// Queries of a tile, and rows of it.
pub(super) const LANES: usize = 16;
/// Tiles of queries that go together: each tile of keys or values that is loaded is used twice.
pub(super) const PAIR: usize = 2;
/// Numbers that a step of a product goes over: of a head, then keys.
pub(super) const KEYS: usize = 32;
/// Queries after those that are packed, or whose results are written, for which memory is asked for.
const AHEAD: usize = 2 * LANES;
/// Length of a tile, in `f32`.
pub(super) const TILE: usize = LANES * LANES;

/// Numbers as pages may hold them.
pub(super) trait Stored: Copy {
    /// Up to 16 of them, and zeros.
    ///
    /// # Safety
    /// The machine must have the instructions of [`pack_keys`].
    unsafe fn load_first(values: &[Self]) -> __m512;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load_first(values: &[Self]) -> __m512 {
        // SAFETY: the caller vouches for the instructions.
        unsafe { load_first(values) }
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn load_first(values: &[Self]) -> __m512 {
        let mask = ((1u32 << values.len().min(LANES)) - 1) as __mmask16;
        // SAFETY: only values that are there are read; the caller vouches for the instructions.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, values.as_ptr().cast())) }
    }
}

/// Packs a page of keys (`[up to 32, head_dim]`) as they are: for each 16 keys and each 32 numbers a
/// tile, the last one filled up with zeros. Rows of missing keys are left alone.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn pack_keys<T: Stored>(keys: &[T], head_dim: usize, tiles: &mut [f32]) {
    let steps = head_dim.div_ceil(KEYS);
    for (row, key) in keys.chunks_exact(head_dim).enumerate() {
        let tiles = &mut tiles[row / LANES * steps * TILE..][..steps * TILE];
        for (part, tile) in key.chunks(KEYS).zip(tiles.chunks_exact_mut(TILE)) {
            store(narrow_run(part), &mut tile[row % LANES * LANES..][..LANES]);
        }
    }
}

/// Packs a page of values (`[up to 32, head_dim]`) transposed: for each 16 numbers a tile of 16 numbers
/// by 32 tokens, zeros where there are none; `tiles` has places for two of these each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn pack_values<T: Stored>(
    values: &[T],
    head_dim: usize,
    tiles: &mut dyn Iterator<Item = &mut [f32]>,
) {
    for (index, tile) in tiles.flat_map(|tiles| tiles.chunks_exact_mut(TILE)).enumerate() {
        let columns = (index * LANES).min(head_dim)..((index + 1) * LANES).min(head_dim);
        let token = |token: usize| match values.get(token * head_dim..(token + 1) * head_dim) {
            // SAFETY: this function has the instructions.
            Some(value) => unsafe { T::load_first(&value[columns.clone()]) },
            None => _mm512_setzero_ps(),
        };
        let mut pairs = [_mm512_setzero_ps(); LANES];
        for (index, pair) in pairs.iter_mut().enumerate() {
            *pair = interleave(token(2 * index), token(2 * index + 1));
        }
        for (row, out) in transpose(pairs).into_iter().zip(tile.chunks_exact_mut(LANES)) {
            store(row, out);
        }
    }
}

impl Queries<'_> {
    /// The queries from `first` on: their rows, and where their numbers are in these.
    fn members(&self, first: usize) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (group, head_dim, rows) = (self.group(), self.spec.head_dim, self.rows());
        let (mut row, mut member) = (first / group, first % group);
        std::iter::from_fn(move || {
            let found = (row < rows).then_some((row, member * head_dim..(member + 1) * head_dim));
            member += 1;
            if member == group {
                (row, member) = (row + 1, 0);
            }
            found
        })
    }
}

/// Packs the queries from `first` on transposed: for each 32 numbers a tile of 16 pairs of numbers by 16
/// queries, zeros where there are none. `room` is for [`LANES`] heads.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn pack_queries(
    queries: &Queries<'_>,
    first: usize,
    room: &mut [f32],
    tiles: &mut [f32],
) {
    let head_dim = queries.spec.head_dim;
    // Rows lie far apart: nobody else sees what comes next.
    for (row, heads) in queries.members(first + AHEAD).take(LANES) {
        for line in queries.source(row, heads).chunks(LANES) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    let mut own: [&[f32]; LANES] = [&[]; LANES];
    let rooms = room.chunks_exact_mut(head_dim);
    for (((row, heads), own), room) in queries.members(first).zip(&mut own).zip(rooms) {
        *own = queries.part(row, heads, room);
    }
    for (index, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
        let columns = index * KEYS..((index + 1) * KEYS).min(head_dim);
        let mut rows = [_mm512_setzero_ps(); LANES];
        for (own, row) in own.iter().zip(&mut rows).filter(|(own, _)| !own.is_empty()) {
            *row = narrow_run(&own[columns.clone()]);
        }
        for (row, out) in transpose(rows).into_iter().zip(tile.chunks_exact_mut(LANES)) {
            store(row, out);
        }
    }
}

/// Two operands of a [`Product`], among tiles.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    /// The first tile of the first operand.
    pub at: *const f32,
    /// From one step's tile to the next step's.
    pub step: usize,
    /// From the first operand to the second.
    pub other: usize,
}

/// Where the four results of a [`Product`] go.
#[derive(Clone, Copy)]
pub(super) struct Results {
    /// Row tile 0 by column tile 0.
    pub at: *mut f32,
    /// From there to row tile 1.
    pub row: usize,
    /// From there to column tile 1.
    pub col: usize,
}

/// Products of two operands whose rows are rows of the results, and two whose columns are columns of them,
/// step by step: in the tile registers of this thread, so that there is one at a time.
///
/// The tile unit works on its own once it has its instructions. Between steps there is time to have the
/// vector units do something else.
pub(super) struct Product {
    rows: Operand,
    cols: Operand,
    out: Results,
    steps: usize,
}

impl Product {
    /// Products over `steps` steps, at least one, added to what is in `out`, or to zeros.
    ///
    /// # Safety
    /// Tiles must be configured on this thread. Until the last step is over there must be no other product,
    /// tiles of the operands may not be written to, and those of the results not touched.
    #[inline]
    pub unsafe fn new(
        rows: Operand,
        cols: Operand,
        steps: usize,
        out: Results,
        to_zeros: bool,
    ) -> Self {
        // SAFETY: the caller vouches for tiles and memory.
        unsafe {
            if to_zeros {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, nomem, preserves_flags),
                );
            } else {
                asm!(
                    "tileloadd tmm0, [{out00} + {stride}*1]",
                    "tileloadd tmm1, [{out01} + {stride}*1]",
                    "tileloadd tmm2, [{out10} + {stride}*1]",
                    "tileloadd tmm3, [{out11} + {stride}*1]",
                    stride = in(reg) 64usize,
                    out00 = in(reg) out.at,
                    out01 = in(reg) out.at.add(out.col),
                    out10 = in(reg) out.at.add(out.row),
                    out11 = in(reg) out.at.add(out.row + out.col),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, readonly, preserves_flags),
                );
            }
        }
        Self { rows, cols, out, steps }
    }

    /// Makes the next step; whether it was the last.
    ///
    /// # Safety
    /// As for [`Product::new`]; the last step must not be over.
    #[inline(always)]
    pub unsafe fn step(&mut self) -> bool {
        let Self { rows, cols, out, .. } = self;
        // SAFETY: the caller vouches for tiles and memory. Nothing but products uses tile registers, so they
        // are what the step before has left.
        unsafe {
            asm!(
                "tileloadd tmm4, [{a0} + {stride}*1]",
                "tileloadd tmm6, [{b0} + {stride}*1]",
                "tileloadd tmm7, [{b1} + {stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {stride}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                a0 = in(reg) rows.at,
                a1 = in(reg) rows.at.add(rows.other),
                b0 = in(reg) cols.at,
                b1 = in(reg) cols.at.add(cols.other),
                stride = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags),
            );
            self.steps -= 1;
            if self.steps > 0 {
                (rows.at, cols.at) = (rows.at.add(rows.step), cols.at.add(cols.step));
                return false;
            }
            asm!(
                "tilestored [{out00} + {stride}*1], tmm0",
                "tilestored [{out01} + {stride}*1], tmm1",
                "tilestored [{out10} + {stride}*1], tmm2",
                "tilestored [{out11} + {stride}*1], tmm3",
                stride = in(reg) 64usize,
                out00 = in(reg) out.at,
                out01 = in(reg) out.at.add(out.col),
                out10 = in(reg) out.at.add(out.row),
                out11 = in(reg) out.at.add(out.row + out.col),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, preserves_flags),
            );
        }
        true
    }
}

/// Writes the results of the queries from `first` on: `values` (`[numbers, LANES]`) by `sums` (`[LANES]`).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn finish(
    queries: &Queries<'_>,
    first: usize,
    values: &[f32],
    sums: &[f32],
    out: &mut [&mut [f32]],
) {
    let head_dim = queries.spec.head_dim;
    for (row, heads) in queries.members(first + AHEAD).take(LANES) {
        for line in out[row][heads].chunks(LANES) {
            _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast());
        }
    }
    let parts = _mm512_div_ps(_mm512_set1_ps(1.0), load(sums));
    for (index, tile) in values.chunks_exact(TILE).enumerate() {
        let columns = (index * LANES).min(head_dim)..((index + 1) * LANES).min(head_dim);
        let mut rows = [_mm512_setzero_ps(); LANES];
        for (row, values) in rows.iter_mut().zip(tile.chunks_exact(LANES)) {
            *row = _mm512_mul_ps(load(values), parts);
        }
        for ((row, heads), result) in queries.members(first).zip(transpose(rows)) {
            store_first(result, &mut out[row][heads][columns.clone()]);
        }
    }
}

/// Two registers as bf16, `first[0], second[0], first[1], ...`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn interleave(first: __m512, second: __m512) -> __m512 {
    /// Words of one half and of the other in turn.
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut lane = 0;
        while lane < 16 {
            order[2 * lane] = lane as u16;
            order[2 * lane + 1] = lane as u16 + 16;
            lane += 1;
        }
        order
    };
    // SAFETY: 64 bytes are read of an array of that size; types of a register are interchangeable.
    unsafe {
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        let halves: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
        _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves))
    }
}

/// Up to 32 values as bf16, and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn narrow_run<T: Stored>(values: &[T]) -> __m512 {
    let (first, second) = values.split_at(values.len().min(LANES));
    // SAFETY: this function has the instructions; types of a register are interchangeable.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(T::load_first(second), T::load_first(first))) }
}

/// Transposes 16 by 16 lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512; LANES]) -> [__m512; LANES] {
    let mut pairs = rows;
    for (to, from) in pairs.chunks_exact_mut(2).zip(rows.chunks_exact(2)) {
        to[0] = _mm512_unpacklo_ps(from[0], from[1]);
        to[1] = _mm512_unpackhi_ps(from[0], from[1]);
    }
    // Column 4 q + c of rows 4 i .. 4 i + 4 is quarter q of quads[4 i + c].
    let mut quads = pairs;
    for (to, from) in quads.chunks_exact_mut(4).zip(pairs.chunks_exact(4)) {
        let (low, high) = (_mm512_castps_pd(from[0]), _mm512_castps_pd(from[1]));
        let (next_low, next_high) = (_mm512_castps_pd(from[2]), _mm512_castps_pd(from[3]));
        to[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, next_low));
        to[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, next_low));
        to[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, next_high));
        to[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, next_high));
    }
    let mut columns = quads;
    for c in 0..4 {
        let even_low = _mm512_shuffle_f32x4::<0x88>(quads[c], quads[4 + c]);
        let odd_low = _mm512_shuffle_f32x4::<0xdd>(quads[c], quads[4 + c]);
        let even_high = _mm512_shuffle_f32x4::<0x88>(quads[8 + c], quads[12 + c]);
        let odd_high = _mm512_shuffle_f32x4::<0xdd>(quads[8 + c], quads[12 + c]);
        columns[c] = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
        columns[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
        columns[8 + c] = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
        columns[12 + c] = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
    }
    columns
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(values: &[f32]) -> __m512 {
    assert!(values.len() >= LANES);
    // SAFETY: as many values are there.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_ints(values: &[i32; LANES]) -> __m512i {
    // SAFETY: as many values are there.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// Up to 16 values, and zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_first(values: &[f32]) -> __m512 {
    let mask = ((1u32 << values.len().min(LANES)) - 1) as __mmask16;
    // SAFETY: only values that are there are read.
    unsafe { _mm512_maskz_loadu_ps(mask, values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(values: __m512, to: &mut [f32]) {
    assert!(to.len() >= LANES);
    // SAFETY: there is room for as many.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) }
}

/// Stores as many values as `to` has, up to 16.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_first(values: __m512, to: &mut [f32]) {
    let mask = ((1u32 << to.len().min(LANES)) - 1) as __mmask16;
    // SAFETY: only values for which there is room are written.
    unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, values) }
}
