//! The basis that the rows of a matrix are stored in, where it is not that of its columns.

use std::sync::Arc;

/// How the stored columns of a row come from the columns of the matrix. What multiplies stored rows takes its
/// inputs in the same basis: `x . row = basis(x) . stored row`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// Stored column `i` is column `order[i]`. So GPTQ stores rows whose columns were quantized in the order of their
    /// importance ("actorder"), so that neighbours share a scale.
    Order(Arc<[u32]>),
    /// Each so many columns, a power of two, were multiplied by a Hadamard matrix: see [`hadamard`]. So outliers are
    /// spread over the columns that share a scale (QuaRot, SpinQuant; compressed-tensors' `transform_config`).
    Hadamard(usize),
}

impl Basis {
    /// Whether rows of `cols` columns can be stored so.
    pub(crate) fn fits(&self, cols: usize) -> bool {
        match self {
            Self::Hadamard(block) => block.is_power_of_two() && cols.is_multiple_of(*block),
            Self::Order(order) => {
                let mut seen = vec![false; cols];
                let fresh = |column: &u32| {
                    let seen = seen.get_mut(*column as usize);
                    seen.is_some_and(|seen| !std::mem::replace(seen, true))
                };
                order.len() == cols && order.iter().all(fresh)
            }
        }
    }

    /// Turns a row as it is stored into one of the matrix.
    ///
    /// # Panics
    /// If the row has other columns than the basis.
    pub fn undo(&self, row: &mut [f32]) {
        match self {
            Self::Order(order) => {
                let stored = row.to_vec();
                assert!(stored.len() == order.len(), "an order of the columns");
                for (value, &column) in stored.iter().zip(&**order) {
                    row[column as usize] = *value;
                }
            }
            Self::Hadamard(block) => hadamard(row, *block),
        }
    }
}

/// The largest block that [`hadamard_block`] gives: rounding with one scale for a row gains nothing more.
const LARGEST_BLOCK: usize = 1024;

/// Columns of the blocks that rows of `cols` columns are multiplied by Hadamard matrices in: the largest power of two
/// that divides them, 1024 at most. `None` if that is 1, which would change nothing.
pub fn hadamard_block(cols: usize) -> Option<usize> {
    let largest = 1usize.checked_shl(cols.trailing_zeros()).unwrap_or(1).min(LARGEST_BLOCK);
    (largest > 1).then_some(largest)
}

/// Columns that a register or two have.
const LANES: usize = 16;

/// Multiplies each `block` values by `H / sqrt(block)`, `H` being the Hadamard matrix of Sylvester's construction,
/// `H[2n] = [[H[n], H[n]], [H[n], -H[n]]]`: a fast Walsh-Hadamard transform. The matrix is orthonormal and symmetric,
/// so that doing it twice gives the values again.
///
/// ```text
/// for s in 1, 2, 4, .., block / 2: (v[i], v[i + s]) = (v[i] + v[i + s], v[i] - v[i + s]) for i without the bit s
/// v[i] *= 1 / sqrt(block)
/// ```
///
/// # Panics
/// If `block` is no power of two, or does not divide the length.
#[inline(always)]
pub fn hadamard(values: &mut [f32], block: usize) {
    assert!(block.is_power_of_two() && values.len().is_multiple_of(block));
    let factor = 1.0 / (block as f32).sqrt();
    for values in values.chunks_exact_mut(block) {
        let mut step = 1;
        if block >= LANES {
            for lanes in values.as_chunks_mut::<LANES>().0 {
                *lanes =
                    butterflies::<8>(butterflies::<4>(butterflies::<2>(butterflies::<1>(*lanes))));
            }
            step = LANES;
        }
        while step < block {
            for pair in values.chunks_exact_mut(2 * step) {
                let (low, high) = pair.split_at_mut(step);
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (*low + *high, *low - *high);
                }
            }
            step *= 2;
        }
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// A step within registers, without branches so that it becomes shuffles.
#[inline(always)]
fn butterflies<const STEP: usize>(v: [f32; LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (i, out) in out.iter_mut().enumerate() {
        *out = if i & STEP == 0 { v[i] + v[i | STEP] } else { v[i ^ STEP] - v[i] };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_are_products_with_the_matrix() {
        for block in [1, 2, 4, 8, 16, 32, 128] {
            let values: Vec<f32> = (0..3 * block).map(|i| ((i * 37) % 19) as f32 - 9.0).collect();
            let mut found = values.clone();
            hadamard(&mut found, block);
            let factor = 1.0 / (block as f64).sqrt();
            for (at, found) in found.iter().enumerate() {
                let (start, row) = (at / block * block, at % block);
                let term = |column: usize| {
                    let sign =
                        if (row & column).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                    sign * f64::from(values[start + column])
                };
                let expected = factor * (0..block).map(term).sum::<f64>();
                assert!((f64::from(*found) - expected).abs() < 1e-4, "{block} {at}");
            }
            hadamard(&mut found, block);
            assert!(found.iter().zip(&values).all(|(found, value)| (found - value).abs() < 1e-4));
        }
    }

    #[test]
    fn blocks_are_powers_of_two_that_divide() {
        let blocks = [576, 1536, 640, 2048, 1 << 20].map(hadamard_block);
        assert_eq!(blocks, [64, 512, 128, 1024, 1024].map(Some));
        assert_eq!([0, 1, 7].map(hadamard_block), [None; 3]);
    }
}
