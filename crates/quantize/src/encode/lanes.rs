//! The searches over several runs at a time, a run in each lane of a vector.
//!
//! Each lane does exactly what [`keeve_codec::search::Reference`] does with its run, operation by
//! operation, so that the bits are the same on every instruction set. The loops over lanes have a fixed
//! length and no branches: the compiler turns each into a vector instruction of the instruction set that
//! the function around them is compiled for.

use std::array::from_fn;

use keeve_codec::search::{Fit, Trials};

/// A number in each lane.
pub(super) type Lanes<const L: usize> = [f32; L];

#[inline(always)]
fn map<const L: usize>(a: Lanes<L>, f: impl Fn(f32) -> f32) -> Lanes<L> {
    from_fn(|lane| f(a[lane]))
}

#[inline(always)]
fn zip<const L: usize>(a: Lanes<L>, b: Lanes<L>, f: impl Fn(f32, f32) -> f32) -> Lanes<L> {
    from_fn(|lane| f(a[lane], b[lane]))
}

#[inline(always)]
fn select<const L: usize>(take: [bool; L], a: Lanes<L>, b: Lanes<L>) -> Lanes<L> {
    from_fn(|lane| if take[lane] { a[lane] } else { b[lane] })
}

/// Adding it leaves the nearest integer, ties to even, in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// `value` within `low..=high` (`low` for NaN), rounded to the nearest integer, ties to even.
#[inline(always)]
fn round_within(value: f32, low: f32, high: f32) -> f32 {
    let value = if value > low { value } else { low };
    let value = if value < high { value } else { high };
    (value + MAGIC) - MAGIC
}

/// `R` values of each of `L` runs that lie one after another, by place in the run.
#[inline(always)]
fn columns<const L: usize, const R: usize>(values: &[f32]) -> [Lanes<L>; R] {
    let values = &values[..L * R];
    from_fn(|place| from_fn(|lane| values[lane * R + place]))
}

/// Puts codes back where their values came from.
#[inline(always)]
fn write_codes<const L: usize, const R: usize>(code: impl Fn(usize) -> Lanes<L>, codes: &mut [u8]) {
    let codes = &mut codes[..L * R];
    for place in 0..R {
        let column = code(place);
        for lane in 0..L {
            codes[lane * R + place] = column[lane] as i32 as u8;
        }
    }
}

/// [`keeve_codec::search::Searches::with_minimum`] for `L` runs of `R` values.
#[inline(always)]
pub(super) fn with_minimum<const L: usize, const R: usize>(
    values: &[f32],
    weights: &[f32],
    top: i32,
    trials: Trials,
    codes: &mut [u8],
    fits: &mut [Fit],
) {
    let x: [Lanes<L>; R] = columns(values);
    let w: [Lanes<L>; R] = columns(weights);
    let top = top as f32;
    let (mut lowest, mut highest) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = ([0.0f32; L], [0.0f32; L]);
    for place in 0..R {
        lowest = zip(x[place], lowest, |x, low| if x < low { x } else { low });
        highest = zip(x[place], highest, |x, high| if x > high { x } else { high });
        sum_w = zip(sum_w, w[place], |sum, w| sum + w);
        sum_x = from_fn(|lane| sum_x[lane] + w[place][lane] * x[place][lane]);
    }
    lowest = map(lowest, |low| if low > 0.0 { 0.0 } else { low });
    // Such runs are all zeros; what is computed for them is not used.
    let flat: [bool; L] = from_fn(|lane| highest[lane] <= lowest[lane]);
    let flat_lowest = lowest;
    let code = |inverse: &Lanes<L>, lowest: &Lanes<L>, place: usize| -> Lanes<L> {
        from_fn(|lane| round_within(inverse[lane] * (x[place][lane] - lowest[lane]), 0.0, top))
    };
    let error = |scale: &Lanes<L>, lowest: &Lanes<L>, codes: &[Lanes<L>; R]| -> Lanes<L> {
        let mut sum = [0.0f32; L];
        for place in 0..R {
            sum = from_fn(|lane| {
                let diff = scale[lane] * codes[place][lane] + lowest[lane] - x[place][lane];
                let diff = if trials.absolute { diff.abs() } else { diff * diff };
                sum[lane] + w[place][lane] * diff
            });
        }
        sum
    };
    let mut inverse: Lanes<L> = zip(highest, lowest, |high, low| top / (high - low));
    let mut scale = map(inverse, |inverse| 1.0 / inverse);
    let mut tried: [Lanes<L>; R] = from_fn(|place| code(&inverse, &lowest, place));
    let mut least = error(&scale, &lowest, &tried);
    // What the best codes were made with.
    let mut base = lowest;
    for trial in 0..=trials.steps {
        let steps = trials.start + trials.step * f32::from(trial) + top;
        let tried_inverse: Lanes<L> = zip(highest, lowest, |high, low| steps / (high - low));
        let (mut sum_l, mut sum_ll, mut sum_xl) = ([0.0f32; L], [0.0f32; L], [0.0f32; L]);
        for place in 0..R {
            let l = code(&tried_inverse, &lowest, place);
            tried[place] = l;
            let wl = zip(w[place], l, |w, l| w * l);
            sum_l = zip(sum_l, wl, |sum, wl| sum + wl);
            sum_ll = from_fn(|lane| sum_ll[lane] + wl[lane] * l[lane]);
            sum_xl = from_fn(|lane| sum_xl[lane] + wl[lane] * x[place][lane]);
        }
        let determinant: Lanes<L> =
            from_fn(|lane| sum_w[lane] * sum_ll[lane] - sum_l[lane] * sum_l[lane]);
        let solved: Lanes<L> = from_fn(|lane| {
            (sum_w[lane] * sum_xl[lane] - sum_x[lane] * sum_l[lane]) / determinant[lane]
        });
        let solved_lowest: Lanes<L> = from_fn(|lane| {
            (sum_ll[lane] * sum_x[lane] - sum_l[lane] * sum_xl[lane]) / determinant[lane]
        });
        let above: [bool; L] = from_fn(|lane| solved_lowest[lane] > 0.0);
        let through_zero = zip(sum_xl, sum_ll, |xl, ll| xl / ll);
        let new_scale = select(above, through_zero, solved);
        let new_lowest = select(above, [0.0; L], solved_lowest);
        let found = error(&new_scale, &new_lowest, &tried);
        let take: [bool; L] =
            from_fn(|lane| (determinant[lane] > 0.0) & (found[lane] < least[lane]));
        base = select(take, lowest, base);
        inverse = select(take, tried_inverse, inverse);
        least = select(take, found, least);
        scale = select(take, new_scale, scale);
        lowest = select(take, new_lowest, lowest);
    }
    write_codes::<L, R>(|place| select(flat, [0.0; L], code(&inverse, &base, place)), codes);
    for (lane, fit) in fits[..L].iter_mut().enumerate() {
        *fit = match flat[lane] {
            true => Fit { scale: 0.0, lowest: flat_lowest[lane] },
            false => Fit { scale: scale[lane], lowest: lowest[lane] },
        };
    }
}

