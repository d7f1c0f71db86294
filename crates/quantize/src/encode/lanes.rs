//! The searches over several runs at a time, a run in each lane of a vector.
//!
//! Each lane does exactly what [`keeve_codec::search::Reference`] does with its run, operation by
//! operation, so that the bits are the same on every instruction set. Lanes that are done, or never had
//! anything to do, go on with numbers that are not used.

use keeve_codec::search::{Fit, Trials};

use super::vector::Vector;

/// The most values in a run.
const LONGEST: usize = 32;

/// Adding it leaves the nearest integer, ties to even, in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// The constants that a search rounds with.
#[derive(Clone, Copy)]
struct Rounding<V> {
    low: V,
    high: V,
    magic: V,
}

impl<V: Vector> Rounding<V> {
    /// # Safety
    /// The instruction set must be there.
    #[inline(always)]
    unsafe fn new(low: f32, high: f32) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { Self { low: V::splat(low), high: V::splat(high), magic: V::splat(MAGIC) } }
    }

    /// `value` within the bounds (the lower one for NaN), rounded to the nearest integer, ties to even.
    #[inline(always)]
    fn round(self, value: V) -> V {
        value.max(self.low).min(self.high).add(self.magic).sub(self.magic)
    }
}

/// The runs turned around: `values[place]` has the value at `place` of each run.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
unsafe fn columns<V: Vector, const R: usize>(values: &[f32]) -> [V; LONGEST] {
    let values = &values[..V::LANES * R];
    // SAFETY: the caller vouches for the instruction set.
    let mut columns = [unsafe { V::splat(0.0) }; LONGEST];
    for (place, column) in columns[..R].iter_mut().enumerate() {
        let mut lanes = [0.0; 16];
        for (lane, value) in lanes[..V::LANES].iter_mut().enumerate() {
            *value = values[lane * R + place];
        }
        // SAFETY: as above.
        *column = unsafe { V::load(&lanes) };
    }
    columns
}

/// Puts codes back where their values came from.
#[inline(always)]
fn write_codes<V: Vector, const R: usize>(columns: &[V; LONGEST], codes: &mut [u8]) {
    let codes = &mut codes[..V::LANES * R];
    for (place, column) in columns[..R].iter().enumerate() {
        let mut lanes = [0.0; 16];
        column.store(&mut lanes);
        for (lane, code) in lanes[..V::LANES].iter().enumerate() {
            codes[lane * R + place] = *code as i32 as u8;
        }
    }
}

/// [`keeve_codec::search::Searches::with_minimum`] for as many runs of `R` values as there are lanes.
///
/// # Safety
/// The instruction set of `V` must be there.
#[inline(always)]
pub(super) unsafe fn with_minimum<V: Vector, const R: usize>(
    values: &[f32],
    weights: &[f32],
    top: i32,
    trials: Trials,
    codes: &mut [u8],
    fits: &mut [Fit],
) {
    // SAFETY: the caller vouches for the instruction set.
    let (x, w) = unsafe { (columns::<V, R>(values), columns::<V, R>(weights)) };
    let splat = |value: f32| {
        // SAFETY: as above.
        unsafe { V::splat(value) }
    };
    let top = top as f32;
    // SAFETY: as above.
    let rounding = unsafe { Rounding::<V>::new(0.0, top) };
    let zero = splat(0.0);
    let (mut lowest, mut highest) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (zero, zero);
    for place in 0..R {
        lowest = x[place].min(lowest);
        highest = x[place].max(highest);
        sum_w = sum_w.add(w[place]);
        sum_x = sum_x.add(w[place].mul(x[place]));
    }
    lowest = zero.where_mask(zero.less(lowest), lowest);
    let some_spread = lowest.less(highest);
    let flat_lowest = lowest;
    let mut inverse = splat(top).div(highest.sub(lowest));
    let mut scale = splat(1.0).div(inverse);
    let mut tried = [zero; LONGEST];
    for place in 0..R {
        tried[place] = rounding.round(inverse.mul(x[place].sub(lowest)));
    }
    let mut least = error::<V, R>(&x, &w, &tried, scale, lowest, trials.absolute, zero);
    // What the best codes were made with.
    let mut base = lowest;
    for trial in 0..=trials.steps {
        let steps = trials.start + trials.step * f32::from(trial) + top;
        let tried_inverse = splat(steps).div(highest.sub(lowest));
        let (mut sum_l, mut sum_ll, mut sum_xl) = (zero, zero, zero);
        for place in 0..R {
            let l = rounding.round(tried_inverse.mul(x[place].sub(lowest)));
            tried[place] = l;
            let wl = w[place].mul(l);
            sum_l = sum_l.add(wl);
            sum_ll = sum_ll.add(wl.mul(l));
            sum_xl = sum_xl.add(wl.mul(x[place]));
        }
        let determinant = sum_w.mul(sum_ll).sub(sum_l.mul(sum_l));
        let solved = sum_w.mul(sum_xl).sub(sum_x.mul(sum_l)).div(determinant);
        let solved_lowest = sum_ll.mul(sum_x).sub(sum_l.mul(sum_xl)).div(determinant);
        let above = zero.less(solved_lowest);
        let new_scale = sum_xl.div(sum_ll).where_mask(above, solved);
        let new_lowest = zero.where_mask(above, solved_lowest);
        let found = error::<V, R>(&x, &w, &tried, new_scale, new_lowest, trials.absolute, zero);
        let take = V::both(zero.less(determinant), found.less(least));
        base = lowest.where_mask(take, base);
        inverse = tried_inverse.where_mask(take, inverse);
        least = found.where_mask(take, least);
        scale = new_scale.where_mask(take, scale);
        lowest = new_lowest.where_mask(take, lowest);
    }
    for place in 0..R {
        let code = rounding.round(inverse.mul(x[place].sub(base)));
        tried[place] = code.where_mask(some_spread, zero);
    }
    write_codes::<V, R>(&tried, codes);
    let (mut scales, mut minimums) = ([0.0; 16], [0.0; 16]);
    scale.where_mask(some_spread, zero).store(&mut scales);
    lowest.where_mask(some_spread, flat_lowest).store(&mut minimums);
    for (fit, (scale, lowest)) in fits[..V::LANES].iter_mut().zip(scales.into_iter().zip(minimums))
    {
        *fit = Fit { scale, lowest };
    }
}

