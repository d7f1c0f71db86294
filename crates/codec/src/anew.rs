//! Whole tensors in another codec, on several threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::{
    Basis, Bytes, Codec, Error, PackedTensor, Parts, RowMut, RowParts, decode_row, hadamard,
};

/// Weights that a thread takes at a time. Small enough to stay in its cache, large enough that taking
/// them costs nothing.
const PIECE: usize = 1 << 16;

/// How a tensor is encoded anew.
#[derive(Debug, Clone, Copy)]
pub struct Anew {
    /// The codec.
    pub codec: Codec,
    /// Columns of the blocks that rows are multiplied by Hadamard matrices in first: see [`Basis::Hadamard`].
    pub hadamard: Option<usize>,
    /// Threads that work on it.
    pub threads: usize,
}

/// What encodes a row: its index over all experts, its values, and where its bytes go.
pub type EncodeRow<'a, E> = dyn Fn(usize, &[f32], RowMut<'_>) -> Result<(), E> + Sync + 'a;

/// A run of rows and where their bytes go.
struct Piece<'a> {
    first_row: usize,
    data: &'a mut [u8],
    scales: &'a mut [u8],
    biases: &'a mut [u8],
}

impl Anew {
    /// `source` in the codec: `encode` is given the index of each row over all experts, what [`decode_row`] gives for it,
    /// rotated if it is to be, and where its bytes go. It is asked for a row by one thread, so the bytes are the same
    /// whatever the number of threads. `stopped` is asked now and then; the result is `None` if it said yes.
    ///
    /// # Errors
    /// If the shape does not fit the codec; and those of `encode`, after which no further rows are begun.
    pub fn made<E: From<Error> + Send>(
        &self,
        source: &PackedTensor,
        stopped: &(dyn Fn() -> bool + Sync),
        encode: &EncodeRow<'_, E>,
    ) -> Result<Option<PackedTensor>, E> {
        let (experts, cols) = (source.experts(), source.cols());
        let rows = experts * source.rows();
        let part = self.codec.row_parts(cols)?;
        let buffer = |each: usize| {
            let bytes = rows.checked_mul(each).map(|bytes| vec![0u8; bytes]);
            bytes.ok_or(Error::TooLarge { experts, rows: source.rows(), cols })
        };
        let (mut data, mut scales, mut biases) =
            (buffer(part.data)?, buffer(part.scales)?, buffer(part.biases)?);
        let rows_each = (PIECE / cols.max(1)).max(1);
        let pieces = {
            // Parts that the codec lacks give empty windows without end.
            fn windows(
                bytes: &mut [u8],
                each: usize,
            ) -> Box<dyn Iterator<Item = &mut [u8]> + '_ + Send> {
                if each == 0 {
                    return Box::new(std::iter::repeat_with(|| &mut [][..]));
                }
                Box::new(bytes.chunks_mut(each))
            }
            let data = windows(&mut data, rows_each * part.data);
            let scales = windows(&mut scales, rows_each * part.scales);
            let biases = windows(&mut biases, rows_each * part.biases);
            let pieces = data.zip(scales).zip(biases).enumerate();
            Mutex::new(pieces.map(move |(index, ((data, scales), biases))| Piece {
                first_row: index * rows_each,
                data,
                scales,
                biases,
            }))
        };
        let ended = AtomicBool::new(false);
        let problem = Mutex::new(None);
        let work = || {
            let mut values = vec![0.0f32; cols];
            loop {
                if stopped() {
                    ended.store(true, Ordering::Relaxed);
                }
                let piece = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(piece) = piece.filter(|_| !ended.load(Ordering::Relaxed)) else { return };
                if let Err(error) = self.piece(source, part, piece, &mut values, encode) {
                    ended.store(true, Ordering::Relaxed);
                    *problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        };
        let threads = self.threads.clamp(1, rows.div_ceil(rows_each).max(1));
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        drop(pieces);
        if let Some(problem) = problem.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(problem);
        }
        if ended.into_inner() {
            return Ok(None);
        }
        let present = |bytes: Vec<u8>| (!bytes.is_empty()).then(|| Bytes::from(bytes));
        let parts = Parts {
            data: data.into(),
            scales: present(scales),
            biases: present(biases),
            global_scale: None,
        };
        let made = PackedTensor::new(self.codec, experts, source.rows(), cols, parts)?;
        Ok(Some(match self.hadamard {
            None => made,
            Some(block) => made.with_basis(Basis::Hadamard(block))?,
        }))
    }

