//! Shared, immutable bytes: a window of a mapped file or of an owned buffer.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A cheaply cloned window of bytes that keeps its owner (a buffer, a mapped file) alive.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..owner.as_ref().len();
        Self { owner: Arc::new(owner), range }
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
        &(*self.owner).as_ref()[self.range.clone()]
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
