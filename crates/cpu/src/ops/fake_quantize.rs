//! Rows of activations rounded to 8 bits and kept in floats.

/// The largest code.
const TOP: f32 = 127.0;
/// Rows whose magnitudes are all smaller are scaled as if this were the largest.
const LEAST: f32 = 1e-5;

/// What [`keeve_graph::Op::RoundRows`] does to a row, as huggingface/transformers
/// `integrations/bitnet.py` does it.
pub(crate) fn round_row(x: &[f32], out: &mut [f32]) {
    let largest = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let scale = TOP / largest.max(LEAST);
    for (out, x) in out.iter_mut().zip(x) {
        *out = (x * scale).round_ties_even().clamp(-TOP - 1.0, TOP) / scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_multiples_of_the_largest_over_127() {
        let mut out = [0.0; 5];
        round_row(&[-254.0, 3.0, 1.0, 0.4, 5.1], &mut out);
        assert_eq!(out, [-254.0, 4.0, 0.0, 0.0, 6.0]);
        round_row(&[0.0; 5], &mut out);
        assert_eq!(out, [0.0; 5]);
    }
}
