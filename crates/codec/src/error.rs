//! What can be wrong with a packed tensor.

use crate::Codec;

/// An error about a codec or a packed tensor. Callers add the tensor's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is not a codec's.
    #[error("unknown codec '{0}'")]
    UnknownCodec(String),
    /// The row length does not fit the codec's blocks.
    #[error("{codec} packs {block} weights at a time, which does not divide a row of {cols}")]
    Columns {
        /// The codec.
        codec: Codec,
        /// Weights in its smallest unit.
        block: usize,
        /// Weights in a row.
        cols: usize,
    },
    /// A part has the wrong number of bytes.
    #[error(
        "{codec} part '{part}' has {found} bytes, expected {expected} for {experts}x{rows}x{cols}"
    )]
    PartLength {
        /// The codec.
        codec: Codec,
        /// Which part.
        part: &'static str,
        /// Bytes there.
        found: usize,
        /// Bytes the shape asks for.
        expected: usize,
        /// Experts.
        experts: usize,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
    /// A part that the codec needs is absent, or one it does not have is present.
    #[error("{codec} {} part '{part}'", if *.present { "has no" } else { "lacks its" })]
    Part {
        /// The codec.
        codec: Codec,
        /// Which part.
        part: &'static str,
        /// Whether it was there.
        present: bool,
    },
    /// A stack without matrices, or matrices without rows.
    #[error("a tensor of {experts} experts of {rows} rows has no weights")]
    Empty {
        /// Experts.
        experts: usize,
        /// Rows.
        rows: usize,
    },
    /// The number of weights or bytes overflows.
    #[error("a tensor of {experts}x{rows}x{cols} is too large to address")]
    TooLarge {
        /// Experts.
        experts: usize,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
    /// A slice that is outside the tensor or not on a block boundary.
    #[error("cannot take {what} {start}..{end} of {len} (a multiple of {step})")]
    Slice {
        /// `rows` or `columns`.
        what: &'static str,
        /// First index.
        start: usize,
        /// One past the last index.
        end: usize,
        /// How many there are.
        len: usize,
        /// The boundary slices must fall on.
        step: usize,
    },
    /// Values or weights of importance whose number does not fit the shape.
    #[error("{what} has {found} values, expected {expected}")]
    Values {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many are needed.
        expected: usize,
    },
    /// A source value cannot be encoded.
    #[error("value {index} of the source is {value}: only finite values can be encoded")]
    NotFinite {
        /// Its index.
        index: usize,
        /// How it prints.
        value: String,
    },
    /// The codec can only be read.
    #[error("{0} can be read but not made: keeve has no encoder for it")]
    NoEncoder(Codec),
    /// A row of a stack would get the global scale of another expert.
    #[error("{0} has a scale for each expert, so rows cannot move from one expert to another")]
    Experts(Codec),
    /// A basis is none of the columns, or there is one already.
    #[error(
        "the basis of rows must name each of the {cols} columns once or have blocks of a power of two that divides \
         them, and only once be given"
    )]
    Basis {
        /// Columns.
        cols: usize,
    },
    /// Neighbouring columns are not stored together.
    #[error("cannot take some columns of rows that are stored in another basis")]
    ColumnsElsewhere,
    /// Values are so large that the codec's scales cannot hold them.
    #[error("values up to {largest} overflow the scales of {codec}")]
    Overflow {
        /// The codec.
        codec: Codec,
        /// How the largest magnitude of the row prints.
        largest: String,
    },
    /// A weight of importance is negative or not finite.
    #[error("importance of column {column} is {value}, expected a finite number not below zero")]
    Importance {
        /// The column.
        column: usize,
        /// How the weight prints.
        value: String,
    },
}

impl Error {
    /// The same error where indices count from the start of a matrix, given where its row starts.
    pub(crate) fn in_row(self, start: usize) -> Self {
        match self {
            Self::NotFinite { index, value } => Self::NotFinite { index: start + index, value },
            other => other,
        }
    }
}
