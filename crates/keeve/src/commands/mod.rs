//! One file a command.

pub mod bench;
pub mod calibrate;
pub mod completions;
pub mod convert;
pub mod inspect;
pub mod logits;
pub mod quantize;
pub mod run;
pub mod tensor;
pub mod tokenize;
pub mod verify;
