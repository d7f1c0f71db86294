//! What attention on the tile unit is made of: packing tiles, their products, softmax between them.
//!
//! A tile register is 16 rows of 64 bytes. `tdpbf16ps` adds to `sums[m][n]` the products of
//! `a[m][2 i], a[m][2 i + 1]` and `b[i][2 n], b[i][2 n + 1]` for `i` below 16 (Intel's Software
//! Developer's Manual, volume 2). Tiles in memory are [`TILE`] values of `f32` long, whatever is in
//! them, and lie on lines of cache.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;
use keeve_graph::Attention;

use super::Queries;
use super::lanes::soft_cap;

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
/// by 32 tokens, zeros where there are none.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn pack_values<T: Stored>(values: &[T], head_dim: usize, tiles: &mut [f32]) {
    for (index, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
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
/// queries, zeros where there are none.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn pack_queries(queries: &Queries<'_>, first: usize, tiles: &mut [f32]) {
    let head_dim = queries.spec.head_dim;
    // Rows lie far apart: nobody else sees what comes next.
    for (row, heads) in queries.members(first + AHEAD).take(LANES) {
        for line in queries.row(row)[heads].chunks(LANES) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    let mut own: [&[f32]; LANES] = [&[]; LANES];
    for ((row, heads), own) in queries.members(first).zip(&mut own) {
        *own = &queries.row(row)[heads];
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

/// Two operands of [`products`], or its results, among tiles.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub tiles: &'a [f32],
    /// From one step's tile to the next step's.
    pub step: usize,
    /// From the first operand to the second.
    pub other: usize,
}

/// Products, over `steps` steps, of two operands whose rows are rows of the results, and two whose
/// columns are columns of them. Row tile `i` by column tile `j` goes to `out[i * out_row + j * out_col]`
/// and after.
///
/// # Safety
/// Tiles must be configured on this thread.
pub(super) unsafe fn products(
    rows: Operand<'_>,
    cols: Operand<'_>,
    steps: usize,
    out: &mut [f32],
    out_row: usize,
    out_col: usize,
) {
    assert!(steps > 0 && out.len() >= out_row + out_col + TILE);
    for Operand { tiles, step, other } in [rows, cols] {
        assert!(tiles.len() >= (steps - 1) * step + other + TILE);
    }
    // SAFETY: all tiles are within the slices by the assertions; the caller vouches for the
    // configuration. Loads and stores need no alignment.
    unsafe {
        let (a, b, out) = (rows.tiles.as_ptr(), cols.tiles.as_ptr(), out.as_mut_ptr());
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a0} + {stride}*1]",
            "tileloadd tmm6, [{b0} + {stride}*1]",
            "tileloadd tmm7, [{b1} + {stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a1} + {stride}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, {a_step}",
            "add {a1}, {a_step}",
            "add {b0}, {b_step}",
            "add {b1}, {b_step}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out00} + {stride}*1], tmm0",
            "tilestored [{out01} + {stride}*1], tmm1",
            "tilestored [{out10} + {stride}*1], tmm2",
            "tilestored [{out11} + {stride}*1], tmm3",
            a0 = inout(reg) a => _,
            a1 = inout(reg) a.add(rows.other) => _,
            b0 = inout(reg) b => _,
            b1 = inout(reg) b.add(cols.other) => _,
            steps = inout(reg) steps => _,
            a_step = in(reg) rows.step * size_of::<f32>(),
            b_step = in(reg) cols.step * size_of::<f32>(),
            stride = in(reg) 64usize,
            out00 = in(reg) out,
            out01 = in(reg) out.add(out_col),
            out10 = in(reg) out.add(out_row),
            out11 = in(reg) out.add(out_row + out_col),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// What products are turned into scores with, in units of `ln 2`, so that weights are powers of two.
pub(super) struct Factors {
    /// What is done to products before the largest of them is looked for.
    before: Before,
    /// What they are multiplied by then: a positive number.
    by: f32,
}

/// See [`Factors`].
enum Before {
    Nothing,
    /// They are multiplied: by a number that is not positive, so that the order of products is not that
    /// of scores.
    Scale(f32),
    /// They are multiplied, and made smaller than a cap.
    Cap(f32, f32),
}

impl Factors {
    pub fn new(spec: &Attention) -> Self {
        let by = std::f32::consts::LOG2_E;
        match spec.soft_cap {
            Some(cap) => Self { before: Before::Cap(spec.scale, cap), by },
            None if spec.scale > 0.0 => Self { before: Before::Nothing, by: spec.scale * by },
            None => Self { before: Before::Scale(spec.scale), by },
        }
    }
}

/// What the queries of a tile see of some keys: for each query the first key and the one after the last,
/// counted from the first of the keys.
pub(super) struct Seen {
    from: [i32; LANES],
    to: [i32; LANES],
}

impl Seen {
    /// For the queries from `first` on and the keys from the token `start` on.
    pub fn new(queries: &Queries<'_>, first: usize, start: usize) -> Self {
        let within = |token: usize| token.saturating_sub(start).min(1 << 20) as i32;
        let sees = |lane: usize| queries.sees((first + lane) / queries.group());
        Self {
            from: std::array::from_fn(|lane| within(sees(lane).start)),
            to: std::array::from_fn(|lane| within(sees(lane).end)),
        }
    }

    /// Some of the keys, of which there are `keys`, that every query sees: a multiple of four from a
    /// multiple of four on.
    fn by_all(&self, keys: usize) -> Range<usize> {
        let first = self.from.iter().fold(0, |most, &from| most.max(from)) as usize;
        let last = self.to.iter().fold(i32::MAX, |least, &to| least.min(to)) as usize;
        let start = first.next_multiple_of(4).min(keys);
        start..(last.min(keys) / 4 * 4).max(start)
    }
}

/// Turns products (`[keys, LANES]`, of a multiple of 32 keys) into weights in bf16 (a tile for each 32
/// keys: pairs of keys by queries) and keeps account in `numbers`: the largest score so far, in units of
/// `ln 2`, and the sum of weights. Gives what earlier sums have to be multiplied by. `between` is called
/// after every 64 keys.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn softmax(
    scores: &mut [f32],
    factors: &Factors,
    seen: Option<Seen>,
    numbers: &mut [f32],
    weights: &mut [f32],
    mut between: impl FnMut(),
) -> [f32; LANES] {
    let (largest_before, sum_before) = numbers.split_at_mut(LANES);
    let before = load(largest_before);
    let unseen = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut most = [unseen; 4];
    // Keys with which there is nothing to do but to look for the largest score.
    let keys = scores.len() / LANES;
    let plain = match (&factors.before, &seen) {
        (Before::Nothing, None) => 0..keys,
        (Before::Nothing, Some(seen)) => seen.by_all(keys),
        (Before::Scale(_) | Before::Cap(..), _) => 0..0,
    };
    for scores in scores[plain.start * LANES..plain.end * LANES].as_chunks::<{ 4 * LANES }>().0 {
        for (score, most) in scores.as_chunks::<LANES>().0.iter().zip(&mut most) {
            *most = _mm512_max_ps(load(score), *most);
        }
    }
    if plain.len() < keys {
        let limits = seen.as_ref().map(|seen| (load_ints(&seen.from), load_ints(&seen.to)));
        let scores = scores.as_chunks_mut::<LANES>().0;
        for key in (0..plain.start).chain(plain.end..keys) {
            let score = &mut scores[key];
            let mut value = load(score);
            match factors.before {
                Before::Nothing => {}
                Before::Scale(scale) => value = _mm512_mul_ps(value, _mm512_set1_ps(scale)),
                Before::Cap(scale, cap) => {
                    value = _mm512_mul_ps(value, _mm512_set1_ps(scale));
                    // SAFETY: this function has the instructions.
                    value = unsafe { soft_cap(value, cap) };
                }
            }
            if let Some((from, to)) = limits {
                let key = _mm512_set1_epi32(key as i32);
                let seen = _mm512_cmple_epi32_mask(from, key) & _mm512_cmplt_epi32_mask(key, to);
                value = _mm512_mask_blend_ps(seen, unseen, value);
            }
            most[0] = _mm512_max_ps(value, most[0]);
            store(value, score);
        }
    }
    let most = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
    let times = _mm512_set1_ps(factors.by);
    let largest = _mm512_max_ps(_mm512_mul_ps(most, times), before);
    let base = _mm512_max_ps(largest, _mm512_set1_ps(f32::MIN));
    let by = power_of_two(_mm512_sub_ps(before, base));
    let mut sums = [_mm512_setzero_ps(); 2];
    let tiles = scores.as_chunks::<{ 2 * TILE }>().0.iter().zip(weights.as_chunks_mut::<TILE>().0);
    for (index, (scores, tile)) in tiles.enumerate() {
        let pairs = scores.as_chunks::<{ 2 * LANES }>().0.iter();
        for (pair, out) in pairs.zip(tile.as_chunks_mut::<LANES>().0) {
            // Not by a closure: what calls it would have to have the instructions too.
            let first = power_of_two(_mm512_fmsub_ps(load(&pair[..LANES]), times, base));
            let second = power_of_two(_mm512_fmsub_ps(load(&pair[LANES..]), times, base));
            sums = [_mm512_add_ps(sums[0], first), _mm512_add_ps(sums[1], second)];
            store(interleave(first, second), out);
        }
        if index % 2 == 1 {
            between();
        }
    }
    let sum = _mm512_fmadd_ps(load(sum_before), by, _mm512_add_ps(sums[0], sums[1]));
    store(largest, largest_before);
    store(sum, sum_before);
    let mut factors = [0.0; LANES];
    store(by, &mut factors);
    factors
}

/// `sums = sums * by + fresh`, both `[numbers, LANES]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn add_fresh(fresh: &[f32], by: &[f32; LANES], sums: &mut [f32]) {
    let by = load(by);
    for (sum, fresh) in sums.chunks_exact_mut(LANES).zip(fresh.chunks_exact(LANES)) {
        store(_mm512_fmadd_ps(load(sum), by, load(fresh)), sum);
    }
}

