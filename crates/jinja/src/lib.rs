//! The template language of chat templates: Jinja, as huggingface/transformers sets it up
//! (`src/transformers/utils/chat_template_utils.py`, `_compile_jinja_template`).
//!
//! Templates come from model files and messages from anybody, so three things are asked of this
//! language that template engines for web pages do not offer:
//!
//! * **Origin.** Every character of a rendered text says whether it was written by the template or
//!   came in with a value ([`Char::is_foreign`]). All operations keep that. So a special token counts as one if the
//!   template wrote all of it, in one piece or put together, and never if a message did.
//! * **Bounds.** Parsing and rendering have limits of depth, steps, and memory that is in use, and a
//!   rendering ends when its caller says so ([`Limits`]). Operations count what they cost: filters, comparisons and
//!   joins by the length of what they read and make.
//! * **Python's values.** Numbers print, strings slice and undefined variables behave as in Python, which
//!   is what templates are written for. `tests/jinja2.rs` holds this to Jinja2's own answers.
//!
//! Not supported: `include`, `import` and `extends` (there is nothing to load), `autoescape` blocks, integers
//! beyond 128 bits, and Python's `bytes`.

#![forbid(unsafe_code)]

mod arguments;
mod arithmetic;
mod ast;
mod attributes;
mod budget;
mod error;
mod evaluate;
mod execute;
mod expressions;
mod filters;
mod format;
mod functions;
mod is_tests;
mod json;
mod lexer;
mod macros;
mod methods;
mod numbers;
mod parser;
mod percent;
mod python;
mod sequences;
mod show;
mod stack;
mod strings;
mod text;
mod value;

pub use budget::Limits;
pub use error::Error;
pub use execute::{Host, Input, Template};
pub use stack::start_thread;
pub use text::Char;
