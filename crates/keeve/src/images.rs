//! Image files that the user names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keeve::Engine;
use keeve::image::{Limits, Patches};
use keeve_files::whole;

/// An image that a model can be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Where it was read from.
    pub path: PathBuf,
    pub patches: Arc<Patches>,
    /// Tokens that it stands for in a prompt.
    pub tokens: usize,
}

/// Reads an image for a model.
///
/// # Errors
/// One line: the model cannot see, or the file is no image or too large.
pub fn read(engine: &Engine, path: &Path) -> Result<Image, String> {
    let problem = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let processor =
        engine.image_processor().ok_or_else(|| problem(&"this model cannot see images"))?;
    let most = Limits::default().bytes;
    let bytes = whole::read(path, most as u64, "an image").map_err(|error| error.to_string())?;
    let patches = processor.process(&bytes).map_err(|error| problem(&error))?;
    let tokens = patches.merged(processor.merge());
    Ok(Image { path: path.into(), patches: Arc::new(patches), tokens })
}
