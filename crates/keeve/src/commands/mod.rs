//! One file a command.

pub mod bench;
pub mod calibrate;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod download;
pub mod eval;
pub mod inspect;
pub mod list;
pub mod logits;
pub mod quantize;
pub mod render;
pub mod rm;
pub mod rounding;
pub mod run;
pub mod serve;
pub mod tensor;
pub mod tokenize;
mod variant;
pub mod verify;
