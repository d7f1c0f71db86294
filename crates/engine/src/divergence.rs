//! What one row of logits says, by itself and beside a reference's.

/// One prediction, judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Negative natural log probability of the token that came.
    pub nll: f64,
    /// Beside the reference, if there is one.
    pub compared: Option<Compared>,
}

/// A row beside the reference's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
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
pub enum NotFinite {
    /// The model's.
    Model,
    /// The reference's.
    Reference,
}

/// A row's maximum, and the logarithm of the sum of its exponentials.
#[derive(Debug)]
struct Scale {
    likeliest: usize,
    log_sum: f64,
}

/// A reference's row, with what judging needs of it whatever is compared with it.
#[derive(Debug)]
pub struct Reference<'a> {
    logits: &'a [f32],
    scale: Scale,
    /// The probability of each token.
    probabilities: Vec<f32>,
}

impl<'a> Reference<'a> {
    /// # Errors
    /// If a logit is not finite, or there is none.
    pub fn new(logits: &'a [f32]) -> Result<Self, NotFinite> {
        let scale = scale(logits).ok_or(NotFinite::Reference)?;
        let mut probabilities = vec![0.0; logits.len()];
        for (logits, out) in logits.chunks(LANES).zip(probabilities.chunks_mut(LANES)) {
            let each = exp(lanes(logits, f64::NEG_INFINITY).map(|logit| logit - scale.log_sum));
            out.iter_mut().zip(each).for_each(|(out, each)| *out = each as f32);
        }
        Ok(Self { logits, scale, probabilities })
    }
}

/// Judges the prediction of token `target`. Sums are of 64-bit floats.
///
/// # Errors
/// If a logit is not finite, or there is none.
///
/// # Panics
/// If `target` is outside the row, or the rows are of different lengths.
pub fn judge(
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
    let mut divergence = [0.0; LANES];
    let rows = reference.logits.chunks(LANES).zip(logits.chunks(LANES));
    for ((p, q), probability) in rows.zip(reference.probabilities.chunks(LANES)) {
        let (p, q, probability) = (lanes(p, 0.0), lanes(q, 0.0), lanes(probability, 0.0));
        for lane in 0..LANES {
            divergence[lane] += probability[lane] * (p[lane] - q[lane] + shift);
        }
    }
    let compared = Compared {
        reference_nll: other.log_sum - f64::from(reference.logits[target]),
        // Rounding may leave it just below zero.
        divergence: divergence.iter().sum::<f64>().max(0.0),
        agrees: own.likeliest == other.likeliest,
    };
    Ok(Row { nll, compared: Some(compared) })
}

/// `None` if there is nothing, or something is not finite.
fn scale(logits: &[f32]) -> Option<Scale> {
    const EXPONENT: u32 = 0x7f80_0000;
    let bad = logits.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT));
    if bad {
        return None;
    }
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let likeliest = logits.iter().position(|&logit| logit == largest)?;
    let largest = f64::from(largest);
    let mut sums = [0.0; LANES];
    for logits in logits.chunks(LANES) {
        let each = exp(lanes(logits, f64::NEG_INFINITY).map(|logit| logit - largest));
        sums.iter_mut().zip(each).for_each(|(sum, each)| *sum += each);
    }
    Some(Scale { likeliest, log_sum: largest + sums.iter().sum::<f64>().ln() })
}

/// Values that are handled at a time, so that compilers make vectors of them.
const LANES: usize = 8;

/// Values as 64-bit floats; `rest` where there are too few.
fn lanes(values: &[f32], rest: f64) -> [f64; LANES] {
    match <[f32; LANES]>::try_from(values) {
        Ok(values) => values.map(f64::from),
        Err(_) => std::array::from_fn(|lane| values.get(lane).map_or(rest, |&x| f64::from(x))),
    }
}

/// `e^x` for `x <= 0`, to some `1e-15` of it; below `-700`, some `1e-304`.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and the Taylor series of `e^r` up to `r^13 / 13!`, whose rest is
/// below `1e-17`.
fn exp(x: [f64; LANES]) -> [f64; LANES] {
    use std::f64::consts::{LN_2, LOG2_E};
    /// Added to a small number and taken away again, leaves it rounded to a whole one, which stands in the
    /// low bits meanwhile.
    const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
    /// `ln 2` to 32 bits, so that whole multiples are exact; the rest comes after.
    const LN_2_HIGH: f64 = 2_977_044_471.0 / (1u64 << 32) as f64;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const SERIES: [f64; 13] = [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    debug_assert!((LN_2_HIGH + LN_2_LOW - LN_2).abs() < 1e-16);
    x.map(|x| {
        // Not `max`, which compilers make more of for the sake of NaN.
        let x = if x > -700.0 { x } else { -700.0 };
        let whole = x * LOG2_E + ROUND;
        let n = whole - ROUND;
        let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
        let mut sum = 1.0 / 6_227_020_800.0;
        for coefficient in SERIES {
            sum = sum * r + coefficient;
        }
        // The sum's exponent grows by `n`: its low bits are those of `whole`.
        f64::from_bits(sum.to_bits().wrapping_add(whole.to_bits() << 52))
    })
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
    fn exponentials() {
        for at in 0..70_000 {
            let x = -f64::from(at) * 0.01 * 0.999_9;
            let found = exp([x; LANES])[LANES - 1];
            assert!((found / x.exp() - 1.0).abs() < 2e-15, "{x}: {found} {}", x.exp());
        }
        assert_eq!(exp([0.0; LANES]), [1.0; LANES]);
        assert!(exp([f64::NEG_INFINITY; LANES])[0] < 1e-300);
        // Rows of any length.
        for length in 1..40 {
            let row: Vec<f32> = (0..length).map(|at| (at as f32 * 1.7).sin() * 9.0).collect();
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            let found = judge(&row, Some(&Reference::new(&row).unwrap()), 0).unwrap();
            assert!((found.nll - (sum.ln() - f64::from(row[0]))).abs() < 1e-14);
            assert_eq!(found.compared.unwrap().divergence, 0.0);
        }
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
