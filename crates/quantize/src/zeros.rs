//! Zeros where weights should be: what a file holds whose blocks were never written or downloaded.
//!
//! A file system gives zeros for what it was not given, in whole pages. A few pages of zeros in the middle of weights are
//! nothing that training or quantizing makes: of those the file's own layout knows nothing, so that they begin and end
//! anywhere in rows. Rows that are zeros from end to end do occur: in tables of embeddings, for tokens that were never
//! used.

use keeve_codec::PackedTensor;

use crate::Role;

/// The shortest run that counts: a page.
const LEAST: usize = 4096;

/// Any run of `LEAST` bytes holds a whole block of this size at a multiple of it.
const BLOCK: usize = LEAST / 2;

/// What was found in a tensor, as the end of a sentence that begins with its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// Nothing that a file should hold.
    Wrong(String),
    /// What a model may hold.
    Odd(String),
}

/// Looks for zeros in the stored bytes of a tensor.
pub(crate) fn find(tensor: &PackedTensor, role: Role) -> Option<Zeros> {
    let rows = tensor.experts() * tensor.rows();
    let data = &tensor.parts().data;
    if data.iter().all(|byte| *byte == 0) {
        let problem = format!("holds nothing but zeros ({} bytes)", data.len());
        return Some(if rows > 1 { Zeros::Wrong(problem) } else { Zeros::Odd(problem) });
    }
    let parts = [("", Some(data)), ("scales ", tensor.parts().scales.as_ref())];
    let mut odd = None;
    for (what, bytes) in parts {
        let Some(bytes) = bytes else { continue };
        let row = (bytes.len() / rows.max(1)).max(1);
        for (start, end) in runs(bytes) {
            let (first, last) = (start / row, (end - 1) / row);
            let length = end - start;
            if start % row == 0 && end % row == 0 && matches!(role, Role::Embedding | Role::Head) {
                odd = odd.or(Some(Zeros::Odd(format!("has zeros only in rows {first} to {last}"))));
            } else if rows > 1 {
                return Some(Zeros::Wrong(format!(
                    "has a run of {length} zero bytes in its {what}rows {first} to {last}, as in a file that was not written whole"
                )));
            } else {
                odd = odd.or(Some(Zeros::Odd(format!("has a run of {length} zero bytes"))));
            }
        }
    }
    odd
}

/// The runs of at least [`LEAST`] zeros: where they begin and end.
fn runs(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let zero = |block: &[u8]| block.iter().fold(0, |all, byte| all | byte) == 0;
            let block = bytes.get(from..)?.chunks_exact(BLOCK).position(zero)?;
            let at = from + block * BLOCK;
            let before = bytes[..at].iter().rev().take_while(|byte| **byte == 0).count();
            let after = bytes[at..].iter().take_while(|byte| **byte == 0).count();
            // Blocks stay at multiples of their size.
            from = (at + after).next_multiple_of(BLOCK);
            if before + after >= LEAST {
                return Some((at - before, at + after));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, cols: usize, zero: std::ops::Range<usize>) -> PackedTensor {
        let value = |index: usize| if zero.contains(&index) { 0.0 } else { 1.1 };
        let values: Vec<f32> = (0..rows * cols).map(value).collect();
        PackedTensor::from_f32(rows, cols, &values).unwrap()
    }

    #[test]
    fn runs_are_found_wherever_they_begin() {
        let mut bytes = vec![1u8; 40_000];
        bytes[..5000].fill(0);
        bytes[6001..6001 + LEAST].fill(0);
        bytes[12_000..12_000 + LEAST - 1].fill(0);
        bytes[35_904..].fill(0);
        let found: Vec<_> = runs(&bytes).collect();
        assert_eq!(found, [(0, 5000), (6001, 6001 + LEAST), (35_904, 40_000)]);
        assert_eq!(runs(&[]).count() + runs(&[0; LEAST - 1]).count(), 0);
    }

    #[test]
    fn holes_are_told_from_unused_rows() {
        assert_eq!(find(&matrix(100, 100, 0..0), Role::Gate), None);
        let hole = find(&matrix(100, 100, 333..1500), Role::Gate).unwrap();
        let expected = "has a run of 4668 zero bytes in its rows 3 to 14";
        assert!(matches!(&hole, Zeros::Wrong(text) if text.starts_with(expected)), "{hole:?}");
        assert_eq!(find(&matrix(100, 100, 333..1200), Role::Gate), None, "less than a page");
        let unused = find(&matrix(100, 100, 300..1400), Role::Embedding).unwrap();
        assert_eq!(unused, Zeros::Odd("has zeros only in rows 3 to 13".into()));
        assert!(matches!(find(&matrix(100, 100, 300..1400), Role::Up), Some(Zeros::Wrong(_))));
        assert!(matches!(find(&matrix(2, 4, 0..8), Role::Head), Some(Zeros::Wrong(_))));
        assert!(matches!(find(&matrix(1, 8, 0..8), Role::Plain), Some(Zeros::Odd(_))));
    }
}
