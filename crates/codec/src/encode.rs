//! From floats to packed bytes: the one place that picks an encoder by codec.

use crate::affine::Affine;
use crate::search::{Reference, Searches};
use crate::{
    Bytes, Codec, Error, PackedTensor, Parts, Row, RowMut, affine, float, fp4, fp8, int, iq4,
    kquant_encode, legacy, minifloat, mlx_fp, search, stored_values, ternary,
};

/// What an encoder may know besides the values.
#[derive(Debug, Clone, Copy, Default)]
pub struct EncodeOptions<'a> {
    /// How much an error in each column counts: one finite weight, not negative, a column, as llama.cpp's
    /// importance matrix gives (the mean square of the column's input).
    ///
    /// Used by `q4_0`, `q4_1`, `q5_0`, `q5_1`, the K-quants, `iq4_nl` and `iq4_xs`, as ggml does; the
    /// others are rounded to nearest and ignore it. As in ggml, weights whose importance is zero
    /// over a whole block may be stored as zeros.
    pub importance: Option<&'a [f32]>,
}

/// A tensor that was encoded, and what that cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The packed tensor.
    pub tensor: PackedTensor,
    /// The sum over all weights of the squared difference between the source and [`crate::decode`].
    pub squared_error: f64,
}

/// Encodes a `rows` by `cols` matrix, row after row in `values`.
///
/// The bytes are those of the format's reference encoder: ggml's C code for its codecs (with and without
/// importance), mlx-kquant for its own, `mx.quantize` for affine and MLX's floating-point modes, Cider's
/// rule for `int8` and `int4`, the largest magnitude over 448 for `fp8`.
///
/// # Errors
/// If the codec has no encoder ([`Codec::has_encoder`]), the shape does not fit the codec or the number of values, if a value is infinite or NaN and the
/// codec is not a plain float, if values are so large that the codec's scales overflow, or if importance
/// is not one finite weight, not negative, a column.
pub fn encode(
    codec: Codec,
    rows: usize,
    cols: usize,
    values: &[f32],
    options: EncodeOptions<'_>,
) -> Result<Encoded, Error> {
    let part = codec.row_parts(cols)?;
    let too_large = Error::TooLarge { experts: 1, rows, cols };
    let expected = rows.checked_mul(cols).ok_or(too_large.clone())?;
    if values.len() != expected {
        return Err(Error::Values { what: "the source", found: values.len(), expected });
    }
    let buffer =
        |row: usize| rows.checked_mul(row).map(|bytes| vec![0; bytes]).ok_or(too_large.clone());
    let (mut data, mut scales, mut biases) =
        (buffer(part.data)?, buffer(part.scales)?, buffer(part.biases)?);
    let mut squared_error = 0.0;
    for (index, values) in values.chunks_exact(cols).enumerate() {
        fn window(bytes: &mut [u8], index: usize, each: usize) -> &mut [u8] {
            &mut bytes[index * each..][..each]
        }
        let row = RowMut {
            data: window(&mut data, index, part.data),
            scales: window(&mut scales, index, part.scales),
            biases: window(&mut biases, index, part.biases),
        };
        squared_error +=
            encode_row(codec, values, options, row).map_err(|error| error.in_row(index * cols))?;
    }
    let present = |bytes: Vec<u8>| if bytes.is_empty() { None } else { Some(Bytes::from(bytes)) };
    let parts = Parts {
        data: data.into(),
        scales: present(scales),
        biases: present(biases),
        global_scale: None,
    };
    let tensor = PackedTensor::new(codec, 1, rows, cols, parts)?;
    Ok(Encoded { tensor, squared_error })
}

/// Encodes one row into `row`, as [`encode`] does, and gives its sum of squared errors. For callers that
/// stream, or share rows among threads.
///
/// # Errors
/// As [`encode`]; also if `row` does not have the bytes that [`Codec::row_parts`] says.
pub fn encode_row(
    codec: Codec,
    values: &[f32],
    options: EncodeOptions<'_>,
    mut row: RowMut<'_>,
) -> Result<f64, Error> {
    write_row(codec, values, options, &mut row, &Reference)?;
    squared_error(codec, values, row.as_row())
}

/// Encodes one row into `row`, as [`encode_row`] does, with other searches and without measuring the error.
///
/// # Errors
/// As [`encode_row`].
pub fn encode_row_with(
    codec: Codec,
    values: &[f32],
    options: EncodeOptions<'_>,
    mut row: RowMut<'_>,
    searches: &dyn Searches,
) -> Result<(), Error> {
    write_row(codec, values, options, &mut row, searches)?;
    // No scale or minimum is more than twice the largest value, so smaller ones cannot overflow an f16.
    if !codec.is_float() && search::extreme(values).abs() > 16_384.0 {
        squared_error(codec, values, row.as_row())?;
    }
    Ok(())
}

