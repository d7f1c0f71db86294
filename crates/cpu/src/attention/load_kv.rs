//! Keys and values of a page as `f32`.

use half::f16;

use crate::attention::Numbers;
use crate::attention::lanes::AttentionLanes;
use crate::kv_cache::{Head, LARGEST_F16, PAGE_TOKENS, SCALE_SPAN, to_f16};

/// The first `count` tokens of `head` as numbers: where they are if they are `f32` already, else in
/// `room` (`[PAGE_TOKENS, head_dim]`), whose other tokens become zeros.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If `head` or `room` is not of a page of `head_dim` values a token.
#[inline(always)]
pub(super) unsafe fn unpack<'a, V: AttentionLanes>(
    head: Head<'a>,
    head_dim: usize,
    count: usize,
    numbers: Numbers,
    room: &'a mut [f32],
) -> &'a [f32] {
    if let (Head::F32(values), Numbers::Float) = (head, numbers) {
        assert!(values.len() == room.len(), "a page");
        return values;
    }
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        fill::<V>(head, head_dim, count, room);
        if numbers == Numbers::Bf16 {
            round::<V>(&mut room[..count * head_dim]);
        }
    }
    room
}

/// As [`unpack`], for values: zeros in place of those that would not enter products as finite numbers. The
/// second result is whether there were none.
///
/// # Safety
/// As [`unpack`].
///
/// # Panics
/// As [`unpack`].
#[inline(always)]
pub(super) unsafe fn unpack_values<'a, V: AttentionLanes>(
    head: Head<'a>,
    head_dim: usize,
    count: usize,
    numbers: Numbers,
    room: &'a mut [f32],
) -> (&'a [f32], bool) {
    let used = count * head_dim;
    if let (Head::F32(values), Numbers::Float) = (head, numbers)
        && all_finite(&values[..used], numbers)
    {
        assert!(values.len() == room.len(), "a page");
        return (values, true);
    }
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        fill::<V>(head, head_dim, count, room);
        let finite = remove_infinite(&mut room[..used], numbers);
        if numbers == Numbers::Bf16 {
            round::<V>(&mut room[..used]);
        }
        (room, finite)
    }
}

/// Whether all values enter products as finite numbers.
#[inline(always)]
pub(super) fn all_finite(values: &[f32], numbers: Numbers) -> bool {
    let infinite = numbers.infinite();
    // Without branches, so that it becomes vector instructions.
    let largest = values.iter().fold(0, |largest: u32, value| largest.max(value.abs().to_bits()));
    largest < infinite
}

/// Whether all values are finite.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn all_finite_f16(values: &[f16]) -> bool {
    const INFINITE: u16 = f16::INFINITY.to_bits();
    let magnitudes = values.iter().map(|value| value.to_bits() & !f16::NEG_ZERO.to_bits());
    magnitudes.fold(0, u16::max) < INFINITE
}

/// Puts zeros in place of values that would not enter products as finite numbers; whether there were none.
#[inline(always)]
pub(super) fn remove_infinite(values: &mut [f32], numbers: Numbers) -> bool {
    let finite = all_finite(values, numbers);
    if !finite {
        let infinite = numbers.infinite();
        let wrong = values.iter_mut().filter(|value| value.abs().to_bits() >= infinite);
        wrong.for_each(|value| *value = 0.0);
    }
    finite
}

/// Fills `room` (`[PAGE_TOKENS, head_dim]`) with the first `count` tokens of `head`, and zeros.
///
/// # Safety
/// As [`unpack`].
///
/// # Panics
/// As [`unpack`].
#[inline(always)]
pub(super) unsafe fn fill<V: AttentionLanes>(
    head: Head<'_>,
    head_dim: usize,
    count: usize,
    room: &mut [f32],
) {
    assert!(room.len() == PAGE_TOKENS * head_dim && count <= PAGE_TOKENS, "room for a page");
    let used = count * head_dim;
    room[used..].fill(0.0);
    match head {
        Head::F32(values) => room[..used].copy_from_slice(&values[..used]),
        // SAFETY: the caller vouches for the instructions.
        Head::F16(values) => unsafe { unpack_f16::<V>(&values[..used], &mut room[..used]) },
        Head::Q8_0 { codes, scales } => {
            let tokens = codes[..used].chunks_exact(head_dim).zip(room.chunks_exact_mut(head_dim));
            for ((codes, out), scales) in tokens.zip(scales.chunks(head_dim.div_ceil(SCALE_SPAN))) {
                for ((codes, out), scale) in
                    codes.chunks(SCALE_SPAN).zip(out.chunks_mut(SCALE_SPAN)).zip(scales)
                {
                    // SAFETY: the caller vouches for the instructions.
                    unsafe { unpack_codes::<V>(codes, scale.to_f32(), out) };
                }
            }
        }
    }
}

/// Rounds numbers to bf16.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn round<V: AttentionLanes>(values: &mut [f32]) {
    let whole = values.len() - values.len() % V::COUNT;
    let at = values.as_mut_ptr();
    // SAFETY: the caller vouches for the instructions; whole registers end within the slice, and so
    // does what the last part touches.
    unsafe {
        for index in (0..whole).step_by(V::COUNT) {
            V::load(at.add(index)).round_to_bf16().store(at.add(index));
        }
        let left = values.len() - whole;
        if left > 0 {
            V::load_part(at.add(whole), left).round_to_bf16().store_part(at.add(whole), left);
        }
    }
}

/// [`crate::kv_cache::to_f16`], bit for bit.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn pack_f16<V: AttentionLanes>(values: &[f32], out: &mut [f16]) {
    assert!(values.len() == out.len());
    let whole = out.len() - out.len() % V::COUNT;
    for at in (0..whole).step_by(V::COUNT) {
        // SAFETY: the caller vouches for the instructions; `at + V::COUNT` is within both slices. The
        // second operand is kept where one is NaN.
        unsafe {
            let value = V::splat(LARGEST_F16).min(V::load(values.as_ptr().add(at)));
            let value = V::splat(-LARGEST_F16).max(value);
            value.store_f16(out.as_mut_ptr().add(at).cast());
        }
    }
    to_f16(&values[whole..], &mut out[whole..]);
}

/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn unpack_f16<V: AttentionLanes>(values: &[f16], out: &mut [f32]) {
    assert!(values.len() == out.len());
    let whole = out.len() - out.len() % V::COUNT;
    for at in (0..whole).step_by(V::COUNT) {
        // SAFETY: the caller vouches for the instructions; `at + V::COUNT` is within both slices.
        unsafe { V::load_f16(values.as_ptr().add(at).cast()).store(out.as_mut_ptr().add(at)) };
    }
    let rest = out[whole..].iter_mut().zip(&values[whole..]);
    rest.for_each(|(out, value)| *out = value.to_f32());
}

/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn unpack_codes<V: AttentionLanes>(codes: &[i8], scale: f32, out: &mut [f32]) {
    assert!(codes.len() == out.len());
    let whole = out.len() - out.len() % V::COUNT;
    for at in (0..whole).step_by(V::COUNT) {
        // SAFETY: the caller vouches for the instructions; `at + V::COUNT` is within both slices.
        unsafe {
            let codes = V::load_i8(codes.as_ptr().add(at));
            codes.mul(V::splat(scale)).store(out.as_mut_ptr().add(at));
        }
    }
    let rest = out[whole..].iter_mut().zip(&codes[whole..]);
    rest.for_each(|(out, &code)| *out = f32::from(code) * scale);
}
