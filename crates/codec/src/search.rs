//! Searches for the scale (and minimum) that fit a group of weights best, as ggml's encoders do them.
//!
//! Each routine does plain `f32` arithmetic in exactly the order of its namesake in ggml-org/llama.cpp
//! `ggml/src/ggml-quants.c`: the searches compare nearly equal sums, so another order of additions, or
//! a fused multiply-add, gives other codes in rare groups. Codes come out unsigned, counted from the
//! lowest one.

/// The searches in which the encoders of K-quants spend their time, over runs of equal length that lie
/// one after another. All runs of a call are independent, so that an implementation may take several at
/// a time; it must give the bits of [`Reference`].
///
/// Slices `values`, `weights` and `codes` have the same length, a multiple of `run` (16 or 32); `fits` and
/// `scales` have an entry a run. Values are finite, weights finite and not negative.
pub trait Searches: Sync {
    /// Fits `scale * code + lowest` with codes `0..=top` to each run: for each trial scale the codes are
    /// rounded and the weighted least-squares scale and minimum for them solved (`make_qkx2_quants`,
    /// `make_qkx3_quants`).
    fn with_minimum(&self, task: Task<'_>, top: i32, trials: Trials, fits: &mut [Fit]);

    /// Fits `scale * (code - half)` with codes `0..2 * half` to each run, by trying 19 scales and solving
    /// for the best one given its codes (`make_qx_quants` with its error type 1).
    fn symmetric(&self, task: Task<'_>, half: i32, scales: &mut [f32]);
}

/// Runs to be fitted.
#[derive(Debug)]
pub struct Task<'a> {
    /// Values in a run.
    pub run: usize,
    /// The runs.
    pub values: &'a [f32],
    /// How much an error in each value counts.
    pub weights: &'a [f32],
    /// Where the codes go, counted from the lowest.
    pub codes: &'a mut [u8],
}

/// The searches as plain loops, a run at a time, in the order of ggml's.
#[derive(Debug, Clone, Copy)]
pub struct Reference;

impl Searches for Reference {
    fn with_minimum(&self, task: Task<'_>, top: i32, trials: Trials, fits: &mut [Fit]) {
        let Task { run, values, weights, codes } = task;
        let runs = values.chunks_exact(run).zip(weights.chunks_exact(run));
        for (((values, weights), codes), fit) in runs.zip(codes.chunks_exact_mut(run)).zip(fits) {
            *fit = with_minimum(values, weights, top, trials, codes);
        }
    }

    fn symmetric(&self, task: Task<'_>, half: i32, scales: &mut [f32]) {
        let Task { run, values, weights, codes } = task;
        let runs = values.chunks_exact(run).zip(weights.chunks_exact(run));
        for (((values, weights), codes), scale) in runs.zip(codes.chunks_exact_mut(run)).zip(scales)
        {
            *scale = symmetric(values, weights, half, codes);
        }
    }
}

/// Groups whose largest magnitude is below this are stored as zeros.
pub(crate) const NEGLIGIBLE: f32 = 1e-15;

/// `value` clamped to `low..=high`, then rounded to the nearest integer, ties to even; `low` for NaN.
/// The bounds must be integers below 2^22, where adding 1.5 * 2^23 leaves the integer in the low bits.
#[inline(always)]
pub(crate) fn round_within(value: f32, low: i32, high: i32) -> i32 {
    let shifted = value.max(low as f32).min(high as f32) + 12_582_912.0;
    (shifted.to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The value of largest magnitude, the first if there are several.
pub(crate) fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |best: f32, &value| if value.abs() > best.abs() { value } else { best })
}

/// The lowest and the highest value. Of two zeros that differ in sign the first counts, which `f32::min`
/// does not promise; the sign would show in a stored minimum.
pub(crate) fn extent(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lowest, highest), &value| {
        let lowest = if value < lowest { value } else { lowest };
        let highest = if value > highest { value } else { highest };
        (lowest, highest)
    })
}

