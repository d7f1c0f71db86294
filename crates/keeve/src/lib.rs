//! keeve as a library: the parts that an embedding program needs, under one name.
//!
//! ```no_run
//! use keeve::{Checkpoint, Engine, EngineOptions};
//!
//! let checkpoint = Checkpoint::open("path/to/model".as_ref())?;
//! let engine = Engine::load(&checkpoint, &EngineOptions::default(), &|_| true)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! See `examples/embed.rs` for a whole program.

pub use keeve_checkpoint::{self as checkpoint, Checkpoint};
pub use keeve_codec::{self as codec, Codec, PackedTensor};
pub use keeve_cpu::{self as cpu, Isa};
pub use keeve_engine::{
    self as engine, Canceller, ChatTemplate, Engine, EngineOptions, Event, FinishReason,
    Generation, Message, ModelInfo, RenderOptions, Rendered, Request, SamplingParams, Speculation,
    Timings, Tokenizer,
};
pub use keeve_eval as eval;
pub use keeve_graph::{self as graph, Activations, KvCodec};
pub use keeve_hub as hub;
pub use keeve_image as image;
pub use keeve_models as models;

/// The demo model that is part of the program.
///
/// # Errors
/// If this build was made without the feature `demo-model`.
pub fn demo_model() -> Result<Checkpoint, DemoModelError> {
    #[cfg(feature = "demo-model")]
    {
        let files = keeve_demo_model::FILES.map(|(name, bytes)| (name, codec::Bytes::new(bytes)));
        Ok(Checkpoint::from_memory(&files)?)
    }
    #[cfg(not(feature = "demo-model"))]
    Err(DemoModelError::Absent)
}

/// Why there is no demo model.
#[derive(Debug, thiserror::Error)]
pub enum DemoModelError {
    /// The build has none.
    #[error("name a MODEL: this build has no demo model (feature 'demo-model' is off)")]
    Absent,
    /// It cannot be read, which the tests rule out.
    #[error("the demo model: {0}")]
    Checkpoint(#[from] checkpoint::Error),
}
