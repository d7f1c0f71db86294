//! Packed weight formats.
//!
//! A [`Codec`] names a format and knows its geometry; a [`PackedTensor`] is a matrix stored in one.
//! Everything here is scalar, safe and free of I/O: it is the definition that fast kernels and fast
//! encoders elsewhere are held to.
//!
//! There are two decodes, which must not be mixed:
//!
//! * [`decode`] gives the value the format's reference library would store. Files and tools use it.
//! * [`row_values`] gives the unrounded `q * s + b` in `f32`, which is what arithmetic uses.
//!
//! They differ only for MLX affine with 16-bit scales, where MLX rounds after the product and after
//! the sum.

#![forbid(unsafe_code)]

mod affine;
mod bytes;
mod codec;
mod decode;
mod encode;
mod error;
mod float;
mod int;
mod kquant;
mod kquant_encode;
mod legacy;
mod planes;
mod search;
mod tensor;

pub use bytes::Bytes;
pub use codec::{Codec, Float, Geometry, Group};
pub use decode::{decode, decode_row, row_values, stored_values, values};
pub use encode::{EncodeOptions, Encoded, encode, encode_row};
pub use error::Error;
pub use tensor::{PackedTensor, Parts, Row, RowMut, RowParts};
