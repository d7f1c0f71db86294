//! A matrix, or a stack of them, in one codec.

use std::ops::Range;

use crate::{Basis, Bytes, Codec, Error, Group};

/// The byte buffers of a [`PackedTensor`]. Which exist depends on the codec.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// Codes (and, for ggml codecs, the scales between them), row after row.
    pub data: Bytes,
    /// Scales `[experts, rows, groups]`.
    pub scales: Option<Bytes>,
    /// Biases, shaped like the scales.
    pub biases: Option<Bytes>,
    /// One more factor for all weights of a matrix: f32 `[experts]`.
    pub global_scale: Option<Bytes>,
}

impl Parts {
    /// Parts of a codec that keeps everything in `data`.
    pub fn data(data: impl Into<Bytes>) -> Self {
        Self { data: data.into(), scales: None, biases: None, global_scale: None }
    }
}

/// A stack of `experts` matrices of `rows` output channels by `cols` inputs, in one codec.
/// Its parts have exactly the lengths that its shape asks for: [`PackedTensor::new`] saw to it.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedTensor {
    codec: Codec,
    experts: usize,
    rows: usize,
    cols: usize,
    parts: Parts,
    basis: Option<Basis>,
}

/// Weights of a row of `cols` that share a scale.
pub(crate) fn group_len(group: Group, cols: usize) -> usize {
    match group {
        Group::Row => cols,
        Group::Of(len) => usize::from(len),
    }
}

/// One row of a [`PackedTensor`]: its bytes in each part (empty where the codec has none).
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Codes.
    pub data: &'a [u8],
    /// Scales.
    pub scales: &'a [u8],
    /// Biases.
    pub biases: &'a [u8],
    /// The factor of the row's matrix.
    pub global_scale: &'a [u8],
}

impl Row<'_> {
    fn parts(&self) -> RowParts {
        RowParts {
            data: self.data.len(),
            scales: self.scales.len(),
            biases: self.biases.len(),
            global_scale: self.global_scale.len(),
        }
    }

    /// Panics unless these are the bytes of `cols` weights in `codec`.
    pub(crate) fn expect_lengths(&self, codec: Codec, cols: usize) {
        let expected = codec.row_parts(cols);
        assert!(expected.as_ref() == Ok(&self.parts()), "{codec}: {cols} weights: {expected:?}");
    }
}

/// A place for one row of a [`PackedTensor`]: its bytes in each part (empty where the codec has none). No codec
/// with an encoder has a global scale.
#[derive(Debug)]
pub struct RowMut<'a> {
    /// Codes.
    pub data: &'a mut [u8],
    /// Scales.
    pub scales: &'a mut [u8],
    /// Biases.
    pub biases: &'a mut [u8],
}

impl RowMut<'_> {
    /// The same bytes, to read.
    pub fn as_row(&self) -> Row<'_> {
        Row { data: self.data, scales: self.scales, biases: self.biases, global_scale: &[] }
    }

    /// Refuses places that are not for `cols` weights in `codec`.
    pub(crate) fn check_lengths(&self, codec: Codec, cols: usize) -> Result<(), Error> {
        let (expected, found) = (codec.row_parts(cols)?, self.as_row().parts());
        for (part, found, expected) in [
            ("data", found.data, expected.data),
            ("scales", found.scales, expected.scales),
            ("biases", found.biases, expected.biases),
        ] {
            if found != expected {
                let (experts, rows) = (1, 1);
                return Err(Error::PartLength {
                    codec,
                    part,
                    found,
                    expected,
                    experts,
                    rows,
                    cols,
                });
            }
        }
        Ok(())
    }
}

/// Bytes of one row in each part (zero where the codec has none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowParts {
    /// Codes.
    pub data: usize,
    /// Scales.
    pub scales: usize,
    /// Biases.
    pub biases: usize,
    /// The factor that all rows of a matrix share; it is stored once for each matrix.
    pub global_scale: usize,
}

