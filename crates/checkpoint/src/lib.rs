//! Model files and the tensors in them.
//!
//! [`Checkpoint`] opens a folder as Hugging Face or MLX write it, a GGUF file, or the same files
//! held in memory, and gives every weight under its Hugging Face name as a
//! [`PackedTensor`](keeve_codec::PackedTensor), in the codec it was stored in. Nothing is decoded
//! here; bytes are windows of the mapped file wherever the layout allows.
//!
//! Two layers, each usable alone:
//!
//! * containers: [`safetensors`] and [`gguf`] read and write named byte ranges ([`StoredTensor`]);
//! * dialects (one file each under `dialect/`) say what those ranges mean: which of them make up a
//!   weight, in which codec, under which name.
//!
//! Every input is taken as hostile. Lengths and offsets are checked against what is left of the
//! file before use, and nothing is allocated from a count in a header. Each [`Error`] is one line
//! that names the file and the tensor or field.
//!
//! **Rule for callers:** a file that a [`Checkpoint`] has open must not be truncated or rewritten
//! in place while any of its tensors lives; the operating system would end the process on the next
//! access ([`end_on_lost_pages`] makes that end a line that says why). Replace model files by renaming, as the writers of
//! this crate do.

mod activations;
mod checkpoint;
mod config;
mod dialect;
mod error;
mod experts;
mod files;
pub mod gguf;
mod journal;
mod json;
mod lacking;
mod lost;
mod mapped;
pub mod mlx;
mod multimodal;
mod projectors;
pub mod safetensors;
mod seeing;
mod shards;
mod spelling;
mod stored;
mod stream;
mod tokenizer_files;

pub use activations::{ActivationRule, ActivationScheme, ActivationStrategy};
pub use checkpoint::{Checkpoint, FileInfo};
pub use config::CLASSES;
pub use dialect::TensorInfo;
pub use error::Error;
pub use experts::stack_of;
pub use lost::end_on_lost_pages;
pub use mapped::open as map;
pub use stored::{Announced, StoredTensor, StoredType};
