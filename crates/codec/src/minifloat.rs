//! Floats of 4 and 8 bits, and scales that are powers of two.
//!
//! Source: "OCP Microscaling Formats (MX) Specification" 1.0 for E2M1, E4M3 and E8M0.

/// What the sixteen E2M1 codes stand for; the upper half repeats the lower one with a minus sign.
pub(crate) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The largest E2M1 value.
pub(crate) const E2M1_MAX: f32 = 6.0;
/// The largest E4M3 value.
pub(crate) const E4M3_MAX: f32 = 448.0;
/// The largest magnitude that an E2M1 code with an E4M3 scale can hold.
pub(crate) const NVFP4_MAX: f32 = E2M1_MAX * E4M3_MAX;

/// The E2M1 code for which `scale * value` is nearest to `value`; the first of those equally near.
///
/// With a scale of zero or NaN that is code 0. ggml and MLX both search like this, so that ties go to the
/// smaller magnitude and small negative values lose their sign.
pub(crate) fn nearest_e2m1(value: f32, scale: f32) -> u8 {
    let mut best = (0u8, (E2M1[0] * scale - value).abs());
    for (code, level) in (0u8..).zip(E2M1) {
        let error = (level * scale - value).abs();
        if error < best.1 {
            best = (code, error);
        }
    }
    best.0
}

/// An E4M3 float (the variant with NaN and without infinity): sign, 4 exponent bits of bias 7, 3 bits of
/// fraction.
pub(crate) fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (byte >> 3 & 15, f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * power_of_two(-9),
        _ => (8.0 + fraction) * power_of_two(i32::from(exponent) - 10),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The E4M3 float nearest to a finite `value`, ties to even; beyond the largest, the largest.
pub(crate) fn to_e4m3(value: f32) -> u8 {
    let magnitude = value.abs().min(E4M3_MAX);
    // The exponent of the value's binade, and of the subnormals below the lowest one.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    // In units of the last place: at most 16, which carries into the exponent as it should.
    let steps = (magnitude * power_of_two(3 - exponent)).round_ties_even() as i32;
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    ((exponent + 6) * 8 + steps) as u8 | sign
}

/// `2^exponent` for exponents of normal floats.
pub(crate) const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// An E8M0 scale: `2^(byte - 127)`. The last one, which the specification calls NaN, is infinite as in MLX.
pub(crate) fn e8m0(byte: u8) -> f32 {
    if byte == 0 { f32::from_bits(0x0040_0000) } else { f32::from_bits(u32::from(byte) << 23) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_reads_back_and_rounds() {
        for byte in 0..=u8::MAX {
            let value = e4m3(byte);
            assert_eq!(value.is_nan(), byte & 0x7f == 0x7f);
            assert!(value.is_nan() || to_e4m3(value) == byte, "{byte:#x}: {value}");
        }
        assert_eq!((e4m3(0x7e), e4m3(1), e4m3(0x38)), (448.0, 1.0 / 512.0, 1.0));
        // Between neighbours: below, at (to even) and above the middle.
        for byte in 0..0x7e {
            let (low, high) = (e4m3(byte), e4m3(byte + 1));
            let middle = (low + high) / 2.0;
            let even = byte + byte % 2;
            assert_eq!(to_e4m3(middle), even, "{middle}");
            assert_eq!(to_e4m3(f32::from_bits(middle.to_bits() - 1)), byte, "{middle}");
            assert_eq!(to_e4m3(-f32::from_bits(middle.to_bits() + 1)), 0x80 | (byte + 1));
        }
        assert_eq!((to_e4m3(1e9), to_e4m3(f32::MIN_POSITIVE), to_e4m3(0.0)), (0x7e, 0, 0));
    }

    #[test]
    fn powers_of_two() {
        assert_eq!((e8m0(0), e8m0(1), e8m0(127)), (2f32.powi(-127), f32::MIN_POSITIVE, 1.0));
        assert_eq!((e8m0(254), e8m0(255)), (2f32.powi(127), f32::INFINITY));
    }

    #[test]
    fn ties_go_to_the_first_code() {
        for (value, code) in [(0.25, 0), (-0.25, 0), (0.75, 1), (5.0, 6), (-5.5, 15), (9.0, 7)] {
            assert_eq!(nearest_e2m1(value, 1.0), code, "{value}");
        }
        assert_eq!(nearest_e2m1(1.0, f32::NAN), 0);
    }
}