/// One run of [`Searches::symmetric`].
pub(crate) fn symmetric(values: &[f32], weights: &[f32], half: i32, codes: &mut [u8]) -> f32 {
    let largest = extreme(values);
    if largest.abs() < NEGLIGIBLE {
        codes.fill(0);
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut sum_xl, mut sum_ll) = (0.0f32, 0.0f32);
        for (&x, &w) in values.iter().zip(weights) {
            let l = round_within(inverse * x, -half, half - 1) as f32;
            sum_xl += w * x * l;
            sum_ll += w * l * l;
        }
        (sum_xl, sum_ll)
    };
    let mut chosen = -half as f32 / largest;
    let (sum_xl, sum_ll) = sums(chosen);
    let mut scale = if sum_ll != 0.0 { sum_xl / sum_ll } else { 0.0 };
    let mut best = scale * sum_xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / largest;
        let (sum_xl, sum_ll) = sums(inverse);
        if sum_ll > 0.0 && sum_xl * sum_xl > best * sum_ll {
            chosen = inverse;
            scale = sum_xl / sum_ll;
            best = scale * sum_xl;
        }
    }
    for (code, &x) in codes.iter_mut().zip(values) {
        *code = (half + round_within(chosen * x, -half, half - 1)) as u8;
    }
    scale
}