impl Codec {
    /// Rows, and slices of rows, must be a multiple of this many columns.
    pub const fn column_step(self) -> usize {
        let geometry = self.geometry();
        match geometry.scales {
            Some((Group::Of(group), _)) if group as usize > geometry.block => group as usize,
            _ => geometry.block,
        }
    }

    /// Bytes of a row of `cols` weights in each part.
    ///
    /// # Errors
    /// If the codec has bits or a group size that keeve does not know, `cols` is zero or the codec's
    /// blocks do not divide it, or the bytes overflow.
    pub fn row_parts(self, cols: usize) -> Result<RowParts, Error> {
        if !self.is_known() {
            return Err(Error::UnknownCodec(self.name()));
        }
        let geometry = self.geometry();
        let step = self.column_step();
        if cols == 0 || !cols.is_multiple_of(step) {
            return Err(Error::Columns { codec: self, block: step, cols });
        }
        let too_large = || Error::TooLarge { experts: 1, rows: 1, cols };
        let bytes = |count: usize, each: usize| count.checked_mul(each).ok_or_else(too_large);
        let data = bytes(cols / geometry.block, geometry.block_bytes)?;
        let scales = match geometry.scales {
            None => 0,
            Some((Group::Row, each)) => each,
            Some((Group::Of(group), each)) => bytes(cols / usize::from(group), each)?,
        };
        let biases = if geometry.biases { scales } else { 0 };
        let global_scale = if geometry.global_scale { size_of::<f32>() } else { 0 };
        Ok(RowParts { data, scales, biases, global_scale })
    }

    /// Bytes of a row of `cols` weights over all parts, less what all rows share.
    ///
    /// # Errors
    /// As [`Codec::row_parts`].
    pub fn row_bytes(self, cols: usize) -> Result<usize, Error> {
        let RowParts { data, scales, biases, .. } = self.row_parts(cols)?;
        let sum = data.checked_add(scales).and_then(|sum| sum.checked_add(biases));
        sum.ok_or(Error::TooLarge { experts: 1, rows: 1, cols })
    }
}

impl PackedTensor {
    /// Puts parts together, checking that each has exactly the bytes that the shape asks for.
    ///
    /// # Errors
    /// If the codec is not one that keeve knows, the shape is empty, overflows or does not fit the
    /// codec, a part is missing or superfluous, or a part's length is wrong.
    pub fn new(
        codec: Codec,
        experts: usize,
        rows: usize,
        cols: usize,
        parts: Parts,
    ) -> Result<Self, Error> {
        let row = codec.row_parts(cols)?;
        if experts == 0 || rows == 0 {
            return Err(Error::Empty { experts, rows });
        }
        let too_large = Error::TooLarge { experts, rows, cols };
        let stacked = experts.checked_mul(rows).ok_or(too_large.clone())?;
        stacked.checked_mul(cols).ok_or(too_large.clone())?;
        let check = |part, bytes: Option<&Bytes>, count: usize, each: usize| {
            let expected = count.checked_mul(each).ok_or(too_large.clone())?;
            match (bytes, each) {
                (None, 0) => Ok(()),
                (None, _) => Err(Error::Part { codec, part, present: false }),
                (Some(_), 0) => Err(Error::Part { codec, part, present: true }),
                (Some(bytes), _) if bytes.len() != expected => {
                    let found = bytes.len();
                    Err(Error::PartLength { codec, part, found, expected, experts, rows, cols })
                }
                _ => Ok(()),
            }
        };
        check("data", Some(&parts.data), stacked, row.data)?;
        check("scales", parts.scales.as_ref(), stacked, row.scales)?;
        check("biases", parts.biases.as_ref(), stacked, row.biases)?;
        check("global_scale", parts.global_scale.as_ref(), experts, row.global_scale)?;
        Ok(Self { codec, experts, rows, cols, parts, basis: None })
    }