/// Adds the sums of a split to those of the splits before; both are values `[numbers, LANES]`, the
/// largest score `[LANES]` and the sum of weights `[LANES]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn add_split(split: &[f32], total: &mut [f32]) {
    let (values, numbers) = split.split_at(split.len() - 2 * LANES);
    let (totals, total_numbers) = total.split_at_mut(split.len() - 2 * LANES);
    let (before, own) = (load(&total_numbers[..LANES]), load(&numbers[..LANES]));
    let largest = _mm512_max_ps(own, before);
    let base = _mm512_max_ps(largest, _mm512_set1_ps(f32::MIN));
    let by = power_of_two(_mm512_sub_ps(before, base));
    let own_by = power_of_two(_mm512_sub_ps(own, base));
    let add = |own: &[f32], total: &mut [f32]| {
        let own = _mm512_mul_ps(load(own), own_by);
        store(_mm512_fmadd_ps(load(total), by, own), total);
    };
    add(&numbers[LANES..], &mut total_numbers[LANES..]);
    store(largest, &mut total_numbers[..LANES]);
    for (own, total) in values.chunks_exact(LANES).zip(totals.chunks_exact_mut(LANES)) {
        add(own, total);
    }
}

/// Writes the results of the queries from `first` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn finish(queries: &Queries<'_>, first: usize, total: &[f32], out: &mut [&mut [f32]]) {
    let head_dim = queries.spec.head_dim;
    for (row, heads) in queries.members(first + AHEAD).take(LANES) {
        for line in out[row][heads].chunks(LANES) {
            _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast());
        }
    }
    let (values, numbers) = total.split_at(total.len() - 2 * LANES);
    let parts = _mm512_div_ps(_mm512_set1_ps(1.0), load(&numbers[LANES..]));
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

