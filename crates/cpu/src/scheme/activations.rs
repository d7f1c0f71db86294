//! Activations to int8.
//!
//! Plain loops, written so that compilers turn them into vector instructions where they are inlined into
//! a function that has some: every tier gives the same bits.

use crate::packed::tiles::BLOCK;
use crate::scheme::panel::{PANEL_COLS, QuantizedRows};

/// Columns that have a sum of codes: the shortest run of a scale in any codec.
pub(crate) const SUM_COLS: usize = 16;

/// How a span of activations becomes codes and a scale. `m` is the largest magnitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// `scale = m / 127`, `code = x * (127 / m)` to nearest, ties to even. Spans whose magnitudes are
    /// all below 2^-100 are zeros.
    HalfEven,
    /// Cider's: `scale = m / 127`, or 1 if that is zero; `code = x * (1 / scale)` to nearest, halves away
    /// from zero, within -128 to 127. Source: Mininglamp-AI/cider `cider/ops.py`.
    HalfAway,
    /// compressed-tensors': `scale = m / 127.5`, `code = x / scale` to nearest, ties to even, within -128
    /// to 127. Spans whose magnitudes are all below 2^-100 are zeros.
    WholeRange,
}

/// Magnitudes below this are zeros, so that their inverses are finite.
const LEAST: f32 = 1.0 / (1u128 << 100) as f32;
/// The largest code.
const TOP: f32 = 127.0;
/// Adding this leaves the nearest whole number in the lowest bits.
const ROUND: f32 = 3.0 * (1 << 22) as f32;

/// The largest magnitude; NaN if there is one.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    // Without their sign, floats are ordered as their bits are, and NaN comes last.
    f32::from_bits(x.iter().fold(0, |most, x| most.max(x.to_bits() & i32::MAX as u32)))
}

/// Fills `codes` from `x`, which may be shorter (the rest are zeros), and returns the scale. If a value is
/// infinite or NaN all codes are zero and the scale is NaN, which the result will be.
#[inline(always)]
fn span(x: &[f32], rounding: Rounding, codes: &mut [i8]) -> f32 {
    let (codes, rest) = codes.split_at_mut(x.len());
    rest.fill(0);
    let largest = largest(x);
    if !largest.is_finite() {
        codes.fill(0);
        return f32::NAN;
    }
    match rounding {
        Rounding::HalfEven => {
            if largest < LEAST {
                codes.fill(0);
                return 0.0;
            }
            let inverse = TOP / largest;
            for (code, x) in codes.iter_mut().zip(x) {
                *code = (x * inverse + ROUND).to_bits() as i8;
            }
            largest / TOP
        }
        Rounding::HalfAway => {
            let scale = if largest == 0.0 { 1.0 } else { largest / TOP };
            let inverse = 1.0 / scale;
            for (code, x) in codes.iter_mut().zip(x) {
                let x = x * inverse;
                let whole = x.abs().floor();
                let up = if x.abs() - whole >= 0.5 { 1.0 } else { 0.0 };
                // Not converted, which may not become vector instructions.
                let nearest = (whole + up).copysign(x).clamp(-128.0, TOP);
                *code = (nearest + ROUND).to_bits() as i8;
            }
            scale
        }
        Rounding::WholeRange => {
            if largest < LEAST {
                codes.fill(0);
                return 0.0;
            }
            let scale = largest / (TOP + 0.5);
            for (code, x) in codes.iter_mut().zip(x) {
                *code = ((x / scale).clamp(-128.0, TOP) + ROUND).to_bits() as i8;
            }
            scale
        }
    }
}

/// Quantizes a row: `codes.len()` columns, those past `x` zeros, with a scale for each `cols` of them.
#[inline(always)]
pub(crate) fn row(
    x: &[f32],
    cols: usize,
    rounding: Rounding,
    codes: &mut [i8],
    scales: &mut [f32],
) {
    for (index, (codes, scale)) in codes.chunks_mut(cols).zip(scales).enumerate() {
        let start = (index * cols).min(x.len());
        *scale = span(&x[start..(start + cols).min(x.len())], rounding, codes);
    }
}

