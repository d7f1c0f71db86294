//! Encoding whole tensors on several threads.
//!
//! The bytes are those of [`keeve_codec::encode`], whatever the number of threads: a row is encoded by
//! one thread, and depends on nothing but its values and their importance.

mod lanes;
mod plain;
mod search;
mod vector;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use keeve_codec::{
    Basis, Bytes, Codec, EncodeOptions, PackedTensor, Parts, RowMut, decode_row, encode_row_with,
    hadamard,
};

use search::Vectors;

/// What to make of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Encoding<'a> {
    /// The codec.
    pub codec: Codec,
    /// How much an error in each column counts: a weight a column, for all experts or for each of them
    /// (`experts * cols`). See [`EncodeOptions::importance`].
    pub importance: Option<&'a [f32]>,
    /// Columns of the blocks that rows are multiplied by Hadamard matrices in first: see [`Basis::Hadamard`].
    pub hadamard: Option<usize>,
    /// Threads that work on it.
    pub threads: usize,
}

/// Weights that a thread takes at a time. Small enough to stay in its cache, large enough that taking
/// them costs nothing.
const PIECE: usize = 1 << 16;

/// A run of rows and where their bytes go.
struct Piece<'a> {
    first_row: usize,
    data: &'a mut [u8],
    scales: &'a mut [u8],
    biases: &'a mut [u8],
}

/// Encodes `source` anew: what [`decode_row`] gives, in another codec. `stopped` is asked
/// now and then; the result is `None` if it said yes.
///
/// # Errors
/// One line without the tensor's name: if the shape does not fit the codec, a value is not finite, or
/// importance is not a weight a column.
pub fn encode(
    source: &PackedTensor,
    encoding: &Encoding<'_>,
    stopped: &(dyn Fn() -> bool + Sync),
) -> Result<Option<PackedTensor>, String> {
    let (codec, cols) = (encoding.codec, source.cols());
    let rows = source.experts() * source.rows();
    let part = codec.row_parts(cols).map_err(|error| error.to_string())?;
    if let Some(importance) = encoding.importance
        && importance.len() != cols
        && importance.len() != source.experts() * cols
    {
        let found = importance.len();
        return Err(format!("has {cols} columns, but importance for {found}"));
    }
    let buffer = |each: usize| rows.checked_mul(each).map(|bytes| vec![0u8; bytes]);
    let too_large = || "is too large to address".to_owned();
    let mut data = buffer(part.data).ok_or_else(too_large)?;
    let mut scales = buffer(part.scales).ok_or_else(too_large)?;
    let mut biases = buffer(part.biases).ok_or_else(too_large)?;
    let rows_each = (PIECE / cols).max(1);
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
    let searches = Vectors::best();
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
            if let Err(error) = encode_piece(source, encoding, &searches, piece, &mut values) {
                ended.store(true, Ordering::Relaxed);
                *problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return;
            }
        }
    };
    let threads = encoding.threads.clamp(1, rows.div_ceil(rows_each));
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
    let encoded = PackedTensor::new(codec, source.experts(), source.rows(), cols, parts);
    let encoded = match encoding.hadamard {
        None => encoded,
        Some(block) => encoded.and_then(|tensor| tensor.with_basis(Basis::Hadamard(block))),
    };
    encoded.map(Some).map_err(|error| error.to_string())
}

fn encode_piece(
    source: &PackedTensor,
    encoding: &Encoding<'_>,
    searches: &Vectors,
    piece: Piece<'_>,
    values: &mut [f32],
) -> Result<(), String> {
    let cols = source.cols();
    let part = encoding.codec.row_parts(cols).map_err(|error| error.to_string())?;
    let Piece { first_row, data, scales, biases } = piece;
    fn window(bytes: &mut [u8], index: usize, each: usize) -> &mut [u8] {
        &mut bytes[index * each..][..each]
    }
    for index in 0..data.len() / part.data.max(1) {
        let row = first_row + index;
        decode_row(source, row, values);
        if let Some(block) = encoding.hadamard {
            hadamard(values, block);
        }
        let importance = encoding.importance.map(|all| match all.len() == cols {
            true => all,
            false => &all[row / source.rows() * cols..][..cols],
        });
        let mut place = RowMut {
            data: window(data, index, part.data),
            scales: window(scales, index, part.scales),
            biases: window(biases, index, part.biases),
        };
        if plain::encode(*searches, encoding.codec, values, &mut place) {
            continue;
        }
        encode_row_with(encoding.codec, values, EncodeOptions { importance }, place, searches)
            .map_err(|error| format!("row {row}: {error}"))?;
    }
    Ok(())
}