/// `2^x` for `x` at most 0, or a rounding above: exactly 1 for 0, exactly 0 below `-126`, else to some `3e-6` of it, far
/// finer than the bf16 that weights become. NaN stays.
///
/// `x = n + r` with `|r| <= 1/2`, and a polynomial for `2^r` whose coefficients minimize the largest
/// relative error, the constant one fixed at 1 (found by iterated least squares).
///
/// No result is below the least normal number: making one would take the processor thirty times as long.
#[inline]
#[target_feature(enable = "avx512f")]
fn power_of_two(x: __m512) -> __m512 {
    const COEFFICIENTS: [f32; 4] = [0.009_582_848, 0.055_906_426, 0.240_240_99, 0.693_124_2];
    /// Adding it leaves no places after the point.
    const WHOLE: f32 = (3 << 22) as f32;
    let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0));
    let shifted = _mm512_add_ps(x, _mm512_set1_ps(WHOLE));
    let n = _mm512_sub_ps(shifted, _mm512_set1_ps(WHOLE));
    let r = _mm512_sub_ps(x, n);
    let mut sum = _mm512_set1_ps(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(*coefficient));
    }
    _mm512_scalef_ps(_mm512_maskz_fmadd_ps(normal, sum, r, _mm512_set1_ps(1.0)), n)
}

/// Two registers as bf16, `first[0], second[0], first[1], ...`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn interleave(first: __m512, second: __m512) -> __m512 {
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
fn load(values: &[f32]) -> __m512 {
    assert!(values.len() >= LANES);
    // SAFETY: as many values are there.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_ints(values: &[i32; LANES]) -> __m512i {
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
fn store(values: __m512, to: &mut [f32]) {
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
