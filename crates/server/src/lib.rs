//! An HTTP server for language models, in the forms that OpenAI's, Anthropic's and Ollama's clients speak.
//!
//! [`Server::bind`] takes a [`ServerConfig`] and the models to serve, [`Server::run`] answers until it
//! is told to stop. What is answered, and how requests are limited, is described by
//! `GET /openapi.json`.

mod about;
mod answer;
mod api;
mod app;
mod background;
mod base64;
mod body;
mod error;
mod guard;
mod idle;
mod images;
mod metrics;
mod models;
mod parse;
mod prepare;
mod remote;
mod serve;
mod slow;
mod sse;
mod web;

pub use app::ServerConfig;
pub use images::ImageRules;
pub use models::{ModelSource, ModelsConfig, Opener, SamplingDefaults};
pub use serve::{Observer, Server, ServerError, Stop, serve};
