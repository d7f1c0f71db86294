//! Packed weight formats.
//!
//! A [`Codec`] names a format and knows its geometry; a [`PackedTensor`] is a matrix stored in one.
//! Everything here is scalar, safe and free of I/O: it is the definition that fast kernels and fast
//! encoders elsewhere are held to.
//!
//! There are two decodes, which must not be mixed:
//!
//! * [`decode`], [`decode_row`] and [`stored_values`] give the value the format's reference library would
//!   store. Files and tools use them.
//! * [`row_values`] and [`values`] give the unrounded `q * s + b` in `f32`, which is what arithmetic uses.
//!
//! They differ only for MLX affine with 16-bit scales, where MLX rounds after the product and after
//! the sum.
//!
//! [`encode`] gives the bytes of each format's reference encoder, for all codecs but a few that are only
//! read ([`Codec::has_encoder`]):
//!
//! ```
//! use keeve_codec::{Codec, EncodeOptions, decode, encode};
//!
//! let weights: Vec<f32> = (0..512).map(|i| (i as f32 * 0.1).sin()).collect();
//! let encoded = encode(Codec::Q4K, 2, 256, &weights, EncodeOptions::default())?;
//! assert_eq!(encoded.tensor.bytes(), 2 * 144);
//! assert_eq!(decode(&encoded.tensor).len(), 512);
//! assert!(encoded.squared_error / 512.0 < 0.003);
//! # Ok::<(), keeve_codec::Error>(())
//! ```
//!
//! To add a codec: a variant and its sizes in `codec.rs`, its layout and arithmetic in a file of its
//! family, one arm each in `decode.rs` and `encode.rs`, and reference data in `tests/`.

#![forbid(unsafe_code)]

mod affine;
mod anew;
mod apart;
mod basis;
mod bytes;
mod codec;
mod decode;
mod encode;
mod error;
mod float;
mod fp4;
mod fp8;
mod grids;
mod int;
mod iq4;
mod iq_grid;
mod kquant;
mod kquant_encode;
mod legacy;
mod minifloat;
mod mlx_fp;
mod planes;
pub mod search;
mod stream;
mod tensor;
mod ternary;

pub use anew::{Anew, EncodeRow};
pub use apart::{Codes, SUPER_BLOCK, Scaling, SuperBlock, codes, group_scale, super_block};
pub use basis::{Basis, hadamard, hadamard_block};
pub use bytes::{Bytes, Owner};
pub use codec::{Codec, Float, Geometry, Group};
pub use decode::{decode, decode_row, row_values, stored_values, values};
pub use encode::{EncodeOptions, Encoded, encode, encode_row, encode_row_with};
pub use error::Error;
pub use stream::{read_codes, write_codes};
pub use tensor::{PackedTensor, Parts, Row, RowMut, RowParts};