/// Quantizes a row in two parts, each 256 columns in turn: 256 codes [`Rounding::HalfEven`] and their
/// scale, then as many of what these leave and theirs, a 254th of the first.
#[inline(always)]
pub(crate) fn row_in_parts(x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    let blocks = codes.as_chunks_mut::<{ 2 * PANEL_COLS }>().0.iter_mut();
    for (index, (codes, scales)) in blocks.zip(scales.as_chunks_mut::<2>().0).enumerate() {
        let start = (index * PANEL_COLS).min(x.len());
        let x = &x[start..(start + PANEL_COLS).min(x.len())];
        let (whole, rest) = codes.split_at_mut(PANEL_COLS);
        let scale = span(x, Rounding::HalfEven, whole);
        rest.fill(0);
        *scales = [scale, 0.0];
        if scale > 0.0 {
            /// Half a scale becomes the largest code.
            const FINER: f32 = 2.0 * TOP;
            let inverse = FINER / scale;
            for ((code, x), whole) in rest.iter_mut().zip(x).zip(whole) {
                let left = x - scale * f32::from(*whole);
                *code = (left * inverse + ROUND).to_bits() as i8;
            }
            scales[1] = scale / FINER;
        }
    }
}

/// Rows of activations for products by blocks: what minimums, offsets and codes that are not counted from
/// zero are multiplied with is here too.
pub(crate) struct BlockRows {
    /// Two if a row has been made by [`row_in_parts`], with twice the columns, or else one.
    pub parts: usize,
    /// Codes and scales.
    pub rows: QuantizedRows,
    /// Sums of 16 codes.
    pub sums: Vec<i16>,
    /// Sums of 32 codes, times their scale (where there is one for each 32 columns).
    pub weighted32: Vec<f32>,
    /// What the products of each row are multiplied with at last.
    pub factors: Vec<f32>,
}

impl QuantizedRows {
    /// Scales of a row.
    pub fn spans(&self) -> usize {
        self.cols / self.span
    }
}

impl BlockRows {
    /// No rows; [`BlockRows::resize`] makes room.
    pub const EMPTY: Self = Self {
        parts: 1,
        rows: QuantizedRows { rows: 0, cols: 0, codes: vec![], scales: vec![], span: 0 },
        sums: vec![],
        weighted32: vec![],
        factors: vec![],
    };

    /// Makes room for `rows` rows of `k` columns in `parts` parts, holding anything, with a scale for each
    /// `span` columns: 32 (256 if there are two parts), or [`usize::MAX`] for one scale a row. Factors are 1.
    /// The memory is kept.
    pub fn resize(&mut self, rows: usize, k: usize, parts: usize, span: usize) {
        self.parts = parts;
        let cols = parts * k.next_multiple_of(PANEL_COLS);
        let span = span.min(cols);
        let all = rows * cols;
        (self.rows.rows, self.rows.cols, self.rows.span) = (rows, cols, span);
        self.rows.codes.resize(all, 0);
        self.rows.scales.resize(all / span, 0.0);
        self.sums.resize(all / SUM_COLS, 0);
        self.weighted32.resize(all / BLOCK, 0.0);
        self.factors.clear();
        self.factors.resize(rows, 1.0);
    }
}

