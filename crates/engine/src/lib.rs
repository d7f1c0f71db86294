//! Prompts to tokens.
//!
//! [`Engine::load`] takes a checkpoint; [`Engine::submit`] takes a [`Request`] and gives a stream
//! of [`Event`]s. One scheduler serves every use, from one prompt to many at a time.

mod chat;
mod detokenizer;
mod engine;
mod error;
mod kv;
mod load;
/// What the system says about memory.
pub mod memory;
mod request;
mod sampling;
mod scheduler;
mod sequence;
mod stop;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use engine::Engine;
pub use error::Error;
pub use load::{EngineOptions, ModelInfo};
pub use request::{Canceller, Event, FinishReason, Generation, Request, Timings};
pub use sampling::{Alternative, SamplingParams};
pub use tokenizer::Tokenizer;