fn write_row(
    codec: Codec,
    values: &[f32],
    options: EncodeOptions<'_>,
    row: &mut RowMut<'_>,
    searches: &dyn Searches,
) -> Result<(), Error> {
    row.check_lengths(codec, values.len())?;
    let importance = options.importance;
    if let Some(weights) = importance {
        check_importance(weights, values.len())?;
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite())
        && !codec.is_float()
    {
        return Err(Error::NotFinite { index, value: values[index].to_string() });
    }
    match codec {
        Codec::Float(float) => float::encode(float, values, row.data),
        Codec::Q4_0 => legacy::encode(legacy::Q4_0, values, importance, row.data),
        Codec::Q4_1 => legacy::encode(legacy::Q4_1, values, importance, row.data),
        Codec::Q5_0 => legacy::encode(legacy::Q5_0, values, importance, row.data),
        Codec::Q5_1 => legacy::encode(legacy::Q5_1, values, importance, row.data),
        Codec::Q8_0 => legacy::q8_0_encode(values, row.data),
        Codec::Q2K => {
            kquant_encode::with_minimum(
                &kquant_encode::Q2_K_ENCODER,
                values,
                importance,
                row.data,
                searches,
            );
        }
        Codec::Q3K => kquant_encode::q3_k(values, importance, row.data, searches),
        Codec::Q4K => {
            kquant_encode::with_minimum(
                &kquant_encode::Q4_K_ENCODER,
                values,
                importance,
                row.data,
                searches,
            );
        }
        Codec::Q5K => {
            kquant_encode::with_minimum(
                &kquant_encode::Q5_K_ENCODER,
                values,
                importance,
                row.data,
                searches,
            );
        }
        Codec::Q6K => kquant_encode::q6_k(values, importance, row.data, searches),
        Codec::Iq4Nl => iq4::nl_encode(values, importance, row.data),
        Codec::Iq4Xs => iq4::xs_encode(values, importance, row.data),
        Codec::Tq1_0 => ternary::trits_encode(&ternary::TQ1_0, values, row.data),
        Codec::Ptq1_0 => ternary::trits_encode(&ternary::PTQ1_0, values, row.data),
        Codec::Tq2_0 => ternary::bits_encode(&ternary::TQ2_0, values, row.data),
        Codec::Q1_0 => ternary::bits_encode(&ternary::Q1_0, values, row.data),
        Codec::Q2_0 => ternary::bits_encode(&ternary::Q2_0, values, row.data),
        Codec::Pq2_0 => ternary::bits_encode(&ternary::PQ2_0, values, row.data),
        Codec::Mxfp4 => fp4::mx_encode(values, row.data),
        Codec::Nvfp4 | Codec::MlxNvfp4 { global: false }
            if search::extreme(values).abs() > minifloat::NVFP4_MAX =>
        {
            return Err(overflow(codec, values));
        }
        Codec::Nvfp4 => fp4::nv_encode(values, row.data),
        Codec::MlxMxfp4 => mlx_fp::mxfp4_encode(values, row),
        Codec::MlxMxfp8 => mlx_fp::mxfp8_encode(values, row),
        Codec::MlxNvfp4 { global: false } => mlx_fp::nvfp4_encode(values, row),
        Codec::Iq1S
        | Codec::Iq1M
        | Codec::Iq2Xxs
        | Codec::Iq2Xs
        | Codec::Iq2S
        | Codec::Iq3Xxs
        | Codec::Iq3S
        | Codec::MlxNvfp4 { global: true } => return Err(Error::NoEncoder(codec)),
        Codec::Affine { bits, group, scale } => {
            affine::encode(Affine { bits, group, float: scale }, values, row);
        }
        Codec::Int8 { group, scale } => int::int8_encode(group, scale, values, row),
        Codec::Int4 { group, scale } => int::int4_encode(group, scale, values, row),
        Codec::Fp8 { group, scale } => fp8::encode(group, scale, values, row),
    }
    Ok(())
}

fn check_importance(weights: &[f32], cols: usize) -> Result<(), Error> {
    if weights.len() != cols {
        return Err(Error::Values { what: "importance", found: weights.len(), expected: cols });
    }
    match weights.iter().position(|weight| !weight.is_finite() || *weight < 0.0) {
        None => Ok(()),
        Some(column) => Err(Error::Importance { column, value: weights[column].to_string() }),
    }
}

fn overflow(codec: Codec, values: &[f32]) -> Error {
    Error::Overflow { codec, largest: search::extreme(values).abs().to_string() }
}

/// The sum of squared differences between `values` and their code.
fn squared_error(codec: Codec, values: &[f32], row: Row<'_>) -> Result<f64, Error> {
    let mut decoded = vec![0.0; values.len()];
    stored_values(codec, row, &mut decoded);
    if !codec.is_float() && !decoded.iter().all(|value| value.is_finite()) {
        return Err(overflow(codec, values));
    }
    // A value and its code may both be infinite, or both NaN, if they are plain floats: no error.
    let differing = values
        .iter()
        .zip(&decoded)
        .filter(|(value, code)| value != code && !(value.is_nan() && code.is_nan()));
    Ok(differing.map(|(&value, &code)| (f64::from(value) - f64::from(code)).powi(2)).sum())
}
