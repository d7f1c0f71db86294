//! Unpacking weight rows.
//!
//! These are plain loops over blocks of fixed size, which the compiler turns into the tier's
//! instructions once they are inlined where those are switched on. Their results are those of
//! [`keeve_codec::values`] bit for bit: the same products, sums and differences, each rounded, none
//! fused. Layouts are described there.

use keeve_codec::{Codec, Float, Group, Row};

use super::lanes::{Lanes, widen_f16};

/// Unpacks a row. Codecs without a loop of their own go through [`keeve_codec::values`], which
/// defines the result for all.
///
/// # Safety
/// The machine must have the instructions of `V` and F16C.
#[inline(always)]
pub(super) unsafe fn unpack<V: Lanes>(codec: Codec, row: Row<'_>, out: &mut [f32]) {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        match codec {
            Codec::F32 => f32s(row.data, out),
            Codec::F16 => f16s::<V>(row.data, out),
            Codec::BF16 => bf16s(row.data, out),
            Codec::Q4_0 => q4_0(row.data, out),
            Codec::Q8_0 => q8_0(row.data, out),
            Codec::Q4K => q4_k(row.data, out),
            Codec::Q5K => q5_k(row.data, out),
            Codec::Q6K => q6_k(row.data, out),
            Codec::Affine { bits: 4, group, scale } => affine4(group.into(), scale, row, out),
            Codec::Affine { bits: 8, group, scale } => affine8(group.into(), scale, row, out),
            Codec::Int8 { group, scale } => int8(group_len(group, out), scale, row, out),
            Codec::Int4 { group, scale } => int4(group_len(group, out), scale, row, out),
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

/// Codes that a loop of fixed length handles at once. All groups are multiples of it.
const CHUNK: usize = 32;

/// Value `index` of an array of scales.
///
/// # Safety
/// The machine must have F16C.
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
/// The machine must have the instructions of `V` and F16C.
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

/// The nibbles of 16 bytes, the low one of each first.
#[inline(always)]
fn neighbours(bytes: &[u8; CHUNK / 2]) -> [u8; CHUNK] {
    let mut codes = [0; CHUNK];
    for (pair, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [byte & 15, byte >> 4];
    }
    codes
}

/// # Safety
/// The machine must have F16C.
#[inline(always)]
unsafe fn q4_0(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        // SAFETY: the caller vouches for the instruction.
        let scale = unsafe { widen_f16([block[0], block[1]]) };
        let (low, high) = out.split_at_mut(16);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = (i32::from(byte & 15) - 8) as f32 * scale;
            *high = (i32::from(byte >> 4) - 8) as f32 * scale;
        }
    }
}

/// # Safety
/// The machine must have F16C.
#[inline(always)]
unsafe fn q8_0(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        // SAFETY: the caller vouches for the instruction.
        let scale = unsafe { widen_f16([block[0], block[1]]) };
        for (out, &code) in out.iter_mut().zip(&block[2..]) {
            *out = f32::from(code as i8) * scale;
        }
    }
}

/// The head of Q4_K and Q5_K: scales and minimums of the eight runs of a block.
///
/// # Safety
/// The machine must have F16C.
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
/// The machine must have F16C.
#[inline(always)]
unsafe fn q4_k(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let (head, codes) = block.split_at(16);
        // SAFETY: the caller vouches for the instruction.
        let runs = unsafe { k_head(&head.as_chunks().0[0]) };
        let pairs = out.as_chunks_mut::<64>().0.iter_mut().zip(codes.as_chunks::<32>().0);
        for ((out, codes), runs) in pairs.zip(runs.as_chunks::<2>().0) {
            let [(low_scale, low_minimum), (high_scale, high_minimum)] = *runs;
            let (low, high) = out.split_at_mut(32);
            for (out, code) in low.iter_mut().zip(codes) {
                *out = low_scale * f32::from(code & 15) - low_minimum;
            }
            for (out, code) in high.iter_mut().zip(codes) {
                *out = high_scale * f32::from(code >> 4) - high_minimum;
            }
        }
    }
}

