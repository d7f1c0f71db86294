//! The Hugging Face hub as the command line uses it.

use std::sync::OnceLock;

use keeve::hub::{Fetched, Hub, ModelName, Revision, Settings};

use crate::args;
use crate::interrupt;
use crate::output::{Failure, Output, one_line};

static FLAGS: OnceLock<(args::Hub, bool)> = OnceLock::new();

/// Keeps the flags that hold for every command; called once, at the start.
pub fn configure(flags: args::Hub, quiet: bool) {
    // A second call would be a mistake in this program, and change nothing.
    let _ = FLAGS.set((flags, quiet));
}

/// The hub and its cache, as the environment and the flags say.
pub fn hub() -> Result<Hub, Failure> {
    let mut settings = Settings::from_variables(|name| std::env::var(name).ok())?;
    settings.offline |= FLAGS.get().is_some_and(|(flags, _)| flags.offline);
    Ok(Hub::new(settings))
}

/// Makes sure that a model is in the cache, showing progress.
pub fn fetch(model: &ModelName) -> Result<Fetched, Failure> {
    let (flags, quiet) = FLAGS.get().cloned().unwrap_or_default();
    let revision = flags.revision.as_deref().map(Revision::parse).transpose()?.unwrap_or_default();
    let output = Output::new(false, quiet);
    let bar = output.download_bar();
    let fetched = hub()?.fetch(model, &revision, &|progress| {
        bar.set(progress.file, progress.done, progress.total);
        !interrupt::interrupted()
    })?;
    drop(bar);
    for note in &fetched.notes {
        output.note(&format!("note: {}", one_line(note)));
    }
    Ok(fetched)
}
