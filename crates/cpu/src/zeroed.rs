//! Memory for state.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line, and the strictest alignment of anything that is kept here.
const ALIGNMENT: usize = 64;

/// Zeroed memory that the system gives only as it is touched, so that room for the longest
/// context costs nothing until it is used.
pub(crate) struct Zeroed {
    /// Where the bytes are: inside the allocation, on a boundary of [`ALIGNMENT`].
    start: NonNull<u8>,
    bytes: usize,
    allocation: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, like a `Box<[u8]>`.
unsafe impl Send for Zeroed {}
// SAFETY: as above.
unsafe impl Sync for Zeroed {}

impl Zeroed {
    /// So many bytes, or `None` if the system has not as much.
    pub fn new(bytes: usize) -> Option<Self> {
        // The boundary is found by hand: asked for more than their own alignment, allocators write
        // the zeros themselves, and touch all of it.
        let layout = Layout::from_size_align(bytes.checked_add(ALIGNMENT)?, 1).ok()?;
        // SAFETY: the layout's size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let offset = allocation.align_offset(ALIGNMENT);
        // SAFETY: the offset is below ALIGNMENT, by which the allocation is longer than the bytes.
        let start = unsafe { allocation.add(offset) };
        Some(Self { start, bytes, allocation, layout })
    }
}

impl Deref for Zeroed {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the allocation has this many bytes, all initialized.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Zeroed {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// Numbers of which every pattern of bits is one.
///
/// # Safety
/// That must be so, and their alignment at most [`ALIGNMENT`].
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

    #[test]
    fn memory_is_zeroed_and_aligned_and_too_much_is_none() {
        for bytes in [0, 1, 7, 1000] {
            let zeroed = Zeroed::new(bytes).expect("memory");
            assert_eq!((zeroed.len(), zeroed.as_ptr() as usize % ALIGNMENT), (bytes, 0));
            assert!(zeroed.iter().all(|&byte| byte == 0));
        }
        for bytes in [usize::MAX, usize::MAX - ALIGNMENT, 1 << 60] {
            assert!(Zeroed::new(bytes).is_none());
        }
    }

    #[test]
    fn bytes_are_numbers_of_either_width() {
        let mut zeroed = Zeroed::new(16).expect("memory");
        numbers_mut::<f32>(&mut zeroed)[2] = -1.5;
        assert_eq!(numbers::<f32>(&zeroed), [0.0, 0.0, -1.5, 0.0]);
        assert_eq!(numbers::<i8>(&zeroed).len(), 16);
        assert_eq!(numbers::<half::f16>(&zeroed).len(), 8);
    }
}
