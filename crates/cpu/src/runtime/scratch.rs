//! Memory that a thread keeps between tasks.

use crate::runtime::memory::Memory;

/// A thread's scratch memory. It grows to the largest size that was asked for.
#[derive(Default)]
pub(crate) struct Scratch(Memory);

impl Scratch {
    /// Slices of these lengths, holding anything.
    pub fn take<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        let mut rest = self.0.take(lengths.iter().sum());
        lengths.map(|length| {
            let (slice, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            slice
        })
    }

    /// How long it has become.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.all().len()
    }
}
