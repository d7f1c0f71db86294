//! Pictures to the patches that vision models read.
//!
//! [`Processor`] takes the bytes of a PNG, JPEG or WebP file and gives [`Patches`]: the values that
//! Hugging Face's image processor for Qwen2-VL and Qwen3-VL gives (huggingface/transformers,
//! `src/transformers/models/qwen2_vl/image_processing_qwen2_vl.py`), in the same order.
//!
//! Pictures come from anywhere, so everything about them is checked before it is believed: see
//! [`Limits`]. This crate opens no files and no connections.

#![forbid(unsafe_code)]

mod decode;
mod error;
mod framing;
mod limits;
mod patches;
mod processor;
mod resample;
mod size;

pub use decode::Picture;
pub use error::Error;
pub use limits::Limits;
pub use patches::Patches;
pub use processor::Processor;
