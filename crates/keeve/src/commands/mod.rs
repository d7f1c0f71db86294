//! One file a command.

pub mod bench;
pub mod completions;
pub mod inspect;
pub mod logits;
pub mod run;
pub mod serve;
pub mod tensor;
pub mod tokenize;