/// Runs whose largest magnitude is below this are stored as zeros.
const NEGLIGIBLE: f32 = 1e-15;

/// [`keeve_codec::search::Searches::symmetric`] for `L` runs of `R` values.
#[inline(always)]
pub(super) fn symmetric<const L: usize, const R: usize>(
    values: &[f32],
    weights: &[f32],
    half: i32,
    codes: &mut [u8],
    scales: &mut [f32],
) {
    let x: [Lanes<L>; R] = columns(values);
    let w: [Lanes<L>; R] = columns(weights);
    let half = half as f32;
    let mut largest = [0.0f32; L];
    for column in &x {
        largest = zip(*column, largest, |x, best| if x.abs() > best.abs() { x } else { best });
    }
    // Such runs are all zeros; what is computed for them is not used.
    let flat: [bool; L] = from_fn(|lane| largest[lane].abs() < NEGLIGIBLE);
    let code = |inverse: &Lanes<L>, place: usize| -> Lanes<L> {
        from_fn(|lane| round_within(inverse[lane] * x[place][lane], -half, half - 1.0))
    };
    let sums = |inverse: &Lanes<L>| {
        let (mut sum_xl, mut sum_ll) = ([0.0f32; L], [0.0f32; L]);
        for place in 0..R {
            let l = code(inverse, place);
            sum_xl = from_fn(|lane| sum_xl[lane] + w[place][lane] * x[place][lane] * l[lane]);
            sum_ll = from_fn(|lane| sum_ll[lane] + w[place][lane] * l[lane] * l[lane]);
        }
        (sum_xl, sum_ll)
    };
    let mut chosen = map(largest, |largest| -half / largest);
    let (sum_xl, sum_ll) = sums(&chosen);
    let mut scale = zip(sum_xl, sum_ll, |xl, ll| if ll != 0.0 { xl / ll } else { 0.0 });
    let mut best = zip(scale, sum_xl, |scale, xl| scale * xl);
    for step in (-9..=9).filter(|&step| step != 0) {
        let steps = -(half + 0.1 * step as f32);
        let inverse = map(largest, |largest| steps / largest);
        let (sum_xl, sum_ll) = sums(&inverse);
        let take: [bool; L] = from_fn(|lane| {
            (sum_ll[lane] > 0.0) & (sum_xl[lane] * sum_xl[lane] > best[lane] * sum_ll[lane])
        });
        let tried = zip(sum_xl, sum_ll, |xl, ll| xl / ll);
        chosen = select(take, inverse, chosen);
        scale = select(take, tried, scale);
        best = select(take, zip(tried, sum_xl, |scale, xl| scale * xl), best);
    }
    write_codes::<L, R>(
        |place| select(flat, [0.0; L], map(code(&chosen, place), |l| half + l)),
        codes,
    );
    for (lane, out) in scales[..L].iter_mut().enumerate() {
        *out = if flat[lane] { 0.0 } else { scale[lane] };
    }
}
