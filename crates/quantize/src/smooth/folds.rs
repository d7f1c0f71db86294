//! Factors as they are folded into the tensors of a model.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use half::{bf16, f16};
use keeve_codec::{Codec, PackedTensor, decode_row};

use super::sites::{Before, Site};
use crate::Error;

/// What is folded into the tensors of a model, by their canonical names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Folds {
    /// Gains of norms that take the place of those in the model.
    gains: BTreeMap<String, Vec<f32>>,
    /// Factors of columns; for a bias, of its values.
    cols: BTreeMap<String, Vec<f32>>,
    /// Factors of rows.
    rows: BTreeMap<String, Vec<f32>>,
}

impl Folds {
    /// Whether nothing is folded.
    pub fn is_empty(&self) -> bool {
        self.cols.is_empty()
    }

    /// Distinguishes folds.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        for map in [&self.gains, &self.cols, &self.rows] {
            for (name, numbers) in map {
                name.hash(&mut hasher);
                numbers.iter().for_each(|number| number.to_bits().hash(&mut hasher));
            }
        }
        hasher.finish()
    }

    /// Whether the tensor `name` is changed.
    pub fn concerns(&self, name: &str) -> bool {
        [&self.gains, &self.cols, &self.rows].iter().any(|map| map.contains_key(name))
    }

    /// The tensor `name` with its factors, in `f32`; `None` if it has none.
    ///
    /// # Errors
    /// If it has another shape than the graph's, or more than one expert.
    pub fn folded(&self, name: &str, tensor: &PackedTensor) -> Result<Option<PackedTensor>, Error> {
        if !self.concerns(name) {
            return Ok(None);
        }
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let of = |map: &BTreeMap<String, Vec<f32>>, length: usize| match map.get(name) {
            Some(numbers) if numbers.len() != length || tensor.experts() != 1 => {
                let problem = format!("has {length} rows or columns, not {}", numbers.len());
                Err(Error::tensor(name, problem))
            }
            numbers => Ok(numbers.cloned()),
        };
        let (gains, by_col, by_row) =
            (of(&self.gains, cols)?, of(&self.cols, cols)?, of(&self.rows, rows)?);
        let wrong = |error: keeve_codec::Error| Error::tensor(name, error);
        if let Some(gains) = gains {
            return PackedTensor::from_f32(1, cols, &gains).map(Some).map_err(wrong);
        }
        let mut values = vec![0.0; rows * cols];
        for (index, row) in values.chunks_exact_mut(cols).enumerate() {
            decode_row(tensor, index, row);
            if let Some(factors) = &by_col {
                row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
            }
            if let Some(factors) = &by_row {
                row.iter_mut().for_each(|value| *value *= factors[index]);
            }
        }
        PackedTensor::from_f32(rows, cols, &values).map(Some).map_err(wrong)
    }

    /// Both together; they concern different rows, columns or tensors.
    pub fn with(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.gains.extend(other.gains.clone());
        for (all, more) in [(&mut both.cols, &other.cols), (&mut both.rows, &other.rows)] {
            for (name, factors) in more {
                // Two sites may have different rows of a fused weight.
                let all = all.entry(name.clone()).or_insert_with(|| vec![1.0; factors.len()]);
                all.iter_mut().zip(factors).for_each(|(all, factor)| *all *= factor);
            }
        }
        both
    }

    /// Folds `wanted` (a factor for each of the site's columns' groups) at a site, rounded so that what
    /// enters the weights is divided by exactly what they are multiplied by: where a norm takes the
    /// inverse, factors are the quotients of its `gains` (as stored in `codec`) before and after; where
    /// rows take it, powers of two. Returns the factors that are in effect too.
    pub(super) fn at(
        site: &Site,
        wanted: &[f32],
        gains: Option<(&[f32], Codec)>,
    ) -> (Self, Vec<f32>) {
        let mut folds = Self::default();
        let factors: Vec<f32> = match (&site.before, gains) {
            (Before::Norm { gains: name, one_plus }, Some((gains, codec))) => {
                let one = if *one_plus { 1.0 } else { 0.0 };
                let (mut changed, mut factors) = (Vec::new(), Vec::new());
                for (&gain, &wanted) in gains.iter().zip(wanted) {
                    let rounded = round_to(codec, (gain + one) / wanted - one);
                    let factor = (gain + one) / (rounded + one);
                    // A gain of nothing leaves nothing to divide.
                    let good = factor.is_normal() && factor > 0.0;
                    changed.push(if good { rounded } else { gain });
                    factors.push(if good { factor } else { 1.0 });
                }
                folds.gains.insert(name.clone(), changed);
                factors
            }
            (Before::Rows(maker), _) => {
                let factors: Vec<f32> =
                    wanted.iter().map(|factor| factor.log2().round().exp2()).collect();
                let mut inverse = vec![1.0; maker.of];
                for (row, factor) in maker.rows.clone().zip(&factors) {
                    inverse[row] = 1.0 / factor;
                }
                if let Some(bias) = &maker.bias {
                    folds.cols.insert(bias.clone(), inverse.clone());
                }
                folds.rows.insert(maker.weight.clone(), inverse);
                factors
            }
            (Before::Norm { .. }, None) => vec![1.0; wanted.len()],
        };
        let by_col: Vec<f32> = site.factor_of.iter().map(|&index| factors[index]).collect();
        for name in &site.after {
            folds.cols.insert(name.clone(), by_col.clone());
        }
        (folds, by_col)
    }
}

