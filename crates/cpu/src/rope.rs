//! `rope`: sines and cosines once a step, then turning heads by them.

use keeve_graph::{Rope, RowInput};

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

    /// Turns the heads of `row`: pair `(i, i + n)` of each, `n` being the number of frequencies.
    pub fn turn(&self, row: usize, heads: &mut [f32], head_dim: usize) {
        let n = self.frequencies;
        let cosines = &self.cosines[row * n..(row + 1) * n];
        let sines = &self.sines[row * n..(row + 1) * n];
        for head in heads.chunks_exact_mut(head_dim) {
            let (low, rest) = head.split_at_mut(n);
            for (((low, high), cosine), sine) in low.iter_mut().zip(rest).zip(cosines).zip(sines) {
                (*low, *high) = (*low * cosine - *high * sine, *high * cosine + *low * sine);
            }
        }
    }
}
