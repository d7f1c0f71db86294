//! Unpacking weight rows.
//!
//! Codes are first taken apart into bytes, by plain loops over arrays of fixed size that the
//! compiler turns into the tier's instructions, and then turned into numbers by [`affine`] and
//! [`symmetric`]. The results are those of [`keeve_codec::values`] bit for bit: the same products,
//! sums and differences, each rounded, none fused. Layouts are described there.

use keeve_codec::{Codec, Float, Group, Row};

use crate::simd::lanes::Lanes;
use crate::simd::widen_f16;

/// Unpacks a row. Codecs without a loop of their own go through [`keeve_codec::values`], which
/// defines the result for all: slower, but the same numbers.
///
/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
pub(crate) unsafe fn unpack<V: Lanes>(codec: Codec, row: Row<'_>, out: &mut [f32]) {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        match codec {
            Codec::F32 => f32s(row.data, out),
            Codec::F16 => f16s::<V>(row.data, out),
            Codec::BF16 => bf16s(row.data, out),
            Codec::Q4_0 => q4_0::<V>(row.data, out),
            Codec::Q8_0 => q8_0::<V>(row.data, out),
            Codec::Q4K => q4_k::<V>(row.data, out),
            Codec::Q5K => q5_k::<V>(row.data, out),
            Codec::Q6K => q6_k::<V>(row.data, out),
            Codec::Affine { bits: 4, group, scale } => affine4::<V>(group.into(), scale, row, out),
            Codec::Affine { bits: 8, group, scale } => affine8::<V>(group.into(), scale, row, out),
            Codec::Int8 { group, scale } => int8::<V>(group_len(group, out), scale, row, out),
            Codec::Int4 { group, scale } => int4::<V>(group_len(group, out), scale, row, out),
            _ => keeve_codec::values(codec, row, out),
        }
    }
}

fn group_len(group: Group, out: &[f32]) -> usize {
    match group {
        Group::Row => out.len(),
        Group::Of(len) => len.into(),
    }
}

/// `out = codes * scale + bias`.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If the lengths differ, or are no multiple of `V::COUNT`.
#[inline(always)]
unsafe fn affine<V: Lanes>(codes: &[u8], scale: f32, bias: f32, out: &mut [f32]) {
    assert!(codes.len() == out.len() && out.len().is_multiple_of(V::COUNT));
    for at in (0..out.len()).step_by(V::COUNT) {
        // SAFETY: the caller vouches for the instructions; `at + V::COUNT` is within both slices.
        unsafe {
            let values = V::load_u8(codes.as_ptr().add(at)).mul(V::splat(scale));
            values.add(V::splat(bias)).store(out.as_mut_ptr().add(at));
        }
    }
}

/// `out = codes * scale`, for any length.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
unsafe fn symmetric<V: Lanes>(codes: &[i8], scale: f32, out: &mut [f32]) {
    assert!(codes.len() == out.len());
    let whole = out.len() - out.len() % V::COUNT;
    for at in (0..whole).step_by(V::COUNT) {
        // SAFETY: the caller vouches for the instructions; `at + V::COUNT` is within both slices.
        unsafe {
            let values = V::load_i8(codes.as_ptr().add(at)).mul(V::splat(scale));
            values.store(out.as_mut_ptr().add(at));
        }
    }
    for (out, &code) in out[whole..].iter_mut().zip(&codes[whole..]) {
        *out = f32::from(code) * scale;
    }
}