/// `value` as a float codec stores it.
fn round_to(codec: Codec, value: f32) -> f32 {
    match codec {
        Codec::F16 => f16::from_f32(value).to_f32(),
        Codec::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use keeve_codec::stored_values;

    use super::*;
    use crate::smooth::Kind;
    use crate::smooth::sites::{Maker, sites};

    fn norm_site(one_plus: bool) -> Site {
        let config = r#"{"model_type": "llama", "hidden_size": 32, "intermediate_size": 32,
            "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 8}"#;
        let graph = keeve_models::build(&serde_json::from_str(config).unwrap()).unwrap().graph;
        let mut site = sites(&graph).remove(0);
        site.before = Before::Norm { gains: "n.weight".into(), one_plus };
        (site.after, site.factor_of) = (vec!["w.weight".into()], (0..4).collect());
        site
    }

    #[test]
    fn norms_take_exactly_what_weights_get() {
        for one_plus in [false, true] {
            let gains = [0.123, -1.0, 0.5, 7.0].map(|gain| bf16::from_f32(gain).to_f32());
            let one = f32::from(u8::from(one_plus));
            let wanted = [1.7, 0.3, 5.9, 2.2];
            let site = norm_site(one_plus);
            let (folds, factors) = Folds::at(&site, &wanted, Some((&gains, Codec::BF16)));
            let before = PackedTensor::from_f32(1, 4, &gains).unwrap();
            let after = folds.folded("n.weight", &before).unwrap().unwrap();
            let mut changed = [0.0; 4];
            stored_values(Codec::F32, after.row(0), &mut changed);
            for at in 0..4 {
                assert_eq!(bf16::from_f32(changed[at]).to_f32(), changed[at]);
                let product = f64::from(changed[at] + one) * f64::from(factors[at]);
                let gain = f64::from(gains[at] + one);
                assert!((product - gain).abs() <= 1e-6 * gain.abs(), "{product} {gain}");
                // 1 is added to a gain of -1, which leaves nothing to divide.
                let near = (factors[at] / wanted[at] - 1.0).abs() < 0.02;
                assert!(near || one_plus && at == 1 && factors[at] == 1.0, "{factors:?}");
            }
        }
    }

    #[test]
    fn rows_take_powers_of_two_and_parts_of_a_fused_weight_add_up() {
        let mut site = norm_site(false);
        site.kind = Kind::Value;
        site.factor_of = vec![0, 1, 0, 1];
        let maker = |rows: std::ops::Range<usize>| {
            let (weight, bias) = ("v.weight".into(), Some("v.bias".into()));
            Before::Rows(Maker { weight, bias, rows, of: 5 })
        };
        site.before = maker(1..3);
        let (folds, factors) = Folds::at(&site, &[3.1, 0.24], None);
        assert_eq!(factors, [4.0, 0.25, 4.0, 0.25]);
        let weight = PackedTensor::from_f32(5, 2, &[1.0; 10]).unwrap();
        site.before = maker(3..5);
        let both = folds.with(&Folds::at(&site, &[2.0, 2.0], None).0);
        let made = both.folded("v.weight", &weight).unwrap().unwrap();
        let mut values = [0.0; 2];
        let rows = (0..5).map(|row| {
            stored_values(Codec::F32, made.row(row), &mut values);
            values[1]
        });
        assert_eq!(rows.collect::<Vec<_>>(), [1.0, 0.25, 4.0, 0.5, 0.5]);
        let wrong = PackedTensor::from_f32(4, 2, &[1.0; 8]).unwrap();
        assert!(both.folded("v.weight", &wrong).is_err());
        assert!(both.folded("other", &weight).unwrap().is_none());
        assert_ne!(both.fingerprint(), folds.fingerprint());
    }
}
