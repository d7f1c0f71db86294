//! A picture as a vision model reads it.

use sha2::{Digest, Sha256};

/// The patches of one picture.
#[derive(Clone, PartialEq)]
pub struct Patches {
    /// `[t * h * w, channels * temporal_patch * patch * patch]`. Rows are ordered
    /// `(t, h / merge, w / merge, merge, merge)`, the values of a row `(channel, frame, y, x)`.
    pub pixels: Vec<f32>,
    /// Patches in time, height and width.
    pub grid: [usize; 3],
    /// SHA-256 of grid and values: pictures with the same hash are the same to a model.
    pub hash: [u8; 32],
}

impl Patches {
    /// Takes the values of `grid[0] * grid[1] * grid[2]` rows.
    pub fn new(pixels: Vec<f32>, grid: [usize; 3]) -> Self {
        let mut hasher = Sha256::new();
        for side in grid {
            hasher.update((side as u64).to_le_bytes());
        }
        let mut bytes = Vec::with_capacity(4096 * 4);
        for values in pixels.chunks(4096) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&bytes);
        }
        Self { pixels, grid, hash: hasher.finalize().into() }
    }

    /// Patches, which are rows of `pixels`.
    pub fn rows(&self) -> usize {
        self.grid.iter().product()
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.pixels.len().checked_div(self.rows()).unwrap_or(0)
    }

    /// Tokens that the picture stands for in a prompt, where `merge` x `merge` patches become one.
    pub fn merged(&self, merge: usize) -> usize {
        self.rows() / (merge * merge).max(1)
    }
}

impl std::fmt::Debug for Patches {
    /// Shows the grid only: the values are many.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patches").field("grid", &self.grid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_values_and_grids_apart() {
        let values: Vec<f32> = (0..24).map(|n| n as f32).collect();
        let one = Patches::new(values.clone(), [1, 2, 4]);
        assert_eq!(one.hash, Patches::new(values.clone(), [1, 2, 4]).hash);
        assert_ne!(one.hash, Patches::new(values.clone(), [1, 4, 2]).hash);
        let mut other = values;
        other[23] = -1.0;
        assert_ne!(one.hash, Patches::new(other, [1, 2, 4]).hash);
        assert_eq!((one.rows(), one.width(), one.merged(2)), (8, 3, 2));
    }
}