    /// A matrix of plain `f32`.
    ///
    /// # Errors
    /// If the shape is empty, or the number of values is not `rows * cols`.
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Result<Self, Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(Codec::F32, 1, rows, cols, Parts::data(bytes))
    }

    /// The same bytes, whose rows are stored in a basis of their own.
    ///
    /// To multiply, take the inputs in the same one; [`crate::row_values`] and [`crate::decode`] give rows of the
    /// matrix, whereas [`PackedTensor::row`] and what reads it give them as they are stored.
    ///
    /// # Errors
    /// If an order does not name every column once, blocks are no power of two or do not divide the columns, or there
    /// is a basis already.
    pub fn with_basis(mut self, basis: Basis) -> Result<Self, Error> {
        if self.basis.is_some() || !basis.fits(self.cols) {
            return Err(Error::Basis { cols: self.cols });
        }
        self.basis = Some(basis);
        Ok(self)
    }

    /// The basis that rows are stored in; `None` if it is that of the matrix.
    pub fn basis(&self) -> Option<&Basis> {
        self.basis.as_ref()
    }

    /// The matrix of the rows as they are stored, and their basis if it is another one.
    pub fn into_stored(mut self) -> (Self, Option<Basis>) {
        let basis = self.basis.take();
        (self, basis)
    }

    /// The codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Matrices in the stack (1 if it is no stack).
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Output channels of each matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of each matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The byte buffers.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Tells who owns the bytes that they will hardly be read again: [`Bytes::release`].
    pub fn release(&self) {
        let Parts { data, scales, biases, global_scale } = &self.parts;
        data.release();
        [scales, biases, global_scale].into_iter().flatten().for_each(Bytes::release);
    }

    /// Number of weights in the stack.
    pub fn len(&self) -> usize {
        self.experts * self.rows * self.cols
    }

    /// Whether there are no weights: never, since empty shapes are refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes over all parts.
    pub fn bytes(&self) -> usize {
        let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len());
        let Parts { data, scales, biases, global_scale } = &self.parts;
        data.len() + part(scales) + part(biases) + part(global_scale)
    }

    /// The bytes of row `index`, counted through the stack (`expert * rows + row`), in the basis that
    /// it is stored in: see [`PackedTensor::basis`].
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> Row<'_> {
        let count = self.experts * self.rows;
        assert!(index < count, "row {index} of {count}");
        fn window(bytes: &[u8], index: usize, count: usize) -> &[u8] {
            let each = bytes.len() / count;
            &bytes[index * each..(index + 1) * each]
        }
        Row {
            data: window(&self.parts.data, index, count),
            scales: self.parts.scales.as_deref().map_or(&[], |part| window(part, index, count)),
            biases: self.parts.biases.as_deref().map_or(&[], |part| window(part, index, count)),
            global_scale: (self.parts.global_scale.as_deref())
                .map_or(&[], |part| window(part, index / self.rows, self.experts)),
        }
    }

    /// Matrix `index` of the stack, sharing its bytes.
    ///
    /// # Errors
    /// If there is no such matrix.
    pub fn expert(&self, index: usize) -> Result<Self, Error> {
        let count = self.experts;
        let none = Error::Slice {
            what: "experts",
            start: index,
            end: index.saturating_add(1),
            len: count,
            step: 1,
        };
        if index >= count {
            return Err(none);
        }
        let cut = |bytes: &Bytes| {
            let each = bytes.len() / count;
            bytes.slice(index * each..(index + 1) * each).ok_or(none.clone())
        };
        let parts = Parts {
            data: cut(&self.parts.data)?,
            scales: self.parts.scales.as_ref().map(cut).transpose()?,
            biases: self.parts.biases.as_ref().map(cut).transpose()?,
            global_scale: self.parts.global_scale.as_ref().map(cut).transpose()?,
        };
        let expert = Self::new(self.codec, 1, self.rows, self.cols, parts)?;
        Ok(Self { basis: self.basis.clone(), ..expert })
    }

    /// The rows `range` of a single matrix, sharing its bytes.
    ///
    /// # Errors
    /// If the range is empty or out of bounds, or the tensor is a stack of several matrices.
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Self, Error> {
        let whole = self.experts == 1 && range.start < range.end && range.end <= self.rows;
        let wrong = Error::Slice {
            what: "rows",
            start: range.start,
            end: range.end,
            len: if self.experts == 1 { self.rows } else { 0 },
            step: 1,
        };
        if !whole {
            return Err(wrong);
        }
        let cut = |bytes: &Bytes| {
            let each = bytes.len() / self.rows;
            bytes.slice(range.start * each..range.end * each).ok_or(wrong.clone())
        };
        let parts = Parts {
            data: cut(&self.parts.data)?,
            scales: self.parts.scales.as_ref().map(cut).transpose()?,
            biases: self.parts.biases.as_ref().map(cut).transpose()?,
            global_scale: self.parts.global_scale.clone(),
        };
        let slice = Self::new(self.codec, 1, range.len(), self.cols, parts)?;
        Ok(Self { basis: self.basis.clone(), ..slice })
    }

    /// The columns `range` of every row, copied. A scale that covers whole rows goes to each slice.
    ///
    /// # Errors
    /// If the range is empty, out of bounds or not on the boundaries of [`Codec::column_step`], or rows are
    /// stored in another basis.
    pub fn slice_cols(&self, range: Range<usize>) -> Result<Self, Error> {
        if self.basis.is_some() {
            return Err(Error::ColumnsElsewhere);
        }
        let step = self.codec.column_step();
        let (start, end) = (range.start, range.end);
        let aligned = start.is_multiple_of(step) && end.is_multiple_of(step);
        if start >= end || end > self.cols || !aligned {
            return Err(Error::Slice { what: "columns", start, end, len: self.cols, step });
        }
        let per_row = matches!(self.codec.geometry().scales, Some((Group::Row, _)));
        let cut = |bytes: &Bytes, shared: bool| {
            if shared {
                return bytes.clone();
            }
            let each = bytes.len() / (self.experts * self.rows);
            // Exact: a row of every part is made of equal pieces, one for each `step` columns.
            let piece = each / (self.cols / step);
            let window = start / step * piece..end / step * piece;
            let rows = bytes.chunks_exact(each).flat_map(|row| &row[window.clone()]);
            Bytes::from(rows.copied().collect::<Vec<u8>>())
        };
        let parts = Parts {
            data: cut(&self.parts.data, false),
            scales: self.parts.scales.as_ref().map(|part| cut(part, per_row)),
            biases: self.parts.biases.as_ref().map(|part| cut(part, per_row)),
            global_scale: self.parts.global_scale.clone(),
        };
        Self::new(self.codec, self.experts, self.rows, end - start, parts)
    }

    /// The rows in another order: row `i` of the result is row `order[i]` of this stack, both counted
    /// through it. Codes are copied, never re-encoded. A row may be named more than once.
    ///
    /// # Errors
    /// If `order` is not as long as there are rows, names one that does not exist, or moves one to an expert
    /// with another global scale.
    pub fn reorder_rows(&self, order: &[usize]) -> Result<Self, Error> {
        let count = self.experts * self.rows;
        if order.len() != count {
            return Err(Error::Values { what: "a row order", found: order.len(), expected: count });
        }
        if let Some(&row) = order.iter().find(|&&row| row >= count) {
            return Err(Error::Slice {
                what: "rows",
                start: row,
                end: row.saturating_add(1),
                len: count,
                step: 1,
            });
        }
        let stays = |(to, from): (usize, &usize)| to / self.rows == from / self.rows;
        if self.parts.global_scale.is_some() && !order.iter().enumerate().all(stays) {
            return Err(Error::Experts(self.codec));
        }
        let moved = |bytes: &Bytes| {
            let each = bytes.len() / count;
            let rows = order.iter().flat_map(|&row| &bytes[row * each..(row + 1) * each]);
            Bytes::from(rows.copied().collect::<Vec<u8>>())
        };
        let parts = Parts {
            data: moved(&self.parts.data),
            scales: self.parts.scales.as_ref().map(moved),
            biases: self.parts.biases.as_ref().map(moved),
            global_scale: self.parts.global_scale.clone(),
        };
        let moved = Self::new(self.codec, self.experts, self.rows, self.cols, parts)?;
        Ok(Self { basis: self.basis.clone(), ..moved })
    }
}
