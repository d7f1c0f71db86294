//! Mixtures of experts: choosing them, products with the weights of those that were chosen, and the
//! sum of what they gave.
//!
//! A product takes the rows of one expert after the other, through the same kernels as `linear`. A
//! kernel's result for a row does not depend on the rows beside it, so it does not matter which
//! rows chose the same expert; and what the experts of a row gave is added up in the router's order.

use keeve_graph::{Phase, ValueId};

use crate::kernels::Kernels;
use crate::linear::activations::{Input, Inputs};
use crate::linear::{Epilogue, Linear};
use crate::runtime::pool::Pool;

/// Replaces `scores` by their softmax and writes the numbers of the largest ones to the first half
/// of `out`, their weights to the second. There are at least half as many scores as `out` is long.
pub(crate) fn choose(scores: &mut [f32], normalize: bool, out: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
    let (numbers, weights) = out.split_at_mut(out.len() / 2);
    for index in 0..numbers.len() {
        let chosen = &numbers[..index];
        let mut best: Option<usize> = None;
        for (expert, score) in scores.iter().enumerate() {
            // So that there is one even among scores that are not numbers.
            let better = best.is_none_or(|best| *score > scores[best]);
            if better && !chosen.contains(&(expert as f32)) {
                best = Some(expert);
            }
        }
        let best = best.unwrap_or(0);
        (numbers[index], weights[index]) = (best as f32, scores[best]);
    }
    if normalize {
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
}

/// `out = sum of weights[i] * x[i]`, the parts of `x` being as long as `out`.
pub(crate) fn sum(x: &[f32], router: &[f32], out: &mut [f32]) {
    let weights = &router[router.len() / 2..];
    out.fill(0.0);
    for (x, weight) in x.chunks_exact(out.len()).zip(weights) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += weight * x;
        }
    }
}

/// Memory of products with experts, kept from step to step.
#[derive(Default)]
pub(crate) struct ExpertRows {
    /// Pairs of an expert and a place, which is `row * chosen + rank`; sorted.
    places: Vec<(usize, usize)>,
    x: Vec<f32>,
    out: Vec<f32>,
    phases: Vec<Phase>,
    inputs: Inputs,
}

/// What a product with experts is made of.
pub(crate) struct ExpertProduct<'a> {
    /// The experts' weights.
    pub experts: &'a [Linear],
    /// Columns of each.
    pub cols: usize,
    /// The value that `x` is.
    pub value: ValueId,
    /// `[rows, cols]`, or `[rows, chosen * cols]`.
    pub x: &'a [f32],
    /// `[rows, 2 * chosen]`.
    pub router: &'a [f32],
    /// Of the rows.
    pub phases: &'a [Phase],
    /// For quantizing rows.
    pub kernels: &'static dyn Kernels,
}

impl ExpertProduct<'_> {
    /// Writes the products to `out`, `[rows, chosen * N]`. `inputs` are those of the step. Returns the
    /// bytes of weights that were read: those of the experts that some row chose.
    pub fn run(
        &self,
        inputs: &mut Inputs,
        memory: &mut ExpertRows,
        out: &mut [f32],
        pool: &Pool,
    ) -> usize {
        let Self { cols, phases, .. } = *self;
        let rows = phases.len();
        let chosen = self.router.len() / rows / 2;
        let width = out.len() / rows / chosen;
        let shared = self.x.len() == rows * cols;
        let ExpertRows { places, x, out: products, phases: own_phases, inputs: own } = memory;
        places.clear();
        for (row, router) in self.router.chunks_exact(2 * chosen).enumerate() {
            let numbers = router[..chosen].iter().enumerate();
            places.extend(numbers.map(|(rank, expert)| (*expert as usize, row * chosen + rank)));
        }
        places.sort_unstable();
        let mut bytes = 0;
        for group in places.chunk_by(|a, b| a.0 == b.0) {
            let linear = &self.experts[group[0].0];
            bytes += linear.bytes();
            let from = |place: usize| {
                let row = if shared { place / chosen } else { place };
                &self.x[row * cols..(row + 1) * cols]
            };
            if let [(_, place)] = group {
                let phase = &phases[place / chosen..=place / chosen];
                let out = &mut out[place * width..(place + 1) * width];
                // The only row of a step is the same input for all its experts.
                let input: Input<'_> = match shared && rows == 1 {
                    true => inputs.input(self.value, self.x, self.kernels),
                    false => own.fresh(from(*place), self.kernels),
                };
                linear.forward(Epilogue::Store(None), input, phase, out, pool);
                continue;
            }
            x.clear();
            own_phases.clear();
            for (_, place) in group {
                x.extend_from_slice(from(*place));
                own_phases.push(phases[place / chosen]);
            }
            products.resize(group.len() * width, 0.0);
            let input = own.fresh(x, self.kernels);
            linear.forward(Epilogue::Store(None), input, own_phases, products, pool);
            for ((_, place), product) in group.iter().zip(products.chunks_exact(width)) {
                out[place * width..(place + 1) * width].copy_from_slice(product);
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_in_order_and_the_first_of_equals() {
        let mut out = [0.0; 6];
        choose(&mut [0.0, 3f32.ln(), 0.0, 3f32.ln()], false, &mut out);
        assert_eq!(out[..3], [1.0, 3.0, 0.0]);
        for (found, expected) in out[3..].iter().zip([0.375, 0.375, 0.125]) {
            assert!((found - expected).abs() < 1e-6, "{out:?}");
        }
        choose(&mut [0.0, 3f32.ln(), 0.0, 3f32.ln()], true, &mut out);
        for (found, expected) in out[3..].iter().zip([3.0 / 7.0, 3.0 / 7.0, 1.0 / 7.0]) {
            assert!((found - expected).abs() < 1e-6, "{out:?}");
        }
    }

    #[test]
    fn scores_that_are_no_numbers_choose_different_experts_nevertheless() {
        for scores in [[f32::NAN; 4], [f32::INFINITY; 4], [f32::NEG_INFINITY; 4]] {
            let mut out = [0.0; 8];
            choose(&mut scores.clone(), true, &mut out);
            assert_eq!(out[..4], [0.0, 1.0, 2.0, 3.0]);
        }
    }

    #[test]
    fn sums_are_weighted() {
        let mut out = [7.0; 2];
        sum(&[1.0, 2.0, 10.0, 20.0], &[5.0, 3.0, 0.5, 0.25], &mut out);
        assert_eq!(out, [3.0, 6.0]);
    }
}
