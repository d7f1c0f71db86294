//! Encoding whole tensors on several threads.
//!
//! The bytes are those of [`keeve_codec::encode`], whatever the number of threads: a row is encoded by
//! one thread, and depends on nothing but its values and their importance.

mod lanes;
mod plain;
mod search;
mod vector;

use keeve_codec::{Anew, Codec, EncodeOptions, PackedTensor, RowMut, encode_row_with};

use search::Vectors;

/// What to make of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Encoding<'a> {
    /// The codec.
    pub codec: Codec,
    /// How much an error in each column counts: a weight a column, for all experts or for each of them
    /// (`experts * cols`). See [`EncodeOptions::importance`].
    pub importance: Option<&'a [f32]>,
    /// Columns of the blocks that rows are multiplied by Hadamard matrices in first: see [`keeve_codec::Basis::Hadamard`].
    pub hadamard: Option<usize>,
    /// Threads that work on it.
    pub threads: usize,
}

/// Encodes `source` anew: what [`keeve_codec::decode_row`] gives, in another codec. `stopped` is asked
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
    let &Encoding { codec, importance, hadamard, threads } = encoding;
    let (rows, cols) = (source.rows(), source.cols());
    if let Some(importance) = importance
        && importance.len() != cols
        && importance.len() != source.experts() * cols
    {
        let found = importance.len();
        return Err(format!("has {cols} columns, but importance for {found}"));
    }
    let searches = Vectors::best();
    let row = |index: usize, values: &[f32], mut place: RowMut<'_>| {
        if plain::encode(searches, codec, values, &mut place) {
            return Ok(());
        }
        let importance = importance.map(|all| match all.len() == cols {
            true => all,
            false => &all[index / rows * cols..][..cols],
        });
        encode_row_with(codec, values, EncodeOptions { importance }, place, &searches)
            .map_err(|error| Problem(format!("row {index}: {error}")))
    };
    let made = Anew { codec, hadamard, threads }.made(source, stopped, &row);
    made.map_err(|Problem(problem)| problem)
}

/// One line without the tensor's name.
struct Problem(String);

impl From<keeve_codec::Error> for Problem {
    fn from(error: keeve_codec::Error) -> Self {
        Self(error.to_string())
    }
}
