//! Why a template cannot be used, or could not be rendered.

/// An error of the template language. Each is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The source is not a template.
    #[error("{message} (in chat_template:{line})")]
    Syntax {
        /// What is wrong.
        message: String,
        /// Where, counted from 1.
        line: usize,
    },
    /// An operation failed.
    #[error("{message} (in chat_template:{line})")]
    Failed {
        /// What is wrong.
        message: String,
        /// Where, counted from 1; 0 while it is not known.
        line: usize,
    },
    /// The template refused through `raise_exception`.
    #[error("{0}")]
    Raised(String),
    /// [`crate::Limits::steps`] were not enough.
    #[error("took too many steps")]
    Steps,
    /// [`crate::Limits::characters`] were not enough.
    #[error("needs too much memory")]
    Memory,
    /// Calls, blocks or values are nested too deeply.
    #[error("nested too deeply")]
    Depth,
    /// Whoever asked for the rendering no longer wants it.
    #[error("given up")]
    GivenUp,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn at(self, at: usize) -> Self {
        match self {
            Self::Failed { message, line: 0 } => Self::Failed { message, line: at },
            other => other,
        }
    }
}

/// An operation failed, at a line that is filled in later.
pub(crate) fn failed<T>(message: impl Into<String>) -> Result<T> {
    Err(failure(message))
}

pub(crate) fn failure(message: impl Into<String>) -> Error {
    let mut message: String = message.into();
    if let Some((cut, _)) = message.char_indices().nth(300) {
        message.truncate(cut);
        message.push('…');
    }
    Error::Failed { message: message.replace(['\n', '\r'], " "), line: 0 }
}
