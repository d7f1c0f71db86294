//! Random codes and scales of every codec.
//!
//! Codes are random bits, of which nearly every combination is a valid code; scales are random
//! numbers around one that gives the weights the spread of a trained model's. Layouts are those of
//! `keeve-codec`.

use half::{bf16, f16};
use keeve_codec::{Bytes, Codec, Float};

/// About the standard deviation of weights.
pub(crate) const SPREAD: f32 = 0.02;

/// Something in a block that is not a code.
enum Field {
    /// An f16 at this offset, of about this size.
    F16(usize, f32),
    /// As many bytes from this offset on, each between two bounds, both included.
    Bytes(usize, usize, u8, u8),
    /// The f16, of about this size, whose four nibbles are the upper ones of the four words at this
    /// offset.
    SpreadF16(usize, f32),
}

/// Fills whole rows of a codec: its codes, and the scales and biases that it keeps apart.
pub(crate) fn fill(
    codec: Codec,
    data: &mut [u8],
    scales: &mut [u8],
    biases: &mut [u8],
    random: &mut Random,
) {
    // The standard deviation of codes, all being equally likely.
    let deviation = |codes: f32| codes / 12f32.sqrt();
    if let Codec::Float(float) = codec {
        return fill_floats(float, SPREAD, true, data, random);
    }
    random.fill(data);
    match codec {
        Codec::Affine { bits, scale, .. } => {
            let codes = f32::from(bits).exp2();
            let size = SPREAD / deviation(codes);
            fill_floats(scale, size, false, scales, random);
            fill_floats(scale, -size * (codes - 1.0) / 2.0, false, biases, random);
        }
        Codec::Int8 { scale, .. } => {
            fill_floats(scale, SPREAD / deviation(256.0), false, scales, random);
        }
        Codec::Int4 { scale, .. } => {
            fill_floats(scale, SPREAD / deviation(16.0), false, scales, random);
        }
        Codec::Fp8 { scale, .. } => {
            without_nan(data);
            // Codes are evenly spread over exponents: their root mean square is some 140.
            fill_floats(scale, SPREAD / 140.0, false, scales, random);
        }
        // E8M0 scales: 2^-8 to 2^-6.
        Codec::MlxMxfp4 => fill_range(119, 121, scales, random),
        Codec::MlxMxfp8 => {
            without_nan(data);
            fill_range(114, 115, scales, random);
        }
        // E4M3 scales: 3 to 5 times 2^-9.
        Codec::MlxNvfp4 { .. } => fill_range(3, 5, scales, random),
        _ => {
            for block in data.chunks_exact_mut(codec.geometry().block_bytes) {
                for field in fields(codec) {
                    fill_field(field, block, random);
                }
            }
        }
    }
}

/// Two of the E4M3 codes are NaN.
fn without_nan(data: &mut [u8]) {
    for code in data.iter_mut().filter(|code| **code & 0x7f == 0x7f) {
        *code -= 1;
    }
}

/// The scale of a whole matrix, for the codecs that have one: what means one.
pub(crate) fn global_scale(codec: Codec) -> Option<Bytes> {
    // The largest E2M1 value times the largest E4M3 value.
    const ONE: f32 = 6.0 * 448.0;
    codec.geometry().global_scale.then(|| ONE.to_le_bytes().to_vec().into())
}

