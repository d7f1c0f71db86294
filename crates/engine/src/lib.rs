//! Prompts to tokens.
//!
//! [`Engine::load`] takes a checkpoint; [`Engine::submit`] takes a [`Request`] and gives a stream
//! of [`Event`]s. One scheduler serves every use, from one prompt to many at a time.
//!
//! The text side stands on its own: tokenizing ([`tokenizer`], [`gguf_tokenizer`]), streaming
//! detokenizing ([`detokenizer`]), chat templates ([`chat`]), sampling ([`sampling`]) and stop
//! strings ([`stop`]). None of these runs a model.

pub mod chat;
mod chat_json;
mod chat_language;
mod chat_message;
mod constraint;
pub mod detokenizer;
mod draft_model;
mod engine;
mod error;
mod fit;
pub mod gguf_tokenizer;
mod images;
mod kv;
mod library_encoder;
mod load;
pub mod memory;
mod pre_tokenizers;
mod reencode;
mod request;
mod rounding;
pub mod sampling;
mod scheduler;
mod sequence;
mod speculation;
mod spm;
mod stats;
pub mod stop;
mod text;
pub mod tokenizer;
mod vision;
mod vocabulary;

pub use chat::{ChatTemplate, Message, RenderOptions};
pub use constraint::{Constraint, Grammar};
pub use engine::Engine;
pub use error::Error;
pub use load::{EngineOptions, ModelInfo};
pub use reencode::matrices_of;
pub use request::{Canceller, Event, FinishReason, Generation, Pooling, Request, Timings};
pub use sampling::SamplingParams;
pub use speculation::Speculation;
pub use stats::Stats;
pub use text::tokenizer as tokenizer_of;
pub use tokenizer::Tokenizer;
