//! A conversation at the terminal: what is typed, what it means, and what the model is shown.

pub mod command;
pub mod conversation;
pub mod input;
pub mod settings;
