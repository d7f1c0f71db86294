//! Softmax of attention on the tile unit: scores become weights, 32 keys at a time.
//!
//! Weights are powers of two, made smaller by a base of their query: a whole number, so that another base
//! changes their exponents and, but for a rounding, nothing else. So it need not be the largest score. It is
//! the largest of the first run of keys that the query sees, rounded up, and is raised when weights become too
//! large for comfort, which hardly ever happens. It depends on what the query sees, and on nothing beside it.

use std::arch::x86_64::*;

use keeve_graph::Attention;

use crate::attention::Queries;
use crate::attention::amx_steps::{KEYS, LANES, TILE, interleave, load, load_ints, store};
use crate::attention::lanes::soft_cap;

/// Pairs of keys of which weights are made between two steps of a product.
const BETWEEN: usize = 4;
/// A sum of the weights of 32 keys that is too large.
const TOO_LARGE: f32 = (1u128 << 64) as f32;

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

/// What the queries of a tile see: for each query the first token and the one after the last.
pub(super) struct Seen {
    from: [i32; LANES],
    to: [i32; LANES],
}

impl Seen {
    /// For the queries from `first` on.
    pub fn new(queries: &Queries<'_>, first: usize) -> Self {
        let within = |token: usize| token.min(i32::MAX as usize) as i32;
        let (mut from, mut to) = ([0; LANES], [0; LANES]);
        let group = queries.group();
        let (mut row, mut member) = (first / group, first % group);
        for (from, to) in from.iter_mut().zip(&mut to) {
            let sees = queries.sees(row);
            (*from, *to) = (within(sees.start), within(sees.end));
            member += 1;
            if member == group {
                (row, member) = (row + 1, 0);
            }
        }
        Self { from, to }
    }
}

/// What is known of the queries of a tile, `[LANES]` each.
pub(super) struct Weighed<'a> {
    /// What scores are made smaller by, in units of `ln 2`: a whole number; minus infinity while no key
    /// was seen.
    pub base: &'a mut [f32],
    /// The sum of weights.
    pub sum: &'a mut [f32],
}

impl<'a> Weighed<'a> {
    /// How many numbers there are.
    pub const LEN: usize = 2 * LANES;

    /// Of [`Weighed::LEN`] numbers.
    pub fn new(numbers: &'a mut [f32]) -> Self {
        let (base, sum) = numbers.split_at_mut(LANES);
        Self { base, sum }
    }

    /// Nothing was seen.
    pub fn clear(&mut self) {
        self.base.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
    }
}

/// Turns products (`[KEYS, LANES]`) into weights in bf16 (a tile: pairs of keys by queries) and adds them to
/// the sums in `numbers`. Gives what has to be done to all that was weighted before, if anything: what it is
/// multiplied by; that is already done to the sums. `seen` is what is seen where not all keys are, and the
/// first key's token. `between` is called a few times.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn softmax(
    scores: &mut [f32],
    factors: &Factors,
    seen: Option<(&Seen, usize)>,
    numbers: &mut Weighed<'_>,
    weights: &mut [f32],
    mut between: impl FnMut(),
) -> Option<[f32; LANES]> {
    assert!(scores.len() == KEYS * LANES && weights.len() == TILE);
    if seen.is_some() || !matches!(factors.before, Before::Nothing) {
        prepare(scores, factors, seen);
    }
    let times = _mm512_set1_ps(factors.by);
    let mut base = load(numbers.base);
    let unset = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(base, _mm512_set1_ps(f32::NEG_INFINITY));
    if unset != 0 {
        base = _mm512_mask_mov_ps(base, unset, largest(scores, times));
        store(base, numbers.base);
    }
    let mut by = None;
    let sum = loop {
        let least = _mm512_max_ps(base, _mm512_set1_ps(f32::MIN));
        let mut sums = [_mm512_setzero_ps(); 2];
        let runs = scores.as_chunks::<{ 2 * LANES * BETWEEN }>().0.iter();
        for (run, out) in runs.zip(weights.as_chunks_mut::<{ LANES * BETWEEN }>().0) {
            let pairs = run.as_chunks::<{ 2 * LANES }>().0.iter();
            for (pair, out) in pairs.zip(out.as_chunks_mut::<LANES>().0) {
                // Not by a closure: what calls it would have to have the instructions too.
                let first = power_of_two(_mm512_fmsub_ps(load(&pair[..LANES]), times, least));
                let second = power_of_two(_mm512_fmsub_ps(load(&pair[LANES..]), times, least));
                sums = [_mm512_add_ps(sums[0], first), _mm512_add_ps(sums[1], second)];
                store(interleave(first, second), out);
            }
            between();
        }
        let sum = _mm512_add_ps(sums[0], sums[1]);
        let high = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(sum, _mm512_set1_ps(TOO_LARGE));
        if high == 0 || by.is_some() {
            break sum;
        }
        let raised = _mm512_mask_mov_ps(base, high, largest(scores, times));
        let factor = power_of_two(_mm512_sub_ps(least, raised));
        let factor = _mm512_mask_mov_ps(_mm512_set1_ps(1.0), high, factor);
        base = raised;
        store(base, numbers.base);
        store(_mm512_mul_ps(load(numbers.sum), factor), numbers.sum);
        let mut factors = [0.0; LANES];
        store(factor, &mut factors);
        by = Some(factors);
    };
    store(_mm512_add_ps(load(numbers.sum), sum), numbers.sum);
    by
}

