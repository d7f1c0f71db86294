//! Memory for the numbers of a step.

use crate::runtime::arena::{Arena, Piece};
use crate::runtime::bytes::{numbers, numbers_mut};

/// Bytes from which on memory is asked of the system in large pages. Products go down columns of values
/// whose rows lie in different small pages, and wait for the places of these more than for what is in them.
const LARGE: usize = 256 << 10;

/// Numbers, as many as were ever asked for, holding anything.
pub(crate) enum Memory {
    /// Few.
    Own(Vec<f32>),
    /// Many, in large pages of their own if the system has them.
    Mapped(Piece),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Own(vec![])
    }
}

impl Memory {
    /// The first `len` numbers; what they were is lost if there were not as many.
    pub fn take(&mut self, len: usize) -> &mut [f32] {
        if self.all().len() < len {
            // The old ones go first.
            *self = Self::default();
            *self = Self::new(len);
        }
        let all = match self {
            Self::Own(numbers) => numbers,
            Self::Mapped(bytes) => numbers_mut(bytes.bytes_mut()),
        };
        &mut all[..len]
    }

    fn new(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<f32>());
        if bytes >= LARGE
            && let Ok(bytes) = Arena::default().take(bytes)
        {
            return Self::Mapped(bytes);
        }
        Self::Own(vec![0.0; len])
    }

    /// All of them.
    pub fn all(&self) -> &[f32] {
        match self {
            Self::Own(numbers) => numbers,
            Self::Mapped(bytes) => numbers(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_and_stays() {
        let mut memory = Memory::default();
        assert!(memory.take(0).is_empty());
        memory.take(10).fill(1.0);
        assert_eq!(memory.take(7), [1.0; 7]);
        let many = LARGE / size_of::<f32>() + 3;
        memory.take(many).fill(2.0);
        assert!(matches!(memory, Memory::Mapped(_)));
        assert!(memory.take(many).iter().all(|&number| number == 2.0));
        assert_eq!((memory.all().len(), memory.take(5).len()), (many, 5));
    }
}
