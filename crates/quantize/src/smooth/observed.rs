//! What enters the sites of a model while it reads a text, and which factors suit that.

use std::collections::HashMap;

use keeve_codec::{Codec, EncodeOptions, decode, encode};
use keeve_graph::{Tap, ValueId};

/// Rows of a site's input that are kept.
const KEPT_ROWS: usize = 64;

/// Rows of a weight that stand for all of them.
const SAMPLED_ROWS: usize = 256;

/// Factors stay within this and its inverse.
const MOST: f32 = 1e4;

/// The exponents that are tried.
pub(super) const ALPHAS: [f32; 6] = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// What entered one site.
#[derive(Debug, Clone, Default)]
pub(super) struct Input {
    /// The largest magnitude in each column.
    pub largest: Vec<f32>,
    /// Some of the rows, one after another.
    pub rows: Vec<f32>,
}

/// What entered the sites.
pub(super) struct Inputs {
    /// Every how manieth row is kept.
    every: usize,
    seen: HashMap<ValueId, usize>,
    pub inputs: HashMap<ValueId, Input>,
}

impl Inputs {
    /// For a text of `tokens` tokens.
    pub fn of(tokens: usize) -> Self {
        let every = tokens.div_ceil(KEPT_ROWS).max(1);
        Self { every, seen: HashMap::new(), inputs: HashMap::new() }
    }
}

impl Tap for Inputs {
    fn value(&mut self, value: ValueId, width: usize, data: &[f32]) {
        let seen = self.seen.entry(value).or_insert(0);
        let input = self.inputs.entry(value).or_default();
        input.largest.resize(width, 0.0);
        for row in data.chunks_exact(width) {
            for (largest, value) in input.largest.iter_mut().zip(row) {
                *largest = largest.max(value.abs());
            }
            if seen.is_multiple_of(self.every) {
                input.rows.extend_from_slice(row);
            }
            *seen += 1;
        }
    }
}

/// The weights of a site.
pub(super) struct Matrices {
    /// The largest magnitude in each column.
    pub largest: Vec<f32>,
    /// Some rows of each weight, and the codec that it will have.
    pub sampled: Vec<(Vec<f32>, Codec)>,
}

impl Matrices {
    /// Of weights of `cols` columns.
    pub fn new(cols: usize) -> Self {
        Self { largest: vec![0.0; cols], sampled: Vec::new() }
    }

    /// Adds a weight; `row` decodes one of its rows.
    pub fn add(&mut self, rows: usize, codec: Codec, row: impl Fn(usize, &mut [f32])) {
        let every = rows.div_ceil(SAMPLED_ROWS).max(1);
        let mut values = vec![0.0; self.largest.len()];
        let mut sampled = Vec::new();
        for index in 0..rows {
            row(index, &mut values);
            for (largest, value) in self.largest.iter_mut().zip(&values) {
                *largest = largest.max(value.abs());
            }
            if index.is_multiple_of(every) {
                sampled.extend_from_slice(&values);
            }
        }
        self.sampled.push((sampled, codec));
    }
}

/// SmoothQuant's factors, `max|X_j|^alpha / max|W_j|^(1 - alpha)`: equation 4 of "SmoothQuant: Accurate and
/// Efficient Post-Training Quantization for Large Language Models". `factor_of` says which factor each
/// column has; columns that share one count by their largest.
pub(super) fn factors(
    input: &[f32],
    weights: &[f32],
    factor_of: &[usize],
    count: usize,
    alpha: f32,
) -> Vec<f32> {
    let (mut x, mut w) = (vec![0.0f32; count], vec![0.0f32; count]);
    for ((&factor, &input), &weight) in factor_of.iter().zip(input).zip(weights) {
        x[factor] = x[factor].max(input);
        w[factor] = w[factor].max(weight);
    }
    let factor = |(x, w): (f32, f32)| {
        let factor = x.powf(alpha) / w.powf(1.0 - alpha);
        // Of columns that are nothing, on either side, nothing can be moved.
        if factor.is_normal() { factor.clamp(1.0 / MOST, MOST) } else { 1.0 }
    };
    x.into_iter().zip(w).map(factor).collect()
}

