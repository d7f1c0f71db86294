//! Memory that a thread keeps between tasks.

/// A thread's scratch memory. It grows to the largest size that was asked for.
#[derive(Default)]
pub(crate) struct Scratch(Vec<f32>);

impl Scratch {
    /// Slices of these lengths, holding anything.
    pub fn take<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        let total = lengths.iter().sum();
        if self.0.len() < total {
            self.0.resize(total, 0.0);
        }
        let mut rest = &mut self.0[..];
        lengths.map(|length| {
            let (slice, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            slice
        })
    }

    /// How long it has become.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
