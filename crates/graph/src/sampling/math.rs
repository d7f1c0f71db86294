//! The functions that sampling is defined by: the same bits wherever `f32` arithmetic rounds to nearest and
//! nothing is contracted to fused operations.

/// `e^x` for `x` up to 0; `e^-87` below -87.
///
/// Source of the polynomial and of the split of `ln 2`: Moshier, Cephes Mathematical Library, `single/expf.c`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4 * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (p * (r * r) + r + 1.0) * scale
}

/// `ln x` of a positive normal number.
///
/// Source of the polynomial and of the split of `ln 2`: Moshier, Cephes Mathematical Library, `single/logf.c`.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    // The mantissa is then from the square root of 1/2 to that of 2.
    let exponent = (bits.wrapping_sub(0x3f35_04f3) as i32) >> 23;
    let f = f32::from_bits(bits.wrapping_sub((exponent << 23) as u32)) - 1.0;
    let e = exponent as f32;
    let z = f * f;
    let p = 7.037_683_6e-2 * f - 1.151_461e-1;
    let p = p * f + 1.167_699_87e-1;
    let p = p * f - 1.242_014_1e-1;
    let p = p * f + 1.424_932_3e-1;
    let p = p * f - 1.666_805_8e-1;
    let p = p * f + 2.000_071_5e-1;
    let p = p * f - 2.499_999_4e-1;
    let p = p * f + 3.333_333e-1;
    let y = p * f * z + e * -2.121_944_4e-4 - 0.5 * z;
    f + y + e * 0.693_359_4
}

/// The key of the noise at a position: SplitMix64's mixing function on seed and position.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
pub fn key(seed: u64, position: u64) -> u64 {
    let mix = |value: u64| {
        let mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    mix(mix(seed).wrapping_add(position))
}

/// 32 bits for a token: two rounds of a mixing function of 32 bits, keyed by half of the key each.
///
/// Source of the constants: Wellons, `skeeto/hash-prospector` (the lowest bias of its kind).
#[inline(always)]
pub fn hash(key: u64, id: u32) -> u32 {
    let round = |value: u32| {
        let mixed = (value ^ (value >> 16)).wrapping_mul(0x21f0_aaad);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0xd35a_2d97);
        mixed ^ (mixed >> 15)
    };
    round(round(id ^ key as u32) ^ (key >> 32) as u32)
}

/// Noise of the standard Gumbel distribution, `-ln(-ln(1 - v))`, with `v` over 0 and below 1 from 31 bits of the hash.
#[inline(always)]
pub fn gumbel(key: u64, id: u32) -> f32 {
    let bits = (hash(key, id) >> 1) as i32;
    let v = (bits as f32 + 0.5) * (1.0 / 2_147_483_648.0);
    let v = if v > LARGEST { LARGEST } else { v };
    // ln(1 - v) loses the bits of a small v; this gets them back (Kahan's log1p).
    let rest = 1.0 - v;
    let lost = 1.0 - rest;
    let whole = lost > 0.0;
    let waiting = -ln(rest) * (v / if whole { lost } else { 1.0 });
    -ln(if whole { waiting } else { v })
}

/// The number below 1.
const LARGEST: f32 = 1.0 - f32::EPSILON / 2.0;

/// A weight from 0 to 1 as an integer with 39 binary places, rounded down.
#[inline(always)]
pub fn fixed(weight: f32) -> u64 {
    let bits = weight.to_bits();
    let shift = 127u32.wrapping_sub(bits >> 23);
    let shift = if shift > 63 { 63 } else { shift };
    (u64::from(bits & 0x7f_ffff | 0x80_0000) << 16).wrapping_shr(shift)
}

/// A share of a mass, `share` over 0 and at most 1, rounded down to 32 binary places.
pub fn part(mass: u64, share: f32) -> u64 {
    let share = (f64::from(share) * (1u64 << 32) as f64) as u64;
    ((u128::from(mass) * u128::from(share)) >> 32) as u64
}
