//! What can go wrong when models are made.

use std::path::PathBuf;

use crate::Role;
use crate::scheme::Scheme;

/// An error of the workbench. Its text is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither a preset nor a codec.
    #[error("'{0}' is neither a preset ({presets}) nor a codec (such as q4_k, q4_0, affine4-g64, int8, bf16)", presets = presets())]
    Scheme(String),
    /// Not a preset.
    #[error("no preset '{0}' (known: {presets})", presets = presets())]
    Preset(String),
    /// Not a role.
    #[error("no role '{0}' (known: {roles})", roles = roles())]
    Role(String),
    /// A part of a recipe is for nothing.
    #[error("the recipe's {0} is for no weight of this model")]
    Unused(String),
    /// A file is wrong, or cannot be read or written.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A weight cannot be made.
    #[error("tensor '{name}': {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// Why.
        problem: String,
    },
    /// Input that does not go together.
    #[error("{0}")]
    Input(String),
    /// A model file is wrong or cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] keeve_checkpoint::Error),
    /// Asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An operating system's error about a file.
    pub(crate) fn io(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::File { path: path.into(), problem: error.to_string() }
    }

    /// A weight that cannot be made.
    pub(crate) fn tensor(name: &str, problem: impl std::fmt::Display) -> Self {
        Self::Tensor { name: name.into(), problem: problem.to_string() }
    }
}

fn presets() -> String {
    Scheme::presets().collect::<Vec<_>>().join(", ")
}

fn roles() -> String {
    Role::NAMES.map(|(_, name)| name).join(", ")
}
