//! What can be wrong with a model file.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// An error about a model file. Its text is one line that names the file and, where there is one,
/// the tensor or field.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file as a whole is wrong: missing, truncated, not what its name says.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A tensor is wrong, missing or of a kind that keeve does not read.
    #[error("{}: tensor '{tensor}' {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, shortened and escaped for display.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// A field of a configuration file, an index or GGUF metadata is wrong.
    #[error("{}: field '{field}' {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with dots between levels, shortened and escaped for display.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn file(path: &Path, problem: impl Display) -> Self {
        Self::File { path: path.into(), problem: shorten(&problem.to_string(), 400) }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl Display) -> Self {
        let problem = shorten(&problem.to_string(), 400);
        Self::Tensor { path: path.into(), tensor: shown(tensor), problem }
    }

    pub(crate) fn field(path: &Path, field: &str, problem: impl Display) -> Self {
        let problem = shorten(&problem.to_string(), 400);
        Self::Field { path: path.into(), field: shown(field), problem }
    }
}

/// Text from a file, made fit for a message: control characters escaped, at most 120 characters.
pub(crate) fn shown(text: &str) -> String {
    shorten(text, 120)
}

fn shorten(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == limit {
            out.push_str("...");
            break;
        }
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_files_stays_on_one_short_line() {
        let error = Error::tensor(Path::new("m.gguf"), &"a\n\u{1b}".repeat(1000), "is\r\nbad");
        let text = error.to_string();
        assert!(text.starts_with("m.gguf: tensor 'a\\n\\u{1b}a"), "{text}");
        assert!(text.ends_with("...' is\\r\\nbad"), "{text}");
        assert!(!text.contains(char::is_control) && text.len() < 1000, "{text}");
    }
}