/// What is no code in a block of ggml's and mlx-kquant's codecs. Sizes are the spread over the
/// deviation of codes (and of the runs' own scales); minimums move the middle code to zero.
fn fields(codec: Codec) -> &'static [Field] {
    use Field::{Bytes, F16, SpreadF16};
    const Q4: f32 = SPREAD / 4.6;
    const Q5: f32 = SPREAD / 9.2;
    const Q2K: f32 = SPREAD / (1.1 * 7.5);
    const Q4K: f32 = SPREAD / (4.6 * 31.5);
    const Q5K: f32 = SPREAD / (9.2 * 31.5);
    match codec {
        Codec::Q4_0 => &[F16(0, Q4)],
        Codec::Q4_1 => &[F16(0, Q4), F16(2, -7.5 * Q4)],
        Codec::Q5_0 => &[F16(0, Q5)],
        Codec::Q5_1 => &[F16(0, Q5), F16(2, -15.5 * Q5)],
        Codec::Q8_0 => &[F16(0, SPREAD / 74.0)],
        Codec::Q2K => &[F16(80, Q2K), F16(82, 1.5 * Q2K)],
        Codec::Q3K => &[F16(108, SPREAD / (2.3 * 18.0))],
        Codec::Q4K => &[F16(0, Q4K), F16(2, 7.5 * Q4K)],
        Codec::Q5K => &[F16(0, Q5K), F16(2, 15.5 * Q5K)],
        Codec::Q6K => &[F16(208, SPREAD / (18.5 * 74.0))],
        Codec::Iq4Nl => &[F16(0, SPREAD / 70.0)],
        Codec::Iq4Xs => &[F16(0, SPREAD / (70.0 * 18.5))],
        Codec::Iq1S => &[F16(0, SPREAD / 7.0)],
        Codec::Iq1M => &[SpreadF16(48, SPREAD / 7.0)],
        Codec::Iq2Xxs | Codec::Iq2Xs | Codec::Iq2S => &[F16(0, SPREAD / 57.0)],
        Codec::Iq3Xxs => &[F16(0, SPREAD / 138.0)],
        Codec::Iq3S => &[F16(0, SPREAD / 157.0)],
        Codec::Tq1_0 => &[F16(52, SPREAD)],
        Codec::Tq2_0 => &[F16(64, SPREAD)],
        Codec::Ptq1_0 => &[F16(26, SPREAD)],
        Codec::Q1_0 | Codec::Q2_0 | Codec::Pq2_0 => &[F16(0, SPREAD)],
        // The scales of the MLX codecs of like name.
        Codec::Mxfp4 => &[Bytes(0, 1, 119, 121)],
        Codec::Nvfp4 => &[Bytes(0, 4, 3, 5)],
        Codec::Float(_)
        | Codec::Affine { .. }
        | Codec::Int8 { .. }
        | Codec::Int4 { .. }
        | Codec::MlxMxfp4
        | Codec::MlxMxfp8
        | Codec::Fp8 { .. }
        | Codec::MlxNvfp4 { .. } => &[],
    }
}

fn fill_field(field: &Field, block: &mut [u8], random: &mut Random) {
    match *field {
        Field::F16(at, size) => {
            let value = f16::from_f32(size * random.around_one());
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        Field::Bytes(at, count, low, high) => {
            fill_range(low, high, &mut block[at..at + count], random);
        }
        Field::SpreadF16(at, size) => {
            let bits = f16::from_f32(size * random.around_one()).to_bits();
            for word in 0..4 {
                let high = &mut block[at + 2 * word + 1];
                *high = *high & 15 | ((bits >> (4 * word) & 15) as u8) << 4;
            }
        }
    }
}

/// Fills with bytes from `low` to `high`.
fn fill_range(low: u8, high: u8, out: &mut [u8], random: &mut Random) {
    let count = u64::from(high - low) + 1;
    for byte in out {
        *byte = low + (random.next() % count) as u8;
    }
}

/// Fills with numbers between half and one and a half of `size`, of either sign if `signed`.
fn fill_floats(float: Float, size: f32, signed: bool, out: &mut [u8], random: &mut Random) {
    let mut number = || {
        let size = if signed && random.bit() { -size } else { size };
        size * random.around_one()
    };
    match float {
        Float::F32 => fill_each(out, || number().to_le_bytes()),
        Float::F16 => fill_each(out, || f16::from_f32(number()).to_le_bytes()),
        Float::Bf16 => fill_each(out, || bf16::from_f32(number()).to_le_bytes()),
    }
}

fn fill_each<const BYTES: usize>(out: &mut [u8], mut next: impl FnMut() -> [u8; BYTES]) {
    for out in out.as_chunks_mut::<BYTES>().0 {
        *out = next();
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        // Neighbouring seeds would else give streams shifted by a step.
        random.0 = random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn fill(&mut self, out: &mut [u8]) {
        let (words, rest) = out.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        rest.copy_from_slice(&self.next().to_le_bytes()[..rest.len()]);
    }

    fn bit(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// From 0.5 to 1.5.
    pub fn around_one(&mut self) -> f32 {
        0.5 + (self.next() >> 40) as f32 / (1 << 24) as f32
    }
}
