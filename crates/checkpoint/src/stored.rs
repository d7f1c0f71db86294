//! A tensor as a container stores it, before a dialect gives it meaning.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use keeve_codec::{Bytes, Codec, Float};

use crate::Error;

/// More tensors than this in one file is an attack, not a model.
pub(crate) const MAX_TENSORS: usize = 1 << 20;

/// The number of elements of a shape; `None` if the product of its dimensions, zeros left out,
/// overflows, so that no later product of some of them can.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    let others = shape.iter().try_fold(1usize, |product, n| product.checked_mul((*n).max(1)))?;
    Some(if shape.contains(&0) { 0 } else { others })
}

/// How a container says the elements of a tensor are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredType {
    /// Plain floats or, in GGUF, ggml blocks.
    Codec(Codec),
    /// Bytes. Packed weights of several dialects.
    U8,
    /// 32-bit words. Packed weights of MLX.
    U32,
    /// Anything else, by the container's name for it (`I64`, `iq2_xxs`, `type 99`).
    Other(String),
}

impl StoredType {
    /// Plain `f32`.
    pub const F32: Self = Self::Codec(Codec::F32);
}

impl fmt::Display for StoredType {
    /// The name that the container uses: `BF16`, `U32`, `I64` for safetensors; `q4_k` for ggml blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Codec(Codec::Float(Float::F32)) => f.write_str("F32"),
            Self::Codec(Codec::Float(Float::F16)) => f.write_str("F16"),
            Self::Codec(Codec::Float(Float::Bf16)) => f.write_str("BF16"),
            Self::Codec(codec) => codec.fmt(f),
            Self::U8 => f.write_str("U8"),
            Self::U32 => f.write_str("U32"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// A named, typed range of bytes of a file.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Its name in the file.
    pub name: String,
    /// The file, for messages.
    pub file: Arc<Path>,
    /// How its elements are stored.
    pub kind: StoredType,
    /// Dimensions, the one that runs slowest first. For ggml blocks these count weights.
    pub shape: Vec<usize>,
    /// Its bytes: as many as shape and type ask for, except where the type is unknown. They may
    /// start at any address; a file need not align them.
    pub data: Bytes,
}

impl StoredTensor {
    /// The values of a tensor of plain `f32`.
    ///
    /// # Errors
    /// If it is stored as anything else.
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        if self.kind != StoredType::F32 {
            let problem = format!("is stored as {}, expected F32", self.kind);
            return Err(Error::tensor(&self.file, &self.name, problem));
        }
        let values = self.data.as_chunks::<4>().0;
        Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

/// A packed tensor to be written by [`crate::gguf::Writer`] or [`crate::mlx::Writer`], which say how it is stored.
/// (What [`crate::safetensors::Writer`] takes is stored already.)
#[derive(Debug, Clone)]
pub struct Announced {
    /// Its name: in ggml's terms if a ggml program shall read it, else the canonical one.
    pub name: String,
    /// Its codec: one that the container or dialect has.
    pub codec: Codec,
    /// Its dimensions in weights, the slowest first.
    pub shape: Vec<usize>,
}
