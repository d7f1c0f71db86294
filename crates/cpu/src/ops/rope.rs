//! `rope`: sines and cosines once a step, then turning heads by them.

use keeve_graph::{Rope, RowInput};

use crate::kernels::Kernels;

/// Sines and cosines of every row of a step: `[rows, frequencies]` each.
#[derive(Default)]
pub(crate) struct Turns {
    cosines: Vec<f32>,
    sines: Vec<f32>,
    frequencies: usize,
}

impl Turns {
    /// Angles are position times frequency, rounded to `f32` as the reference libraries round
    /// them; sine and cosine of that are exact to `f32`.
    pub fn new(rope: &Rope, rows: &[RowInput]) -> Self {
        let frequencies = rope.frequencies.len();
        let mut cosines = Vec::with_capacity(rows.len() * frequencies);
        let mut sines = Vec::with_capacity(rows.len() * frequencies);
        for row in rows {
            for (frequency, axis) in rope.frequencies.iter().zip(&rope.axes) {
                let angle = row.position[usize::from(*axis)] as f32 * frequency;
                let (sine, cosine) = f64::from(angle).sin_cos();
                cosines.push(cosine as f32 * rope.amplitude);
                sines.push(sine as f32 * rope.amplitude);
            }
        }
        Self { cosines, sines, frequencies }
    }

    /// Turns the heads of `row`: [`turn`].
    pub fn turn(&self, row: usize, heads: &mut [f32], head_dim: usize, kernels: &dyn Kernels) {
        let n = self.frequencies;
        let (cosines, sines) = (&self.cosines[row * n..][..n], &self.sines[row * n..][..n]);
        kernels.turn(heads, head_dim, cosines, sines);
    }
}

/// Turns heads: pair `(i, i + n)` of each, `n` being the number of frequencies.
#[inline(always)]
pub(crate) fn turn(heads: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) {
    for head in heads.chunks_exact_mut(head_dim) {
        let (low, rest) = head.split_at_mut(cosines.len());
        for (((low, high), cosine), sine) in low.iter_mut().zip(rest).zip(cosines).zip(sines) {
            (*low, *high) = (*low * cosine - *high * sine, *high * cosine + *low * sine);
        }
    }
}
