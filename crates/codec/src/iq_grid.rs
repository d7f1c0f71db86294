//! ggml's codecs that choose runs of weights from a grid: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and
//! IQ3_S. All have super-blocks of 256 weights; the points of the grids are in [`crate::grids`].
//!
//! Layouts and the order of `f32` operations follow ggml-org/llama.cpp `ggml/src/ggml-common.h`
//! (`block_iq*`) and `gguf-py/gguf/quants.py`. Encoding needs searches that keeve does not have.

use half::f16;

use crate::{Float, grids};

/// Weights in a super-block.
const BLOCK: usize = 256;

/// What the codes of an IQ2 point stand for.
const IQ2_LEVELS: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
/// What the codes of an IQ3_XXS point stand for.
const IQ3_XXS_LEVELS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
/// What the codes of an IQ3_S point stand for.
const IQ3_S_LEVELS: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

/// Writes eight weights of an IQ2 point, those whose bit in `signs` is set negated.
fn write_iq2(point: u16, scale: f32, signs: u8, out: &mut [f32]) {
    for (index, value) in out.iter_mut().enumerate() {
        let level = scale * IQ2_LEVELS[usize::from(point >> (2 * index) & 3)];
        *value = if signs >> index & 1 == 0 { level } else { -level };
    }
}

/// Writes the four weights of each of two IQ3 points, those whose bit in `signs` is set negated.
fn write_iq3(points: [u16; 2], levels: &[f32; 8], scale: f32, signs: u8, out: &mut [f32]) {
    for (index, value) in out.iter_mut().enumerate() {
        let code = points[index / 4] >> (4 * (index % 4)) & 7;
        let level = scale * levels[usize::from(code)];
        *value = if signs >> index & 1 == 0 { level } else { -level };
    }
}

/// The signs of eight weights that are stored in seven bits: an even number of them is negative.
fn even_signs(bits: u32) -> u8 {
    let bits = (bits & 0x7f) as u8;
    bits | ((bits.count_ones() & 1) as u8) << 7
}

/// Nibble `index` of `bytes`, the low one of each byte first.
fn nibble(bytes: &[u8], index: usize) -> u8 {
    bytes[index / 2] >> (4 * (index % 2)) & 15
}

fn word(bytes: &[u8], index: usize) -> u16 {
    u16::from_le_bytes(bytes.as_chunks().0[index])
}

fn double_word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes.as_chunks().0[index])
}

/// Calls `each` with every super-block of `BYTES` bytes and the place of its weights.
fn each_block<const BYTES: usize>(
    data: &[u8],
    out: &mut [f32],
    each: impl Fn(&[u8; BYTES], &mut [f32; BLOCK]),
) {
    for (block, out) in data.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        each(block, out);
    }
}

/// IQ2_XXS: scale f16, then for each run of 32 four bytes that choose points, and a word of four times seven
/// signs and four bits of scale.
pub(crate) fn iq2_xxs_values(data: &[u8], out: &mut [f32]) {
    each_block(data, out, |block: &[u8; 66], out| {
        let scale = Float::F16.read(block, 0);
        for (run, out) in block[2..].chunks_exact(8).zip(out.chunks_exact_mut(32)) {
            let tail = double_word(run, 1);
            let scale = scale * (0.5 + (tail >> 28) as f32) * 0.25;
            for (index, out) in out.chunks_exact_mut(8).enumerate() {
                let point = grids::IQ2_XXS[usize::from(run[index])];
                write_iq2(point, scale, even_signs(tail >> (7 * index)), out);
            }
        }
    });
}

/// IQ2_XS: scale f16, for each eight weights nine bits that choose a point and seven signs [64], then four
/// bits of scale for each 16 [8].
pub(crate) fn iq2_xs_values(data: &[u8], out: &mut [f32]) {
    each_block(data, out, |block: &[u8; 74], out| {
        let scale = Float::F16.read(block, 0);
        let (chosen, scales) = block[2..].split_at(64);
        for (index, out) in out.chunks_exact_mut(8).enumerate() {
            let scale = scale * (0.5 + f32::from(nibble(scales, index / 2))) * 0.25;
            let chosen = word(chosen, index);
            let point = grids::IQ2_XS[usize::from(chosen & 511)];
            write_iq2(point, scale, even_signs(u32::from(chosen >> 9)), out);
        }
    });
}

/// IQ2_S: scale f16, for each eight weights the low eight bits of what chooses a point [32], signs [32], the
/// upper two bits [8], then four bits of scale for each 16 [8].
pub(crate) fn iq2_s_values(data: &[u8], out: &mut [f32]) {
    each_block(data, out, |block: &[u8; 82], out| {
        let scale = Float::F16.read(block, 0);
        let (low, rest) = block[2..].split_at(32);
        let (signs, rest) = rest.split_at(32);
        let (high, scales) = rest.split_at(8);
        for (index, out) in out.chunks_exact_mut(8).enumerate() {
            let scale = scale * (0.5 + f32::from(nibble(scales, index / 2))) * 0.25;
            let high = high[index / 4] >> (2 * (index % 4)) & 3;
            let point = grids::IQ2_S[usize::from(low[index]) | usize::from(high) << 8];
            write_iq2(point, scale, signs[index], out);
        }
    });
}

