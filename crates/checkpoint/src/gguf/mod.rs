//! The GGUF container, versions 2 and 3, little endian.
//!
//! Format: ggml-org/ggml `docs/gguf.md`. A header of counts, metadata (typed values by key), one
//! record per tensor (name, dimensions, type, offset), then the tensors' bytes, each at a multiple
//! of `general.alignment`.

pub(crate) mod parts;
mod read;
pub mod tokenizer;
mod types;
mod value;
mod write;

pub use crate::dialect::gguf_names::ggml_name as tensor_name;
pub use crate::stored::Announced;
pub use read::{Gguf, open, parse};
pub use value::{Array, Metadata, Value, ValueType};
pub use write::{Writer, write};

/// Files that models see with: what ggml's programs call their parts.
pub mod mmproj {
    pub use crate::dialect::mmproj::{ARCHITECTURE, PATCHES, PROJECTOR, frames, tensor_name};
}

/// First bytes of every file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// Where tensors start when the metadata do not say.
const DEFAULT_ALIGNMENT: usize = 32;

/// No writer aligns beyond pages; a larger request is an attack.
const MAX_ALIGNMENT: usize = 1 << 20;

/// Dimensions of a tensor.
const MAX_DIMENSIONS: usize = 4;

/// Bytes of a metadata key, as the format sets it.
const MAX_KEY: usize = 65_535;

/// Bytes of a tensor name. ggml allows 64; others write longer ones.
const MAX_NAME: usize = 1024;

/// Key of the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