/// # Safety
/// The machine must have F16C.
#[inline(always)]
unsafe fn q5_k(data: &[u8], out: &mut [f32]) {
    for (block, out) in data.as_chunks::<176>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let (head, rest) = block.split_at(16);
        let (fifth, codes) = rest.split_at(32);
        // SAFETY: the caller vouches for the instruction.
        let runs = unsafe { k_head(&head.as_chunks().0[0]) };
        let pairs = out.as_chunks_mut::<64>().0.iter_mut().zip(codes.as_chunks::<32>().0);
        for (pair, ((out, codes), runs)) in pairs.zip(runs.as_chunks::<2>().0).enumerate() {
            let [(low_scale, low_minimum), (high_scale, high_minimum)] = *runs;
            let (low, high) = out.split_at_mut(32);
            for ((out, code), fifth) in low.iter_mut().zip(codes).zip(fifth) {
                let code = code & 15 | (fifth >> (2 * pair) & 1) << 4;
                *out = low_scale * f32::from(code) - low_minimum;
            }
            for ((out, code), fifth) in high.iter_mut().zip(codes).zip(fifth) {
                let code = code >> 4 | (fifth >> (2 * pair + 1) & 1) << 4;
                *out = high_scale * f32::from(code) - high_minimum;
            }
        }
    }
}

/// # Safety
/// The machine must have F16C.
#[inline(always)]
unsafe fn q6_k(data: &[u8], out: &mut [f32]) {
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
                first[index] = even & 15 | (high & 3) << 4;
                second[index] = odd & 15 | (high >> 2 & 3) << 4;
                third[index] = even >> 4 | (high >> 4 & 3) << 4;
                fourth[index] = odd >> 4 | high >> 6 << 4;
            }
        }
        let runs =
            out.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_flattened().as_chunks::<16>().0);
        for ((out, codes), &factor) in runs.zip(rest) {
            let scale = scale * f32::from(factor as i8);
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = scale * (i32::from(code) - 32) as f32;
            }
        }
    }
}

/// # Safety
/// The machine must have F16C.
#[inline(always)]
unsafe fn affine4(group: usize, float: Float, row: Row<'_>, out: &mut [f32]) {
    let groups = row.data.chunks_exact(group / 2).zip(out.chunks_exact_mut(group));
    for (index, (bytes, out)) in groups.enumerate() {
        // SAFETY: the caller vouches for the instruction.
        let (scale, bias) =
            unsafe { (scale_at(float, row.scales, index), scale_at(float, row.biases, index)) };
        for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut::<CHUNK>().0) {
            for (out, code) in out.iter_mut().zip(neighbours(bytes)) {
                *out = f32::from(code) * scale + bias;
            }
        }
    }
}

/// # Safety
/// The machine must have F16C.
#[inline(always)]
unsafe fn affine8(group: usize, float: Float, row: Row<'_>, out: &mut [f32]) {
    let groups = row.data.chunks_exact(group).zip(out.chunks_exact_mut(group));
    for (index, (codes, out)) in groups.enumerate() {
        // SAFETY: the caller vouches for the instruction.
        let (scale, bias) =
            unsafe { (scale_at(float, row.scales, index), scale_at(float, row.biases, index)) };
        let chunks = codes.as_chunks::<CHUNK>().0.iter().zip(out.as_chunks_mut::<CHUNK>().0);
        for (codes, out) in chunks {
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = f32::from(code) * scale + bias;
            }
        }
    }
}

/// # Safety
/// The machine must have F16C.
#[inline(always)]
unsafe fn int8(group: usize, float: Float, row: Row<'_>, out: &mut [f32]) {
    let groups = row.data.chunks_exact(group).zip(out.chunks_exact_mut(group));
    for (index, (codes, out)) in groups.enumerate() {
        // SAFETY: the caller vouches for the instruction.
        let scale = unsafe { scale_at(float, row.scales, index) };
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = f32::from(code as i8) * scale;
        }
    }
}

/// # Safety
/// The machine must have F16C.
#[inline(always)]
unsafe fn int4(group: usize, float: Float, row: Row<'_>, out: &mut [f32]) {
    let groups = row.data.chunks_exact(group / 2).zip(out.chunks_exact_mut(group));
    for (index, (bytes, out)) in groups.enumerate() {
        // SAFETY: the caller vouches for the instruction.
        let scale = unsafe { scale_at(float, row.scales, index) };
        let mut bytes = bytes.chunks_exact(CHUNK / 2);
        let mut out = out.chunks_exact_mut(CHUNK);
        for (bytes, out) in bytes.by_ref().zip(out.by_ref()) {
            for (out, code) in out.iter_mut().zip(neighbours(&bytes.as_chunks().0[0])) {
                *out = (i32::from(code) - 8) as f32 * scale;
            }
        }
        // A row with one scale may have any even length.
        let rest = out.into_remainder().as_chunks_mut::<2>().0;
        for (pair, byte) in rest.iter_mut().zip(bytes.remainder()) {
            *pair = [byte & 15, byte >> 4].map(|code| (i32::from(code) - 8) as f32 * scale);
        }
    }
}
