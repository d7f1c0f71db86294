//! From the MODEL argument to a checkpoint and an engine.

use std::path::Path;

use keeve::{Checkpoint, Engine, EngineOptions};

use crate::args::Compute;
use crate::interrupt;
use crate::output::{Failure, Output};

/// Opens MODEL: a directory, a `.gguf` file, or (without one) the demo model.
pub fn open(model: Option<&str>) -> Result<Checkpoint, Failure> {
    match model {
        None => Ok(keeve::demo_model()?),
        Some(path) if !Path::new(path).exists() => {
            Err(format!("no model at '{path}': expected a directory or a .gguf file").into())
        }
        Some(path) => Ok(Checkpoint::open(Path::new(path))?),
    }
}

/// What the flags say about how to compute.
pub fn options(compute: &Compute) -> EngineOptions {
    EngineOptions {
        threads: compute.threads,
        max_context: compute.max_context,
        prefill_chunk: compute.prefill_chunk,
        prefix_cache: !compute.no_prefix_cache,
        activations: compute.activations.into(),
        profile: compute.profile,
        ..EngineOptions::default()
    }
}

/// Loads a checkpoint, showing progress.
pub fn load(
    checkpoint: &Checkpoint,
    compute: &Compute,
    output: &Output,
) -> Result<Engine, Failure> {
    let bar = output.loading_bar();
    let engine = Engine::load(checkpoint, &options(compute), &|progress| {
        bar.set(progress);
        !interrupt::interrupted()
    })?;
    Ok(engine)
}

/// Tells what was decided otherwise than asked. Called once nothing can be wrong with the request
/// any more, so that an error stands alone.
pub fn notes(engine: &Engine, output: &Output) {
    for note in &engine.info().notes {
        output.note(&format!("note: {note}"));
    }
}