    fn piece<E>(
        &self,
        source: &PackedTensor,
        part: RowParts,
        piece: Piece<'_>,
        values: &mut [f32],
        encode: &EncodeRow<'_, E>,
    ) -> Result<(), E> {
        let Piece { first_row, data, scales, biases } = piece;
        fn window(bytes: &mut [u8], index: usize, each: usize) -> &mut [u8] {
            &mut bytes[index * each..][..each]
        }
        for index in 0..data.len() / part.data.max(1) {
            let row = first_row + index;
            decode_row(source, row, values);
            if let Some(block) = self.hadamard {
                hadamard(values, block);
            }
            let place = RowMut {
                data: window(data, index, part.data),
                scales: window(scales, index, part.scales),
                biases: window(biases, index, part.biases),
            };
            encode(row, values, place)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{EncodeOptions, decode, encode, encode_row};

    use super::*;

    fn anew(codec: Codec, hadamard: Option<usize>, threads: usize) -> Anew {
        Anew { codec, hadamard, threads }
    }

    #[test]
    fn rows_are_encoded_as_if_at_once_whatever_the_threads() {
        let rows = 3 * PIECE / 256 + 7;
        let values: Vec<f32> = (0..rows * 256).map(|i| (i as f32 * 0.37).sin()).collect();
        let options = EncodeOptions::default();
        let source = encode(Codec::Q8_0, rows, 256, &values, options).unwrap().tensor;
        for name in ["int8", "int8-g64", "int4-g128", "q4_k", "affine4", "bf16"] {
            let codec: Codec = name.parse().unwrap();
            let expected = encode(codec, rows, 256, &decode(&source), options).unwrap().tensor;
            let row = |_: usize, row: &[f32], place: RowMut<'_>| {
                encode_row(codec, row, options, place).map(|_| ())
            };
            for threads in [0, 1, 2, 3, 16] {
                let made = anew(codec, None, threads).made(&source, &|| false, &row).unwrap();
                assert_eq!(made.unwrap(), expected, "{name}");
            }
            assert_eq!(anew(codec, None, 2).made(&source, &|| true, &row).unwrap(), None);
        }
        let few = source.slice_cols(0..32).unwrap();
        let none = |_: usize, _: &[f32], _: RowMut<'_>| Ok::<(), Error>(());
        let error = anew(Codec::Q4K, None, 2).made(&few, &|| false, &none).unwrap_err();
        assert!(error.to_string().contains("32"), "{error}");
    }

    #[test]
    fn rotated_rows_say_so_and_problems_are_told() {
        let values: Vec<f32> = (0..4 * 64).map(|i| (i as f32 * 0.73).sin()).collect();
        let source = PackedTensor::from_f32(4, 64, &values).unwrap();
        let codec = Codec::F32;
        let row = |_: usize, row: &[f32], place: RowMut<'_>| {
            encode_row(codec, row, EncodeOptions::default(), place).map(|_| ())
        };
        let made = anew(codec, Some(64), 2).made(&source, &|| false, &row).unwrap().unwrap();
        assert_eq!(made.basis(), Some(&Basis::Hadamard(64)));
        let back = decode(&made);
        assert!(back.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-5));
        let failing = |index: usize, _: &[f32], _: RowMut<'_>| match index {
            2 => Err(Error::TooLarge { experts: 1, rows: 4, cols: 64 }),
            _ => Ok(()),
        };
        let error = anew(codec, None, 2).made(&source, &|| false, &failing).unwrap_err();
        assert_eq!(error, Error::TooLarge { experts: 1, rows: 4, cols: 64 });
    }
}
