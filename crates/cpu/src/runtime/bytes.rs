//! Bytes as the numbers they are.

/// Numbers of which every pattern of bits is one.
///
/// # Safety
/// That must be so, and their alignment at most that of `f32`.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: every pattern of bits is an `f32`.
unsafe impl Plain for f32 {}
// SAFETY: every pattern of bits is a binary16 number.
unsafe impl Plain for half::f16 {}
// SAFETY: every pattern of bits is a `u16`.
unsafe impl Plain for u16 {}
// SAFETY: every pattern of bits is an `i8`.
unsafe impl Plain for i8 {}

/// Bytes as numbers.
///
/// # Panics
/// If the bytes are not aligned as the numbers are, or end within one.
pub(crate) fn numbers<T: Plain>(bytes: &[u8]) -> &[T] {
    // SAFETY: every pattern of bits is a `T`.
    let (before, numbers, after) = unsafe { bytes.align_to() };
    assert!(before.is_empty() && after.is_empty(), "bytes that are whole numbers");
    numbers
}

/// Bytes as numbers that can be written.
///
/// # Panics
/// As [`numbers`].
pub(crate) fn numbers_mut<T: Plain>(bytes: &mut [u8]) -> &mut [T] {
    // SAFETY: every pattern of bits is a `T`, and a `T` has no bytes but its own.
    let (before, numbers, after) = unsafe { bytes.align_to_mut() };
    assert!(before.is_empty() && after.is_empty(), "bytes that are whole numbers");
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::arena::Arena;

    #[test]
    fn bytes_are_numbers_of_either_width() {
        let mut bytes = Arena::default().take(16).expect("memory");
        numbers_mut::<f32>(bytes.bytes_mut())[2] = -1.5;
        assert_eq!(numbers::<f32>(&bytes), [0.0, 0.0, -1.5, 0.0]);
        assert_eq!(numbers::<i8>(&bytes).len(), 16);
        assert_eq!(numbers::<half::f16>(&bytes).len(), 8);
    }
}