/// Fits `scale * (code - half)` with codes `0..2 * half`, weighted by the squares of the values, by
/// moving one code at a time while that helps (`make_q3_quants`).
pub(crate) fn symmetric_by_sweeps(values: &[f32], half: i32, codes: &mut [u8]) -> f32 {
    let largest = extreme(values);
    if largest.abs() < NEGLIGIBLE {
        codes.fill(0);
        return 0.0;
    }
    let inverse = -half as f32 / largest;
    let (mut sum_xl, mut sum_ll) = (0.0f32, 0.0f32);
    for (code, &x) in codes.iter_mut().zip(values) {
        let l = round_within(inverse * x, -half, half - 1);
        *code = (l + half) as u8;
        let (l, w) = (l as f32, x * x);
        sum_xl += w * x * l;
        sum_ll += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (code, &x) in codes.iter_mut().zip(values) {
            let (l, w) = ((i32::from(*code) - half) as f32, x * x);
            let mut other_xl = sum_xl - w * x * l;
            if other_xl > 0.0 {
                let mut other_ll = sum_ll - w * l * l;
                let new = round_within(x * other_ll / other_xl, -half, half - 1);
                if new + half != i32::from(*code) {
                    other_xl += w * x * new as f32;
                    other_ll += w * new as f32 * new as f32;
                    if other_ll > 0.0 && other_xl * other_xl * sum_ll > sum_xl * sum_xl * other_ll {
                        *code = (new + half) as u8;
                        (sum_xl, sum_ll) = (other_xl, other_ll);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if sum_ll > 0.0 { sum_xl / sum_ll } else { 0.0 }
}

/// Fits `scale * code` with codes `0..=top` to values that are not negative (`make_qp_quants`).
pub(crate) fn positive(values: &[f32], weights: &[f32], top: i32, codes: &mut [u8]) -> f32 {
    let largest = values.iter().fold(0.0f32, |best, &value| best.max(value));
    if largest < NEGLIGIBLE {
        codes.fill(0);
        return 0.0;
    }
    let error = |inverse: f32| {
        let scale = 1.0 / inverse;
        let mut sum = 0.0f32;
        for (&x, &w) in values.iter().zip(weights) {
            let diff = x - scale * round_within(inverse * x, 0, top) as f32;
            sum += w * diff * diff;
        }
        sum
    };
    let mut inverse = top as f32 / largest;
    let mut least = error(inverse);
    for step in (-4..=4).filter(|&step| step != 0) {
        let tried = (0.1 * step as f32 + top as f32) / largest;
        let found = error(tried);
        if found < least {
            least = found;
            inverse = tried;
        }
    }
    let (mut sum_xl, mut sum_ll) = (0.0f32, 0.0f32);
    for ((code, &x), &w) in codes.iter_mut().zip(values).zip(weights) {
        let l = round_within(inverse * x, 0, top);
        *code = l as u8;
        sum_xl += w * x * l as f32;
        sum_ll += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((code, &x), &w) in codes.iter_mut().zip(values).zip(weights) {
            let l = f32::from(*code);
            let mut other_xl = sum_xl - w * x * l;
            let mut other_ll = sum_ll - w * l * l;
            if other_xl > 0.0 && other_ll > 0.0 {
                let new = round_within(x * other_ll / other_xl, 0, top);
                if new != i32::from(*code) {
                    other_xl += w * x * new as f32;
                    other_ll += w * new as f32 * new as f32;
                    if other_xl * other_xl * sum_ll > sum_xl * sum_xl * other_ll {
                        *code = new as u8;
                        (sum_xl, sum_ll) = (other_xl, other_ll);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if sum_ll > 0.0 { sum_xl / sum_ll } else { 0.0 }
}

/// Which scales [`Searches::with_minimum`] tries: `(start + step * t + top) / range` for `t` in
/// `0..=steps`.
#[derive(Debug, Clone, Copy)]
pub struct Trials {
    /// Added to the number of steps between the lowest and the highest code.
    pub start: f32,
    /// By how much a trial's number of steps exceeds that of the one before.
    pub step: f32,
    /// The last trial.
    pub steps: u8,
    /// Whether errors count by magnitude, not by square.
    pub absolute: bool,
}

impl Trials {
    /// What every format with a minimum uses when weights of importance are given.
    pub(crate) const WITH_IMPORTANCE: Self =
        Self { start: -0.9, step: 0.05, steps: 36, absolute: false };
}

/// A fit of `scale * code + lowest`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fit {
    /// The step between codes.
    pub scale: f32,
    /// The value of code 0; never above zero.
    pub lowest: f32,
}

/// One run of [`Searches::with_minimum`], of at most 32 values.
pub(crate) fn with_minimum(
    values: &[f32],
    weights: &[f32],
    top: i32,
    trials: Trials,
    codes: &mut [u8],
) -> Fit {
    let (mut lowest, highest) = extent(values);
    let (mut sum_w, mut sum_x) = (0.0f32, 0.0f32);
    for (&x, &w) in values.iter().zip(weights) {
        sum_w += w;
        sum_x += w * x;
    }
    if lowest > 0.0 {
        lowest = 0.0;
    }
    if highest <= lowest {
        codes.fill(0);
        return Fit { scale: 0.0, lowest };
    }
    // The error of a scale and a minimum, given codes.
    let error = |scale: f32, lowest: f32, codes: &[u8]| {
        let mut sum = 0.0f32;
        for ((&x, &w), &code) in values.iter().zip(weights).zip(codes) {
            let diff = scale * f32::from(code) + lowest - x;
            sum += w * if trials.absolute { diff.abs() } else { diff * diff };
        }
        sum
    };
    let inverse = top as f32 / (highest - lowest);
    let mut scale = 1.0 / inverse;
    for (code, &x) in codes.iter_mut().zip(values) {
        *code = round_within(inverse * (x - lowest), 0, top) as u8;
    }
    let mut least = error(scale, lowest, codes);
    let mut tried = [0u8; 32];
    let tried = &mut tried[..codes.len()];
    for trial in 0..=trials.steps {
        // `lowest` is the best so far, not the group's: a better fit moves the trials after it.
        let inverse =
            (trials.start + trials.step * f32::from(trial) + top as f32) / (highest - lowest);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((code, &x), &w) in tried.iter_mut().zip(values).zip(weights) {
            let l = round_within(inverse * (x - lowest), 0, top);
            *code = l as u8;
            let l = l as f32;
            sum_l += w * l;
            sum_ll += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_ll - sum_l * sum_l;
        if determinant > 0.0 {
            let mut new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut new_lowest = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
            if new_lowest > 0.0 {
                new_lowest = 0.0;
                new_scale = sum_xl / sum_ll;
            }
            let found = error(new_scale, new_lowest, tried);
            if found < least {
                codes.copy_from_slice(tried);
                least = found;
                scale = new_scale;
                lowest = new_lowest;
            }
        }
    }
    Fit { scale, lowest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_even_and_bounded() {
        for (value, expected) in [
            (0.5, 0),
            (1.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (2.500_001, 3),
            (1e30, 100),
            (-1e30, -100),
            (f32::INFINITY, 100),
            (f32::NAN, -100),
        ] {
            assert_eq!(round_within(value, -100, 100), expected, "{value}");
        }
    }

    #[test]
    fn exact_grids_are_found() {
        let weights = [1.0; 16];
        let mut codes = [0; 16];
        let values: Vec<f32> = (0..16).map(|code| (code - 8) as f32 * 0.25).collect();
        assert_eq!(symmetric(&values, &weights, 8, &mut codes), 0.25);
        assert_eq!(codes, std::array::from_fn(|code| code as u8));

        let values: Vec<f32> = (0..16).map(|code| code as f32 * 0.5 - 3.0).collect();
        let trials = Trials { start: -1.0, step: 0.1, steps: 20, absolute: false };
        let fit = with_minimum(&values, &weights, 15, trials, &mut codes);
        assert_eq!((fit.scale, fit.lowest), (0.5, -3.0));
        assert_eq!(codes, std::array::from_fn(|code| code as u8));

        let values: Vec<f32> = (0..16).map(|code| code as f32 * 0.125).collect();
        assert_eq!(positive(&values, &weights, 15, &mut codes), 0.125);
        assert_eq!(codes, std::array::from_fn(|code| code as u8));
    }
}
