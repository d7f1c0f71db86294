//! Keys and values of a page as `f32`.

use half::f16;

use super::Numbers;
use super::lanes::AttentionLanes;
use crate::key_values::{Head, PAGE_TOKENS, SCALE_SPAN};

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
    assert!(room.len() == PAGE_TOKENS * head_dim && count <= PAGE_TOKENS, "room for a page");
    let used = count * head_dim;
    room[used..].fill(0.0);
    match head {
        Head::F32(values) => {
            assert!(values.len() == room.len(), "a page");
            if numbers == Numbers::Float {
                return values;
            }
            room[..used].copy_from_slice(&values[..used]);
        }
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
    if numbers == Numbers::Bf16 {
        // SAFETY: the caller vouches for the instructions.
        unsafe { round::<V>(&mut room[..used]) };
    }
    room
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