/// IQ3_XXS: scale f16, a byte for each four weights that chooses a point [64], then for each run of 32 a word
/// of four times seven signs and four bits of scale.
pub(crate) fn iq3_xxs_values(data: &[u8], out: &mut [f32]) {
    each_block(data, out, |block: &[u8; 98], out| {
        let scale = Float::F16.read(block, 0);
        let (chosen, tails) = block[2..].split_at(64);
        for (index, out) in out.chunks_exact_mut(8).enumerate() {
            let tail = double_word(tails, index / 4);
            let scale = scale * (0.5 + (tail >> 28) as f32) * 0.5;
            let signs = even_signs(tail >> (7 * (index % 4)));
            let points = [0, 1].map(|half| grids::IQ3_XXS[usize::from(chosen[2 * index + half])]);
            write_iq3(points, &IQ3_XXS_LEVELS, scale, signs, out);
        }
    });
}

/// IQ3_S: scale f16, for each four weights the low eight bits of what chooses a point [64] and the ninth [8],
/// signs [32], then four bits of scale for each 32 [4].
pub(crate) fn iq3_s_values(data: &[u8], out: &mut [f32]) {
    each_block(data, out, |block: &[u8; 110], out| {
        let scale = Float::F16.read(block, 0);
        let (low, rest) = block[2..].split_at(64);
        let (high, rest) = rest.split_at(8);
        let (signs, scales) = rest.split_at(32);
        for (index, out) in out.chunks_exact_mut(8).enumerate() {
            let scale = scale * f32::from(1 + 2 * nibble(scales, index / 4));
            let points = [2 * index, 2 * index + 1].map(|at| {
                let ninth = high[at / 8] >> (at % 8) & 1;
                grids::IQ3_S[usize::from(low[at]) | usize::from(ninth) << 8]
            });
            write_iq3(points, &IQ3_S_LEVELS, scale, signs[index], out);
        }
    });
}

/// How far IQ1 shifts all weights of a point, up or down.
const IQ1_SHIFT: f32 = 0.125;

/// Writes eight weights of an IQ1 point: -1, 0 or 1 plus a shift, times the scale.
fn write_iq1(point: u16, scale: f32, down: bool, out: &mut [f32]) {
    let shift = if down { -IQ1_SHIFT } else { IQ1_SHIFT };
    for (index, value) in out.iter_mut().enumerate() {
        let level = f32::from(point >> (2 * index) & 3) - 1.0;
        *value = scale * (level + shift);
    }
}

/// IQ1_S: scale f16, for each eight weights the low eight bits of what chooses a point [32], then for each
/// 32 a word: four times the upper three bits, three bits of scale, whether the shift is down.
pub(crate) fn iq1_s_values(data: &[u8], out: &mut [f32]) {
    each_block(data, out, |block: &[u8; 50], out| {
        let scale = Float::F16.read(block, 0);
        let (low, tails) = block[2..].split_at(32);
        for (index, out) in out.chunks_exact_mut(8).enumerate() {
            let tail = word(tails, index / 4);
            let scale = scale * f32::from(2 * (tail >> 12 & 7) + 1);
            let high = tail >> (3 * (index % 4)) & 7;
            let point = grids::IQ1[usize::from(low[index]) | usize::from(high) << 8];
            write_iq1(point, scale, tail & 0x8000 != 0, out);
        }
    });
}

/// IQ1_M: for each eight weights the low eight bits of what chooses a point [32], then in a nibble the upper
/// three bits and whether the shift is down [16]; four words of four times three bits of scale, one for each
/// 16 weights, whose upper nibbles are the scale f16.
pub(crate) fn iq1_m_values(data: &[u8], out: &mut [f32]) {
    each_block(data, out, |block: &[u8; 56], out| {
        let (low, rest) = block.split_at(32);
        let (high, scales) = rest.split_at(16);
        let bits = (0..4).map(|index| word(scales, index) >> 12 << (4 * index)).sum();
        let scale = f16::from_bits(bits).to_f32();
        for (index, out) in out.chunks_exact_mut(8).enumerate() {
            let sixteen = index / 2;
            let factor = word(scales, sixteen / 4) >> (3 * (sixteen % 4)) & 7;
            let high = nibble(high, index);
            let point = grids::IQ1[usize::from(low[index]) | usize::from(high & 7) << 8];
            write_iq1(point, scale * f32::from(2 * factor + 1), high & 8 != 0, out);
        }
    });
}