/// The error of a site's products, inputs being rounded to 8 bits a row and weights to their codec after
/// `by_col` has moved from the ones into the others: squares over those of the products, summed over rows,
/// so that the few rows of enormous numbers that models have count no more than others.
///
/// # Errors
/// If a codec does not fit the columns.
pub(super) fn loss(
    input: &Input,
    matrices: &Matrices,
    by_col: &[f32],
) -> Result<f64, keeve_codec::Error> {
    let cols = by_col.len();
    let rounded: Vec<f32> =
        input.rows.chunks_exact(cols).flat_map(|x| rounded(x, by_col)).collect();
    let mut sums = vec![(0.0f64, 0.0f64); input.rows.len() / cols];
    for (sampled, codec) in &matrices.sampled {
        let moved: Vec<f32> =
            sampled.iter().zip(by_col.iter().cycle()).map(|(w, factor)| w * factor).collect();
        let encoded = encode(*codec, sampled.len() / cols, cols, &moved, EncodeOptions::default())?;
        let packed = decode(&encoded.tensor);
        let rows = input.rows.chunks_exact(cols).zip(rounded.chunks_exact(cols));
        for ((x, rounded), (error, energy)) in rows.zip(&mut sums) {
            for (w, packed) in sampled.chunks_exact(cols).zip(packed.chunks_exact(cols)) {
                let exact = dot(x, w);
                *error += f64::from(exact - dot(rounded, packed)).powi(2);
                *energy += f64::from(exact).powi(2);
            }
        }
    }
    let relative = |(error, energy)| if energy > 0.0 { error / energy } else { 0.0 };
    Ok(sums.into_iter().map(relative).sum())
}

/// A row over its columns' factors, rounded to int8 with one scale as Cider does.
fn rounded(row: &[f32], by_col: &[f32]) -> Vec<f32> {
    let divided: Vec<f32> = row.iter().zip(by_col).map(|(value, factor)| value / factor).collect();
    let largest = divided.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    divided.into_iter().map(|value| (value * inverse).round() * scale).collect()
}

/// A scalar product, in an order that vectors can follow.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_keep_the_largest_and_a_sample() {
        let config = r#"{"model_type": "llama", "hidden_size": 32, "intermediate_size": 32,
            "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 8}"#;
        let graph = keeve_models::build(&serde_json::from_str(config).unwrap()).unwrap().graph;
        let value = graph.values().next().unwrap();
        let mut inputs = Inputs::of(3 * KEPT_ROWS);
        for piece in 0..3 {
            let row = |at: usize| [at as f32, -((piece * KEPT_ROWS + at) as f32)];
            inputs.value(value, 2, &(0..KEPT_ROWS).flat_map(row).collect::<Vec<_>>());
        }
        let input = &inputs.inputs[&value];
        assert_eq!(input.largest, [63.0, 191.0]);
        assert_eq!(input.rows.len(), KEPT_ROWS * 2);
        assert_eq!(input.rows[2..4], [3.0, -3.0]);
    }

    #[test]
    fn factors_are_those_of_the_paper() {
        let found = factors(&[16.0, 4.0, 0.0], &[1.0, 0.25, 1.0], &[0, 1, 2], 3, 0.5);
        assert_eq!(found, [4.0, 4.0, 1.0]);
        let shared = factors(&[16.0, 4.0], &[0.25, 1.0], &[0, 0], 1, 0.5);
        assert_eq!(shared, [4.0]);
        assert_eq!(factors(&[1e30], &[1e-30], &[0], 1, 0.9), [MOST]);
    }

    #[test]
    fn a_column_of_outliers_costs_less_once_it_is_moved() {
        let cols = 64;
        let rows = (0..32 * cols).map(|i| {
            let value = (i as f32 * 0.37).sin();
            if i % cols == 5 { 100.0 * value } else { value }
        });
        let largest = (0..cols).map(|col| if col == 5 { 100.0 } else { 1.0 }).collect();
        let input = Input { largest, rows: rows.collect() };
        let mut matrices = Matrices::new(cols);
        matrices.add(16, "int8".parse().unwrap(), |row, values| {
            for (col, value) in values.iter_mut().enumerate() {
                *value = ((row * cols + col) as f32 * 0.71).cos();
            }
        });
        let own: Vec<usize> = (0..cols).collect();
        let smooth = factors(&input.largest, &matrices.largest, &own, cols, 0.5);
        let (before, after) = (
            loss(&input, &matrices, &vec![1.0; cols]).unwrap(),
            loss(&input, &matrices, &smooth).unwrap(),
        );
        assert!(after < before / 10.0, "{before} {after}");
    }
}
