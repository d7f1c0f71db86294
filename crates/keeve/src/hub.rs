//! The Hugging Face hub as the command line uses it.

use std::sync::OnceLock;

use keeve::hub::{Error, Fetched, Hub, ModelName, Progress, Revision, Settings};

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
    Ok(watched(|hub, revision, watch| hub.fetch(model, revision, watch))??)
}

/// Makes sure that what a GGUF model sees with is in the cache; `None` if its repository has no such file.
pub fn fetch_mmproj(model: &ModelName) -> Result<Option<Fetched>, Failure> {
    match watched(|hub, revision, watch| hub.fetch_mmproj(model, revision, watch))? {
        Err(Error::Choice { .. }) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// What `fetch` gives, with its progress shown, and what it notes said.
fn watched(
    fetch: impl FnOnce(&Hub, &Revision, &dyn Fn(Progress<'_>) -> bool) -> Result<Fetched, Error>,
) -> Result<Result<Fetched, Error>, Failure> {
    let (flags, quiet) = FLAGS.get().cloned().unwrap_or_default();
    let revision = flags.revision.as_deref().map(Revision::parse).transpose()?.unwrap_or_default();
    let output = Output::new(false, quiet);
    let bar = output.download_bar();
    let fetched = fetch(&hub()?, &revision, &|progress| {
        bar.set(progress.file, progress.done, progress.total);
        !interrupt::interrupted()
    });
    drop(bar);
    for note in fetched.iter().flat_map(|fetched| &fetched.notes) {
        output.note(&format!("note: {}", one_line(note)));
    }
    Ok(fetched)
}