/// Does with scores what is done before the largest of them is looked for; those of keys that are not seen
/// become minus infinity.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn prepare(scores: &mut [f32], factors: &Factors, seen: Option<(&Seen, usize)>) {
    let unseen = _mm512_set1_ps(f32::NEG_INFINITY);
    for (key, score) in scores.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
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
        if let Some((seen, first)) = seen {
            let (from, to) = (load_ints(&seen.from), load_ints(&seen.to));
            let key = _mm512_set1_epi32((first + key) as i32);
            let seen = _mm512_cmple_epi32_mask(from, key) & _mm512_cmplt_epi32_mask(key, to);
            value = _mm512_mask_blend_ps(seen, unseen, value);
        }
        store(value, score);
    }
}

/// The largest of the scores, times `times`, rounded up.
#[inline]
#[target_feature(enable = "avx512f")]
fn largest(scores: &[f32], times: __m512) -> __m512 {
    let mut most = [_mm512_set1_ps(f32::NEG_INFINITY); 4];
    for scores in scores.as_chunks::<{ 4 * LANES }>().0 {
        for (score, most) in scores.as_chunks::<LANES>().0.iter().zip(&mut most) {
            *most = _mm512_max_ps(load(score), *most);
        }
    }
    let most = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
    _mm512_roundscale_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        most, times,
    ))
}

/// Multiplies weights (tiles of bf16) by powers of two.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn rescale_weights(weights: &mut [f32], by: &[f32; LANES]) {
    let by = load(by);
    for pair in weights.as_chunks_mut::<LANES>().0 {
        let words = _mm512_castps_si512(load(pair));
        let first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
        let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        let second = _mm512_castsi512_ps(_mm512_and_si512(words, high));
        store(interleave(_mm512_mul_ps(first, by), _mm512_mul_ps(second, by)), pair);
    }
}

/// `values *= by`: `[numbers, LANES]`.
#[target_feature(enable = "avx512f")]
pub(super) fn rescale(values: &mut [f32], by: &[f32; LANES]) {
    let by = load(by);
    for value in values.as_chunks_mut::<LANES>().0 {
        store(_mm512_mul_ps(load(value), by), value);
    }
}

/// `2^x`: exactly 0 below `-126`, else to some `3e-6` of it, far finer than the bf16 that weights
/// become.
/// NaN stays.
///
/// `x = n + r` with `n` whole and `0 <= r <= 1`, and a polynomial for `2^r` whose coefficients minimize the
/// largest relative error, the constant one fixed at 1 (found by iterated least squares).
///
/// No result is below the least normal number: making one would take the processor thirty times as long.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn power_of_two(x: __m512) -> __m512 {
    const COEFFICIENTS: [f32; 4] = [0.013_426_61, 0.052_242_6, 0.241_280_15, 0.693_044_85];
    let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0));
    let r = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
    let mut sum = _mm512_set1_ps(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(*coefficient));
    }
    // By two to the whole number below `x`.
    _mm512_scalef_ps(_mm512_maskz_fmadd_ps(normal, sum, r, _mm512_set1_ps(1.0)), x)
}
