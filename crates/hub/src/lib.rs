//! Models from the Hugging Face hub.
//!
//! [`Hub::fetch`] makes sure that a model is in the cache and says where. The cache is the one that
//! Python's `huggingface_hub` keeps (its documentation, "Understand caching"): what one program
//! downloaded, the other finds.
//!
//! Nothing the server says is trusted: names are checked before they become paths, lengths and hashes
//! before a file gets its final name. A download that breaks off leaves a part that the next one
//! continues.

#![forbid(unsafe_code)]

mod cache;
mod client;
mod download;
mod error;
mod fetch;
mod hash;
mod name;
mod origin;
mod select;
mod settings;

pub use cache::{CachedModel, Snapshot};
pub use client::tls;
pub use error::Error;
pub use fetch::{Fetched, Hub, Progress};
pub use hash::has_hash;
pub use name::{ModelName, Revision};
pub use settings::Settings;
