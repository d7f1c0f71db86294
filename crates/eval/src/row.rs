//! What one row of logits says.

/// One prediction, judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Row {
    /// Negative natural log probability of the token that came.
    pub nll: f64,
    /// Beside the reference, if there is one.
    pub compared: Option<Compared>,
}

/// A row beside the reference's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Compared {
    /// The reference's [`Row::nll`].
    pub reference_nll: f64,
    /// Kullback-Leibler divergence of the model's distribution from the reference's, in nats: the sum over
    /// tokens of `p (ln p - ln q)`, `p` being the reference's probabilities.
    pub divergence: f64,
    /// Whether both have the same likeliest token (of equally likely ones, the first counts).
    pub agrees: bool,
}

/// Which row was not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotFinite {
    Model,
    Reference,
}

/// A row, its maximum and the logarithm of the sum of its exponentials.
#[derive(Debug)]
struct Scale {
    likeliest: usize,
    log_sum: f64,
}

/// A reference's row, with what judging needs of it whatever is compared with it.
#[derive(Debug)]
pub(crate) struct Reference<'a> {
    logits: &'a [f32],
    scale: Scale,
    /// The probability of each token.
    probabilities: Vec<f32>,
}

impl<'a> Reference<'a> {
    pub(crate) fn new(logits: &'a [f32]) -> Result<Self, NotFinite> {
        let scale = scale(logits).ok_or(NotFinite::Reference)?;
        let probability = |&logit: &f32| (f64::from(logit) - scale.log_sum).exp() as f32;
        let probabilities = logits.iter().map(probability).collect();
        Ok(Self { logits, scale, probabilities })
    }
}

/// Judges the prediction of token `target`. Sums are of 64-bit floats.
///
/// # Panics
/// If `target` is outside the row, or the rows are of different lengths.
pub(crate) fn judge(
    logits: &[f32],
    reference: Option<&Reference<'_>>,
    target: usize,
) -> Result<Row, NotFinite> {
    let own = scale(logits).ok_or(NotFinite::Model)?;
    let nll = own.log_sum - f64::from(logits[target]);
    let Some(reference) = reference else { return Ok(Row { nll, compared: None }) };
    assert_eq!(logits.len(), reference.logits.len(), "rows of one vocabulary");
    let other = &reference.scale;
    // Exactly zero for equal rows: each term then is.
    let shift = own.log_sum - other.log_sum;
    let pairs = reference.logits.iter().zip(logits);
    let terms = pairs.zip(&reference.probabilities).map(|((&p, &q), &probability)| {
        f64::from(probability) * (f64::from(p) - f64::from(q) + shift)
    });
    let compared = Compared {
        reference_nll: other.log_sum - f64::from(reference.logits[target]),
        // Rounding may leave it just below zero.
        divergence: terms.sum::<f64>().max(0.0),
        agrees: own.likeliest == other.likeliest,
    };
    Ok(Row { nll, compared: Some(compared) })
}

fn scale(logits: &[f32]) -> Option<Scale> {
    if !logits.iter().all(|logit| logit.is_finite()) {
        return None;
    }
    let mut likeliest = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[likeliest] {
            likeliest = index;
        }
    }
    let largest = f64::from(*logits.get(likeliest)?);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    Some(Scale { likeliest, log_sum: largest + sum.ln() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(logits: &[f32], reference: &[f32], target: usize) -> Result<Row, NotFinite> {
        judge(logits, Some(&Reference::new(reference)?), target)
    }

    #[test]
    fn probabilities_by_hand() {
        let ln = |p: f64| p.ln() as f32;
        // Shifted by a constant, which must not matter.
        let model = [ln(0.5) + 7.0, ln(0.25) + 7.0, ln(0.25) + 7.0];
        let reference = [ln(0.25) - 90.0, ln(0.5) - 90.0, ln(0.25) - 90.0];
        let row = beside(&model, &reference, 1).unwrap();
        let compared = row.compared.unwrap();
        assert!((row.nll - 4f64.ln()).abs() < 1e-6);
        assert!((compared.reference_nll - 2f64.ln()).abs() < 1e-5);
        // 0.25 ln(0.25 / 0.5) + 0.5 ln(0.5 / 0.25) = 0.25 ln 2.
        assert!((compared.divergence - 0.25 * 2f64.ln()).abs() < 1e-5, "{compared:?}");
        assert!(!compared.agrees);
        assert_eq!(judge(&model, None, 1).unwrap(), Row { nll: row.nll, compared: None });
    }

    #[test]
    fn a_row_does_not_diverge_from_itself() {
        let row: Vec<f32> = (0..1000).map(|at| (at as f32 * 0.37).sin() * 20.0).collect();
        let compared = beside(&row, &row, 3).unwrap().compared.unwrap();
        assert_eq!((compared.divergence, compared.agrees), (0.0, true));
        // A little noise: about half its mean square under the distribution.
        let noisy: Vec<f32> =
            row.iter().enumerate().map(|(at, x)| x + (at % 2) as f32 * 1e-3).collect();
        let divergence = beside(&noisy, &row, 3).unwrap().compared.unwrap().divergence;
        assert!((1e-9..1e-6).contains(&divergence), "{divergence}");
    }

    #[test]
    fn rows_that_are_not_finite_are_told_apart() {
        let good = [1.0, 2.0];
        for bad in [[f32::NAN, 1.0], [1.0, f32::INFINITY], [f32::NEG_INFINITY, 1.0]] {
            assert_eq!(beside(&bad, &good, 0), Err(NotFinite::Model));
            assert_eq!(beside(&good, &bad, 0), Err(NotFinite::Reference));
        }
        assert_eq!(judge(&[f32::MIN, f32::MAX], None, 1).unwrap().nll, 0.0);
    }
}
