//! Prompts to tokens and back: the text side of the engine.
//!
//! Tokenizing ([`tokenizer`], [`gguf_tokenizer`]), streaming detokenizing ([`detokenizer`]), chat
//! templates ([`chat`]), sampling ([`sampling`]) and stop strings ([`stop`]). None of these runs a
//! model.

pub mod chat;
mod chat_json;
mod chat_language;
mod chat_message;
pub mod detokenizer;
pub mod gguf_tokenizer;
pub mod sampling;
pub mod stop;
pub mod tokenizer;
mod vocabulary;