/// Fills the sums of a row of codes, which has a scale for each 32 columns, or only one.
#[inline(always)]
pub(crate) fn sums(codes: &[i8], scales: &[f32], sums: &mut [i16], weighted32: &mut [f32]) {
    for (codes, sum) in codes.as_chunks::<SUM_COLS>().0.iter().zip(sums.iter_mut()) {
        *sum = codes.iter().map(|&code| i16::from(code)).sum();
    }
    if scales.len() != weighted32.len() {
        return;
    }
    for ((&scale, sums), one) in scales.iter().zip(sums.as_chunks::<2>().0).zip(weighted32) {
        *one = scale * f32::from(sums[0] + sums[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(x: &[f32], rounding: Rounding) -> (Vec<i8>, f32) {
        let (mut codes, mut scales) = (vec![1; x.len().next_multiple_of(32)], [0.0]);
        row(x, codes.len(), rounding, &mut codes, &mut scales);
        assert!(codes[x.len()..].iter().all(|&code| code == 0));
        codes.truncate(x.len());
        (codes, scales[0])
    }

    #[test]
    fn halves_go_to_even_or_away_from_zero() {
        // Magnitude 127: scale and inverse are 1.
        let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.499_999_97, -126.5, 0.0];
        let even = [127, 0, 2, 2, 0, -2, -2, 0, -126, 0];
        let away = [127, 1, 2, 3, -1, -2, -3, 0, -127, 0];
        assert_eq!(quantized(&x, Rounding::HalfEven), (even.to_vec(), 1.0));
        assert_eq!(quantized(&x, Rounding::HalfAway), (away.to_vec(), 1.0));
        // Magnitude 127.5: the scale is 1, and the largest codes are those there are.
        let x = [127.5, -127.5, 0.5, 1.5, -2.5, 126.5, -126.5];
        let steps = [127, -128, 0, 2, -2, 126, -126];
        assert_eq!(quantized(&x, Rounding::WholeRange), (steps.to_vec(), 1.0));
    }

    #[test]
    fn codes_are_the_nearest_ones() {
        let x: Vec<f32> = (0..999).map(|i| ((i * 7919) % 2003) as f32 * 0.37 - 300.0).collect();
        for rounding in [Rounding::HalfEven, Rounding::HalfAway, Rounding::WholeRange] {
            let (codes, scale) = quantized(&x, rounding);
            for (x, code) in x.iter().zip(codes) {
                assert!(
                    (x - scale * f32::from(code)).abs() <= scale * 0.5001,
                    "{x} {code} {scale}"
                );
            }
        }
    }

    #[test]
    fn two_parts_leave_little() {
        let x: Vec<f32> = (0..300).map(|i| ((i * 7919) % 2003) as f32 * 0.37 - 300.0).collect();
        let (mut codes, mut scales) = ([1; 4 * PANEL_COLS], [1.0; 4]);
        row_in_parts(&x, &mut codes, &mut scales);
        for (at, x) in x.iter().enumerate() {
            let (block, column) = (at / PANEL_COLS, at % PANEL_COLS);
            let part = |part: usize| {
                let part = 2 * block + part;
                scales[part] * f32::from(codes[part * PANEL_COLS + column])
            };
            assert!((x - part(0)).abs() <= scales[2 * block] * 0.5001);
            assert!((x - part(0) - part(1)).abs() <= scales[2 * block] * 0.002 + x.abs() * 1e-6);
        }
        assert!(codes[2 * PANEL_COLS + 44..3 * PANEL_COLS].iter().all(|&code| code == 0));
        row_in_parts(&[f32::NAN, 1.0], &mut codes[..2 * PANEL_COLS], &mut scales[..2]);
        assert!(scales[0].is_nan() && scales[1] == 0.0);
    }

    #[test]
    fn zeros_tiny_and_wrong_values() {
        assert_eq!(quantized(&[0.0; 5], Rounding::HalfEven), (vec![0; 5], 0.0));
        assert_eq!(quantized(&[0.0; 5], Rounding::HalfAway), (vec![0; 5], 1.0));
        for rounding in [Rounding::HalfEven, Rounding::WholeRange] {
            assert_eq!(quantized(&[1e-40, -1e-31], rounding), (vec![0; 2], 0.0));
        }
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for rounding in [Rounding::HalfEven, Rounding::HalfAway, Rounding::WholeRange] {
                let (codes, scale) = quantized(&[1.0, wrong, 2.0], rounding);
                assert_eq!(codes, [0; 3]);
                assert!(scale.is_nan());
            }
        }
    }

    #[test]
    fn sums_are_of_16_and_32_codes() {
        let codes: Vec<i8> = (0..64).map(|code: i8| 2 * code - 100).collect();
        let (mut whole, mut one) = ([0; 4], [0.0; 2]);
        sums(&codes, &[0.5, 2.0], &mut whole, &mut one);
        let expected = [-1360, -848, -336, 176];
        assert_eq!(whole, expected);
        assert_eq!(one, [-1104.0, -320.0]);
    }
}