/// The error of a scale and a minimum, given codes.
#[inline(always)]
fn error<V: Vector, const R: usize>(
    x: &[V; LONGEST],
    w: &[V; LONGEST],
    codes: &[V; LONGEST],
    scale: V,
    lowest: V,
    absolute: bool,
    zero: V,
) -> V {
    let mut sum = zero;
    for place in 0..R {
        let diff = scale.mul(codes[place]).add(lowest).sub(x[place]);
        let diff = if absolute { diff.abs() } else { diff.mul(diff) };
        sum = sum.add(w[place].mul(diff));
    }
    sum
}

/// Runs whose largest magnitude is below this are stored as zeros.
const NEGLIGIBLE: f32 = 1e-15;

/// [`keeve_codec::search::Searches::symmetric`] for as many runs of `R` values as there are lanes.
///
/// # Safety
/// The instruction set of `V` must be there.
#[inline(always)]
pub(super) unsafe fn symmetric<V: Vector, const R: usize>(
    values: &[f32],
    weights: &[f32],
    half: i32,
    codes: &mut [u8],
    scales: &mut [f32],
) {
    // SAFETY: the caller vouches for the instruction set.
    let (x, w) = unsafe { (columns::<V, R>(values), columns::<V, R>(weights)) };
    let splat = |value: f32| {
        // SAFETY: as above.
        unsafe { V::splat(value) }
    };
    let half = half as f32;
    // SAFETY: as above.
    let rounding = unsafe { Rounding::<V>::new(-half, half - 1.0) };
    let zero = splat(0.0);
    let mut largest = zero;
    // The weighted values, which every trial needs.
    let mut wx = w;
    for place in 0..R {
        largest = x[place].where_mask(largest.abs().less(x[place].abs()), largest);
        wx[place] = w[place].mul(x[place]);
    }
    let negligible = largest.abs().less(splat(NEGLIGIBLE));
    let mut chosen = splat(-half).div(largest);
    let (sum_xl, sum_ll) = sums::<V, R>(&x, &w, &wx, chosen, rounding, zero);
    // A sum of squares that is not zero is greater.
    let mut scale = sum_xl.div(sum_ll).where_mask(zero.less(sum_ll), zero);
    let mut best = scale.mul(sum_xl);
    for step in (-9..=9).filter(|&step| step != 0) {
        let steps = -(half + 0.1 * step as f32);
        let inverse = splat(steps).div(largest);
        let (sum_xl, sum_ll) = sums::<V, R>(&x, &w, &wx, inverse, rounding, zero);
        let better = best.mul(sum_ll).less(sum_xl.mul(sum_xl));
        let take = V::both(zero.less(sum_ll), better);
        let tried = sum_xl.div(sum_ll);
        chosen = inverse.where_mask(take, chosen);
        scale = tried.where_mask(take, scale);
        best = tried.mul(sum_xl).where_mask(take, best);
    }
    let mut found = [zero; LONGEST];
    for place in 0..R {
        let code = splat(half).add(rounding.round(chosen.mul(x[place])));
        found[place] = zero.where_mask(negligible, code);
    }
    write_codes::<V, R>(&found, codes);
    let mut lanes = [0.0; 16];
    zero.where_mask(negligible, scale).store(&mut lanes);
    scales[..V::LANES].copy_from_slice(&lanes[..V::LANES]);
}

/// The sums that give the best scale for the codes that `inverse` gives.
#[inline(always)]
fn sums<V: Vector, const R: usize>(
    x: &[V; LONGEST],
    w: &[V; LONGEST],
    wx: &[V; LONGEST],
    inverse: V,
    rounding: Rounding<V>,
    zero: V,
) -> (V, V) {
    let (mut sum_xl, mut sum_ll) = (zero, zero);
    for place in 0..R {
        let l = rounding.round(inverse.mul(x[place]));
        sum_xl = sum_xl.add(wx[place].mul(l));
        sum_ll = sum_ll.add(w[place].mul(l).mul(l));
    }
    (sum_xl, sum_ll)
}