/// The same bytes, signed.
#[inline(always)]
fn signed(bytes: &[u8]) -> &[i8] {
    // SAFETY: the types have the same size and alignment, and every byte is valid for both.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// Value `index` of an array of scales.
///
/// # Safety
/// The machine must have the instructions of [`widen_f16`].
#[inline(always)]
unsafe fn scale_at(float: Float, bytes: &[u8], index: usize) -> f32 {
    match float {
        Float::F32 => f32::from_le_bytes(bytes.as_chunks().0[index]),
        // SAFETY: the caller vouches for the instruction.
        Float::F16 => unsafe { widen_f16(bytes.as_chunks().0[index]) },
        Float::Bf16 => widen_bf16(bytes.as_chunks().0[index]),
    }
}

#[inline(always)]
fn widen_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

#[inline(always)]
fn f32s(data: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(data.as_chunks().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

#[inline(always)]
fn bf16s(data: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(data.as_chunks().0) {
        *out = widen_bf16(*bytes);
    }
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn f16s<V: Lanes>(data: &[u8], out: &mut [f32]) {
    let mut data = data.chunks_exact(2 * V::COUNT);
    let mut out = out.chunks_exact_mut(V::COUNT);
    for (data, out) in data.by_ref().zip(out.by_ref()) {
        // SAFETY: the caller vouches for the instructions; both have `V::COUNT` values.
        unsafe { V::load_f16(data.as_ptr()).store(out.as_mut_ptr()) };
    }
    for (bytes, out) in data.remainder().as_chunks().0.iter().zip(out.into_remainder()) {
        // SAFETY: as above.
        *out = unsafe { widen_f16(*bytes) };
    }
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn q4_0<V: Lanes>(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let mut codes = [0; 32];
        for index in 0..16 {
            let byte = block[2 + index];
            codes[index] = (byte & 15).wrapping_sub(8);
            codes[index + 16] = (byte >> 4).wrapping_sub(8);
        }
        // SAFETY: the caller vouches for the instructions.
        unsafe { symmetric::<V>(signed(&codes), widen_f16([block[0], block[1]]), out) };
    }
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn q8_0<V: Lanes>(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        // SAFETY: the caller vouches for the instructions.
        unsafe { symmetric::<V>(signed(&block[2..]), widen_f16([block[0], block[1]]), out) };
    }
}

/// The head of Q4_K and Q5_K: scales and minimums of the eight runs of a block.
///
/// # Safety
/// The machine must have the instructions of [`widen_f16`].
#[inline(always)]
unsafe fn k_head(head: &[u8; 16]) -> [(f32, f32); 8] {
    // SAFETY: the caller vouches for the instruction.
    let (scale, minimum) =
        unsafe { (widen_f16([head[0], head[1]]), widen_f16([head[2], head[3]])) };
    let mut runs = [(0.0, 0.0); 8];
    for run in 0..4 {
        let (s, m, low) = (head[4 + run], head[8 + run], head[12 + run]);
        runs[run] = (scale * f32::from(s & 63), minimum * f32::from(m & 63));
        runs[run + 4] = (
            scale * f32::from(low & 15 | s >> 6 << 4),
            minimum * f32::from(low >> 4 | m >> 6 << 4),
        );
    }
    runs
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn q4_k<V: Lanes>(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let (head, codes) = block.split_at(16);
        // SAFETY: the caller vouches for the instruction.
        let runs = unsafe { k_head(&head.as_chunks().0[0]) };
        let pairs = out.as_chunks_mut::<64>().0.iter_mut().zip(codes.as_chunks::<32>().0);
        for ((out, codes), [low, high]) in pairs.zip(runs.as_chunks::<2>().0) {
            let (low_out, high_out) = out.split_at_mut(32);
            // SAFETY: the caller vouches for the instructions.
            unsafe {
                affine::<V>(&codes.map(|code| code & 15), low.0, -low.1, low_out);
                affine::<V>(&codes.map(|code| code >> 4), high.0, -high.1, high_out);
            }
        }
    }
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn q5_k<V: Lanes>(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<176>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let (head, rest) = block.split_at(16);
        let (fifth, codes) = rest.split_at(32);
        // SAFETY: the caller vouches for the instruction.
        let runs = unsafe { k_head(&head.as_chunks().0[0]) };
        let pairs = out.as_chunks_mut::<64>().0.iter_mut().zip(codes.as_chunks::<32>().0);
        for (pair, ((out, codes), [low, high])) in pairs.zip(runs.as_chunks::<2>().0).enumerate() {
            let (mut low_codes, mut high_codes) = ([0; 32], [0; 32]);
            for index in 0..32 {
                let fifth = fifth[index] >> (2 * pair);
                low_codes[index] = codes[index] & 15 | (fifth & 1) << 4;
                high_codes[index] = codes[index] >> 4 | (fifth & 2) << 3;
            }
            let (low_out, high_out) = out.split_at_mut(32);
            // SAFETY: the caller vouches for the instructions.
            unsafe {
                affine::<V>(&low_codes, low.0, -low.1, low_out);
                affine::<V>(&high_codes, high.0, -high.1, high_out);
            }
        }
    }
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn q6_k<V: Lanes>(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let (low, rest) = block.split_at(128);
        let (high, rest) = rest.split_at(64);
        // SAFETY: the caller vouches for the instruction.
        let scale = unsafe { widen_f16([rest[16], rest[17]]) };
        let mut codes = [[0u8; 32]; 8];
        let halves = codes.as_chunks_mut::<4>().0.iter_mut().zip(low.as_chunks::<64>().0);
        for ((codes, low), high) in halves.zip(high.as_chunks::<32>().0) {
            let [first, second, third, fourth] = codes;
            for index in 0..32 {
                let (even, odd, high) = (low[index], low[index + 32], high[index]);
                first[index] = (even & 15 | (high & 3) << 4).wrapping_sub(32);
                second[index] = (odd & 15 | (high >> 2 & 3) << 4).wrapping_sub(32);
                third[index] = (even >> 4 | (high >> 4 & 3) << 4).wrapping_sub(32);
                fourth[index] = (odd >> 4 | high >> 6 << 4).wrapping_sub(32);
            }
        }
        let codes = codes.as_flattened().as_chunks::<16>().0;
        let runs = out.as_chunks_mut::<16>().0.iter_mut().zip(codes);
        for ((out, codes), factor) in runs.zip(signed(rest)) {
            // SAFETY: the caller vouches for the instructions.
            unsafe { symmetric::<V>(signed(codes), scale * f32::from(*factor), out) };
        }
    }
}

/// The nibbles of bytes, the low one of each first.
#[inline(always)]
fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    let mut codes = [0; 32];
    for (pair, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [byte & 15, byte >> 4];
    }
    codes
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn affine4<V: Lanes>(group: usize, float: Float, row: Row<'_>, out: &mut [f32]) {
    let groups = row.data.chunks_exact(group / 2).zip(out.chunks_exact_mut(group));
    for (index, (bytes, out)) in groups.enumerate() {
        // SAFETY: the caller vouches for the instructions. Groups are multiples of 32.
        unsafe {
            let scale = scale_at(float, row.scales, index);
            let bias = scale_at(float, row.biases, index);
            for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut::<32>().0) {
                affine::<V>(&nibbles(bytes), scale, bias, out);
            }
        }
    }
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn affine8<V: Lanes>(group: usize, float: Float, row: Row<'_>, out: &mut [f32]) {
    let groups = row.data.chunks_exact(group).zip(out.chunks_exact_mut(group));
    for (index, (codes, out)) in groups.enumerate() {
        // SAFETY: the caller vouches for the instructions. Groups are multiples of 32.
        unsafe {
            let scale = scale_at(float, row.scales, index);
            affine::<V>(codes, scale, scale_at(float, row.biases, index), out);
        }
    }
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn int8<V: Lanes>(group: usize, float: Float, row: Row<'_>, out: &mut [f32]) {
    let groups = row.data.chunks_exact(group).zip(out.chunks_exact_mut(group));
    for (index, (codes, out)) in groups.enumerate() {
        // SAFETY: the caller vouches for the instructions.
        unsafe { symmetric::<V>(signed(codes), scale_at(float, row.scales, index), out) };
    }
}

/// # Safety
/// The machine must have the instructions of `V` and those of [`widen_f16`].
#[inline(always)]
unsafe fn int4<V: Lanes>(group: usize, float: Float, row: Row<'_>, out: &mut [f32]) {
    let groups = row.data.chunks_exact(group / 2).zip(out.chunks_exact_mut(group));
    for (index, (bytes, out)) in groups.enumerate() {
        // SAFETY: the caller vouches for the instruction.
        let scale = unsafe { scale_at(float, row.scales, index) };
        for (bytes, out) in bytes.chunks(16).zip(out.chunks_mut(32)) {
            // A row with one scale may end with fewer than 16 bytes.
            let mut padded = [0; 16];
            padded[..bytes.len()].copy_from_slice(bytes);
            let codes = nibbles(&padded).map(|code| code.wrapping_sub(8));
            // SAFETY: the caller vouches for the instructions.
            unsafe { symmetric::<V>(&signed(&codes)[..out.len()], scale, out) };
        }
    }
}
