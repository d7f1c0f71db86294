//! The searches on the instruction sets that this machine has.

use keeve_codec::search::{Fit, Reference, Searches, Task, Trials};

use super::lanes;
use super::vector::{self, Vector};

/// Which vector instructions are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every machine of the architecture has.
    Baseline,
}

/// Searches with vectors; the bits are those of [`Reference`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vectors(Tier);

impl Vectors {
    /// Those that this machine can run, the fastest first.
    pub(crate) fn found() -> impl Iterator<Item = Self> {
        let tiers = [
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl"))
            .then_some(Tier::Avx512),
            #[cfg(target_arch = "x86_64")]
            is_x86_feature_detected!("avx2").then_some(Tier::Avx2),
            Some(Tier::Baseline),
        ];
        tiers.into_iter().flatten().map(Self)
    }

    /// The instructions.
    pub(super) fn tier(self) -> Tier {
        self.0
    }

    /// The fastest that this machine can run.
    pub(crate) fn best() -> Self {
        Self::found().next().unwrap_or(Self(Tier::Baseline))
    }
}

/// Makes searches out of those for one vector: whole groups of runs, and how many that were.
macro_rules! searches {
    ($(#[$feature:meta])* $vector:ty, $minimum:ident, $symmetric:ident) => {
        /// # Safety
        /// The instruction set must be there.
        $(#[$feature])*
        unsafe fn $minimum(task: &mut Task<'_>, top: i32, trials: Trials, fits: &mut [Fit]) -> usize {
            const LANES: usize = <$vector as Vector>::LANES;
            let (run, mut done) = (task.run, 0);
            while done + LANES <= fits.len() {
                let (from, to) = (done * run, (done + LANES) * run);
                let (x, w) = (&task.values[from..to], &task.weights[from..to]);
                let (codes, fits) = (&mut task.codes[from..to], &mut fits[done..]);
                // SAFETY: the caller vouches for the instruction set.
                unsafe {
                    match run {
                        16 => lanes::with_minimum::<$vector, 16>(x, w, top, trials, codes, fits),
                        32 => lanes::with_minimum::<$vector, 32>(x, w, top, trials, codes, fits),
                        _ => break,
                    }
                }
                done += LANES;
            }
            done
        }

        /// # Safety
        /// The instruction set must be there.
        $(#[$feature])*
        unsafe fn $symmetric(task: &mut Task<'_>, half: i32, scales: &mut [f32]) -> usize {
            const LANES: usize = <$vector as Vector>::LANES;
            let (run, mut done) = (task.run, 0);
            while done + LANES <= scales.len() {
                let (from, to) = (done * run, (done + LANES) * run);
                let (x, w) = (&task.values[from..to], &task.weights[from..to]);
                let (codes, scales) = (&mut task.codes[from..to], &mut scales[done..]);
                // SAFETY: the caller vouches for the instruction set.
                unsafe {
                    match run {
                        16 => lanes::symmetric::<$vector, 16>(x, w, half, codes, scales),
                        32 => lanes::symmetric::<$vector, 32>(x, w, half, codes, scales),
                        _ => break,
                    }
                }
                done += LANES;
            }
            done
        }
    };
}

searches!(vector::Plain, plain_minimum, plain_symmetric);
#[cfg(target_arch = "x86_64")]
searches!(
    #[target_feature(enable = "avx2")]
    vector::Avx2,
    avx2_minimum,
    avx2_symmetric
);
#[cfg(target_arch = "x86_64")]
searches!(
    #[target_feature(enable = "avx512f")]
    vector::Avx512,
    avx512_minimum,
    avx512_symmetric
);

impl Vectors {
    /// Fits as many runs as fill vectors, and says how many.
    fn minimums(self, task: &mut Task<'_>, top: i32, trials: Trials, fits: &mut [Fit]) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only `found` makes a tier of this name, after the features were detected
            // (AVX2 is a part of AVX-512F).
            Tier::Avx512 if fits.len() >= 16 => unsafe { avx512_minimum(task, top, trials, fits) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx512 | Tier::Avx2 => unsafe { avx2_minimum(task, top, trials, fits) },
            // SAFETY: plain loops need nothing.
            Tier::Baseline => unsafe { plain_minimum(task, top, trials, fits) },
        }
    }

    /// As [`Self::minimums`].
    fn symmetrics(self, task: &mut Task<'_>, half: i32, scales: &mut [f32]) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx512 if scales.len() >= 16 => unsafe { avx512_symmetric(task, half, scales) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx512 | Tier::Avx2 => unsafe { avx2_symmetric(task, half, scales) },
            // SAFETY: plain loops need nothing.
            Tier::Baseline => unsafe { plain_symmetric(task, half, scales) },
        }
    }
}

/// The runs of a task from number `first` on.
fn rest<'a>(task: &'a mut Task<'_>, first: usize) -> Task<'a> {
    let from = first * task.run;
    Task {
        run: task.run,
        values: &task.values[from..],
        weights: &task.weights[from..],
        codes: &mut task.codes[from..],
    }
}

impl Searches for Vectors {
    fn with_minimum(&self, mut task: Task<'_>, top: i32, trials: Trials, fits: &mut [Fit]) {
        let done = self.minimums(&mut task, top, trials, fits);
        Reference.with_minimum(rest(&mut task, done), top, trials, &mut fits[done..]);
    }

    fn symmetric(&self, mut task: Task<'_>, half: i32, scales: &mut [f32]) {
        let done = self.symmetrics(&mut task, half, scales);
        Reference.symmetric(rest(&mut task, done), half, &mut scales[done..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values of all magnitudes, many zeros, and runs without any spread among them.
    fn numbers(count: usize) -> impl Strategy<Value = Vec<f32>> {
        let number = prop_oneof![
            4 => -1.0f32..1.0,
            1 => -1e4f32..1e4,
            1 => Just(0.0f32),
            1 => Just(-0.0f32),
            1 => (-40i32..5).prop_map(|power| 2.0f32.powi(power)),
            1 => (-120i32..0).prop_map(|power| -(2.0f32.powi(power))),
        ];
        (proptest::collection::vec(number, count), 0usize..8, 0usize..4).prop_map(
            |(mut values, run, kind)| {
                let part = values.len() / 8;
                let window = &mut values[run * part..][..part];
                match kind {
                    0 => window.fill(0.0),
                    1 => window.fill(0.25),
                    2 => window.iter_mut().for_each(|value| *value = value.abs()),
                    _ => {}
                }
                values
            },
        )
    }

    const TRIALS: [Trials; 4] = [
        Trials { start: -0.5, step: 0.1, steps: 15, absolute: true },
        Trials { start: -1.0, step: 0.1, steps: 20, absolute: false },
        Trials { start: -0.5, step: 0.1, steps: 15, absolute: false },
        Trials { start: -0.9, step: 0.05, steps: 36, absolute: false },
    ];

    /// Bits, so that zeros of different sign differ.
    fn bits(fits: &[Fit]) -> Vec<(u32, u32)> {
        fits.iter().map(|fit| (fit.scale.to_bits(), fit.lowest.to_bits())).collect()
    }

    proptest! {
        #[test]
        fn every_tier_gives_the_bits_of_the_reference(
            values in numbers(17 * 32),
            weights in proptest::collection::vec(prop_oneof![9 => 0.0f32..2.0, 1 => Just(0.0)], 17 * 32),
            trials in 0..TRIALS.len(),
            top in prop_oneof![Just(3), Just(15), Just(31)],
            half in prop_oneof![Just(4), Just(32)],
            run in prop_oneof![Just(16usize), Just(32)],
        ) {
            let count = values.len() / run;
            let trials = TRIALS[trials];
            let mut codes = vec![0; values.len()];
            let mut expected = vec![Fit::default(); count];
            let task = Task { run, values: &values, weights: &weights, codes: &mut codes };
            Reference.with_minimum(task, top, trials, &mut expected);
            let mut symmetric_codes = vec![0; values.len()];
            let mut scales = vec![0.0; count];
            let task = Task { run, values: &values, weights: &weights, codes: &mut symmetric_codes };
            Reference.symmetric(task, half, &mut scales);
            for tier in Vectors::found() {
                let mut found_codes = vec![0xaa; values.len()];
                let mut found = vec![Fit::default(); count];
                let task = Task { run, values: &values, weights: &weights, codes: &mut found_codes };
                tier.with_minimum(task, top, trials, &mut found);
                prop_assert_eq!(bits(&found), bits(&expected), "{:?}", tier);
                prop_assert_eq!(&found_codes, &codes, "{:?}", tier);
                let mut found = vec![0.0f32; count];
                let task = Task { run, values: &values, weights: &weights, codes: &mut found_codes };
                tier.symmetric(task, half, &mut found);
                let bits = |scales: &[f32]| scales.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&found), bits(&scales), "{:?}", tier);
                prop_assert_eq!(&found_codes, &symmetric_codes, "{:?}", tier);
            }
        }
    }
}
