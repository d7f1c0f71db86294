//! Shared, immutable bytes: a window of a mapped file or of an owned buffer.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// What bytes are windows of.
pub trait Owner: Send + Sync {
    /// All of them. Always the same.
    fn all(&self) -> &[u8];

    /// Told that the bytes `range` will hardly be read again: memory that can be had back (of a mapped
    /// file) may be given to the system. They can be read nevertheless.
    fn release(&self, range: Range<usize>);
}

/// An owner that has nothing to give back.
struct Buffer<T>(T);

impl<T: AsRef<[u8]> + Send + Sync> Owner for Buffer<T> {
    fn all(&self) -> &[u8] {
        self.0.as_ref()
    }

    fn release(&self, _: Range<usize>) {}
}

/// A cheaply cloned window of bytes that keeps its owner (a buffer, a mapped file) alive.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Owner>,
    range: Range<usize>,
}

impl Bytes {
    /// All bytes of a buffer.
    pub fn new(buffer: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::of(Buffer(buffer))
    }

    /// All bytes of `owner`.
    pub fn of(owner: impl Owner + 'static) -> Self {
        let range = 0..owner.all().len();
        Self { owner: Arc::new(owner), range }
    }

    /// Tells the owner that these bytes will hardly be read again: [`Owner::release`].
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }

    /// The window `range` of these bytes, sharing the owner; `None` if it is out of bounds.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: self.owner.clone(), range: start..start + range.len() })
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.owner.all()[self.range.clone()]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(owned: Vec<u8>) -> Self {
        Self::new(owned)
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.range.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_which_bytes_are_released() {
        struct Told(Vec<u8>, Arc<std::sync::Mutex<Vec<Range<usize>>>>);
        impl Owner for Told {
            fn all(&self) -> &[u8] {
                &self.0
            }

            fn release(&self, range: Range<usize>) {
                self.1.lock().unwrap().push(range);
            }
        }
        let told = Arc::new(std::sync::Mutex::new(vec![]));
        let all = Bytes::of(Told((0..10).collect(), told.clone()));
        all.slice(2..8).unwrap().slice(1..3).unwrap().release();
        all.release();
        assert_eq!(*told.lock().unwrap(), [3..5, 0..10]);
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn windows_stay_inside() {
        let all = Bytes::from((0..10).collect::<Vec<u8>>());
        let some = all.slice(2..8).unwrap();
        assert_eq!(*some, [2, 3, 4, 5, 6, 7]);
        assert_eq!(*some.slice(1..3).unwrap(), [3, 4]);
        assert_eq!(some.slice(6..6).as_deref(), Some(&[][..]));
        assert_eq!(some.slice(0..7), None);
        assert_eq!(some.slice(Range { start: 4, end: 3 }), None);
        assert_eq!(some.slice(7..usize::MAX), None);
    }
}
