//! Prompts to tokens.
//!
//! [`Engine::load`] takes a checkpoint; [`Engine::submit`] takes a [`Request`] and gives a stream
//! of [`Event`]s. One scheduler serves every use, from one prompt to many at a time.
//!
//! The text side stands on its own: tokenizing ([`tokenizer`], [`gguf_tokenizer`]), streaming
//! detokenizing ([`detokenizer`]), chat templates ([`chat`]), sampling ([`sampling`]) and stop
//! strings ([`stop`]). None of these runs a model.

mod activation_check;
mod bpe;
mod charsmap;
pub mod chat;
mod chat_message;
mod chat_probe;
mod chat_time;
mod constraint;
mod decoding;
pub mod detokenizer;
pub mod divergence;
mod draft_model;
mod engine;
mod error;
mod fit;
mod gguf_encoder;
mod gguf_pieces;
pub mod gguf_tokenizer;
mod guarded;
mod images;
mod kv;
mod least;
mod length;
mod library_encoder;
mod load;
pub mod memory;
mod plamo2;
mod post_processor;
mod pre_tokenizers;
mod prefixes;
mod reencode;
mod rendered;
mod request;
mod rounding;
mod rwkv;
pub mod sampling;
mod scheduler;
mod schema;
mod sentencepiece;
mod sequence;
mod special_tokens;
mod speculation;
mod spm;
mod stats;
pub mod stop;
mod text;
pub mod tokenizer;
mod tokenizer_files;
mod tokenizer_limits;
mod unigram;
mod vision;
mod vocabulary;
pub mod wanted;
mod whole_tokens;
mod word_piece;

pub use activation_check::ActivationCheck;
pub use chat::{ChatTemplate, Message, RenderOptions};
pub use constraint::{Constraint, Grammar};
pub use engine::Engine;
pub use error::Error;
pub use load::{EngineOptions, ModelInfo, Tensors};
pub use reencode::{Reencoded, matrices_of};
pub use rendered::Rendered;
pub use request::{Canceller, Event, FinishReason, Generation, Pooling, Request, Timings};
pub use rounding::row_rounding;
pub use sampling::SamplingParams;
pub use special_tokens::Fim;
pub use speculation::Speculation;
pub use stats::Stats;
pub use text::{chat_template as chat_template_of, tokenizer as tokenizer_of};
pub use tokenizer::Tokenizer;
